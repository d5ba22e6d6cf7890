"""Figures and advice of a plan, from what a compiler might have said."""

import pytest

from rm_jax.plan.compile import Compiled
from rm_jax.plan.report import bounds, figures, nearest_change, table
from rm_jax.plan.slices import find_slice

GIB = 2**30
V5E = find_slice("v5e-16")
FITS = Compiled(
  fits=True,
  peak=11.5 * GIB,
  sum=16.0 * GIB,
  needed=None,
  parts={"parameters": 2 * GIB, "optimizer state": 4 * GIB, "batch": 0},
  collectives={"all-gather": 26 * GIB, "reduce-scatter": 13 * GIB},
  kernels=3,
  reused=6 * GIB,
  model_flops=370e12,
  hardware_flops=460e12,
  mesh={"data": 1, "fsdp": 16, "tensor": 1},
  parameters=7_500_000_000,
  chip_rows=2,
  micro_batches=1,
  row_len=4_096,
  seconds=30.0,
)
TOO_LARGE = FITS._replace(
  fits=False, peak=None, sum=None, collectives=None, kernels=None, reused=None
)


def test_a_bound_is_work_over_speed():
  got = bounds(FITS, V5E)
  assert got["compute"] == pytest.approx(460e12 / 197e12)
  assert got["collectives"] == pytest.approx(39 * GIB / 200e9)
  # The state and what arrives, each once in and once out.
  assert got["memory"] == pytest.approx(2 * (6 + 39) * GIB / 819e9)


def test_figures_have_the_names_that_programs_read():
  got = figures(FITS, V5E, num_slices=1, useful_fraction=0.9)
  assert list(got) == [
    "slice",
    "chips",
    "fits",
    "hbm_peak_gib",
    "hbm_sum_gib",
    "hbm_limit_gib",
    "collective_gib",
    "model_tflops",
    "hardware_tflops",
    "bound_s",
    "bound_by",
    "useful_fraction",
  ]
  assert (got["slice"], got["chips"], got["fits"]) == ("v5e-16", 16, True)
  assert (got["hbm_peak_gib"], got["hbm_sum_gib"]) == (11.5, 16.0)
  assert (got["hbm_limit_gib"], got["collective_gib"]) == (15.75, 39.0)
  assert got["bound_by"] == "compute"
  assert got["bound_s"] == pytest.approx(460 / 197)


def test_what_a_program_that_does_not_fit_would_move_is_not_known():
  plan = TOO_LARGE._replace(needed=30 * GIB)
  got = figures(plan, V5E, num_slices=2, useful_fraction=None)
  assert (got["slice"], got["chips"], got["fits"]) == ("2xv5e-16", 32, False)
  for name in ("hbm_peak_gib", "hbm_sum_gib", "collective_gib"):
    assert got[name] is None
  text = table(plan, V5E, got)
  assert "It does NOT fit." in text and "Compiled for it" not in text


@pytest.mark.parametrize(
  "needed, rows, said",
  [
    # 6 stay, 24 go with 4 rows: one row of 6 fits in 15.75 with them.
    (30, 4, "1 rows a chip in place of 4 (config.train.accumulate=4"),
    # 6 stay, 12 are one row's: with 3 of 6 on twice the chips it fits.
    (18, 1, "v5e-32 with one row a chip (config.mesh.fsdp=32"),
    # A row of 16 fits nowhere: it has to be cut.
    (22, 1, "config.mesh.tensor=2, so that 2 chips share a row"),
  ],
)
def test_the_nearest_change_is_named(needed, rows, said):
  plan = TOO_LARGE._replace(needed=needed * GIB, chip_rows=rows)
  assert nearest_change(plan, V5E).startswith(said)


def test_the_table_says_that_nothing_ran_and_what_is_unproven():
  said = figures(FITS, V5E, num_slices=1, useful_fraction=None)
  text = table(FITS, V5E, said)
  assert "Compiled for it, not run on it." in text
  assert "11.50 GiB of 15.75" in text
  assert "unproven until it runs" in text  # the sum is above the limit
  assert "39.00 GiB: all-gather 26.00, reduce-scatter 13.00" in text
  assert "optimal" not in text
  assert "unproven" not in table(FITS._replace(sum=15 * GIB), V5E, said)
