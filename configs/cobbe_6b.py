"""GSM8K verifier (Cobbe et al. 2021, arXiv:2110.14168, section 4).

  rm-jax plan --config=configs/cobbe_6b.py --slice=v5e-64
  rm-jax train --config=configs/cobbe_6b.py --workdir=gs://B/cobbe \\
      --config.data.source=solutions.jsonl

Squared error of the prediction at every token to whether the solution is
right, and the language loss beside it. 100 samples for each of 7,473 problems,
32,000 tokens a step: 32 rows of 1,024. The paper's 6B GPT-3 is not public:
Pythia 6.9B is of its size and kind. Of 64 chips two share a row.
"""

from rm_jax.config import base


def get_config():
  """The base config with what 6.9B parameters on 64 chips need."""
  c = base()
  c.init["from"] = "EleutherAI/pythia-6.9b"
  c.num_train_steps = 5_000  # of an epoch: set it for the data at hand
  c.loss.name = "squared_error"
  c.loss.language_coefficient = 1.0
  c.model.head = "biased_scalar"
  c.model.pooling = "every_token"
  c.data.row_len = 1_024
  c.data.batch = "rows"
  c.data.blocks = 32
  c.data.rows_per_batch = 32
  c.optim.lr = 1e-5
  c.evals.rows = 2
  c.compute.results = "bfloat16"
  c.compute.attention = "splash"
  c.mesh.data = 1
  c.mesh.fsdp = 32
  c.mesh.tensor = 2
  return c
