"""Bradley-Terry reward model on HH-RLHF (Bai et al. 2022, arXiv:2204.05862).

  rm-jax train --config=configs/pairwise_hh.py --workdir=runs/hh \\
      --config.data.source=$RM_DATA/hh_rlhf --config.seed=0

SmolLM2-135M, the last 6 layers and the head. The README states what to expect.
"""

from rm_jax.config import base


def get_config():
  """The base config with what HH-RLHF needs."""
  c = base()
  c.num_train_steps = 33  # x 16 pairs x about 230 tokens = 120k
  c.data.row_len = 512
  c.data.eval_share = 0.13  # about 600 of 4,652 pairs
  c.data.groups_per_batch = 16
  c.data.blocks = 4
  c.train.accumulate = 4
  c.train.trainable = "last:6"
  c.optim.lr = 3e-4
  c.optim.warmup_steps = 3
  c.evals.every = 1_000  # before and after
  c.evals.max_groups = 600
  return c
