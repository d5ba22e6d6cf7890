"""Floating point operations of a train step: needed, and computed.

Model FLOPs are what the mathematics needs, hardware FLOPs what the program
does: its products are read off the traced step, rematerialised ones included
(the compiler's own count takes the body of a loop once). Attention is in closed
form in both: its kernels and loops run as often as the rows' trees say.
"""

import math

import jax
from jax.extend.core import jaxprs_in_params

from rm_jax.kernels.splash import LONGEST_FUSED, block_of
from rm_jax.models.sight import BLOCK
from rm_jax.reward_model import ModelSpec

# Products of [L, L] per head: scores and mixing; their gradients; what a kernel
# that kept no weights computes again, in one pass or in two.
FORWARD, BACKWARD = 2, 4
AGAIN = {"fused": 1, "apart": 3}


def matrix_sizes(spec: ModelSpec, params: dict) -> tuple[int, ...]:
  """Entries of the matrices of each of `spec.segments`.

  0 of a stack that is not there: the states that it gives are read.

  Args:
    params: of the whole model, arrays or shapes.
  """

  def size(index):
    stack = params["backbone"].get(f"layers_{index}", {})
    leaves = jax.tree_util.tree_flatten_with_path(stack)[0]
    return sum(x.size for path, x in leaves if path[-1].key == "kernel")

  return tuple(size(index) for index in range(len(spec.segments)))


def step_flops(
  spec: ModelSpec,
  sizes: tuple[int, ...],
  jaxpr,
  *,
  rows: int,
  row_len: int,
  devices: int,
) -> tuple[float, float]:
  """(model, hardware) FLOPs of a traced train step over all devices.

  Of full rows: padding counts, and a row holds one path.

  Args:
    sizes: of `matrix_sizes`.
    jaxpr: of the traced step.
    rows: of a whole batch.
  """
  by_kernel = spec.attention == "splash"
  apart = by_kernel and row_len > LONGEST_FUSED
  model, hardware = attention_flops(
    spec,
    sizes,
    rows=rows,
    row_len=row_len,
    block=block_of(row_len) if by_kernel else BLOCK,
    backward="apart" if apart else "fused",
  )
  if not by_kernel and row_len <= BLOCK:
    hardware = 0.0  # plain products, which the program has
  model += model_flops(spec, sizes, tokens=rows * row_len)
  return model, hardware + dot_flops(jaxpr.jaxpr, devices)


def useful_flops(spec: ModelSpec, sizes: tuple[int, ...], pieces) -> float:
  """Model FLOPs of the tokens of trees: no padding, no pair that is not seen.

  Args:
    sizes: of `matrix_sizes`.
    pieces: of a whole batch, see rm_jax.data.pack.Piece.
  """
  pieces = list(pieces)
  total = model_flops(spec, sizes, tokens=sum(p.useful() for p in pieces))
  pairs = {}  # by window: layers of one window see the same
  for layer, passes in _layers(spec, sizes):
    window = spec.decoder.kind(layer).window
    if window not in pairs:
      pairs[window] = sum(tree_pairs(p, window) for p in pieces)
    total += passes * _product(spec) * pairs[window]
  return total


def tree_pairs(piece, window: int) -> int:
  """Pairs (query, key) of a piece that see each other.

  A token sees its own path: of a branch those that its end sees less those of
  the trunk that it forked from.
  """
  pairs = attended_pairs(piece.trunk, window, 1)
  for branch in piece.branches:
    pairs += attended_pairs(branch.fork + branch.length, window, 1)
    pairs -= attended_pairs(branch.fork, window, 1)
  return pairs


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
  sizes: tuple[int, ...],
  *,
  rows: int,
  row_len: int,
  block: int,
  backward: str = "fused",
) -> tuple[float, float]:
  """(model, hardware) FLOPs of attention of one step over all devices.

  Args:
    sizes: of `matrix_sizes`.
    rows: of a whole batch.
    block: tokens of a block of the attention that computes it.
    backward: of AGAIN.
  """
  again = AGAIN[backward] + (FORWARD if spec.remat else 0)
  model = hardware = 0.0
  for layer, passes in _layers(spec, sizes):
    window = spec.decoder.kind(layer).window
    each = _product(spec) * rows
    model += passes * each * attended_pairs(row_len, window, 1)
    done = passes if passes == FORWARD else passes + again
    hardware += done * each * attended_pairs(row_len, window, block)
  return model, hardware


def _layers(spec: ModelSpec, sizes: tuple[int, ...]):
  """Yields (layer, products of attention) of the layers that are computed."""
  first = 0
  for index, (count, size) in enumerate(zip(spec.segments, sizes, strict=True)):
    passes = FORWARD if index < spec.frozen else FORWARD + BACKWARD
    if size:
      yield from ((layer, passes) for layer in range(first, first + count))
    first += count


def _product(spec: ModelSpec) -> float:
  """FLOPs of one product of attention for a pair of tokens, all heads."""
  return 2.0 * spec.decoder.heads * spec.decoder.head_dim


def model_flops(
  spec: ModelSpec, sizes: tuple[int, ...], *, tokens: int
) -> float:
  """FLOPs of the products with parameters that a step's mathematics needs.

      2 N a token forward, 2 N for the gradient of what came in, 2 N for that
      of the parameters: 6 N D where all of them train

  Attention apart. N are the matrices of the layers: tables are looked up, and
  heads read few tokens.

  Args:
    sizes: of `matrix_sizes`.
    tokens: whose states are computed.
  """
  trains = 3 if spec.lora is None else 2
  return sum(
    2.0 * size * tokens * (1 if index < spec.frozen else trains)
    for index, size in enumerate(sizes)
  )
