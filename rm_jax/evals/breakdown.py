"""The scores of a run, broken down: by strength, gold, size, temperature.

numpy in, numbers out; pictures and pages show them.
"""

import math
from typing import NamedTuple

import numpy as np

from rm_jax.evals.runs import Scores
from rm_jax.metrics import (
  accuracy,
  best_of_n,
  bootstrap_interval,
  brier,
  calibration_error,
  fit_temperature,
  kendall_tau,
)
from rm_jax.train.labels import sigmoid

SEED = 0  # of the bootstraps
MOST_STRENGTHS = 8  # more values than that are read as parts of a range
LEAST_GROUP = 3  # completions: of two, the best of n is the accuracy again
STRENGTHS = {
  0.0: "0 unsure",
  1.0: "1 slightly",
  2.0: "2 better",
  3.0: "3 significantly",
}


class Temperature(NamedTuple):
  """One number that every score difference is divided by, and what it gives."""

  temperature: float
  fitted: int  # comparisons that it was fitted on
  before: np.ndarray  # [n] score differences of the other half
  after: np.ndarray  # [n] divided by it
  error_before: float  # calibration error on the other half
  error_after: float
  brier_before: float
  brier_after: float


class BestOf(NamedTuple):
  """Gold of the best of n = 1 ... K; 0 the mean of a group, 1 its best."""

  model: np.ndarray  # [K]
  low: np.ndarray  # [K]
  high: np.ndarray  # [K]
  most: np.ndarray  # [K], chosen by gold itself
  by_length: np.ndarray  # [K]
  random: np.ndarray  # [K]
  groups: int
  left_out: int  # groups of another size, of one gold, or with none


def score_diff(scores: Scores) -> np.ndarray:
  """Chosen minus rejected score of every comparison, float64 [C]."""
  return scores.scores[scores.chosen] - scores.scores[scores.rejected]


def prompts_of_comparisons(scores: Scores) -> np.ndarray:
  """Key of the prompt of every comparison, [C]."""
  return scores.prompt[scores.group[scores.chosen]]


def fitting_half(prompts: np.ndarray) -> np.ndarray:
  """True where a prompt is in the half that the temperature is fitted on.

  Every second prompt in the order of its key, which is a hash: a random half
  that no option moves, and no prompt in both.
  """
  return np.unique(prompts, return_inverse=True)[1] % 2 == 0


def tempered(scores: Scores) -> Temperature | None:
  """The temperature fitted on one half of the prompts, measured on the other.

      T = argmin over the fitting half of mean(softplus(-(difference / T)))

  None where a half is empty or no T is best: the order of the fitting half is
  perfect (T = 0 would be best), or all its differences are 0.
  """
  difference = score_diff(scores)
  fit = fitting_half(prompts_of_comparisons(scores))
  if fit.all() or not fit.any():
    return None
  won = np.ones(len(difference))
  temperature = fit_temperature(difference[fit], won[fit])
  if math.isnan(temperature) or temperature == 0.0:
    return None
  before = difference[~fit]
  after = before / temperature
  measured = []
  for values in (before, after):
    # Both orders, as results.json: chosen first alone has one label only.
    both = np.concatenate([sigmoid(values), sigmoid(-values)])
    labels = np.repeat([1.0, 0.0], len(values))
    measured.append((calibration_error(both, labels), brier(both, labels)))
  (error_before, brier_before), (error_after, brier_after) = measured
  return Temperature(
    temperature,
    int(fit.sum()),
    before,
    after,
    error_before,
    error_after,
    brier_before,
    brier_after,
  )


def by_strength(*runs: Scores) -> list[tuple]:
  """(name, accuracy, low, high, n) per strength the annotators gave.

  Empty where they gave none. Intervals: 95 %, bootstrap over prompts. Several
  runs, of one evaluation set: the mean of their credit for each comparison.
  """
  strength = runs[0].strength
  return _by_value(runs, strength, np.isfinite(strength), STRENGTHS)


def by_gold_difference(scores: Scores) -> list[tuple]:
  """(name, accuracy, low, high, n) per distance of the two in gold reward."""
  distance = np.abs(scores.gold[scores.chosen] - scores.gold[scores.rejected])
  known = np.isfinite(distance)
  return _by_value((scores,), distance, known, {})


def rank_agreement(scores: Scores) -> tuple[float, float, float, int]:
  """(mean tau-b of scores against gold within groups, low, high, groups).

  Groups of one gold or one score have no tau and are left out.
  """
  taus, prompts = [], []
  for n, mine in _groups(scores):
    gold = scores.gold[mine]
    if np.isfinite(gold).all():
      # kendall_tau reads ranks, which fall where gold rises.
      ranks = np.unique(-gold, return_inverse=True)[1]
      taus.append(
        float(kendall_tau(scores.scores[mine], ranks, np.ones(len(gold), bool)))
      )
      prompts.append(scores.prompt[n])
  real = np.isfinite(taus)
  if not real.any():
    return math.nan, math.nan, math.nan, 0
  taus, prompts = np.asarray(taus)[real], np.asarray(prompts)[real]
  low, high = bootstrap_interval(taus, groups=prompts, seed=SEED)
  return float(taus.mean()), low, high, len(taus)


