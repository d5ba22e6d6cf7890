"""Starling's reward models (Zhu et al. 2024; model cards of Starling-RM).

  rm-jax plan --config=configs/starling.py:7b --slice=v5e-64 --rows_per_chip=4
  rm-jax plan --config=configs/starling.py:34b --slice=v5p-256 \\
      --rows_per_chip=4
  rm-jax train --config=configs/starling.py:7b --workdir=gs://B/starling \\
      --config.data.source=rankings.jsonl

Plackett-Luce over seven ranked completions of a prompt, rows of 2,048, 64
prompts a step. FILE:7b starts from Llama-2-7B-Chat on 64 chips, FILE:34b from
Yi-34B-Chat on 128. The cards give no learning rate: that of Llama 2's reward
models below 70B (Touvron et al. 2023, arXiv:2307.09288).
"""

from rm_jax.config import base
from rm_jax.types import UserError

# name -> (backbone, fsdp, tensor)
SIZES = {
  "7b": ("meta-llama/Llama-2-7b-chat-hf", 64, 1),
  "34b": ("01-ai/Yi-34B-Chat", 64, 2),
}


def get_config(size="7b"):
  """The base config with what the backbone of this size needs."""
  if size not in SIZES:
    raise UserError(
      f"configs/starling.py:{size}: expected one of {sorted(SIZES)}"
    )
  source, fsdp, tensor = SIZES[size]
  c = base()
  c.init["from"] = source
  c.num_train_steps = 2_859  # 182,954 prompts / 64
  c.loss.name = "plackett_luce"
  c.data.row_len = 2_048
  c.data.align = 2
  c.data.groups_per_batch = 64
  c.data.blocks = 64
  c.optim.lr = 1e-5
  c.optim.warmup_steps = 86  # 3 %
  c.evals.rows = 4
  c.compute.results = "bfloat16"
  c.compute.attention = "splash"
  c.mesh.data = 1
  c.mesh.fsdp = fsdp
  c.mesh.tensor = tensor
  return c
