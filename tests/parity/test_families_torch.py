"""Every family against transformers, live: states, scores and gradients.

Needs torch: make parity. InternLM2 is held against tests/parity/internlm2.py.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rm_jax.models.convert import to_hf
from rm_jax.models.transformer import unembedding
from tests.golden import make_families
from tests.models.test_families import (
  FOLDER,
  NAMES,
  close,
  hidden_of,
  load,
  ragged,
)
from tests.parity import internlm2

pytestmark = pytest.mark.parity

torch = pytest.importorskip("torch", reason="torch is not installed: parity")


def rows():
  """Other rows than the goldens have; four of them, two comparisons."""
  rng = np.random.default_rng(3)
  return [rng.integers(1, 96, n).tolist() for n in (11, 16, 2, 13)]


def theirs(name, tokens, side="right"):
  """(hidden states, scores, {name: tensor that wants a gradient})."""
  if name == "internlm2":
    loaded = internlm2.load(FOLDER / name)
    return *internlm2.run(FOLDER / name, tokens, loaded), loaded[1]
  model = make_families.load_torch(FOLDER / name)
  hidden, scores = make_families.run_torch(model, tokens, side=side)
  return hidden, scores, dict(model.named_parameters())


def ours(name, tokens):
  """(hidden states by row, scores)."""
  found = load(name)
  hidden = hidden_of(found.config, found.params, *ragged(tokens))
  hidden = [h[: len(row)] for h, row in zip(hidden, tokens, strict=True)]
  return hidden, jnp.stack(
    [h[-1] @ found.head.tensors["score.weight"][0] for h in hidden]
  )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_hidden_states_and_scores(name, side):
  # Catches a golden that is stale, and positions that count padding.
  if name == "internlm2" and side == "left":
    pytest.skip("its torch function has no padding")
  hidden, scores, _ = theirs(name, rows(), side)
  got, got_scores = ours(name, rows())
  for a, b in zip(got, hidden, strict=True):
    close(a, b.detach().numpy())
  close(got_scores, scores.detach().numpy())


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_a_bradley_terry_loss(name):
  # Catches what is right forward and wrong backward: a cap or norm that is
  # treated as constant, a tied or fused part whose gradient is lost.
  _, scores, weights = theirs(name, rows())
  loss = -torch.nn.functional.logsigmoid(scores[0::2] - scores[1::2]).mean()
  loss.backward()
  found = load(name)
  tokens, forest = ragged(rows())
  ends = jnp.array([len(row) - 1 for row in rows()])

  @jax.jit
  @jax.value_and_grad
  def value_and_grad(params):
    hidden = hidden_of(found.config, params["backbone"], tokens, forest)
    pooled = jnp.take_along_axis(hidden, ends[:, None, None], axis=1)[:, 0]
    s = pooled @ params["head"]
    return jax.nn.softplus(s[1::2] - s[0::2]).mean()

  params = {
    "backbone": found.params,
    "head": jnp.asarray(found.head.tensors["score.weight"][0]),
  }
  value, grads = value_and_grad(params)
  np.testing.assert_allclose(value, loss.item(), rtol=1e-5)
  named = to_hf(jax.device_get(grads["backbone"]), found.config)
  named["score.weight"] = np.asarray(grads["head"])[None]
  renamed = {k.replace("embed_out", "lm_head"): v for k, v in named.items()}
  assert set(renamed) == set(weights)
  top = max(np.abs(x).max() for x in renamed.values())
  assert top > 1e-3, "a zero gradient would agree with anything"
  for key, got in renamed.items():
    want = weights[key].grad.numpy()
    # A bias of keys shifts all logits of a query alike: its gradient is 0 but
    # for rounding, and that is judged by the size of the others.
    limit = 1e-5 * max(np.abs(want).max(), 1e-2 * top)
    worst = np.abs(got - want).max()
    assert worst <= limit, (key, worst, limit)


def test_logits_of_gemma2_are_capped_at_the_end():
  # Catches a language model whose logits are those of the scores' states.
  import transformers

  model = transformers.AutoModelForCausalLM.from_pretrained(
    FOLDER / "gemma2", dtype=torch.float32, attn_implementation="eager"
  ).eval()
  row = rows()[1]
  with torch.no_grad():
    want = model(torch.tensor([row])).logits[0].numpy()
  found = load("gemma2")
  (hidden,), _ = ours("gemma2", [row])
  logits = hidden @ unembedding(found.params, found.config).T
  cap = found.config.final_soft_cap
  capped = cap * np.tanh(np.asarray(logits) / cap)
  assert np.abs(capped - logits).max() > 0.1, "the cap is not felt"
  close(capped, want)


@pytest.mark.parametrize("name", NAMES)
def test_the_goldens_are_what_torch_says_today(name):
  # Catches a golden edited by hand, or made from changed weights.
  expected = json.loads((FOLDER / name / "expected.json").read_text())
  hidden, scores, _ = theirs(name, expected["tokens"])
  for a, b in zip(hidden, expected["hidden"], strict=True):
    close(a.detach().numpy(), b)
  close(scores.detach().numpy(), expected["scores"])
