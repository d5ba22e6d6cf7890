"""The kernel for TPUs: the rule in its codes, its lists of blocks, its numbers.

On a CPU the kernel is interpreted, with the buffers, copies and aliases that it
has on a TPU (jax's TPU interpret mode). tests/aot compiles it for TPUs.
"""

import dataclasses
import functools
import hashlib
import pathlib

import flax.linen as nn
import forests
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas.ops.tpu import splash_attention

from bench.splash import (
  ROW_LENS,
  SOURCES,
  count_blocks,
  packed_rows,
)
from rm_jax.kernels import splash
from rm_jax.models import transformer
from rm_jax.models.attention import attend
from rm_jax.models.sight import EVERYTHING, Forest, Sight, visible
from rm_jax.models.sizes import SIZES
from rm_jax.models.transformer import Decoder
from rm_jax.types import UserError

# The start of the SHA-256 of jax's splash_attention_kernel.py and of its
# splash_attention_mask_info.py, in the versions that were read.
READ = {
  ("9fd3f4f9a451", "cc9ef241e237"): "jax 0.10.2 and 0.11.0",
  ("616a255c3d73", "cc9ef241e237"): "jax 0.11.1",
  ("8af5e992684d", "cc9ef241e237"): "jax 0.11.2",
  ("01bdcba02713", "cc9ef241e237"): "jax 0.12.0 and 0.12.0.1",
}
SHORT = 256


def test_jax_is_one_whose_kernel_was_read():
  # First in this file: whatever fails below may be jax's doing.
  modules = (
    splash_attention.splash_attention_kernel,
    splash_attention.splash_attention_mask_info,
  )
  ours = tuple(
    hashlib.sha256(pathlib.Path(m.__file__).read_bytes()).hexdigest()[:12]
    for m in modules
  )
  assert ours in READ, (
    f"jax {jax.__version__} changed its splash kernel: {ours}. Read the "
    "difference to the last version in READ: MaskInfo's fields, what becomes "
    "of q_sequence in the mask of a block, of data_next and block_mask in the "
    "loop over blocks, of sinks at its start. Change rm_jax/kernels/splash.py "
    "where they changed, see the tests below pass, then add the new line to "
    "READ and the version to splash.BEYOND and setup.py."
  )


def test_an_unread_jax_is_refused_by_its_version():
  splash.check_jax((0, 10, 2))
  splash.check_jax((0, 12, 0, 1))
  with pytest.raises(UserError, match=r"this is jax 0\.13\.0\. Install one"):
    splash.check_jax((0, 13, 0))
  with pytest.raises(UserError, match=r"relies on .* jax 0\.10\.2 up to"):
    splash.check_jax((0, 10, 1))


