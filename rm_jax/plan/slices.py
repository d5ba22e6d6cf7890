"""TPU slices that are sold: their chips, shape and torus.

Sources: product names and shapes, the pages that rm_jax/chips.py names. Whether
a torus closes is the rule of MaxText's table of topologies: it is not read from
a device, and an open one compiles to other collectives.
"""

import math
from typing import NamedTuple

from rm_jax.chips import V4, V5E, V5P, V6E, V7X, Chip
from rm_jax.types import UserError


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
