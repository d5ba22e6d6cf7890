"""Attention over packed rows: one rule says who sees whom."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rm_jax.models.dots import dot

# Finite: a row of padding then gives a mean of values, never NaN.
HIDDEN = -0.7 * float(jnp.finfo(jnp.float32).max)


class Forest(NamedTuple):
  """Where every token of B packed rows stands in its tree; int32 [B, L]."""

  group_ids: Int[Array, "B L"]
  branch_ids: Int[Array, "B L"]
  positions: Int[Array, "B L"]
  fork_positions: Int[Array, "B L"]


class Past(NamedTuple):
  """Keys and values of earlier tokens, for rows that hold one tree each.

  Such a row is the next token of each of L branches of a trunk of T tokens.
  The trunk's keys stand once and serve every branch; of the M columns of a
  branch, column m is the token m places after its fork. Columns are next to
  last: with heads there XLA:CPU takes four times as long for the products.
  """

  trunk_k: Float[Array, "B J T d"]
  trunk_v: Float[Array, "B J T d"]
  own_k: Float[Array, "B L J M d"]
  own_v: Float[Array, "B L J M d"]


class PastMask(NamedTuple):
  """Which columns of a `Past` next tokens see, and which become theirs."""

  trunk: Bool[Array, "B L T"]
  own: Bool[Array, "B L M"]
  column: Int[Array, ""]


def visible(forest: Forest, *, window: int) -> Bool[Array, "B L L"]:
  """True where query (second axis) sees key (third axis).

      same group and position_k <= position_q
      and (branch_k == branch_q or (branch_k == 0 and position_k < fork_q))
      and position_q - position_k < window, where window > 0

  A branch sees itself and the trunk below its fork; it never sees a sibling.
  Positions continue from the fork, so a window means the same in every layout.
  """
  query = jax.tree.map(lambda x: x[:, :, None], forest)
  key = jax.tree.map(lambda x: x[:, None, :], forest)
  on_path = (key.branch_ids == query.branch_ids) | (
    (key.branch_ids == 0) & (key.positions < query.fork_positions)
  )
  mask = (
    (key.group_ids == query.group_ids)
    & (key.positions <= query.positions)
    & on_path
  )
  if window:
    mask &= query.positions - key.positions < window
  return mask


def attend(
  q: Float[Array, "B L H d"],
  k: Float[Array, "B L J d"],
  v: Float[Array, "B L J d"],
  mask: Bool[Array, "B L L"],
  *,
  dtype,
) -> Float[Array, "B L H d"]:
  """Softmax attention where `mask` allows; softmax in float32.

  H query heads share J key heads in runs of H / J (grouped-query attention).
  """
  rows, length, heads, size = q.shape
  kv_heads = k.shape[2]
  q = q.reshape(rows, length, kv_heads, heads // kv_heads, size)
  scores = dot("bljgd,bmjd->bjglm", q / math.sqrt(size), k, dtype=dtype)
  scores = jnp.where(mask[:, None, None], scores, HIDDEN)
  weights = jax.nn.softmax(scores, axis=-1)
  mixed = dot("bjglm,bmjd->bljgd", weights, v, dtype=dtype)
  return mixed.reshape(rows, length, heads, size)


def visible_past(forest: Forest, past: Past, *, window: int) -> PastMask:
  """Where next tokens see the columns of a past, and where they go themselves.

  The rule of `visible`: the trunk below the fork, the branch up to the token
  itself, both within the window.
  """
  forks = forest.fork_positions[..., None]
  positions = forest.positions[..., None]
  on_trunk = jnp.arange(past.trunk_k.shape[-2])[None, None]
  on_branch = forks + jnp.arange(past.own_k.shape[-2])[None, None]
  trunk, own = on_trunk < forks, on_branch <= positions
  if window:
    trunk &= positions - on_trunk < window
    own &= positions - on_branch < window
  return PastMask(trunk, own, (positions - forks)[0, 0, 0])


def attend_past(
  q: Float[Array, "B L H d"],
  k: Float[Array, "B L J d"],
  v: Float[Array, "B L J d"],
  past: Past,
  mask: PastMask,
  *,
  dtype,
) -> tuple[Float[Array, "B L H d"], Array, Array]:
  """Softmax attention of one token per branch to its past and to itself.

  Equals `attend` over trunk, branches and tokens laid out as one row. Also
  returns the branches' keys and values with those of the tokens.
  """
  rows, length, heads, size = q.shape
  kv_heads = k.shape[2]
  runs = heads // kv_heads
  product = functools.partial(dot, dtype=dtype)
  q = q.reshape(rows, length, kv_heads, runs, size) / math.sqrt(size)

  def put(cache, x):
    x = x[:, :, :, None].astype(cache.dtype)
    return jax.lax.dynamic_update_slice_in_dim(cache, x, mask.column, axis=3)

  # Before anything reads them, so that they are changed in place.
  own_k, own_v = put(past.own_k, k), put(past.own_v, v)

  def by_head(x):  # [B L J g x] -> [B J L*g x]: all branches in one product
    x = x.transpose(0, 2, 1, 3, 4)
    return x.reshape(rows, kv_heads, length * runs, x.shape[-1])

  def by_branch(x):  # and back
    x = x.reshape(rows, kv_heads, length, runs, x.shape[-1])
    return x.transpose(0, 2, 1, 3, 4)

  on_trunk = by_branch(product("bjqd,bjtd->bjqt", by_head(q), past.trunk_k))
  on_branch = product("bljgd,bljmd->bljgm", q, own_k)
  trunk, own = mask.trunk[:, :, None, None], mask.own[:, :, None, None]
  scores = [
    jnp.where(trunk, on_trunk, HIDDEN),
    jnp.where(own, on_branch, HIDDEN),
  ]
  weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1)
  on_trunk, on_branch = jnp.split(weights, [trunk.shape[-1]], axis=-1)
  mixed = by_branch(
    product("bjqt,bjtd->bjqd", by_head(on_trunk), past.trunk_v)
  ) + product("bljgm,bljmd->bljgd", on_branch, own_v)
  return mixed.reshape(rows, length, heads, size), own_k, own_v