def test_three_columns_and_a_sign_fit_32_bits():
  # The design's table, by its formula; at 2,048 half of it is enough.
  lengths = (128, 1024, 1536, 2048, 4096, 8192, 16384, 32768)
  assert [splash.least_align(n) for n in lengths] == [
    *(1, 1, 2, 2, 8, 16, 64, 128),
  ]
  for length in lengths:
    align = splash.least_align(length)
    assert length % align == 0
    last = (length - 1).bit_length() + 2 * (length // align - 1).bit_length()
    assert last <= 31


@pytest.mark.parametrize(
  "row_len, align, said",
  [
    (300, 1, r"row_len=300 is not a multiple of 128 \(remainder 44\).* 384\."),
    (4096, 4, r"align=4 is not a multiple of 8.*row_len=4096\. .*align=8\."),
    (8192, 24, r"align=24 is not a multiple of 16"),
  ],
)
def test_rows_that_do_not_fit_say_what_would(row_len, align, said):
  with pytest.raises(UserError, match=said):
    splash.check_rows(row_len, align)
  splash.check_rows(4096, 16)


@functools.cache
def packed(row_len, rows) -> Forest:
  """Rows of trees: ragged groups, forks at many depths, no common prefix."""
  rng = np.random.default_rng(0)

  def draw(n):
    return rng.integers(1, forests.VOCAB, n).tolist()

  groups, longest = [], row_len // 12
  for n in range(12 * rows):
    kind = n % 4
    trunk = draw(int(rng.integers(2, longest)))
    k = int(rng.integers(2, 7))
    tails = [draw(int(rng.integers(1, longest))) for _ in range(k)]
    tokens = [trunk + t for t in tails]
    if kind == 1:  # completion 0 is the trunk, the others leave it
      cuts = rng.integers(0, len(trunk), k)
      cut = [trunk[:n] for n in cuts]
      tokens = [trunk, *(a + [0] + b for a, b in zip(cut, tails, strict=True))]
    if kind == 2:  # a trunk of no token
      tokens = [[90 + i, *t] for i, t in enumerate(tails)]
    own = dict(record=n, trunk=0 if kind == 1 else -1)
    groups.append(forests.group(tokens, [0] * len(tokens), **own))
  [(batch, _)], _ = forests.batches(
    groups,
    layout="shared",
    row_len=row_len,
    blocks=1,
    batch="rows",
    rows_per_batch=rows,
    align=splash.least_align(row_len),
  )
  assert batch.group_ids[0].max() >= 3  # several groups in a row
  return Forest(*(jnp.asarray(getattr(batch, x)[0]) for x in Forest._fields))


@functools.partial(jax.jit, static_argnames="window")
def seen_by_tokens(forest, window):
  return visible(forest, window=window) & (forest.group_ids > 0)[:, :, None]


def by_tokens(forest, window):
  """[B, L, L]: who sees whom, by the definition; padding nobody."""
  return np.asarray(seen_by_tokens(forest, window))


def see_codes(forest, window, widest):
  # A new function every time: tests change BLOCKS, which jit cannot know.
  return jax.jit(lambda x: splash.see_codes(x, window=window, widest=widest))(
    forest
  )


@pytest.mark.parametrize("row_len", [SHORT, 1536])
@pytest.mark.parametrize("window, widest", [(0, 0), (0, 30), (30, 30)])
def test_the_rule_of_the_kernel_is_ours(row_len, window, widest):
  # Catches a field that overflows into the next, a distance to the trunk that
  # counts columns between, a window in a layer that has none.
  rows = packed(row_len, 2)
  sight = see_codes(rows, window, widest)
  rule = jax.jit(splash._rule(row_len, widest))
  keys = jnp.arange(row_len, dtype=jnp.int32)[None, None]
  groups = np.asarray(rows.group_ids)
  shown = np.asarray(rule(sight.codes[:, :, None], keys))
  shown = (
    shown & (groups[:, :, None] == groups[:, None]) & (groups > 0)[..., None]
  )
  np.testing.assert_array_equal(shown, by_tokens(rows, window))


@pytest.mark.parametrize("window", [0, 30])
def test_lists_hold_the_blocks_that_some_token_sees(monkeypatch, window):
  # Catches a list too short (wrong numbers) or too long (nothing is saved).
  monkeypatch.setattr(splash, "BLOCKS", (128,))
  rows = packed(1536, 2)
  sight = see_codes(rows, window, window)
  grid = by_tokens(rows, window).reshape(2, 12, 128, 12, 128)
  want = grid.any(axis=(2, 4))
  np.testing.assert_array_equal(sight.seen, want)
  assert 0.2 < want.sum() / (2 * 12 * 13 / 2) < 0.8
  for row in range(2):
    # Keys: on to the next needed one, whichever block of queries needs it.
    steps = [(i, j) for i in range(12) for j in range(12)]
    needed = [(i, j) for i, j in steps if want[row, i, j]]
    for i, j in steps:
      ahead = [x for x in needed if x >= (i, j)] or needed
      assert sight.keys_next[row, i, j] == ahead[0][1]
    # Queries: on to the next, then the same again for the next head.
    for j in range(12):
      needed = np.flatnonzero(want[row, :, j]).tolist()
      for i in range(12):
        ahead = [x for x in needed if x >= i] or needed or [0]
        assert sight.queries_next[row, i, j] == ahead[0]


def dense(forest, window):
  """A sight that computes every pair of tokens."""
  mask = visible(forest, window=window)
  return Sight(forest, jnp.int32(window or EVERYTHING), mask, None, None)


def both_ways(operands, sight, soft_cap):
  """(what attention gives, its gradients by q, k and v)."""
  *qkv, g = operands

  def run(q, k, v):
    out = attend(q, k, v, sight, dtype="float32", soft_cap=soft_cap)
    return (out * g).sum(), out

  (_, out), grads = jax.jit(jax.value_and_grad(run, (0, 1, 2), has_aux=True))(
    *qkv
  )
  return (out, *grads)


def operands(rows, heads, kv_heads, size):
  keys = jax.random.split(jax.random.key(0), 4)
  shapes = [(*rows.positions.shape, n, size) for n in (heads, *[kv_heads] * 2)]
  qkv = [
    2 * jax.random.normal(key, shape)
    for key, shape in zip(keys[:3], shapes, strict=True)
  ]
  real = (rows.group_ids > 0)[..., None, None]
  return *qkv, jax.random.normal(keys[3], shapes[0]) * real


@pytest.mark.parametrize(
  "longest_fused, window, soft_cap, size",
  [
    (SHORT, 40, 3.0, 128),
    pytest.param(0, 0, 0.0, 64, marks=pytest.mark.slow),
  ],
)
def test_value_and_gradients_are_those_of_every_pair(
  monkeypatch, longest_fused, window, soft_cap, size
):
  # Catches heads that share the wrong key head, a block that is skipped or
  # fetched for another, gradients that are not added up, a cap without its
  # slope, padding that is 0 / 0. Both backward passes.
  monkeypatch.setattr(splash, "BLOCKS", (128,))
  monkeypatch.setattr(splash, "LONGEST_FUSED", longest_fused)
  rows = packed(SHORT, 2)
  rows = jax.tree.map(lambda x: jnp.pad(x, ((0, 1), (0, 0))), rows)  # padding
  given = operands(rows, 4, 2, size)
  sight = see_codes(rows, window, window)
  want = both_ways(given, dense(rows, window), soft_cap)
  with pltpu.force_tpu_interpret_mode():
    got = both_ways(given, sight, soft_cap)
  real = np.asarray(rows.group_ids > 0)[..., None, None]
  np.testing.assert_array_equal(np.where(real, 0, got[0]), 0)
  for ours, theirs in zip(
    (got[0] * real, *got[1:]), (want[0] * real, *want[1:]), strict=True
  ):
    # The order of sums differs: float32 gives 2^-24 a step, 256 steps.
    top = np.abs(theirs).max()
    assert top > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-6 * top)


