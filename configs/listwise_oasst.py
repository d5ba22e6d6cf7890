"""Replies that people ranked (OpenAssistant, Koepf et al. 2023,
arXiv:2304.07327), K = 2 to 9, under the loss of InstructGPT (Ouyang et al.
2022, arXiv:2203.02155, Eq. (1)), or Plackett-Luce (Zhu et al. 2023,
arXiv:2301.11270):

  rm-jax train --config=configs/listwise_oasst.py --workdir=runs/oasst \\
      --config.data.source=$RM_DATA/oasst_trees
  rm-jax train --config=configs/listwise_oasst.py:plackett_luce ...

A tree of messages is one problem: all its groups are on one side.
SmolLM2-135M, the last 6 layers and the head. docs/real.md states what to
expect.
"""

from rm_jax.config import base


def get_config(arg="all_pairs"):
  """The base config with what OpenAssistant's trees need.

  Args:
    arg: the name of a listwise loss.
  """
  c = base()
  c.num_train_steps = 34  # x 4 groups x about 640 tokens: two epochs
  c.loss.name = arg
  c.data.row_len = 2_048  # none is longer, 5 % are longer than 1,024
  c.data.eval_share = 0.4  # of 60 trees; 121 groups are all there are
  c.data.groups_per_batch = 4
  c.data.blocks = 1
  c.train.trainable = "last:6"
  c.optim.lr = 3e-4
  c.optim.warmup_steps = 3
  c.evals.every = 1_000  # at the end; before, the scores are all 0
  c.evals.at_start = False
  c.compute.remat = False  # six layers of a small model fit
  return c
