"""Floating point operations of a train step, counted two ways.

Hardware FLOPs are read off the traced program, rematerialised products
included; the compiler's own count takes the body of a loop once. Model FLOPs
are what the mathematics needs. Attention is in closed form in both: its kernels
and loops run as often as the rows' trees say.
"""

import math

import jax
from jax.extend.core import jaxprs_in_params

from rm_jax.kernels.splash import LONGEST_FUSED, block_of
from rm_jax.models.sight import BLOCK
from rm_jax.reward_model import ModelSpec
from rm_jax.train.optim import merge

# Products of [L, L] per head: scores and mixing; their gradients; what a kernel
# that kept no weights computes again, in one pass or in two.
FORWARD, BACKWARD = 2, 4
AGAIN = {"fused": 1, "apart": 3}


def step_flops(shapes, jaxpr) -> tuple[float, float]:
  """(model, hardware) FLOPs of a traced train step over all devices.

  Args:
    shapes: the `Shapes` that it was traced from.
    jaxpr: of the traced step.
  """
  spec, row_len = shapes.spec, shapes.row_len
  by_kernel = spec.attention == "splash"
  apart = by_kernel and row_len > LONGEST_FUSED
  model, hardware = attention_flops(
    spec,
    rows=shapes.tokens // row_len,
    row_len=row_len,
    block=block_of(row_len) if by_kernel else BLOCK,
    backward="apart" if apart else "fused",
  )
  if not by_kernel and row_len <= BLOCK:
    hardware = 0.0  # plain products, which the program has
  params = merge(shapes.state.params, shapes.frozen)
  model += model_flops(spec, params, tokens=shapes.tokens)
  return model, hardware + dot_flops(jaxpr.jaxpr, shapes.mesh.size)


def dot_flops(jaxpr, devices: int) -> float:
  """FLOPs of all matrix products of a traced program, over all devices.

  2 x size of the result x size of what is summed over; a scan's body counts as
  often as it runs, a shard_map's on every device, of branches the dearest.
  Kernels and loops without a fixed length are left out: that is attention.
  """
  total = 0.0
  for eqn in jaxpr.eqns:
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
      (contracted, _), _ = params["dimension_numbers"]
      summed = math.prod(eqn.invars[0].aval.shape[d] for d in contracted)
      total += 2.0 * math.prod(eqn.outvars[0].aval.shape) * summed
    elif name in ("while", "pallas_call"):
      continue
    elif name == "cond":
      total += max(dot_flops(b.jaxpr, devices) for b in params["branches"])
    else:
      times = params["length"] if name == "scan" else 1
      times *= devices if name == "shard_map" else 1
      inside = jaxprs_in_params(params)
      total += times * sum(dot_flops(x, devices) for x in inside)
  return total


def attended_pairs(length: int, window: int, block: int) -> int:
  """Pairs (query, key) that one row of one path computes.

  The most that a row can take: branches see less. Counted in whole blocks.

  Args:
    block: tokens of a block; 1 counts what is visible.
  """
  pairs = 0
  for first in range(0, length, block):
    last = min(first + block, length) - 1
    oldest = max(0, first - window + 1) // block * block if window else 0
    pairs += min(block, length - first) * (
      min(-(-(last + 1) // block) * block, length) - oldest
    )
  if block > 1:
    return pairs
  seen = min(length, window) if window else length
  return seen * (seen + 1) // 2 + (length - seen) * seen


def attention_flops(
  spec: ModelSpec,
  *,
  rows: int,
  row_len: int,
  block: int,
  backward: str = "fused",
) -> tuple[float, float]:
  """(model, hardware) FLOPs of attention of one step over all devices.

  Args:
    rows: of a whole batch.
    block: tokens of a block of the attention that computes it.
    backward: of AGAIN.
  """
  c = spec.decoder
  still = sum(spec.segments[: spec.frozen])
  model = hardware = 0.0
  for layer in range(c.layers):
    window = c.kind(layer).window
    each = 2.0 * c.heads * c.head_dim * rows
    seen = each * attended_pairs(row_len, window, 1)
    done = each * attended_pairs(row_len, window, block)
    if layer < still:
      model, hardware = model + FORWARD * seen, hardware + FORWARD * done
      continue
    model += (FORWARD + BACKWARD) * seen
    again = AGAIN[backward] + (FORWARD if spec.remat else 0)
    hardware += (FORWARD + BACKWARD + again) * done
  return model, hardware


def model_flops(spec: ModelSpec, params: dict, *, tokens: int) -> float:
  """FLOPs of the products with parameters that a step's mathematics needs.

      2 N a token forward, 2 N for the gradient of what came in, 2 N for that
      of the parameters: 6 N D where all of them train

  Attention apart. N are the matrices of the layers: tables are looked up, and
  heads read few tokens.

  Args:
    params: of the whole model, arrays or shapes.
    tokens: of a batch, padding included.
  """
  total = 0.0
  for index in range(len(spec.segments)):
    stack = params["backbone"][f"layers_{index}"]
    leaves = jax.tree_util.tree_flatten_with_path(stack)[0]
    count = sum(x.size for path, x in leaves if path[-1].key == "kernel")
    passes = 3 if spec.lora is None else 2
    total += 2.0 * count * tokens * (1 if index < spec.frozen else passes)
  return total
