"""Process reward model on PRMBench (Song et al. 2025, arXiv:2501.03124); the
loss of Wang et al. 2023 (Math-Shepherd), arXiv:2312.08935, at the end of each
step.

  rm-jax train --config=configs/process_prmbench.py --workdir=runs/prm \\
      --config.data.source=$RM_DATA/prmbench

Solutions of MATH problems with errors of eight kinds put into known steps.
Eight files ask the same problems, some in other words: no problem is on both
sides. SmolLM2-135M, the last 6 layers and the head. docs/real.md states what
to expect.
"""

from rm_jax.config import base


def get_config():
  """The base config with what PRMBench needs."""
  c = base()
  c.num_train_steps = 33  # x 8 solutions x about 460 tokens = 120k
  c.loss.name = "step_binary_cross_entropy"
  c.model.pooling = "step_ends"
  c.data.row_len = 2_048  # 0.4 % are longer, 7 % longer than 1,024
  c.data.train_share = 0.1  # 280 of 2,840 solutions: one epoch
  c.data.eval_share = 0.1  # about 300 solutions of 96 problems
  c.data.groups_per_batch = 8
  c.data.blocks = 1
  c.train.trainable = "last:6"
  c.optim.lr = 3e-4
  c.optim.warmup_steps = 3
  c.evals.every = 1_000  # at the end; before, the scores are all 0
  c.evals.at_start = False
  c.compute.remat = False  # six layers of a small model fit
  return c
