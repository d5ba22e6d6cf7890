"""Scores of a whole data set, and the metrics of them: sums over all of it."""

from typing import NamedTuple

import jax
import numpy as np

from rm_jax.data.loader import Dataset, lay_step
from rm_jax.data.plan import Plan
from rm_jax.metrics import (
  accuracy,
  bootstrap_interval,
  brier,
  calibration_error,
  length_correlation,
)
from rm_jax.objectives import LossSpec, loss_sums
from rm_jax.reward_model import ModelSpec, completion_scores, forward
from rm_jax.train.optim import merge
from rm_jax.types import Batch


def eval_body(spec: ModelSpec, loss: LossSpec | None, axis: str | None):
  """The function (trained, frozen, batch) -> (scores, slot scores, sums).

  scores [N, M] one per completion, slot scores [N, R, S], both float32; of a
  three-way step head the probability of a positive step. Sums are those of
  `loss`, {} without one; `axis` names the pmap axis, if any.
  """

  def body(trained: dict, frozen: dict, batch: Batch):
    language = loss is not None and loss.language > 0
    outputs = forward(spec, merge(trained, frozen), batch, language=language)
    sums = {}
    if loss is not None:
      sums = loss_sums(loss, outputs, batch, dtype=spec.dtype)
      sums = jax.lax.psum(sums, axis) if axis else sums
    scores = outputs.scores
    if spec.head == "steps":
      scores = jax.nn.softmax(scores, axis=-1)[..., 2]
    return completion_scores(scores, batch), scores, sums

  return body


class Scored(NamedTuple):
  """Scores by group, in the order of `Dataset.groups`."""

  completions: list  # float32 [K] per group
  slots: list  # per group: K float32 arrays over the completion's slots
  sums: dict  # {term: (sum, weight)} float64, over the whole set


def score_dataset(evaluate, data: Dataset, plan: Plan) -> Scored:
  """Every group scored once; loss sums are added in float64.

  Args:
    evaluate: batch (numpy) -> (completion scores [N, M], slot scores
      [N, R, S], {term: (sum, weight)}).
    plan: of `make_eval_plan`: each group exactly once.
  """
  completions = [np.zeros(len(g.tokens), np.float32) for g in data.groups]
  slots = [[None] * len(g.tokens) for g in data.groups]
  sums = {}
  for step in range(len(plan.steps)):
    batch, owners, _ = lay_step(data, plan, step)
    by_completion, by_slot, terms = evaluate(batch)
    by_completion, by_slot = np.asarray(by_completion), np.asarray(by_slot)
    for term, (total, weight) in terms.items():
      before = sums.get(term, (0.0, 0.0))
      sums[term] = (before[0] + float(total), before[1] + float(weight))
    for n, m in zip(*np.nonzero(owners.group >= 0), strict=True):
      group, k = owners.group[n, m], owners.completion[n, m]
      completions[group][k] = by_completion[n, m]
      mine = batch.score_where[n] & (batch.slot_completion[n] == m)
      slots[group][k] = by_slot[n][mine]
  return Scored(completions, slots, sums)


def value(number, low=None, high=None, n=None) -> dict:
  """One entry of results.json; a missing interval is null."""

  def clean(x):
    return None if x is None or not np.isfinite(x) else float(x)

  return {
    "value": clean(number),
    "low": clean(low),
    "high": clean(high),
    "n": n,
  }


def _sigmoid(x):
  """1 / (1 + exp(-x)) that overflows nowhere."""
  return np.exp(-np.logaddexp(0.0, -x))


def _numbered(prompts) -> np.ndarray:
  """Equal prompts get equal numbers."""
  names = np.asarray(prompts, object).astype(str)
  return np.unique(names, return_inverse=True)[1]


def _interval(values, groups, seed):
  low, high = bootstrap_interval(values, groups=groups, seed=seed)
  return value(np.mean(values), low, high, len(values))


def longer_wins(data: Dataset) -> float:
  """Share of comparisons whose longer completion was chosen, ties 1/2."""
  sides = _lengths(data)
  return float(np.mean(accuracy(*sides, ties="half"))) if len(sides[0]) else 0.5


def _lengths(data):
  pairs = [
    (len(g.tokens[i]), len(g.tokens[j]))
    for g in data.groups
    for i, j in g.comparisons
  ]
  array = np.asarray(pairs, np.float64).reshape(-1, 2)
  return array[:, 0], array[:, 1]


