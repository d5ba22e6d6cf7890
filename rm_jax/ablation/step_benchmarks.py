"""Published labels of steps, and what each benchmark measures on them.

Scores are those of steps, [S] for each solution: of a model, of position, of
length, of chance. A probability is held against 1/2, as the benchmarks do it.
For what is none, thresholds are chosen on other data: on ProcessBench's GSM8K
for all first errors, as it does it; for PRMBench on the other half of its
solutions.
"""

import re
from typing import NamedTuple

import numpy as np

from rm_jax.ablation.real_data import read_data
from rm_jax.data.split import problem_key
from rm_jax.metrics import accuracy, first_error_f1, roc_area
from rm_jax.step_errors import (
  best_prm_threshold,
  best_threshold,
  first_error,
  prm_score,
)
from rm_jax.step_scores import aggregate, pad_steps
from rm_jax.train.labels import Labelled, label_credits, sigmoid
from rm_jax.types import Record

# "Step 3:" stands in a few solutions of PRMBench, mostly the modified ones.
HEAD = re.compile(r"^\s*step\s*\d+\s*[:.)]\s+", re.IGNORECASE)


class Item(NamedTuple):
  """A problem with one or two solutions, as a run reads it, and the truth."""

  problem: str  # what no two items of a draw share
  row: dict
  steps: list  # of solutions: lists of texts
  right: list | None = None  # of solutions: bool [S]
  first_error: int | None = None  # of the one solution; -1: none


class Held(NamedTuple):
  """Items of all benchmarks, one after the other."""

  items: list  # of Item
  places: dict  # benchmark -> places in `items`


def held_of(drawn: dict[str, list[Item]]) -> Held:
  """The items of each benchmark as one test."""
  ends = np.cumsum([len(items) for items in drawn.values()]).tolist()
  places = {
    name: range(end - len(items), end)
    for (name, items), end in zip(drawn.items(), ends, strict=True)
  }
  return Held([item for items in drawn.values() for item in items], places)


def published(names: tuple, read) -> list[Item]:
  """Every item of the files; rows that `read` gives None for are left out."""
  items = [read(row) for name in names for row in read_data(name)]
  return [item for item in items if item is not None]


def draw(rng, items: list[Item], count: int) -> list[Item]:
  """So many items, each of another problem."""
  found = {}
  for i in rng.permutation(len(items)):
    problem = items[i].problem
    key = problem_key(Record("steps", problem, (), problem=problem))
    found.setdefault(key, items[i])
  return list(found.values())[:count]


def prmbench_item(row: dict) -> Item | None:
  """The solution as it was and with its errors, where both answer one prompt.

  None: the question was changed, an error is none of the steps, a step is
  empty.
  """
  steps = [
    [HEAD.sub("", step, count=1) for step in row[name]]
    for name in ("original_process", "modified_process")
  ]
  question, errors = row["original_question"], row["error_steps"]
  if (
    row["modified_question"] != question
    or not all(1 <= i <= len(steps[1]) for i in errors)
    or not all(step.strip() for own in steps for step in own)
  ):
    return None
  right = [np.ones(len(own), bool) for own in steps]
  right[1][np.asarray(errors) - 1] = False
  return Item(
    question, dict(prompt=question, completions=steps), steps, right=right
  )


def processbench_item(row: dict) -> Item:
  return judged_item(row["problem"], row["steps"], row["label"])


def mr_gsm8k_item(row: dict) -> Item:
  """Of a wrong solution, as all of these files are; its errors count from 1."""
  error = int(row["model_output_solution_first_error_step"]) - 1
  return judged_item(row["question"], row["model_output_steps"], error)


def mistake_item(row: dict) -> Item:
  mistake = row["mistake_index"]
  return judged_item(
    row["input"], row["steps"], -1 if mistake is None else mistake
  )


def judged_item(prompt: str, steps: list, first_error: int) -> Item:
  row = dict(prompt=prompt, completions=[steps], first_error=[first_error])
  return Item(prompt, row, [steps], first_error=first_error)


