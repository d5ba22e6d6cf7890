"""Steps compiled for slices that nobody here has (`make aot`).

Catches: a kernel or a sharding that only the TPU compiler refuses, a state that
is not reused, a collective that grew.
"""

import pytest
import tiny_run

from rm_jax.chips import peak_flops
from rm_jax.plan.compile import compile_step, describe_devices
from rm_jax.plan.report import nearest_change
from rm_jax.plan.search import search
from rm_jax.plan.slices import find_slice
from tests.test_configs import ROOT, load

GIB = 2**30
pytestmark = pytest.mark.aot


def llama(name="llama3_8b_bt", **changes):
  c = load(ROOT / f"configs/{name}.py").get_config()
  c.data.source = "none"
  c.update_from_flattened_dict(
    {key.replace("__", "."): value for key, value in changes.items()}
  )
  return c


@pytest.mark.parametrize("name", ["v5e-16", "v5p-32", "v6e-16"])
def test_two_layers_compile(name):
  c = llama(init__layers=2)
  plan = compile_step(c, find_slice(name), rows=2)
  assert plan.fits
  state = plan.parts["parameters"] + plan.parts["optimizer state"]
  assert plan.reused == pytest.approx(state, rel=0.01)  # donated
  assert plan.kernels >= 2  # attention, forward and backward


def test_two_layers_of_an_experiment_at_full_size_compile():
  # Wrong: loops that say nothing of how often they run, so that no plan can be
  # made. The other full.py stand on configs whose plans are in configs/plans/.
  c = load(ROOT / "experiments/ouyang2022_instructgpt/full.py").get_config()
  c.data.source, c.init.layers = "none", 2
  plan = compile_step(c, find_slice("v5e-64"), rows=4)
  assert plan.fits and plan.kernels >= 2 and plan.collectives["all-gather"] > 0


def test_the_8b_plan_fits_16_chips():
  plan = compile_step(llama(), find_slice("v5e-16"), rows=2)
  assert plan.fits
  assert plan.peak <= 11.75 * GIB
  assert sum(plan.collectives.values()) <= 41.5 * GIB
  assert plan.model_flops == pytest.approx(369.4e12, rel=1e-3)


def test_what_does_not_fit_is_refused_in_seconds():
  c = llama(data__blocks=4, data__rows_per_batch=8, mesh__fsdp=4)
  plan = compile_step(c, find_slice("v5e-4"), rows=2)
  assert not plan.fits and plan.needed > 15.75 * GIB
  assert "v5e-16" in nearest_change(plan, find_slice("v5e-4"))


def test_a_search_ranks_what_it_compiled():
  # A model that compiles in seconds; the 8B one is searched by hand.
  rows = dict(data__batch="rows", data__rows_per_batch=8, data__blocks=4)
  c = tiny_run.config("none", "", **rows)
  text = search(c, find_slice("v5e-4"), num_slices=1, limit=2)
  _, _, _, *lines = text.splitlines()
  assert "2 of" in text and "2 fit" in text
  bounds = [float(line.split()[-2]) for line in lines[:2]]
  assert bounds == sorted(bounds)
  assert lines[-1].startswith("best: --config.mesh.data=")


def test_devices_of_a_slice_are_chips_whose_peak_is_known():
  # Wrong: a name in KINDS that no device has, two devices of a chip as two.
  for name in ("v4-8", "v5e-4", "v5p-8", "v6e-4", "tpu7x-8"):
    where = find_slice(name)
    devices = describe_devices(where)
    assert len(devices) == where.chips * where.chip.devices
    peak = peak_flops(devices[0].device_kind)
    assert peak * len(devices) == where.chip.flops * where.chips
