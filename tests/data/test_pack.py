"""Whole rows by hand, and the walk along `parents` for any forest.

Catches: a token laid twice or not at all, positions that do not continue from
the fork, a parent one column to the left instead of on the own path, a trunk
copy that is too short for its branch, slots merged where completions share a
token, a sibling in sight.
"""

import forests
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rm_jax.data.pack import LAYOUTS, Branch, Geometry, Piece, Place, grow, lay
from rm_jax.models.sight import Forest, visible
from rm_jax.types import UserError

FIELDS = (
  "tokens",
  "group_ids",
  "branch_ids",
  "positions",
  "fork_positions",
  "parents",
)


def rows_of(group, *, row_len, layout="shared", align=1, column=0, row=0):
  """{field: rows of the one block}, and the slots, of one group."""
  pieces = grow(group, layout=layout, row_len=row_len, align=align)
  count = len(pieces)
  geometry = Geometry(row_len, 1, 12, 12, 1, 8, 8, align)
  place = Place(0, 0, tuple(range(row, row + count)), (column,) * count)
  batch, owners = lay(
    [group], [pieces], [place], rows=row + count, geometry=geometry
  )
  return batch, owners, {f: getattr(batch, f)[0].tolist() for f in FIELDS}


def slots_of(batch, row=0):
  """(column, completion) of every real slot of a row, in order."""
  where = batch.score_where[0, row]
  return list(
    zip(
      batch.score_positions[0, row][where].tolist(),
      batch.slot_completion[0, row][where].tolist(),
      strict=True,
    )
  )


def test_three_completions_share_a_prefix():
  # 5 6 7 are in all three: the trunk; the prompt ends before the 7.
  g = forests.group([[5, 6, 7, 8], [5, 6, 7, 9, 10], [5, 6, 7, 11]], [2] * 3)
  batch, owners, rows = rows_of(g, row_len=9, column=1)
  assert rows == {
    "tokens": [[0, 5, 6, 7, 8, 9, 10, 11, 0]],
    "group_ids": [[0, 1, 1, 1, 1, 1, 1, 1, 0]],
    "branch_ids": [[0, 0, 0, 0, 1, 2, 2, 3, 0]],
    "positions": [[0, 0, 1, 2, 3, 3, 4, 3, 0]],
    "fork_positions": [[0, 0, 0, 0, 3, 3, 3, 3, 0]],
    "parents": [[-1, -1, 1, 2, 3, 3, 5, 3, -1]],
  }
  assert slots_of(batch) == [(4, 0), (6, 1), (7, 2)]
  assert batch.completion_index[0, :3].tolist() == [0, 1, 2]
  # K=3: ranks 0 1 2 and all three ordered pairs, a third of the weight each.
  assert batch.chosen_index[0, :3].tolist() == [0, 0, 1]
  assert batch.rejected_index[0, :3].tolist() == [1, 2, 2]
  np.testing.assert_allclose(batch.comparison_weight[0, :4], [1 / 3] * 3 + [0])
  assert batch.group_index[0, 0, :3].tolist() == [0, 1, 2]
  assert batch.where[0, 0].tolist() == [True] * 3 + [False] * 5
  assert owners.completion[0, :4].tolist() == [0, 1, 2, -1]


def test_identical_completions_keep_one_token_each():
  g = forests.group([[5, 6, 7], [5, 6, 7]], [1] * 2)
  _, _, rows = rows_of(g, row_len=4)
  assert rows["tokens"] == [[5, 6, 7, 7]]
  assert rows["branch_ids"] == [[0, 0, 1, 2]]
  assert rows["positions"] == [[0, 1, 2, 2]]
  assert rows["parents"] == [[-1, 0, 1, 1]]


