"""TPU chips: what one can do, and which one a device is.

Sources: the pages "TPU v4", "TPU v5e", "TPU v5p", "TPU v6e" and "TPU7x" of
Google Cloud's documentation. HBM that a program may use is what the compiler
says when one does not fit (libtpu 0.0.42.1; of tpu7x the published capacity,
for want of its word).
"""

from typing import NamedTuple


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


GIB = 2**30
V4 = Chip("v4", 2, 1, 275e12, 30.75 * GIB, 1228e9, 300e9, "megacore")
V5E = Chip("v5e", 1, 1, 197e12, 15.75 * GIB, 819e9, 200e9)
V5P = Chip("v5p", 2, 1, 459e12, 95.74 * GIB, 2765e9, 600e9)
V6E = Chip("v6e", 1, 1, 918e12, 31.25 * GIB, 1638e9, 400e9)
V7X = Chip("tpu7x", 2, 2, 2307e12, 192 * GIB, 7380e9, 600e9)

# As jax names devices: `device_kind`.
KINDS = {
  "TPU v4": V4,
  "TPU v5 lite": V5E,
  "TPU v5e": V5E,
  "TPU v5": V5P,
  "TPU v5p": V5P,
  "TPU v6 lite": V6E,
  "TPU v6e": V6E,
  "TPU7x": V7X,
}


def peak_flops(kind: str) -> float | None:
  """bfloat16 FLOP a second of one device of a kind; None: not known."""
  chip = KINDS.get(kind)
  return None if chip is None else chip.flops / chip.devices
