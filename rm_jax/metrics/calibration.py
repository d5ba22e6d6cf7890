"""Probabilities against what happened."""

import math

import numpy as np
from jaxtyping import Float

from rm_jax.metrics.checks import in_range, same_shape
from rm_jax.types import ArrayLike, UserError


def calibration_error(
  probabilities: Float[ArrayLike, "*C"],
  labels: Float[ArrayLike, "*C"],
  *,
  weights: Float[ArrayLike, "*C"] | None = None,
  bins: int = 15,
) -> float:
  """Expected calibration error over bins of equal width; 0 is calibrated.

      ECE = sum over bins b of W_b / W |mean_b(probability) - mean_b(label)|

  Bin k of B holds probabilities in ((k - 1)/B, k/B]; 0 belongs to the first.
  Where every comparison is entered in both orders, as p with label 1 and 1 - p
  with label 0, an odd B has a middle bin in which they cancel: comparisons with
  |p - 1/2| < 1/(2 B) add nothing, right or wrong.

  Source: Guo et al. 2017, arXiv:1706.04599, Eq. (3), 15 bins; there for the
  confidence of the predicted class, here for the probability of label 1.

  Args:
    labels: what happened, or the share of annotators who said so, in [0, 1].
    weights: importance of each item; None counts them alike.

  Raises:
    ValueError: the shapes differ, or a value is outside of its range.

  Example:
    >>> print(f"{calibration_error([0.9, 0.9, 0.3], [1, 0, 0]):.4f}")
    0.3667
  """
  probabilities, labels, weights = _judged(
    "calibration_error", probabilities, labels, weights
  )
  if bins < 1:
    raise UserError(f"calibration_error: expected bins >= 1, got {bins}.")
  # Compared with k/B itself: ceil(p * B) puts 0.7 of ten bins one too high.
  edges = np.arange(1, bins) / bins
  index = np.searchsorted(edges, probabilities, side="left")
  gap = np.bincount(index, weights * (probabilities - labels), bins)
  total = weights.sum()
  return float(np.abs(gap).sum() / total) if total else math.nan


def brier(
  probabilities: Float[ArrayLike, "*C"],
  labels: Float[ArrayLike, "*C"],
  *,
  weights: Float[ArrayLike, "*C"] | None = None,
) -> float:
  """Mean squared error of probabilities; a constant 1/2 gets 0.25.

      Brier = mean((p - y)^2)

  Source: Brier 1950, in the one-sided form for two outcomes.

  Raises:
    ValueError: the shapes differ, or a value is outside of its range.

  Example:
    >>> print(f"{brier([0.9, 0.9, 0.3], [1, 0, 0]):.4f}")
    0.3033
  """
  probabilities, labels, weights = _judged(
    "brier", probabilities, labels, weights
  )
  total = weights.sum()
  errors = (probabilities - labels) ** 2
  return float((weights * errors).sum() / total) if total else math.nan


def fit_temperature(
  score_diff: Float[ArrayLike, "*C"], labels: Float[ArrayLike, "*C"]
) -> float:
  """The T > 0 at which sigmoid(score_diff / T) fits the labels best.

      T = argmin mean(softplus(d / T) - y d / T)

  Convex in 1/T, so bisection on the derivative finds the one minimum. It exists
  only if the order is better than chance and not perfect; else the limit comes
  back: inf (probability 1/2 for all) or 0.0 (no T is small enough).

  Source: Guo et al. 2017, arXiv:1706.04599, Sec. 4.2. Margins and learning
  rates change the scale of the scores: compare log-losses after this fit, made
  on other data than it is reported on.

  Args:
    score_diff: differences d; chosen minus rejected with label 1, or any sign.
    labels: probability that the first of the two is better, in [0, 1].

  Raises:
    ValueError: the shapes differ, a difference is not finite, or a label is
      outside of [0, 1].

  Example:
    >>> temperature = fit_temperature([2.0, 2.0, 2.0, 2.0], [1, 1, 1, 0])
    >>> print(f"{temperature:.4f}")
    1.8205
  """
  score_diff, labels = same_shape(
    "fit_temperature", score_diff=score_diff, labels=labels
  )
  in_range("fit_temperature", "labels", labels, 0.0, 1.0)
  limit = np.finfo(np.float64).max
  in_range("fit_temperature", "score_diff", score_diff, -limit, limit)
  largest = np.abs(score_diff).max(initial=0.0)
  if not largest:
    return math.nan  # no item, or no difference: every T fits alike
  score_diff = score_diff / largest

  def slope(inverse):
    # sigmoid by tanh: exp overflows where the scores are confident.
    probabilities = 0.5 + 0.5 * np.tanh(0.5 * inverse * score_diff)
    return ((probabilities - labels) * score_diff).sum()

  # As 1/T grows only pairs in the wrong order keep a slope.
  if (((score_diff > 0) - labels) * score_diff).sum() <= 0.0:
    return 0.0
  if slope(0.0) >= 0.0:
    return math.inf
  low, high = 0.0, 1.0
  while slope(high) < 0.0:
    low, high = high, 2.0 * high
  while low < (middle := 0.5 * (low + high)) < high:
    low, high = (middle, high) if slope(middle) < 0.0 else (low, middle)
  return float(largest / high)


def _judged(caller, probabilities, labels, weights):
  """Returns checked probabilities, labels and weights, flat."""
  if weights is None:
    weights = np.ones(np.shape(probabilities))
  probabilities, labels, weights = same_shape(
    caller, probabilities=probabilities, labels=labels, weights=weights
  )
  in_range(caller, "probabilities", probabilities, 0.0, 1.0)
  in_range(caller, "labels", labels, 0.0, 1.0)
  in_range(caller, "weights", weights, 0.0, np.finfo(np.float64).max)
  return probabilities.ravel(), labels.ravel(), weights.ravel()
