"""TPU slices that are sold: shape, torus, and what a chip can do.

Sources: the pages "TPU v4", "TPU v5e", "TPU v5p", "TPU v6e" and "TPU7x" of
Google Cloud's documentation (chip figures, product names, shapes). HBM that a
program may use is what the compiler says when one does not fit (libtpu
0.0.42.1; of tpu7x the published capacity, for want of its word). Whether a
torus closes is the rule of MaxText's table of topologies: it is not read from a
device, and an open one compiles to other collectives.
"""

import math
from typing import NamedTuple

from rm_jax.types import UserError


class Chip(NamedTuple):
  """One TPU chip. Bandwidths in bytes a second; bfloat16 FLOP a second."""

  version: str  # as topologies are named
  cores: int  # that the product name counts
  devices: int  # that jax shows
  flops: float
  hbm: float  # bytes that programs may use
  hbm_bandwidth: float
  link_bandwidth: float  # of all links together, one direction
  config: str = ""  # chip_config_name: cores as one device


class Slice(NamedTuple):
  """A product: a number of chips in a grid."""

  name: str
  chip: Chip
  shape: tuple  # chips along each side

  @property
  def chips(self) -> int:
    return math.prod(self.shape)

  @property
  def topology(self) -> str:
    """The name of its topology, such as v5e:4x4."""
    return f"{self.chip.version}:{'x'.join(map(str, self.shape))}"

  @property
  def wrap(self) -> tuple | None:
    """Which sides close to a ring; None: none does."""
    if len(self.shape) == 3:
      closes = all(side % 4 == 0 for side in self.shape)
      return (True,) * 3 if closes else None
    rings = tuple(side == 16 for side in self.shape)
    return (*rings, False) if any(rings) else None

  @property
  def host(self) -> tuple | None:
    """Chips of one host, None: the usual 2 x 2."""
    return (1, 1, 1) if self.chips == 1 else None


GIB = 2**30
V4 = Chip("v4", 2, 1, 275e12, 30.75 * GIB, 1228e9, 300e9, "megacore")
V5E = Chip("v5e", 1, 1, 197e12, 15.75 * GIB, 819e9, 200e9)
V5P = Chip("v5p", 2, 1, 459e12, 95.74 * GIB, 2765e9, 600e9)
V6E = Chip("v6e", 1, 1, 918e12, 31.25 * GIB, 1638e9, 400e9)
V7X = Chip("tpu7x", 2, 2, 2307e12, 192 * GIB, 7380e9, 600e9)

FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
CUBES = (
  (2, 2, 1),
  (2, 2, 2),
  (2, 2, 4),
  (2, 4, 4),
  (4, 4, 4),
  (4, 4, 8),
  (4, 8, 8),
  (8, 8, 8),
  (8, 8, 16),
  (8, 16, 16),
)
LARGE = (*CUBES, (16, 16, 16), (16, 16, 24))

SHAPES = (
  ("v4", V4, CUBES),
  ("v5e", V5E, FLAT),
  ("v5p", V5P, LARGE),
  ("v6e", V6E, FLAT),
  ("tpu7x", V7X, CUBES),
)

SLICES = {
  f"{name}-{math.prod(shape) * chip.cores}": Slice(
    f"{name}-{math.prod(shape) * chip.cores}", chip, shape
  )
  for name, chip, shapes in SHAPES
  for shape in shapes
}


def find_slice(name: str) -> Slice:
  """The slice of a product name, v5litepod-16 included.

  Raises:
    UserError: lists the known ones.
  """
  name = name.lower().replace("v5litepod-", "v5e-")
  if name not in SLICES:
    raise UserError(
      f"--slice={name!r} is not known. Known: {', '.join(SLICES)}."
    )
  return SLICES[name]
