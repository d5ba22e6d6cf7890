"""Matrix products: operands in the compute dtype, sums in float32."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# What a layer of a scanned stack keeps for the way back without remat: what
# products and attention gave. Norms, activations and rotations are computed
# again, which costs less than to copy them into the stack and out of it.
KEPT = "kept"


def _product(spec, a, b, dtype, result):
  # "highest": a TPU would otherwise multiply float32 in bfloat16.
  exact = jnp.dtype(dtype) == jnp.float32
  return jnp.einsum(
    spec,
    a.astype(dtype),
    b.astype(dtype),
    precision="highest" if exact else None,
    preferred_element_type=result,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3, 4))
def _dot(spec, a, b, dtype, result):
  return _product(spec, a, b, dtype, result)


def _forward(spec, a, b, dtype, result):
  return _dot(spec, a, b, dtype, result), (a, b)


def _backward(spec, dtype, result, saved, cotangent):
  a, b = saved
  inputs, out = spec.split("->")
  left, right = inputs.split(",")
  da = _product(f"{out},{right}->{left}", cotangent, b, dtype, a.dtype)
  if spec == "bti,io->bto" and jnp.dtype(dtype) == jnp.float32:
    # Two axes on XLA:CPU: a fifth faster in float32, seven times slower in
    # bfloat16 where the processor has it. Autodiff transposes an operand,
    # which costs a third.
    a = a.reshape(-1, a.shape[-1])
    g = cotangent.reshape(len(a), -1)
    db = _product("ni,no->io", a, g, dtype, b.dtype)
  else:
    db = _product(f"{left},{out}->{right}", a, cotangent, dtype, b.dtype)
  return da, db


_dot.defvjp(_forward, _backward)


def dot(
  spec: str,
  a: Float[Array, "..."],
  b: Float[Array, "..."],
  *,
  dtype,
  result=jnp.float32,
) -> Float[Array, "..."]:
  """Einsum of two operands that are rounded to `dtype` first.

  All three passes (forward and both gradients) use rounded operands and
  float32 accumulation. Plain autodiff would hand the backward products a
  float32 cotangent, which on XLA:CPU leaves the fast bfloat16 kernels and
  costs five times the step.

  Args:
    spec: einsum of two operands; every index of one operand stands in the
      other or in the result.
    a, b: the gradient of each comes back in its own dtype, and is summed over
      devices in it.
    dtype: bfloat16, or float32 for full precision on every device.
    result: what the sums are rounded to.
  """
  return _dot(spec, a, b, dtype, result)
