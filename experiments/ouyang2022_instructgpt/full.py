"""InstructGPT's reward model at full size (Ouyang et al. 2022, App. C.2).

  rm-jax train --config=experiments/ouyang2022_instructgpt/full.py \\
      --workdir=gs://bucket/instructgpt --config.data.source=rankings.jsonl

Records: prompt, completions (4 to 9), ranks. An 8B model for their 6B; 64 chips
of 16 GB, parameters and moments cut over all of them. Its arm `shuffled` is the
same with data that lists every comparison as a pair of its own.
"""

from rm_jax.config import base

PROMPTS = 33_207  # their Table 6


def get_config():
  """64 prompts a step, one epoch, learning rate 9e-6 to a tenth by cosine."""
  c = base()
  c.init["from"] = "meta-llama/Llama-3.1-8B"
  c.num_train_steps = PROMPTS // 64
  c.loss.name = "all_pairs"
  c.data.row_len, c.data.groups_per_batch, c.data.blocks = 2_048, 64, 64
  c.data.align = 8
  c.optim.lr, c.optim.schedule, c.optim.final_lr_ratio = 9e-6, "cosine", 0.1
  c.optim.weight_decay = 0.0
  c.evals.every, c.train.checkpoint_every = 100, 100
  c.mesh.data, c.mesh.fsdp, c.mesh.tensor = 1, 64, 1
  return c
