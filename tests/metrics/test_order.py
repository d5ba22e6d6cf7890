"""Order metrics against loops over pairs and scipy."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from rm_jax import metrics
from rm_jax.types import UserError

FEW = st.integers(-2, 2)  # few values: ties are common


@pytest.mark.parametrize(
  "ties, credit",
  [("half", [1, 0.5, 0, 0.5]), ("wrong", [1, 0, 0, 0]), ("drop", [1, 0])],
)
def test_accuracy_credits_ties_by_policy(ties, credit):
  # Catches >= (ties as wins), and "drop" that keeps a tie as a wrong one.
  got = metrics.accuracy([2, 1, 0, -math.inf], [1, 1, 1, -math.inf], ties=ties)
  assert got.dtype == np.float64
  np.testing.assert_array_equal(got, credit)


def test_accuracy_refuses_what_it_would_count_silently():
  # Catches NaN > x, which is a wrong order, and [C, 1] > [C] -> [C, C].
  with pytest.raises(ValueError, match=r"NaN in rejected at index \(1,\)"):
    metrics.accuracy([1.0, 2.0], [0.0, math.nan], ties="half")
  with pytest.raises(ValueError, match=r"chosen \(2, 1\) and rejected \(2,\)"):
    metrics.accuracy(np.ones((2, 1)), np.ones(2), ties="half")
  with pytest.raises(UserError, match="half, wrong, drop, got 'win'"):
    metrics.accuracy([1.0], [0.0], ties="win")


def test_roc_area_is_the_share_of_pairs_in_order():
  # Catches ties that count as wins, and true and false swapped.
  rng = np.random.default_rng(0)
  scores, labels = rng.integers(0, 5, 60) / 2, rng.random(60) < 0.4
  pairs = [
    1.0 if a > b else 0.5 if a == b else 0.0
    for a in scores[labels]
    for b in scores[~labels]
  ]
  got = metrics.roc_area(scores, labels)
  assert got == pytest.approx(math.fsum(pairs) / len(pairs))
  assert metrics.roc_area(-scores, labels) == pytest.approx(1 - got)
  assert math.isnan(metrics.roc_area(scores, np.ones(60, bool)))
  with pytest.raises(ValueError, match="boolean labels, got float64"):
    metrics.roc_area(scores, scores)


@settings(max_examples=60, deadline=None)
@given(
  st.lists(
    st.lists(st.tuples(FEW, FEW, st.booleans()), min_size=6, max_size=6),
    min_size=2,
    max_size=2,
  )
)
def test_kendall_tau_equals_scipy_on_what_is_real(groups):
  # Catches the sign (a smaller rank is better), tau-a (ties in the denominator)
  # and padding that takes part.
  scores, ranks, where = np.array(groups).transpose(2, 0, 1)
  where = where.astype(bool)
  want = [
    scipy.stats.kendalltau(s[w], -r[w]).statistic if w.sum() > 1 else math.nan
    for s, r, w in zip(scores, ranks, where, strict=True)
  ]
  padded = np.where(where, scores, math.nan)
  got = metrics.kendall_tau(padded, np.where(where, ranks, -99), where)
  assert got.shape == (2,) and got.dtype == np.float64
  np.testing.assert_allclose(got, want, atol=1e-12)


def test_kendall_tau_refuses_nan_and_weights():
  # Catches a NaN score that loses its comparisons in silence.
  with pytest.raises(ValueError, match=r"NaN in scores at index \(1,\)"):
    metrics.kendall_tau([1, math.nan], [0, 1], [True, True])
  with pytest.raises(ValueError, match=r"NaN in ranks at index \(0,\)"):
    metrics.kendall_tau([1.0, 2.0], [math.nan, 1.0], [True, True])
  # Padding may hold anything.
  ranks = [[0, 1, math.nan]]
  where = [[True, True, False]]
  assert metrics.kendall_tau([[2.0, 1.0, math.nan]], ranks, where) == 1
  with pytest.raises(ValueError, match="boolean where .*got float64"):
    metrics.kendall_tau([1.0, 2.0], [0, 1], [0.5, 0.5])
  with pytest.raises(ValueError, match=r"scores \(2,\) and ranks \(3,\)"):
    metrics.kendall_tau([1.0, 2.0], [0, 1, 2], [True, True])
