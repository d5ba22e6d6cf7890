"""Five ratings of one answer at once, by regression (Wang et al. 2024,
HelpSteer2, arXiv:2406.08673) on Just-Eval (Lin et al. 2023, arXiv:2312.01552).

  rm-jax train --config=configs/ratings_just_eval.py --workdir=runs/just \\
      --config.data.source=$RM_DATA/just_eval/general_multi_aspect

400 answers that a judge rated from 1 to 5 for helpfulness, clarity,
factuality, depth and engagement; N/A has no label. SmolLM2-135M, the last 6
layers and a head of five outputs. docs/real.md states what to expect.
"""

from rm_jax.config import base


def get_config():
  """The base config with what Just-Eval needs."""
  c = base()
  c.num_train_steps = 31  # x 16 answers x about 240 tokens = 120k
  c.loss.name = "squared_error"
  c.model.head = "attributes"
  c.model.attributes = (
    "helpfulness",
    "clarity",
    "factuality",
    "depth",
    "engagement",
  )
  c.data.row_len = 1_024
  c.data.eval_share = 0.3  # about 120 answers, 600 ratings
  c.data.groups_per_batch = 16
  c.data.blocks = 1
  c.train.trainable = "last:6"
  c.optim.lr = 3e-4
  c.optim.warmup_steps = 3
  c.evals.every = 1_000  # at the end; before, the scores are all 0
  c.evals.at_start = False
  c.compute.remat = False  # six layers of a small model fit
  return c
