"""Places of mistakes: against loops, and PRMBench's check values."""

import collections
import gzip
import json
import math

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


# Right and wrong steps of PRMBench's public files, rows once each, and the
# score of calling them all valid.
COUNTS = {
  "all classes together": (70_222, 13_149, 0.457195),
  "redundency": (10_076, 1_537, 0.464567),
  "circular": (5_678, 2_135, 0.420873),
  "counterfactual": (8_403, 2_074, 0.445074),
  "step_contradiction": (9_573, 1_192, 0.470695),
  "domain_inconsistency": (8_693, 1_338, 0.464270),
  "confidence": (9_444, 1_304, 0.467710),
  "missing_condition": (7_744, 1_869, 0.446160),
  "deception": (8_370, 1_700, 0.453905),
}


@pytest.mark.parametrize("right, wrong, want", COUNTS.values(), ids=COUNTS)
def test_prm_score_of_all_valid_is_that_of_the_step_counts(right, wrong, want):
  # F1 from the counts alone.
  got = called(right, wrong, True)
  precision = right / (right + wrong)
  assert got.f1 == pytest.approx(2 * precision / (precision + 1), abs=1e-12)
  assert got.score == pytest.approx(want, abs=5e-7)
  assert got.f1_negative == 0.0  # its precision is the -1 of 0 / 0, recall 0


@pytest.mark.parametrize("right, wrong, valid", COUNTS.values(), ids=COUNTS)
def test_prm_score_of_all_invalid_is_that_of_the_step_counts(
  right, wrong, valid
):
  # Catches: F1 of right steps reported for wrong ones.
  got = called(right, wrong, False)
  precision = wrong / (right + wrong)
  want = 2 * precision / (precision + 1)
  assert got.f1_negative == pytest.approx(want, abs=1e-12)
  assert (got.f1, got.score) == (0.0, got.f1_negative / 2)
  assert got.score < valid  # most steps are right


def test_the_counts_of_the_classes_add_up():
  # The ninth, multi_solutions: 2,241 right steps.
  total, *classes = [np.asarray(row[:2]) for row in COUNTS.values()]
  assert (total - sum(classes)).tolist() == [2_241, 0]


def test_prm_score_of_all_invalid_and_of_no_wrong_step():
  assert called(70_222, 13_149, False).score == pytest.approx(
    0.136231, abs=5e-7
  )
  multi = called(2_241, 0, True)  # multi_solutions: no step is wrong
  assert multi.f1 == 1.0
  with pytest.raises(ValueError, match="boolean valid and right"):
    step_errors.prm_score([0.7], [True])


def of_marks(name, problem, marks):
  """A solution of "+" and "-": the truth, and below it what is called so."""
  right, valid = ([mark == "+" for mark in line] for line in marks.split())
  return step_errors.Called(name, problem, valid, right)


# Of problem "a" 3 of 4 original steps are called valid, of "b" none.
ORIGINALS = {"a": [True, True, False, True], "b": [False, False]}
SOLUTIONS = [
  of_marks("redundency", "a", "++-+ +--+"),
  of_marks("redundency", "b", "+-- ++-"),
  of_marks("circular", "a", "++-+ -+-+"),
  of_marks("circular", "a", "---- ++++"),  # a duplicate
  of_marks("multi_solutions", "c", "+++ ++-"),
]


def test_the_table_of_prmbench_is_the_one_reckoned_by_hand():
  # Catches: F1 of the wrong kind, overall as a mean of classes, means weighted
  # by steps, any error or the last taken for the first, originals counted.
  def f1(hits, found, real):
    return 2 * (hits / found) * (hits / real) / (hits / found + hits / real)

  table = step_errors.prmbench_table(SOLUTIONS, ORIGINALS)
  assert list(table.classes) == ["redundency", "circular", "multi_solutions"]

  # right 4, valid 4, both 3; wrong 3, invalid 3, both 2.
  got = table.classes["redundency"]
  assert got.solutions == 2
  assert got.f1 == pytest.approx(f1(3, 4, 4))
  assert got.f1_negative == pytest.approx(f1(2, 3, 3))
  redundency = (f1(3, 4, 4) + f1(2, 3, 3)) / 2
  assert got.score == pytest.approx(redundency)
  assert got.right_steps == 3 / 4
  assert got.wrong_steps == pytest.approx(2 / 3)
  assert got.all_steps == pytest.approx(5 / 7)
  assert got.first_error == 1 / 2  # "b": its second error is found, too late
  assert got.similarity == pytest.approx(abs(2 / 4 - 3 / 4))

  # right 3, valid 2, both 2; wrong 1, invalid 2, both 1.
  got = table.classes["circular"]
  assert (got.solutions, got.first_error, got.similarity) == (1, 1.0, 1 / 4)
  circular = (f1(2, 2, 3) + f1(1, 2, 1)) / 2
  assert got.score == pytest.approx(circular)

  # right 3, valid 2, both 2: F1 alone, and nothing to find.
  got = table.classes["multi_solutions"]
  assert got.score == got.f1 == pytest.approx(f1(2, 2, 3))
  assert math.isnan(got.first_error) and math.isnan(got.wrong_steps)
  assert math.isnan(got.similarity)  # no original

  # right 10, valid 8, both 7; wrong 4, invalid 6, both 3.
  got = table.overall
  assert got.solutions == 4
  assert got.f1 == pytest.approx(f1(7, 8, 10))
  assert got.f1_negative == pytest.approx(f1(3, 6, 4))
  assert got.score == pytest.approx((f1(7, 8, 10) + f1(3, 6, 4)) / 2)
  assert got.first_error == pytest.approx(2 / 3)
  assert got.similarity == 1 / 4

  means = table.means
  assert means["simplicity"] == pytest.approx((redundency + circular) / 2)
  assert list(means) == ["simplicity", "soundness", "sensitivity"]
  # Classes are missing: the mean of the others is not PRMBench's.
  assert math.isnan(means["soundness"]) and math.isnan(means["sensitivity"])


