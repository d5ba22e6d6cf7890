"""Rankings of K = 2 to 4 answers by a judge (LLMZoo, Chen et al. 2023,
arXiv:2304.10453) under the loss of InstructGPT (Ouyang et al. 2022,
arXiv:2203.02155, Eq. (1)), or Plackett-Luce (Zhu et al. 2023,
arXiv:2301.11270):

  rm-jax train --config=configs/listwise_llmzoo.py --workdir=runs/llmzoo \\
      --config.data.source=$RM_DATA/llmzoo_rankings
  rm-jax train --config=configs/listwise_llmzoo.py:plackett_luce ...

70 prompts, each ranked for five aspects: no prompt is on both sides, and a
model that knows no aspect cannot satisfy all five. SmolLM2-135M, the last 6
layers and the head. docs/real.md states what to expect.
"""

from rm_jax.config import base


def get_config(arg="all_pairs"):
  """The base config with what LLMZoo's rankings need.

  Args:
    arg: the name of a listwise loss.
  """
  c = base()
  c.num_train_steps = 34  # x 4 groups x about 900 tokens = 120k
  c.loss.name = arg
  c.data.row_len = 1_024  # none is longer
  c.data.max_reject_share = 0.4  # 203 of 870 rankings are ties throughout
  c.data.train_share = 0.5  # 120k tokens are half of what is left
  c.data.eval_share = 0.3  # 20 prompts, about 180 rankings without ties
  c.data.groups_per_batch = 4
  c.data.blocks = 1
  c.train.trainable = "last:6"
  c.optim.lr = 3e-4
  c.optim.warmup_steps = 3
  c.evals.every = 1_000  # at the end; before, the scores are all 0
  c.evals.at_start = False
  c.compute.remat = False  # six layers of a small model fit
  return c
