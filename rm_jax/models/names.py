"""The names and layouts that tensors have in public, by family.

A linear weight of a source is [out, in] (GPT-2: [in, out]) and every layer has
its own tensors; several of our kernels may be one fused tensor there. Here
stands, for each parameter of our tree, which rows of which tensor it is.
"""

import functools
import re
from typing import NamedTuple

import numpy as np

from rm_jax.models.transformer import DecoderConfig

LEAVES = {"kernel": "weight", "bias": "bias", "scale": "weight"}
# Our modules that are one tensor, in the order in which they lie there.
QKV = (("attn", "q"), ("attn", "k"), ("attn", "v"))


class Names(NamedTuple):
  """How one family names its tensors; module names of ours -> of theirs."""

  prefix: str  # of the backbone; files of the bare backbone leave it out
  layer: str  # of layer {}
  top: dict  # {our path: name}, without prefix
  modules: dict  # {our module in a layer: name}
  head: str  # of the unembedding, without prefix
  fused: tuple = ()  # (name, our modules, "concat" or "grouped")
  in_out: bool = False  # kernels of layers lie [in, out]
  buffers: str = r".*\.rotary_emb\.inv_freq"  # skipped, not parameters


class Part(NamedTuple):
  """Where a parameter of ours, one layer of it, lies in a source."""

  name: str
  rows: np.ndarray | None  # which entries of the out axis; None: all
  size: int  # of that axis, whole; where rows are given
  transposed: bool  # ours is the transpose
  axis: int  # the out axis of theirs


_LLAMA = Names(
  prefix="model.",
  layer="layers.{}.",
  top={
    ("embed", "embedding"): "embed_tokens.weight",
    ("final_norm", "scale"): "norm.weight",
  },
  modules={
    ("attn_norm",): "input_layernorm",
    ("attn", "q"): "self_attn.q_proj",
    ("attn", "k"): "self_attn.k_proj",
    ("attn", "v"): "self_attn.v_proj",
    ("attn", "o"): "self_attn.o_proj",
    ("attn", "q_norm"): "self_attn.q_norm",
    ("attn", "k_norm"): "self_attn.k_norm",
    ("mlp_norm",): "post_attention_layernorm",
    ("mlp", "gate"): "mlp.gate_proj",
    ("mlp", "up"): "mlp.up_proj",
    ("mlp", "down"): "mlp.down_proj",
  },
  head="lm_head.weight",
)
_GEMMA2 = _LLAMA._replace(
  modules=_LLAMA.modules
  | {
    ("attn_post_norm",): "post_attention_layernorm",
    ("mlp_norm",): "pre_feedforward_layernorm",
    ("mlp_post_norm",): "post_feedforward_layernorm",
  }
)

