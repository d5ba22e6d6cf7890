"""Runs of the lm preset on published data: all 30 layers of SmolLM2.

The last six and the head train. What the layers below give is computed once for
all arms of a seed, which read the same texts: these are most of the cost.
Products are of bfloat16 where the processor has it.
"""

import pathlib
import tempfile
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from rm_jax.ablation import lm_runs
from rm_jax.config import base, has_bfloat16

TRAINED = 6  # layers


class Read(NamedTuple):
  """What a model said of one completion."""

  score: float  # where the completion is read
  slots: np.ndarray  # float64 [S], everywhere it is read, in order


def states_folder() -> tempfile.TemporaryDirectory:
  """Where the states of a seed's texts lie, for as long as this is held."""
  return tempfile.TemporaryDirectory(prefix="rm_jax-states-")


def real_config(
  *,
  seed: int,
  steps: int,
  groups: int,
  row: int,
  loss: str,
  pooling: str,
  rate: float,
  states: tempfile.TemporaryDirectory,
) -> ConfigDict:
  """SmolLM2-135M, of which the last six layers and the head train."""
  c = base()
  c.seed, c.num_train_steps = seed, steps
  c.model.pooling, c.loss.name = pooling, loss
  c.data.row_len, c.data.groups_per_batch, c.data.blocks = row, groups, 1
  c.data.cache = ""
  c.train.trainable = f"last:{TRAINED}"
  c.train.cache_hidden = str(pathlib.Path(states.name) / "states")
  c.train.checkpoint_every = steps
  c.optim.lr, c.optim.warmup_steps = rate, min(3, steps - 1)
  c.evals.at_start, c.evals.every = False, steps
  c.compute.dtype = "bfloat16" if has_bfloat16() else "float32"
  c.compute.remat, c.compute.unrolled = False, TRAINED
  return c


def run(
  config, train: list[dict], test: list[dict]
) -> tuple[dict[int, list[Read]], dict]:
  """({place in `test`: what was said of its completions}, what it cost).

  Records that are too long for a row are not there, and counted as `left_out`.
  """
  arrays, costs = lm_runs.fit_records(config, train, test)
  return by_record(arrays), costs


def by_record(arrays: dict) -> dict[int, list[Read]]:
  """What scores.npz holds, record by record."""
  found = {}
  scores = arrays["scores"].astype(np.float64)
  ends = np.cumsum(arrays["slot_counts"])
  slots = np.split(arrays["slots"].astype(np.float64), ends[:-1])
  for record, score, own in zip(arrays["record"], scores, slots, strict=True):
    found.setdefault(int(record), []).append(Read(float(score), own))
  return found
