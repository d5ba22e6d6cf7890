"""Tokenised groups to rows of fixed shape: trees, pieces, blocks.

A group becomes a tree (a trunk and branches that fork from it), a tree one or
more pieces that each fit a row, and `lay` writes pieces into the arrays of a
`Batch`. Where each piece goes is decided in `plan.py` from lengths alone.
"""

from typing import NamedTuple

import numpy as np

from rm_jax.types import Batch, TokenizedGroup, UserError

LAYOUTS = ("padded", "packed", "shared")


class Branch(NamedTuple):
  """A completion's own tokens: those from `fork` on of its tokenisation."""

  completion: int
  fork: int  # trunk tokens below it that it sees
  length: int  # own tokens, at least 1


class Piece(NamedTuple):
  """A part of a tree that lies in one row: a trunk prefix and branches."""

  source: int  # completion whose first tokens are the trunk
  trunk: int  # number of trunk tokens
  holds: int  # completion whose last token is on the trunk, -1 for none
  branches: tuple  # of Branch

  def columns(self, align: int) -> int:
    """Columns that the piece takes, alignment included."""
    used = -(-self.trunk // align) * align
    return used + sum(-(-b.length // align) * align for b in self.branches)

  def useful(self) -> int:
    """Tokens in it."""
    return self.trunk + sum(b.length for b in self.branches)


class Geometry(NamedTuple):
  """Capacities of every batch of a run: what jit compiles for."""

  row_len: int  # L
  blocks: int  # N
  slots: int  # S per row
  comparisons: int  # C per block
  groups: int  # G per block
  group_size: int  # K
  completions: int  # M per block
  align: int


class Place(NamedTuple):
  """Where one group of a batch lies: its block, then row and column a piece."""

  group: int  # index into the data set
  block: int
  rows: tuple
  columns: tuple


def common_prefix(a: np.ndarray, b: np.ndarray) -> int:
  """Number of leading tokens that are equal."""
  n = min(len(a), len(b))
  differ = np.flatnonzero(a[:n] != b[:n])
  return int(differ[0]) if len(differ) else n


def grow(
  group: TokenizedGroup, *, layout: str, row_len: int, align: int
) -> tuple[Piece, ...]:
  """The pieces of a group: one whole tree if it fits a row of `row_len`.

  shared: completions fork from the longest common prefix (or from completion
  `group.trunk`), each with at least one token of its own. packed and padded:
  every completion is a tree of its own. A tree longer than a row is split over
  pieces, each with its own copy of the trunk; the scores are the same.

  Raises:
    UserError: one completion with its prompt is longer than a row; a row is
      not a multiple of `align`.
  """
  if row_len % align:
    raise UserError(
      f"config.data.row_len={row_len} is not a multiple of config.data.align="
      f"{align} (remainder {row_len % align}): branches start at multiples of "
      "it. Change one of them."
    )
  tokens = group.tokens
  longest = max(map(len, tokens))
  if longest > row_len:
    raise UserError(
      f"record {group.record}: prompt and completion take {longest} tokens, a "
      f"row holds {row_len}. Raise config.data.row_len or set "
      "config.data.overlong to drop or cut_prompt."
    )
  alone = layout != "shared" or len(tokens) == 1
  if alone:
    return tuple(Piece(k, len(t), k, ()) for k, t in enumerate(tokens))
  if group.trunk < 0:
    source, holds = 0, -1
    shared = min(common_prefix(tokens[0], t) for t in tokens)
    trunk = min(shared, min(map(len, tokens)) - 1) // align * align
    forks = [trunk] * len(tokens)
  else:
    source = holds = group.trunk
    trunk = len(tokens[source])
    forks = [
      min(common_prefix(tokens[source], t), len(t) - 1) // align * align
      for t in tokens
    ]
  branches = [
    Branch(k, forks[k], len(t) - forks[k])
    for k, t in enumerate(tokens)
    if k != holds
  ]
  whole = Piece(source, trunk, holds, tuple(branches))
  if whole.columns(align) <= row_len:
    return (whole,)
  return _split(whole, row_len, align)


def _split(whole, row_len, align):
  """First-fit, longest branch first, over pieces with their own trunk copy."""
  pieces = [whole._replace(branches=())] if whole.holds >= 0 else []
  for branch in sorted(whole.branches, key=lambda b: -b.length):
    for i, piece in enumerate(pieces):
      grown = piece._replace(
        trunk=max(piece.trunk, branch.fork),
        branches=(*piece.branches, branch),
      )
      if grown.columns(align) <= row_len:
        pieces[i] = grown
        break
    else:
      # Fits: forks and rows are multiples of `align`, so it takes no more
      # columns than the completion laid alone.
      pieces.append(Piece(whole.source, branch.fork, -1, (branch,)))
  return tuple(pieces)


def empty_batch(geometry: Geometry, rows: int) -> Batch:
  """A batch of padding only: group 0, weight 0, `where` False."""
  g = geometry
  n = g.blocks

  def ints(*shape, fill=0):
    return np.full(shape, fill, np.int32)

  def floats(*shape):
    return np.zeros(shape, np.float32)

  def bools(*shape):
    return np.zeros(shape, bool)

  line, slot = (n, rows, g.row_len), (n, rows, g.slots)
  listwise = (n, g.groups, g.group_size)
  return Batch(
    tokens=ints(*line),
    group_ids=ints(*line),
    branch_ids=ints(*line),
    positions=ints(*line),
    fork_positions=ints(*line),
    parents=ints(*line, fill=-1),
    score_positions=ints(*slot),
    score_where=bools(*slot),
    score_output=ints(*slot),
    slot_completion=ints(*slot),
    labels=floats(*slot),
    weight=floats(*slot),
    language_weight=floats(*slot),
    chosen_index=ints(n, g.comparisons),
    rejected_index=ints(n, g.comparisons),
    margin=floats(n, g.comparisons),
    preference=floats(n, g.comparisons),
    comparison_weight=floats(n, g.comparisons),
    group_index=ints(*listwise),
    ranks=ints(*listwise),
    where=bools(*listwise),
    group_weight=floats(n, g.groups),
    completion_index=ints(n, g.completions),
    completion_where=bools(n, g.completions),
    completion_task=ints(n, g.completions),
  )


class Owners(NamedTuple):
  """Whose score stands where in a batch; -1 where nobody's. Host side only."""

  group: np.ndarray  # int32 [N, M]: index into the data set
  completion: np.ndarray  # int32 [N, M]


def find_owners(
  sizes: list[int], places: list[Place], geometry: Geometry
) -> Owners:
  """Where `lay` puts the scores of groups of these many completions."""
  shape = (geometry.blocks, geometry.completions)
  owners = Owners(np.full(shape, -1, np.int32), np.full(shape, -1, np.int32))
  used = np.zeros(geometry.blocks, np.int32)
  for size, place in zip(sizes, places, strict=True):
    mine = used[place.block] + np.arange(size)
    used[place.block] += size
    owners.group[place.block, mine] = place.group
    owners.completion[place.block, mine] = np.arange(size)
  return owners


def lay(
  groups: list[TokenizedGroup],
  pieces: list[tuple[Piece, ...]],
  places: list[Place],
  *,
  rows: int,
  geometry: Geometry,
) -> tuple[Batch, Owners]:
  """Groups written into the arrays of one batch, and whose is what.

  Args:
    groups, pieces, places: one entry per group of the batch, in its order.
    rows: R, rows per block of this batch.
  """
  g = geometry
  batch = empty_batch(g, rows)
  owners = find_owners([len(x.tokens) for x in groups], places, g)
  trees = np.zeros((g.blocks, rows), np.int32)  # used so far, per row
  slots = np.zeros((g.blocks, rows), np.int32)
  comparisons, listed, completions = np.zeros((3, g.blocks), np.int32)
  for group, parts, place in zip(groups, pieces, places, strict=True):
    n = place.block
    first = completions[n]
    completions[n] += len(group.tokens)
    reads = np.zeros(len(group.tokens), np.int32)  # flat slot of each score
    for piece, row, column in zip(
      parts, place.rows, place.columns, strict=True
    ):
      trees[n, row] += 1
      line = (n, row)
      for k, path in _lay_piece(
        batch, group, piece, line, column, trees[line], g.align
      ):
        at = slots[line] + np.arange(len(group.slots[k]))
        slots[line] += len(at)
        batch.score_positions[n, row, at] = path[group.slots[k]]
        batch.score_where[n, row, at] = True
        batch.score_output[n, row, at] = group.outputs[k]
        batch.slot_completion[n, row, at] = first + k
        batch.labels[n, row, at] = group.labels[k]
        batch.weight[n, row, at] = group.weights[k]
        batch.language_weight[n, row, at] = group.language_weights[k]
        reads[k] = row * g.slots + at[group.reads[k]]
    mine = first + np.arange(len(reads))
    batch.completion_index[n, mine] = reads
    batch.completion_where[n, mine] = True
    batch.completion_task[n, mine] = group.task
    if len(group.comparisons):
      c = comparisons[n] + np.arange(len(group.comparisons))
      comparisons[n] += len(c)
      batch.chosen_index[n, c] = reads[group.comparisons[:, 0]]
      batch.rejected_index[n, c] = reads[group.comparisons[:, 1]]
      batch.margin[n, c] = group.margins
      batch.preference[n, c] = group.preferences
      batch.comparison_weight[n, c] = group.comparison_weights
    if len(group.ranks):
      e, k = listed[n], len(group.ranks)
      listed[n] += 1
      batch.group_index[n, e, :k] = reads
      batch.ranks[n, e, :k] = group.ranks
      batch.where[n, e, :k] = True
      batch.group_weight[n, e] = group.weight
  return batch, owners


def piece_columns(piece: Piece, column: int, align: int) -> list:
  """(completion, column of each of its tokens) of a piece that begins there."""
  trunk = column + np.arange(piece.trunk)
  paths = [(piece.holds, trunk)] if piece.holds >= 0 else []
  start = column + -(-piece.trunk // align) * align
  for k, fork, length in piece.branches:
    own = start + np.arange(length)
    paths.append((k, np.concatenate([trunk[:fork], own])))
    start += -(-length // align) * align
  return paths


def _lay_piece(batch, group, piece, line, column, tree, align):
  """Writes one piece; returns its `piece_columns`."""

  def write(columns, tokens, branch, first, fork, parent):
    count = len(columns)
    at = (*line, columns)
    batch.tokens[at] = tokens
    batch.group_ids[at] = tree
    batch.branch_ids[at] = branch
    batch.positions[at] = first + np.arange(count)
    batch.fork_positions[at] = fork
    batch.parents[at] = np.concatenate([[parent], columns[:-1]])

  trunk = column + np.arange(piece.trunk)
  if piece.trunk:
    write(trunk, group.tokens[piece.source][: piece.trunk], 0, 0, 0, -1)
  paths = piece_columns(piece, column, align)
  own = paths[-len(piece.branches) :] if piece.branches else []
  forked = zip(piece.branches, own, strict=True)
  for branch, ((k, fork, _), (_, path)) in enumerate(forked, start=1):
    parent = trunk[fork - 1] if fork else -1
    write(path[fork:], group.tokens[k][fork:], branch, fork, fork, parent)
  return paths
