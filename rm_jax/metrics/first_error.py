"""The first wrong step of a solution, found or not."""

import math

import numpy as np
from jaxtyping import Int

from rm_jax.metrics.checks import check_shapes
from rm_jax.types import ArrayLike, UserError


def first_error_f1(
  predicted: Int[ArrayLike, "*N"], gold: Int[ArrayLike, "*N"]
) -> float:
  """Harmonic mean of the accuracies on erroneous and on correct solutions.

      F1 = 2 e c / (e + c);   e = share of gold != -1 found exactly,
                              c = share of gold == -1 left alone

  0 where both are 0; nan where one of the two kinds is missing.

  Source: Zheng et al. 2024 (ProcessBench), arXiv:2412.06559. Its headline is
  the unweighted mean of four splits.

  Args:
    predicted: index of the first wrong step from 0, -1 for none. A missing
      prediction is anything else, nan or -2, and matches nothing.
    gold: the same, annotated.

  Raises:
    ValueError: the shapes differ, or a gold index is not an integer from -1.

  Example:
    >>> print(f"{first_error_f1([2, 0, -1, -1], [2, 1, -1, -1]):.4f}")
    0.6667
  """
  check_shapes("first_error_f1", predicted=predicted, gold=gold)
  predicted = np.asarray(predicted, np.float64)
  gold = np.asarray(gold, np.float64)
  bad = ~((gold >= -1) & (gold == np.floor(gold)))
  if bad.any():
    raise UserError(
      "first_error_f1: expected gold to be -1 or the index of a step, got "
      f"{gold[bad][0]:g}. Leave out solutions without an annotation."
    )
  right = predicted == gold
  correct = gold == -1
  if correct.all() or not correct.any():
    return math.nan
  on_errors, on_correct = right[~correct].mean(), right[correct].mean()
  if not right.any():
    return 0.0
  return float(2 * on_errors * on_correct / (on_errors + on_correct))
