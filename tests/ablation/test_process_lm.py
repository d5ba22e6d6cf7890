"""The lm design of Lightman et al.: what is taught, and scores of no model."""

import pathlib
import types

import numpy as np
import pytest

from rm_jax.ablation.design import load_file

ROOT = pathlib.Path(__file__).parents[2]
LM = load_file(ROOT / "experiments/lightman2023_prm/lm.py")


def pair(original, modified, errors=()):
  """A PRMBench item: the steps of both, which of the modified are wrong."""
  from rm_jax.ablation.step_benchmarks import Item

  right = [np.ones(len(original), bool), np.ones(len(modified), bool)]
  right[1][list(errors)] = False
  steps = [list(original), list(modified)]
  return Item("Q?", dict(prompt="Q?", completions=steps), steps, right=right)


def judged():
  from rm_jax.ablation.step_benchmarks import judged_item

  return judged_item("P?", ["bb", "", "dddd"], 1)


def held(train, *items):
  return LM.Data(train, types.SimpleNamespace(items=list(items)), None)


@pytest.mark.parametrize(
  "arm, modified", [("prm", [1, 0, 1]), ("orm", [0, 0, 0])]
)
def test_one_arm_learns_steps_and_the_other_their_solution(arm, modified):
  # Catches: an outcome at the last step alone, a pair with one outcome.
  item = pair(["a", "b"], ["a", "c", "d"], errors=[1])
  before = dict(item.row)
  assert LM.taught(item, arm) == {
    "prompt": "Q?",
    "completions": [["a", "b"], ["a", "c", "d"]],
    "labels": [[1, 1], modified],
  }
  assert item.row == before  # other arms read it
  whole = pair(["a"], ["a", "b"])
  assert LM.taught(whole, arm)["labels"] == [[1], [1, 1]]


@pytest.mark.parametrize("arm", LM.MODELS)
def test_a_first_error_speaks_for_itself(arm):
  assert LM.taught(judged(), arm) == {
    "prompt": "P?",
    "completions": [["bb", "", "dddd"]],
    "first_error": [1],
  }


def as_lists(scores):
  return [[own.tolist() for own in item] for item in scores]


def test_the_earlier_step_is_the_higher():
  own = held([], pair(["a", "b"], ["a", "b", "c"]), judged())
  assert as_lists(LM.by_place(own)) == [[[0, -1], [0, -1, -2]], [[0, -1, -2]]]


def test_where_no_step_is_wrong_all_are_alike_and_above_a_half():
  # Logits: 1 is a probability of 0.73, a 0 would be at the threshold.
  own = held([], pair(["a", "b"], ["a", "b", "c"]), judged())
  assert as_lists(LM.by_nothing(own)) == [[[1, 1], [1, 1, 1]], [[1, 1, 1]]]


def test_length_has_the_sign_of_the_modified_solutions_of_training():
  # Catches: lengths of the originals, where all steps are right; a sign of the
  # test's own labels; words counted where letters are meant.
  test = (pair(["a a", "b"], ["cccc", "d"], errors=[0]), judged())
  lengths = [[[3, 1], [4, 1]], [[2, 0, 4]]]
  # Right steps of 5 and 3 letters, a wrong one of 1: longer is right.
  longer = [pair(["a" * 9], ["a" * 5, "b", "c" * 3], errors=[1])]
  assert as_lists(LM.by_length(held(longer, *test))) == lengths
  # Wrong ones of 8 and 9 beside a right one of 2: of two solutions together the
  # right 5, 3, 2 are above the wrong 1, 8, 9 in 3 pairs of 9.
  shorter = [*longer, pair(["a"], ["x" * 8, "y" * 9, "zz"], errors=[0, 1])]
  assert as_lists(LM.by_length(held(shorter, *test))) == [
    [[-length for length in own] for own in item] for item in lengths
  ]


def test_as_often_longer_as_shorter_is_longer():
  train = [pair(["a"], ["bb", "cc"], errors=[0])]  # equal lengths: 1/2
  assert as_lists(LM.by_length(held(train, judged()))) == [[[2, 0, 4]]]


def test_random_scores_have_the_places_of_the_steps_and_no_two_are_equal():
  test = held([], pair(["a", "b"], ["a", "b", "c"]), judged()).test
  got = LM.random_scores(np.random.default_rng(0), test)
  shapes = {i: [own.shape for own in item] for i, item in got.items()}
  assert shapes == {0: [(2,), (3,)], 1: [(3,)]}
  flat = np.concatenate([own for item in got.values() for own in item])
  assert len(set(flat.tolist())) == 8


def test_random_probabilities_are_uniform():
  # Their logits are above log(p / (1 - p)) in a share 1 - p of draws: 4,000 of
  # them within four standard errors. Catches: normal scores.
  count = 4_000
  test = held([], pair(["a"] * (count // 2), ["a"] * (count // 2))).test
  got = LM.random_scores(np.random.default_rng(1), test)
  flat = np.concatenate(got[0])
  for p in (0.05, 0.25, 0.5, 0.9):
    share = (flat > np.log(p / (1 - p))).mean()
    assert abs(share - (1 - p)) < 4 * np.sqrt(p * (1 - p) / count)
