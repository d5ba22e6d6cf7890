"""Who sees whom in packed rows: one rule, by token and by block of tokens."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

# Tokens in a block of a row. On long rows of short branches 64 took less time
# than 128 and 256, on rows of 512 about as much (a busy machine, one run;
# bench/attention.py measures it).
BLOCK = 64
EVERYTHING = 1 << 30  # a window that hides nothing


class Forest(NamedTuple):
  """Where every token of B packed rows stands in its tree; int32 [B, L]."""

  group_ids: Int[Array, "B L"]
  branch_ids: Int[Array, "B L"]
  positions: Int[Array, "B L"]
  fork_positions: Int[Array, "B L"]


class Sight(NamedTuple):
  """What attention has to compute: the same for all layers of one window.

  Rows of one block have a mask. Longer rows, padded to a whole number of
  blocks, have a list of key blocks for every query block: the first `counts`
  entries of `order` are those with a pair of tokens that see each other.
  """

  forest: Forest
  window: Int[Array, ""]
  mask: Bool[Array, "B L L"] | None
  order: Int[Array, "B N N"] | None
  counts: Int[Array, "B N"] | None


def sees(query: Forest, key: Forest, window) -> Bool[Array, "..."]:
  """True where a query sees a key; the two broadcast against each other.

      same group and position_k <= position_q
      and (branch_k == branch_q or (branch_k == 0 and position_k < fork_q))
      and position_q - position_k < window

  A branch sees itself and the trunk below its fork; it never sees a sibling.
  Positions continue from the fork, so a window means the same in every layout.
  """
  on_path = (key.branch_ids == query.branch_ids) | (
    (key.branch_ids == 0) & (key.positions < query.fork_positions)
  )
  return (
    (key.group_ids == query.group_ids)
    & (key.positions <= query.positions)
    & on_path
    & (query.positions - key.positions < window)
  )


def visible(forest: Forest, *, window: int) -> Bool[Array, "B L L"]:
  """True where query (second axis) sees key (third axis); window 0: all."""
  query = jax.tree.map(lambda x: x[:, :, None], forest)
  key = jax.tree.map(lambda x: x[:, None, :], forest)
  return sees(query, key, window or EVERYTHING)


def see(forest: Forest, *, window: int, block: int = 0) -> Sight:
  """The sight of packed rows.

  Args:
    window: a token sees so many positions, itself included; 0: all.
    block: tokens in a block; 0: BLOCK.
  """
  block = block or BLOCK
  limit = jnp.int32(window or EVERYTHING)
  length = forest.positions.shape[1]
  if length <= block:
    mask = visible(forest, window=window)
    return Sight(forest, limit, mask, None, None)
  # Padding is group 0, whose blocks nobody computes.
  forest = jax.tree.map(
    lambda x: jnp.pad(x, ((0, 0), (0, -length % block))), forest
  )

  def blocks_seen(row):  # one row at a time: L x L pairs, a byte each at most
    query = jax.tree.map(lambda x: x.reshape(-1, block, 1, 1), row)
    key = jax.tree.map(lambda x: x.reshape(1, 1, -1, block), row)
    pairs = sees(query, key, limit) & (query.group_ids > 0)
    return pairs.any(axis=(1, 3))

  seen = jax.lax.map(blocks_seen, forest)
  order = jnp.argsort(~seen, axis=-1, stable=True).astype(jnp.int32)
  return Sight(forest, limit, None, order, seen.sum(-1, dtype=jnp.int32))
