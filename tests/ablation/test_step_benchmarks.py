"""Benchmarks of steps: items as published, measures of scores made by hand."""

import math

import numpy as np
import pytest

from rm_jax.ablation import step_benchmarks as steps
from rm_jax.step_errors import prm_score

PRM = {
  "original_question": "Q?",
  "modified_question": "Q?",
  "original_process": ["One.", "Two.", "Three."],
  "modified_process": ["Step 1: One.", "Step 2: Too.", "Thus 3. Done."],
  "error_steps": [2],
}


def test_a_pair_of_prmbench_has_one_prompt_and_no_numbers_before_its_steps():
  item = steps.prmbench_item(PRM)
  assert item.row == {
    "prompt": "Q?",
    "completions": [
      ["One.", "Two.", "Three."],
      ["One.", "Too.", "Thus 3. Done."],
    ],
  }
  assert [own.tolist() for own in item.right] == [
    [True, True, True],
    [True, False, True],
  ]


@pytest.mark.parametrize(
  "change",
  [
    {"modified_question": "Another?"},
    {"error_steps": [2, 4]},
    {"error_steps": [0]},
    {"modified_process": ["One.", "Step 2: ", "Three."]},
  ],
)
def test_a_row_that_is_no_pair_is_left_out(change):
  assert steps.prmbench_item(PRM | change) is None


def test_first_errors_count_from_0_whatever_the_file_does():
  own = ["a", "b", "c"]
  found = [
    steps.processbench_item({"problem": "p", "steps": own, "label": -1}),
    steps.mr_gsm8k_item(
      {
        "question": "p",
        "model_output_steps": own,
        "model_output_solution_first_error_step": 2,
      }
    ),
    steps.mistake_item({"input": "p", "steps": own, "mistake_index": None}),
    steps.mistake_item({"input": "p", "steps": own, "mistake_index": 0}),
  ]
  assert [item.first_error for item in found] == [-1, 1, -1, 0]
  assert found[1].row == {
    "prompt": "p",
    "completions": [own],
    "first_error": [1],
  }


def test_a_draw_has_every_problem_once():
  # The same problem with other spaces and capitals is the same.
  items = [
    steps.judged_item(problem, [f"{n}"], -1)
    for n, problem in enumerate(["What is 1?", "what  is 1?", "And 2?", "3?"])
  ]
  drawn = steps.draw(np.random.default_rng(0), items, 4)
  assert len(drawn) == 3
  picked = [
    steps.draw(np.random.default_rng(n), items, 1)[0].row["completions"][0][0]
    for n in range(40)
  ]
  assert set(picked) == {"0", "1", "2", "3"}


def pair(original, modified, right):
  """A PRMBench pair as (scores, right)."""
  return (
    [np.asarray(original, float), np.asarray(modified, float)],
    [np.ones(len(original), bool), np.asarray(right, bool)],
  )


def test_pairs_are_measured_step_by_step_and_solution_by_solution():
  pairs = [
    pair([1, 2], [3, -1, 2], [1, 0, 1]),  # both right ones above the wrong one
    pair([1, 0], [-2, 5, 1], [1, 0, 0]),  # the right one below both
  ]
  found = steps.of_pairs(pairs, by="last", logits=True)
  assert found["step_order"] == (1 + 0) / 2
  # Right 3, 2, -2 over wrong -1, 5, 1: 2, 2, 0 of three each.
  assert found["step_auc"] == pytest.approx(4 / 9)
  assert found["solution_order"] == (0.5 + 0) / 2  # 2 = 2, 0 < 1
  valid = np.asarray([3, -1, 2, -2, 5, 1]) > 0
  right = np.asarray([1, 0, 1, 1, 0, 0], bool)
  assert found["prm_score"] == prm_score(valid, right).score
  assert "prm_score" not in steps.of_pairs(pairs, by="last", logits=False)


def test_a_solution_is_the_product_of_probabilities_or_what_is_asked():
  scores = np.log([1.0, 3.0])  # probabilities 1/2 and 3/4
  assert steps.solution_score(scores, by="log_product") == pytest.approx(
    math.log(3 / 8)
  )
  assert steps.solution_score(scores, by="last") == scores[1]
  assert steps.solution_score(scores, by="mean") == scores.mean()


