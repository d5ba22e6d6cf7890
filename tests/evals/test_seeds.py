"""Runs of several seeds merged: means, intervals, refusals."""

import json

import numpy as np
import pytest

from rm_jax.evals.seeds import merge, table
from rm_jax.train.checkpoint import write_json
from rm_jax.types import UserError

NAMES = ("accuracy", "length_only_accuracy", "accuracy_over_length")


def labels(seed):
  """Right on both labels with seed 0, on the second one only with seed 1."""
  return dict(
    label_predictions=[[0.9, 0.2], [0.4, 0.3]][seed],
    label_labels=[1.0, 0.0],
    label_group=[0, 1],
    label_completion=[0, 0],
    label_output=[0, 0],
    label_numbers=False,
  )


def write_run(
  folder, seed, scores, *, length=(9, 5, 4, 8), accuracy, prompts=("p", "q")
):
  """A run over two groups of two; completion 0 is the chosen one."""
  folder.mkdir()
  np.savez(
    folder / "scores.npz",
    scores=np.asarray(scores, np.float32),
    group=[0, 0, 1, 1],
    record=[10, 10, 11, 11],
    length=length,
    # The last one is a tie: no accuracy counts it.
    comparisons=[[0, 0, 1], [1, 0, 1], [1, 1, 0]],
    preference=[1.0, 1.0, 0.5],
    strength=[np.nan] * 3,
    gold=[np.nan] * 4,
    prompt=prompts,
    task=[0, 0],
    **labels(seed),
  )
  values = dict(zip(NAMES, (accuracy, 0.5, accuracy - 0.5), strict=True))
  values["label_accuracy"] = [1.0, 0.5][seed]
  values |= {"tie_rate": 0.0, "calibration_error": 0.1, "brier": 0.2}
  entry = {"low": None, "high": None, "n": 2, "seeds": [seed]}
  results = {
    "commit": "abc",
    "device": "a CPU",
    "versions": {"jax": "1"},
    "seconds": 3.0,
    "command": f"rm-jax train --config.seed={seed}",
    "metrics": {k: {"value": v} | entry for k, v in values.items()},
    "per_seed": {str(seed): values},
  }
  (folder / "results.json").write_text(json.dumps(results))
  return folder


def test_values_are_means_and_intervals_cover_prompts(tmp_path):
  # Seed 0 gets both right, seed 1 the first only: credits 1 and 1/2.
  a = write_run(tmp_path / "a", 0, [2, 1, 4, 3], accuracy=1.0)
  b = write_run(tmp_path / "b", 1, [2, 1, 3, 4], accuracy=0.5)
  out = merge([a, b])
  found = out["metrics"]["accuracy"]
  assert found["value"] == 0.75 and found["seeds"] == [0, 1]
  # Two prompts: a resample's mean is 1/2, 3/4 or 1, each end with chance 1/4.
  assert (found["low"], found["high"]) == (0.5, 1.0)
  assert out["per_seed"]["1"]["accuracy"] == 0.5
  assert "| reward model | 0.750 [0.500, 1.000] | 1.000, 0.500 |" in table(out)
  assert "| chance | 0.500 | |" in table(out)


def test_one_prompt_has_no_interval(tmp_path):
  # Catches: NaN in the file, which is no JSON, and "[nan, nan]" in the table.
  runs = [
    write_run(
      tmp_path / str(seed), seed, scores, accuracy=share, prompts=("p", "p")
    )
    for seed, scores, share in ((0, [2, 1, 4, 3], 1.0), (1, [2, 1, 3, 4], 0.5))
  ]
  out = merge(runs)
  want = {"value": 0.75, "low": None, "high": None, "n": 2, "seeds": [0, 1]}
  assert out["metrics"]["accuracy"] == want
  assert "| reward model | 0.750 | 1.000, 0.500 |" in table(out)
  write_json(tmp_path / "merged.json", out)
  assert "NaN" not in (tmp_path / "merged.json").read_text()


def test_labels_are_merged_like_comparisons(tmp_path):
  # Wrong: no interval, or one of a single seed. Credits 1/2 and 1.
  a = write_run(tmp_path / "a", 0, [2, 1, 4, 3], accuracy=1.0)
  b = write_run(tmp_path / "b", 1, [2, 1, 3, 4], accuracy=0.5)
  found = merge([a, b])["metrics"]["label_accuracy"]
  assert (found["value"], found["low"], found["high"]) == (0.75, 0.5, 1.0)


def test_another_evaluation_set_is_refused(tmp_path):
  a = write_run(tmp_path / "a", 0, [2, 1, 4, 3], accuracy=1.0)
  b = write_run(
    tmp_path / "b", 1, [2, 1, 4, 3], length=(9, 5, 4, 7), accuracy=1.0
  )
  with pytest.raises(UserError, match="another evaluation set than .*length"):
    merge([a, b])


def test_a_seed_given_twice_and_an_unfinished_run_are_refused(tmp_path):
  a = write_run(tmp_path / "a", 0, [2, 1, 4, 3], accuracy=1.0)
  with pytest.raises(UserError, match="seed 0 is given twice"):
    merge([a, a])
  (a / "results.json").unlink()
  with pytest.raises(UserError, match="no results.json. Finish the run"):
    merge([a])
