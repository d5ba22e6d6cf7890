"""Metrics against slow definitions: enumeration, loops, scipy."""

import doctest
import gzip
import itertools
import json
import math

import numpy as np
import pytest
import scipy.optimize
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
@given(st.data())
def test_best_of_n_equals_the_mean_over_all_subsets(data):
  # Catches drawing with replacement, the first of a tie winning (or the last),
  # and ties shared over the group instead of over the tie.
  size = data.draw(st.integers(1, 6))
  n = data.draw(st.integers(1, size))
  row = st.lists(FEW, min_size=size, max_size=size)
  proxy, gold = data.draw(st.tuples(row, row))
  means = []
  for subset in itertools.combinations(range(size), n):
    top = max(proxy[i] for i in subset)
    best = [gold[i] for i in subset if proxy[i] == top]
    means.append(sum(best) / len(best))
  # A second group: catches runs of ties that cross from one row to the next.
  got = metrics.best_of_n([proxy, proxy], [gold, [7] * size], n)
  np.testing.assert_allclose(got, [np.mean(means), 7], atol=1e-12)


def test_best_of_n_is_exact_where_factorials_overflow():
  # Catches binomials in floats: C(4096, 1024) is 1e1000. With proxy = gold =
  # 0 ... M - 1 the expected maximum of n is n (M + 1)/(n + 1) - 1.
  size, n = 4096, 1024
  values = np.random.default_rng(0).permutation(size)[None].astype(float)
  want = n * (size + 1) / (n + 1) - 1
  np.testing.assert_allclose(metrics.best_of_n(values, values, n), [want])
  with pytest.raises(UserError, match="from 1 to the 4096 .* got 4097"):
    metrics.best_of_n(values, values, 4097)
  with pytest.raises(UserError, match="got 0"):
    metrics.best_of_n(values, values, 0)
  with pytest.raises(ValueError, match=r"\[G, M\], got \(4096,\)"):
    metrics.best_of_n(values[0], values[0], 1)


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
  with pytest.raises(ValueError, match="boolean where .*got float64"):
    metrics.kendall_tau([1.0, 2.0], [0, 1], [0.5, 0.5])
  with pytest.raises(ValueError, match=r"scores \(2,\) and ranks \(3,\)"):
    metrics.kendall_tau([1.0, 2.0], [0, 1, 2], [True, True])


def test_first_error_f1_is_the_harmonic_mean_of_two_accuracies():
  # Catches precision and recall of "has an error", a mean over all samples, and
  # 0 / 0. Erroneous: 1 of 3 found at its step; correct: 1 of 2.
  gold = [2, 0, 1, -1, -1]
  got = metrics.first_error_f1([2, 1, -1, -1, 3], gold)
  np.testing.assert_allclose(got, 2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))
  assert metrics.first_error_f1(gold, gold) == 1.0
  assert metrics.first_error_f1([-1] * 5, gold) == 0.0
  assert metrics.first_error_f1([0, 1, 0, 0, 0], gold) == 0.0
  missing = [2, math.nan, math.nan, -1, math.nan]
  np.testing.assert_allclose(metrics.first_error_f1(missing, gold), got)
  assert math.isnan(metrics.first_error_f1([-1], [-1]))
  with pytest.raises(UserError, match="index of a step, got -2"):
    metrics.first_error_f1([-1, 0], [-1, -2])


@pytest.mark.parametrize(
  "split, even_zero, even_last, answer",
  [
    ("gsm8k", 0.154344, 0.062151, 0.135135),
    ("math", 0.165036, 0.056788, 0.093098),
  ],
)
def test_first_error_f1_of_simple_rules_on_processbench(
  rm_data, split, even_zero, even_last, answer
):
  # The published F1 of three rules that look at no text. Catches steps counted
  # from 1, and the weighted or the arithmetic mean.
  text = gzip.open(rm_data / "processbench" / f"{split}.json.gz", "rt").read()
  rows = json.loads(text)
  gold = [row["label"] for row in rows]
  steps = [len(row["steps"]) for row in rows]
  right = [row["final_answer_correct"] for row in rows]
  rules = {
    even_zero: [0 if n % 2 == 0 else -1 for n in steps],
    even_last: [n - 1 if n % 2 == 0 else -1 for n in steps],
    answer: [-1 if ok else n - 1 for ok, n in zip(right, steps, strict=True)],
  }
  for want, predicted in rules.items():
    got = metrics.first_error_f1(predicted, gold)
    np.testing.assert_allclose(got, want, atol=5e-7)


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


def test_doctests():
  # Catches an example that no longer prints what it says.
  result = doctest.testmod(metrics)
  assert result.attempted and not result.failed
  for name, function in vars(metrics).items():
    if getattr(function, "__module__", "") == "rm_jax.metrics":
      assert name[0] == "_" or ">>>" in function.__doc__, name
