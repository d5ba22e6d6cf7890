"""All pairs of groups of K=4, on answers whose order is known.

  rm-jax train --config=configs/listwise_arithmetic.py --workdir=runs/listwise

InstructGPT's loss over groups of K=4 (Ouyang et al. 2022, arXiv:2203.02155,
Eq. (1)) on the embedded arithmetic answers, whose gold order is known. The
last 6 of 30 layers, the final norm and the head train.
"""

import pathlib

import rm_jax
from rm_jax.config import base, has_bfloat16

DATA = pathlib.Path(rm_jax.__file__).parent / "data" / "arithmetic"


def get_config():
  """The base config with the embedded data and a budget of minutes."""
  c = base()
  c.num_train_steps = 75  # 75 x 16 groups = one epoch of 1,200
  c.loss.name = "all_pairs"
  c.data.source = str(DATA / "train.jsonl")
  c.data.eval_source = str(DATA / "test.jsonl")
  c.data.row_len = 256
  c.data.groups_per_batch = 16
  c.data.blocks = 4
  c.train.accumulate = 4
  c.train.trainable = "last:6"
  c.train.checkpoint_every = 25
  c.optim.lr = 2e-4
  c.optim.warmup_steps = 5
  c.evals.every = 25
  if not has_bfloat16():
    c.num_train_steps = 25
    c.compute.dtype = "float32"
    c.note = (
      "this CPU has no bfloat16 instructions: 25 train steps in float32 "
      "instead of 75 in bfloat16, and scores will be worse"
    )
  return c
