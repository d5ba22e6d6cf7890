"""results.json: what a run found, with what made it."""

import pathlib
import platform
import subprocess
import sys

import flax
import jax
import numpy as np

from rm_jax.train.labels import labelled

RESULTS_SCHEMA = 1


def write_scores(path: pathlib.Path, data, scored) -> None:
  """Scores of the evaluation set as flat arrays, for plots and other tools.

  Per completion scores, group, record, length, gold (NaN: unknown); per
  comparison (group, chosen, rejected), preference, strength (NaN: unknown);
  per group the key of its prompt and its task; per slot, completion after
  completion, what the head said there (`slots`; `slot_counts` of each
  completion); of the main task per label the prediction, group, completion and
  output of `labels.Labelled`.
  """
  slots = [one for group in scored.slots for one in group]
  counts = [len(s) for s in scored.completions]
  pairs = [
    (n, i, j) for n, g in enumerate(data.groups) for i, j in g.comparisons
  ]
  np.savez(
    path,
    scores=np.concatenate(scored.completions),
    group=np.repeat(np.arange(len(counts)), counts),
    record=np.repeat([g.record for g in data.groups], counts),
    length=np.concatenate([[len(t) for t in g.tokens] for g in data.groups]),
    comparisons=np.asarray(pairs, np.int32).reshape(-1, 3),
    preference=np.concatenate([g.preferences for g in data.groups]),
    strength=np.concatenate([g.strengths for g in data.groups]),
    gold=np.concatenate(
      [
        g.gold if len(g.gold) else np.full(len(g.tokens), np.nan)
        for g in data.groups
      ]
    ),
    prompt=np.asarray(data.prompts),
    task=np.asarray([g.task for g in data.groups]),
    slots=np.concatenate(slots),
    slot_counts=np.asarray([len(one) for one in slots]),
    **{f"label_{k}": x for k, x in labelled(data, scored)._asdict().items()},
  )


def results(
  config, metrics, counts, command, seconds, step, stages=None
) -> dict:
  """The content of results.json of one run.

  Args:
    stages: {stage: seconds} of a training run.
  """
  return {
    "schema": RESULTS_SCHEMA,
    "commit": commit(),
    "device": device(),
    "versions": versions(),
    "seconds": round(seconds, 1),
    "stages": {name: round(s, 2) for name, s in (stages or {}).items()},
    "command": command,
    "metrics": {k: v | {"seeds": [config.seed]} for k, v in metrics.items()},
    "per_seed": {str(config.seed): {k: v["value"] for k, v in metrics.items()}},
    "counts": counts,
    "num_train_steps": step,
    "ties": "half",
  }


def versions() -> dict:
  """Python and the libraries that decide the numbers."""
  return {
    "python": platform.python_version(),
    "jax": jax.__version__,
    "flax": flax.__version__,
    "numpy": np.__version__,
  }


def commit() -> str:
  """Commit of the source tree, "+" if it was changed, "" outside of one."""
  here = pathlib.Path(__file__).parent

  def git(*args):
    try:
      out = subprocess.run(
        ["git", "-C", str(here), *args], capture_output=True, text=True
      )
    except OSError:  # no git on this machine
      return ""
    return out.stdout.strip() if out.returncode == 0 else ""

  # Installed inside somebody else's tree, this file is not one of its own.
  if not git("ls-files", pathlib.Path(__file__).name):
    return ""
  head = git("rev-parse", "--short=12", "HEAD")
  return head + ("+" if head and git("status", "--porcelain") else "")


def device() -> str:
  """What the run ran on, in words."""
  kind = jax.devices()[0].device_kind
  return f"{jax.device_count()} x {kind} ({platform.machine()}, {sys.platform})"
