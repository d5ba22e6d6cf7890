"""Step scores to solution scores: float64 loops, padding, ties, messages."""

import doctest
import math
import pathlib

import numpy as np
import pytest
from ragged_steps import own_steps, ragged

from rm_jax import step_errors, voting
from rm_jax import step_scores as steps
from rm_jax.types import UserError

SLOW = {
  "product": math.prod,
  "log_product": lambda row: sum(math.log(x) if x else -math.inf for x in row),
  "min": min,
  "mean": lambda row: math.fsum(row) / len(row),
  "last": lambda row: row[-1],
}


@pytest.mark.parametrize("by", steps.AGGREGATES)
def test_an_aggregate_is_that_of_the_steps_alone(by):
  scores, where = ragged()
  want = [SLOW[by](row) for row in own_steps(scores, where)]
  got = steps.aggregate(scores, where, by=by)
  assert got.dtype == np.float64
  np.testing.assert_allclose(got, want, rtol=1e-13)
  cube = (scores.reshape(3, 20, 7), where.reshape(3, 20, 7))
  assert np.array_equal(steps.aggregate(*cube, by=by), got.reshape(3, 20))


@pytest.mark.parametrize("by", steps.AGGREGATES)
def test_a_running_aggregate_is_that_of_the_steps_so_far(by):
  scores, where = ragged()
  got = steps.cumulative(scores, where, by=by)
  assert np.isnan(got[~where]).all()
  for row, own in zip(
    own_steps(got, where), own_steps(scores, where), strict=True
  ):
    want = [SLOW[by](own[: i + 1]) for i in range(len(own))]
    np.testing.assert_allclose(row, want, rtol=1e-13)
  np.testing.assert_allclose(
    [row[-1] for row in own_steps(got, where)],
    steps.aggregate(scores, where, by=by),
    rtol=1e-13,
  )


def test_a_long_product_keeps_its_order_in_log_space():
  # Wrong: a product that is 0 for both and ties them.
  p = np.full((2, 3_000), 0.5)
  p[1, 0] = 0.6
  where = np.ones(p.shape, bool)
  assert steps.product(p, where).tolist() == [0.0, 0.0]
  low, high = steps.log_product(p, where)
  assert low == pytest.approx(3_000 * math.log(0.5)) and high > low


def test_weights_count_and_padding_has_none():
  scores, where = ragged()
  rng = np.random.default_rng(1)
  weights = np.where(where, rng.integers(1, 9, where.shape), np.nan)
  want = [
    math.fsum(w * s for w, s in zip(ws, ss, strict=True)) / math.fsum(ws)
    for ws, ss in zip(
      own_steps(weights, where), own_steps(scores, where), strict=True
    )
  ]
  np.testing.assert_allclose(steps.weighted(scores, where, weights), want)


def test_padding_equals_removal():
  rows = [[0.9, 0.2, 0.8], [0.5], [1.0, 0.0]]
  scores, where = steps.pad_steps(rows)
  assert np.isnan(scores[~where]).all() and where.sum(1).tolist() == [3, 1, 2]
  for by in steps.AGGREGATES:
    alone = [steps.aggregate(r, [True] * len(r), by=by) for r in rows]
    assert steps.aggregate(scores, where, by=by).tolist() == alone


EVERY = [
  *(
    lambda s, w, by=by: steps.aggregate(s, w, by=by) for by in steps.AGGREGATES
  ),
  *(
    lambda s, w, by=by: steps.cumulative(s, w, by=by) for by in steps.AGGREGATES
  ),
  lambda s, w: steps.weighted(s, w, np.ones(np.shape(s))),
  lambda s, w: step_errors.first_error(s, w, threshold=0.5),
  lambda s, w: step_errors.largest_drop(s, w, before=0.5),
  lambda s, w: step_errors.stop_early(s, w, threshold=0.5),
  lambda s, w: step_errors.best_threshold(s, w, [0, -1]),
]


@pytest.mark.parametrize("call", EVERY)
def test_what_no_function_takes_in_silence(call):
  two = np.full((2, 2), 0.5)
  where = np.array([[True, True], [False, False]])
  with pytest.raises(ValueError, match=r"solution at \(1,\) has no step"):
    call(two, where)
  hole = np.array([[0.5, 0.5], [np.nan, 0.5]])
  with pytest.raises(ValueError, match=r"NaN in scores at index \(1, 0\)"):
    call(hole, np.ones((2, 2), bool))
  with pytest.raises(ValueError, match=r"one shape.*\(2, 2\) and \(2, 3\)"):
    call(two, np.ones((2, 3), bool))
  with pytest.raises(ValueError, match="expected a boolean where, got int64"):
    call(two, np.ones((2, 2), np.int64))


def test_other_messages():
  two, where = np.array([0.5, 1.5]), np.ones(2, bool)
  for by in ("product", "log_product"):
    for call in (steps.aggregate, steps.cumulative):
      with pytest.raises(ValueError, match=r"0 to 1, got 1.5 at index \(1,\)"):
        call(two, where, by=by)
  for call in (steps.aggregate, steps.cumulative):
    with pytest.raises(
      UserError, match="by='sum' is not known. Known: product"
    ):
      call(two, where, by="sum")
  with pytest.raises(ValueError, match="weights of 0 or more, got -1"):
    steps.weighted(two, where, [1.0, -1.0])
  with pytest.raises(ValueError, match="are all 0"):
    steps.weighted(two, where, [0.0, 0.0])
  with pytest.raises(ValueError, match="solution 1"):
    steps.pad_steps([[0.5], 0.5])


def test_the_page_prints_what_it_says():
  page = pathlib.Path(__file__).parents[1] / "docs/steps.md"
  found = doctest.testfile(str(page), module_relative=False)
  assert found.attempted >= 8 and not found.failed


@pytest.mark.parametrize("module", [steps, step_errors, voting])
def test_examples(module):
  found = doctest.testmod(module)
  assert found.attempted and not found.failed