def test_a_completion_that_is_a_prefix_of_another():
  # The shorter one keeps its last token, so the trunk ends before it: a branch
  # of length 1 beside one that repeats that token.
  g = forests.group([[5, 6, 7], [5, 6, 7, 8, 9]], [1] * 2)
  batch, _, rows = rows_of(g, row_len=6)
  assert rows["tokens"] == [[5, 6, 7, 7, 8, 9]]
  assert rows["branch_ids"] == [[0, 0, 1, 2, 2, 2]]
  assert rows["positions"] == [[0, 1, 2, 2, 3, 4]]
  assert rows["parents"] == [[-1, 0, 1, 1, 3, 4]]
  assert slots_of(batch) == [(2, 0), (5, 1)]


def test_one_completion_is_all_trunk():
  g = forests.group([[5, 6, 7]], [1], pooling="every_token")
  batch, _, rows = rows_of(g, row_len=4)
  assert rows["branch_ids"] == [[0, 0, 0, 0]]
  assert rows["fork_positions"] == [[0, 0, 0, 0]]
  assert rows["parents"] == [[-1, 0, 1, -1]]
  assert rows["group_ids"] == [[1, 1, 1, 0]]
  assert slots_of(batch) == [(1, 0), (2, 0)]


def tree():
  """Completion 0 is the trunk; 1 and 2 leave it at depths 2 and 4."""
  return forests.group(
    [[5, 6, 7, 8, 9], [5, 6, 10], [5, 6, 7, 8, 11, 12]],
    [1] * 3,
    trunk=0,
    pooling="every_token",
  )


def test_a_tree_with_forks_and_slots_on_shared_tokens():
  batch, _, rows = rows_of(tree(), row_len=8)
  assert rows == {
    "tokens": [[5, 6, 7, 8, 9, 10, 11, 12]],
    "group_ids": [[1] * 8],
    "branch_ids": [[0, 0, 0, 0, 0, 1, 2, 2]],
    "positions": [[0, 1, 2, 3, 4, 2, 4, 5]],
    "fork_positions": [[0, 0, 0, 0, 0, 2, 4, 4]],
    "parents": [[-1, 0, 1, 2, 3, 1, 3, 6]],
  }
  # Token 6 (column 1) is supervised for all three completions: three slots.
  assert slots_of(batch) == [
    *[(c, 0) for c in (1, 2, 3, 4)],
    *[(c, 1) for c in (1, 5)],
    *[(c, 2) for c in (1, 2, 3, 6, 7)],
  ]
  assert batch.completion_index[0, :3].tolist() == [3, 5, 10]


def test_a_tree_split_over_rows_has_a_trunk_copy_in_each():
  # 8 columns do not fit 6: completion 2 takes a copy of its own four.
  batch, _, rows = rows_of(tree(), row_len=6)
  assert rows["tokens"] == [[5, 6, 7, 8, 9, 10], [5, 6, 7, 8, 11, 12]]
  assert rows["branch_ids"] == [[0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 1]]
  assert rows["fork_positions"] == [[0, 0, 0, 0, 0, 2], [0, 0, 0, 0, 4, 4]]
  assert rows["parents"] == [[-1, 0, 1, 2, 3, 1], [-1, 0, 1, 2, 3, 4]]
  assert slots_of(batch, 1) == [(c, 2) for c in (1, 2, 3, 4, 5)]
  # Flat index: row * S + slot, S = 12.
  assert batch.completion_index[0, :3].tolist() == [3, 5, 12 + 4]


def test_a_split_piece_grows_its_trunk_for_a_deeper_fork():
  # Neither branch fits beside the trunk of 12. The longer one opens a row with
  # one trunk token; the other leaves at 3, so that row needs three.
  main = list(range(11, 23))
  a, b = [31, 32, 33, 34, 35, 36], [41, 42, 43]
  g = forests.group([main, [*main[:1], *a], [*main[:3], *b]], [1] * 3, trunk=0)
  batch, _, rows = rows_of(g, row_len=13)
  assert rows["tokens"] == [[*main, 0], [*main[:3], *a, *b, 0]]
  assert rows["branch_ids"][1] == [0] * 3 + [1] * 6 + [2] * 3 + [0]
  assert rows["fork_positions"][1] == [0] * 3 + [1] * 6 + [3] * 3 + [0]
  assert rows["parents"][1] == [-1, 0, 1, 0, 3, 4, 5, 6, 7, 2, 9, 10, -1]
  assert rows["positions"][1] == [0, 1, 2, 1, 2, 3, 4, 5, 6, 3, 4, 5, 0]
  assert slots_of(batch, 1) == [(8, 1), (11, 2)]


