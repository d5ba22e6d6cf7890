"""Norms of the residual stream and of queries and keys."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Norm(nn.Module):
  """A norm over the last axis, in float32.

  rms: x / rms(x) * scale      rms_plus_one: x / rms(x) * (1 + scale)
  layer: (x - mean) / std * scale + bias
  """

  kind: str
  eps: float

  @nn.compact
  def __call__(self, x):
    zero, one = nn.initializers.zeros, nn.initializers.ones
    shape, x = x.shape, x.astype(jnp.float32)
    if x.ndim == 3:
      # For a first axis of size 1 XLA:CPU sums the gradient seven times slower,
      # in the time of a product with a matrix. Heads may be cut over devices:
      # an axis of theirs stays one.
      x = x.reshape(-1, shape[-1])

    def param(name, init):
      init = nn.with_logical_partitioning(init, ("norm",))
      value = self.param(name, init, (shape[-1],), jnp.float32)
      return value.reshape((1,) * (x.ndim - 1) + value.shape)

    plus_one = self.kind == "rms_plus_one"
    scale = param("scale", zero if plus_one else one)
    scale = 1 + scale if plus_one else scale
    if self.kind == "layer":
      x = x - jnp.mean(x, axis=-1, keepdims=True)
    mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(mean_square + self.eps) * scale
    x = x + param("bias", zero) if self.kind == "layer" else x
    return x.reshape(shape)
