"""The lm design of Cobbe et al.: who picks what, of solutions made by hand."""

import pathlib

import numpy as np
import pytest

from rm_jax.ablation.design import load_file

ROOT = pathlib.Path(__file__).parents[2]
LM = load_file(ROOT / "experiments/cobbe2021_verifiers/lm.py")


def row(*solved):
  """A published row: four (end of the solution, right)."""
  names = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_ver")
  return {"question": "Q?", "ground_truth": "A: 7"} | {
    name: {"solution": text, "is_correct": right}
    for name, (text, right) in zip(names, solved, strict=True)
  }


RIGHT, WRONG = ("It is 7.\nA: 7", True), ("It is 8.\nA: 8", False)
LONG = ("It is, after all of this, 9.\nA: 9", False)
TRAIN = LM.side(
  [row(WRONG, RIGHT, LONG, RIGHT), row(WRONG, WRONG, LONG, RIGHT)]
)
TEST = LM.side(
  [
    row(RIGHT, WRONG, LONG, RIGHT),  # one of the two right ones each
    row(WRONG, WRONG, LONG, RIGHT),
    row(WRONG, WRONG, LONG, WRONG),
  ]
)
HELD = LM.Data(TRAIN, TEST, None)


def test_a_row_is_what_a_run_reads():
  assert TRAIN.rows[0] == {
    "prompt": "Q?",
    "completions": [WRONG[0], RIGHT[0], LONG[0], RIGHT[0]],
    "labels": [0, 1, 0, 1],
  }
  assert TEST.right.sum(1).tolist() == [2, 1, 0]
  assert TEST.lengths[0].tolist() == [
    len(t) for t in TEST.rows[0]["completions"]
  ]


def test_an_answer_is_the_last_line_without_commas_or_nobodys():
  assert LM.answer("1,000 * 2\nA: 2,000\n", 0) == "2000"
  # Two that end nowhere do not agree with each other.
  assert LM.answer("and then", 1) != LM.answer("and then", 2)


def test_chance_is_the_share_of_right_solutions_at_every_n():
  found = LM.by_chance(HELD)
  for n in (1, 2, 3, 4):
    assert found[f"test_{n}"] == pytest.approx((2 + 1 + 0) / 12)
  assert found["pair_accuracy"] == found["outcome_auc"] == 0.5


def test_the_best_that_can_be_picked():
  found = LM.by_truth(HELD)
  # One of two with two right of four: 1 - C(2, 2) / C(4, 2) = 5/6; one right:
  # 1/2. Of three: 1 and 3/4.
  assert found["test_2"] == pytest.approx((5 / 6 + 1 / 2 + 0) / 3)
  assert found["test_3"] == pytest.approx((1 + 3 / 4 + 0) / 3)
  assert found["test_4"] == pytest.approx(2 / 3)


def test_the_strongest_system_of_training_is_picked_where_it_is():
  # Training: 0, 1/2, 0, 1 right. The fourth of four, in the test 2 of 3 right.
  found = LM.by_system(HELD)
  assert found["test_4"] == pytest.approx(2 / 3)
  # Of three: three subsets of four hold the fourth; the other picks the second,
  # which is wrong in all.
  assert found["test_3"] == pytest.approx((3 / 4 + 3 / 4 + 0) / 3)


def test_length_has_the_sign_of_training():
  # Training: the longest is always wrong, so the shortest; three share it.
  found = LM.by_length(HELD)
  assert found["test_4"] == pytest.approx((2 / 3 + 1 / 3 + 0) / 3)
  turned = LM.Data(
    LM.side([row(WRONG, WRONG, (LONG[0], True), WRONG)]), TEST, None
  )
  assert LM.by_length(turned)["test_4"] == 0.0


def test_a_vote_shares_ties():
  # 7, 8, 9, 7: 7. 8, 8, 9, 7: 8. 8, 8, 9, 8: 8.
  found = LM.by_vote(HELD)
  assert found["test_4"] == pytest.approx(1 / 3)
  # Of two each wins half of a tie: as chance.
  for n in (1, 2):
    assert found[f"test_{n}"] == pytest.approx(3 / 12)


def test_a_verifier_is_judged_on_the_problems_it_scored():
  # The first problem was too long for a row.
  scores = np.asarray([[-1.0, 2.0, -1.0, 1.0], [-3.0, -1.0, -2.0, 0.0]])
  found = LM.judged(scores, TEST, [1, 2])
  assert (
    found["test_4"] == 0.0
  )  # the second is picked, wrong, then none is right
  assert found["label_accuracy"] == pytest.approx((3 + 3.5) / 8)
  assert found["larger_class"] == 7 / 8
  assert found["pair_accuracy"] == pytest.approx(2 / 3)
  # 8: sigmoid(-1) + sigmoid(2) = 1.15 over 7: sigmoid(1) = 0.73.
  assert found["weighted_vote"] == 0.0
  scores[0] = -1.0, 0.0, -1.0, 8.0  # 8: 0.27 + 0.5 below 7: 1.00
  assert LM.judged(scores, TEST, [1, 2])["weighted_vote"] == 0.5


def test_no_problem_is_on_both_sides(rm_data):
  for seed in (0, 100):
    own = LM.data(
      seed, **{k: LM.DESIGN["sizes"]["whole"][k] for k in ("problems", "test")}
    )
    train, test = (
      {r["prompt"] for r in side.rows} for side in (own.train, own.test)
    )
    assert len(train) == 184 and len(test) == 150 and not train & test
    # Its chance is the share of right ones, which is 37.5 % of all 4,000.
    assert own.test.right.mean() == pytest.approx(0.375, abs=0.06)
    assert LM.by_system(own)["test_4"] > 0.45 > LM.by_chance(own)["test_4"]
