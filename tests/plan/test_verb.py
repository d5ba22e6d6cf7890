"""`rm-jax plan`: what is refused, and how; `train --dry_run`."""

import importlib.util
from types import SimpleNamespace

import pytest
import tiny_run

from rm_jax.plan import compile as compiling
from rm_jax.plan import dry_run as dry_runs
from rm_jax.plan.dry_run import MIB, dry_run
from rm_jax.plan.memory import STREAMS
from rm_jax.plan.verb import plan, rows_of_block
from rm_jax.types import UserError


def ask(c, slice_name="v5e-16", **changes):
  how = dict(num_slices=1, rows_per_chip=None, read_data=False)
  how |= dict(searched=0, as_json=True, out="")
  return plan(c, slice_name, **how | changes)


def config(**changes):
  keys = dict(data__batch="rows", data__rows_per_batch=32, data__blocks=16)
  return tiny_run.config("", "", **keys | changes)


@pytest.mark.parametrize(
  "changes, how, said",
  [
    (
      {},
      dict(slice_name="v5p-3"),
      r"--slice='v5p-3' is not known. Known: v4-8",
    ),
    ({}, dict(rows_per_chip=0), r"--rows_per_chip=0 must be 1 or more"),
    (
      {},
      dict(rows_per_chip=1, read_data=True),
      "--read_data: the data says how many rows",
    ),
    (
      dict(data__rows_per_batch=8),
      {},
      r"rows_per_batch=8 does not split over config.data.blocks=16",
    ),
    (
      dict(data__rows_per_batch=0),
      {},
      r"config.data.rows_per_batch=0 must be 1 or more",
    ),
  ],
)
def test_a_mistake_is_refused_before_anything_is_compiled(changes, how, said):
  with pytest.raises(UserError, match=said) as error:
    ask(config(**changes), **how)
  assert "\n" not in str(error.value)


def test_without_the_compiler_the_extra_is_named(monkeypatch):
  # Where it is installed it is hidden: an environment without it is the usual.
  find = importlib.util.find_spec
  monkeypatch.setattr(
    compiling.importlib.util,
    "find_spec",
    lambda name: None if name == "libtpu" else find(name),
  )
  with pytest.raises(UserError, match=r"libtpu.* pip install -e '\.\[tpu\]'"):
    ask(config())


def test_rows_of_a_step_of_groups_are_the_data_s():
  with pytest.raises(UserError, match=r"depends on the data. Say --rows_per_"):
    rows_of_block(tiny_run.config("", "", data__batch="groups"))
  assert rows_of_block(config()) == 2


def test_a_dry_run_says_what_a_run_would_do(tmp_path):
  data = tiny_run.write_rows(tmp_path / "pairs.jsonl", tiny_run.pairs(24))
  tokenizer = tiny_run.write_tokenizer(tmp_path / "tokenizer")
  c = tiny_run.config(data, tokenizer, data__blocks=8, data__cache="")
  text = dry_run(c)
  assert "4 train steps in" in text and "bradley_terry, all trainable" in text
  assert "4 to 4 groups a step (mean 4.0)" in text
  assert "of the tokens computed are useful" in text
  assert "memory of one device, MiB: parameters 0." in text
  assert text.endswith("dry run: nothing was trained")
  assert {p.name for p in tmp_path.iterdir()} == {"pairs.jsonl", "tokenizer"}


def test_memory_counts_what_the_program_does_not_read():
  # Catches: a total below its own parts, where jit leaves out frozen layers
  # whose states are cached: they lie on the device all the same.
  sizes = {"parameters": 8, "frozen parameters": 64, STREAMS: 4}
  program = SimpleNamespace(
    argument_size_in_bytes=10 * MIB,  # the frozen ones are not among them
    output_size_in_bytes=9 * MIB,
    alias_size_in_bytes=8 * MIB,
    temp_size_in_bytes=5 * MIB,
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      dry_runs,
      "state_parts",
      lambda shapes: {name: size * MIB for name, size in sizes.items()},
    )
    (line,) = dry_runs._memory_lines(None, program)
    assert line.endswith("allocates 78.0")  # 8 + 64, 9 - 8, 5
    program.argument_size_in_bytes = 80 * MIB
    (line,) = dry_runs._memory_lines(None, program)
    assert line.endswith("allocates 86.0")
