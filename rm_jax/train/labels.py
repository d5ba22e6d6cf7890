"""What the head said where labels stand, and how right it was."""

from typing import NamedTuple

import numpy as np

from rm_jax.data.loader import Dataset

# Losses whose labels are numbers, not probabilities.
NUMBERS = ("squared_error", "two_hot", "hl_gauss")


def sigmoid(x):
  """1 / (1 + exp(-x)) that overflows nowhere."""
  return np.exp(-np.logaddexp(0.0, -x))


class Labelled(NamedTuple):
  """What the head said where a label stands, [L] each.

  The label of a class is a probability (three-way steps: 1 for a right step,
  else 0) and so is the prediction; else both are numbers.
  """

  predictions: np.ndarray  # float64
  labels: np.ndarray  # float64
  group: np.ndarray  # int, of `Dataset.groups`
  completion: np.ndarray  # int, within the group
  output: np.ndarray  # int, of the head
  numbers: bool


def labelled(data: Dataset, scored, *, task: int = 0) -> Labelled:
  """Every slot of a task that has a label and a weight, in order.

  Args:
    scored: of `evaluate.score_dataset`.
  """
  rows = [
    (p, y, n, k, a)
    for n, (g, s) in enumerate(zip(data.groups, scored.slots, strict=True))
    if g.task == task
    for k in range(len(g.tokens))
    for p, y, w, a in zip(
      s[k], g.labels[k], g.weights[k], g.outputs[k], strict=True
    )
    if w > 0
  ]
  scores, labels, group, completion, output = (
    np.asarray(rows, np.float64).reshape(-1, 5).T
  )
  indices = [x.astype(int) for x in (group, completion, output)]
  if not len(labels):
    return Labelled(scores, labels, *indices, False)
  # The loss knows what its labels are; without one their range says it.
  three = labels.min() < 0 and labels.max() <= 1
  numbers = labels.max() > 1
  if scored.sums:
    three = "step_cross_entropy" in scored.sums
    numbers = any(name in scored.sums for name in NUMBERS)
  if three:  # the score is P(positive)
    labels = (labels > 0).astype(float)
  elif not numbers:
    scores = sigmoid(scores)
  return Labelled(scores, labels, *indices, bool(numbers))


def label_credits(found: Labelled) -> dict:
  """{metric: (values, group of each)}; the metric is the mean of its values.

  label_accuracy: the prediction is on the label's side of 1/2; exactly there
  counts 1/2. step_order_accuracy, per completion with right and wrong steps:
  the share of its pairs (right, wrong) in which the right one is predicted
  higher, which no threshold and no share of right steps moves;
  earlier_step_accuracy is that of calling the earlier step of each right.
  """
  y, group = found.labels, found.group
  if found.numbers:
    spread = np.zeros(len(y))
    for a in np.unique(found.output):
      of = found.output == a
      spread[of] = (y[of] - y[of].mean()) ** 2
    return {
      "squared_error": ((found.predictions - y) ** 2, group),
      "constant_squared_error": (spread, group),
    }
  p = found.predictions
  right = np.where(p == 0.5, 0.5, (p > 0.5) == (y > 0.5)).astype(float)
  credits = {"label_accuracy": (right, group)}
  order, earlier, owners = [], [], []
  same = np.stack([group, found.completion], axis=1)
  starts = np.flatnonzero(np.any(np.diff(same, axis=0, prepend=-1), axis=1))
  for own in np.split(np.arange(len(y)), starts[1:]):
    good, bad = own[y[own] > 0.5], own[y[own] < 0.5]
    if len(good) and len(bad):
      pairs = np.sign(p[good][:, None] - p[bad])
      order.append(np.mean((pairs + 1) / 2))
      earlier.append(np.mean(good[:, None] < bad))
      owners.append(group[own[0]])
  if order:
    owners = np.asarray(owners)
    credits["step_order_accuracy"] = (np.asarray(order), owners)
    credits["earlier_step_accuracy"] = (np.asarray(earlier), owners)
  return credits
