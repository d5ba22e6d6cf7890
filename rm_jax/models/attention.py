"""Attention over packed rows: one rule says who sees whom."""

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
