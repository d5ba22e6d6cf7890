"""InstructGPT's reward model (Ouyang et al. 2022, arXiv:2203.02155, App. C.2).

  rm-jax plan --config=configs/instructgpt_6b.py --slice=v5e-64 \\
      --rows_per_chip=4
  rm-jax train --config=configs/instructgpt_6b.py --workdir=gs://B/igpt \\
      --config.data.source=rankings.jsonl

64 prompts a step with 4 to 9 completions each, every pair of a prompt in one
mean; one epoch of 33,207 prompts; 9e-6, cosine to a tenth. The paper's 6B
GPT-3 is not public: Pythia 6.9B is of its size and kind. Each prompt is packed
once with its completions. 64 chips, one prompt each.
"""

from rm_jax.config import base


def get_config():
  """The base config with what 6.9B parameters on 64 chips need."""
  c = base()
  c.init["from"] = "EleutherAI/pythia-6.9b"
  c.num_train_steps = 519  # 33,207 / 64
  c.loss.name = "all_pairs"
  c.data.row_len = 2_048
  c.data.align = 2
  c.data.groups_per_batch = 64
  c.data.blocks = 64
  c.optim.lr = 9e-6
  c.optim.weight_decay = 0.0
  c.optim.warmup_steps = 0
  c.evals.rows = 4
  c.compute.results = "bfloat16"
  c.compute.attention = "splash"
  c.mesh.data = 1
  c.mesh.fsdp = 64
  return c
