"""Pairs with ratings from 1 to 10 (UltraFeedback, Cui et al. 2023,
arXiv:2310.01377), three ways: Bradley-Terry, with a margin that grows with the
difference of the ratings (Touvron et al. 2023, Llama 2, arXiv:2307.09288, Sec.
3.2.2), or the ratings themselves as a categorical value (Farebrother et al.
2024, arXiv:2403.03950, Two-Hot).

  rm-jax train --config=configs/margin_ultrafeedback.py --workdir=runs/uf \\
      --config.data.source=$RM_DATA/ultrafeedback_sample
  rm-jax train --config=configs/margin_ultrafeedback.py:margin ...
  rm-jax train --config=configs/margin_ultrafeedback.py:ratings ...

Tied ratings (11 %) have a margin of 0. SmolLM2-135M, the last 6 layers and the
head. docs/real.md states what to expect.
"""

from rm_jax.config import base
from rm_jax.types import UserError

ARMS = ("plain", "margin", "ratings")


def get_config(arg="plain"):
  """The base config with what UltraFeedback needs.

  Args:
    arg: one of ARMS.
  """
  if arg not in ARMS:
    raise UserError(
      f"configs/margin_ultrafeedback.py:{arg}: expected one of "
      f"{', '.join(ARMS)} after the colon."
    )
  c = base()
  c.num_train_steps = 40  # x 4 pairs x about 760 tokens = 120k
  if arg == "margin":
    c.loss.name = "bradley_terry_margin"
    c.loss.margin = "rating_difference"
  if arg == "ratings":
    c.model.head = "bins"
    c.loss.name = "two_hot"
    c.loss.low, c.loss.high, c.loss.bins = 1.0, 10.0, 19  # steps of 0.5
  c.data.row_len = 2_048  # none is longer, 10 % are longer than 1,024
  c.data.train_share = 0.25  # 207 of 805 pairs: one epoch
  c.data.eval_share = 0.2  # about 190 of 994 pairs
  c.data.groups_per_batch = 4
  c.data.blocks = 1
  c.train.trainable = "last:6"
  c.optim.lr = 3e-4
  c.optim.warmup_steps = 3
  c.evals.every = 1_000  # at the end; before, the scores are all 0
  c.evals.at_start = False
  c.compute.remat = False  # six layers of a small model fit
  return c
