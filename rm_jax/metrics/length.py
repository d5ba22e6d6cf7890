"""Scores against the length of what they score."""

import math

import numpy as np
from jaxtyping import Float, Int

from rm_jax.metrics.checks import check_shapes, same_shape
from rm_jax.types import ArrayLike


def length_correlation(
  scores: Float[ArrayLike, "*N"],
  lengths: Float[ArrayLike, "*N"],
  *,
  group: Int[ArrayLike, "*N"] | None = None,
) -> float:
  """Pearson correlation of scores with lengths, in [-1, 1].

      r = sum(s l) / sqrt(sum(s^2) sum(l^2)),   s, l less their means

  With `group` the means are those of each group: what longer completions of one
  prompt gain, without prompts that have long answers and high scores. nan where
  scores or lengths do not vary.

  Source: Pearson 1895; within groups as in Singhal et al. 2023,
  arXiv:2310.03716.

  Args:
    group: the prompt of each item: any integers, or any strings.

  Raises:
    ValueError: the shapes differ, or a score is NaN.

  Example:
    >>> print(f"{length_correlation([1.0, 2.0, 4.0], [10, 30, 20]):.4f}")
    0.3273
  """
  scores, lengths = same_shape(
    "length_correlation", scores=scores, lengths=lengths
  )
  if group is None:
    member = np.zeros(scores.size, int)
  else:
    check_shapes("length_correlation", scores=scores, group=group)
    member = np.unique(np.ravel(group), return_inverse=True)[1]
  scores = _less_mean(scores.ravel(), member)
  lengths = _less_mean(lengths.ravel(), member)
  norm = math.sqrt((scores**2).sum()) * math.sqrt((lengths**2).sum())
  return float((scores * lengths).sum() / norm) if norm else math.nan


def _less_mean(values, member):
  """Returns values less the mean of their group; exactly 0 where all equal."""
  count = np.maximum(np.bincount(member), 1)
  means = np.bincount(member, values) / count
  centred = values - means[member]
  # The mean of equal numbers is off by rounding, and noise correlates with
  # anything: a group of equal values is 0, not 1e-17.
  low = np.full(count.size, np.inf)
  high = np.full(count.size, -np.inf)
  np.minimum.at(low, member, values)
  np.maximum.at(high, member, values)
  return np.where((low == high)[member], 0.0, centred)
