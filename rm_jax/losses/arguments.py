"""What every loss does to its arguments first: one shape, arrays, or an error.

A margin of shape [B, 1] against scores of shape [B] broadcasts to [B, B] and
trains on B * B pairs that nobody annotated, so shapes are compared, not fitted.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from rm_jax.types import UserError


def same_shape(caller: str, **arguments: ArrayLike) -> list[Array]:
  """Returns the arguments, in order, as jax arrays of one shape.

  A Python number takes the shape of the others; an array never does, whatever
  its shape. The values keep their type: the caller casts.

  Raises:
    ValueError: two arrays have different shapes; names the first two.
  """
  shapes = {
    name: jnp.shape(value)
    for name, value in arguments.items()
    if not _is_number(value)
  }
  first = next(iter(shapes), None)
  for name, shape in shapes.items():
    if shape != shapes[first]:
      raise ValueError(
        f"{caller}: expected equal shapes, got {first} {shapes[first]} and "
        f"{name} {shape}. Only a Python number broadcasts: index or reshape "
        "one of them."
      )
  shape = shapes[first] if shapes else ()
  return [
    jnp.broadcast_to(jnp.asarray(value), shape) for value in arguments.values()
  ]


def score_difference(
  caller: str, chosen: ArrayLike, rejected: ArrayLike, **further: ArrayLike
) -> list[Array]:
  """Returns chosen - rejected in float32, then the further arguments.

  Raises:
    ValueError: two arrays have different shapes.
  """
  chosen, rejected, *rest = same_shape(
    caller, chosen=chosen, rejected=rejected, **further
  )
  # float32 before the difference: in bfloat16 close scores subtract to a tie.
  return [chosen.astype(jnp.float32) - rejected.astype(jnp.float32), *rest]


def boolean(caller: str, name: str, values: Array) -> Array:
  """Returns the values as booleans.

  Raises:
    ValueError: they are floats, which are weights or shares.
  """
  if jnp.issubdtype(values.dtype, jnp.inexact):
    raise ValueError(
      f"{caller}: expected a boolean {name}, got {values.dtype}. Weights do "
      "not enter a loss: multiply its result."
    )
  return values.astype(bool)


def check_parameter(caller: str, name: str, value, interval: str) -> None:
  """Nothing, if the number lies in the interval, as in "(0, 1]" or "[0, inf)".

  A traced number has no value yet and passes.

  Raises:
    UserError: it does not.
  """
  if isinstance(value, jax.core.Tracer):
    return
  low, high = (float(end) for end in interval[1:-1].split(","))
  above = value > low or (interval[0] == "[" and value == low)
  below = value < high or (interval[-1] == "]" and value == high)
  if not (above and below and math.isfinite(value)):
    raise UserError(
      f"{caller}: expected {name} in {interval}, got {value}. Set "
      f"config.loss.{name} to a number in there."
    )


def rows_of_logits(
  caller: str, logits: ArrayLike, name: str, labels: ArrayLike
) -> tuple[Array, Array]:
  """Returns float32 logits [..., V] and labels [...], one label for each row.

  Raises:
    ValueError: the shape of the labels is not that of the logits without V.
  """
  shape = jnp.shape(logits)
  if not shape:
    raise ValueError(
      f"{caller}: expected logits with a last axis of classes, got shape ()."
      " Pass [..., V]."
    )
  if _is_number(labels):
    labels = jnp.broadcast_to(jnp.asarray(labels), shape[:-1])
  elif jnp.shape(labels) != shape[:-1]:
    raise ValueError(
      f"{caller}: expected {name} of shape {shape[:-1]} for logits {shape}, "
      f"got {name} {jnp.shape(labels)}. Index or reshape it."
    )
  return jnp.asarray(logits).astype(jnp.float32), jnp.asarray(labels)


def _is_number(value) -> bool:
  if isinstance(value, jax.core.Tracer):
    # jit and grad turn a Python number into a weakly typed scalar tracer; the
    # same call has to be right inside and outside of them.
    return value.shape == () and value.weak_type
  # Not isinstance: numpy's float64 scalar is a float, and an array's element.
  return type(value) in (bool, int, float)
