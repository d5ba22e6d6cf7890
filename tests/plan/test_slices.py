"""Product names: how many chips, in what grid, and whether it closes."""

import pytest

from rm_jax.plan.slices import SLICES, find_slice
from rm_jax.types import UserError


@pytest.mark.parametrize(
  "name, topology, chips, wrap",
  [
    # v5e and v6e count chips and close on sides of 16.
    ("v5e-16", "v5e:4x4", 16, None),
    ("v5litepod-16", "v5e:4x4", 16, None),
    ("v6e-128", "v6e:8x16", 128, (False, True, False)),
    ("v5e-256", "v5e:16x16", 256, (True, True, False)),
    # v4, v5p and tpu7x count cores and close where all sides divide by 4.
    ("v5p-32", "v5p:2x2x4", 16, None),
    ("v5p-256", "v5p:4x4x8", 128, (True, True, True)),
    ("v4-8", "v4:2x2x1", 4, None),
    ("tpu7x-128", "tpu7x:4x4x4", 64, (True, True, True)),
  ],
)
def test_a_product_name_is_a_grid_of_chips(name, topology, chips, wrap):
  found = find_slice(name)
  assert (found.topology, found.chips, found.wrap) == (topology, chips, wrap)


def test_v4_shows_one_device_a_chip_and_v7_two():
  # Without megacore a v4 chip would be two devices of half the memory.
  assert find_slice("v4-8").chip.config == "megacore"
  assert [find_slice(x).chip.devices for x in ("v4-8", "tpu7x-8")] == [1, 2]


def test_one_chip_is_a_host_of_its_own():
  assert find_slice("v5e-1").host == (1, 1, 1)
  assert find_slice("v5e-8").host is None


def test_an_unknown_slice_lists_the_known():
  with pytest.raises(UserError) as error:
    find_slice("v5p-100")
  said = str(error.value)
  assert said.startswith("--slice='v5p-100' is not known. Known: v4-8, ")
  assert "\n" not in said and all(name in said for name in SLICES)
