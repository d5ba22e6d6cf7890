"""Matrix products: operands in the compute dtype, sums in float32."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def _product(spec, a, b, dtype):
  # "highest": a TPU would otherwise multiply float32 in bfloat16.
  exact = jnp.dtype(dtype) == jnp.float32
  return jnp.einsum(
    spec,
    a.astype(dtype),
    b.astype(dtype),
    precision="highest" if exact else None,
    preferred_element_type=jnp.float32,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def _dot(spec, a, b, dtype):
  return _product(spec, a, b, dtype)


def _forward(spec, a, b, dtype):
  return _dot(spec, a, b, dtype), (a, b)


def _backward(spec, dtype, saved, cotangent):
  a, b = saved
  inputs, out = spec.split("->")
  left, right = inputs.split(",")
  da = _product(f"{out},{right}->{left}", cotangent, b, dtype)
  if spec == "bti,io->bto" and jnp.dtype(dtype) == jnp.float32:
    # Two axes on XLA:CPU: a fifth faster in float32, seven times slower in
    # bfloat16 where the processor has it. Autodiff transposes an operand,
    # which costs a third.
    a = a.reshape(-1, a.shape[-1])
    db = _product("ni,no->io", a, cotangent.reshape(len(a), -1), dtype)
  else:
    db = _product(f"{left},{out}->{right}", a, cotangent, dtype)
  return da.astype(saved[0].dtype), db.astype(b.dtype)


_dot.defvjp(_forward, _backward)


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
  return _dot(spec, a, b, dtype)
