"""Attention over the blocks of a row that some query sees, and no others.

A block of queries goes through its key blocks one at a time and keeps running
maxima and sums, so that no [L, L] array exists. The backward pass goes through
the same blocks and computes the weights again from the sums.

Source: Dao et al. 2022, arXiv:2205.14135 (FlashAttention), algorithms 1 and 4;
the lists of blocks and the mask inside a block are this project's.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from rm_jax.models.dots import KEPT, dot
from rm_jax.models.sight import Sight, sees

# Finite: a row of padding then gives a mean of values, never NaN.
HIDDEN = -0.7 * float(jnp.finfo(jnp.float32).max)


class How(NamedTuple):
  """What does not change from block to block; hashable."""

  scale: float
  soft_cap: float  # 0: none
  dtype: str


def attend_blocks(
  q: Float[Array, "B L H d"],
  k: Float[Array, "B L J d"],
  v: Float[Array, "B L J d"],
  sight: Sight,
  how: How,
) -> Float[Array, "B L H d"]:
  """Softmax attention to what each token sees; 0 where that is nothing.

  H query heads share J key heads in runs of H / J (grouped-query attention).
  Operands of the products are rounded to `how.dtype`; sums and the softmax are
  float32.
  """
  rows, length, heads, size = q.shape
  kv_heads, count = k.shape[2], sight.counts.shape[1]
  block = sight.forest.positions.shape[1] // count
  runs = heads // kv_heads
  pad = ((0, 0), (0, count * block - length), (0, 0), (0, 0))

  def cut(x, group):  # [B L J*g d] -> [B N J g*block d]
    x = jnp.pad(x, pad).reshape(rows, count, block, kv_heads, group, size)
    x = x.transpose(0, 1, 3, 4, 2, 5)
    return x.reshape(rows, count, kv_heads, group * block, size)

  mixed = _attend(how, cut(q * how.scale, runs), cut(k, 1), cut(v, 1), sight)
  mixed = mixed.reshape(rows, count, kv_heads, runs, block, size)
  mixed = mixed.transpose(0, 1, 4, 2, 3, 5)
  return mixed.reshape(rows, count * block, heads, size)[:, :length]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(how, q, k, v, sight):
  return _forward(how, q, k, v, sight)[0]


def _forward(how, q, k, v, sight):
  """Also the logarithm of each query's sum of weights, for the way back."""
  rows, count, kv_heads, wide, size = q.shape
  keys, values = k.astype(how.dtype), v.astype(how.dtype)

  def one(index, carry):
    mixed, logs = carry
    row, block = index // count, index % count
    query = q[row, block]

    def step(n, state):
      top, total, mix = state
      other = sight.order[row, block, n]
      scores, _ = _scores(how, query, keys, sight, row, block, other)
      above = jnp.maximum(top, scores.max(axis=-1, keepdims=True))
      weights, shrink = jnp.exp(scores - above), jnp.exp(top - above)
      total = total * shrink + weights.sum(axis=-1, keepdims=True)
      mix = mix * shrink + dot(
        "jqk,jkd->jqd", weights, values[row, other], dtype=how.dtype
      )
      return above, total, mix

    line = (kv_heads, wide, 1)
    start = (
      jnp.full(line, HIDDEN, jnp.float32),
      jnp.zeros(line, jnp.float32),
      jnp.zeros((kv_heads, wide, size), jnp.float32),
    )
    top, total, mix = jax.lax.fori_loop(
      0, sight.counts[row, block], step, start
    )
    some = jnp.maximum(total, 1e-30)  # a block of padding: 0, not NaN
    mixed = mixed.at[row, block].set(mix / some)
    return mixed, logs.at[row, block].set((top + jnp.log(some))[..., 0])

  empty = (jnp.zeros(q.shape, jnp.float32), jnp.zeros(q.shape[:-1]))
  mixed, logs = jax.lax.fori_loop(0, rows * count, one, empty)
  q, k, v, mixed, logs = (
    checkpoint_name(x, KEPT) for x in (q, k, v, mixed, logs)
  )
  return mixed, (q, k, v, sight, mixed, logs)


def _backward(how, saved, cotangent):
  q, k, v, sight, mixed, logs = saved
  rows, count, *_ = q.shape
  keys, values = k.astype(how.dtype), v.astype(how.dtype)
  product = functools.partial(dot, dtype=how.dtype)

  def turn(x):
    return x.swapaxes(-1, -2)

  # Turned once here: a product that sums over the first axis of both operands
  # takes XLA:CPU more than twice as long.
  q_turned, g_turned = (turn(x.astype(how.dtype)) for x in (q, cotangent))
  # The softmax's own sum of weight times gradient: that of output times it.
  # Not multiply and sum, which XLA:CPU takes nine times as long for.
  shared = jnp.einsum(
    "bnjqd,bnjqd->bnjq", cotangent, mixed, precision="highest"
  )[..., None]

  def one(index, carry):
    dq, dk, dv = carry
    row, block = index // count, index % count
    query, g = q[row, block], cotangent[row, block]
    q_own, g_own = q_turned[row, block], g_turned[row, block]
    log, mean = logs[row, block][..., None], shared[row, block]

    def step(n, state):
      own, dk, dv = state
      other = sight.order[row, block, n]
      key, value = keys[row, other], values[row, other]
      scores, slope = _scores(how, query, keys, sight, row, block, other)
      weights = jnp.exp(scores - log)
      dv = dv.at[row, other].add(product("jdq,jqk->jdk", g_own, weights))
      steep = weights * (product("jqd,jkd->jqk", g, value) - mean)
      steep = steep if slope is None else steep * slope
      own += product("jqk,jkd->jqd", steep, key)
      dk = dk.at[row, other].add(product("jdq,jqk->jdk", q_own, steep))
      return own, dk, dv

    own, dk, dv = jax.lax.fori_loop(
      0, sight.counts[row, block], step, (jnp.zeros_like(query), dk, dv)
    )
    return dq.at[row, block].set(own), dk, dv

  start = tuple(jnp.zeros_like(x) for x in (q, turn(k), turn(v)))
  dq, dk, dv = jax.lax.fori_loop(0, rows * count, one, start)
  return dq, turn(dk), turn(dv), None


_attend.defvjp(_forward, _backward)


def _scores(how, query, keys, sight, row, block, other):
  """(scores of one pair of blocks, their slope by what the cap was put on)."""
  size = keys.shape[-2]
  start = jnp.stack([block, other]) * size

  def part(x, side):
    return jax.lax.dynamic_slice(x, (row, start[side]), (1, size))[0]

  ours = jax.tree.map(lambda x: part(x, 0)[:, None], sight.forest)
  theirs = jax.tree.map(lambda x: part(x, 1)[None], sight.forest)
  mask = sees(ours, theirs, sight.window)
  scores = dot("jqd,jkd->jqk", query, keys[row, other], dtype=how.dtype)
  slope = None
  if how.soft_cap:
    bent = jnp.tanh(scores / how.soft_cap)
    scores, slope = how.soft_cap * bent, 1 - bent * bent
  heads = scores.shape[1] // size
  mask = jnp.tile(mask, (heads, 1))[None]
  return jnp.where(mask, scores, HIDDEN), slope
