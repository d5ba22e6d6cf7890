"""The decoder: token ids of packed rows in, hidden states out.

One decoder for all families: their differences are fields of DecoderConfig.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from rm_jax.kernels.splash import see_codes
from rm_jax.models.attention import Past, attend, attend_past, visible_past
from rm_jax.models.dots import KEPT
from rm_jax.models.dropout import SITES, drop
from rm_jax.models.linear import Linear
from rm_jax.models.norm import Norm
from rm_jax.models.rotary import rotary, rotate
from rm_jax.models.sight import Forest, see
from rm_jax.types import UserError

ACTIVATIONS = {
  "silu": nn.silu,
  "gelu": lambda x: nn.gelu(x, approximate=False),
  "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
  "relu": nn.relu,
}


class Kind(NamedTuple):
  """What may differ from layer to layer in one decoder."""

  window: int
  theta: float
  scaling: tuple


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """The shape of a decoder: data, no run-time choice.

  Every switch names the published family that needs it; what stands as the
  default is Llama 2.
  """

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
  unembeds: bool = True  # False: no unembedding, nothing reads token logits
  window: int = 0  # a token sees this many positions, itself included; 0: all
  # The layers without the window, where the others have it: Gemma 2 and 3.
  global_layers: tuple = ()
  global_rope_theta: float = 0.0  # of those, 0: as the others; Gemma 3
  global_rope_scaling: tuple = ()
  rope_scaling: tuple = ()  # see rotary_rates; Llama 3.1, Phi-3
  rotary_dim: int = 0  # dimensions of a head that turn, 0: all; Pythia
  learned_positions: bool = False  # a table instead of turns; GPT-2, OPT
  position_offset: int = 0  # rows of that table before position 0; OPT
  max_positions: int = 0  # a path has at most so many tokens, 0: any number
  norm: str = "rms"  # rms_plus_one: Gemma; layer: GPT-2, OPT, Pythia
  pre_norm: bool = True  # before attention and MLP; OLMo 2 has none
  post_norm: bool = False  # after them, before they are added; OLMo 2, Gemma 2
  qk_norm: str = ""  # head: Qwen3, Gemma 3; whole: the projection, OLMo 2
  qkv_bias: bool = False  # Qwen2, GPT-2, OPT, Pythia
  o_bias: bool = False  # GPT-2, OPT, Pythia
  mlp_bias: bool = False  # GPT-2, OPT, Pythia
  activation: str = "silu"  # of ACTIVATIONS
  gated: bool = True  # GPT-2, OPT and Pythia have two matrices, not three
  parallel: bool = False  # attention and MLP read the same stream; Pythia
  embed_scale: float = 1.0  # of the embeddings; Gemma: sqrt(width)
  query_scalar: float = 0.0  # logits get this^-0.5, 0: head_dim; Gemma 2
  soft_cap: float = 0.0  # of attention logits, 0: none; Gemma 2
  final_soft_cap: float = 0.0  # of token logits, 0: none; Gemma 2
  family: str = "llama"  # whose names the published weights have

  def __post_init__(self):
    # From run.json they come as lists, which cannot be hashed.
    for name in ("global_layers", "rope_scaling", "global_rope_scaling"):
      object.__setattr__(self, name, tuple(getattr(self, name)))

  def kind(self, layer: int) -> Kind:
    """What is particular to one layer."""
    if layer not in self.global_layers:
      return Kind(self.window, self.rope_theta, self.rope_scaling)
    if not self.global_rope_theta:
      return Kind(0, self.rope_theta, self.rope_scaling)
    return Kind(0, self.global_rope_theta, self.global_rope_scaling)


class Attention(nn.Module):
  """Grouped-query self-attention over the visible tokens of each row.

  Keys and values are sown: kept where `apply` makes "intermediates" mutable.
  """

  config: DecoderConfig
  dtype: Any
  results: Any

  @nn.compact
  def __call__(self, x, which, turns, sights, past):
    c = self.config
    rows, length, _ = x.shape

    def project(heads, name):
      linear = Linear(
        heads * c.head_dim,
        ("embed", "heads"),
        self.dtype,
        self.results,
        c.qkv_bias,
        name=name,
      )
      out = linear(x)
      normed = name != "v" and c.qk_norm
      norm = Norm(c.norm, c.norm_eps, name=f"{name}_norm") if normed else None
      if normed == "whole":
        out = norm(out)
      out = out.reshape(rows, length, heads, c.head_dim)
      return norm(out) if normed == "head" else out

    def own(options):  # of each kind of layer one, all of equal shapes
      if len(options) == 1:
        return options[0]
      return jax.tree.map(lambda *x: jax.lax.select_n(which, *x), *options)

    q, k = project(c.heads, "q"), project(c.kv_heads, "k")
    if not c.learned_positions:
      turn = own(turns)
      q, k = rotate(q, *turn), rotate(k, *turn)
    v = project(c.kv_heads, "v")
    how = dict(
      scale=(c.query_scalar or c.head_dim) ** -0.5,
      soft_cap=c.soft_cap,
      dtype=self.dtype,
    )
    if past is None:
      mixed = attend(q, k, v, own(sights), **how)
    else:
      mixed, k, v = attend_past(q, k, v, past, own(sights), **how)
    self.sow("intermediates", "keys", k)
    self.sow("intermediates", "values", v)
    mixed = mixed.reshape(rows, length, c.heads * c.head_dim)
    axes = ("heads", "embed")
    out = Linear(c.width, axes, self.dtype, self.results, c.o_bias, name="o")
    return out(mixed)


class MLP(nn.Module):
  """down(act(gate(x)) * up(x)), or down(act(up(x))); act in float32."""

  config: DecoderConfig
  dtype: Any
  results: Any

  @nn.compact
  def __call__(self, x):
    c = self.config

    def act(x):
      return ACTIVATIONS[c.activation](x.astype(jnp.float32))

    def linear(features, axes, name):
      how = (self.dtype, self.results, c.mlp_bias)
      return Linear(features, axes, *how, name=name)

    up = linear(c.mlp_width, ("embed", "mlp"), "up")(x)
    if c.gated:
      up = act(linear(c.mlp_width, ("embed", "mlp"), "gate")(x)) * up
    else:
      up = act(up)
    return linear(c.width, ("mlp", "embed"), "down")(up)


class Layer(nn.Module):
  """Attention and MLP with their norms, added to the residual stream.

  `which` of `turns` and of `sights` is this layer's; with one of each it is
  not read. Where there are `ids` of tokens, what is added is dropped out, with
  masks of this layer's `number`.
  """

  config: DecoderConfig
  dtype: Any
  results: Any
  dropout: float = 0.0

  @nn.compact
  def __call__(self, x, which, turns, sights, number=None, ids=None, past=None):
    c = self.config

    def kept(h, site):
      if ids is None:
        return h
      return drop(h, ids, SITES * number + site, rate=self.dropout)

    def norm(wanted, name, x):
      return Norm(c.norm, c.norm_eps, name=name)(x) if wanted else x

    attention = Attention(c, self.dtype, self.results, name="attn")
    h = norm(c.pre_norm, "attn_norm", x)
    h = attention(h, which, turns, sights, past)
    after = x + kept(norm(c.post_norm, "attn_post_norm", h), 0)
    mlp = MLP(c, self.dtype, self.results, name="mlp")
    h = mlp(norm(c.pre_norm, "mlp_norm", x if c.parallel else after))
    x = after + kept(norm(c.post_norm, "mlp_post_norm", h), 1)
    x = x.astype(self.results)  # a norm's result is float32
    x = nn.with_logical_constraint(x, ("batch", "length", "stream"))
    return x, None  # the pair that scan expects: carry, output per layer


def _remembering(remat: bool, written_out: bool):
  """The layer of a stack, by what it keeps for the way back.

  With remat its input only, without KEPT as well. Outside of a scan jax asks
  for `prevent_cse`: XLA may find what is computed twice, and keep it.
  """
  policies = jax.checkpoint_policies
  return nn.remat(
    Layer,
    prevent_cse=remat and written_out,
    policy=policies.nothing_saveable
    if remat
    else policies.save_only_these_names(KEPT),
  )


class Embed(nn.Module):
  """Rows of the embedding table, scaled, plus those of the position table."""

  config: DecoderConfig
  results: Any

  @nn.compact
  def __call__(self, tokens, positions):
    c = self.config

    def take(name, axis, rows, ids):
      init = nn.with_logical_partitioning(
        nn.initializers.normal(c.width**-0.5), (axis, "embed")
      )
      table = self.param(name, init, (rows, c.width), jnp.float32)
      # The ids travel, not the table: every device looks up all tokens of its
      # fsdp group in its own columns, then columns are exchanged for rows.
      ids = nn.with_logical_constraint(ids, ("lookup", None))
      x = jnp.take(table, ids, axis=0).astype(self.results)
      x = nn.with_logical_constraint(x, ("lookup", None, "embed"))
      return nn.with_logical_constraint(x, ("batch", "length", "stream"))

    x = take("embedding", "vocab", c.vocab_size, tokens)
    x = x if c.embed_scale == 1 else x * c.embed_scale
    if not c.learned_positions:
      return x
    rows = c.max_positions + c.position_offset
    ids = positions + c.position_offset
    return x + take("positions", "positions", rows, ids)


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
  are two subtrees. Products take operands in `dtype` and give `results`, which
  the residual stream is too; parameters, norms and softmax are float32.

  With a `past`, one for each layer, a row is the next token of each of L
  branches of one tree, and `layers_N` is one layer: no stack, no scan.

  Args:
    attention: "blocks" of jnp, or "splash", jax's kernel for TPUs. Not asked of
      the device: what is compiled for a TPU elsewhere runs beside a CPU.
    stream: [B, L, D] what the stacks before `begin` gave, in place of tokens.
    begin, end: the stacks to run; an `end` gives the residual stream there,
      before the final norm.
    dropout_ids: from what the masks of each token are drawn; None: nothing is
      dropped, as in evaluation.
    unrolled: a stack of at most so many layers is written out. The loop of a
      scan copies what a layer keeps for the gradient into stacked arrays and
      out of them: on a CPU a quarter of the step of a small decoder, nothing
      beside the products of a large one, which compiles the faster for it.
  """

  config: DecoderConfig
  segments: tuple
  dtype: Any
  remat: bool
  attention: str = "blocks"
  results: Any = jnp.float32
  dropout: float = 0.0  # rate of residual dropout, in training
  unrolled: int = 2

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
    dropout_ids: UInt32[Array, "B L"] | None = None,
  ) -> Float[Array, "B L D"]:
    c = self.config
    if sum(self.segments) != c.layers:
      raise ValueError(
        f"segments {self.segments} add up to {sum(self.segments)} layers, "
        f"the decoder has {c.layers}"
      )
    if c.max_positions and not past and tokens.shape[1] > c.max_positions:
      raise UserError(
        f"rows of {tokens.shape[1]} tokens: this backbone ({c.family}) has "
        f"positions for {c.max_positions}; set config.data.row_len to "
        f"{c.max_positions} or less"
      )
    if stream is None:
      embed = Embed(c, self.results, name="embed")
      x = embed(tokens, forest.positions)
    else:
      x = stream.astype(self.results)
    x = nn.with_logical_constraint(x, ("batch", "length", "stream"))
    kinds = [c.kind(layer) for layer in range(c.layers)]
    distinct = sorted(set(kinds))

    def sight(kind):
      if past:
        return visible_past(forest, past[0], window=kind.window)
      if self.attention == "splash":
        return see_codes(forest, window=kind.window, widest=c.window)
      return see(forest, window=kind.window)

    def turn(kind):
      if c.learned_positions:
        return ()
      return rotary(
        forest.positions,
        size=c.rotary_dim or c.head_dim,
        theta=kind.theta,
        scaling=kind.scaling,
      )

    made = {kind: (turn(kind), sight(kind)) for kind in distinct}
    for index, before in enumerate(past):
      one = Layer(c, self.dtype, self.results, name=f"layers_{index}")
      turns, sights = zip(made[kinds[index]], strict=True)
      x, _ = one(x, 0, turns, sights, past=before)
    lengths = () if past else self.segments
    ids = dropout_ids if self.dropout else None
    for index, length in list(enumerate(lengths))[begin:end]:
      written_out = length <= self.unrolled
      stack = nn.scan(
        _remembering(self.remat, written_out),
        variable_axes={"params": 0, "intermediates": 0, "lora": 0},
        split_rngs={"params": True},
        in_axes=(0, nn.broadcast, nn.broadcast, 0, nn.broadcast),
        length=length,
        unroll=length if written_out else 1,
        metadata_params={nn.PARTITION_NAME: "layers"},
      )
      first = sum(lengths[:index])
      own = kinds[first : first + length]
      here = sorted(set(own))
      which = jnp.array([here.index(kind) for kind in own], jnp.int32)
      turns, sights = zip(*(made[kind] for kind in here), strict=True)
      # Numbered through all stacks: masks do not depend on what is frozen.
      number = None if ids is None else first + jnp.arange(length)
      how = (self.dtype, self.results, self.dropout)
      stack = stack(c, *how, name=f"layers_{index}")
      x, _ = stack(x, which, turns, sights, number, ids)
    if end is not None:
      return x.astype(jnp.float32)
    if c.unembeds and not c.tied:
      Unembed(c, name="lm_head")()
    return Norm(c.norm, c.norm_eps, name="final_norm")(x)


def unembedding(backbone: dict, config: DecoderConfig):
  """The [V, D] matrix that turns hidden states into token logits."""
  if not config.unembeds:
    raise ValueError("token logits of a decoder that has no unembedding")
  if config.tied:
    return backbone["embed"]["embedding"]
  return backbone["lm_head"]["kernel"].T