def best_of(
  scores: Scores, *others: Scores, longer_is_better: bool
) -> BestOf | None:
  """The best of n by score, by gold, by length and at random.

      (E[gold of the best of n] - mean gold) / (most gold - mean gold)

  per group, then the mean over groups; E exact over subsets (`best_of_n`). Of
  the groups of the commonest size; None where that is below three. The model is
  the mean of `scores` and `others`: runs of one evaluation set.
  """
  kept = [
    (n, mine)
    for n, mine in _groups(scores)
    if len(mine) >= LEAST_GROUP and np.isfinite(scores.gold[mine]).all()
  ]
  if not kept:
    return None
  sizes = np.bincount([len(mine) for _, mine in kept])
  size = int(len(sizes) - 1 - np.argmax(sizes[::-1]))  # the larger of equals
  kept = [
    (n, mine)
    for n, mine in kept
    if len(mine) == size and np.ptp(scores.gold[mine]) > 0
  ]
  if not kept:
    return None
  index = np.stack([mine for _, mine in kept])  # [G, K]
  prompts = scores.prompt[[n for n, _ in kept]]
  gold = scores.gold[index]
  mean = gold.mean(axis=1)
  room = gold.max(axis=1) - mean
  length = scores.length[index].astype(float)
  proxies = {
    "most": gold,
    "by_length": length if longer_is_better else -length,
    "random": np.zeros(gold.shape),  # all equal: each as likely
  }

  def way(proxy):
    every = range(1, size + 1)
    return [(best_of_n(proxy, gold, n) - mean) / room for n in every]

  found = {name: way(proxy) for name, proxy in proxies.items()}
  found["model"] = np.mean(
    [way(run.scores[index]) for run in (scores, *others)], axis=0
  )
  bands = [
    bootstrap_interval(values, groups=prompts, seed=SEED)
    for values in found["model"]
  ]
  low, high = np.asarray(bands).T
  return BestOf(
    **{name: np.mean(values, axis=1) for name, values in found.items()},
    low=low,
    high=high,
    groups=len(kept),
    left_out=len(scores.prompt) - len(kept),
  )


def _groups(scores: Scores):
  """Yields (number, completions [K]) of every group."""
  starts = np.searchsorted(scores.group, np.arange(len(scores.prompt) + 1))
  for n in range(len(scores.prompt)):
    yield n, np.arange(starts[n], starts[n + 1])


def credit_of(*runs: Scores) -> np.ndarray:
  """Credit per comparison, the mean over runs of one evaluation set, [C]."""
  chosen, rejected = runs[0].chosen, runs[0].rejected
  return np.mean(
    [accuracy(r.scores[chosen], r.scores[rejected], ties="half") for r in runs],
    axis=0,
  )


def gold_credit_of(*runs: Scores) -> tuple[np.ndarray, np.ndarray]:
  """(credit per pair of completions whose gold differs, its prompt).

  The mean over runs of one evaluation set; empty where no gold is known.
  """
  first = runs[0]
  higher, lower, prompts = [], [], []
  for n, mine in _groups(first):
    gold = first.gold[mine]
    for i, j in np.argwhere(gold[:, None] > gold[None, :]):
      higher.append(mine[i])
      lower.append(mine[j])
      prompts.append(first.prompt[n])
  credit = [
    accuracy(r.scores[higher], r.scores[lower], ties="half") for r in runs
  ]
  return np.mean(credit, axis=0), np.asarray(prompts)


def _by_value(runs, values, known, names) -> list[tuple]:
  """The accuracy of the comparisons of each value, or of each quarter."""
  if not known.any():
    return []
  credit = credit_of(*runs)
  prompts = prompts_of_comparisons(runs[0])
  distinct = np.unique(values[known])
  parts = [(names.get(v, f"{v:g}"), values == v) for v in distinct]
  if len(distinct) > MOST_STRENGTHS:
    edges = np.unique(np.quantile(values[known], [0, 0.25, 0.5, 0.75, 1]))
    # A part is open on its left but for the first.
    part = np.searchsorted(edges[1:-1], values, side="left")
    parts = [
      (
        f"{'above ' if i else ''}{edges[i]:.2g} up to {edges[i + 1]:.2g}",
        known & (part == i),
      )
      for i in range(len(edges) - 1)
    ]
  rows = []
  for name, mine in parts:
    if mine.any():
      low, high = bootstrap_interval(
        credit[mine], groups=prompts[mine], seed=SEED
      )
      rows.append(
        (name, float(credit[mine].mean()), low, high, int(mine.sum()))
      )
  return rows
