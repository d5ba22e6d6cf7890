"""Heads: pooled hidden states to scores, in float32."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from rm_jax.types import UserError

# name -> standard deviation of the kernel for width D.
HEAD_INITS = {
  "zeros": lambda width: 0.0,  # the first pairwise loss is log 2
  # Stiennon et al. 2020, arXiv:2009.01325: variance 1 / (D + 1)
  "stiennon": lambda width: (width + 1) ** -0.5,
  "small": lambda width: 1 / (width + 1),
  "unit": lambda width: 1.0,  # tests: a head that lets every gradient through
}


def _kernel(module, init, shape):
  if init not in HEAD_INITS:
    raise UserError(
      f"config.model.head_init={init!r} is not known. Known: "
      f"{sorted(HEAD_INITS)}."
    )
  std = HEAD_INITS[init](shape[0])
  axes = ("head",) + (None,) * (len(shape) - 1)
  initializer = nn.with_logical_partitioning(nn.initializers.normal(std), axes)
  return module.param("kernel", initializer, shape, jnp.float32)


class ScalarHead(nn.Module):
  """One linear map from each pooled vector to a score, in float32.

  No bias: a pairwise loss cannot see one. The same head reads one token per
  completion (outcome) or every token (Cobbe et al. 2021, arXiv:2110.14168).
  """

  kernel_init: str

  @nn.compact
  def __call__(self, pooled: Float[Array, "B S D"]) -> Float[Array, "B S"]:
    kernel = _kernel(self, self.kernel_init, (pooled.shape[-1],))
    return jnp.einsum(
      "bsd,d->bs", pooled.astype(jnp.float32), kernel, precision="highest"
    )


class BiasedScalarHead(nn.Module):
  """As ScalarHead with a bias: a pointwise loss needs the base rate."""

  kernel_init: str

  @nn.compact
  def __call__(self, pooled: Float[Array, "B S D"]) -> Float[Array, "B S"]:
    init = nn.with_logical_partitioning(nn.initializers.zeros, (None,))
    bias = self.param("bias", init, (1,), jnp.float32)
    return ScalarHead(self.kernel_init, name="linear")(pooled) + bias[0]


class StepHead(nn.Module):
  """Three logits per step: columns negative, neutral, positive.

  Source: Lightman et al. 2023, arXiv:2305.20050, section 2.3 (labels -1, 0, 1).
  """

  kernel_init: str

  @nn.compact
  def __call__(self, pooled: Float[Array, "B S D"]) -> Float[Array, "B S 3"]:
    kernel = _kernel(self, self.kernel_init, (pooled.shape[-1], 3))
    return jnp.einsum(
      "bsd,dc->bsc", pooled.astype(jnp.float32), kernel, precision="highest"
    )


HEADS = {
  "scalar": ScalarHead,
  "biased_scalar": BiasedScalarHead,
  "steps": StepHead,
}
