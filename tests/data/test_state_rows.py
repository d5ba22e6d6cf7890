"""Which row of a file of states is whose: by hand, and in every layout.

Catches: rows that depend on where the packer put a piece, a trunk counted once
per completion, a row that two tokens share, padding that reads somebody's.
"""

import forests
import numpy as np
import pytest

from rm_jax.data.loader import Reading, lay_step, with_demands
from rm_jax.data.plan import make_eval_plan
from rm_jax.data.state_rows import States, count_rows, first_rows, tree_rows


def groups():
  made = forests.ragged_groups()
  return [*made, forests.forked_group(record=len(made))]


def test_rows_of_a_group_by_hand():
  # Trunk 3 4 5 in rows 0 to 2, then the tokens of each completion.
  g = forests.group([[3, 4, 5, 9, 8], [3, 4, 5, 7], [3, 4, 5, 6]], [3] * 3)
  assert [r.tolist() for r in tree_rows(g)] == [
    [0, 1, 2, 3, 4],
    [0, 1, 2, 5],
    [0, 1, 2, 6],
  ]
  assert count_rows(g) == 7
  # A step tree: completion 1 is the trunk, the other leaves it after 2 tokens.
  tree = forests.group([[3, 4, 8, 9], [3, 4, 5, 6]], [2] * 2, trunk=1)
  assert [r.tolist() for r in tree_rows(tree)] == [[0, 1, 4, 5], [0, 1, 2, 3]]
  alone = forests.group([[5, 6, 7]], [1])
  assert [r.tolist() for r in tree_rows(alone)] == [[0, 1, 2]]
  assert first_rows([g, tree, alone]).tolist() == [0, 7, 13, 16]


@pytest.mark.parametrize("align", [1, 4])
@pytest.mark.parametrize("layout", ["padded", "packed", "shared"])
def test_every_layout_reads_the_same_states(layout, align):
  # The state of a token is its path, written in one number: what a decoder
  # gives is a function of it. Rows of 24: trees are split, trunks copied.
  made = groups()
  firsts = first_rows(made)

  def state(path):
    return hash(tuple(int(t) for t in path)) % 9973 + 1.0

  states = np.zeros((int(firsts[-1]), 1), np.float32)
  for n, g in enumerate(made):
    for rows, tokens in zip(tree_rows(g), g.tokens, strict=True):
      for t, row in enumerate(rows):
        states[firsts[n] + row] = state(tokens[: t + 1])
  assert np.all(states > 0), "a row that no token has"
  reading = Reading("auto", "end_of_turn", 24, "drop", layout, align, "mean")
  data = with_demands(made, reading, [], {}, [])._replace(
    states=States(states, firsts)
  )
  plan = make_eval_plan(
    data.demands, blocks=2, rows=2, row_len=24, layout=layout, align=align
  )
  seen = 0
  for step in range(len(plan.steps)):
    batch, _, counts = lay_step(data, plan, step)
    for n, r, column in np.argwhere(batch.group_ids > 0):
      path, at = [], column
      while at >= 0:
        path.append(batch.tokens[n, r, at])
        at = batch.parents[n, r, at]
      assert batch.hidden[n, r, column, 0] == state(path[::-1])
    assert not batch.hidden[batch.group_ids == 0].any()
    seen += counts["useful_tokens"]
    # Each of two hosts reads its own block.
    for block in range(2):
      mine, _, _ = lay_step(data, plan, step, blocks=[block])
      np.testing.assert_array_equal(mine.hidden, batch.hidden[[block]])
  assert seen >= len(states)
