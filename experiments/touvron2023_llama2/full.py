"""Llama 2's helpfulness reward model at full size (Touvron et al. 2023).

  rm-jax train --config=experiments/touvron2023_llama2/full.py \\
      --workdir=gs://bucket/llama2 --config.data.source=pairs.jsonl

Records: prompt, chosen, rejected, strength (0 to 3). 70B on 256 chips of 95 GB.
config.loss.margin is llama2_small; none and llama2_large are the other arms.
"""

from rm_jax.config import base

COMPARISONS = 2_919_326  # their Table 6


def get_config():
  """512 pairs a step, one epoch, section 3.2.2: learning rate 5e-6."""
  c = base()
  c.init["from"] = "meta-llama/Llama-2-70b-chat-hf"
  c.num_train_steps = COMPARISONS // 512
  c.loss.name, c.loss.margin = "bradley_terry_margin", "llama2_small"
  c.data.row_len, c.data.groups_per_batch, c.data.blocks = 4_096, 512, 64
  c.data.align = 16
  c.optim.lr, c.optim.schedule, c.optim.final_lr_ratio = 5e-6, "cosine", 0.1
  c.optim.warmup_steps = max(5, round(0.03 * c.num_train_steps))
  c.evals.every, c.train.checkpoint_every = 500, 500
  c.mesh.data, c.mesh.fsdp, c.mesh.tensor = 1, 64, 4
  return c
