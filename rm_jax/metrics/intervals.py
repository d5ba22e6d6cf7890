"""Intervals of a mean: of values in groups, of paired differences."""

import math

import numpy as np
from jaxtyping import Float, Int

from rm_jax.metrics.checks import check_shapes, numbers, same_shape
from rm_jax.types import ArrayLike, UserError


def bootstrap_interval(
  values: Float[ArrayLike, "*N"],
  *,
  groups: Int[ArrayLike, "*N"],
  level: float = 0.95,
  samples: int = 2000,
  seed: int,
) -> tuple[float, float]:
  """Percentile interval of the mean of values, by resampling whole groups.

  Comparisons of one prompt are not independent; drawing prompts with
  replacement keeps them together. Each sample's mean is over its items, so a
  prompt with more comparisons counts more, as it does in the plain mean. Fewer
  than two groups say nothing about the spread: (nan, nan).

  Source: Efron and Tibshirani 1993, Ch. 13 (percentile); Field and Welsh 2007
  (clusters).

  Args:
    groups: the prompt of each value, integers or strings; `range(N)` if each
      value is alone.
    seed: of numpy's default generator; the same seed gives the same interval.

  Raises:
    ValueError: the shapes differ, a value is NaN, level is not between 0 and 1,
      or samples < 1.

  Example:
    >>> values, groups = [1.0, 1.0, 0.0, 0.0], [0, 0, 1, 1]
    >>> low, high = bootstrap_interval(values, groups=groups, seed=0)
    >>> print(f"{low:.4f} {high:.4f}")
    0.0000 1.0000
  """
  check_shapes("bootstrap_interval", values=values, groups=groups)
  (values,) = numbers("bootstrap_interval", values=values)
  _check_level("bootstrap_interval", level)
  if samples < 1:
    raise UserError(
      f"bootstrap_interval: expected samples >= 1, got {samples}. Try 2000."
    )
  member = np.unique(np.ravel(groups), return_inverse=True)[1]
  sizes = np.bincount(member)
  if sizes.size < 2:
    return math.nan, math.nan
  totals = np.bincount(member, values.ravel())
  generator = np.random.default_rng(seed)
  even = np.full(sizes.size, 1.0 / sizes.size)
  # In parts: 2,000 samples of 20,000 groups would be 320 MB of counts at once.
  part = max(1, 4_000_000 // sizes.size)
  means = []
  for done in range(0, samples, part):
    count = min(part, samples - done)
    drawn = generator.multinomial(sizes.size, even, size=count)
    means.append((drawn @ totals) / (drawn @ sizes))
  tail = (1.0 - level) / 2
  low, high = np.quantile(np.concatenate(means), [tail, 1.0 - tail])
  return float(low), float(high)


def paired_interval(
  a: Float[ArrayLike, " N"], b: Float[ArrayLike, " N"], *, level: float = 0.95
) -> tuple[float, float, float, float]:
  """Mean of a - b, its t-interval (low, high), and the two-sided p-value.

      mean +- t_{N-1}((1 + level) / 2) sd(a - b) / sqrt(N)

  a[i] and b[i] share a seed (or a prompt): what both have in common cancels.
  One pair has no spread: low, high and p are nan. Differences that are all
  equal have no width: p is 0, or 1 if they are 0.

  Source: Student 1908.

  Raises:
    ValueError: the shapes differ, a value is NaN, or level is not between 0
      and 1.

  Example:
    >>> result = paired_interval([0.70, 0.74, 0.71], [0.68, 0.70, 0.71])
    >>> print("{:.4f} {:.4f} {:.4f} {:.4f}".format(*result))
    0.0200 -0.0297 0.0697 0.2254
  """
  # Here: half a second that other commands need not pay.
  from scipy import stats

  a, b = same_shape("paired_interval", a=a, b=b)
  _check_level("paired_interval", level)
  difference = (a - b).ravel()
  count = difference.size
  if count < 2:
    mean = float(difference[0]) if count else math.nan
    return mean, math.nan, math.nan, math.nan
  mean = float(difference.mean())
  if np.ptp(difference) == 0.0:  # sd would be rounding
    return mean, mean, mean, float(difference[0] == 0.0)
  error = float(difference.std(ddof=1)) / math.sqrt(count)
  reach = float(stats.t.ppf((1.0 + level) / 2, count - 1)) * error
  p = float(2.0 * stats.t.sf(abs(mean) / error, count - 1))
  return mean, mean - reach, mean + reach, p


def _check_level(caller, level):
  if not 0.0 < level < 1.0:
    raise UserError(
      f"{caller}: expected level between 0 and 1, got {level}. 95 % is 0.95."
    )