# Window and global layers in turn, a soft cap, grouped heads.
MIXED = dataclasses.replace(
  SIZES["tiny"], layers=2, window=9, global_layers=(1,), soft_cap=5.0
)


def decode(attention, params, rows):
  tokens = rows.positions % MIXED.vocab_size
  decoder = Decoder(MIXED, (2,), "float32", False, attention=attention)
  return decoder.apply({"params": params}, tokens, rows)


@pytest.mark.slow
def test_a_decoder_computes_the_same_by_the_kernel(monkeypatch):
  # Catches a layer that gets the window of the other kind from the scan.
  # The interpreter calls back, which jax refuses within a checkpoint.
  monkeypatch.setattr(transformer, "_remembering", lambda *_: transformer.Layer)
  rows = packed(128, 1)
  plain = Decoder(MIXED, (2,), "float32", False)
  tokens = jnp.zeros((1, 128), jnp.int32)
  params = jax.jit(plain.init)(jax.random.key(0), tokens, rows)["params"]
  params = nn.unbox(params)
  want = jax.jit(functools.partial(decode, "blocks"))(params, rows)
  with pltpu.force_tpu_interpret_mode():
    got = jax.jit(functools.partial(decode, "splash"))(params, rows)
  real = np.asarray(rows.group_ids > 0)[..., None]
  assert np.abs(want).max() > 0.5
  np.testing.assert_allclose(got * real, want * real, rtol=0, atol=2e-5)


@pytest.mark.parametrize("attention", ["blocks", "splash"])
def test_the_config_chooses_and_the_device_does_not(attention):
  # Catches a choice by the backend: it is a CPU where a TPU is compiled for.
  rows = packed(128, 1)
  decoder = Decoder(MIXED, (2,), "float32", False)
  shapes = jax.eval_shape(
    decoder.init, jax.random.key(0), rows.positions, rows
  )["params"]
  traced = jax.make_jaxpr(functools.partial(decode, attention))(shapes, rows)
  assert ("pallas_call" in str(traced)) == (attention == "splash")


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("row_len", ROW_LENS)
def test_blocks_computed_are_those_visible_in_real_rows(
  rm_data, source, row_len
):
  found = count_blocks(packed_rows(rm_data / source, row_len))
  assert found["rows"] >= 1
  assert found["visible"] <= found["computed"] <= 1.1 * found["visible"]
  assert found["computed"] < 0.9 * found["rule_alone"]
