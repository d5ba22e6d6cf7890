"""InstructGPT's arms at full size: configs/instructgpt_6b.py on 64 chips.

  rm-jax plan --config=experiments/ouyang2022_instructgpt/full.py \\
      --slice=v5e-64 --rows_per_chip=4
  rm-jax train --config=experiments/ouyang2022_instructgpt/full.py:grouped_8 \\
      --workdir=gs://B/grouped_8 --config.data.source=rankings.jsonl

FILE:grouped is one epoch, FILE:grouped_8 eight. `shuffled` is `grouped` on data
that lists every comparison as a pair of its own.
"""

import pathlib

from rm_jax.ablation.design import load_file
from rm_jax.types import UserError

ARMS = {"grouped": 1, "grouped_8": 8}  # epochs
HERE = pathlib.Path(__file__)
BASE = HERE.parents[2] / "configs" / "instructgpt_6b.py"


def get_config(arm="grouped"):
  """The config of that file with what the arm changes."""
  if arm not in ARMS:
    raise UserError(f"{HERE}:{arm}: expected one of {sorted(ARMS)}")
  c = load_file(BASE).get_config()
  c.num_train_steps *= ARMS[arm]
  return c