def measure(
  data: Dataset,
  scored: Scored,
  *,
  prompts: list,
  longer_is_better: bool,
  seed: int,
) -> dict[str, dict]:
  """{metric: {value, low, high, n}} of one evaluation set.

  Intervals: 95 %, bootstrap over prompts. Equal scores count 1/2.
  Comparisons: accuracy, tie rate, calibration of sigmoid(score difference),
  and the length-only baseline: the longer completion (the shorter, where
  training data prefer those) is called better. Labels: accuracy of the sign
  (of the larger class for three-way steps), calibration, and the share of the
  larger class as baseline.

  Args:
    prompts: one hashable per group; equal prompts are resampled together.
  """
  out = {}
  for term, (total, weight) in scored.sums.items():
    mean = total / weight if weight else None
    out["loss" if len(scored.sums) == 1 else f"loss/{term}"] = value(
      mean, n=len(data.groups)
    )
  every = np.concatenate([*scored.completions, np.zeros(0)])
  out["score_mean"] = value(np.mean(every), n=len(every))
  out["score_std"] = value(np.std(every), n=len(every))
  if any(len(g.comparisons) for g in data.groups):
    out |= _compare(data, scored, prompts, longer_is_better, seed)
  if any(w.any() for g in data.groups for w in g.weights):
    out |= _label(data, scored, prompts, seed)
  return out


def chosen_rejected(data: Dataset, scored: Scored):
  """(chosen scores [C], rejected scores [C], group of each [C])."""
  rows = [
    (s[i], s[j], n)
    for n, (g, s) in enumerate(
      zip(data.groups, scored.completions, strict=True)
    )
    for i, j in g.comparisons
  ]
  array = np.asarray(rows, np.float64).reshape(-1, 3)
  return array[:, 0], array[:, 1], array[:, 2].astype(int)


def _compare(data, scored, prompts, longer_is_better, seed):
  chosen, rejected, group = chosen_rejected(data, scored)
  prompt = _numbered(prompts)[group]
  credit = accuracy(chosen, rejected, ties="half")
  by_length = accuracy(*_lengths(data), ties="half")
  if not longer_is_better:
    by_length = 1 - by_length
  probability = _sigmoid(chosen - rejected)
  # Both orders: a pair that is always given chosen first has one label only.
  both = np.concatenate([probability, 1 - probability])
  labels = np.concatenate([np.ones(len(chosen)), np.zeros(len(chosen))])
  gain = credit - by_length
  everyone = np.concatenate(
    [np.full(len(s), n) for n, s in enumerate(scored.completions)]
  )
  lengths = np.concatenate(
    [[len(t) for t in g.tokens] for g in data.groups]
  ).astype(float)
  scores = np.concatenate(scored.completions).astype(float)
  return {
    "accuracy": _interval(credit, prompt, seed),
    "length_only_accuracy": _interval(by_length, prompt, seed),
    "accuracy_over_length": _interval(gain, prompt, seed),
    "tie_rate": value(np.mean(chosen == rejected), n=len(chosen)),
    "score_diff": _interval(chosen - rejected, prompt, seed),
    "calibration_error": value(calibration_error(both, labels), n=len(chosen)),
    "brier": value(brier(both, labels), n=len(chosen)),
    "length_correlation": value(
      length_correlation(scores, lengths, group=everyone), n=len(scores)
    ),
  }


def _label(data, scored, prompts, seed):
  rows = [
    (p, y, n)
    for n, (g, s) in enumerate(zip(data.groups, scored.slots, strict=True))
    for k in range(len(g.tokens))
    for p, y, w in zip(s[k], g.labels[k], g.weights[k], strict=True)
    if w > 0
  ]
  scores, labels, group = np.asarray(rows, np.float64).T
  prompt = _numbered(prompts)[group.astype(int)]
  # The loss knows what its labels are; without one their range says it.
  three = labels.min() < 0 and labels.max() <= 1
  numbers = labels.max() > 1
  if scored.sums:
    three = "step_cross_entropy" in scored.sums
    numbers = "squared_error" in scored.sums
  out = {}
  if three:  # the score is P(positive)
    probability, truth = scores, (labels > 0).astype(float)
  elif not numbers:
    probability, truth = _sigmoid(scores), labels
  else:
    error = (scores - labels) ** 2
    spread = (labels - labels.mean()) ** 2
    return {
      "squared_error": _interval(error, prompt, seed),
      "constant_squared_error": _interval(spread, prompt, seed),
    }
  right = np.where(
    probability == 0.5, 0.5, (probability > 0.5) == (truth > 0.5)
  )
  share = float(np.mean(truth > 0.5))
  out["label_accuracy"] = _interval(right.astype(float), prompt, seed)
  out["majority_accuracy"] = value(max(share, 1 - share), n=len(truth))
  out["label_calibration_error"] = value(
    calibration_error(probability, truth), n=len(truth)
  )
  out["label_brier"] = value(brier(probability, truth), n=len(truth))
  return out
