"""Bytes between chips, from programs written by hand.

Catches: a loop counted once, a counter that goes up by two, an asynchronous
collective counted with each of its pieces, a reduce-scatter taken for an
all-reduce, a kernel's config that ends a computation too early.
"""

import pathlib

import pytest

from rm_jax.plan.collectives import collective_bytes
from rm_jax.plan.hlo import read_program, sizes, trips

HERE = pathlib.Path(__file__).parent
# 3 layers; in each a kernel whose config has a line that begins with "}", and a
# collective matmul of 8 steps, two at a time.
LOOPS = (HERE / "loops.hlo").read_text("utf-8")
# One gather in pieces of one channel, one of them in a loop of four steps; a
# reduce-scatter as the fusion that it becomes.
PIECES = (HERE / "pieces.hlo").read_text("utf-8")


def test_a_loop_counts_as_often_as_it_runs():
  # 4 x 8 numbers of 2 bytes, 3 layers, 8 steps two at a time.
  assert collective_bytes(LOOPS) == {"collective-permute": 4 * 8 * 2 * 3 * 4}


def test_a_kernels_config_ends_no_computation():
  body = read_program(LOOPS).computations["outer_body"]
  assert [x.opcode for x in body][-3:] == [
    "while",
    "get-tuple-element",
    "tuple",
  ]


def test_pieces_of_one_collective_count_once():
  assert collective_bytes(PIECES) == {
    "all-gather": 8 * 4,  # once, not 1 + 1 + 4 times
    "all-reduce": (1 + 3) * 4,
    "all-to-all": 2 * 4,
    "reduce-scatter": 8 * 4,  # all that goes in
  }


def test_sizes_of_a_tuple_leave_layouts_out():
  shape = "(bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/f32[], pred[5]{0})"
  assert sizes(shape) == [12, 4, 5]


def test_a_loop_that_does_not_count_is_not_guessed():
  text = LOOPS.replace("direction=LT", "direction=NE")
  program = read_program(text)
  loop = program.computations["main"][-1]
  with pytest.raises(ValueError, match="layers: cannot read its condition"):
    trips(program, loop)


def test_a_loop_that_sends_nothing_may_run_as_often_as_its_data_say():
  # That of `blocks` attention: up to a number that is read from a list.
  text = LOOPS.replace(
    "%limit.0 = u32[]{:T(128)} constant(8)",
    "%limit.0 = u32[]{:T(128)} get-tuple-element(%p.0), index=1",
  )
  with pytest.raises(ValueError, match="loop.3: no counter against a constant"):
    collective_bytes(text)
  silent = text.replace("collective-permute-start(", "custom-call(").replace(
    "collective-permute-done(", "custom-call("
  )
  assert collective_bytes(silent) == {}


def test_a_computation_ends_where_it_names_its_thread():
  # v5p's programs: what a sparse core runs would swallow the next computation.
  text = """HloModule m

%beside (p: f32[4]) -> f32[4] {
  ROOT %p = f32[4]{0} parameter(0)
}, execution_thread="sparsecore"

ENTRY %main (a: f32[4]) -> f32[4] {
  ROOT %a = f32[4]{0} parameter(0)
}
"""
  assert set(read_program(text).computations) == {"beside", "main"}
