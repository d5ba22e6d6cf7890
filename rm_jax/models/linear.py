"""A product with a matrix that may be cut over a mesh."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from rm_jax.models.dots import KEPT, dot


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gather_kernel(kernel, axes: tuple):
  """The kernel whole along its "embed" axis; the gradient comes back in parts.

  Said outright, because a partitioner left alone gathers a kernel once for each
  product of a backward pass, and sums the gradient whole on every device.
  """
  whole = tuple(None if axis == "embed" else axis for axis in axes)
  return nn.with_logical_constraint(kernel, whole)


def _gather_forward(kernel, axes):
  return gather_kernel(kernel, axes), None


def _gather_backward(axes, _, cotangent):
  return (nn.with_logical_constraint(cotangent, axes),)


gather_kernel.defvjp(_gather_forward, _gather_backward)


class Linear(nn.Module):
  """x @ kernel (+ bias); operands in `dtype`, result in `results`.

  Where `apply` gets a collection "lora", x @ a @ b is added (models/lora.py).
  """

  features: int
  axes: tuple
  dtype: Any
  results: Any
  bias: bool = False

  @nn.compact
  def __call__(self, x):
    x = x.astype(self.results)
    init = nn.with_logical_partitioning(
      nn.initializers.lecun_normal(), self.axes
    )
    shape = (x.shape[-1], self.features)
    kernel = self.param("kernel", init, shape, jnp.float32)
    # Rounded here, so that kernel and gradient cross the mesh as `results`.
    kernel = gather_kernel(kernel.astype(self.results), self.axes)
    product = functools.partial(dot, dtype=self.dtype, result=self.results)
    # Three axes on the left: XLA:CPU has no fast kernel for a 2-D gradient.
    out = product("bti,io->bto", x, kernel)
    if self.has_variable("lora", "a"):
      a, b = (self.get_variable("lora", name) for name in "ab")
      low = product("bti,ir->btr", x, a)
      out = out + product("btr,ro->bto", low, b)
    out = checkpoint_name(out, KEPT)
    if not self.bias:
      return out
    # What is added to the stream stays whole, as the stream does.
    axis = "norm" if self.axes[1] == "embed" else self.axes[1]
    init = nn.with_logical_partitioning(nn.initializers.zeros, (axis,))
    bias = self.param("bias", init, (self.features,), jnp.float32)
    return out + bias[None, None].astype(self.results)
