"""Bradley-Terry reward model on Llama 3.1 8B, rows of 4,096 tokens.

  rm-jax plan --config=configs/llama3_8b_bt.py --slice=v5e-16
  rm-jax train --config=configs/llama3_8b_bt.py --workdir=gs://B/llama3_8b \\
      --config.data.source=pairs.jsonl

16 chips, parameters and moments cut over all of them, two rows a chip. What a
plan of it says is in configs/plans/llama3_8b_bt.json; other slices take other
values of mesh.fsdp, data.blocks and data.rows_per_batch.

Learning rate of the Tulu 3 8B reward model (Lambert et al. 2024,
arXiv:2411.15124): 3e-6, linear, one epoch.
"""

from rm_jax.config import base


def get_config():
  """The base config with what 8B parameters on 16 chips need."""
  c = base()
  c.init["from"] = "meta-llama/Llama-3.1-8B-Instruct"
  c.num_train_steps = 1_000  # of an epoch: set it for the data at hand
  c.data.row_len = 4_096
  c.data.align = 8  # what the kernel's codes ask for at this length
  c.data.batch = "rows"
  c.data.blocks = 16  # one for each chip
  c.data.rows_per_batch = 32
  c.optim.lr = 3e-6
  c.optim.schedule = "linear"
  c.optim.final_lr_ratio = 0.0
  c.optim.weight_decay = 0.0
  c.optim.warmup_steps = 30
  c.evals.every = 200
  c.evals.rows = 2
  c.compute.dtype = "bfloat16"
  c.compute.results = "bfloat16"
  c.compute.attention = "splash"
  c.mesh.data = 1
  c.mesh.fsdp = 16
  return c
