"""Sampling: tokens of the cache are those of a full forward per step.

Catches: positions that begin again after the prompt, a cache column written
one step late, samples that see each other, a prompt's padding that is seen, a
draw that depends on who is decoded beside it.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rm_jax.models.attention import Forest
from rm_jax.models.convert import load_pretrained
from rm_jax.models.decode import invert, nucleus, sample
from rm_jax.models.sizes import SIZES
from rm_jax.models.transformer import Decoder, unembedding
from rm_jax.reward_model import HeadSpec, ModelSpec, init_params
from rm_jax.types import UserError

TINY = SIZES["tiny"]
WINDOW = dataclasses.replace(TINY, window=5)
PROMPTS = [[5, 9, 3], [7], [11, 2, 8, 4, 6, 13, 17, 19, 23]]
HOW = dict(
  samples=3,
  max_tokens=7,
  temperature=1.0,
  top_p=1.0,
  stop=(),
  seed=0,
  dtype="float32",
)


@functools.cache
def params_of(config):
  """Embeddings far apart: the logits of a fresh model are all alike."""
  spec = ModelSpec(
    config,
    HeadSpec("scalar", "unit", "last_token"),
    "float32",
    False,
    (config.layers,),
  )
  tree = init_params(spec, jax.random.key(3))["backbone"]
  return jax.tree.map(
    lambda x: np.asarray(x) * (3.0 if x.ndim == 3 else 1.0), tree
  )


@functools.partial(jax.jit, static_argnums=0)
def forward(config, params, tokens, real):
  columns = jnp.arange(tokens.shape[0])[None]
  forest = Forest(real[None], 0 * columns, columns, 0 * columns)
  decoder = Decoder(config, (config.layers,), "float32", remat=False)
  hidden = decoder.apply({"params": params}, tokens[None], forest)
  return hidden[0] @ unembedding(params, config).T


def logits_after(config, ids, length=32):
  tokens = np.zeros(length, np.int32)
  tokens[: len(ids)] = ids
  real = (np.arange(length) < len(ids)).astype(np.int32)
  out = forward(config, params_of(config), tokens, real)
  return np.asarray(out[len(ids) - 1], np.float64)


@pytest.mark.parametrize("config", [TINY, WINDOW], ids=["whole", "window"])
def test_greedy_is_the_argmax_of_a_full_forward(config):
  got = sample(config, params_of(config), PROMPTS, **HOW | {"temperature": 0.0})
  for prompt, completions in zip(PROMPTS, got, strict=True):
    path = list(prompt)
    for _ in range(7):
      path.append(int(np.argmax(logits_after(config, path))))
    assert completions == [path[len(prompt) :]] * 3
  assert len({tuple(c[0]) for c in got}) == 3  # no constant would pass


def test_samples_are_drawn_by_the_stated_rule():
  # A slow path: a full forward each step, the stated key, the running sum.
  got = sample(TINY, params_of(TINY), PROMPTS, **HOW | {"temperature": 0.7})
  for i, (prompt, completions) in enumerate(zip(PROMPTS, got, strict=True)):
    for n, completion in enumerate(completions):
      path = list(prompt)
      for step, token in enumerate(completion):
        key = jax.random.key(0)
        for number in (i, n, step):
          key = jax.random.fold_in(key, number)
        logits = logits_after(TINY, path) / 0.7
        mass = np.exp(logits - logits.max())
        goal = float(jax.random.uniform(key)) * mass.sum()
        assert token == int((np.cumsum(mass) <= goal).sum())
        path.append(token)
  assert len({tuple(c) for c in got[0]}) > 1


def test_a_sample_does_not_depend_on_who_is_decoded_beside_it():
  whole = sample(TINY, params_of(TINY), PROMPTS, **HOW)
  two = sample(TINY, params_of(TINY), PROMPTS[:2], **HOW | {"samples": 2})
  assert two == [completions[:2] for completions in whole[:2]]
  other = sample(TINY, params_of(TINY), PROMPTS, **HOW | {"seed": 1})
  assert other != whole


def test_a_stop_token_ends_its_completion_only():
  whole = sample(TINY, params_of(TINY), PROMPTS, **HOW)
  stop = whole[0][0][2]
  got = sample(TINY, params_of(TINY), PROMPTS, **HOW | {"stop": (stop,)})
  for before, after in zip(sum(whole, []), sum(got, []), strict=True):
    end = before.index(stop) + 1 if stop in before else len(before)
    assert after == before[:end]
  assert any(len(c) < 7 for c in sum(got, []))


def test_the_nucleus_is_the_fewest_tokens_that_hold_the_mass():
  rng = np.random.default_rng(0)
  mass = np.exp(rng.normal(size=(1, 4, 50)) * 2).astype(np.float32)
  mass /= mass.max(-1, keepdims=True)
  for top_p in (0.1, 0.5, 0.9):
    got = np.asarray(nucleus(jnp.asarray(mass), top_p))
    for row, kept in zip(mass[0], got[0], strict=True):
      order = np.argsort(-row)
      held = np.cumsum(row[order].astype(np.float64))
      count = int((held < top_p * held[-1]).sum()) + 1
      want = np.zeros_like(row)
      want[order[:count]] = row[order[:count]]
      np.testing.assert_array_equal(kept, want)


def test_frequencies_are_the_probabilities():
  # 20,000 draws over a vocabulary of several blocks; 4.5 standard errors.
  rng = np.random.default_rng(1)
  mass = np.exp(rng.normal(size=700)).astype(np.float32)
  mass[::3] = 0.0  # never drawn
  uniform = rng.random((1, 20_000)).astype(np.float32)
  shape = jnp.broadcast_to(jnp.asarray(mass), (1, 20_000, 700))
  drawn = np.asarray(invert(shape, jnp.asarray(uniform)))[0]
  p = mass / mass.sum(dtype=np.float64)
  counts = np.bincount(drawn, minlength=700)
  assert counts[::3].sum() == 0
  error = np.sqrt(np.maximum(p * (1 - p) / 20_000, 1e-12))
  assert np.abs(counts / 20_000 - p).max() <= 4.5 * error.max()
  assert (np.abs(counts / 20_000 - p) <= 4.5 * error + 1e-4).all()


@pytest.mark.parametrize(
  "prompts, changes, message",
  [
    ([[1], []], {}, r"prompts\[1\]: expected one token or more, got none"),
    ([[1]], dict(samples=0), "samples=0 must be 1 or more"),
    ([[1]], dict(max_tokens=0), "max_tokens=0 must be 1 or more"),
    ([[1]], dict(temperature=-1.0), r"temperature=-1\.0 must be 0"),
    ([[1]], dict(top_p=0.0), r"top_p=0\.0 must be above 0 and at most 1"),
    ([[1]], dict(dtype="float16"), "dtype='float16' is not known"),
    ([[10**6]], {}, r"prompts\[0\]: expected token ids below"),
  ],
)
def test_what_cannot_be_sampled_is_said(prompts, changes, message):
  with pytest.raises(UserError, match=message):
    sample(TINY, params_of(TINY), prompts, **HOW | changes)


def test_nothing_to_sample():
  assert sample(TINY, params_of(TINY), [], **HOW) == []


def test_real_weights_say_what_a_full_forward_says():
  found = load_pretrained("smollm2")
  prompt = [504, 5675, 282, 4649, 314]  # any ids: text is not the point
  (got,) = sample(
    found.config,
    found.params,
    [prompt],
    **HOW | {"temperature": 0.0, "samples": 1, "max_tokens": 4},
  )
  path = list(prompt)
  for _ in range(4):
    tokens = np.zeros(16, np.int32)
    tokens[: len(path)] = path
    real = (np.arange(16) < len(path)).astype(np.int32)
    logits = forward(found.config, found.params, tokens, real)
    path.append(int(np.argmax(logits[len(path) - 1])))
  assert got[0] == path[len(prompt) :]
