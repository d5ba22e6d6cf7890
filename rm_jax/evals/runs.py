"""A finished run, read from the files in its workdir."""

import json
import pathlib
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from rm_jax.train.labels import Labelled
from rm_jax.train.log import read_rows
from rm_jax.train.sets import TRAINED_ON
from rm_jax.types import UserError

NEEDED = ("run.json", "metrics.jsonl", "scores.npz", "results.json")
ARRAYS = (
  "scores",
  "group",
  "length",
  "comparisons",
  "preference",
  "strength",
  "gold",
  "prompt",
  "task",
)
EVAL = "eval/"  # prefix of evaluation keys in metrics.jsonl
# The metric that a run is about is the first one that it has.
MAIN = ("accuracy", "label_accuracy", "squared_error", "loss", "score_mean")


class Scores(NamedTuple):
  """The evaluation set of the main task, scored; ties are left out.

  M completions of G groups, C comparisons that are no ties.
  """

  scores: np.ndarray  # float64 [M]
  length: np.ndarray  # int [M]: tokens of prompt and completion
  gold: np.ndarray  # float64 [M], NaN: unknown
  group: np.ndarray  # int [M], ascending from 0
  prompt: np.ndarray  # str [G]: key of its prompt
  chosen: np.ndarray  # int [C]: completion, of M
  rejected: np.ndarray  # int [C]
  strength: np.ndarray  # float64 [C], NaN: unknown


class Run(NamedTuple):
  """What a finished run left."""

  workdir: pathlib.Path
  config: ConfigDict
  results: dict  # results.json
  rows: list  # of metrics.jsonl
  scores: Scores
  longer_is_better: bool  # the length baseline prefers the longer completion


def read_run(workdir: pathlib.Path) -> Run:
  """The run of a workdir.

  Raises:
    UserError: no such folder, no finished run in it, or one whose scores an
      older version wrote.
  """
  workdir = pathlib.Path(workdir)
  if not workdir.is_dir():
    raise UserError(
      f"{workdir}: expected the workdir of a run, got no such folder: see "
      "--workdir of its rm-jax train command."
    )
  absent = [name for name in NEEDED if not (workdir / name).exists()]
  if absent:
    raise UserError(
      f"{workdir}: expected a finished run, got a folder without "
      f"{', '.join(absent)}: train it to the end first."
    )
  trained_on = {"longer_is_better": True}
  if (workdir / TRAINED_ON).exists():
    trained_on = json.loads((workdir / TRAINED_ON).read_text())
  return Run(
    workdir,
    ConfigDict(json.loads((workdir / "run.json").read_text())["config"]),
    json.loads((workdir / "results.json").read_text()),
    read_rows(workdir / "metrics.jsonl"),
    read_scores(workdir / "scores.npz"),
    trained_on["longer_is_better"],
  )


def read_scores(path: pathlib.Path) -> Scores:
  """The scores of the main task in a scores.npz.

  Raises:
    UserError: an array is missing.
  """
  with np.load(path) as saved:
    _check_arrays(path, saved, ARRAYS)
    every = {name: saved[name] for name in ARRAYS}
  main = every["task"] == 0  # [G]
  mine = main[every["group"]]  # [M]
  new_group = np.cumsum(main) - 1  # numbers of the groups that stay
  group = new_group[every["group"][mine]]
  compared = main[every["comparisons"][:, 0]] & (every["preference"] > 0.5)
  owner, chosen, rejected = every["comparisons"][compared].T
  # Groups lie one after the other: a completion's place is its group's first
  # place and its number in the group.
  first = np.searchsorted(group, new_group[owner])
  return Scores(
    every["scores"][mine].astype(np.float64),
    every["length"][mine],
    every["gold"][mine].astype(np.float64),
    group,
    every["prompt"][main].astype(str),
    first + chosen,
    first + rejected,
    every["strength"][compared].astype(np.float64),
  )


def read_labels(path: pathlib.Path) -> Labelled:
  """The labels of the main task in a scores.npz, groups numbered as there.

  Raises:
    UserError: an array is missing.
  """
  with np.load(path) as saved:
    names = [f"label_{name}" for name in Labelled._fields]
    _check_arrays(path, saved, names)
    found = Labelled(*(saved[name] for name in names))
    new_group = np.cumsum(saved["task"] == 0) - 1
  return found._replace(
    group=new_group[found.group], numbers=bool(found.numbers)
  )


def _check_arrays(path, saved, names) -> None:
  absent = [name for name in names if name not in saved]
  if absent:
    raise UserError(
      f"{path}: expected the arrays {', '.join(names)}, got none of "
      f"{', '.join(absent)}: an older version wrote it. Repeat the run's "
      "rm-jax train command."
    )


def main_metric(results: dict) -> str:
  """The metric that a run is about."""
  return next(name for name in MAIN if name in results["metrics"])


def curve_rows(rows: list[dict], metric: str) -> list[dict]:
  """Rows of metrics.jsonl under the names `learning_curves` reads.

  One row may hold a train step and an evaluation. A loss that was not finite
  is null there and has no place on a curve.
  """
  keys = {"value": metric, "low": f"{metric}_low", "high": f"{metric}_high"}
  renamed = []
  for row in rows:
    values = {"step": row["step"], "loss": row.get("loss")}
    values |= {name: row.get(EVAL + key) for name, key in keys.items()}
    renamed.append({k: v for k, v in values.items() if v is not None})
  return renamed
