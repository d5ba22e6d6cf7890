"""Which row of a file of hidden states belongs to which token.

A hidden state of a layer that does not train depends on the token and on those
before it on its path, so it is the same in every layout, row and epoch. Each
token of a group's tree has one row: the trunk's first, then every completion's
own tokens.
"""

from typing import Any, NamedTuple

import numpy as np

from rm_jax.data.pack import Geometry, grow, piece_columns
from rm_jax.types import TokenizedGroup

ENDLESS = 1 << 40  # columns of a row that takes any tree whole


class States(NamedTuple):
  """Hidden states of every token of a data set, group after group."""

  states: Any  # float32 [T, D], mostly a file mapped into memory
  firsts: np.ndarray  # int64 [groups + 1]: first row of each group, then T


def tree_rows(group: TokenizedGroup) -> list[np.ndarray]:
  """Per completion the row, within its group, of each of its tokens."""
  (tree,) = _whole(group)
  rows = dict(piece_columns(tree, 0, 1))
  return [rows[k] for k in range(len(group.tokens))]


def count_rows(group: TokenizedGroup) -> int:
  """Tokens of the group's tree, what completions share counted once."""
  (tree,) = _whole(group)
  return tree.useful()


def _whole(group):
  return grow(group, layout="shared", row_len=ENDLESS, align=1)


def first_rows(groups) -> np.ndarray:
  """int64 [groups + 1]: where the rows of each group begin, then the end."""
  counts = [count_rows(groups[i]) for i in range(len(groups))]
  return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def batch_rows(
  groups: list[TokenizedGroup],
  pieces: list[tuple],
  places: list,
  firsts: np.ndarray,
  *,
  rows: int,
  geometry: Geometry,
) -> np.ndarray:
  """Row of each token of a batch, int64 [N, R, L]; -1 where there is none.

  Args:
    groups, pieces, places, rows, geometry: as `lay` takes them.
    firsts: of `first_rows`, over the data set that `places` counts in.
  """
  g = geometry
  out = np.full((g.blocks, rows, g.row_len), -1, np.int64)
  for group, parts, place in zip(groups, pieces, places, strict=True):
    first, mine = firsts[place.group], tree_rows(group)
    for piece, row, column in zip(
      parts, place.rows, place.columns, strict=True
    ):
      for k, columns in piece_columns(piece, column, g.align):
        out[place.block, row, columns] = first + mine[k]
  return out


def read_states(states, rows: np.ndarray) -> np.ndarray:
  """float32 [..., D] of rows [...]; 0 where the row is -1."""
  out = np.zeros((*rows.shape, states.shape[-1]), np.float32)
  out[rows >= 0] = states[rows[rows >= 0]]
  return out
