"""Length correlation against numpy."""

import math

import numpy as np

from rm_jax import metrics


def test_length_correlation_within_groups_ignores_differences_between_them():
  # Catches means over all for means of each group: prompts with long answers
  # have high scores here, and within each prompt longer is worse.
  scores = [1.0, 0.0, 11.0, 10.0]
  lengths = [10, 20, 110, 120]
  got = metrics.length_correlation(scores, lengths)
  np.testing.assert_allclose(got, np.corrcoef(scores, lengths)[0, 1])
  assert got > 0.9
  for group in ([0, 0, 1, 1], ["a", "a", "b", "b"], [9, 9, -1, -1]):
    got = metrics.length_correlation(scores, lengths, group=group)
    np.testing.assert_allclose(got, -1.0)
  generator = np.random.default_rng(0)
  scores, lengths = generator.normal(size=(2, 5, 8))
  group = np.broadcast_to(np.arange(5)[:, None], (5, 8))
  centred = [x - x.mean(1, keepdims=True) for x in (scores, lengths)]
  np.testing.assert_allclose(
    metrics.length_correlation(scores, lengths, group=group),
    np.corrcoef(centred[0].ravel(), centred[1].ravel())[0, 1],
  )


def test_length_correlation_of_constant_scores_is_nan():
  # Catches rounding in the mean of equal scores, whose noise correlates.
  scores, lengths = [0.1] * 3 + [0.7] * 3, [1, 2, 3, 4, 5, 6]
  assert math.isnan(metrics.length_correlation([0.1] * 6, lengths))
  assert math.isnan(
    metrics.length_correlation(scores, lengths, group=[0, 0, 0, 1, 1, 1])
  )
  assert math.isnan(metrics.length_correlation([], []))