def test_align_4_starts_at_multiples_and_rounds_forks_down():
  # The common prefix is 6 long: the trunk keeps 4 of it, each branch repeats 2.
  shared = [5, 6, 7, 8, 9, 10]
  g = forests.group([[*shared, 11], [*shared, 12, 13, 14]], [6] * 2)
  batch, _, rows = rows_of(g, row_len=16, align=4)
  assert rows == {
    "tokens": [[5, 6, 7, 8, 9, 10, 11, 0, 9, 10, 12, 13, 14, 0, 0, 0]],
    "group_ids": [[1] * 7 + [0] + [1] * 5 + [0] * 3],
    "branch_ids": [[0] * 4 + [1] * 3 + [0] + [2] * 5 + [0] * 3],
    "positions": [[0, 1, 2, 3, 4, 5, 6, 0, 4, 5, 6, 7, 8, 0, 0, 0]],
    "fork_positions": [[0] * 4 + [4] * 3 + [0] + [4] * 5 + [0] * 3],
    "parents": [[-1, 0, 1, 2, 3, 4, 5, -1, 3, 8, 9, 10, 11, -1, -1, -1]],
  }
  assert slots_of(batch) == [(6, 0), (12, 1)]


def test_nothing_shared_forks_at_0():
  g = forests.group([[5, 6], [7, 8, 9]], [1] * 2)
  assert grow(g, layout="shared", row_len=8, align=1) == (
    Piece(0, 0, -1, (Branch(0, 0, 2), Branch(1, 0, 3))),
  )
  _, _, rows = rows_of(g, row_len=6)
  assert rows["tokens"] == [[5, 6, 7, 8, 9, 0]]
  assert rows["branch_ids"] == [[1, 1, 2, 2, 2, 0]]
  assert rows["parents"] == [[-1, 0, -1, 2, 3, -1]]
  assert rows["positions"] == [[0, 1, 0, 1, 2, 0]]


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_unshared_layouts_make_a_tree_of_every_completion(layout):
  g = forests.group([[5, 6, 7], [5, 6, 8]], [2] * 2)
  _, _, rows = rows_of(g, row_len=4, layout=layout)
  assert rows["tokens"] == [[5, 6, 7, 0], [5, 6, 8, 0]]
  assert rows["branch_ids"] == [[0] * 4] * 2


def test_what_no_row_can_hold_is_refused():
  g = forests.group([[1] * 9, [1] * 3], [1] * 2)
  with pytest.raises(UserError, match=r"record 0: .* 9 tokens, a row holds 8"):
    grow(g, layout="shared", row_len=8, align=1)
  with pytest.raises(UserError, match=r"row_len=10 is not a multiple .*=4"):
    grow(g, layout="shared", row_len=10, align=4)


# ---------------------------------------------------------------- any forest


@st.composite
def token_groups(draw):
  """Few distinct tokens and short tails: prefixes collide all the time."""
  token = st.integers(1, 3)
  prompt = draw(st.lists(token, min_size=1, max_size=6))
  tails = draw(
    st.lists(st.lists(token, min_size=1, max_size=7), min_size=1, max_size=5)
  )
  trunk = draw(st.integers(-1, len(tails) - 1))
  return forests.group(
    [prompt + t for t in tails],
    [len(prompt)] * len(tails),
    trunk=trunk,
    pooling=draw(st.sampled_from(["last_token", "every_token", "mean"])),
  )


