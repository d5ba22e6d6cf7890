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

  Arrays are written once, for all groups together: one by one, short rows would
  take as long as their train step.

  Args:
    groups, pieces, places: one entry per group of the batch, in its order.
    rows: R, rows per block of this batch.

  Raises:
    ValueError: something does not fit the geometry.
  """
  g = geometry
  batch = empty_batch(g, rows)
  owners = find_owners([len(x.tokens) for x in groups], places, g)
  if not groups:  # of one of several hosts
    return batch, owners
  trees = [[0] * rows for _ in range(g.blocks)]  # used so far, per row
  slots = [[0] * rows for _ in range(g.blocks)]
  used = [0] * g.blocks  # completions
  firsts, runs, tokens, reads = [], [], [], []
  for group, parts, place in zip(groups, pieces, places, strict=True):
    n, first = place.block, used[place.block]
    firsts.append(first)
    used[n] += len(group.tokens)
    for piece, row, column in zip(
      parts, place.rows, place.columns, strict=True
    ):
      trees[n][row] += 1
      for run, own in _runs(piece, group, column, g.align):
        runs.append((n, row, trees[n][row], *run))
        tokens.append(own)
      for k, fork, start in _branches(piece, column, g.align):
        reads.append(
          (group, k, n, row, slots[n][row], column, fork, start, first + k)
        )
        slots[n][row] += len(group.slots[k])
  _write_tokens(batch, runs, tokens)
  _write_slots(batch, reads)
  blocks = [place.block for place in places]
  for block, first, group in zip(blocks, firsts, groups, strict=True):
    mine = slice(first, first + len(group.tokens))
    batch.completion_where[block, mine] = True
    batch.completion_task[block, mine] = group.task
  _write_comparisons(batch, groups, blocks, firsts)
  _write_ranks(batch, groups, blocks, firsts)
  return batch, owners


def piece_columns(piece: Piece, column: int, align: int) -> list:
  """(completion, column of each of its tokens) of a piece that begins there."""
  trunk = column + np.arange(piece.trunk)
  own = {b.completion: np.arange(b.length) for b in piece.branches}
  own[piece.holds] = np.arange(0)
  return [
    (k, np.concatenate([trunk[:fork], start + own[k]]))
    for k, fork, start in _branches(piece, column, align)
  ]


def _branches(piece: Piece, column: int, align: int):
  """(completion, tokens of it on the trunk, column of its next) in order."""
  if piece.holds >= 0:
    yield piece.holds, piece.trunk, 0
  start = column + -(-piece.trunk // align) * align
  for k, fork, length in piece.branches:
    yield k, fork, start
    start += -(-length // align) * align


def _runs(piece: Piece, group: TokenizedGroup, column: int, align: int):
  """Neighbouring columns of one branch, and the tokens that go there.

  ((branch, first column, first position, fork, parent of the first), tokens)
  """
  if piece.trunk:
    yield (0, column, 0, 0, -1), group.tokens[piece.source][: piece.trunk]
  own = [b for b in _branches(piece, column, align) if b[0] != piece.holds]
  for branch, (k, fork, start) in enumerate(own, start=1):
    parent = column + fork - 1 if fork else -1
    yield (branch, start, fork, fork, parent), group.tokens[k][fork:]


def _spread(counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
  """[0, 0, 1, 1, 1], [0, 1, 0, 1, 2] of counts [2, 3]."""
  counts = np.asarray(counts, np.int64)
  whose = np.repeat(np.arange(len(counts)), counts)
  return whose, np.arange(len(whose)) - (np.cumsum(counts) - counts)[whose]


def _write(array: np.ndarray, at: tuple, values) -> None:
  """array[at] = values, but ValueError where `at` is beyond the array."""
  array.reshape(-1)[np.ravel_multi_index(at, array.shape)] = values


def _write_tokens(batch: Batch, runs: list, tokens: list) -> None:
  whose, along = _spread([len(t) for t in tokens])
  n, row, tree, branch, start, first, fork, parent = (
    np.asarray(runs, np.int64).reshape(-1, 8)[whose].T
  )
  column = start + along
  at = np.ravel_multi_index((n, row, column), batch.tokens.shape)
  for array, values in (
    (batch.tokens, np.concatenate(tokens)),
    (batch.group_ids, tree),
    (batch.branch_ids, branch),
    (batch.positions, first + along),
    (batch.fork_positions, fork),
    (batch.parents, np.where(along == 0, parent, column - 1)),
  ):
    array.reshape(-1)[at] = values


def _write_slots(batch: Batch, reads: list) -> None:
  """Slots, and in `completion_index` the one that carries each score."""
  places = np.asarray([r[2:] for r in reads], np.int64).reshape(-1, 7)

  def every(name):
    return [getattr(group, name)[k] for group, k, *_ in reads]

  token = every("slots")
  whose, along = _spread([len(t) for t in token])
  n, row, before, column, fork, start, mine = places[whose].T
  token = np.concatenate(token)
  at = np.ravel_multi_index(
    (n, row, before + along), batch.score_positions.shape
  )
  for array, values in (
    (
      batch.score_positions,
      np.where(token < fork, column + token, start + token - fork),
    ),
    (batch.score_where, True),
    (batch.score_output, np.concatenate(every("outputs"))),
    (batch.slot_completion, mine),
    (batch.labels, np.concatenate(every("labels"))),
    (batch.weight, np.concatenate(every("weights"))),
    (batch.language_weight, np.concatenate(every("language_weights"))),
  ):
    array.reshape(-1)[at] = values
  n, row, before, *_, mine = places.T
  carries = row * batch.score_positions.shape[-1] + before + every("reads")
  _write(batch.completion_index, (n, mine), carries)


def _write_comparisons(batch, groups, blocks, firsts) -> None:
  whose, _ = _spread([len(group.comparisons) for group in groups])
  if not len(whose):
    return
  n, first = np.asarray(blocks)[whose], np.asarray(firsts)[whose]
  at = (n, _counted(n))
  sides = (
    np.concatenate([group.comparisons for group in groups]) + first[:, None]
  )
  _write(batch.chosen_index, at, batch.completion_index[n, sides[:, 0]])
  _write(batch.rejected_index, at, batch.completion_index[n, sides[:, 1]])
  for name, own in (
    ("margin", "margins"),
    ("preference", "preferences"),
    ("comparison_weight", "comparison_weights"),
  ):
    told = np.concatenate([getattr(group, own) for group in groups])
    _write(getattr(batch, name), at, told)


def _write_ranks(batch, groups, blocks, firsts) -> None:
  listed = [i for i, group in enumerate(groups) if len(group.ranks)]
  if not listed:
    return
  ranks = [groups[i].ranks for i in listed]
  n, first = np.asarray(blocks)[listed], np.asarray(firsts)[listed]
  e = _counted(n)
  _write(batch.group_weight, (n, e), [groups[i].weight for i in listed])
  whose, k = _spread([len(r) for r in ranks])
  at = (n[whose], e[whose], k)
  reads = batch.completion_index[n[whose], first[whose] + k]
  _write(batch.group_index, at, reads)
  _write(batch.ranks, at, np.concatenate(ranks))
  _write(batch.where, at, True)


def _counted(blocks: np.ndarray) -> np.ndarray:
  """How many equal entries came before each."""
  count = np.zeros(len(blocks), np.int64)
  for block in np.unique(blocks):
    same = blocks == block
    count[same] = np.arange(same.sum())
  return count