def test_a_solution_that_prmbench_has_not_is_refused():
  with pytest.raises(UserError, match="class 'redundancy' of solution 0"):
    step_errors.prmbench_table([of_marks("redundancy", "a", "+ +")], {})
  with pytest.raises(ValueError, match="solution 0: expected boolean valid"):
    step_errors.prmbench_table([of_marks("circular", "a", "++ +")], {})
  with pytest.raises(ValueError, match="original of 'a': expected boolean"):
    step_errors.prmbench_table(SOLUTIONS, {"a": [0.9, 0.2]})  # scores
  with pytest.raises(UserError, match=r"one step or more in a row, got \(0,\)"):
    empty = np.zeros(0, bool)
    step_errors.prmbench_table(
      [step_errors.Called("circular", "a", empty, empty)], {}
    )
  with pytest.raises(UserError, match="one solution or more, got none"):
    step_errors.prmbench_table([], {})


def real_rows(rm_data) -> list:
  """Rows of the eight classes, by json alone."""
  files = sorted((rm_data / "prmbench").glob("*.jsonl.gz"))
  return [json.loads(line) for file in files for line in gzip.open(file, "rt")]


RULES = {
  "all": lambda step, i: True,
  "none": lambda step, i: False,
  "even": lambda step, i: len(step) % 2 == 0,
  "not the third": lambda step, i: i != 3,
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_table_of_real_solutions_is_the_one_of_a_loop(rm_data, rule):
  # The loop counts from 1 as the files do. Rows with an error behind the last
  # step are kept, as PRMBench keeps them: it is none of the steps.
  def say(steps):
    return [rule(step, i) for i, step in enumerate(steps, 1)]

  rows = real_rows(rm_data)
  originals = {
    row["idx"]: say(row["original_process"])
    for row in rows
    if row["classification"] == "redundency"
  }
  counts = collections.defaultdict(collections.Counter)
  firsts = collections.defaultdict(list)
  shifts = collections.defaultdict(list)
  solutions = []
  for row in rows:
    steps, errors = row["modified_process"], row["error_steps"]
    name, said = row["classification"], say(steps)
    for i, valid in enumerate(said, 1):
      for where in (name, "overall"):
        counts[where][i not in errors, valid] += 1
        if i == min(errors):
          firsts[where].append(0 if valid else 1)
    before = originals.get(row["idx"])
    if before is not None and sum(before) > 0:
      shift = abs(sum(said) / len(said) - sum(before) / len(before))
      shifts[name].append(shift)
      shifts["overall"].append(shift)
    right = [i not in errors for i in range(1, len(steps) + 1)]
    solutions.append(step_errors.Called(name, row["idx"], said, right))

  def loop_f1(n, kind):
    hits, missed, false = n[kind, kind], n[kind, not kind], n[not kind, kind]
    precision = hits / (hits + false) if hits + false else -1
    recall = hits / (hits + missed)
    return 2 * precision * recall / (precision + recall)

  table = step_errors.prmbench_table(solutions, originals)
  assert len(table.classes) == 8 and table.overall.solutions == 3_203
  scores = {}
  for name, got in dict(table.classes, overall=table.overall).items():
    n = counts[name]
    scores[name] = (loop_f1(n, True) + loop_f1(n, False)) / 2
    assert got.f1 == pytest.approx(loop_f1(n, True))
    assert got.f1_negative == pytest.approx(loop_f1(n, False))
    assert got.score == pytest.approx(scores[name])
    right = n[True, True] / (n[True, True] + n[True, False])
    wrong = n[False, False] / (n[False, False] + n[False, True])
    same = (n[True, True] + n[False, False]) / sum(n.values())
    assert got.right_steps == pytest.approx(right)
    assert got.wrong_steps == pytest.approx(wrong)
    assert got.all_steps == pytest.approx(same)
    assert got.first_error == pytest.approx(np.mean(firsts[name]))
    if shifts[name]:
      assert got.similarity == pytest.approx(np.mean(shifts[name]))
    else:
      assert math.isnan(got.similarity)
  for mean in ("simplicity", "soundness"):
    own = [scores[name] for name in step_errors.PRMBENCH[mean]]
    assert table.means[mean] == pytest.approx(sum(own) / len(own))
  assert math.isnan(table.means["sensitivity"])  # no multi_solutions here


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
