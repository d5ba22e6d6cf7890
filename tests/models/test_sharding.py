"""The mesh, and where parameters and batches go on it."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rm_jax.models.sharding import (
  RULES,
  block_sharding,
  make_mesh,
  put_evenly,
  shard_tree,
)
from rm_jax.models.sight import Forest
from rm_jax.models.sizes import SIZES
from rm_jax.reward_model import HeadSpec, ModelSpec, abstract_params
from rm_jax.types import UserError

SPEC = ModelSpec(
  SIZES["tiny"],
  HeadSpec("scalar", "zeros", "last_token"),
  "float32",
  True,
  (3,),
)


def test_data_takes_the_devices_that_are_left():
  mesh = make_mesh(data=-1, fsdp=2, tensor=2)
  assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize(
  "sizes, said",
  [
    (dict(data=3, fsdp=1, tensor=1), "covers 3 devices, there are 8"),
    (dict(data=-1, fsdp=3, tensor=1), "covers 6 devices"),
    (dict(data=0, fsdp=1, tensor=1), "sizes are positive"),
    (dict(data=-1, fsdp=0, tensor=1), "sizes are positive"),
  ],
)
def test_a_mesh_that_does_not_multiply_says_both_numbers(sizes, said):
  with pytest.raises(UserError, match=said):
    make_mesh(**sizes)


def test_kernels_are_cut_and_norms_and_head_are_not():
  # Catches a logical axis without a rule: it would be copied, silently.
  mesh = make_mesh(data=2, fsdp=2, tensor=2)
  shards = shard_tree(abstract_params(SPEC), mesh)
  layer = shards["backbone"]["layers_0"]
  specs = {
    "q": layer["attn"]["q"]["kernel"],
    "o": layer["attn"]["o"]["kernel"],
    "down": layer["mlp"]["down"]["kernel"],
    "embed": shards["backbone"]["embed"]["embedding"],
    "norm": layer["attn_norm"]["scale"],
    "head": shards["head"]["kernel"],
  }
  assert {k: v.spec for k, v in specs.items()} == {
    "q": PartitionSpec(None, "fsdp", "tensor"),
    "o": PartitionSpec(None, "tensor", "fsdp"),
    "down": PartitionSpec(None, "tensor", "fsdp"),
    "embed": PartitionSpec("tensor", "fsdp"),
    "norm": PartitionSpec(None, None),
    "head": PartitionSpec(None),
  }


def test_what_does_not_split_is_copied_and_the_rest_is_cut():
  # Three devices of a width of 32 and an MLP of 48; a leaf without axes, as a
  # published head has. Wrong: an error, or all of it copied for one axis.
  mesh = make_mesh(data=1, fsdp=3, tensor=1, devices=jax.devices()[:3])
  boxed = {
    "even": nn.LogicallyPartitioned(np.zeros((48, 2)), ("embed", "norm")),
    "uneven": nn.LogicallyPartitioned(np.zeros((32, 2)), ("embed", "norm")),
  }
  params = {
    "even": np.arange(96.0).reshape(48, 2),
    "uneven": np.arange(64.0).reshape(32, 2),
    "unknown": {"bias": np.ones(3)},
  }
  placed = put_evenly(params, boxed, mesh)
  shapes = jax.tree.map(lambda x: x.addressable_shards[0].data.shape, placed)
  assert shapes == {
    "even": (16, 2),
    "uneven": (32, 2),
    "unknown": {"bias": (3,)},
  }
  jax.tree.map(np.testing.assert_array_equal, placed, params)


def test_blocks_are_cut_over_data_and_fsdp():
  mesh = make_mesh(data=2, fsdp=2, tensor=2)
  blocks = jax.device_put(jax.numpy.zeros((8, 3)), block_sharding(mesh))
  assert {s.data.shape for s in blocks.addressable_shards} == {(2, 3)}


def compiled_gradient(spec, mesh):
  """HLO of the gradient of a decoder, cut as a run's is."""
  tokens = jax.numpy.zeros((8, 16), "int32")
  forest = Forest(tokens + 1, tokens, tokens, tokens)
  params = abstract_params(spec)["backbone"]

  def total(params, tokens, forest):
    with nn.logical_axis_rules(RULES):
      return spec.decoder_module.apply({"params": params}, tokens, forest).sum()

  shards = shard_tree(params, mesh)
  blocks = block_sharding(mesh)
  run = jax.jit(
    jax.grad(total),
    in_shardings=(shards, blocks, blocks),
    out_shardings=shards,
  )
  with jax.set_mesh(mesh):
    return run.lower(nn.unbox(params), tokens, forest).compile().as_text()


def test_the_table_is_never_whole_on_a_device():
  # 96 x 32 cut over 8: [96, 4] on each; a device that looked its own tokens up
  # in whole rows would need all of it, and so would the gradient.
  mesh = make_mesh(data=1, fsdp=8, tensor=1)
  text = compiled_gradient(SPEC, mesh)
  assert "f32[96,4]" in text
  assert "f32[96,32]" not in text