def test_a_half_gets_the_threshold_of_the_other_half():
  # Solution 0 is parted at 0, solution 1 at 10; each gets the other's: 0 of the
  # one are above 10, all of the other above 0.
  scores = [np.asarray([-1.0, 1.0]), np.asarray([9.0, 11.0])]
  right = [np.asarray([False, True])] * 2
  want = prm_score(
    np.asarray([False, False, True, True]),
    np.asarray([False, True, False, True]),
  )
  assert steps.chosen_prm_score(scores, right) == max(want.score, 0.0)
  # The same scale in both: everything is found.
  assert steps.chosen_prm_score([scores[0]] * 2, right) == 1.0


def measured(without=(), **scores):
  """Two pairs and judged solutions; scores of the latter by benchmark.

  Args:
    without: (benchmark, which of its own) that were not scored.
  """
  ones = {"right": [np.ones(1, bool), np.asarray([True, False])]}
  pairs = [steps.Item("p", {}, [["a"], ["a", "b"]], **ones) for _ in range(2)]

  def judged(*errors):
    return [steps.judged_item("q", ["a", "b", "c"], e) for e in errors]

  held = steps.held_of(
    {
      "prmbench": pairs,
      "processbench_gsm8k": judged(-1, 1),
      "processbench_math": judged(-1, 0, 2),
      "mr_gsm8k": judged(1, 2),
      "mistake/one": judged(-1),
      "mistake/two": judged(0, 1),
    }
  )
  given = {n: [np.ones(1), np.asarray([1.0, -1.0])] for n in (0, 1)}
  for name, own in scores.items():
    for place, row in zip(held.places[name], own, strict=True):
      given[place] = [np.asarray(row, float)]
  for name, n in without:
    del given[held.places[name][n]]
  return steps.measures(given, held, by="last", logits=True)


SCORES = {
  "processbench_gsm8k": [[8, 6, 7], [9, 2, 9]],  # best: 4, between 2 and 6
  # Nothing is below 4: right. Step 0 is: right. Step 1, not 2: wrong.
  "processbench_math": [[5, 5, 5], [3, 9, 9], [5, 3, 3]],
  "mr_gsm8k": [[9, 3, 0], [9, 9, 9]],  # found; not found
  "mistake/one": [[5, 5, 5]],  # none, as it is
  "mistake/two": [[3, 9, 9], [9, 9, 3]],  # found; one step too late
}


def test_the_threshold_of_gsm8k_is_that_of_all_first_errors():
  found = measured(**SCORES)
  assert found["processbench_gsm8k"] == 1.0
  assert found["processbench_math"] == pytest.approx(2 * 1 * 0.5 / 1.5)
  assert found["mr_gsm8k"] == 0.5
  assert found["mistake"] == (1 + 1 / 2) / 2  # mean of tasks, not of solutions


def test_a_probability_is_also_held_against_one_half():
  # Logits: 1/2 is 0. None of GSM8K is below; the best threshold there is 4.
  # MATH: right stays right; step 0 is found; step 1 instead of 2.
  math = [[0, 1, 2], [-3, 9, 9], [5, -3, -3]]
  found = measured(**SCORES | {"processbench_math": math})
  assert found["processbench_gsm8k"] == 1.0
  assert found["processbench_gsm8k_half"] == 0.0
  assert found["processbench_math_half"] == pytest.approx(2 * 1 * 0.5 / 1.5)
  assert found["processbench_math"] == 0.0  # the right one has a step below 4


def test_what_was_left_out_is_not_measured():
  # Wrong: scores that move up into the place of what is missing.
  found = measured(
    without=[("processbench_math", 2), ("mr_gsm8k", 0), ("mistake/two", 1)],
    **SCORES,
  )
  assert found["processbench_math"] == 1.0
  assert found["mr_gsm8k"] == 0.0 and found["mistake"] == 1.0
