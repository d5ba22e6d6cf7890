"""Outcome reward model on GSM8K solutions (Cobbe et al. 2021,
arXiv:2110.14168; read at the last token as in Lightman et al. 2023,
arXiv:2305.20050, App. E).

  rm-jax train --config=configs/outcome_gsm8k.py --workdir=runs/gsm8k \\
      --config.data.source=$RM_DATA/gsm8k/solutions.jsonl.gz

Four published solutions of each of 1,000 problems, right or wrong: is this one
right? No problem is on both sides. SmolLM2-135M, the last 6 layers and the
head. docs/real.md states what to expect.
"""

from rm_jax.config import base


def get_config():
  """The base config with what GSM8K's solutions need."""
  c = base()
  c.num_train_steps = 25  # x 8 problems x about 600 tokens = 120k
  c.loss.name = "outcome_cross_entropy"
  c.data.row_len = 1_024  # 1 of 80 groups has a solution beyond 512
  c.data.train_share = 0.25  # 214 of 842 problems: one epoch
  c.data.eval_share = 0.15  # about 150 problems, 600 solutions
  c.data.groups_per_batch = 8
  c.data.blocks = 1
  c.train.trainable = "last:6"
  c.optim.lr = 3e-4
  c.optim.warmup_steps = 3
  c.evals.every = 1_000  # at the end; before, the scores are all 0
  c.evals.at_start = False
  c.compute.remat = False  # six layers of a small model fit
  return c