NAMES = {
  "llama": _LLAMA,
  "mistral": _LLAMA,
  "qwen2": _LLAMA,
  "qwen3": _LLAMA,
  "gemma": _LLAMA,
  "gemma2": _GEMMA2,
  "gemma3_text": _GEMMA2,
  "olmo2": _GEMMA2,
  "phi3": _LLAMA._replace(
    fused=(
      ("self_attn.qkv_proj", QKV, "concat"),
      ("mlp.gate_up_proj", (("mlp", "gate"), ("mlp", "up")), "concat"),
    ),
  ),
  "internlm2": Names(
    prefix="model.",
    layer="layers.{}.",
    top={
      ("embed", "embedding"): "tok_embeddings.weight",
      ("final_norm", "scale"): "norm.weight",
    },
    modules={
      ("attn_norm",): "attention_norm",
      ("attn", "o"): "attention.wo",
      ("mlp_norm",): "ffn_norm",
      ("mlp", "gate"): "feed_forward.w1",
      ("mlp", "up"): "feed_forward.w3",
      ("mlp", "down"): "feed_forward.w2",
    },
    head="output.weight",
    fused=(("attention.wqkv", QKV, "grouped"),),
  ),
  "gpt2": Names(
    prefix="transformer.",
    layer="h.{}.",
    top={
      ("embed", "embedding"): "wte.weight",
      ("embed", "positions"): "wpe.weight",
      ("final_norm", "scale"): "ln_f.weight",
      ("final_norm", "bias"): "ln_f.bias",
    },
    modules={
      ("attn_norm",): "ln_1",
      ("attn", "o"): "attn.c_proj",
      ("mlp_norm",): "ln_2",
      ("mlp", "up"): "mlp.c_fc",
      ("mlp", "down"): "mlp.c_proj",
    },
    head="lm_head.weight",
    fused=(("attn.c_attn", QKV, "concat"),),
    in_out=True,
    buffers=r".*\.attn\.(masked_)?bias",
  ),
  "opt": Names(
    prefix="model.decoder.",
    layer="layers.{}.",
    top={
      ("embed", "embedding"): "embed_tokens.weight",
      ("embed", "positions"): "embed_positions.weight",
      ("final_norm", "scale"): "final_layer_norm.weight",
      ("final_norm", "bias"): "final_layer_norm.bias",
    },
    modules={
      ("attn_norm",): "self_attn_layer_norm",
      ("attn", "q"): "self_attn.q_proj",
      ("attn", "k"): "self_attn.k_proj",
      ("attn", "v"): "self_attn.v_proj",
      ("attn", "o"): "self_attn.out_proj",
      ("mlp_norm",): "final_layer_norm",
      ("mlp", "up"): "fc1",
      ("mlp", "down"): "fc2",
    },
    head="lm_head.weight",
  ),
  "gpt_neox": Names(
    prefix="gpt_neox.",
    layer="layers.{}.",
    top={
      ("embed", "embedding"): "embed_in.weight",
      ("final_norm", "scale"): "final_layer_norm.weight",
      ("final_norm", "bias"): "final_layer_norm.bias",
    },
    modules={
      ("attn_norm",): "input_layernorm",
      ("attn", "o"): "attention.dense",
      ("mlp_norm",): "post_attention_layernorm",
      ("mlp", "up"): "mlp.dense_h_to_4h",
      ("mlp", "down"): "mlp.dense_4h_to_h",
    },
    head="embed_out.weight",
    fused=(("attention.query_key_value", QKV, "grouped"),),
    buffers=r".*\.attention\.((masked_)?bias|rotary_emb\.inv_freq)",
  ),
}

# Names that a source may have in place of ours: (pattern, replacement).
ALIASES = {
  # transformers 5 keeps embed_out under the name the others have
  "gpt_neox": ((r"^lm_head\.", "embed_out."),),
  # the text half of Gemma 3, as old and as new files have it
  "gemma3_text": (
    (r"^language_model\.model\.", "model."),
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^model\.language_model\.", "model."),
  ),
}

# Tensors of the half that sees; there is no place for them in a text decoder.
VISION = r"(model\.)?(vision_tower|multi_modal_projector)\..*"


