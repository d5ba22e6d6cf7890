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


class Past(NamedTuple):
  """Keys and values from earlier steps, for rows that hold one tree each.

  Such a row is the next token of each of L branches: the trunk's keys serve
  them all, and a branch has M columns of its own. Column m of a branch is the
  token m places after its fork. Stacked over layers, an axis stands in front.
  """

  trunk_k: Float[Array, "*N B T J d"]
  trunk_v: Float[Array, "*N B T J d"]
  own_k: Float[Array, "*N B L M J d"]
  own_v: Float[Array, "*N B L M J d"]


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


def visible_past(
  forest: Forest, *, trunk: int, own: int, window: int
) -> tuple[Bool[Array, "B L T"], Bool[Array, "B L M"]]:
  """True where a branch's next token sees column T of the trunk, M of its own.

  The rule of `visible` for keys of a `Past`: the trunk below the fork, the
  branch below the token itself, both within the window.
  """
  forks, positions = forest.fork_positions[..., None], forest.positions
  positions = positions[..., None]
  on_trunk = jnp.arange(trunk)[None, None]
  on_branch = forks + jnp.arange(own)[None, None]
  masks = [on_trunk < forks, on_branch < positions]
  if window:
    masks[0] &= positions - on_trunk < window
    masks[1] &= positions - on_branch < window
  return tuple(masks)


def attend_past(
  q: Float[Array, "B L H d"],
  k: Float[Array, "B L J d"],
  v: Float[Array, "B L J d"],
  past: Past,
  mask: tuple[Bool[Array, "B L T"], Bool[Array, "B L M"]],
  *,
  dtype,
) -> Float[Array, "B L H d"]:
  """Softmax attention of one token per branch to its past and to itself.

  Equals `attend` over trunk, branch and token laid out as one row.
  """
  rows, length, heads, size = q.shape
  kv_heads = k.shape[2]
  q = q.reshape(rows, length, kv_heads, heads // kv_heads, size)
  q = q / math.sqrt(size)
  trunk, own = mask[0][:, None, None], mask[1][:, None, None]
  scores = [
    jnp.where(
      trunk, dot("bljgd,btjd->bjglt", q, past.trunk_k, dtype=dtype), HIDDEN
    ),
    jnp.where(
      own, dot("bljgd,blmjd->bjglm", q, past.own_k, dtype=dtype), HIDDEN
    ),
    dot("bljgd,bljd->bjgl", q, k, dtype=dtype)[..., None],
  ]
  weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1)
  ends = (trunk.shape[-1], weights.shape[-1] - 1)
  on_trunk, on_branch, on_itself = jnp.split(weights, ends, axis=-1)
  mixed = dot("bjglt,btjd->bljgd", on_trunk, past.trunk_v, dtype=dtype)
  mixed += dot("bjglm,blmjd->bljgd", on_branch, past.own_v, dtype=dtype)
  mixed += dot("bjgl,bljd->bljgd", on_itself[..., 0], v, dtype=dtype)
  return mixed.reshape(rows, length, heads, size)
