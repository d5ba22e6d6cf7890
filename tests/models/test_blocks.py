"""Attention by blocks: equal to every pair computed, and only what is seen."""

import functools
import math

import forests
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rm_jax.models.attention import attend
from rm_jax.models.blocks import HIDDEN
from rm_jax.models.sharding import make_mesh
from rm_jax.models.sight import BLOCK, EVERYTHING, Forest, Sight, see, visible

HEADS, KV_HEADS, SIZE = 6, 2, 8
LENGTH = 150  # no multiple of a block


@pytest.fixture(scope="module")
def rows() -> Forest:
  """Two rows of trees with K = 1 .. 9 and forks, padding behind them."""
  groups = [*forests.ragged_groups(), forests.forked_group(record=9)]
  [(batch, _)], _ = forests.batches(
    groups, layout="shared", row_len=LENGTH, blocks=1, rows=4
  )
  used = np.flatnonzero(batch.group_ids[0].any(axis=-1))
  assert len(used) >= 2
  return Forest(
    *(jnp.asarray(getattr(batch, name)[0]) for name in Forest._fields)
  )


def by_mask(forest, window):
  """A sight that computes every pair of tokens."""
  mask = visible(forest, window=window)
  return Sight(forest, jnp.int32(window or EVERYTHING), mask, None, None)


def operands(rows, dtype=jnp.float32):
  count, length = rows.positions.shape
  keys = jax.random.split(jax.random.key(0), 4)
  shapes = [(count, length, n, SIZE) for n in (HEADS, KV_HEADS, KV_HEADS)]
  q, k, v = (
    2 * jax.random.normal(key, shape, dtype)
    for key, shape in zip(keys[:3], shapes, strict=True)
  )
  real = (rows.group_ids > 0)[..., None, None]
  return (q, k, v), jax.random.normal(keys[3], q.shape) * real, real


@functools.partial(jax.jit, static_argnames=("soft_cap", "dtype"))
def both_ways(q, k, v, sight, g, *, soft_cap=0.0, dtype="float32"):
  """(what attention gives, its gradients by q, k and v)."""

  def run(q, k, v):
    out = attend(q, k, v, sight, dtype=dtype, soft_cap=soft_cap)
    return (out * g).sum(), out

  (_, out), grads = jax.value_and_grad(run, (0, 1, 2), has_aux=True)(q, k, v)
  return out, grads


@pytest.mark.parametrize("block", [16, 32])
@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("soft_cap", [0.0, 3.0])
def test_equals_every_pair_computed(rows, block, window, soft_cap):
  # Catches a block left out, a maximum that is not carried on, a gradient of
  # keys that is written over instead of added to, a cap without its slope.
  (q, k, v), g, real = operands(rows)
  want, want_grads = both_ways(
    q, k, v, by_mask(rows, window), g, soft_cap=soft_cap
  )
  got, grads = both_ways(
    q, k, v, see(rows, window=window, block=block), g, soft_cap=soft_cap
  )
  np.testing.assert_allclose(got * real, want * real, rtol=1e-5, atol=1e-5)
  for ours, theirs in zip(grads, want_grads, strict=True):
    assert np.abs(theirs).max() > 0.1
    np.testing.assert_allclose(
      ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max()
    )


def test_bfloat16_rounds_operands_only(rows):
  # One rounding is 2^-9 of a number; sums of 150 keys in bfloat16 would be off
  # by percents.
  (q, k, v), g, real = operands(rows)
  want, want_grads = both_ways(q, k, v, by_mask(rows, 0), g)
  got, grads = both_ways(
    q, k, v, see(rows, window=0, block=32), g, dtype="bfloat16"
  )
  assert got.dtype == jnp.float32
  pairs = zip((got * real, *grads), (want * real, *want_grads), strict=True)
  for ours, theirs in pairs:
    assert ours.dtype == jnp.float32
    error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    assert 2**-13 < error < 2**-6


@pytest.mark.parametrize("window", [0, 5])
def test_exactly_the_blocks_that_some_token_sees(rows, window):
  # Catches a list that is too long (nothing is saved) or too short, and
  # blocks of padding that are computed.
  block = 16
  sight = see(rows, window=window, block=block)
  mask = visible(rows, window=window)
  mask = np.asarray(mask) & np.asarray(rows.group_ids > 0)[:, :, None]
  count = math.ceil(LENGTH / block)
  for row in range(len(mask)):
    for a in range(count):
      want = [
        b
        for b in range(count)
        if mask[row, a * block :, b * block :][:block, :block].any()
      ]
      listed = sight.order[row, a, : sight.counts[row, a]]
      assert listed.tolist() == want
  computed = int(sight.counts.sum())
  causal = len(mask) * count * (count + 1) // 2
  assert computed < 0.75 * causal  # branches and trees do hide blocks


def test_rows_of_one_block_have_a_mask():
  short = jnp.ones((1, BLOCK), jnp.int32)
  assert see(Forest(short, short, short, short), window=0).counts is None
  long = jnp.ones((1, BLOCK + 1), jnp.int32)
  sight = see(Forest(long, long, long, long), window=0)
  assert sight.mask is None
  assert sight.order.shape == (1, 2, 2)


def test_padding_is_finite_and_costs_nothing(rows):
  nothing = jax.tree.map(jnp.zeros_like, rows)
  sight = see(nothing, window=0, block=16)
  assert int(sight.counts.sum()) == 0
  (q, k, v), _, _ = operands(rows)
  got, grads = both_ways(q, k, v, sight, jnp.ones_like(q))
  np.testing.assert_array_equal(got, 0.0)
  assert all(np.isfinite(x).all() for x in grads)
  assert np.isfinite(HIDDEN)


@pytest.mark.parametrize("shape", [(4, 1, 2), (2, 2, 2), (1, 8, 1), (4, 2, 1)])
def test_the_same_on_a_mesh(rows, shape):
  # Catches a gradient that is added up once per device, and heads that meet
  # another device's keys. Four rows do not split over eight devices.
  (q, k, v), g, real = operands(rows)
  sight = see(rows, window=0, block=16)
  want, want_grads = both_ways(q, k, v, sight, g)
  data, fsdp, tensor = shape
  with jax.set_mesh(make_mesh(data=data, fsdp=fsdp, tensor=tensor)):
    got, grads = both_ways(q, k, v, sight, g)
  np.testing.assert_allclose(got * real, want * real, rtol=1e-5, atol=1e-5)
  for ours, theirs in zip(grads, want_grads, strict=True):
    np.testing.assert_allclose(
      ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max()
    )


def test_memory_grows_with_the_row_not_with_its_square():
  def temporary(length):
    line = jax.ShapeDtypeStruct((1, length), jnp.int32)
    x = jax.ShapeDtypeStruct((1, length, KV_HEADS, SIZE), jnp.float32)

    def run(forest, q, k, v):
      return both_ways(q, k, v, see(forest, window=0), jnp.ones_like(q))

    compiled = jax.jit(run).lower(Forest(*[line] * 4), x, x, x).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  few, many = temporary(1024), temporary(8192)
  # One byte for a pair of tokens at most, not one float for every head.
  assert many - few < 8192**2 * 1.2
