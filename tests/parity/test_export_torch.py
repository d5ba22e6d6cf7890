"""Exported folders in transformers: the same scores, loss and gradients.

Needs torch: make parity. RM_DATA adds the real texts.
"""

import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rm_jax.data.handover import recipe_ids
from rm_jax.data.loader import (
  COMPARISONS,
  lay_step,
  tokenize_records,
)
from rm_jax.data.plan import make_eval_plan
from rm_jax.data.sources import read_records
from rm_jax.data.templates import prompt_messages
from rm_jax.data.tokenizers import load_tokenizer
from rm_jax.export.folder import Source, export, write_reward_model
from rm_jax.inference import RewardModel
from rm_jax.models.convert import account, load_pretrained, read_tree
from rm_jax.models.decode import sample
from rm_jax.models.stored import in_memory
from rm_jax.models.write import FAMILIES as WRITTEN
from rm_jax.objectives import LossSpec, loss_sums, mean_loss, weight_sums
from rm_jax.reward_model import HeadSpec, ModelSpec, forward
from rm_jax.types import Record, UserError
from tests import exporting
from tests.tiny_run import sentence

pytestmark = pytest.mark.parity

torch = pytest.importorskip("torch", reason="torch is not installed: parity")

# float32 sums in another order; of the scale of the scores.
CLOSE = 1e-5

PROMPT = "Who wrote this ?"
COMPLETIONS = ["A poet .", "Nobody knows . It is five . Yes .", "No ."]


def load_torch(folder, **keys):
  """(model, tokenizer) as a user of transformers has them."""
  from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
  )

  name = json.loads((folder / "config.json").read_text())["architectures"][0]
  auto = AutoModelForTokenClassification
  if name.endswith("SequenceClassification"):
    auto = AutoModelForSequenceClassification
  model, info = auto.from_pretrained(folder, output_loading_info=True, **keys)
  assert not info["missing_keys"] and not info["unexpected_keys"], info
  assert type(model).__name__ == name
  return model.eval(), AutoTokenizer.from_pretrained(folder)


def logits_of(model, tokenizer, ids):
  """[batch, labels] of ragged rows, padded on the right by the tokenizer."""
  batch = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
  with torch.no_grad():
    return model(**batch).logits.float().numpy()


def close(got, want):
  want = np.asarray(want)
  np.testing.assert_allclose(got, want, rtol=0, atol=CLOSE * abs(want).max())


# ---------------------------------------------------------------- every head


@pytest.mark.parametrize("kind", ["scalar", "gain_bias", "attributes", "bins"])
@pytest.mark.parametrize("architecture", ["sequence", "token"])
def test_heads_that_read_the_last_token(kind, architecture, tmp_path):
  # Would catch a transposed head, a bias that is lost or drawn at random, the
  # order of attributes, another pooled token (rows are ragged).
  ours = exporting.tiny(kind)
  folder = exporting.write(
    ours, tmp_path / "out", architecture=architecture, max_shard_bytes=40_000
  )
  model, tokenizer = load_torch(folder)
  ids = [recipe_ids("chat", tokenizer, PROMPT, c) for c in COMPLETIONS]
  logits = logits_of(model, tokenizer, ids)
  if architecture == "token":
    logits = np.stack(
      [row[len(i) - 1] for row, i in zip(logits, ids, strict=True)]
    )
  else:
    bias = json.loads((folder / "rm_jax.json").read_text())["bias"]
    logits = logits + np.float32(bias or 0)
  if kind == "attributes":
    close(logits, ours.score_attributes(PROMPT, COMPLETIONS))
    scores = logits @ np.float32(exporting.WEIGHTS)
  elif kind == "bins":
    share = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    scores = share @ np.float32([-1, 0, 1, 2])
  else:
    scores = logits[:, 0]
  close(scores, ours.score(PROMPT, COMPLETIONS))
  close(RewardModel.load(folder).score(PROMPT, COMPLETIONS), scores)


def test_steps_are_read_at_their_last_tokens(tmp_path):
  ours = exporting.tiny("steps")
  folder = exporting.write(ours, tmp_path / "out")
  model, tokenizer = load_torch(folder)
  steps = ["First add two .", "Then add one .", "The answer is three ."]
  messages = [
    {"role": "user", "content": PROMPT},
    {"role": "assistant", "content": "\n".join(steps)},
  ]
  text = tokenizer.apply_chat_template(messages, tokenize=False)
  out = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
  ends = [text.index(step) + len(step) for step in steps]
  columns = [
    max(i for i, (a, _) in enumerate(out["offset_mapping"]) if a < end)
    for end in ends
  ]
  logits = torch.tensor(logits_of(model, tokenizer, [out["input_ids"]])[0])
  labels = model.config.label2id
  positive = torch.softmax(logits[columns], -1)[:, labels["positive"]]
  close(positive.numpy(), ours.score_steps(PROMPT, steps))


