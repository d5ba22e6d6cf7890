"""Rollout labels against the enumeration of all completions."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rm_jax.models.sight import Forest
from rm_jax.models.sizes import SIZES
from rm_jax.models.transformer import Decoder, unembedding
from rm_jax.rollouts import roll_out_steps
from rm_jax.types import UserError
from tests.models.test_transformer import random_params as params_of_shape

STOP = 0
C = dataclasses.replace(SIZES["tiny"], vocab_size=5)
LONGEST = 12
HOW = dict(
  samples=400,
  max_tokens=4,
  temperature=1.0,
  top_p=1.0,
  stop=(STOP,),
  seed=7,
  dtype="float32",
)
# The second one is finished; the third has one step.
SOLUTIONS = [[1, 2, 3, 4, 1, 2], [3, 1, 2, 4, STOP], [4, 4]]
ENDS = [[1, 3, 5], [2, 4], [1]]


def is_right(index, tokens):
  """Odd for one solution what is even for the next."""
  return (sum(tokens) + index) % 2 == 0


@functools.cache
def params():
  return params_of_shape(C)


@functools.cache
def full_forward():
  decoder = Decoder(C, (C.layers,), "float32", remat=False)

  def chances(params, tokens):
    line = jnp.arange(LONGEST, dtype=jnp.int32)[None]
    forest = Forest(0 * line + 1, 0 * line, line, 0 * line)
    hidden = decoder.apply({"params": params}, tokens[None], forest)
    return jax.nn.softmax(hidden[0] @ unembedding(params, C).T, -1)

  return jax.jit(chances)


def enumerate_from(index, prefix, left):
  """(P(right), P(not finished)) over all completions of at most `left`."""
  if not left:
    return 0.0, 1.0
  padded = np.zeros(LONGEST, np.int32)
  padded[: len(prefix)] = prefix
  chances = np.asarray(full_forward()(params(), padded), np.float64)
  right = late = 0.0
  for token, chance in enumerate(chances[len(prefix) - 1]):
    path = [*prefix, token]
    if token == STOP:
      right += chance * is_right(index, path)
      continue
    deeper = enumerate_from(index, path, left - 1)
    right += chance * deeper[0]
    late += chance * deeper[1]
  return right, late


def test_shares_are_the_chances_of_all_completions():
  # Catches a rollout from another prefix than its step's, an answer judged
  # without its prefix, an unfinished one that counts as right, a share over
  # the finished ones only.
  got = roll_out_steps(C, params(), SOLUTIONS, ENDS, is_right, **HOW)
  told, true = [], []
  for i, (solution, ends) in enumerate(zip(SOLUTIONS, ENDS, strict=True)):
    for s, end in enumerate(ends):
      if solution[end] == STOP:
        assert got.shares[i][s] == is_right(i, solution)
        assert got.unfinished[i][s] == 0
        continue
      told.append((got.shares[i][s], got.unfinished[i][s] / HOW["samples"]))
      true.append(enumerate_from(i, solution[: end + 1], HOW["max_tokens"]))
  told, true = np.asarray(told), np.asarray(true)
  assert true.std(0).min() > 0.02, "chances all alike would hide a mix-up"
  error = np.sqrt(true * (1 - true) / HOW["samples"])
  # 10 estimates: 4 standard errors are met by all but one of 1,600 such runs.
  np.testing.assert_array_less(np.abs(told - true), 4 * error)


def test_the_cost_is_counted():
  got = roll_out_steps(C, params(), SOLUTIONS, ENDS, is_right, **HOW).cost
  assert (got.labels, got.rolled_out) == (6, 5)
  # Solutions up to their last fork, once; prefixes one by one.
  assert got.encoded_tokens == 6 + 3 + 2
  assert got.prefix_tokens == (2 + 4 + 6) + 3 + 2
  most = got.rolled_out * HOW["samples"]
  assert most < got.sampled_tokens < most * HOW["max_tokens"]
  assert got.seconds > 0


def test_a_solution_alone_has_the_labels_it_has_among_others():
  how = HOW | dict(samples=20)
  whole = roll_out_steps(C, params(), SOLUTIONS, ENDS, is_right, **how)
  first = roll_out_steps(C, params(), SOLUTIONS[:1], ENDS[:1], is_right, **how)
  np.testing.assert_array_equal(first.shares[0], whole.shares[0])


def test_what_cannot_be_rolled_out_is_refused():
  with pytest.raises(UserError, match=r"step_ends\[1\]: .* 0 to 4.*got \[5\]"):
    roll_out_steps(C, params(), SOLUTIONS, [[1], [5], [1]], is_right, **HOW)
  with pytest.raises(UserError, match="without a token that ends a rollout"):
    roll_out_steps(
      C, params(), SOLUTIONS, ENDS, is_right, **HOW | dict(stop=())
    )
