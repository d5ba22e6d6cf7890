"""What every loss does to its arguments first: one shape, arrays, or an error.

A margin of shape [B, 1] against scores of shape [B] broadcasts to [B, B] and
trains on B * B pairs that nobody annotated, so shapes are compared, not fitted.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike


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
