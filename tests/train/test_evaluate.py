"""Metrics of a small example by hand: ties, baselines, intervals, labels."""

import math
import warnings

import forests
import numpy as np
import pytest

from rm_jax.data.loader import Reading, with_demands
from rm_jax.train.evaluate import (
  Scored,
  chosen_rejected,
  measure,
)

READING = Reading("auto", "end_of_turn", 64, "drop", "shared", 1, "last_token")


def dataset(groups):
  return with_demands(groups, READING, [], {}, [])


def pair(chosen, rejected, record=0):
  """Completions of these lengths, the first one chosen."""
  g = forests.group([[1] * chosen, [2] * rejected], [0, 0], record=record)
  return g._replace(weights=tuple(w * 0 for w in g.weights))


# Lengths (4, 2), (3, 3), (2, 5), (6, 1): longer wins 1, 1/2, 0, 1.
PAIRS = [pair(4, 2), pair(3, 3, 1), pair(2, 5, 2), pair(6, 1, 3)]
# Right, tied, right, wrong.
SCORES = [[1.0, 0.0], [0.5, 0.5], [2.0, -1.0], [-1.0, 1.0]]


def scored(scores, sums=None, slots=None):
  arrays = [np.asarray(s, np.float32) for s in scores]
  return Scored(arrays, slots or [[] for _ in scores], sums or {})


def of_pairs(**changes):
  settings = dict(
    prompts=list("abcd"), longer_is_better=True, attributes=(), seed=0
  )
  return measure(dataset(PAIRS), scored(SCORES), **settings | changes)


def test_pairs_by_hand():
  got = {k: v["value"] for k, v in of_pairs().items()}
  assert got["accuracy"] == (1 + 0.5 + 1 + 0) / 4  # a tie is a half
  assert got["tie_rate"] == 1 / 4
  assert got["length_only_accuracy"] == (1 + 0.5 + 0 + 1) / 4
  assert got["accuracy_over_length"] == 0.0
  diffs = [1.0, 0.0, 3.0, -2.0]
  assert got["score_diff"] == 0.5
  p = [1 / (1 + math.exp(-d)) for d in diffs]
  assert got["brier"] == pytest.approx(sum((1 - x) ** 2 for x in p) / 4)
  every = np.concatenate(SCORES)
  assert got["score_mean"] == pytest.approx(every.mean())
  assert got["score_std"] == pytest.approx(every.std())
  assert of_pairs()["accuracy"]["n"] == 4


def test_gold_by_hand():
  # Catches gold held against the wrong side, a completion that no comparison
  # holds left out, and a length baseline that prefers the wrong length.
  g = forests.group([[1] * n for n in (4, 2, 6)], [0] * 3)
  g = g._replace(
    weights=tuple(w * 0 for w in g.weights),
    comparisons=np.asarray([[0, 1], [2, 1], [0, 2]], np.int32),
    preferences=np.asarray([1, 1, 0.5], np.float32),  # the last one: a tie
    gold=np.asarray([1.0, 0.5, 0.5], np.float32),
  )
  scores = scored([[0.2, 0.9, -0.3]])
  settings = dict(prompts=["a"], attributes=(), seed=0)
  found = measure(dataset([g]), scores, longer_is_better=True, **settings)
  got = {k: v["value"] for k, v in found.items()}
  assert got["gold_agreement"] == (1 + 0.5) / 2  # equal gold: a half
  # Of gold 1 > 0.5 (twice): scores 0.2 < 0.9 and 0.2 > -0.3.
  assert got["gold_accuracy"] == 1 / 2
  assert got["gold_length_only_accuracy"] == 1 / 2  # 4 > 2, 4 < 6
  assert (found["gold_accuracy"]["n"], found["gold_agreement"]["n"]) == (2, 2)
  unknown = dataset([g._replace(gold=np.zeros(0, np.float32))])
  found = measure(unknown, scores, longer_is_better=True, **settings)
  assert not any("gold" in name for name in found)


def test_the_length_baseline_follows_the_training_data():
  # Wrong: the direction is chosen on the evaluation set, so that it is never
  # below a half.
  got = of_pairs(longer_is_better=False)["length_only_accuracy"]["value"]
  assert got == 1 - 2.5 / 4
  assert dataset(PAIRS).longer == (2.5, 4)
  assert dataset([pair(1, 5), pair(2, 2)]).longer == (0.5, 2)
  assert dataset([forests.group([[1]], [0])]).longer == (0.0, 0)


def test_equal_prompts_are_resampled_together():
  # One prompt only: every resample is the same, the interval has no width.
  alone = of_pairs(prompts=["a"] * 4)["accuracy"]
  assert alone["low"] is None or alone["low"] == alone["high"]
  apart = of_pairs()["accuracy"]
  assert apart["low"] < apart["value"] < apart["high"]


def test_chosen_and_rejected_of_a_ranking():
  g = forests.group([[1, 5], [1, 6], [1, 7]], [1] * 3)
  chosen, rejected, group = chosen_rejected(
    dataset([PAIRS[0], g]), scored([SCORES[0], [3.0, 2.0, 1.0]])
  )
  np.testing.assert_array_equal(chosen, [1.0, 3.0, 3.0, 2.0])
  np.testing.assert_array_equal(rejected, [0.0, 2.0, 1.0, 1.0])
  np.testing.assert_array_equal(group, [0, 1, 1, 1])


