"""Intervals against normal theory and the t-test."""

import math

import numpy as np
import pytest
import scipy.stats

from rm_jax import metrics
from rm_jax.types import UserError


def test_bootstrap_resamples_groups_not_values():
  # Catches resampling of single values: 50 groups of 20 equal values have the
  # spread of 50 values, sqrt(20) times wider. Normal theory gives the width.
  generator = np.random.default_rng(0)
  per_group = generator.normal(size=50)
  values, groups = np.repeat(per_group, 20), np.repeat(np.arange(50), 20)
  low, high = metrics.bootstrap_interval(values, groups=groups, seed=0)
  width = 2 * 1.96 * per_group.std() / math.sqrt(50)
  np.testing.assert_allclose(high - low, width, rtol=0.1)
  assert low < per_group.mean() < high
  narrow = metrics.bootstrap_interval(
    values, groups=groups, level=0.5, samples=500, seed=0
  )
  assert low < narrow[0] < narrow[1] < high


def test_bootstrap_depends_on_the_seed_and_nothing_else():
  # Catches a global generator, names of groups or the order of rows that enter,
  # and parts of the computation that change the numbers.
  values = np.random.default_rng(1).normal(size=40)
  groups = np.arange(40) // 4
  first = metrics.bootstrap_interval(values, groups=groups, seed=3)
  again = metrics.bootstrap_interval(values, groups=groups, seed=3)
  other = metrics.bootstrap_interval(values, groups=groups, seed=4)
  assert first == again and first != other
  names = [f"prompt {g:02d}" for g in groups[::-1]]
  np.testing.assert_allclose(
    metrics.bootstrap_interval(values[::-1], groups=names, seed=3), first
  )


def test_bootstrap_weighs_groups_by_their_items():
  # Catches a mean of group means: with one large and one small group the
  # samples are (0, 0), (0, 1) twice, (1, 1): means 0, 1/10, 1.
  values, groups = [0.0] * 9 + [1.0], [0] * 9 + [1]
  low, high = metrics.bootstrap_interval(
    values, groups=groups, level=0.4, seed=0
  )
  np.testing.assert_allclose([low, high], [0.1, 0.1])
  alone = metrics.bootstrap_interval(values, groups=[0] * 10, seed=0)
  assert math.isnan(alone[0]) and math.isnan(alone[1])
  with pytest.raises(UserError, match="between 0 and 1, got 95"):
    metrics.bootstrap_interval(values, groups=groups, level=95, seed=0)
  with pytest.raises(ValueError, match=r"values \(10,\) and groups \(9,\)"):
    metrics.bootstrap_interval(values, groups=groups[1:], seed=0)


def test_paired_interval_equals_the_t_test():
  # Catches the unpaired test, normal quantiles, sd with N, and b - a.
  generator = np.random.default_rng(0)
  seeds = generator.normal(size=8) * 10  # common to both arms
  a, b = seeds + generator.normal(size=8) + 0.5, seeds
  want = scipy.stats.ttest_rel(a, b)
  for level in (0.95, 0.8):
    mean, low, high, p = metrics.paired_interval(a, b, level=level)
    interval = want.confidence_interval(level)
    np.testing.assert_allclose([low, high], [interval.low, interval.high])
    np.testing.assert_allclose([mean, p], [(a - b).mean(), want.pvalue])


def test_paired_interval_without_spread():
  # Catches 0 / 0, and an interval of width 0 from a single seed.
  assert metrics.paired_interval([2.0, 3.0], [1.0, 2.0]) == (1, 1, 1, 0)
  assert metrics.paired_interval([2.0, 3.0], [2.0, 3.0]) == (0, 0, 0, 1)
  mean, *rest = metrics.paired_interval([2.0], [1.0])
  assert mean == 1.0 and all(math.isnan(x) for x in rest)
  with pytest.raises(ValueError, match=r"a \(2,\) and b \(1,\)"):
    metrics.paired_interval([2.0, 3.0], [1.0])
