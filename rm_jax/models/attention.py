"""Softmax attention over packed rows, and over the past of next tokens."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from rm_jax.kernels.splash import Codes, attend_codes
from rm_jax.models.blocks import HIDDEN, How, attend_blocks
from rm_jax.models.dots import KEPT, dot
from rm_jax.models.sight import Forest, Sight


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


def soften(x: Float[Array, "..."], cap: float) -> Float[Array, "..."]:
  """cap * tanh(x / cap): nearly x well within the cap, never beyond."""
  return cap * jnp.tanh(x / cap)


def attend(
  q: Float[Array, "B L H d"],
  k: Float[Array, "B L J d"],
  v: Float[Array, "B L J d"],
  sight: Sight | Codes,
  *,
  dtype,
  scale: float = 0.0,
  soft_cap: float = 0.0,
) -> Float[Array, "B L H d"]:
  """Softmax attention to what each token sees; softmax in float32.

  H query heads share J key heads in runs of H / J (grouped-query attention).
  Rows of several blocks compute only blocks that some query sees, on a mesh
  each device its own rows and heads.

  Args:
    sight: of `see`, or of `see_codes` for the kernel of TPUs.
    scale: of the scores; 0: 1 / sqrt(d).
    soft_cap: scores become soft_cap * tanh(score / soft_cap); 0: they stay.
  """
  how = How(
    scale or 1 / math.sqrt(q.shape[-1]), soft_cap, jnp.dtype(dtype).name
  )
  by_kernel = isinstance(sight, Codes)
  if not by_kernel and sight.mask is not None:
    return _attend_dense(q, k, v, sight.mask, how)
  run = attend_codes if by_kernel else attend_blocks
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return run(q, k, v, sight, how)
  # A loop over rows that are cut over devices would fetch every one of them.
  rows, tensor = row_axes(mesh, len(q)), mesh.shape.get("tensor", 1)
  heads = "tensor" if tensor > 1 and k.shape[2] % tensor == 0 else None
  line, alone = PartitionSpec(rows, None, heads), PartitionSpec()
  seen = jax.tree.map(lambda x: PartitionSpec(rows) if x.ndim else alone, sight)
  return jax.shard_map(
    functools.partial(run, how=how),
    mesh=mesh,
    in_specs=(line, line, line, seen),
    out_specs=line,
    check_vma=False,
  )(q, k, v, sight)


def row_axes(mesh, rows: int) -> tuple[str, ...] | None:
  """Mesh axes over which so many rows are cut; None: they do not divide."""
  over = tuple(a for a in ("data", "fsdp") if a in mesh.axis_names)
  parts = math.prod(mesh.shape[a] for a in over)
  return over if over and rows % parts == 0 else None


def _attend_dense(q, k, v, mask, how):
  """Every pair of tokens computed: rows of one block."""
  rows, length, heads, size = q.shape
  kv_heads = k.shape[2]
  q = q.reshape(rows, length, kv_heads, heads // kv_heads, size)
  scores = dot("bljgd,bmjd->bjglm", q * how.scale, k, dtype=how.dtype)
  scores = checkpoint_name(scores, KEPT)
  if how.soft_cap:
    scores = soften(scores, how.soft_cap)
  scores = jnp.where(mask[:, None, None], scores, HIDDEN)
  mixed = dot("bjglm,bmjd->bljgd", softmax(scores), v, dtype=how.dtype)
  mixed = checkpoint_name(mixed, KEPT)
  return mixed.reshape(rows, length, heads, size)


@jax.custom_vjp
def softmax(x: Float[Array, "*B M"]) -> Float[Array, "*B M"]:
  """exp(x) over its sum along the last axis, as jax.nn.softmax.

  Its gradient is y (g - sum(g y)), from the result alone. That of jax goes
  through the quotient, which XLA:CPU computes an element at a time: a fifth of
  the train step of short rows.
  """
  exp = jnp.exp(x - x.max(-1, keepdims=True))
  return exp / exp.sum(-1, keepdims=True)


def _softmax_forward(x):
  y = softmax(x)
  return y, y


def _softmax_backward(y, g):
  return (y * (g - (g * y).sum(-1, keepdims=True)),)


softmax.defvjp(_softmax_forward, _softmax_backward)


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
  scale: float = 0.0,
  soft_cap: float = 0.0,
) -> tuple[Float[Array, "B L H d"], Array, Array]:
  """Softmax attention of one token per branch to its past and to itself.

  Equals `attend` over trunk, branches and tokens laid out as one row. Also
  returns the branches' keys and values with those of the tokens.
  """
  rows, length, heads, size = q.shape
  kv_heads = k.shape[2]
  runs = heads // kv_heads
  product = functools.partial(dot, dtype=dtype)
  q = q.reshape(rows, length, kv_heads, runs, size)
  q = q * (scale or 1 / math.sqrt(size))

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
  if soft_cap:
    on_trunk, on_branch = (soften(x, soft_cap) for x in (on_trunk, on_branch))
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
