"""Calibration against the loop over bins, temperature against scipy."""

import math

import numpy as np
import pytest
import scipy.optimize

from rm_jax import metrics


def test_calibration_error_equals_the_loop_over_bins():
  # Catches bins of equal count, a maximum instead of a mean, bins weighted
  # alike, and weights that do not enter the bins' means.
  generator = np.random.default_rng(0)
  probabilities = generator.uniform(size=200) ** 2
  labels = (generator.uniform(size=200) < 0.3).astype(float)
  weights = generator.integers(0, 3, size=200)
  total = 0.0
  for k in range(10):
    inside = (probabilities > k / 10) & (probabilities <= (k + 1) / 10)
    w = weights[inside]
    if w.sum():
      gap = np.average(probabilities[inside] - labels[inside], weights=w)
      total += w.sum() / weights.sum() * abs(gap)
  got = metrics.calibration_error(
    probabilities, labels, weights=weights, bins=10
  )
  np.testing.assert_allclose(got, total, rtol=1e-12)
  repeated = np.repeat(probabilities, weights), np.repeat(labels, weights)
  np.testing.assert_allclose(
    metrics.calibration_error(*repeated, bins=10), total, rtol=1e-12
  )


def test_calibration_error_puts_edges_in_the_lower_bin():
  # Catches a probability of 1 in a bin of its own past the end, 0 in none, and
  # 0.7 * 10 = 7.000000000000001 in the bin above. Over bins of 1/10 each item
  # has a gap of its own; an item and its neighbour in one bin would cancel.
  for k in range(11):
    edge = k / 10
    inside = min(1.0, max(edge - 0.05, 0.05))
    got = metrics.calibration_error([edge, inside], [1, 0], bins=10)
    np.testing.assert_allclose(got, abs(edge - 1 + inside) / 2, atol=1e-12)
  assert metrics.calibration_error([0.0, 1.0], [0, 1]) == 0.0
  assert metrics.calibration_error([0.5] * 4, [1, 0, 0.5, 0.5]) == 0.0


def test_the_middle_bin_cannot_see_comparisons_in_both_orders():
  # As the docstring warns: all of them wrong at 0.47, and an error of 0.
  p = np.full(10, 0.47)
  both = np.concatenate([p, 1 - p])
  labels = np.repeat([1.0, 0.0], 10)
  assert metrics.calibration_error(both, labels) == pytest.approx(0.0)
  assert metrics.calibration_error(both, labels, bins=14) == pytest.approx(0.53)
  assert metrics.brier(both, labels) == pytest.approx(0.53**2)


def test_brier_is_the_mean_square():
  # Catches the two-sided form, twice as large, and a sum.
  assert metrics.brier([0.5, 0.5], [1, 0]) == 0.25
  want = (3 * 0.1**2 + 1 * 0.7**2) / 4
  got = metrics.brier([0.9, 0.7], [True, False], weights=[3, 1])
  np.testing.assert_allclose(got, want)


@pytest.mark.parametrize("metric", [metrics.brier, metrics.calibration_error])
def test_probabilities_are_checked(metric):
  # Catches raw scores passed for probabilities, and a number for no items.
  with pytest.raises(ValueError, match="probabilities from 0 to 1, got 1.5"):
    metric([0.5, 1.5], [1, 0])
  with pytest.raises(ValueError, match="labels from 0 to 1, got -100"):
    metric([0.5, 0.5], [1, -100])
  assert math.isnan(metric([], []))
  assert math.isnan(metric([0.5], [1], weights=[0]))


def test_temperature_is_the_scale_of_the_scores():
  # Catches 1/T returned for T, and a search that stops at a bracket: labels
  # drawn at T = 4 (and its million-fold) are fitted as well as by scipy.
  generator = np.random.default_rng(0)
  score_diff = generator.normal(size=5000) * 6
  chance = 1 / (1 + np.exp(-score_diff / 4))
  labels = (generator.uniform(size=5000) < chance).astype(float)

  def loss(log_temperature):
    z = score_diff / math.exp(log_temperature)
    return np.mean(np.logaddexp(0, z) - labels * z)

  best = scipy.optimize.minimize_scalar(
    loss, bounds=(-3, 5), method="bounded", options={"xatol": 1e-9}
  )
  got = metrics.fit_temperature(score_diff, labels)
  np.testing.assert_allclose(got, math.exp(best.x), rtol=1e-5)
  assert 3.5 < got < 4.5
  for scale in (1e-6, 1e6):
    np.testing.assert_allclose(
      metrics.fit_temperature(scale * score_diff, labels),
      scale * got,
      rtol=1e-6,
    )
  # Soft labels at their own probability are fitted exactly; so are pairs with
  # the sides exchanged.
  np.testing.assert_allclose(
    metrics.fit_temperature(score_diff, chance), 4, rtol=1e-6
  )
  flip = np.where(np.arange(5000) % 2, 1, -1)
  flipped = np.where(flip > 0, labels, 1 - labels)
  np.testing.assert_allclose(
    metrics.fit_temperature(score_diff * flip, flipped), got, rtol=1e-9
  )


def test_temperature_has_limits_where_there_is_no_minimum():
  # Catches an endless search (all right), and a negative T (worse than chance).
  assert metrics.fit_temperature([1.0, 2.0], [1, 1]) == 0.0
  assert metrics.fit_temperature([1.0, -2.0], [1, 1]) == math.inf
  assert math.isnan(metrics.fit_temperature([0.0, 0.0], [1, 1]))
  with pytest.raises(ValueError, match="score_diff from .*, got inf"):
    metrics.fit_temperature([math.inf], [1])
