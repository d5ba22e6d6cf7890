"""A training run read back: its checkpoint, and how its text is read."""

import dataclasses
import json
import pathlib
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from rm_jax.data.loader import Reading, policy
from rm_jax.data.tokenizers import (
  check_fingerprint,
  fingerprint,
  load_tokenizer,
)
from rm_jax.reward_model import ModelSpec
from rm_jax.train.init import read_run
from rm_jax.types import UserError


class Run(NamedTuple):
  """The training run a model comes from."""

  workdir: pathlib.Path
  step: int  # of the checkpoint
  config: ConfigDict


class Trained(NamedTuple):
  """What a RewardModel is made of."""

  spec: ModelSpec
  params: dict
  tokenizer: Any
  reading: Reading
  run: Run
  normaliser: None = None  # it lies beside, in normaliser.json


def read_trained(
  workdir: pathlib.Path, which: str, step: int | None, *, dtype: str
) -> Trained:
  """The model of a run's checkpoint.

  Args:
    workdir, which, step: as `rm_jax.places.find_run` found them.
    dtype: of the matrix products.

  Raises:
    UserError: no such checkpoint, another tokenizer, template or base model
      than the run had.
  """
  run = json.loads((workdir / "run.json").read_text())
  config = ConfigDict(run["config"])
  reading = Reading(
    template=config.data.template,
    read_at=config.data.read_at,
    row_len=config.data.row_len,
    overlong="drop",
    layout="shared",
    align=config.data.align,
    pooling=config.model.pooling,
  )
  tokenizer = load_tokenizer(config.init.tokenizer or config.init["from"])
  ours = fingerprint(tokenizer, tokenizer.chat_template, policy(reading))
  try:
    check_fingerprint(run["fingerprint"], ours)
  except UserError as error:
    raise UserError(f"{workdir}: {error}") from error
  spec, params, step = read_run(workdir, which, step, tokenizer)
  spec = dataclasses.replace(spec, dtype=dtype, remat=False, attention="blocks")
  return Trained(spec, params, tokenizer, reading, Run(workdir, step, config))
