"""Rotary positions: the rates of the families, and the turn of a vector."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# What may stand first in `DecoderConfig.rope_scaling`.
SCALINGS = ("linear", "llama3", "longrope")


def rotary_rates(
  size: int, *, theta: float, scaling: tuple = ()
) -> tuple[np.ndarray, float]:
  """(angle of each pair per position, [size / 2] float32; what cos and sin get
  multiplied by).

      rate_i = theta^(-2i / size),  wavelength_i = 2 pi / rate_i

  (): these. ("linear", factor): rate / factor, as if positions lay closer.
  ("llama3", factor, low, high, length): rates of wavelengths below
  length / high stay, those above length / low are divided by factor, between
  them (1 - s) rate / factor + s rate with
  s = (length / wavelength - low) / (high - low).
  ("longrope", by, factor_0, ...): rate_i / factor_i, cos and sin times `by`.

  Source: Su et al. 2021, arXiv:2104.09864, Eq. (15); Chen et al. 2023,
  arXiv:2306.15595; Llama 3.1 (Dubey et al. 2024, arXiv:2407.21783, section
  3.4.2, the blend in its published code); Ding et al. 2024, arXiv:2402.13753.
  """
  rates = theta ** -(np.arange(0, size, 2, dtype=np.float64) / size)
  by = 1.0
  kind, *numbers = scaling or ("",)
  if kind == "linear":
    rates = rates / numbers[0]
  elif kind == "llama3":
    factor, low, high, length = numbers
    wavelengths = 2 * math.pi / rates
    share = np.clip((length / wavelengths - low) / (high - low), 0, 1)
    rates = (1 - share) * rates / factor + share * rates
  elif kind == "longrope":
    by, *factors = numbers
    if len(factors) != len(rates):
      raise ValueError(
        f"longrope: expected {len(rates)} factors for {size} rotated "
        f"dimensions, got {len(factors)}"
      )
    rates = rates / np.asarray(factors)
  elif kind:
    raise ValueError(f"scaling {kind!r} is not known. Known: {SCALINGS}")
  return rates.astype(np.float32), by


def rotary(
  positions: Int[Array, "B L"], *, size: int, theta: float, scaling: tuple = ()
) -> tuple[Float[Array, "B L 1 h"], Float[Array, "B L 1 h"]]:
  """Cosine and sine of position * rate_i, i < h = size / 2; float32 angles.

  float32: bfloat16 rounds position 257 to 256.
  """
  rates, by = rotary_rates(size, theta=theta, scaling=scaling)
  angles = positions.astype(jnp.float32)[:, :, None, None]
  angles = angles * rates[None, None, None]
  return jnp.cos(angles) * by, jnp.sin(angles) * by


def rotate(x: Float[Array, "B L H d"], cos, sin) -> Float[Array, "B L H d"]:
  """x turned by its position: its first 2 h dimensions, the rest as it is.

  Halves of what turns pair up (the Hugging Face order).
  """
  half = cos.shape[-1]
  first, second, rest = jnp.split(x, [half, 2 * half], axis=-1)
  parts = [first * cos - second * sin, second * cos + first * sin, rest]
  return jnp.concatenate(parts, axis=-1)
