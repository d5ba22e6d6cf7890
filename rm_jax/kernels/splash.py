"""Attention on TPU: jax's splash kernel under our rule, over blocks it needs.

The kernel hands one int32 per query to a mask function. Three columns and a
flag packed into it say what a token of a packed row sees, and lists of blocks
come with each row: what nobody sees is neither fetched nor computed.

Everything of jax that may change without notice stands in this file: the
kernel's class, MaskInfo, and what the kernel makes of `q_sequence`,
`data_next`, `block_mask` and sinks.

Source: Dao et al. 2022, arXiv:2205.14135 (FlashAttention), as
jax.experimental.pallas.ops.tpu.splash_attention; rule and lists are ours.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rm_jax.models.blocks import HIDDEN, How
from rm_jax.models.dots import KEPT
from rm_jax.models.sight import Forest
from rm_jax.types import UserError

# Versions whose kernel was read; setup.py has the same bounds.
OLDEST, BEYOND = (0, 10, 2), (0, 13)

LANES = 128  # of a TPU's vector unit: a block is a multiple of them
BLOCKS = (512, 256, LANES)  # tokens in a block: the first that divides a row
# The fused backward pass takes five products where the other takes seven, but
# writes a dq for every block of keys (docs/tpu.md): for rows up to this only.
LONGEST_FUSED = 4_096
# A sink of no weight: it takes nothing from a query that sees a key, and one
# that sees none gives 0, where it would give 0 / 0.
SINK = -1e30


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Codes:
  """What the kernel has to know about B packed rows of N blocks each.

  The same for all layers of one window. `seen` says which block of queries sees
  which block of keys; `keys_next` and `queries_next` which block the kernel
  fetches at each step, going through the keys of a block of queries or through
  the queries of a block of keys.
  """

  codes: Int[Array, "B L"]
  group_ids: Int[Array, "B L"]
  seen: Bool[Array, "B N N"]
  keys_next: Int[Array, "B N N"]
  queries_next: Int[Array, "B N N"]
  window: int = dataclasses.field(metadata=dict(static=True))


def check_jax(version: tuple = jax.__version_info__) -> None:
  """Raises UserError with a jax whose kernel nobody has read."""
  if not OLDEST <= version < BEYOND:
    name, low, high = (".".join(map(str, v)) for v in (version, OLDEST, BEYOND))
    raise UserError(
      f"config.compute.attention='splash' relies on inner parts of jax {low} "
      f"up to, not including, {high}; this is jax {name}. Install one of those "
      "or set config.compute.attention='blocks'."
    )


def least_align(row_len: int) -> int:
  """Columns that branches start at multiples of, so that codes fit 31 bits."""
  align = 1
  while (row_len - 1).bit_length() + 2 * _field(row_len, align) > 31:
    align *= 2
  return align


def _field(row_len, align):
  """Bits of a column that is a multiple of `align`."""
  return (-(-row_len // align) - 1).bit_length()


def check_rows(row_len: int, align: int) -> None:
  """Raises UserError unless the kernel can take such rows."""
  if row_len % LANES:
    raise UserError(
      f"config.data.row_len={row_len} is not a multiple of {LANES} (remainder "
      f"{row_len % LANES}), which config.compute.attention='splash' needs. "
      f"Nearest above: {row_len - row_len % LANES + LANES}."
    )
  least = least_align(row_len)
  if align % least:
    raise UserError(
      f"config.data.align={align} is not a multiple of {least}, which "
      f"config.compute.attention='splash' needs at config.data.row_len="
      f"{row_len}. Set config.data.align={least}."
    )


def block_of(row_len: int) -> int:
  """Tokens in a block of rows of this length."""
  return next(block for block in BLOCKS if row_len % block == 0)


@functools.cache  # the same object for equal arguments: jit keys on it
def _rule(row_len, window):
  """The mask function: does the query of a code see the key of a column?

  Of the two stretches a query sees, its branch's goes from `start` to its own
  column, the trunk's ends before `end`. Positions continue from the fork, so
  the distance to a trunk key is what the columns between say, less the gap.
  """
  align = least_align(row_len)
  low, high = (row_len - 1).bit_length(), _field(row_len, align)

  def sees(code, key):
    query = code & (1 << low) - 1
    start = (code >> low & (1 << high) - 1) * align
    end = (code >> low + high & (1 << high) - 1) * align
    shown = (key <= query) & ((key >= start) | (key < end))
    if not window:
      return shown
    distance = query - key - jnp.where(key < start, start - end, 0)
    return shown & ((code >= 0) | (distance < window))

  return sees


def see_codes(forest: Forest, *, window: int, widest: int) -> Codes:
  """What `attend_codes` reads, from rows that the packer laid.

  A tree's trunk lies before its branches, each of them in one stretch; all
  start at multiples of `least_align`.

  Args:
    window: a token sees so many positions, itself included; 0: all.
    widest: the window of the decoder's layers that have one; 0: none has.

  Raises:
    UserError: a row length that the kernel cannot take, or an unknown jax.
  """
  check_jax()
  row_len = forest.positions.shape[1]
  check_rows(row_len, least_align(row_len))
  assert window in (0, widest), (window, widest)
  align, block = least_align(row_len), block_of(row_len)
  low, high = (row_len - 1).bit_length(), _field(row_len, align)
  query = jnp.broadcast_to(
    jnp.arange(row_len, dtype=jnp.int32), forest.positions.shape
  )
  real, fork = forest.group_ids > 0, forest.fork_positions
  start = query - (forest.positions - fork)
  roots = real & (forest.branch_ids == 0) & (forest.positions == 0)
  root = jax.lax.cummax(jnp.where(roots, query, 0), axis=1)
  end = jnp.where(fork > 0, root + fork, 0)
  codes = query | start // align << low | end // align << low + high
  # The sign is the flag: the layer has the window.
  codes = codes | jnp.int32(-(1 << 31)) if window else codes
  near = query - window + 1 if window else 0 * query
  stretches = (
    (jnp.maximum(start, near), query),
    (jnp.maximum(root, near - start + end), end - 1),
  )
  seen = _blocks_seen(stretches, real, row_len, block)
  return Codes(
    codes=jnp.where(real, codes, query),
    group_ids=forest.group_ids,
    seen=seen,
    keys_next=_keys_next(seen),
    queries_next=_queries_next(seen),
    window=widest,
  )


def _blocks_seen(stretches, real, row_len, block):
  """[B, N, N]: some query of a block sees some key of a block.

  Every column of a stretch is a token that is seen, so that it is enough to ask
  which blocks it meets: L x N comparisons a row, not L x L.
  """
  first = jnp.arange(0, row_len, block, dtype=jnp.int32)[None, None]
  met = False
  for low, high in stretches:
    low, high = low[..., None], high[..., None]
    met |= (low <= high) & (low < first + block) & (high >= first)
  met &= real[..., None]
  blocks = row_len // block
  return met.reshape(len(real), blocks, block, blocks).any(axis=2)


def _keys_next(seen):
  """The block of keys to be fetched at each step: queries outside, keys inside.

  Of a step that computes nothing the next one that is needed, at the end of a
  row of steps that of the next block of queries: it arrives in the meantime.
  """
  rows, blocks, _ = seen.shape
  line = seen.reshape(rows, blocks * blocks)
  return (_upcoming(line) % blocks).reshape(seen.shape)


def _queries_next(seen):
  """The block of queries to be fetched: keys outside, then heads, queries.

  After the last step of a head the next head begins at the same block of keys.
  """
  rows, blocks, _ = seen.shape
  line = seen.swapaxes(1, 2).reshape(rows * blocks, blocks)
  return _upcoming(line).reshape(seen.shape).swapaxes(1, 2)


def _upcoming(line):
  """[X, M] -> at m the first n >= m with line[n], else the first of all."""
  steps = line.shape[1]
  at = jnp.broadcast_to(jnp.arange(steps, dtype=jnp.int32), line.shape)
  ahead = jax.lax.cummin(jnp.where(line, at, steps), axis=1, reverse=True)
  first = ahead[:, :1] % steps  # 0 of a line without any
  return jnp.where(ahead < steps, ahead, first)


def attend_codes(
  q: Float[Array, "B L H d"],
  k: Float[Array, "B L J d"],
  v: Float[Array, "B L J d"],
  sight: Codes,
  how: How,
) -> Float[Array, "B L H d"]:
  """`attend_blocks` by the kernel: 0 where a query sees nothing.

  Operands and the result are rounded to `how.dtype`, sums and the softmax are
  float32. One row after the other: in one go they would cost memory.
  """

  def operand(x):
    return x.astype(how.dtype).swapaxes(1, 2)  # [B H L d]

  def one(row):
    return _attend_row(*row, how=how)

  q = q.astype(jnp.float32) * how.scale
  operands = (operand(q), operand(k), operand(v), sight)
  if len(q) == 1:
    mixed = one(jax.tree.map(lambda x: x[0], operands))[None]
  else:
    mixed = jax.lax.map(one, operands)
  return mixed.swapaxes(1, 2).astype(jnp.float32)


def _attend_row(q, k, v, sight, *, how):
  # Here: a run without the kernel does not wait for Pallas.
  from jax.experimental.pallas.ops.tpu import splash_attention as stock

  heads, row_len, _ = q.shape
  block, fused = block_of(row_len), row_len <= LONGEST_FUSED

  def blocks(data_next):
    return stock.splash_attention_mask_info.MaskInfo(
      data_next=data_next[None],  # one list for all heads
      mask_next=None,
      block_mask=sight.seen.astype(jnp.int32)[None],
      partial_mask_blocks=None,
      q_sequence=sight.codes,
    )

  kernel = stock.splash_attention_kernel.SplashAttentionKernel(
    fwd_mask_info=blocks(sight.keys_next),
    dq_mask_info=None if fused else blocks(sight.keys_next),
    dkv_mask_info=blocks(sight.queries_next),
    block_sizes=stock.BlockSizes(
      block_q=block,
      block_kv=block,
      block_q_dkv=block,
      block_kv_dkv=block,
      block_q_dq=None if fused else block,
      block_kv_dq=None if fused else block,
      use_fused_bwd_kernel=fused,
    ),
    is_mqa=False,
    save_residuals=False,
    mask_value=HIDDEN,
    attn_logits_soft_cap=how.soft_cap or None,
    residual_checkpoint_name=KEPT,
    mask_function=_rule(row_len, sight.window),
    interpret=False,
  )
  # Padding is of no group: as a query it sees not even padding.
  of_query = jnp.where(sight.group_ids > 0, sight.group_ids, -1)
  return kernel(
    q,
    k,
    v,
    stock.SegmentIds(of_query, sight.group_ids),
    jnp.full((heads,), SINK, jnp.float32),
  )
