"""GGUF files of llama.cpp, read as if they were a Hugging Face checkpoint."""

import functools
from pathlib import Path

import numpy as np

from rm_jax.gguf_file import Tensor, dequantize, open_gguf, shape_of
from rm_jax.models.stored import Stored
from rm_jax.models.transformer import DecoderConfig
from rm_jax.types import UserError

TOP = {
  "token_embd.weight": "model.embed_tokens.weight",
  "output_norm.weight": "model.norm.weight",
  "output.weight": "lm_head.weight",
}
LAYER = {
  "attn_norm.weight": "input_layernorm.weight",
  "attn_q.weight": "self_attn.q_proj.weight",
  "attn_k.weight": "self_attn.k_proj.weight",
  "attn_v.weight": "self_attn.v_proj.weight",
  "attn_output.weight": "self_attn.o_proj.weight",
  "ffn_norm.weight": "post_attention_layernorm.weight",
  "ffn_gate.weight": "mlp.gate_proj.weight",
  "ffn_up.weight": "mlp.up_proj.weight",
  "ffn_down.weight": "mlp.down_proj.weight",
}

# Keys of the llama architecture that change what a decoder computes and that
# ours does not follow. Absent in every file we can load.
REFUSED = ("attention.sliding_window", "expert_count", "rope.scaling.factor")


def read_gguf(
  path: Path,
) -> tuple[DecoderConfig, dict[str, Stored]]:
  """Decoder config and {Hugging Face name: tensor not read yet} of a file.

  A tensor that has no Hugging Face name keeps its own and so is reported by
  the caller as unmapped. Quantised types are dequantised to float32 on read.
  """
  file = open_gguf(path)
  names = {tensor.name for tensor in file.tensors}
  tied = "output.weight" not in names
  config = _read_config(file.fields, tied=tied, where=path)
  tensors = {}

  @functools.lru_cache(1)  # the parts of a tensor are asked for in a row
  def whole(number):
    return _read(file.tensors[number], config, where=path)

  def read(number, indexes):
    return (whole(number)[index] for index in indexes)

  for number, tensor in enumerate(file.tensors):
    name = _hf_name(tensor.name)
    part = functools.partial(read, number)
    tensors[name] = Stored(name, shape_of(tensor), "float32", part, path)
  return config, tensors


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
  """Rows of a q or k weight [out, in] in half-split rotary order.

  llama.cpp stores the rows of each head as pairs (i, i + d / 2) side by side;
  Hugging Face and our decoder keep the first halves before the second halves.
  """
  rows, columns = weight.shape
  pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
  return pairs.swapaxes(1, 2).reshape(rows, columns)


def _read(tensor: Tensor, config: DecoderConfig, *, where: Path) -> np.ndarray:
  try:
    weight = dequantize(tensor)
  except NotImplementedError:
    raise UserError(
      f"{where}: {tensor.name}: expected a type the gguf package can "
      f"dequantise, got {tensor.kind.name}; load a Q4, Q8 or F16 file "
      f"of the model"
    ) from None
  if tensor.name.endswith(".attn_q.weight"):
    return unpermute(weight, config.heads)
  if tensor.name.endswith(".attn_k.weight"):
    return unpermute(weight, config.kv_heads)
  return weight


def _hf_name(name: str) -> str:
  if name in TOP:
    return TOP[name]
  block, _, rest = name.partition(".")
  layer, _, part = rest.partition(".")
  if block == "blk" and part in LAYER:
    return f"model.layers.{layer}.{LAYER[part]}"
  return name


def _read_config(fields: dict, *, tied: bool, where: Path) -> DecoderConfig:
  def need(key):
    if key not in fields:
      raise UserError(
        f"{where}: expected the metadata key {key!r}, got a file without it; "
        f"convert the model to GGUF again"
      )
    return fields[key]

  architecture = need("general.architecture")
  if architecture != "llama":
    raise UserError(
      f"{where}: general.architecture: expected 'llama', got "
      f"{architecture!r}; load the model from its Hugging Face folder"
    )
  width = need("llama.embedding_length")
  heads = need("llama.attention.head_count")
  head_dim = width // heads
  if "llama.attention.key_length" in fields:
    head_dim = fields["llama.attention.key_length"]
  rotated = need("llama.rope.dimension_count")
  if rotated != head_dim:
    raise UserError(
      f"{where}: llama.rope.dimension_count: expected {head_dim}, the size of "
      f"a head, got {rotated}; partial rotary is not supported"
    )
  for key in REFUSED:
    if f"llama.{key}" in fields:
      raise UserError(
        f"{where}: expected no key llama.{key}, got "
        f"{fields[f'llama.{key}']}; load the model from its Hugging Face "
        f"folder"
      )
  kv_heads = heads
  if "llama.attention.head_count_kv" in fields:
    kv_heads = fields["llama.attention.head_count_kv"]
  return DecoderConfig(
    vocab_size=need("llama.vocab_size"),
    width=width,
    layers=need("llama.block_count"),
    heads=heads,
    kv_heads=kv_heads,
    head_dim=head_dim,
    mlp_width=need("llama.feed_forward_length"),
    rope_theta=_shortest(
      # llama.cpp's own default where the file has none
      fields.get("llama.rope.freq_base", 10_000.0)
    ),
    norm_eps=_shortest(need("llama.attention.layer_norm_rms_epsilon")),
    tied=tied,
  )


def _shortest(value: float) -> float:
  """1e-5 of 9.999999747378752e-06: what was meant before it became float32."""
  return float(str(np.float32(value)))
