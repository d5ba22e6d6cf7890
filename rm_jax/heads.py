"""Heads: pooled hidden states to scores, in float32."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rm_jax.pooling import PLACINGS, POOLINGS
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


class TwoLayerHead(nn.Module):
  """A hidden layer with ReLU of the model's width before the linear map.

      scores = W2 relu(W1 h + b1) + b2

  Source: Zhang et al. 2025 (Qwen2.5-Math-PRM), arXiv:2501.07301, and Yang et
  al. 2024 (Qwen2.5-Math-RM), arXiv:2409.12122: their last layer is this one.
  `kernel_init` is that of W2; W1 starts at 1 / sqrt(D + 1), because with zeros
  in both nothing would ever train.
  """

  kernel_init: str
  outputs: int

  @nn.compact
  def __call__(self, pooled: Float[Array, "B S D"]) -> Float[Array, "B S ..."]:
    width = pooled.shape[-1]
    inner = Layer("stiennon", width, name="inner")(pooled)
    scores = Layer(self.kernel_init, self.outputs, name="outer")(nn.relu(inner))
    return scores if self.outputs > 1 else scores[..., 0]


class Layer(nn.Module):
  """A linear map with a bias, in float32."""

  kernel_init: str
  outputs: int

  @nn.compact
  def __call__(self, x: Float[Array, "B S E"]) -> Float[Array, "B S A"]:
    init = nn.with_logical_partitioning(nn.initializers.zeros, (None,))
    bias = self.param("bias", init, (self.outputs,), jnp.float32)
    kernel = _kernel(self, self.kernel_init, (x.shape[-1], self.outputs))
    product = jnp.einsum(
      "bse,ea->bsa", x.astype(jnp.float32), kernel, precision="highest"
    )
    return product + bias[None, None]


class VerdictHead(nn.Module):
  """How much likelier one verdict token is than the other; no parameters.

      score = h . (u_good - u_bad),   P(good) = sigmoid(score)

  with u the tokens' rows of the unembedding: the probability of the good one
  among the two.

  Source: Wang et al. 2023 (Math-Shepherd), arXiv:2312.08935, section 3.3; the
  cards of its reward model and of RLHFlow's take the softmax over two logits.
  """

  @nn.compact
  def __call__(
    self, pooled: Float[Array, "B S D"], rows: Float[Array, "2 D"]
  ) -> Float[Array, "B S"]:
    logits = jnp.einsum(
      "bsd,vd->bsv",
      pooled.astype(jnp.float32),
      rows.astype(jnp.float32),
      precision="highest",
    )
    return logits[..., 0] - logits[..., 1]


class GatedHead(nn.Module):
  """Objectives of the completion, weighted by what the prompt asks for.

      objectives = W h_completion                                  [A]
      weights = scale * softmax(mlp(h_prompt) / temperature)       [A]
      score = weights . (objectives T)

  T is the transform that takes the length out of the other objectives. The
  first output is the score, the others are the objectives as they are.

  Source: Wang et al. 2024 (ArmoRM), arXiv:2406.12845, sections 3.1 and 3.2; the
  temperature and the scale are those of the released model.
  """

  outputs: int
  layers: int  # hidden ones of the gate
  hidden: int  # their width
  temperature: float

  @nn.compact
  def __call__(
    self, pooled: Float[Array, "B S D"], prompt: Float[Array, "B S D"]
  ) -> Float[Array, "B S A"]:
    a = self.outputs
    kernel = _kernel(self, "stiennon", (pooled.shape[-1], a))
    whole = nn.with_logical_partitioning(
      lambda key, shape, dtype: jnp.eye(*shape, dtype=dtype), (None, None)
    )
    transform = self.param("transform", whole, (a, a), jnp.float32)
    ones = nn.with_logical_partitioning(nn.initializers.ones, (None,))
    scale = self.param("scale", ones, (1,), jnp.float32)
    objectives = jnp.einsum(
      "bsd,da->bsa", pooled.astype(jnp.float32), kernel, precision="highest"
    )
    x = prompt
    for n in range(self.layers):
      x = nn.relu(Layer("stiennon", self.hidden, name=f"gate_{n}")(x))
    x = Layer("stiennon", a, name=f"gate_{self.layers}")(x)
    weights = jax.nn.softmax(x / self.temperature, axis=-1) * scale[0]
    adjusted = jnp.einsum(
      "bsa,ac->bsc", objectives, transform, precision="highest"
    )
    score = jnp.sum(weights * adjusted, axis=-1, keepdims=True)
    return jnp.concatenate([score, objectives], axis=-1)


# What a config may name.
HEADS = {
  "scalar": ScalarHead,
  "biased_scalar": BiasedScalarHead,
  "two_layer": TwoLayerHead,
  "gain_bias": GainBiasHead,
  "attributes": VectorHead,
  "bins": VectorHead,
  "steps": StepHead,
}

# What published models hold beside those (models/published_heads.py).
PUBLISHED = {
  "classes": VectorHead,  # two: wrong, right
  "two_layer_classes": TwoLayerHead,
  "verdict": VerdictHead,
  "gated": GatedHead,
  "implicit": None,  # log likelihoods of two models: reward_model.py
}


@dataclasses.dataclass(frozen=True)
class HeadSpec:
  """Everything static about one head."""

  kind: str  # of HEADS or PUBLISHED
  init: str
  pooling: str
  outputs: int = 1  # attributes, bins, classes or objectives
  weights: tuple = ()  # of the attributes in a completion's score
  centers: tuple = ()  # (low, high, how many) of the bins
  token: int = -1  # whose logit the gain_bias head reads
  verdicts: tuple = ()  # token ids (good, bad) that the verdict head compares
  gate: tuple = ()  # (layers, hidden, temperature) of the gated head
  beta: float = 0.0  # of the implicit head
  reference: Any = None  # DecoderConfig of the implicit head's second model

  def __post_init__(self):
    if self.kind not in {**HEADS, **PUBLISHED}:
      raise UserError(
        f"config.model.head={self.kind!r} is not known. Known: {sorted(HEADS)}."
      )
    if self.pooling not in PLACINGS:
      raise UserError(
        f"config.model.pooling={self.pooling!r} is not known. Known: "
        f"{sorted(POOLINGS)}."
      )

  def module(self) -> nn.Module:
    """The Linen module."""
    if self.kind in ("gain_bias", "verdict"):
      return {**HEADS, **PUBLISHED}[self.kind]()
    if self.kind == "gated":
      return GatedHead(self.outputs, *self.gate)
    if self.kind in ("scalar", "biased_scalar", "steps"):
      return HEADS[self.kind](self.init)
    return {**HEADS, **PUBLISHED}[self.kind](self.init, self.outputs)
