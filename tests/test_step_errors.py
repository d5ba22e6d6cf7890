"""Places of mistakes: against loops, and PRMBench's check values."""

import numpy as np
import pytest
from ragged_steps import own_steps, ragged

from rm_jax import step_errors, step_scores
from rm_jax.metrics import first_error_f1
from rm_jax.types import UserError


def loop_first_error(row, threshold):
  for n, score in enumerate(row):
    if score < threshold:
      return n
  return -1


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.1])
def test_the_first_error_is_the_first_step_below(threshold):
  # Scores are rounded: some stand exactly at the threshold, and are right.
  scores, where = ragged()
  got = step_errors.first_error(scores, where, threshold=threshold)
  want = [loop_first_error(row, threshold) for row in own_steps(scores, where)]
  assert got.tolist() == want


def test_the_best_threshold_beats_every_other():
  scores, where = ragged(3, count=30)
  gold = np.random.default_rng(4).integers(-1, 2, 30)
  threshold, f1 = step_errors.best_threshold(scores, where, gold)
  rows = own_steps(scores, where)

  def at(t):
    return first_error_f1([loop_first_error(row, t) for row in rows], gold)

  assert at(threshold) == f1
  grid = [at(t) for t in np.arange(-0.05, 1.2, 0.01)]
  assert f1 == pytest.approx(max(grid)) and f1 > np.median(grid)
  with pytest.raises(UserError, match="one kind only"):
    step_errors.best_threshold(scores, where, np.full(30, -1))


def test_the_largest_drop_is_from_real_step_to_real_step():
  scores, where = ragged()
  got = step_errors.largest_drop(scores, where, before=0.5)
  for at, row in zip(got, own_steps(scores, where), strict=True):
    falls = [a - b for a, b in zip([0.5, *row], row, strict=False)]
    want = falls.index(max(falls)) if max(falls) > 0 else -1
    assert at == want
  assert step_errors.largest_drop([0.6, 0.7], [True] * 2, before=0.5) == -1


def test_stopping_early_writes_the_step_that_fell_and_no_more():
  scores, where = ragged()
  got = step_errors.stop_early(scores, where, threshold=0.4)
  for n, row in enumerate(own_steps(scores, where)):
    at = loop_first_error(row, 0.4)
    assert got.spent[n] == (len(row) if at < 0 else at + 1)
    assert got.stopped[n] == (0 <= at < len(row) - 1)
  # A running product falls and never rises: what is given up stays so.
  running = step_scores.cumulative(scores, where, by="product")
  more = step_errors.stop_early(running, where, threshold=0.4)
  assert (more.spent <= got.spent).all() and (more.spent < got.spent).any()


def called(right: int, wrong: int, valid: bool):
  labels = np.repeat([True, False], [right, wrong])
  return step_errors.prm_score(np.full(right + wrong, valid), labels)


@pytest.mark.parametrize(
  "right, wrong, want",
  [
    (70_222, 13_149, 0.457195),  # all classes together
    (10_076, 1_537, 0.464567),  # redundency
    (5_678, 2_135, 0.420873),  # circular
    (9_573, 1_192, 0.470695),  # step_contradiction
    (7_744, 1_869, 0.446160),  # missing_condition
    (8_370, 1_700, 0.453905),  # deception
  ],
)
def test_prm_score_of_all_valid_is_that_of_the_step_counts(right, wrong, want):
  # Counts of PRMBench's public files, rows once each; F1 from the counts alone.
  got = called(right, wrong, True)
  precision = right / (right + wrong)
  assert got.f1 == pytest.approx(2 * precision / (precision + 1), abs=1e-12)
  assert got.score == pytest.approx(want, abs=5e-7)
  assert got.f1_negative == 0.0  # its precision is the -1 of 0 / 0, recall 0


def test_prm_score_of_all_invalid_and_of_no_wrong_step():
  assert called(70_222, 13_149, False).score == pytest.approx(
    0.136231, abs=5e-7
  )
  multi = called(2_241, 0, True)  # multi_solutions: no step is wrong
  assert multi.f1 == 1.0
  with pytest.raises(ValueError, match="boolean valid and right"):
    step_errors.prm_score([0.7], [True])


def test_the_best_prm_threshold_beats_every_other():
  rng = np.random.default_rng(5)
  right = rng.random(60) < 0.8
  scores = np.round(right + rng.normal(size=60), 1)
  threshold, found = step_errors.best_prm_threshold(scores, right)
  assert step_errors.prm_score(scores > threshold, right) == found
  grid = [
    step_errors.prm_score(scores > t, right).score
    for t in np.arange(-4, 5, 0.01)
  ]
  assert found.score == pytest.approx(max(grid))
  assert found.score > np.median(grid)


def test_equal_scores_are_all_valid_or_none():
  # All valid: P = 3/4, R = 1, F1 = 6/7; no wrong step is found: F1_negative 0.
  right = np.asarray([True, True, True, False])
  threshold, found = step_errors.best_prm_threshold(np.ones(4), right)
  assert threshold < 1 and found.score == pytest.approx(0.5 * 6 / 7)
  with pytest.raises(ValueError, match=r"one step or more, got \(0,\)"):
    step_errors.best_prm_threshold([], np.zeros(0, bool))
  with pytest.raises(ValueError, match="NaN at 1"):
    step_errors.best_prm_threshold([0.0, np.nan], [True, False])
