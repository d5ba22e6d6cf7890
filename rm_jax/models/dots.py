"""Matrix products: operands in the compute dtype, sums in float32."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def _rounded_dot(spec, a, b, dtype):
  return jnp.einsum(
    spec, a.astype(dtype), b.astype(dtype), preferred_element_type=jnp.float32
  )


def _forward(spec, a, b, dtype):
  return _rounded_dot(spec, a, b, dtype), (a, b)


def _backward(spec, dtype, saved, cotangent):
  a, b = saved
  inputs, out = spec.split("->")
  left, right = inputs.split(",")
  g = cotangent.astype(dtype)
  product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
  da = product(f"{out},{right}->{left}", g, b.astype(dtype))
  db = product(f"{left},{out}->{right}", a.astype(dtype), g)
  return da.astype(a.dtype), db.astype(b.dtype)


_rounded_dot.defvjp(_forward, _backward)


def dot(
  spec: str,
  a: Float[Array, "..."],
  b: Float[Array, "..."],
  *,
  dtype,
) -> Float[Array, "..."]:
  """Float32 einsum of two operands that are rounded to `dtype` first.

  All three passes (forward and both gradients) use rounded operands and
  float32 accumulation. Plain autodiff would hand the backward products a
  float32 cotangent, which on XLA:CPU leaves the fast bfloat16 kernels and
  costs five times the step.

  Args:
    spec: einsum of two operands; every index of one operand stands in the
      other or in the result.
    a, b: float32; the gradients come back float32.
    dtype: bfloat16, or float32 for full precision on every device.
  """
  if jnp.dtype(dtype) == jnp.float32:
    # "highest": a TPU would otherwise multiply float32 in bfloat16.
    return jnp.einsum(spec, a, b, precision="highest")
  return _rounded_dot(spec, a, b, dtype)