@pytest.mark.parametrize("pooling", ["mean", "every_token"])
def test_poolings_over_tokens(pooling, tmp_path):
  ours = exporting.tiny("scalar", pooling=pooling)
  model, tokenizer = load_torch(exporting.write(ours, tmp_path / "out"))
  asked = tokenizer.apply_chat_template(
    prompt_messages(PROMPT), return_dict=False, add_generation_prompt=True
  )
  ids = [recipe_ids("chat", tokenizer, PROMPT, c) for c in COMPLETIONS]
  rows = logits_of(model, tokenizer, ids)[:, :, 0]
  own = [row[len(asked) : len(i)] for row, i in zip(rows, ids, strict=True)]
  want = [x.mean() if pooling == "mean" else x[-1] for x in own]
  close(ours.score(PROMPT, COMPLETIONS), want)


@pytest.mark.parametrize("read_at", ["end_of_turn", "last_token"])
@pytest.mark.parametrize("template", ["chat", "plain"])
def test_readings_and_the_snippet_of_the_card(
  read_at, template, tmp_path, monkeypatch
):
  # The code of the model card is what a user runs: it gives our scores.
  ours = exporting.tiny(read_at=read_at, template=template)
  folder = exporting.write(ours, tmp_path / "out")
  code = (folder / "README.md").read_text().split("```python\n")[1]
  names = {}
  monkeypatch.chdir(folder)
  exec(code.split("```")[0], names)
  want = ours.score(names["prompt"], names["completions"])
  close(names["logits"].numpy()[:, 0], want)


def test_bfloat16(tmp_path):
  # The weights are rounded to 8 bits; the head is not, unless it is loaded so.
  ours = exporting.tiny()
  folder = exporting.write(ours, tmp_path / "out", dtype="bfloat16")
  assert load_torch(folder)[0].dtype == torch.bfloat16
  model, tokenizer = load_torch(folder, dtype=torch.float32)
  want = RewardModel.load(folder).score(PROMPT, COMPLETIONS)
  ids = [recipe_ids("chat", tokenizer, PROMPT, c) for c in COMPLETIONS]
  close(logits_of(model, tokenizer, ids)[:, 0], want)
  np.testing.assert_allclose(want, ours.score(PROMPT, COMPLETIONS), atol=0.5)


# ---------------------------------------------------------------- every family


@pytest.mark.parametrize(
  ("name", "architecture"),
  [
    (name, architecture)
    for name in exporting.FAMILIES
    # transformers has no class of the first; the tables of the second are for
    # rows of 32 tokens, shorter than these conversations.
    if name not in ("internlm2", "phi3_longrope")
    for architecture in ("sequence", "token")
  ],
)
def test_every_family(name, architecture, tmp_path):
  # Catches a tensor under another family's name, a fused weight put together
  # in another order, a norm's offset, a config that drops what it began with.
  base = tmp_path / "base"
  ours = exporting.of_family(name, base)
  out = tmp_path / "out"
  family = json.loads((base / "config.json").read_text())["model_type"]
  if not getattr(WRITTEN[family], architecture):
    with pytest.raises(UserError, match="transformers has no class for"):
      exporting.write(ours, out, str(base), architecture=architecture)
    return
  folder = exporting.write(ours, out, str(base), architecture=architecture)
  model, tokenizer = load_torch(folder)
  ids = [recipe_ids("chat", tokenizer, PROMPT, c) for c in COMPLETIONS]
  logits = logits_of(model, tokenizer, ids)
  if architecture == "token":
    logits = [row[len(i) - 1] for row, i in zip(logits, ids, strict=True)]
  want = ours.score(PROMPT, COMPLETIONS)
  assert np.ptp(want) > 0.1  # scores that differ at all
  close(np.stack(logits)[:, 0], want)
  back = RewardModel.load(folder)
  close(back.score(PROMPT, COMPLETIONS), want)


# ---------------------------------------------------------------- the other way


