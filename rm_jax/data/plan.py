"""The packing plan: which groups make a train step, and where each lies.

A pure function of (lengths, seed, geometry); the number of hosts and devices
never enters. Order is grain's: shuffled anew every epoch, random access.
"""

import itertools
from typing import NamedTuple

import grain
import numpy as np

from rm_jax.data.pack import Geometry, Piece, Place
from rm_jax.types import UserError

MOST_ROW_COUNTS = 3  # compiled train steps of a run
PATIENCE = 8  # groups that may miss before a step of fixed rows is closed


class Step(NamedTuple):
  """One batch: its groups in sampler order and where each piece lies."""

  places: tuple  # of Place
  rows: int  # R per block, one of the plan's row counts


class Plan(NamedTuple):
  """All batches of a run and the capacities that hold for each of them."""

  steps: tuple  # of Step
  geometry: Geometry
  row_counts: tuple  # at most MOST_ROW_COUNTS


class Demand(NamedTuple):
  """What one group asks of a block; one entry per group of the data set."""

  pieces: tuple  # of Piece
  slots: tuple  # per piece
  comparisons: int
  ranked: int  # K if the group is listed, else 0
  completions: int


def demand(group, pieces: tuple[Piece, ...]) -> Demand:
  """Counts of a tokenised group that the planner needs: no tokens."""
  slots = tuple(
    sum(len(group.slots[b.completion]) for b in p.branches)
    + (len(group.slots[p.holds]) if p.holds >= 0 else 0)
    for p in pieces
  )
  return Demand(
    pieces, slots, len(group.comparisons), len(group.ranks), len(group.tokens)
  )


class Part(NamedTuple):
  """A run of neighbouring groups that are drawn with one weight."""

  first: int
  count: int
  weight: float


def sampler(parts: list[Part], *, seed: int, shuffle: bool):
  """Group index at position i of an endless stream, an epoch at a time.

  Several parts are mixed: in every stretch of the stream each has its share of
  the weights, whatever its size, and each goes through epochs of its own.
  """

  def one(number, part):
    order = grain.MapDataset.range(part.first, part.first + part.count)
    if shuffle:
      order = order.seed(seed + number).shuffle()
    return order.repeat()

  orders = [one(n, part) for n, part in enumerate(parts)]
  if len(parts) == 1:
    return orders[0]
  return grain.MapDataset.mix(orders, [part.weight for part in parts])


def _place(demands, group_ids, blocks, rows, row_len, align, layout):
  """Places for these groups in `blocks` x `rows`, or None if they don't fit.

  Longest group first, into the emptiest block that takes it; pieces go to the
  fullest row with room. A padded row holds one completion.
  """
  free = np.full((blocks, rows), row_len)
  found = {}
  totals = [sum(p.columns(align) for p in demands[i].pieces) for i in group_ids]
  for position in sorted(range(len(group_ids)), key=lambda j: -totals[j]):
    pieces = demands[group_ids[position]].pieces
    for block in np.argsort(-free.sum(axis=1), kind="stable"):
      taken = _fit(free[block], pieces, row_len, align, layout)
      if taken is not None:
        left, at_rows, at_columns = taken
        free[block] = left
        found[position] = Place(
          int(group_ids[position]), int(block), at_rows, at_columns
        )
        break
    else:
      return None
  return tuple(found[j] for j in range(len(group_ids)))


def _fit(free, pieces, row_len, align, layout):
  """Best fit of one group's pieces into one block's rows, or None."""
  if layout == "padded":
    empty = np.flatnonzero(free == row_len)[: len(pieces)]
    if len(empty) < len(pieces):
      return None
    free = free.copy()
    free[empty] = 0
    return free, tuple(empty.tolist()), (0,) * len(pieces)
  at = [None] * len(pieces)
  sizes = [p.columns(align) for p in pieces]
  # Most blocks that cannot take a group are found here, without a search.
  if max(sizes) > free.max() or sum(sizes) > free.sum():
    return None
  free = free.copy()
  for j in sorted(range(len(pieces)), key=lambda j: -sizes[j]):
    need = sizes[j]
    room = np.where(free >= need, free, row_len + 1)
    row = int(np.argmin(room))
    if room[row] > row_len:
      return None
    at[j] = (row, int(row_len - free[row]))
    free[row] -= need
  return free, tuple(r for r, _ in at), tuple(c for _, c in at)


