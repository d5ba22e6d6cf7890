"""The decoder: token ids of packed rows in, hidden states out."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rm_jax.models.attention import Past, attend, attend_past, visible_past
from rm_jax.models.dots import dot
from rm_jax.models.sight import Forest, see


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """The shape of a decoder of the Llama family: data, no run-time choice."""

  vocab_size: int
  width: int
  layers: int
  heads: int
  kv_heads: int
  head_dim: int
  mlp_width: int
  rope_theta: float
  norm_eps: float
  tied: bool  # the embedding table is also the unembedding
  window: int = 0  # a token sees this many positions, itself included; 0: all


class RMSNorm(nn.Module):
  """x / rms(x) * scale over the last axis, in float32."""

  eps: float

  @nn.compact
  def __call__(self, x):
    init = nn.with_logical_partitioning(nn.initializers.ones, ("norm",))
    scale = self.param("scale", init, (x.shape[-1],), jnp.float32)
    mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    scale = scale.reshape((1,) * (x.ndim - 1) + scale.shape)
    return x * jax.lax.rsqrt(mean_square + self.eps) * scale


class Linear(nn.Module):
  """x @ kernel without bias; operands in `dtype`, result float32."""

  features: int
  axes: tuple
  dtype: Any

  @nn.compact
  def __call__(self, x):
    init = nn.with_logical_partitioning(
      nn.initializers.lecun_normal(), self.axes
    )
    shape = (x.shape[-1], self.features)
    kernel = self.param("kernel", init, shape, jnp.float32)
    # Three axes on the left: XLA:CPU has no fast kernel for a 2-D gradient.
    return dot("bti,io->bto", x, kernel, dtype=self.dtype)


def rotary(
  positions: Int[Array, "B L"], *, size: int, theta: float
) -> tuple[Float[Array, "B L 1 h"], Float[Array, "B L 1 h"]]:
  """Cosine and sine of position * theta^(-2i/size), i < h = size / 2.

  Source: Su et al. 2021, arXiv:2104.09864, Eq. (15); float32 angles.
  """
  exponents = jnp.arange(0, size, 2, dtype=jnp.float32) / size
  rates = (theta**-exponents)[None, None, None, :]
  angles = positions.astype(jnp.float32)[:, :, None, None] * rates
  return jnp.cos(angles), jnp.sin(angles)


def rotate(x, cos, sin):
  """x turned by its position; halves pair up (the Hugging Face order)."""
  first, second = jnp.split(x, 2, axis=-1)
  return jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  )


class Attention(nn.Module):
  """Grouped-query self-attention over the visible tokens of each row.

  Keys and values are sown: kept where `apply` makes "intermediates" mutable.
  """

  config: DecoderConfig
  dtype: Any

  @nn.compact
  def __call__(self, x, turn, sight, past):
    c = self.config
    rows, length, _ = x.shape

    def project(heads, name):
      linear = Linear(
        heads * c.head_dim, ("embed", "heads"), self.dtype, name=name
      )
      return linear(x).reshape(rows, length, heads, c.head_dim)

    q = rotate(project(c.heads, "q"), *turn)
    k = rotate(project(c.kv_heads, "k"), *turn)
    v = project(c.kv_heads, "v")
    if past is None:
      mixed = attend(q, k, v, sight, dtype=self.dtype)
    else:
      mixed, k, v = attend_past(q, k, v, past, sight, dtype=self.dtype)
    self.sow("intermediates", "keys", k)
    self.sow("intermediates", "values", v)
    mixed = mixed.reshape(rows, length, c.heads * c.head_dim)
    return Linear(c.width, ("heads", "embed"), self.dtype, name="o")(mixed)


class MLP(nn.Module):
  """down(silu(gate(x)) * up(x)); the activation in float32."""

  config: DecoderConfig
  dtype: Any

  @nn.compact
  def __call__(self, x):
    c = self.config
    hidden = ("embed", "mlp")
    gate = Linear(c.mlp_width, hidden, self.dtype, name="gate")(x)
    up = Linear(c.mlp_width, hidden, self.dtype, name="up")(x)
    down = Linear(c.width, ("mlp", "embed"), self.dtype, name="down")
    return down(nn.silu(gate) * up)


class Layer(nn.Module):
  """Pre-norm attention and MLP, each added to the float32 residual stream."""

  config: DecoderConfig
  dtype: Any

  @nn.compact
  def __call__(self, x, turn, sight, past=None):
    c = self.config
    attention = Attention(c, self.dtype, name="attn")
    h = RMSNorm(c.norm_eps, name="attn_norm")(x)
    x = x + attention(h, turn, sight, past)
    mlp = MLP(c, self.dtype, name="mlp")
    x = x + mlp(RMSNorm(c.norm_eps, name="mlp_norm")(x))
    x = nn.with_logical_constraint(x, ("batch", "length", "stream"))
    return x, None  # the pair that scan expects: carry, output per layer


class Embed(nn.Module):
  """Rows of the embedding table."""

  config: DecoderConfig

  @nn.compact
  def __call__(self, tokens):
    c = self.config
    init = nn.with_logical_partitioning(
      nn.initializers.normal(c.width**-0.5), ("vocab", "embed")
    )
    shape = (c.vocab_size, c.width)
    table = self.param("embedding", init, shape, jnp.float32)
    # Gather from whole rows: a table split by width would be rematerialised.
    table = nn.with_logical_constraint(table, ("vocab", None))
    return jnp.take(table, tokens, axis=0)


class Unembed(nn.Module):
  """Holds the untied unembedding; `unembedding` reads it."""

  config: DecoderConfig

  @nn.compact
  def __call__(self):
    c = self.config
    init = nn.with_logical_partitioning(
      nn.initializers.lecun_normal(), ("embed", "vocab")
    )
    shape = (c.width, c.vocab_size)
    return self.param("kernel", init, shape, jnp.float32)


class Decoder(nn.Module):
  """Hidden states after the final norm, float32 [B, L, D].

  The layers are scanned stacks `layers_0`, `layers_1`, ... of the lengths in
  `segments` (together all layers), so that a frozen stack and a trained one
  are two subtrees. Compute follows `dtype`; parameters, residual stream,
  norms and softmax are float32.

  With a `past`, one for each layer, a row is the next token of each of L
  branches of one tree, and `layers_N` is one layer: no stack, no scan.

  Args:
    stream: [B, L, D] what the stacks before `begin` gave, in place of tokens.
    begin, end: the stacks to run; an `end` gives the residual stream there,
      before the final norm.
  """

  config: DecoderConfig
  segments: tuple
  dtype: Any
  remat: bool

  @nn.compact
  def __call__(
    self,
    tokens: Int[Array, "B L"],
    forest: Forest,
    past: tuple[Past, ...] = (),
    *,
    stream: Float[Array, "B L D"] | None = None,
    begin: int = 0,
    end: int | None = None,
  ) -> Float[Array, "B L D"]:
    c = self.config
    if sum(self.segments) != c.layers:
      raise ValueError(
        f"segments {self.segments} add up to {sum(self.segments)} layers, "
        f"the decoder has {c.layers}"
      )
    x = Embed(c, name="embed")(tokens) if stream is None else stream
    x = nn.with_logical_constraint(x, ("batch", "length", "stream"))
    turn = rotary(forest.positions, size=c.head_dim, theta=c.rope_theta)
    if past:
      sight = visible_past(forest, past[0], window=c.window)
    else:
      sight = see(forest, window=c.window)
    for index, before in enumerate(past):
      one = Layer(c, self.dtype, name=f"layers_{index}")
      x, _ = one(x, turn, sight, before)
    layer = Layer
    if self.remat:
      layer = nn.remat(
        Layer,
        prevent_cse=False,
        policy=jax.checkpoint_policies.nothing_saveable,
      )
    lengths = () if past else self.segments
    for index, length in list(enumerate(lengths))[begin:end]:
      stack = nn.scan(
        layer,
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=length,
        metadata_params={nn.PARTITION_NAME: "layers"},
      )
      x, _ = stack(c, self.dtype, name=f"layers_{index}")(x, turn, sight)
    if end is not None:
      return x
    if not c.tied:
      Unembed(c, name="lm_head")()
    return RMSNorm(c.norm_eps, name="final_norm")(x)


def unembedding(backbone: dict, config: DecoderConfig):
  """The [V, D] matrix that turns hidden states into token logits."""
  if config.tied:
    return backbone["embed"]["embedding"]
  return backbone["lm_head"]["kernel"].T
