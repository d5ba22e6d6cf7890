"""Margins at full size: configs/llama3_8b_bt.py on 16 chips.

  rm-jax plan --config=experiments/margins/full.py --slice=v5e-16
  rm-jax train --config=experiments/margins/full.py:log1p \\
      --workdir=gs://B/log1p --config.data.source=pairs.jsonl

FILE:none, FILE:small, FILE:large and FILE:log1p: the four lines of mini.py.
Records: prompt, chosen, rejected, a strength of 0 to 3, two ratings.
"""

import pathlib

from rm_jax.ablation.design import load_file
from rm_jax.types import UserError

ARMS = {
  "none": "none",
  "small": "llama2_small",
  "large": "llama2_large",
  "log1p": "rating_log1p",
}
HERE = pathlib.Path(__file__)
BASE = HERE.parents[2] / "configs" / "llama3_8b_bt.py"


def get_config(arm="none"):
  """The config of that file with what the arm changes."""
  if arm not in ARMS:
    raise UserError(f"{HERE}:{arm}: expected one of {sorted(ARMS)}")
  c = load_file(BASE).get_config()
  c.loss.name, c.loss.margin = "bradley_terry_margin", ARMS[arm]
  return c
