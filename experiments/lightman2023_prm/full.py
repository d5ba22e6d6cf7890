"""Process and outcome supervision at full size: configs/process_70b.py on 256
chips.

  rm-jax plan --config=experiments/lightman2023_prm/full.py --slice=v5p-512
  rm-jax train --config=experiments/lightman2023_prm/full.py:orm \\
      --workdir=gs://B/orm --config.data.source=solutions.jsonl

FILE:prm reads PRM800K. FILE:orm reads prompt, completions and labels, and
learns at every token.
"""

import pathlib

from rm_jax.ablation.design import load_file
from rm_jax.types import UserError

ARMS = ("prm", "orm")
HERE = pathlib.Path(__file__)
BASE = HERE.parents[2] / "configs" / "process_70b.py"


def get_config(arm="prm"):
  """The config of that file with what the arm changes."""
  if arm not in ARMS:
    raise UserError(f"{HERE}:{arm}: expected one of {sorted(ARMS)}")
  c = load_file(BASE).get_config()
  if arm == "orm":
    c.loss.name, c.model.head = "outcome_cross_entropy", "scalar"
    c.model.pooling, c.data.kind = "every_token", "outcome"
  return c