@settings(max_examples=80, deadline=None)
@given(
  st.lists(token_groups(), min_size=1, max_size=4),
  st.sampled_from(LAYOUTS),
  st.sampled_from([(13, 1), (24, 1), (16, 4), (16, 2), (18, 3)]),
  st.integers(1, 3),
)
def test_walking_parents_gives_back_every_completion(
  groups, layout, size, blocks
):
  row_len, align = size
  groups = [g._replace(record=i) for i, g in enumerate(groups)]
  ((batch, owners),) = forests.batches(
    groups, layout=layout, row_len=row_len, blocks=blocks, align=align
  )[0]
  _, rows, slots = batch.score_positions.shape
  seen = np.zeros(batch.tokens.shape, int)  # by how many completions
  found = {}
  for n in range(blocks):
    # Of numpy: jax would compile for every number of rows that is drawn.
    forest = Forest(
      batch.group_ids[n],
      batch.branch_ids[n],
      batch.positions[n],
      batch.fork_positions[n],
    )
    sees = visible(forest, window=0)
    for row in range(rows):
      for slot in np.flatnonzero(batch.score_where[n, row]):
        m = batch.slot_completion[n, row, slot]
        group, k = owners.group[n, m], owners.completion[n, m]
        path, column = [], int(batch.score_positions[n, row, slot])
        while column >= 0:
          path.insert(0, column)
          column = int(batch.parents[n, row, column])
        token = len(path) - 1
        tokens = groups[group].tokens[k]
        assert (
          batch.tokens[n, row, path].tolist() == tokens[: len(path)].tolist()
        )
        assert batch.positions[n, row, path].tolist() == list(range(len(path)))
        assert len(set(batch.group_ids[n, row, path])) == 1
        assert np.flatnonzero(sees[row, path[-1]]).tolist() == sorted(path)
        found.setdefault((group, k), []).append((token, row * slots + slot))
        seen[n, row, path] = 1
  for i, g in enumerate(groups):
    for k, want in enumerate(g.slots):
      assert [token for token, _ in found[i, k]] == want.tolist()
  # Every laid token is on some completion's path up to its last slot (the last
  # token), and each completion's own tokens are laid once.
  assert (seen == (batch.group_ids > 0)).all()
  real = batch.group_ids > 0
  assert (batch.tokens[~real] == 0).all() and (batch.parents[~real] == -1).all()
  for ours, theirs in (
    (batch.weight, [w for g in groups for w in g.weights]),
    (batch.comparison_weight, [g.comparison_weights for g in groups]),
    (batch.group_weight, [[g.weight] for g in groups]),
  ):
    np.testing.assert_allclose(
      ours.sum(), sum(map(np.sum, theirs)), rtol=1e-5, atol=1e-7
    )
  # What the losses index is the score of the completion they mean.
  for n, m in np.argwhere(owners.group >= 0):
    group, k = owners.group[n, m], owners.completion[n, m]
    flat = batch.completion_index[n, m]
    assert found[group, k][groups[group].reads[k]][1] == flat
  starts = np.argwhere(real & (batch.parents == -1))
  assert (starts[:, 2] % align == 0).all()


def count_tokens(layout):
  groups = forests.ragged_groups()
  return sum(
    p.useful()
    for g in groups
    for p in grow(g, layout=layout, row_len=96, align=1)
  )


def test_every_token_is_laid_once_and_only_sharing_saves():
  groups = forests.ragged_groups()
  every = sum(len(t) for g in groups for t in g.tokens)
  assert count_tokens("packed") == count_tokens("padded") == every
  saved = 0
  for g in groups[1:]:  # K > 1
    shared = min(
      next(
        (
          i
          for i, (a, b) in enumerate(zip(g.tokens[0], t, strict=False))
          if a != b
        ),
        min(len(g.tokens[0]), len(t)),
      )
      for t in g.tokens
    )
    shared = min(shared, min(len(t) for t in g.tokens) - 1)
    saved += shared * (len(g.tokens) - 1)
  assert count_tokens("shared") == every - saved


def test_what_does_not_fit_the_geometry_is_an_error():
  # Wrong: the end of one row written into the beginning of the next.
  group = forests.group([[5, 6, 7]], [1], pooling="every_token")
  rows_of(group, row_len=4, column=1)
  with pytest.raises(ValueError, match="invalid entry in coordinates array"):
    rows_of(group, row_len=4, column=2)
