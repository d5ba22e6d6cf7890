"""Process reward model of 70B, as in Lightman et al. 2023 (arXiv:2305.20050).

  rm-jax plan --config=configs/process_70b.py --slice=v5p-512
  rm-jax train --config=configs/process_70b.py --workdir=gs://B/process_70b \\
      --config.data.source=prm800k.jsonl

Cross-entropy of bad, neutral and good at the end of every reasoning step; a
tree of alternatives is packed as one. Their GPT-4 is not public: Llama 3.1 70B.
256 rows of 2,048 a step, 1e-6; 256 chips, one row each.
"""

from rm_jax.config import base


def get_config():
  """The base config with what 70B parameters on 256 chips need."""
  c = base()
  c.init["from"] = "meta-llama/Llama-3.1-70B"
  c.num_train_steps = 600  # two epochs of 75k solutions
  c.loss.name = "step_cross_entropy"
  c.model.head = "steps"
  c.model.pooling = "step_ends"
  c.data.row_len = 2_048
  c.data.align = 2
  c.data.batch = "rows"
  c.data.blocks = 256
  c.data.rows_per_batch = 256
  c.optim.lr = 1e-6
  c.evals.rows = 1
  c.compute.results = "bfloat16"
  c.compute.attention = "splash"
  c.mesh.data = 1
  c.mesh.fsdp = 256
  return c