def _group_steps(
  demands, order, num_steps, size, blocks, row_len, align, layout
):
  """Every step exactly `size` groups, in the fewest rows that take them."""
  steps = []
  for step in range(num_steps):
    ids = [order[step * size + j] for j in range(size)]
    columns = sum(p.columns(align) for i in ids for p in demands[i].pieces)
    rows = max(1, -(-columns // (blocks * row_len)))
    if layout == "padded":
      count = sum(len(demands[i].pieces) for i in ids)
      rows = max(1, -(-count // blocks))
    while True:
      places = _place(demands, ids, blocks, rows, row_len, align, layout)
      if places is not None:
        break
      rows += 1
    steps.append(Step(places, rows))
  return steps


def _stream_steps(
  demands, stream, num_steps, rows, blocks, row_len, align, layout
):
  """Steps of exactly `rows` x `blocks` rows, as many groups as fit in each.

  A group that does not fit waits and comes first in the next step, so at most
  PATIENCE groups wait; after as many misses a step is closed. Ends after
  `num_steps`, or with the stream.
  """
  steps, waiting = [], []
  while num_steps is None or len(steps) < num_steps:
    free = np.full((blocks, rows), row_len)
    places, missed, queue = [], [], waiting
    while len(missed) < PATIENCE:
      group = queue.pop(0) if queue else next(stream, None)
      if group is None:
        break
      for block in np.argsort(-free.sum(axis=1), kind="stable"):
        taken = _fit(free[block], demands[group].pieces, row_len, align, layout)
        if taken is not None:
          left, at_rows, at_columns = taken
          free[block] = left
          places.append(Place(int(group), int(block), at_rows, at_columns))
          break
      else:
        missed.append(group)
    if not places:
      break
    waiting = missed + queue
    steps.append(Step(tuple(places), rows))
  return steps


def _rows_needed(need: Demand, row_len, align, layout) -> int:
  """The fewest rows of one block that take this group alone."""
  sizes = [p.columns(align) for p in need.pieces]
  longest = max(sizes)
  if longest > row_len:  # else the search below would not end
    raise UserError(
      f"a completion takes {longest} columns at config.data.align={align}, a "
      f"row has {row_len}. Raise config.data.row_len."
    )
  if layout == "padded":
    return len(need.pieces)
  shape = (need.pieces, row_len, align, layout)
  rows = -(-sum(sizes) // row_len)  # no fewer will do
  while _fit(np.full(rows, row_len), *shape) is None:
    rows += 1
  return rows


def _row_counts(needed: np.ndarray) -> tuple[int, ...]:
  """At most three row counts that waste the fewest rows over the plan."""
  values, counts = np.unique(needed, return_counts=True)
  if len(values) <= MOST_ROW_COUNTS:
    return tuple(int(v) for v in values)
  best = None
  for low in range(len(values) - 2):
    for middle in range(low + 1, len(values) - 1):
      cost = (
        counts[: low + 1].sum() * values[low]
        + counts[low + 1 : middle + 1].sum() * values[middle]
        + counts[middle + 1 :].sum() * values[-1]
      )
      if best is None or cost < best[0]:
        best = (cost, values[low], values[middle], values[-1])
  return tuple(int(v) for v in best[1:])


def make_plan(
  demands: list[Demand],
  *,
  parts: list[Part] | None = None,
  num_steps: int,
  batch: str,
  groups_per_batch: int,
  rows_per_batch: int,
  blocks: int,
  row_len: int,
  layout: str,
  align: int,
  seed: int,
  shuffle: bool,
) -> Plan:
  """The whole run's packing plan.

  Args:
    demands: one per group of the data set.
    parts: runs of groups and how often they are drawn; None: all alike.
    batch: "groups" (exactly `groups_per_batch` groups a step, whatever the
      layout) or "rows" (exactly `rows_per_batch` rows, as many groups as fit).
    blocks: N; batches are cut over devices and micro-batches by block.

  Raises:
    UserError: no groups, or a batch that cannot be cut into the blocks.
  """
  if not demands:
    raise UserError(
      "the data set has no usable group: see rejects.jsonl in the workdir"
    )
  tall = [_rows_needed(d, row_len, align, layout) for d in demands]
  parts = parts or [Part(0, len(demands), 1.0)]
  order = sampler(parts, seed=seed, shuffle=shuffle)
  shape = dict(blocks=blocks, row_len=row_len, align=align, layout=layout)
  if batch == "groups":
    steps = _group_steps(
      demands, order, num_steps, size=groups_per_batch, **shape
    )
    row_counts = _row_counts(np.array([s.rows for s in steps]))
  else:
    if rows_per_batch % blocks:
      raise UserError(
        f"config.data.rows_per_batch={rows_per_batch} does not split over "
        f"config.data.blocks={blocks} (remainder {rows_per_batch % blocks})."
      )
    rows = rows_per_batch // blocks
    if max(tall) > rows:
      raise UserError(
        f"group {int(np.argmax(tall))} takes {max(tall)} rows of {row_len}, a "
        f"block has {rows}. Raise config.data.rows_per_batch or "
        "config.data.row_len, or lower config.data.blocks."
      )
    stream = (order[i] for i in itertools.count())
    steps = _stream_steps(demands, stream, num_steps, rows=rows, **shape)
    row_counts = (rows,)
  steps = tuple(
    s._replace(rows=min(r for r in row_counts if r >= s.rows)) for s in steps
  )
  geometry = _capacities(steps, demands, blocks, row_len, align)
  return Plan(steps, geometry, row_counts)


def _capacities(steps, demands, blocks, row_len, align):
  """The smallest geometry that every step fits."""
  slots = comparisons = groups = group_size = completions = 1
  for step in steps:
    row_slots = [[0] * step.rows for _ in range(blocks)]
    compared, listed, held = [0] * blocks, [0] * blocks, [0] * blocks
    for place in step.places:
      need = demands[place.group]
      for row, count in zip(place.rows, need.slots, strict=True):
        row_slots[place.block][row] += count
      compared[place.block] += need.comparisons
      listed[place.block] += bool(need.ranked)
      held[place.block] += need.completions
      group_size = max(group_size, need.ranked)
    slots = max(slots, *map(max, row_slots))
    comparisons = max(comparisons, *compared)
    groups = max(groups, *listed)
    completions = max(completions, *held)
  return Geometry(
    row_len=row_len,
    blocks=blocks,
    slots=int(slots),
    comparisons=int(comparisons),
    groups=int(groups),
    group_size=int(group_size),
    completions=int(completions),
    align=align,
  )


def make_eval_plan(
  demands: list[Demand],
  *,
  blocks: int,
  rows: int,
  row_len: int,
  layout: str,
  align: int,
) -> Plan:
  """A plan that visits every group exactly once: evaluation and scoring.

  One shape: `blocks` x `rows` rows, or as many as the largest group takes.
  """
  tallest = max(
    (_rows_needed(d, row_len, align, layout) for d in demands), default=1
  )
  rows = max(rows, tallest)
  steps = tuple(
    _stream_steps(
      demands,
      iter(range(len(demands))),
      None,
      rows=rows,
      blocks=blocks,
      row_len=row_len,
      align=align,
      layout=layout,
    )
  )
  geometry = _capacities(steps, demands, blocks, row_len, align)
  # Powers of two: a server that scores request by request compiles few shapes.
  names = ("slots", "comparisons", "groups", "group_size", "completions")
  rounded = {
    name: 1 << (getattr(geometry, name) - 1).bit_length() for name in names
  }
  return Plan(steps, geometry._replace(**rounded), (rows,))
