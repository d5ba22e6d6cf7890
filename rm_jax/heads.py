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


class GainBiasHead(nn.Module):
  """Gain times the logit of one token, plus a bias: two parameters.

      score = gain (h . u) + bias

  with u the token's row of the unembedding, which trains with it. Begins as
  the logit itself: gain 1, bias 0.

  Source: Cobbe et al. 2021, arXiv:2110.14168 (the verifier's scalar head).
  """

  @nn.compact
  def __call__(
    self, pooled: Float[Array, "B S D"], row: Float[Array, " D"]
  ) -> Float[Array, "B S"]:
    ones = nn.with_logical_partitioning(nn.initializers.ones, (None,))
    zeros = nn.with_logical_partitioning(nn.initializers.zeros, (None,))
    gain = self.param("gain", ones, (1,), jnp.float32)
    bias = self.param("bias", zeros, (1,), jnp.float32)
    logit = jnp.einsum(
      "bsd,d->bs",
      pooled.astype(jnp.float32),
      row.astype(jnp.float32),
      precision="highest",
    )
    return gain[0] * logit + bias[0]


class VectorHead(nn.Module):
  """Several numbers per pooled vector, each with its bias, in float32.

  One per attribute (Wang et al. 2024, HelpSteer2, arXiv:2406.08673), or one
  logit per center of a categorical value (Farebrother et al. 2024,
  arXiv:2403.03950).
  """

  kernel_init: str
  outputs: int

  @nn.compact
  def __call__(self, pooled: Float[Array, "B S D"]) -> Float[Array, "B S A"]:
    init = nn.with_logical_partitioning(nn.initializers.zeros, (None,))
    bias = self.param("bias", init, (self.outputs,), jnp.float32)
    kernel = _kernel(self, self.kernel_init, (pooled.shape[-1], self.outputs))
    scores = jnp.einsum(
      "bsd,da->bsa", pooled.astype(jnp.float32), kernel, precision="highest"
    )
    return scores + bias[None, None]


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
  "gain_bias": GainBiasHead,
  "attributes": VectorHead,
  "bins": VectorHead,
  "steps": StepHead,
}