@functools.cache
def shapes(config: DecoderConfig) -> dict[tuple, tuple]:
  """{path in our tree: shape}, of one layer where the path is stacked.

  What `Decoder.init` makes, without tracing it.
  """
  c = config
  q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
  linear = {
    ("attn", "q"): (c.width, q, c.qkv_bias),
    ("attn", "k"): (c.width, kv, c.qkv_bias),
    ("attn", "v"): (c.width, kv, c.qkv_bias),
    ("attn", "o"): (q, c.width, c.o_bias),
    ("mlp", "up"): (c.width, c.mlp_width, c.mlp_bias),
    ("mlp", "down"): (c.mlp_width, c.width, c.mlp_bias),
  }
  if c.gated:
    linear["mlp", "gate"] = linear["mlp", "up"]
  norms = {}
  if c.pre_norm:
    norms |= dict.fromkeys([("attn_norm",), ("mlp_norm",)], c.width)
  if c.post_norm:
    norms |= dict.fromkeys([("attn_post_norm",), ("mlp_post_norm",)], c.width)
  if c.qk_norm:
    whole = c.qk_norm == "whole"
    norms["attn", "q_norm"] = q if whole else c.head_dim
    norms["attn", "k_norm"] = kv if whole else c.head_dim
  found = {("embed", "embedding"): (c.vocab_size, c.width)}
  if c.learned_positions:
    rows = c.max_positions + c.position_offset
    found["embed", "positions"] = (rows, c.width)
  for module, (inner, outer, bias) in linear.items():
    found["layers_0", *module, "kernel"] = (inner, outer)
    if bias:
      found["layers_0", *module, "bias"] = (outer,)
  named = {("layers_0", *module): size for module, size in norms.items()}
  for module, size in {**named, ("final_norm",): c.width}.items():
    found[*module, "scale"] = (size,)
    if c.norm == "layer":
      found[*module, "bias"] = (size,)
  if c.unembeds and not c.tied:
    found["lm_head", "kernel"] = (c.width, c.vocab_size)
  return found


def part(path: tuple, layer: int | None, config: DecoderConfig) -> Part:
  """Where the parameter at `path` (of one layer) lies; names are whole."""
  names = NAMES[config.family]
  if path == ("lm_head", "kernel"):
    return Part(names.head, None, 0, True, 0)
  if layer is None:
    return Part(names.prefix + names.top[path], None, 0, False, 0)
  module, leaf = path[1:-1], path[-1]
  place = names.prefix + names.layer.format(layer)
  swap = leaf == "kernel" and not names.in_out
  axis = int(leaf == "kernel" and names.in_out)
  for name, modules, layout in names.fused:
    if module in modules:
      rows = _rows(config, modules, layout)
      size = sum(map(len, rows.values()))
      name = f"{place}{name}.{LEAVES[leaf]}"
      return Part(name, rows[module], size, swap, axis)
  name = names.modules[module]
  return Part(f"{place}{name}.{LEAVES[leaf]}", None, 0, swap, axis)


@functools.cache
def _rows(config: DecoderConfig, modules: tuple, layout: str) -> dict:
  """{our module: entries of the fused out axis that are its own}.

  concat: one module after the other. grouped: for each key head its query
  heads, its keys, its values (Pythia's has one query head for each).
  """
  c = config
  sizes = {
    ("attn", "q"): c.heads * c.head_dim,
    ("attn", "k"): c.kv_heads * c.head_dim,
    ("attn", "v"): c.kv_heads * c.head_dim,
    ("mlp", "gate"): c.mlp_width,
    ("mlp", "up"): c.mlp_width,
  }
  every = np.arange(sum(sizes[module] for module in modules))
  if layout == "concat":
    ends = np.cumsum([sizes[module] for module in modules])[:-1]
    return dict(zip(modules, np.split(every, ends), strict=True))
  groups = every.reshape(c.kv_heads, c.heads // c.kv_heads + 2, c.head_dim)
  q, k, v = modules
  return {
    q: groups[:, :-2].reshape(-1),
    k: groups[:, -2].reshape(-1),
    v: groups[:, -1].reshape(-1),
  }


def canonical(name: str, config: DecoderConfig, *, bare: bool) -> str:
  """The name of a source's tensor as `part` writes it.

  Args:
    bare: the source is a backbone alone, saved without its prefix.
  """
  for pattern, replacement in ALIASES.get(config.family, ()):
    name = re.sub(pattern, replacement, name)
  names = NAMES[config.family]
  return names.prefix + name if bare else name


def skipped(name: str, config: DecoderConfig) -> bool:
  """True for what a source may hold beside parameters of the decoder."""
  if config.family == "gemma3_text" and re.fullmatch(VISION, name):
    return True
  return re.fullmatch(NAMES[config.family].buffers, name) is not None
