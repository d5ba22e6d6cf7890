"""FLOPs counted from a program against those of the formula."""

import dataclasses

import flax.linen as nn
import forests
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rm_jax.data.pack import grow
from rm_jax.models.sharding import make_mesh
from rm_jax.models.sight import Forest, visible
from rm_jax.models.sizes import SIZES
from rm_jax.reward_model import HeadSpec, ModelSpec, abstract_params
from rm_jax.train.flops import (
  attended_pairs,
  attention_flops,
  dot_flops,
  matrix_sizes,
  model_flops,
  tree_pairs,
  useful_flops,
)

TINY = SIZES["tiny"]
SPEC = ModelSpec(
  TINY,
  HeadSpec("scalar", "zeros", "last_token"),
  "float32",
  True,
  (TINY.layers,),
)


def count(function, *arguments, devices=1):
  return dot_flops(jax.make_jaxpr(function)(*arguments).jaxpr, devices)


def test_a_product_takes_two_for_each_pair():
  a, b = jnp.zeros((3, 5, 7)), jnp.zeros((7, 11))
  assert count(lambda: a @ b) == 2 * 3 * 5 * 7 * 11


def test_a_scan_counts_every_time_and_a_gradient_three_products():
  weights, x = jnp.zeros((4, 8, 8)), jnp.zeros((2, 8))

  def loss(weights):
    out, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)
    return out.sum()

  once = 2 * 2 * 8 * 8
  assert count(loss, weights) == 4 * once
  # Backward: of the weights and of what came in.
  assert count(jax.grad(loss), weights) == 4 * 3 * once


def test_what_is_computed_again_counts_again():
  weights, x = jnp.zeros((8, 8)), jnp.zeros((2, 8))
  again = jax.checkpoint(lambda w: (jnp.tanh(x @ w) @ w).sum())
  # 2 forward; 1 again (the last result is not needed); 4 backward, of which
  # that of x, which has no gradient, is left out.
  assert count(jax.grad(again), weights) == (2 + 1 + 3) * 2 * 2 * 8 * 8


def test_every_device_counts_inside_a_shard_map():
  mesh = make_mesh(data=8, fsdp=1, tensor=1)
  over = PartitionSpec("data")
  product = jax.shard_map(
    lambda a, b: a @ b,
    mesh=mesh,
    in_specs=(over, PartitionSpec()),
    out_specs=over,
  )
  a, b = jnp.zeros((16, 3)), jnp.zeros((3, 5))
  assert count(product, a, b, devices=8) == 2 * 16 * 3 * 5


def test_loops_without_a_length_and_kernels_are_left_out():
  x = jnp.zeros((4, 4))
  assert count(lambda n: jax.lax.fori_loop(0, n, lambda _, y: y @ x, x), 3) == 0


def pairs_of(length, window):
  return sum(
    1
    for q in range(length)
    for k in range(q + 1)
    if not window or q - k < window
  )


@pytest.mark.parametrize("length, window", [(7, 0), (8, 3), (5, 9), (12, 4)])
def test_pairs_are_those_that_see_each_other(length, window):
  assert attended_pairs(length, window, 1) == pairs_of(length, window)


@pytest.mark.parametrize("length, window, block", [(12, 0, 4), (13, 5, 4)])
def test_a_block_counts_whole(length, window, block):
  blocks = {
    (q // block, k // block)
    for q in range(length)
    for k in range(q + 1)
    if not window or q - k < window
  }

  def size(index):
    return min(block, length - index * block)

  want = sum(size(q) * size(k) for q, k in blocks)
  assert attended_pairs(length, window, block) == want


def sizes(spec=SPEC):
  return matrix_sizes(spec, nn.unbox(abstract_params(spec)))


def test_the_mathematics_takes_six_for_each_parameter_and_token():
  # Palm's 6 N and 12 H d L of attention, halved: a token sees what is before.
  c, rows, row_len = TINY, 4, 64
  layer = c.width * c.head_dim * (2 * c.heads + 2 * c.kv_heads)
  layer += 3 * c.width * c.mlp_width
  tokens = rows * row_len
  assert sizes() == (c.layers * layer,)
  got = model_flops(SPEC, sizes(), tokens=tokens)
  assert got == 6 * c.layers * layer * tokens
  how = dict(rows=rows, row_len=row_len, block=1)
  model, hardware = attention_flops(SPEC, sizes(), **how)
  pairs = rows * row_len * (row_len + 1) / 2
  assert model == 12 * c.layers * c.heads * c.head_dim * pairs
  # Scores and mixing again for a layer that kept nothing, scores once more.
  assert hardware == model * 9 / 6
  # In two passes scores and the gradient of the weights twice.
  how |= dict(backward="apart")
  assert attention_flops(SPEC, sizes(), **how)[1] == model * 11 / 6


def test_frozen_layers_count_forward_only_and_not_at_all_where_known():
  spec = dataclasses.replace(SPEC, segments=(2, 1), frozen=1)
  whole = model_flops(SPEC, sizes(), tokens=10)
  how = dict(rows=1, row_len=8, block=1)
  every = attention_flops(SPEC, sizes(), **how)[0]
  frozen, trained = sizes(spec)
  assert frozen == 2 * trained
  assert model_flops(spec, sizes(spec), tokens=10) == whole * (2 + 2 + 6) / 18
  assert attention_flops(spec, sizes(spec), **how)[0] == every * 10 / 18
  # Their states are read: the stack is not among the parameters of the step.
  known = (0, trained)
  params = nn.unbox(abstract_params(spec))
  del params["backbone"]["layers_0"]
  assert matrix_sizes(spec, params) == known
  assert model_flops(spec, known, tokens=10) == whole * 6 / 18
  assert attention_flops(spec, known, **how)[0] == every * 6 / 18


@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("layout", ["shared", "packed"])
def test_useful_pairs_are_those_that_the_rule_of_attention_shows(
  layout, window
):
  # Wrong: branches that see one another, padding, a trunk counted per branch.
  groups = [*forests.ragged_groups(), forests.forked_group(record=9)]
  laid, _ = forests.batches(groups, layout=layout, row_len=64, blocks=2)
  batch = laid[0][0]
  flat = [
    np.reshape(x, (-1, x.shape[-1]))
    for x in (
      batch.group_ids,
      batch.branch_ids,
      batch.positions,
      batch.fork_positions,
    )
  ]
  seen = np.asarray(visible(Forest(*flat), window=window))
  real = flat[0] > 0
  want = int((seen & real[:, :, None]).sum())
  pieces = [
    p for g in groups for p in grow(g, layout=layout, row_len=64, align=1)
  ]
  assert sum(p.useful() for p in pieces) == real.sum()
  assert sum(tree_pairs(p, window) for p in pieces) == want
  if not window:
    got = useful_flops(SPEC, sizes(), pieces)
    c, tokens = TINY, int(real.sum())
    attention = 12 * c.layers * c.heads * c.head_dim * want
    assert got == 6 * sum(sizes()) * tokens + attention
