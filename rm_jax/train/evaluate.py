"""Scores of a whole data set, and the metrics of them: sums over all of it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rm_jax.data.loader import Dataset, lay_step
from rm_jax.data.plan import Plan
from rm_jax.heads import HeadSpec
from rm_jax.losses import expected_value
from rm_jax.metrics import (
  accuracy,
  bootstrap_interval,
  brier,
  calibration_error,
  length_correlation,
)
from rm_jax.objectives import LossSpec, loss_sums, slot_tasks
from rm_jax.reward_model import ModelSpec, completion_scores, forward
from rm_jax.train.labels import (
  Labelled,
  label_credits,
  labelled,
  sigmoid,
)
from rm_jax.train.optim import merge
from rm_jax.types import Batch


def read_head(head: HeadSpec, raw, batch: Batch):
  """(score [N, R, S] of a completion read there, number at each slot).

  The probability of a positive step or of the good verdict, the expected value
  of the bins, the weighted attributes (at a slot the one it is for; without
  weights there is no score, and the caller asks for none), the gated score (at
  a slot the objective it is for); else the raw output.
  """
  if head.kind == "steps":
    raw = jax.nn.softmax(raw, axis=-1)[..., 2]
  elif head.kind in ("classes", "two_layer_classes"):
    raw = jax.nn.softmax(raw, axis=-1)[..., 1]
  elif head.kind == "verdict":
    raw = jax.nn.sigmoid(raw)
  elif head.kind == "bins":
    raw = expected_value(raw, jnp.linspace(*head.centers))
  elif head.kind in ("attributes", "gated"):
    gated = head.kind == "gated"
    each = raw[..., 1:] if gated else raw
    index = batch.score_output[..., None]
    picked = jnp.take_along_axis(each, index, axis=-1)[..., 0]
    weights = head.weights or (np.nan,) * head.outputs
    score = raw[..., 0] if gated else raw @ jnp.asarray(weights, jnp.float32)
    return score, picked
  return raw, raw


def eval_body(spec: ModelSpec, loss: LossSpec | None, axis: str | None):
  """The function (trained, frozen, batch) -> (scores, slots, sums, whose).

  scores [N, M] one per completion, slots [N, R, S] one per slot, both float32,
  by the head of the completion's task (`read_head`). Sums are those of `loss`,
  {} without one; `axis` names the pmap axis, if any. whose [N, R, S] is the
  completion of each slot, -1 where nothing is read: a host has the slots of its
  own blocks only, and the scores of all.
  """

  def body(trained: dict, frozen: dict, batch: Batch):
    outputs = forward(
      spec,
      merge(trained, frozen),
      batch,
      language=loss is not None and loss.reads_language,
      hidden=loss is not None and loss.reads_hidden,
    )
    sums = {}
    if loss is not None:
      sums = loss_sums(loss, outputs, batch, dtype=spec.dtype)
      sums = jax.lax.psum(sums, axis) if axis else sums
    scores, slots = read_head(spec.head, outputs.scores, batch)
    heads = dict(spec.tasks)
    for task, one in enumerate(loss.every if loss is not None else ()):
      if one.head:
        own = read_head(heads[one.head], outputs.tasks[one.head], batch)
        mine = slot_tasks(batch) == task
        scores = jnp.where(mine, own[0], scores)
        slots = jnp.where(mine, own[1], slots)
    whose = jnp.where(batch.score_where, batch.slot_completion, -1)
    return completion_scores(scores, batch), slots, sums, whose

  return body


class Scored(NamedTuple):
  """Scores by group, in the order of `Dataset.groups`."""

  completions: list  # float32 [K] per group
  slots: list  # per group: K float32 arrays over the completion's slots
  sums: dict  # {term: (sum, weight)} float64, over the whole set


def score_dataset(
  evaluate, data: Dataset, plan: Plan, *, blocks: list[int] | None = None
) -> Scored:
  """Every group scored once; loss sums are added in float64.

  Args:
    evaluate: batch (numpy) of the own blocks -> what `eval_body` returns, of
      all blocks.
    plan: of `make_eval_plan`: each group exactly once.
    blocks: those of this host; None: all, see `lay_step`.
  """
  completions = [np.zeros(len(g.tokens), np.float32) for g in data.groups]
  slots = [[None] * len(g.tokens) for g in data.groups]
  sums = {}
  for step in range(len(plan.steps)):
    batch, owners, _ = lay_step(data, plan, step, blocks=blocks)
    by_completion, by_slot, terms, whose = evaluate(batch)
    for term, (total, weight) in terms.items():
      before = sums.get(term, (0.0, 0.0))
      sums[term] = (before[0] + float(total), before[1] + float(weight))
    for n, m in zip(*np.nonzero(owners.group >= 0), strict=True):
      group, k = owners.group[n, m], owners.completion[n, m]
      completions[group][k] = by_completion[n, m]
      slots[group][k] = by_slot[n][whose[n] == m]
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


def _numbered(prompts) -> np.ndarray:
  """Equal prompts get equal numbers."""
  names = np.asarray(prompts, object).astype(str)
  return np.unique(names, return_inverse=True)[1]


def _interval(values, groups, seed):
  low, high = bootstrap_interval(values, groups=groups, seed=seed)
  return value(np.mean(values), low, high, len(values))


def ordered(group) -> np.ndarray:
  """The comparisons of a group that are no ties, int32 [C, 2]."""
  return group.comparisons[group.preferences > 0.5]


def _lengths(data):
  pairs = [
    (len(g.tokens[i]), len(g.tokens[j]))
    for g in data.groups
    for i, j in ordered(g)
  ]
  array = np.asarray(pairs, np.float64).reshape(-1, 2)
  return array[:, 0], array[:, 1]


def measure_tasks(
  data: Dataset,
  scored: Scored,
  *,
  tasks: list,
  longer_is_better: list,
  seed: int,
) -> dict[str, dict]:
  """`measure` of every task by itself, its name before its metrics.

  Args:
    tasks: of rm_jax.train.tasks; groups carry their number.
    longer_is_better: per task.
  """
  out = {}
  for number, task in enumerate(tasks):
    mine = [n for n, g in enumerate(data.groups) if g.task == number]
    prefix = f"{task.name}/" if task.name else ""
    one = Scored(
      [scored.completions[n] for n in mine],
      [scored.slots[n] for n in mine],
      {
        term.removeprefix(prefix): sums
        for term, sums in scored.sums.items()
        if ("/" in term) == bool(prefix) and term.startswith(prefix)
      },
    )
    part = data._replace(groups=[data.groups[n] for n in mine])
    metrics = measure(
      part,
      one,
      prompts=[data.prompts[n] for n in mine],
      longer_is_better=longer_is_better[number],
      attributes=task.supervision.attributes,
      seed=seed,
    )
    out |= {prefix + name: entry for name, entry in metrics.items()}
  return out


def measure(
  data: Dataset,
  scored: Scored,
  *,
  prompts: list,
  longer_is_better: bool,
  attributes: tuple,
  seed: int,
) -> dict[str, dict]:
  """{metric: {value, low, high, n}} of one evaluation set.

  Intervals: 95 %, bootstrap over prompts. Equal scores count 1/2.
  Comparisons: accuracy, tie rate, calibration of sigmoid(score difference),
  and the length-only baseline: the longer completion (the shorter, where
  training data prefer those) is called better. Labels: `label_credits`,
  calibration, and the share of the larger class as baseline; of numbers the
  error of always saying their mean. Gold rewards, where all are known: how
  often they agree with the comparisons (what noisy labels leave to be reached),
  and the accuracy over every pair of completions whose gold differs.

  Args:
    prompts: one hashable per group; equal prompts are resampled together.
    attributes: names of the ratings, each of which gets an error of its own.
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
  if any(len(ordered(g)) for g in data.groups):
    out |= _compare(data, scored, prompts, longer_is_better, seed)
  if len(data.groups) and all(len(g.gold) for g in data.groups):
    out |= _agree(data, scored, prompts, longer_is_better, seed)
  if any(w.any() for g in data.groups for w in g.weights):
    out |= _label(data, scored, prompts, attributes, seed)
  return out