def measures(scores: dict, test: Held, *, by: str, logits: bool) -> dict:
  """Every benchmark by its own measure, of the items that were scored.

  step_order ... prm_score: see `of_pairs`. processbench_*: F1 of the first
  error, both with the threshold that is best on GSM8K; processbench_*_half:
  with a probability of 1/2, of logits alone. mr_gsm8k: share of its
  wrong solutions whose first wrong step is found, the same threshold (ACC_step
  there; its MR-Score needs right solutions as well). mistake: share of
  solutions whose mistake is placed, or told to be none, mean over the tasks.

  Args:
    scores: {place in the test: float [S] of each solution's steps}.
    by: of step_scores.AGGREGATES: how a solution's score comes of them.
    logits: scores are logits, so that a threshold of 1/2 means something.
  """
  kept = {
    name: [i for i in places if i in scores]
    for name, places in test.places.items()
  }
  pairs = [(scores[i], test.items[i].right) for i in kept["prmbench"]]

  def told(name):
    gold = [test.items[i].first_error for i in kept[name]]
    return *pad_steps([scores[i][0] for i in kept[name]]), np.asarray(gold)

  threshold, f1 = best_threshold(*told("processbench_gsm8k"))

  def found(name, threshold=threshold):
    step_scores, where, gold = told(name)
    return first_error(step_scores, where, threshold=threshold), gold

  def share(name):
    said, gold = found(name)
    return float((said == gold).mean())

  tasks = [name for name in kept if name.startswith("mistake/")]
  splits = ("processbench_gsm8k", "processbench_math") if logits else ()
  half = {f"{name}_half": first_error_f1(*found(name, 0.0)) for name in splits}
  return (
    of_pairs(pairs, by=by, logits=logits)
    | half
    | {
      "processbench_gsm8k": f1,
      "processbench_math": first_error_f1(*found("processbench_math")),
      "mr_gsm8k": share("mr_gsm8k"),
      "mistake": float(np.mean([share(name) for name in tasks])),
    }
  )


def of_pairs(pairs: list, *, by: str, logits: bool) -> dict[str, float]:
  """PRMBench's measures of the modified solutions, and original above modified.

  step_order: share of a solution's pairs (right, wrong step) with the right one
  higher, mean over solutions; step_auc: the same over steps of all of them.
  solution_order: original above modified, equal scores 1/2.

  Args:
    pairs: of (scores, right), both lists of [original, modified].
  """
  modified = [scores[1] for scores, _ in pairs]
  right = [own[1] for _, own in pairs]
  flat, truth = np.concatenate(modified), np.concatenate(right)
  group = np.repeat(np.arange(len(right)), [len(own) for own in right])
  none = np.zeros(len(flat), int)
  steps = Labelled(flat, truth.astype(float), group, none, none, False)
  order, _ = label_credits(steps)["step_order_accuracy"]
  first, second = (
    np.asarray([solution_score(scores[k], by=by) for scores, _ in pairs])
    for k in (0, 1)
  )
  metrics = {
    "step_order": float(order.mean()),
    "step_auc": roc_area(flat, truth),
    "prm_score_chosen": chosen_prm_score(modified, right),
    "solution_order": float(accuracy(first, second, ties="half").mean()),
  }
  if logits:
    metrics["prm_score"] = max(prm_score(flat > 0, truth).score, 0.0)
  return metrics


def solution_score(scores: np.ndarray, *, by: str) -> float:
  """The score of one solution; a product is one of probabilities."""
  known = sigmoid(scores) if by == "log_product" else scores
  return float(aggregate(known, np.ones(len(scores), bool), by=by))


def chosen_prm_score(scores: list, right: list) -> float:
  """PRM-Score; each half of the solutions has the threshold of the other."""
  valid, truth = [], []
  for own, other in ((0, 1), (1, 0)):
    threshold, _ = best_prm_threshold(
      np.concatenate(scores[other::2]), np.concatenate(right[other::2])
    )
    valid.append(np.concatenate(scores[own::2]) > threshold)
    truth.append(np.concatenate(right[own::2]))
  found = prm_score(np.concatenate(valid), np.concatenate(truth))
  return max(found.score, 0.0)
