"""Attention compiled by the TPU compiler: the kernels, and memory a chip."""

import pytest

from bench.splash import (
  FOUR_CHIPS,
  ROW_LENS,
  compile_attention,
  compile_line,
  four_chips,
)

pytestmark = pytest.mark.aot

# Forward, and one backward kernel or two (splash.LONGEST_FUSED).
KERNELS = {4_096: 2, 8_192: 3}
# One row of 32 heads of 128 in bfloat16 is 2^-5 GiB at 4,096 tokens; scores of
# all pairs would be 1 GiB there and 4 GiB at 8,192. Half of the first is more
# than any kernel that does not write them takes.
MOST_GIB = 0.5


@pytest.mark.parametrize("row_len", ROW_LENS)
@pytest.mark.parametrize("version", FOUR_CHIPS)
def test_compiles_for_a_row_a_chip(version, row_len):
  line = compile_line(version, row_len)
  kernels, gib = (float(x) for x in line.split("|")[3:5])
  assert kernels == KERNELS[row_len]
  assert gib < MOST_GIB


@pytest.mark.parametrize(
  "shape",
  [
    dict(row_len=4_096, heads=8, kv_heads=4, size=256, window=4_096),  # Gemma 2
    dict(row_len=2_048, heads=8, kv_heads=4, size=64, window=512),
  ],
  ids=str,
)
def test_compiles_with_a_window_and_a_soft_cap(shape):
  mesh = four_chips("v5e", fsdp=2, tensor=2)  # two heads of keys a chip
  made = compile_attention(mesh, rows=2, soft_cap=50.0, **shape)
  assert made["kernels"] == 2


def test_rows_of_a_chip_are_computed_one_after_the_other():
  # Catches a loop that keeps the inner results of every row at one time.
  mesh = four_chips("v5e", data=4)
  shape = dict(row_len=4_096, heads=8, kv_heads=2)
  four = compile_attention(mesh, rows=16, **shape)
  assert four["kernels"] == 2
  # The backward kernel writes the queries' gradient once a block of 512 keys.
  copies = 8 * 8 * 4_096 * 128 * 2 / 2**30  # heads, blocks, in bfloat16
  assert four["temp_gib"] < 4 * copies


def test_long_rows_leave_room_for_the_lists_of_blocks():
  # 64 x 64 blocks: three lists in the scalar memory of a core.
  mesh = four_chips("v5e", tensor=4)
  made = compile_attention(mesh, rows=1, row_len=32_768)
  assert made["kernels"] == 3
