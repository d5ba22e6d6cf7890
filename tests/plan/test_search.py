"""Which of many plans is the best: choices, their order, what is said."""

import pytest
import tiny_run

from rm_jax.models.sizes import SIZES
from rm_jax.plan import search as searching
from rm_jax.plan.search import Choice, choices, ranking, search
from rm_jax.plan.slices import find_slice
from rm_jax.types import UserError
from tests.plan.test_report import FITS, GIB, TOO_LARGE

V5E = find_slice("v5e-16")
TINY = SIZES["tiny"]
ROW_LEN = 1_000


def config(**changes):
  keys = dict(data__batch="rows", data__rows_per_batch=32, data__blocks=16)
  return tiny_run.config("none", "", **keys | changes)


def choice(**changes):
  usual = dict(data=1, fsdp=16, tensor=1, rows=2, micro_batches=1)
  return Choice(**usual | dict(remat=True, moments="float32") | changes)


def bound_by_compute(seconds):
  return FITS._replace(hardware_flops=seconds * 197e12, collectives={})


def test_the_least_chip_seconds_a_token_come_first():
  # Wrong: the fastest step, which may be of few tokens; a chip of a group that
  # shares a row counted as if it had a row to itself.
  found = [
    # 2 rows of 1,000 in 1 s: 500 us a token.
    (choice(moments="float32"), bound_by_compute(1.0)),
    # 4 micro-batches of 2 in 3.6 s: 450 us.
    (choice(micro_batches=4), bound_by_compute(3.6)),
    # 2 chips share 4 rows, each takes 0.8 s: 400 us.
    (choice(fsdp=8, tensor=2, rows=4), bound_by_compute(0.8)),
    # No work at all, but 100 GB from others at 200 GB/s: 250 us.
    (
      choice(remat=False),
      bound_by_compute(0.0)._replace(collectives={"all-gather": 1e11}),
    ),
    (choice(rows=8), TOO_LARGE._replace(needed=20 * GIB)),
  ]
  text = ranking(found, V5E, ROW_LEN, 99, [(choice(tensor=8), "because")])
  head, _, names, *lines = text.splitlines()
  assert head.startswith("v5e-16: 5 of 99 choices compiled, 4 fit;")
  assert names.split()[-3:] == ["us/token", "bound", "by"]
  assert [line.split()[-2:] for line in lines[:4]] == [
    ["250.00", "collectives"],
    ["400.00", "compute"],
    ["450.00", "compute"],
    ["500.00", "compute"],
  ]
  assert lines[4].endswith("does not fit (about 20.0 GiB)")
  assert lines[5].endswith("refused: because")
  assert lines[-1] == f"best: {choice(remat=False).flags()}"


def test_where_nothing_fits_nothing_is_best():
  text = ranking([(choice(), TOO_LARGE._replace(needed=GIB))], V5E, 1, 1)
  assert "0 fit" in text and "best" not in text


def test_every_choice_has_the_rows_of_the_config_and_all_devices():
  c = config()
  found = choices(c, 16, TINY)
  assert len(set(found)) == len(found) > 20
  for one in found:
    assert one.data * one.fsdp * one.tensor == 16
    batches = one.rows * one.micro_batches
    assert batches * one.data * one.fsdp == c.data.rows_per_batch
    assert TINY.kv_heads % one.tensor == 0
    assert TINY.width % one.fsdp == 0
  assert {one.tensor for one in found} == {1, 2}
  rounded = choices(config(optim__name="adafactor"), 16, TINY)
  assert {one.moments for one in rounded} == {"float32"}


def test_flags_make_the_config_that_was_compiled():
  # Wrong: a flag that is left out, so that the best is not what one runs.
  best = choice(data=2, fsdp=4, tensor=2, micro_batches=2, remat=False)
  c = config()
  c.update_from_flattened_dict(
    {
      key.removeprefix("--config."): type(before)(eval(value))
      if not isinstance(before, str)
      else value
      for flag in best.flags().split()
      for key, value in [flag.split("=")]
      for before in [get(c, key.removeprefix("--config."))]
    }
  )
  assert c == best.apply(config())


def get(c, key):
  for part in key.split("."):
    c = c[part]
  return c


def test_a_mesh_that_makes_no_step_is_said_and_the_others_are_ranked(
  monkeypatch,
):
  asked = []

  def compiled(config, where, *, num_slices, rows):
    asked.append(config.mesh.to_dict())
    if len(asked) == 1:
      raise UserError("config.mesh.fsdp=16 does not divide an axis of 24")
    return bound_by_compute(1.0)

  monkeypatch.setattr(searching, "compile_step", compiled)
  text = search(config(), V5E, num_slices=1, limit=3)
  assert len(asked) == 3 and "2 of" in text
  assert "refused: config.mesh.fsdp=16 does not divide an axis of 24" in text

  def none(*args, **how):
    raise UserError("the TPU compiler (libtpu) is not installed")

  monkeypatch.setattr(searching, "compile_step", none)
  with pytest.raises(UserError, match="libtpu"):
    search(config(), V5E, num_slices=1, limit=3)
