"""Starling-RM-7B's loss at full size (Zhu et al. 2024).

  rm-jax train --config=experiments/zhu2024_starling/full.py \\
      --workdir=gs://bucket/starling --config.data.source=nectar.jsonl

Records: prompt, completions (7), ranks. Llama-2-7B-Chat on 64 chips of 16 GB.
config.loss.name=all_pairs is the other arm. Learning rate, batch and epochs
were not published: these are ours.
"""

from rm_jax.config import base

PROMPTS = 182_954  # of Nectar


def get_config():
  """64 prompts of 7 a step, one epoch."""
  c = base()
  c.init["from"] = "meta-llama/Llama-2-7b-chat-hf"
  c.num_train_steps = PROMPTS // 64
  c.loss.name = "plackett_luce"
  c.data.row_len, c.data.groups_per_batch, c.data.blocks = 2_048, 64, 64
  c.data.align = 8
  c.optim.lr, c.optim.schedule = 9e-6, "cosine"
  c.evals.every, c.train.checkpoint_every = 500, 500
  c.mesh.data, c.mesh.fsdp, c.mesh.tensor = 1, 64, 1
  return c
