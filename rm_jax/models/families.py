"""config.json of the published families -> DecoderConfig.

Everything that our decoder would compute differently is refused by name. What
a config.json leaves out is filled in as transformers does.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

from rm_jax.models.family_defaults import DEFAULTS
from rm_jax.models.transformer import DecoderConfig
from rm_jax.types import UserError

# config.json's names of activations -> ours; four names of one function.
ACTIVATIONS = {
  "silu": "silu",
  "gelu": "gelu",
  "gelu_new": "gelu_tanh",
  "gelu_fast": "gelu_tanh",
  "gelu_pytorch_tanh": "gelu_tanh",
  "relu": "relu",
}

ROPES = ("default", "dynamic", "linear", "llama3", "longrope")


class Source(NamedTuple):
  """A config.json with its defaults, and the place that errors name."""

  raw: dict
  where: Any

  def need(self, key: str):
    """The value of a key that must be there."""
    if self.raw.get(key) is None:
      raise UserError(
        f"{self.where}: expected the key {key!r}, got a file without it; copy "
        f"the config.json that was published with the weights"
      )
    return self.raw[key]

  def refuse(self, key: str, got, known) -> UserError:
    """What to raise on a value that our decoder does not follow."""
    return UserError(
      f"{self.where}: {key}: expected one of {known}, got {got!r}; convert it "
      f"to one of these or load another model"
    )

  def only(self, key: str, known: tuple) -> None:
    """Raises unless the key, where it stands, has a value of `known`."""
    if key in self.raw and self.raw[key] not in known:
      raise self.refuse(key, self.raw[key], list(known))


def read_config(raw: dict, *, where: Path) -> DecoderConfig:
  """The decoder shape that a raw config.json describes.

  Reads both spellings of rotary positions: `rope_theta` with `rope_scaling` at
  the top level, and the newer `rope_parameters`. Raises UserError on anything
  our decoder would compute differently.
  """
  family = Source(raw, where).need("model_type")
  if family == "gemma3" and "text_config" in raw:
    # The text half of a model that also sees; its weights carry both.
    raw = {**raw["text_config"], "model_type": "gemma3_text"}
    family = "gemma3_text"
  if family not in READERS:
    remote = ""
    if raw.get("auto_map"):
      remote = " (its auto_map asks to run Python from the checkpoint: never)"
    raise UserError(
      f"{where}: model_type: expected one of {sorted(READERS)}, got "
      f"{family!r}{remote}; convert it to one of these or load another model"
    )
  source = Source({**DEFAULTS[family], **raw}, where)
  return DecoderConfig(**READERS[family](source), family=family)


# ---------------------------------------------------------------- parts


def _base(s: Source, *, partial: bool = False) -> dict:
  """The fields of a decoder of the Llama kind."""
  heads = s.need("num_attention_heads")
  head_dim = s.raw.get("head_dim") or s.need("hidden_size") // heads
  return {
    "vocab_size": s.need("vocab_size"),
    "width": s.need("hidden_size"),
    "layers": s.need("num_hidden_layers"),
    "heads": heads,
    "kv_heads": s.raw.get("num_key_value_heads") or heads,
    "head_dim": head_dim,
    "mlp_width": s.need("intermediate_size"),
    "norm_eps": s.need("rms_norm_eps"),
    "tied": bool(s.raw.get("tie_word_embeddings")),
    "activation": _activation(s, "hidden_act", "silu"),
    **_rope(s, _rope_dict(s), head_dim=head_dim, partial=partial),
  }


def _activation(s: Source, key: str, default: str) -> str:
  name = s.raw.get(key, default)
  if name not in ACTIVATIONS:
    raise s.refuse(key, name, sorted(ACTIVATIONS))
  return ACTIVATIONS[name]


def _rope_dict(s: Source) -> dict:
  return s.raw.get("rope_parameters") or s.raw.get("rope_scaling") or {}


def _rope(s: Source, rope: dict, *, head_dim: int, partial: bool) -> dict:
  """theta, scaling, rotated dimensions and longest path."""
  raw = s.raw
  old = raw.get("rope_theta", raw.get("rotary_emb_base", 10_000.0))
  fields = {"rope_theta": float(rope.get("rope_theta", old))}
  old = raw.get("partial_rotary_factor", raw.get("rotary_pct"))
  share = rope.get("partial_rotary_factor") or old or 1.0
  if share != 1.0 and not partial:
    raise s.refuse("partial_rotary_factor", share, [1.0])
  if share != 1.0:
    fields["rotary_dim"] = int(head_dim * share)
  kind = rope.get("rope_type", rope.get("type", "default"))
  longest = raw.get("max_position_embeddings")
  if kind in ("su", "yarn") and raw["model_type"] == "phi3":
    kind = "longrope"  # as older files of this family call it
  if kind == "dynamic":
    # Equal to the default up to this length; beyond it we refuse the rows.
    fields["max_positions"] = s.need("max_position_embeddings")
  elif kind == "linear":
    fields["rope_scaling"] = ("linear", float(rope["factor"]))
  elif kind == "llama3":
    names = ("factor", "low_freq_factor", "high_freq_factor")
    length = rope.get("original_max_position_embeddings", longest)
    numbers = (*(float(rope[name]) for name in names), float(length))
    fields["rope_scaling"] = ("llama3", *numbers)
  elif kind == "longrope":
    fields |= _longrope(s, rope)
  elif kind != "default":
    raise s.refuse("rope_type", kind, list(ROPES))
  return fields


def _longrope(s: Source, rope: dict) -> dict:
  """Phi-3's two sets of factors: the short one, for rows that are short.

  Which set a text gets depends on its own length, so a score of a longer text
  would depend on where it is cut: rows beyond the original length are refused.
  """
  length = s.raw.get("original_max_position_embeddings")
  length = length or rope.get("original_max_position_embeddings")
  if not length:
    raise UserError(
      f"{s.where}: expected the key 'original_max_position_embeddings', which "
      f"longrope needs, got a file without it; copy the published config.json"
    )
  factor = rope.get("factor", s.need("max_position_embeddings") / length)
  by = rope.get("attention_factor")
  if by is None:
    by = 1.0
    if factor > 1:
      by = math.sqrt(1 + math.log(factor) / math.log(length))
  scaling = ("longrope", float(by), *map(float, rope["short_factor"]))
  return {"rope_scaling": scaling, "max_positions": length}


def _global_layers(s: Source, slides) -> tuple[int, ...]:
  """Layers without the window: by `layer_types`, or where `slides` is False."""
  layers = s.need("num_hidden_layers")
  kinds = s.raw.get("layer_types")
  if kinds is None:
    return tuple(i for i in range(layers) if not slides(i))
  known = ["sliding_attention", "full_attention"]
  for kind in kinds:
    if kind not in known:
      raise s.refuse("layer_types", kind, known)
  return tuple(i for i, kind in enumerate(kinds) if kind == known[1])


def _windows(s: Source, slides) -> dict:
  """Window and global layers; neither where no layer slides."""
  window = s.raw.get("sliding_window") or 0
  everything = tuple(range(s.need("num_hidden_layers")))
  globals_ = _global_layers(s, slides) if window else everything
  if globals_ == everything:
    return {}
  return {"window": window, "global_layers": globals_}


# ---------------------------------------------------------------- families


def _llama(s: Source) -> dict:
  biased = bool(s.raw.get("attention_bias"))
  return _base(s) | {
    "qkv_bias": biased,
    "o_bias": biased,
    "mlp_bias": bool(s.raw.get("mlp_bias")),
  }


def _mistral(s: Source) -> dict:
  return _base(s) | {"window": s.raw["sliding_window"] or 0}


def _qwen_windows(s: Source) -> dict:
  if not s.raw.get("use_sliding_window", False):
    return {}
  first = s.raw.get("max_window_layers", 28)
  return _windows(s, lambda layer: layer >= first)


def _qwen2(s: Source) -> dict:
  return _base(s) | {"qkv_bias": True} | _qwen_windows(s)


def _qwen3(s: Source) -> dict:
  biased = bool(s.raw.get("attention_bias"))
  biases = {"qkv_bias": biased, "o_bias": biased}
  return _base(s) | biases | {"qk_norm": "head"} | _qwen_windows(s)


def _gemma(s: Source) -> dict:
  s.only("use_bidirectional_attention", (False, None))
  biased = bool(s.raw.get("attention_bias"))
  fields = _base(s) | {
    "norm": "rms_plus_one",
    "embed_scale": math.sqrt(s.need("hidden_size")),
    "qkv_bias": biased,
    "o_bias": biased,
  }
  if s.raw["hidden_act"] == "gelu":
    fields["activation"] = "gelu_tanh"  # what the first files meant by it
  return fields


def _gemma2(s: Source) -> dict:
  act = _activation(s, "hidden_activation", "gelu_pytorch_tanh")
  raw = {**s.raw, "hidden_act": s.raw["hidden_activation"]}
  fields = _gemma(Source(raw, s.where)) | {
    "activation": act,
    "post_norm": True,
    "query_scalar": float(s.raw["query_pre_attn_scalar"]),
    "soft_cap": float(s.raw.get("attn_logit_softcapping") or 0),
    "final_soft_cap": float(s.raw.get("final_logit_softcapping") or 0),
  }
  return fields | _windows(s, lambda layer: layer % 2 == 0)


def _gemma3(s: Source) -> dict:
  raw, every = s.raw, s.raw.get("sliding_window_pattern", 6)
  new = raw.get("rope_parameters") or {}
  # Nested by kind of layer in new files; in old ones the base of the local
  # layers has a key of its own and `rope_scaling` speaks of the global ones.
  local = {"rope_theta": raw.get("rope_local_base_freq", 1e4)}
  local |= new.get("sliding_attention") or {}
  wide = {"rope_theta": raw.get("rope_theta", 1e6)}
  wide |= raw.get("rope_scaling") or {}
  wide |= new.get("full_attention") or {}
  how = {"head_dim": s.need("head_dim"), "partial": False}
  near, far = _rope(s, local, **how), _rope(s, wide, **how)
  plain = {k: v for k, v in raw.items() if not k.startswith("rope_")}
  fields = _gemma2(Source(plain, s.where)) | near | {"qk_norm": "head"}
  windows = _windows(s, lambda layer: (layer + 1) % every)
  if not windows:
    return fields | {"rope_scaling": (), **far}
  return fields | {
    "global_rope_theta": far["rope_theta"],
    "global_rope_scaling": far.get("rope_scaling", ()),
    **windows,
  }


def _phi3(s: Source) -> dict:
  fields = _base(s, partial=True)
  return fields | {"window": s.raw.get("sliding_window") or 0}


def _olmo2(s: Source) -> dict:
  biased = bool(s.raw.get("attention_bias"))
  return _base(s) | {
    "qkv_bias": biased,
    "o_bias": biased,
    "pre_norm": False,
    "post_norm": True,
    "qk_norm": "whole",
  }


def _internlm2(s: Source) -> dict:
  biased = s.raw["bias"]
  return _base(s) | {"qkv_bias": biased, "o_bias": biased}


def _plain(s: Source, *, names: dict, activation: str) -> dict:
  """The fields that GPT-2, OPT and Pythia share; `names` are their keys."""
  heads, width = s.need(names["heads"]), s.need(names["width"])
  return {
    "vocab_size": s.need("vocab_size"),
    "width": width,
    "layers": s.need(names["layers"]),
    "heads": heads,
    "kv_heads": heads,
    "head_dim": width // heads,
    "tied": bool(s.raw.get("tie_word_embeddings")),
    "activation": _activation(s, activation, "gelu"),
    "norm": "layer",
    "gated": False,
    "qkv_bias": True,
    "o_bias": True,
    "mlp_bias": True,
  }


def _gpt2(s: Source) -> dict:
  s.only("scale_attn_by_inverse_layer_idx", (False,))
  s.only("add_cross_attention", (False,))
  names = {"heads": "n_head", "width": "n_embd", "layers": "n_layer"}
  fields = _plain(s, names=names, activation="activation_function")
  if not s.raw.get("scale_attn_weights", True):
    fields["query_scalar"] = 1.0
  return fields | {
    "mlp_width": s.raw.get("n_inner") or 4 * fields["width"],
    "norm_eps": s.need("layer_norm_epsilon"),
    "rope_theta": 0.0,
    "learned_positions": True,
    "max_positions": s.need("n_positions"),
  }


def _opt(s: Source) -> dict:
  # OPT-350m: norms behind the sums, embeddings of another width.
  s.only("do_layer_norm_before", (True,))
  s.only("_remove_final_layer_norm", (False,))
  s.only("layer_norm_elementwise_affine", (True,))
  s.only("word_embed_proj_dim", (s.need("hidden_size"),))
  names = {
    "heads": "num_attention_heads",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
  }
  fields = _plain(s, names=names, activation="activation_function")
  if not s.raw.get("enable_bias", True):
    fields |= dict.fromkeys(("qkv_bias", "o_bias", "mlp_bias"), False)
  return fields | {
    "mlp_width": s.need("ffn_dim"),
    "norm_eps": 1e-5,
    "rope_theta": 0.0,
    "learned_positions": True,
    "position_offset": 2,
    "max_positions": s.need("max_position_embeddings"),
  }


def _gpt_neox(s: Source) -> dict:
  names = {
    "heads": "num_attention_heads",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
  }
  fields = _plain(s, names=names, activation="hidden_act")
  biased = s.raw.get("attention_bias", True)
  rope = _rope(s, _rope_dict(s), head_dim=fields["head_dim"], partial=True)
  return fields | {
    "mlp_width": s.need("intermediate_size"),
    "norm_eps": s.need("layer_norm_eps"),
    "qkv_bias": biased,
    "o_bias": biased,
    "parallel": s.raw.get("use_parallel_residual", True),
    **rope,
  }


READERS = {
  "llama": _llama,
  "mistral": _mistral,
  "qwen2": _qwen2,
  "qwen3": _qwen3,
  "gemma": _gemma,
  "gemma2": _gemma2,
  "gemma3_text": _gemma3,
  "phi3": _phi3,
  "olmo2": _olmo2,
  "internlm2": _internlm2,
  "gpt2": _gpt2,
  "opt": _opt,
  "gpt_neox": _gpt_neox,
}
