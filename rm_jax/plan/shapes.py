"""The train step of a config from shapes: nothing is read or allocated."""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from rm_jax.config import validate
from rm_jax.data.pack import Geometry, empty_batch
from rm_jax.kernels.splash import check_rows
from rm_jax.losses import KIND
from rm_jax.models.convert import open_pretrained
from rm_jax.models.sharding import make_mesh
from rm_jax.models.sizes import PUBLISHED, SIZES
from rm_jax.models.transformer import DecoderConfig
from rm_jax.objectives import LossSpec
from rm_jax.places import find_run, read_json
from rm_jax.reward_model import ModelSpec, abstract_params
from rm_jax.train.init import RANDOM, first_layers, make_spec
from rm_jax.train.optim import (
  make_optimizer,
  make_schedule,
  split_trainable,
  without_frozen_layers,
)
from rm_jax.train.step import Steps, TrainState, check_cuts, make_steps
from rm_jax.train.tasks import objective, read_tasks
from rm_jax.types import Batch, UserError

# A plan without data: completions of this many tokens of their own, groups of
# this many completions. They set the slots of a row, which weigh little; where
# every token is a slot, all tokens are.
COMPLETION = 256
GROUP = {"pairwise": 2, "listwise": 9, "pointwise": 1, "process": 1}
STEPS_OF_COMPLETION = 32  # reasoning steps


class Shapes(NamedTuple):
  """What a train step takes and is made of."""

  spec: ModelSpec
  loss: LossSpec
  mesh: Any
  steps: Steps
  state: TrainState  # of ShapeDtypeStruct, as the fields below
  frozen: dict
  batch: Batch
  micro_batches: int

  @property
  def tokens(self) -> int:
    """Of a batch, padding included."""
    return self.batch.tokens.size

  @property
  def row_len(self) -> int:
    return self.batch.tokens.shape[-1]

  @property
  def chip_rows(self) -> int:
    """Rows of a micro-batch on one chip, or on the chips of a tensor group."""
    blocks, rows, _ = self.batch.tokens.shape
    parts = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
    return blocks * rows // (parts * self.micro_batches)


def step_shapes(
  config,
  devices,
  geometry: Geometry | None,
  rows: int,
  *,
  vocab_size: int | None = None,
) -> Shapes:
  """The `Shapes` of a config on a mesh of these devices.

  Args:
    geometry: of the batches, from a packing plan; None: that of completions
      and groups of a usual size.
    rows: of a block.
    vocab_size: of the tokenizer, which a random backbone takes; None: that of
      the named shape.

  Raises:
    UserError: whatever stops a run of this config before its data is read.
  """
  validate(config)
  if config.parallel != "pjit":
    raise UserError(
      f"config.parallel={config.parallel!r} is not planned, only 'pjit', whose "
      "numbers are the same. Set it."
    )
  if config.compute.attention == "splash":
    check_rows(config.data.row_len, config.data.align)
  mesh = make_mesh(**config.mesh, devices=devices)
  check_cuts(config, mesh)
  schedule = make_schedule(config.optim, config.num_train_steps)
  optimizer = make_optimizer(config.optim, schedule)
  tasks = read_tasks(config)
  loss = objective(tasks)
  decoder = find_decoder(config.init["from"])
  if vocab_size is not None and config.init["from"].startswith(RANDOM):
    decoder = dataclasses.replace(decoder, vocab_size=vocab_size)
  if config.init.layers:
    decoder, _ = first_layers(decoder, None, config.init.layers)
  spec = make_spec(config, decoder, None)
  known = bool(config.train.cache_hidden)
  steps = make_steps(
    spec,
    loss,
    optimizer,
    schedule,
    trainable=config.train.trainable,
    accumulate=config.train.accumulate,
    parallel=config.parallel,
    mesh=mesh,
    known_states=known,
  )
  params = nn.unbox(abstract_params(spec))
  trained, frozen = split_trainable(params, config.train.trainable)
  if known:
    frozen = without_frozen_layers(frozen, spec.frozen)
  number = jax.ShapeDtypeStruct((), "int32")
  state = TrainState(
    number, number, trained, jax.eval_shape(optimizer.init, trained)
  )
  geometry = geometry or usual_geometry(config, tasks, rows)
  batch = batch_shapes(geometry, rows)
  if known:
    wide = (*batch.tokens.shape, decoder.width)
    batch = batch._replace(hidden=jax.ShapeDtypeStruct(wide, "float32"))
  if spec.dropout:
    ids = jax.ShapeDtypeStruct(batch.tokens.shape, "uint32")
    batch = batch._replace(dropout_ids=ids)
  return Shapes(
    spec, loss, mesh, steps, state, frozen, batch, config.train.accumulate
  )


def find_decoder(source: str) -> DecoderConfig:
  """The decoder of config.init.from; a known shape is not looked for.

  "random:NAME" keeps the vocabulary of the shape: no tokenizer is read.
  """
  name = PUBLISHED.get(source, source.removeprefix(RANDOM))
  if name in SIZES:
    return SIZES[name]
  if source.startswith(RANDOM):
    raise UserError(
      f"config.init.from={source!r} is not known. Known after {RANDOM!r}: "
      f"{sorted(SIZES)}."
    )
  run = find_run(source)
  if run is not None:
    return DecoderConfig(**read_json(run[0] / "run.json")["model"]["decoder"])
  return open_pretrained(source).config


def usual_geometry(config, tasks, rows: int) -> Geometry:
  """Capacities of batches of which nothing but the config is known."""
  row_len = config.data.row_len
  completions = max(1, row_len // COMPLETION)
  size = max(GROUP[KIND[t.loss.name]] for t in tasks)
  groups = max(1, rows * completions // size)
  slots = completions
  for task in tasks:
    if task.loss.reads_language or task.reading.pooling in (
      "every_token",
      "mean",
    ):
      slots = row_len
    elif KIND[task.loss.name] == "process":
      slots = max(slots, STEPS_OF_COMPLETION * completions)
    slots = max(slots, completions * max(1, len(task.supervision.attributes)))
  return Geometry(
    row_len=row_len,
    blocks=config.data.blocks,
    slots=slots,
    comparisons=groups * max(1, size * (size - 1) // 2),
    groups=groups,
    group_size=size,
    completions=rows * completions,
    align=config.data.align,
  )


def batch_shapes(geometry: Geometry, rows: int) -> Batch:
  """Shapes of the batches of a geometry."""
  one = empty_batch(geometry._replace(blocks=1), rows)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((geometry.blocks, *x.shape[1:]), x.dtype),
    one,
  )
