"""Runs on published data: whose score is whose, who shares the states."""

import functools
import pathlib

import jax
import numpy as np
import pytest

from rm_jax.ablation import real_runs as runs
from rm_jax.models.sharding import make_mesh
from rm_jax.train import loop

ROWS = [
  {
    "prompt": f"What is {n} + 1?",
    "completions": [
      [f"We add 1 to {n}.", f"The answer is {n + 1}."],
      ["That is easy.", f"It is {n}.", "We are done."],
    ],
    "labels": [[1, 1], [1, 0, 1]],
  }
  for n in range(6)
]
JUDGED = [
  {
    "prompt": "What is 7 + 1?",
    "completions": [["Seven is odd.", "It is 9.", "So it is."]],
    "first_error": [1],
  }
]


def test_scores_are_put_back_by_record_and_completion():
  # Record 1 was too long for a row.
  arrays = {
    "record": np.asarray([0, 0, 2]),
    "scores": np.asarray([0.5, 1.5, 2.5], np.float32),
    "slots": np.asarray([0.1, 0.5, 1.5, 0.2, 0.3, 2.5], np.float32),
    "slot_counts": np.asarray([2, 1, 3]),
  }
  found = runs.by_record(arrays)
  assert sorted(found) == [0, 2] and [len(found[n]) for n in (0, 2)] == [2, 1]
  assert [r.score for r in found[0]] == [0.5, 1.5]
  np.testing.assert_allclose(found[0][0].slots, [0.1, 0.5], rtol=1e-6)
  np.testing.assert_allclose(found[0][1].slots, [1.5], rtol=1e-6)
  np.testing.assert_allclose(found[2][0].slots, [0.2, 0.3, 2.5], rtol=1e-6)


def tiny(states, *, rate=1e-2):
  c = runs.real_config(
    seed=0,
    steps=2,
    groups=2,
    row=256,
    loss="step_binary_cross_entropy",
    pooling="step_ends",
    rate=rate,
    states=states,
  )
  c.init.tokenizer, c.init["from"] = "smollm2", "random:tiny"
  c.train.trainable = "last:1"
  return c


@pytest.mark.slow
def test_a_run_scores_every_step_those_without_a_label_too(
  monkeypatch, optimised
):
  # Wrong: slots of labels alone, which end at the first error.
  one = functools.partial(make_mesh, devices=jax.devices()[:1])
  monkeypatch.setattr(loop, "make_mesh", one)
  states = runs.states_folder()
  test = [ROWS[5], *JUDGED]
  found, costs = runs.run(tiny(states), ROWS[:4], test)
  assert [[len(r.slots) for r in found[n]] for n in (0, 1)] == [[2, 3], [3]]
  for read in (*found[0], *found[1]):
    assert read.score == read.slots[-1] and np.std(read.slots) > 0
  assert costs["left_out"] == 0 and costs["train_tokens"] > 100
  made = pathlib.Path(states.name) / "states"
  before = made.stat().st_mtime_ns
  # Another arm of the seed: the same texts, other labels, the same states.
  other = [row | {"labels": [[1, 1], [0, 0, 0]]} for row in ROWS[:4]]
  second, _ = runs.run(tiny(states), other, test)
  assert made.stat().st_mtime_ns == before
  assert second[0][1].score != found[0][1].score