def test_a_classifier_made_by_transformers(tmp_path):
  from transformers import AutoModelForSequenceClassification, LlamaConfig

  tokenizer = exporting.make_tokenizer()
  tokenizer.add_special_tokens({"pad_token": "<pad>"})
  tokenizer.save_pretrained(tmp_path)
  torch.manual_seed(0)
  config = LlamaConfig(
    vocab_size=len(tokenizer),
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    initializer_range=0.2,  # 0.02 leaves attention flat, its errors unseen
    num_labels=1,
    pad_token_id=tokenizer.pad_token_id,
  )
  model = AutoModelForSequenceClassification.from_config(config).eval()
  with torch.no_grad():
    for weight in model.parameters():
      if weight.ndim == 1:
        weight.add_(0.3 * torch.randn_like(weight))
  model.save_pretrained(tmp_path)
  ids = [recipe_ids("chat", tokenizer, PROMPT, c) for c in COMPLETIONS]
  want = logits_of(model, tokenizer, ids)[:, 0]
  close(RewardModel.load(tmp_path).score(PROMPT, COMPLETIONS), want)


# ---------------------------------------------------------------- SmolLM2


@functools.cache
def smollm2():
  found, tokenizer = load_pretrained("smollm2"), load_tokenizer("smollm2")
  return found, tokenizer


def reward_model(**reading):
  """SmolLM2 with a random head: scores of size 1."""
  found, tokenizer = smollm2()
  spec = ModelSpec(
    found.config,
    HeadSpec("scalar", "zeros", "last_token"),
    "float32",
    False,
    (found.config.layers,),
  )
  # Hidden states after the final norm are of size 1 to 10.
  kernel = np.random.default_rng(0).normal(0, 0.02, found.config.width)
  params = {
    "backbone": found.params,
    "head": {"kernel": kernel.astype(np.float32)},
  }
  reading = exporting.READING._replace(row_len=256, **reading)
  return RewardModel(spec, jax.device_put(params), tokenizer, reading)


