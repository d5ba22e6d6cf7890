"""Verifiers at full size: configs/cobbe_6b.py on 64 chips.

  rm-jax plan --config=experiments/cobbe2021_verifiers/full.py --slice=v5e-64
  rm-jax train --config=experiments/cobbe2021_verifiers/full.py:solution \\
      --workdir=gs://B/solution --config.data.source=solutions.jsonl

FILE:ARM has the arms of mini.py. Records: GSM8K's samples as published, or
prompt, completions and labels with --config.data.kind=outcome.
"""

import pathlib

from rm_jax.ablation.design import load_file
from rm_jax.types import UserError

DROPOUT = 0.2
ARMS = tuple(
  f"{level}{alone}{dropout}"
  for level in ("token", "solution")
  for alone in ("", "_alone")
  for dropout in ("", "_dropout")
)
HERE = pathlib.Path(__file__)
BASE = HERE.parents[2] / "configs" / "cobbe_6b.py"


def get_config(arm="token"):
  """The config of that file with what the arm changes."""
  if arm not in ARMS:
    raise UserError(f"{HERE}:{arm}: expected one of {sorted(ARMS)}")
  c = load_file(BASE).get_config()
  level, *more = arm.split("_")
  c.model.pooling = "every_token" if level == "token" else "last_token"
  c.loss.language_coefficient = 0.0 if "alone" in more else 1.0
  c.model.dropout = DROPOUT if "dropout" in more else 0.0
  return c
