"""Starling's losses at full size: configs/starling.py on 64 chips.

  rm-jax plan --config=experiments/zhu2024_starling/full.py --slice=v5e-64 \\
      --rows_per_chip=4
  rm-jax train --config=experiments/zhu2024_starling/full.py:pairs \\
      --workdir=gs://B/pairs --config.data.source=nectar.jsonl

FILE:pl and FILE:pairs, of Llama-2-7B-Chat. Records: prompt, completions (7),
ranks.
"""

import pathlib

from rm_jax.ablation.design import load_file
from rm_jax.types import UserError

ARMS = {"pl": "plackett_luce", "pairs": "all_pairs"}
HERE = pathlib.Path(__file__)
BASE = HERE.parents[2] / "configs" / "starling.py"


def get_config(arm="pl"):
  """The config of that file with what the arm changes."""
  if arm not in ARMS:
    raise UserError(f"{HERE}:{arm}: expected one of {sorted(ARMS)}")
  c = load_file(BASE).get_config()
  c.loss.name = ARMS[arm]
  return c
