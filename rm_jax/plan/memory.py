"""What fills a chip's memory, as far as shapes tell without a compiler."""

import math

import jax
import jax.numpy as jnp

from rm_jax.models.sharding import block_sharding
from rm_jax.plan.shapes import Shapes

STREAMS = "residual streams kept for the way back"  # no argument of a step


def state_parts(shapes: Shapes) -> dict[str, int]:
  """{what: bytes of one device} of what has to be there during a step.

  The rest of a peak is the work on one layer: its weights gathered, what its
  backward pass keeps, and gradients on their way.
  """
  state_shards, frozen_shards = shapes.steps.shardings
  parts = {
    "parameters": _bytes(shapes.state.params, state_shards.params),
    "optimizer state": _bytes(shapes.state.opt_state, state_shards.opt_state),
    "batch": _bytes(shapes.batch, block_sharding(shapes.mesh)),
  }
  if shapes.frozen:
    parts["frozen parameters"] = _bytes(shapes.frozen, frozen_shards)
  if shapes.spec.remat:
    parts[STREAMS] = _kept_streams(shapes)
  return parts


def _bytes(tree, shards) -> int:
  """Bytes of one device's part of a tree of shapes."""
  leaves = jax.tree.leaves(tree)
  if isinstance(shards, jax.sharding.Sharding):
    shards = [shards] * len(leaves)
  return sum(
    math.prod(shard.shard_shape(x.shape)) * x.dtype.itemsize
    for x, shard in zip(leaves, jax.tree.leaves(shards), strict=True)
  )


def _kept_streams(shapes: Shapes) -> int:
  """The input of every layer that trains, of one micro-batch."""
  spec, mesh = shapes.spec, shapes.mesh.shape
  layers = sum(spec.segments[spec.frozen :])
  tokens = shapes.chip_rows * shapes.row_len // mesh["tensor"]
  width = spec.decoder.width * jnp.dtype(spec.results).itemsize
  return layers * tokens * width
