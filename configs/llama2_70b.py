"""Llama 2's helpfulness reward model (Touvron et al. 2023, arXiv:2307.09288).

  rm-jax plan --config=configs/llama2_70b.py --slice=v5p-512
  rm-jax train --config=configs/llama2_70b.py --workdir=gs://B/llama2_70b \\
      --config.data.source=comparisons.jsonl

Margin of the large kind, Table 27: 3, 2, 1, 0 by strength. 1,024 rows of 4,096
a step, which hold the paper's 512 pairs and more, since a pair shares its
prompt; 5e-6, cosine to a tenth, 3 % warm-up, one epoch; AdamW of the
pretraining (0.9, 0.95, 1e-5, decay 0.1, clip 1).

FILE:v5p-512 (256 chips), v5p-256 (128 chips) and v5e-256 (256 chips) are laid
out for these slices; configs/plans/ says what each takes.
"""

from rm_jax.config import base
from rm_jax.types import UserError

# slice -> (fsdp, tensor, micro-batches)
SLICES = {
  "v5p-512": (256, 1, 2),
  "v5p-256": (128, 1, 8),
  "v5e-256": (128, 2, 8),
}


def get_config(slice_name="v5p-512"):
  """The base config with what 70B parameters on these chips need."""
  if slice_name not in SLICES:
    raise UserError(
      f"configs/llama2_70b.py:{slice_name}: expected one of {sorted(SLICES)}"
    )
  fsdp, tensor, micro_batches = SLICES[slice_name]
  c = base()
  c.init["from"] = "meta-llama/Llama-2-70b-chat-hf"
  c.num_train_steps = 5_000  # of an epoch: set it for the data at hand
  c.loss.name = "bradley_terry_margin"
  c.loss.margin = "llama2_large"
  c.data.row_len = 4_096
  c.data.align = 8
  c.data.batch = "rows"
  c.data.blocks = fsdp * micro_batches
  c.data.rows_per_batch = 1_024
  c.train.accumulate = micro_batches
  c.optim.lr = 5e-6
  c.optim.eps = 1e-5
  c.optim.warmup_steps = 150  # 3 %
  c.evals.rows = 1
  c.compute.results = "bfloat16"
  c.compute.attention = "splash"
  c.mesh.data = 1
  c.mesh.fsdp = fsdp
  c.mesh.tensor = tensor
  return c
