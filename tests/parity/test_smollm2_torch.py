"""The embedded backbone against transformers' own loading, live.

Needs torch and accelerate: make parity.
"""

import copy
import json
import pathlib

import numpy as np
import pytest
from tokenizers import Regex, pre_tokenizers

from rm_jax.data.tokenizers import PROBE, load_tokenizer
from rm_jax.models.convert import load_pretrained, to_hf
from tests.golden import make_smollm2_logits, make_tiny_llama_logits
from tests.models.fixtures import hidden_states

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"

pytestmark = pytest.mark.parity

torch = pytest.importorskip("torch", reason="torch is not installed: parity")
pytest.importorskip("accelerate", reason="torch reads GGUF with accelerate")


@pytest.fixture(scope="module")
def theirs():
  return make_smollm2_logits.load_torch()


@pytest.fixture(scope="module")
def ours():
  return load_pretrained("smollm2")


def test_state_dict_is_equal_bit_for_bit(theirs, ours):
  # Would catch any tensor that is swapped, transposed or left permuted.
  model, _ = theirs
  expected = {k: v.numpy() for k, v in model.state_dict().items()}
  tied = expected.pop("lm_head.weight")
  assert np.array_equal(tied, expected["model.embed_tokens.weight"])
  named = to_hf(ours.params, ours.config)
  assert set(named) == set(expected)
  for name, array in named.items():
    assert np.array_equal(array, expected[name]), name


def test_config_is_equal(theirs, ours):
  model, _ = theirs
  c, ours = model.config, ours.config
  assert ours.rope_theta == c.rope_parameters["rope_theta"]
  assert ours.norm_eps == pytest.approx(c.rms_norm_eps, rel=1e-6)
  assert (ours.heads, ours.kv_heads) == (
    c.num_attention_heads,
    c.num_key_value_heads,
  )


def test_token_ids_are_equal(theirs):
  # transformers keeps the byte-level rule of a GGUF tokenizer and drops what
  # the pre-tokenizer "smollm" puts before it in llama.cpp, a split at every
  # \p{N}: white space runs before a number then differ. With that split added
  # by its regex the two must agree on everything.
  _, tokenizer = theirs
  tokenizer = copy.deepcopy(tokenizer)
  ours = load_tokenizer("smollm2")
  text = PROBE + "<|im_start|>user\n007  ½ Ⅷ ٣<|im_end|>\n"
  assert ours(text)["input_ids"] != tokenizer(text)["input_ids"]
  tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"),
      tokenizer.backend_tokenizer.pre_tokenizer,
    ]
  )
  assert ours(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_every_logit_of_the_long_text(theirs, ours):
  # 2e-4 of the scale, as in tests/models/test_smollm2.py, here at all places.
  model, tokenizer = theirs
  tokens = tokenizer(make_smollm2_logits.LONG)["input_ids"]
  want, _ = make_smollm2_logits.run(model, tokens)
  hidden = hidden_states(ours.params, ours.config, [tokens])[0]
  got = hidden @ ours.params["embed"]["embedding"].T
  np.testing.assert_allclose(got, want, rtol=0, atol=2e-4 * abs(want).max())


def test_the_goldens_are_what_torch_says_today(theirs):
  # Would catch a golden edited by hand, or made from a changed text.
  close(make_smollm2_logits.make(*theirs), read("smollm2_logits.json"))
  close(make_tiny_llama_logits.make(), read("tiny_llama_logits.json"))


def read(name):
  return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


def close(got, want):
  """Equal trees; floats to 1e-3: torch sums differently on other processors."""
  assert type(got) is type(want)
  if isinstance(got, dict):
    assert set(got) == set(want)
    for key in got:
      close(got[key], want[key])
  elif isinstance(got, list):
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
      close(a, b)
  elif isinstance(got, float):
    assert got == pytest.approx(want, abs=1e-3, rel=1e-5)
  else:
    assert got == want
