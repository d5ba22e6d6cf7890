"""Runs of the lm preset: SmolLM2 on the text world, as the train verb does it.

The texts are those of rm_jax/data/text_world, the judgements are drawn anew
for every seed by the labellers there, so that seeds differ in what was said as
well as in the order and the head's data.
"""

import functools
import json
import pathlib
import tempfile
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from rm_jax.config import base, has_bfloat16
from rm_jax.data.text_world import labellers

FOLDER = pathlib.Path(labellers.__file__).parent
ROW = 1_024  # a prompt with eight completions of at most 64 tokens
TRAINED = 4  # layers
SIDES = ("train", "test")
LEFT_OUT = ("rejected", "overlong")  # records of a side, in results.json


class Held(NamedTuple):
  """What is known of the completions that were scored."""

  gold: np.ndarray  # [G, K]
  lengths: np.ndarray  # [G, K], tokens


class Ran(NamedTuple):
  """A finished run."""

  scores: np.ndarray  # float64 [G, K], of the evaluation prompts
  held: Held
  chosen: np.ndarray  # flat places in `scores`, a row per comparison
  rejected: np.ndarray
  strength: np.ndarray  # of each comparison; NaN: none was given
  costs: dict  # metrics that say what training cost


@functools.cache
def lines(side: str) -> list[dict]:
  """The prompts of a side, "train" or "test", with their eight completions."""
  text = (FOLDER / f"{side}.jsonl").read_text("utf-8")
  return [json.loads(line) for line in text.splitlines()]


def draw_ranks(rng, prompts: list[dict]) -> np.ndarray:
  """Rankings [G, 8] of the steady annotator, 0 the best: Plackett-Luce."""
  gold = np.asarray([line["gold"] for line in prompts])
  temperature = labellers.ANNOTATORS[0].temperature
  return labellers.ranking(rng, gold, temperature=temperature)


def group(line: dict, kept, **said) -> dict:
  """A record of some completions of a prompt and what was said of them."""
  return {
    "prompt": line["prompt"],
    "completions": [line["completions"][k] for k in kept],
    "gold": [line["gold"][k] for k in kept],
    **said,
  }


def ranked(line: dict, kept, ranks) -> dict:
  """Completions with their ranks among each other, 0 the best."""
  own = np.argsort(np.argsort(np.asarray(ranks)[list(kept)]))
  return group(line, kept, ranks=own.tolist())


def compared(line: dict, kept, ranks) -> dict:
  """Completions with every comparison that their ranking implies."""
  own = np.asarray(ranks)[list(kept)]
  better, worse = np.nonzero(own[:, None] < own[None, :])
  sides = zip(better.tolist(), worse.tolist(), strict=True)
  return group(line, kept, comparisons=[[i, j, 1] for i, j in sides])


def text_config(
  *, seed: int, steps: int, groups: int, loss: str, rate: float
) -> ConfigDict:
  """SmolLM2's first 12 layers, of which the last four and the head train.

  Reads the mean over a completion's tokens, and multiplies in bfloat16 where
  the processor has it, both as the demo does.
  """
  c = base()
  c.seed, c.num_train_steps = seed, steps
  c.init.layers = 12
  c.model.pooling = "mean"
  c.loss.name = loss
  c.data.row_len, c.data.groups_per_batch, c.data.blocks = ROW, groups, 1
  c.data.cache = ""
  c.train.trainable, c.train.checkpoint_every = f"last:{TRAINED}", steps
  c.optim.lr, c.optim.warmup_steps = rate, min(3, steps - 1)
  c.evals.at_start, c.evals.every = False, steps
  c.compute.dtype = "bfloat16" if has_bfloat16() else "float32"
  c.compute.remat, c.compute.unrolled = False, TRAINED
  return c


def run(config, train: list[dict], test: list[dict]) -> Ran:
  """Trains on the records and scores the others.

  Args:
    test: prompts with all eight completions, compared or ranked.
  """
  return _read(*fit_records(config, train, test), len(test))


def fit_records(
  config, train: list[dict], test: list[dict]
) -> tuple[dict, dict]:
  """(arrays of scores.npz, what it cost) of a run in a folder that goes after.

  Args:
    train, test: rows of the general formats.
  """
  from rm_jax.train.log import read_rows
  from rm_jax.train.loop import train as train_model

  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    config.data.source = _written(folder / "train.jsonl", train)
    config.data.eval_source = _written(folder / "test.jsonl", test)
    code = train_model(config, folder / "run", command="")
    if code:
      raise RuntimeError(f"the run ended with code {code}")
    with np.load(folder / "run" / "scores.npz") as saved:
      arrays = dict(saved)
    rows = read_rows(folder / "run" / "metrics.jsonl")
    results = json.loads((folder / "run" / "results.json").read_text())
  steps = [row for row in rows if "useful_tokens" in row]
  gone = ("unreadable", *(f"{s}_{w}" for s in SIDES for w in LEFT_OUT))
  return arrays, {
    "train_loss": float(np.mean([row["loss"] for row in steps[-3:]])),
    "train_tokens": float(sum(row["useful_tokens"] for row in steps)),
    "left_out": float(sum(results["counts"][name] for name in gone)),
  }


def _written(path: pathlib.Path, records: list[dict]) -> str:
  text = "".join(json.dumps(record) + "\n" for record in records)
  path.write_text(text, "utf-8")
  return str(path)


def _read(arrays: dict, costs: dict, count: int) -> Ran:
  # Groups are scored in the order of their file.
  np.testing.assert_array_equal(
    arrays["record"], np.repeat(np.arange(count), 8)
  )
  group, i, j = arrays["comparisons"].T
  swap = arrays["preference"] < 0.5
  scores, gold, length = (
    arrays[name].astype(np.float64).reshape(count, 8)
    for name in ("scores", "gold", "length")
  )
  return Ran(
    scores,
    Held(gold, length),
    8 * group + np.where(swap, j, i),
    8 * group + np.where(swap, i, j),
    arrays["strength"],
    costs,
  )