def test_large_differences_overflow_nowhere():
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    got = measure(
      dataset(PAIRS[:2]),
      scored([[1e4, -1e4], [-1e4, 1e4]]),
      prompts=["a", "b"],
      longer_is_better=True,
      attributes=(),
      seed=0,
    )
  assert got["brier"]["value"] == 0.5


def labelled(labels):
  return forests.group(
    [[1, 2]] * len(labels), [1] * len(labels), labels=list(labels)
  )._replace(
    comparisons=np.zeros((0, 2), np.int32), preferences=np.zeros(0, np.float32)
  )


def of_labels(labels, scores, loss):
  slots = [[np.asarray([s], np.float32) for s in scores]]
  return {
    key: entry["value"]
    for key, entry in measure(
      dataset([labelled(labels)]),
      scored([scores], {loss: (3.0, 4.0)}, slots),
      prompts=["a"],
      longer_is_better=True,
      attributes=(),
      seed=0,
    ).items()
  }


def test_outcome_labels_by_hand():
  got = of_labels([1, 0, 1, 1], [2.0, 1.0, 0.0, -1.0], "outcome_cross_entropy")
  assert got["loss"] == 0.75
  assert got["label_accuracy"] == (1 + 0 + 0.5 + 0) / 4
  assert got["majority_accuracy"] == 0.75
  p = [1 / (1 + math.exp(-s)) for s in (2.0, 1.0, 0.0, -1.0)]
  want = [(x - y) ** 2 for x, y in zip(p, (1, 0, 1, 1), strict=True)]
  assert got["label_brier"] == pytest.approx(sum(want) / 4, rel=1e-6)
  assert "accuracy" not in got


def test_step_classes_by_hand():
  # The score is P(positive); labels -1, 0, 1 count as positive or not.
  got = of_labels([-1, 0, 1, 1], [0.1, 0.7, 0.9, 0.2], "step_cross_entropy")
  assert got["label_accuracy"] == (1 + 0 + 1 + 0) / 4
  assert got["majority_accuracy"] == 0.5


@pytest.mark.parametrize("labels", [[1, 5], [0, 1], [-2, 1]])
def test_numbers_are_numbers_whatever_their_range(labels):
  # Wrong: a rating in [0, 1] read as the label of a logit, a negative one as
  # a class of steps.
  got = of_labels(labels, [1.5, 0.5], "squared_error")
  errors = [(1.5 - labels[0]) ** 2, (0.5 - labels[1]) ** 2]
  assert got["squared_error"] == pytest.approx(sum(errors) / 2)
  assert got["constant_squared_error"] == pytest.approx(np.var(labels))
  assert "label_accuracy" not in got


def of_steps(labels, scores):
  """The metrics of one completion per list, three tokens before its steps."""
  tokens = [list(range(3 + len(own))) for own in labels]
  slots = [list(range(3, 3 + len(own))) for own in labels]
  group = forests.group(tokens, [0] * len(tokens))._replace(
    slots=tuple(np.asarray(s, np.int32) for s in slots),
    outputs=tuple(np.zeros(len(s), np.int32) for s in slots),
    labels=tuple(np.asarray(y, np.float32) for y in labels),
    weights=tuple(np.ones(len(y), np.float32) for y in labels),
    comparisons=np.zeros((0, 2), np.int32),
    preferences=np.zeros(0, np.float32),
  )
  every = [[np.asarray(s, np.float32) for s in scores]]
  return measure(
    dataset([group]),
    scored(
      [[s[-1] for s in scores]], {"step_binary_cross_entropy": (1, 1)}
    )._replace(slots=every),
    prompts=["a"],
    longer_is_better=True,
    attributes=(),
    seed=0,
  )


def test_the_order_of_steps_by_hand():
  # Wrong: pairs across completions, a completion of many pairs that outweighs
  # the others, a tie that counts as right, one with no wrong step.
  got = of_steps(
    [[1, 0, 1], [0, 1], [1, 1]], [[2.0, 1.0, 1.0], [3.0, 4.0], [0.0, 9.0]]
  )
  # right before wrong (2 > 1), wrong before right (1 = 1: half); 4 > 3.
  assert got["step_order_accuracy"]["value"] == ((1 + 0.5) / 2 + 1) / 2
  assert got["step_order_accuracy"]["n"] == 2
  # The earlier step is the right one in one of two pairs, then in none.
  assert got["earlier_step_accuracy"]["value"] == (0.5 + 0) / 2
  assert "step_order_accuracy" not in of_steps([[1], [0]], [[1.0], [0.0]])


def test_two_terms_are_named():
  sums = {"bradley_terry": (3.0, 4.0), "next_token_cross_entropy": (0.0, 0.0)}
  got = measure(
    dataset(PAIRS),
    scored(SCORES, sums),
    prompts=list("abcd"),
    longer_is_better=True,
    attributes=(),
    seed=0,
  )
  assert got["loss/bradley_terry"]["value"] == 0.75
  assert got["loss/next_token_cross_entropy"]["value"] is None  # no weight
