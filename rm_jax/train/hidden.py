"""What the frozen layers give, computed once for all runs that share them.

A layer that does not train gives a token the same state in every epoch, seed
and arm. With config.train.cache_hidden these states are read from disk, and a
train step begins at the first layer that trains.
"""

import dataclasses
import hashlib

import flax.linen as nn
import jax
import numpy as np
from tqdm import tqdm

from rm_jax.data.loader import join
from rm_jax.data.pack import grow, lay
from rm_jax.data.plan import demand, make_eval_plan
from rm_jax.data.state_rows import States, batch_rows, first_rows
from rm_jax.data.states import VERSION, Part, fill_states, open_states
from rm_jax.data.tokenizers import fingerprint
from rm_jax.models.sharding import RULES, block_sharding, shard_tree
from rm_jax.reward_model import ModelSpec, abstract_params, frozen_states
from rm_jax.train.optim import split_trainable
from rm_jax.train.sets import Sets
from rm_jax.types import UserError


def with_states(
  config, spec: ModelSpec, frozen: dict, base: str, sets: Sets, tokenizer, mesh
) -> Sets:
  """The same sets, with the states of all their tokens from disk.

  Computed first where the folder does not have them.

  Args:
    frozen, base: the parameters that do not train, and their `digest`.

  Raises:
    UserError: the folder holds states of another base model, data or dtype,
      or is damaged; no room.
  """
  folder = config.train.cache_hidden
  both = join([sets.train, sets.test])
  firsts = first_rows(both.groups)
  shape = (int(firsts[-1]), spec.decoder.width)
  key = {
    "version": VERSION,
    "tokenizer": fingerprint(tokenizer, tokenizer.chat_template, {}),
    "decoder": dataclasses.asdict(spec.decoder),
    "frozen_layers": sum(spec.segments[: spec.frozen]),
    "frozen_sha256": base,
    "dtype": spec.dtype,
    "data": {
      "train": _tokens_of(sets.train.groups),
      "test": _tokens_of(sets.test.groups),
    },
  }
  if jax.process_count() > 1 and open_states(folder, key) is None:
    raise UserError(
      f"config.train.cache_hidden={folder} holds no states yet and this run "
      f"has {jax.process_count()} processes: fill it with one process first, "
      "in a folder that all of them see."
    )

  def compute(missing):
    yield from _compute(
      config, spec, frozen, both.groups, firsts, missing, mesh
    )

  states = fill_states(folder, key, shape, len(both.groups), compute)
  cut = len(sets.train.groups)
  at = firsts[cut]
  return sets._replace(
    train=sets.train._replace(states=States(states[:at], firsts[: cut + 1])),
    test=sets.test._replace(states=States(states[at:], firsts[cut:] - at)),
  )


def _tokens_of(groups) -> dict:
  """How many groups, and the digest of all that their trees are made of."""
  found = hashlib.sha256()
  for group in groups:
    lengths = [len(tokens) for tokens in group.tokens]
    head = np.array([group.trunk, len(lengths), *lengths], np.int64)
    for array in (head, *group.tokens):
      found.update(np.ascontiguousarray(array).data)
  return {"groups": len(groups), "sha256": found.hexdigest()}


def _compute(config, spec, frozen, groups, firsts, missing, mesh):
  """Yields a Part per batch, over the groups that are missing."""
  d = config.data
  # Shared whatever the run's layout is: it costs each token once.
  laying = dict(layout="shared", row_len=d.row_len, align=d.align)
  demands = [
    demand(groups[i], grow(groups[i], **laying)) for i in missing.tolist()
  ]
  plan = make_eval_plan(
    demands, blocks=d.blocks, rows=config.evals.rows, **laying
  )
  boxed = split_trainable(abstract_params(spec), config.train.trainable)[1]
  shards = shard_tree(boxed, mesh)["backbone"]
  blocks = block_sharding(mesh)

  def states_of(backbone, batch):
    return frozen_states(spec, backbone, batch)

  run = jax.jit(states_of, in_shardings=(shards, blocks), out_shardings=blocks)
  backbone = jax.device_put(frozen["backbone"], shards)
  with tqdm(
    total=len(groups),
    initial=len(groups) - len(missing),
    desc="hidden states",
    unit="group",
    disable=None,
  ) as bar:
    for step in plan.steps:
      ids = [p.group for p in step.places]
      mine = [groups[int(missing[i])] for i in ids]
      pieces = [demands[i].pieces for i in ids]
      shape = dict(rows=step.rows, geometry=plan.geometry)
      batch, _ = lay(mine, pieces, list(step.places), **shape)
      rows = batch_rows(mine, pieces, step.places, firsts[missing], **shape)
      with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        states = jax.device_get(run(backbone, jax.device_put(batch, blocks)))
      yield Part(rows[rows >= 0], states[rows >= 0], missing[ids])
      bar.update(len(ids))
