"""A config's data, packed: what a plan without it can only assume."""

import pathlib
import tempfile
from typing import Any, NamedTuple

from rm_jax.data.plan import Plan
from rm_jax.data.tokenizers import load_tokenizer
from rm_jax.train.init import find_tokenizer
from rm_jax.train.sets import Sets, load_sets, train_plan
from rm_jax.train.tasks import read_tasks


class Packed(NamedTuple):
  """The tokenised data of a config and how it lies in batches."""

  tokenizer: Any
  sets: Sets
  plan: Plan

  @property
  def useful_fraction(self) -> float:
    """Tokens of trees among all tokens that the run computes."""
    g = self.plan.geometry
    demands = self.sets.train.demands
    useful = sum(
      piece.useful()
      for step in self.plan.steps
      for place in step.places
      for piece in demands[place.group].pieces
    )
    rows = sum(step.rows for step in self.plan.steps)
    return useful / (rows * g.blocks * g.row_len)


def pack_data(config) -> Packed:
  """Reads and packs the data of a config; leaves nothing behind but its cache.

  Raises:
    UserError: whatever a run of it would say about its data.
  """
  tokenizer = load_tokenizer(find_tokenizer(config))
  tasks = read_tasks(config)
  with tempfile.TemporaryDirectory() as folder:
    sets = load_sets(config, tokenizer, tasks, pathlib.Path(folder))
  return Packed(
    tokenizer, sets, train_plan(config, sets.train.demands, sets.parts)
  )
