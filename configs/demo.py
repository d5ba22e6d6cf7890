"""The demo: two ways to train a reward model, two seeds each, in minutes.

  make demo

Bradley-Terry (Ouyang et al. 2022, arXiv:2203.02155, Eq. (1) at K=2) against
Llama 2's margin (Touvron et al. 2023, arXiv:2307.09288, Eq. (2)) on the text
world: 320 prompts with texts that SmolLM2 wrote, compared by simulated
annotators who give four strengths; 80 prompts are held out. Of SmolLM2-135M the
first 12 of 30 layers are used. All but what trains is computed once, for all
four runs.

FILE:bradley_terry or FILE:llama2 picks the arm.

Chosen by cross-validation over the training prompts alone (five folds; a head
on the same states with the same optimizer, outside of this pipe): reading all
tokens of a completion (accuracy 0.66) beats reading the last one (0.61); of
rates 1e-3 to 3e-2 and 5 to 20 epochs, 3e-3 and 10 were within 0.01 of the best
in accuracy and first in negative log-likelihood. Llama 2's small margin, 1/3 a
step of strength: the large one, 1 a step, was no more accurate, and asks for
more than the labels, of which 76 % agree with gold, can bear (negative
log-likelihood 0.65 against 0.60).
"""

import pathlib

import rm_jax
from rm_jax.config import base, has_bfloat16
from rm_jax.types import UserError

DATA = pathlib.Path(rm_jax.__file__).parent / "data" / "text_world"
ARMS = {"bradley_terry": "none", "llama2": "llama2_small"}


def get_config(arm="bradley_terry"):
  """The base config with the text world and one arm."""
  if arm not in ARMS:
    raise UserError(f"configs/demo.py:{arm}: expected one of {sorted(ARMS)}")
  c = base()
  c.init.layers = 12
  c.num_train_steps = 100  # 100 x 32 groups = 10 epochs of 320
  if ARMS[arm] != "none":
    c.loss.name = "bradley_terry_margin"
  c.loss.margin = ARMS[arm]
  c.model.pooling = "mean"
  c.data.source = str(DATA / "train_comparisons.jsonl.gz")
  c.data.eval_source = str(DATA / "test_comparisons.jsonl.gz")
  c.data.row_len = 512
  c.data.groups_per_batch = 32
  c.data.blocks = 2
  c.train.trainable = "head"
  c.train.cache_hidden = "runs/demo/hidden"
  c.train.checkpoint_every = 100
  c.optim.lr = 3e-3
  c.optim.warmup_steps = 10
  c.evals.every = 20
  c.evals.rows = 4
  c.compute.dtype = "bfloat16" if has_bfloat16() else "float32"
  return c