def chosen_rejected(data: Dataset, scored: Scored):
  """(chosen scores [C], rejected scores [C], group of each [C])."""
  rows = [
    (s[i], s[j], n)
    for n, (g, s) in enumerate(
      zip(data.groups, scored.completions, strict=True)
    )
    for i, j in ordered(g)
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
  probability = sigmoid(chosen - rejected)
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


def _agree(data, scored, prompts, longer_is_better, seed):
  """Against the gold rewards of a world; see `measure`."""
  out = {}
  said = [
    (g.gold[i], g.gold[j], n)
    for n, g in enumerate(data.groups)
    for i, j in ordered(g)
  ]
  if said:
    chosen, rejected, group = np.asarray(said, np.float64).T
    credit = accuracy(chosen, rejected, ties="half")
    prompt = _numbered(prompts)[group.astype(int)]
    out["gold_agreement"] = _interval(credit, prompt, seed)
  pairs = [
    (s[i], s[j], len(g.tokens[i]), len(g.tokens[j]), n)
    for n, (g, s) in enumerate(
      zip(data.groups, scored.completions, strict=True)
    )
    for i, j in np.argwhere(g.gold[:, None] > g.gold[None, :])
  ]
  if pairs:
    higher, lower, first, second, group = np.asarray(pairs, np.float64).T
    prompt = _numbered(prompts)[group.astype(int)]
    by_length = accuracy(first, second, ties="half")
    if not longer_is_better:
      by_length = 1 - by_length
    credit = accuracy(higher, lower, ties="half")
    out["gold_accuracy"] = _interval(credit, prompt, seed)
    out["gold_length_only_accuracy"] = _interval(by_length, prompt, seed)
  return out


def _label(data, scored, prompts, attributes, seed):
  found = labelled(data, scored, task=data.groups[0].task)
  prompt = _numbered(prompts)
  out = {
    name: _interval(values, prompt[group], seed)
    for name, (values, group) in label_credits(found).items()
  }
  if found.numbers:
    return out | _attribute_errors(found, prompt, attributes, seed)
  truth = found.labels
  share = float(np.mean(truth > 0.5))
  out["majority_accuracy"] = value(max(share, 1 - share), n=len(truth))
  out["label_calibration_error"] = value(
    calibration_error(found.predictions, truth), n=len(truth)
  )
  out["label_brier"] = value(brier(found.predictions, truth), n=len(truth))
  return out


def _attribute_errors(found: Labelled, prompt, attributes, seed) -> dict:
  """The errors of each attribute by itself."""
  out = {}
  for a, attribute in enumerate(attributes):
    of = found.output == a
    if of.any():
      own = found._replace(
        **{
          name: getattr(found, name)[of]
          for name in Labelled._fields
          if name != "numbers"
        }
      )
      for name, (values, group) in label_credits(own).items():
        key = f"{name}/{attribute}"
        out[key] = _interval(values, prompt[group], seed)
  return out