def real_texts(rm_data, tokenizer, count):
  """(prompt, completion) of hh-rlhf dialogues, ragged, at most 160 tokens."""
  found = []
  for side in ("helpful-base", "harmless-base"):
    records = read_records(rm_data / "hh_rlhf" / side / "test.jsonl.gz")
    texts = ((r.prompt, r.completions[0]) for r in records)
    short = (
      (prompt, one)
      for prompt, one in texts
      if 20 < len(tokenizer(str(prompt) + str(one))["input_ids"]) < 160
    )
    found += itertools.islice(short, count // 2)
  return found


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_64_real_texts(template, rm_data, tmp_path):
  # SmolLM2's template prints a newline after the end of turn, its padding is
  # its end of turn: read as published, transformers would pool another token.
  ours = reward_model(template=template)
  folder = tmp_path / "out"
  folder.mkdir()
  write_reward_model(
    Source(ours, [], "smollm2"),
    folder,
    name="smollm2",
    architecture="auto",
    dtype="float32",
    max_shard_bytes=200_000_000,
    task="",
    attributes=(),
    results=[],
  )
  texts = real_texts(rm_data, ours.tokenizer, 64)
  if template == "plain":
    texts = [(said(prompt), completion) for prompt, completion in texts]
  assert len(texts) == 64 and len({len(str(x)) for x in texts}) > 32
  model, tokenizer = load_torch(folder)
  recipe = {"chat": "chat", "plain": "special"}[template]
  ids = [recipe_ids(recipe, tokenizer, *text) for text in texts]
  got = np.concatenate(
    [
      logits_of(model, tokenizer, ids[n : n + 16])[:, 0]
      for n in range(0, 64, 16)
    ]
  )
  want = ours.score_groups(
    [{"prompt": prompt, "completions": [one]} for prompt, one in texts]
  )
  assert np.std(got) > 0.1
  np.testing.assert_allclose(
    got, np.concatenate(want), rtol=0, atol=1e-4 * abs(got).max()
  )
  del model
  back = RewardModel.load(folder)
  for a, b in zip(
    jax.tree.leaves(back.params), jax.tree.leaves(ours.params), strict=True
  ):
    assert np.array_equal(a, b)


def said(prompt) -> str:
  """A dialogue as one string."""
  if isinstance(prompt, str):
    return prompt
  return "\n".join(m["content"] for m in prompt)


def test_the_exported_base_model_continues_as_ours(tmp_path):
  from transformers import AutoModelForCausalLM, AutoTokenizer

  folder = tmp_path / "out"
  export(
    "smollm2",
    str(folder),
    average=[],
    architecture="auto",
    dtype="float32",
    max_shard_bytes=200_000_000,
    task="",
    results=[],
  )
  found, tokenizer = smollm2()
  model, info = AutoModelForCausalLM.from_pretrained(
    folder, output_loading_info=True
  )
  assert not info["missing_keys"] and not info["unexpected_keys"]
  theirs = AutoTokenizer.from_pretrained(folder)
  for question in ("Name three colours.", "What is the capital of France?"):
    messages = [{"role": "user", "content": question}]
    ids = theirs.apply_chat_template(
      messages, add_generation_prompt=True, return_dict=False
    )
    assert ids == tokenizer.apply_chat_template(
      messages, add_generation_prompt=True, return_dict=False
    )
    with torch.no_grad():
      out = model.generate(
        torch.tensor([ids]), max_new_tokens=24, do_sample=False
      )[0, len(ids) :].tolist()
    ours = sample(
      found.config,
      found.params,
      [ids],
      samples=1,
      max_tokens=24,
      temperature=0.0,
      top_p=1.0,
      stop=(tokenizer.eos_token_id,),
      seed=0,
      dtype="float32",
    )[0][0]
    assert len(out) > 4 and ours == out


# ---------------------------------------------------------------- one step


def bradley_terry_step(model, tokenizer, pairs):
  """(loss, {name: gradient}) as a trainer over transformers takes them.

  Chosen rows, then rejected rows, padded on the right; the mean over pairs of
  -log sigmoid(chosen - rejected).
  """
  rows = [ids for side in zip(*pairs, strict=True) for ids in side]
  batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
  chosen, rejected = model(**batch).logits[:, 0].chunk(2)
  loss = -torch.nn.functional.logsigmoid(chosen - rejected).mean()
  model.zero_grad()
  loss.backward()
  gradients = {k: w.grad.numpy() for k, w in model.named_parameters()}
  return loss.item(), gradients


@pytest.mark.parametrize("layout", ["padded", "shared"])
def test_a_bradley_terry_step(layout, tmp_path):
  # A head of std 1: with the zeros of a new head no gradient would reach the
  # backbone, and any would do.
  ours = exporting.tiny()
  model, tokenizer = load_torch(exporting.write(ours, tmp_path / "out"))
  rng = np.random.default_rng(0)
  records = [
    Record(
      "pair",
      f"{sentence(rng, 4)} {n}",
      (sentence(rng, 3 + n), sentence(rng, 7 - n)),
      ranks=(0, 1),
    )
    for n in range(4)
  ]
  pairs = [
    [recipe_ids("chat", tokenizer, r.prompt, c) for c in r.completions]
    for r in records
  ]
  want, gradients = bradley_terry_step(model, tokenizer, pairs)
  score = gradients.pop("score.weight")
  table = gradients["model.embed_tokens.weight"]
  assert not table[tokenizer.pad_token_id].any()
  size = ours.spec.decoder.vocab_size
  gradients["model.embed_tokens.weight"] = table[:size]
  held = {k: in_memory(k, g, where="torch") for k, g in gradients.items()}
  decoder = ours.spec.decoder
  expected = read_tree(account(held, decoder, where="torch"), decoder)

  reading = ours.reading._replace(layout=layout)
  data = tokenize_records(records, ours.tokenizer, reading, COMPARISONS)
  plan = make_eval_plan(
    data.demands, blocks=1, rows=8, row_len=64, layout=layout, align=1
  )
  assert len(plan.steps) == 1
  batch, _, _ = lay_step(data, plan, 0)
  loss = LossSpec("bradley_terry", 0.0)

  def objective(params):
    outputs = forward(ours.spec, params, batch, language=False)
    sums = loss_sums(loss, outputs, batch, dtype="float32")
    return mean_loss(loss, sums, weight_sums(loss, batch))

  params = jax.tree.map(jnp.asarray, ours.params)
  got, grads = jax.jit(jax.value_and_grad(objective))(params)
  assert float(got) == pytest.approx(want, rel=CLOSE)
  close(grads["head"]["kernel"], score[0])
  for a, b in zip(
    jax.tree.leaves(grads["backbone"]), jax.tree.leaves(expected), strict=True
  ):
    close(a, b)
    assert abs(b).max() > 1e-4
