"""Llama 2's margins at full size: configs/llama2_70b.py on 256 chips.

  rm-jax plan --config=experiments/touvron2023_llama2/full.py --slice=v5p-512
  rm-jax train --config=experiments/touvron2023_llama2/full.py:none \\
      --workdir=gs://B/none --config.data.source=comparisons.jsonl

FILE:none, FILE:small and FILE:large. Records: prompt, chosen, rejected and a
strength of 0 to 3.
"""

import pathlib

from rm_jax.ablation.design import load_file
from rm_jax.types import UserError

ARMS = {"large": "llama2_large", "small": "llama2_small", "none": "none"}
HERE = pathlib.Path(__file__)
BASE = HERE.parents[2] / "configs" / "llama2_70b.py"


def get_config(arm="large"):
  """The config of that file with what the arm changes."""
  if arm not in ARMS:
    raise UserError(f"{HERE}:{arm}: expected one of {sorted(ARMS)}")
  c = load_file(BASE).get_config()
  c.loss.margin = ARMS[arm]
  return c
