"""Published weights of the Llama family <-> our parameter tree.

In a source a linear weight is [out, in] and every layer has its own tensors;
in our tree a kernel is [in, out] and the layers are stacked on a first axis.
Tensors are read one at a time into the stacks, so the peak is the tree and one
tensor.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rm_jax.models.gguf import read_gguf
from rm_jax.models.transformer import DecoderConfig
from rm_jax.places import locate, read_json
from rm_jax.types import UserError

# What config.json may leave out, as transformers fills it in.
DEFAULTS = {
  "llama": {"num_key_value_heads": None, "sliding_window": None},
  "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
}

FLOATS = ("float32", "float16", "bfloat16")

# path in our tree -> name in a layer of the source
LAYER = {
  ("attn_norm", "scale"): "input_layernorm.weight",
  ("attn", "q", "kernel"): "self_attn.q_proj.weight",
  ("attn", "k", "kernel"): "self_attn.k_proj.weight",
  ("attn", "v", "kernel"): "self_attn.v_proj.weight",
  ("attn", "o", "kernel"): "self_attn.o_proj.weight",
  ("mlp_norm", "scale"): "post_attention_layernorm.weight",
  ("mlp", "gate", "kernel"): "mlp.gate_proj.weight",
  ("mlp", "up", "kernel"): "mlp.up_proj.weight",
  ("mlp", "down", "kernel"): "mlp.down_proj.weight",
}


class Pretrained(NamedTuple):
  """What a source holds: the decoder, and the score head where it has one."""

  config: DecoderConfig
  params: dict  # canonical tree of float32 arrays
  score: np.ndarray | None  # [labels, D] float32: `score.weight`


def load_pretrained(source: str | Path) -> Pretrained:
  """Decoder config, parameters and score head of a GGUF file or HF folder.

  Every tensor of the source is used, or skipped by name (rotary buffers, an
  lm_head equal to the table it is tied to), else UserError. A classifier
  without lm_head comes back with `tied=True`: our tree then has no unembedding
  of its own, as the source has none.
  """
  path = locate(source)
  if path.is_file():
    config, tensors = read_gguf(path)
    return Pretrained(config, from_hf(tensors, config, where=path), None)

  raw = read_json(path / "config.json")
  config = read_config(raw, where=path / "config.json")
  tensors = _open_safetensors(path)
  classifier = any(
    name.endswith("ForSequenceClassification")
    for name in raw.get("architectures") or ()
  )
  if classifier and "lm_head.weight" not in tensors:
    config = dataclasses.replace(config, tied=True)
  head = tensors.pop("score.weight", None)
  if classifier and head is None:
    raise UserError(
      f"{path}: expected score.weight, because config.json says "
      f"{raw['architectures']}, got no such tensor; the head was not saved"
    )
  score = None
  if head is not None:
    score = _floats(head(), name="score.weight", where=path)
    if score.ndim != 2 or score.shape[1] != config.width:
      raise UserError(
        f"{path}: score.weight: expected shape (labels, {config.width}), got "
        f"{score.shape}; config.json belongs to other weights"
      )
  return Pretrained(config, from_hf(tensors, config, where=path), score)


def read_config(raw: dict, *, where: Path) -> DecoderConfig:
  """The decoder shape that a raw config.json describes.

  Reads both spellings of the rotary base: `rope_theta` with `rope_scaling` at
  the top level, and the newer `rope_parameters`. Raises UserError on anything
  our decoder would compute differently.
  """

  def need(key):
    if raw.get(key) is None:
      raise UserError(
        f"{where}: expected the key {key!r}, got a file without it; copy the "
        f"config.json that was published with the weights"
      )
    return raw[key]

  def refuse(key, got, known):
    raise UserError(
      f"{where}: {key}: expected one of {known}, got {got!r}; convert it to "
      f"one of these or load another model"
    )

  family = need("model_type")
  if family not in DEFAULTS:
    refuse("model_type", family, sorted(DEFAULTS))
  filled = {**DEFAULTS[family], **raw}
  activation = raw.get("hidden_act", "silu")
  if activation != "silu":
    refuse("hidden_act", activation, ["silu"])
  rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
  kind = rope.get("rope_type", rope.get("type", "default"))
  if kind != "default":
    refuse("rope_type", kind, ["default"])
  rotated = rope.get(
    "partial_rotary_factor", raw.get("partial_rotary_factor", 1.0)
  )
  if rotated != 1.0:
    refuse("partial_rotary_factor", rotated, [1.0])
  heads = need("num_attention_heads")
  window = filled["sliding_window"] if family == "mistral" else None
  return DecoderConfig(
    vocab_size=need("vocab_size"),
    width=need("hidden_size"),
    layers=need("num_hidden_layers"),
    heads=heads,
    kv_heads=filled["num_key_value_heads"] or heads,
    head_dim=raw.get("head_dim") or need("hidden_size") // heads,
    mlp_width=need("intermediate_size"),
    rope_theta=float(rope.get("rope_theta", raw.get("rope_theta", 10_000.0))),
    norm_eps=need("rms_norm_eps"),
    tied=raw.get("tie_word_embeddings", False),
    window=window or 0,
  )


def from_hf(
  tensors: dict[str, Callable[[], np.ndarray]],
  config: DecoderConfig,
  *,
  where: Any,
) -> dict:
  """Our canonical tree from {Hugging Face name: function that reads it}.

  Raises UserError that lists every name that is missing or has no place, and
  on a shape that is not the config's. `where` names the source in errors.
  """
  shapes = _shapes(config)
  wanted = {_name(path, i) for path in shapes for i in range(config.layers)}
  skipped = {name for name in tensors if name.endswith(".rotary_emb.inv_freq")}
  if config.tied:
    skipped |= {"lm_head.weight"} & set(tensors)
  missing = sorted(wanted - set(tensors))
  unmapped = sorted(set(tensors) - wanted - skipped)
  if missing or unmapped:
    raise UserError(
      f"{where}: expected the {len(wanted)} tensors of this config, got "
      f"missing {missing}, unmapped {unmapped}; the config belongs to other "
      f"weights or this kind of model is not supported"
    )

  def read(path, layer):
    name = _name(path, layer)
    array = _floats(tensors[name](), name=name, where=where)
    array = array.T if path[-1] == "kernel" else array
    if array.shape != shapes[path]:
      raise UserError(
        f"{where}: {name}: expected shape {shapes[path]} (kernels as [in, "
        f"out]), got {array.shape}; the config belongs to other weights"
      )
    return array

  params: dict = {}
  for path, shape in shapes.items():
    if path[0] == "layers_0":
      value = np.empty((config.layers, *shape), np.float32)
      for layer in range(config.layers):
        value[layer] = read(path, layer)
    else:
      # A copy: a float32 tensor of a GGUF file is a view of the mapped file.
      value = np.array(read(path, None), order="C")
    _put(params, path, value)
  if "lm_head.weight" in skipped:
    _check_tied(tensors["lm_head.weight"](), params, where=where)
  return params


def to_hf(params: dict, config: DecoderConfig) -> dict[str, np.ndarray]:
  """{Hugging Face name: contiguous array, [out, in]} of a canonical tree.

  The inverse of `from_hf`, bit for bit. Contiguous, because safetensors writes
  a transposed view in its memory order without a word.
  """
  named = {}
  for path, shape in _shapes(config).items():
    value = functools.reduce(dict.__getitem__, path, params)
    stacked = path[0] == "layers_0"
    expected = (config.layers, *shape) if stacked else shape
    assert value.shape == expected, (path, value.shape, expected)
    for layer, array in enumerate(value) if stacked else [(None, value)]:
      array = np.asarray(array)
      array = array.T if path[-1] == "kernel" else array
      named[_name(path, layer)] = np.ascontiguousarray(array)
  return named


def _shapes(config: DecoderConfig) -> dict[tuple, tuple]:
  """{path in our tree: shape}, of one layer where the path is stacked."""
  c = config
  q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
  inner = {
    "scale": (c.width,),
    "q": (c.width, q),
    "k": (c.width, kv),
    "v": (c.width, kv),
    "o": (q, c.width),
    "gate": (c.width, c.mlp_width),
    "up": (c.width, c.mlp_width),
    "down": (c.mlp_width, c.width),
  }
  shapes = {("embed", "embedding"): (c.vocab_size, c.width)}
  for path in LAYER:
    part = path[-2] if path[-1] == "kernel" else path[-1]
    shapes["layers_0", *path] = inner[part]
  shapes["final_norm", "scale"] = (c.width,)
  if not c.tied:
    shapes["lm_head", "kernel"] = (c.width, c.vocab_size)
  return shapes


def _name(path: tuple, layer: int | None) -> str:
  if path[0] == "layers_0":
    return f"model.layers.{layer}.{LAYER[path[1:]]}"
  return {
    "embed": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "lm_head": "lm_head.weight",
  }[path[0]]


def _put(tree: dict, path: tuple, value: np.ndarray) -> None:
  for key in path[:-1]:
    tree = tree.setdefault(key, {})
  tree[path[-1]] = value


def _floats(array: np.ndarray, *, name: str, where: Any) -> np.ndarray:
  if array.dtype.name not in FLOATS:
    raise UserError(
      f"{where}: {name}: expected a dtype of {FLOATS}, got "
      f"{array.dtype.name}; load unquantised weights"
    )
  return array.astype(np.float32, copy=False)


def _check_tied(head: np.ndarray, params: dict, *, where: Any) -> None:
  if not np.array_equal(head.astype(np.float32), params["embed"]["embedding"]):
    raise UserError(
      f"{where}: expected lm_head.weight equal to model.embed_tokens.weight, "
      f"because the config ties them, got different values; set "
      f"tie_word_embeddings to false in config.json"
    )


def _open_safetensors(folder: Path) -> dict[str, Callable[[], np.ndarray]]:
  """{name: function that reads it} of model.safetensors or of its shards."""
  from safetensors import SafetensorError, safe_open

  single = folder / "model.safetensors"
  index = folder / "model.safetensors.index.json"
  if single.is_file():
    shards, weight_map = [single], None
  elif index.is_file():
    weight_map = read_json(index)["weight_map"]
    shards = [folder / name for name in sorted(set(weight_map.values()))]
  else:
    raise UserError(
      f"{folder}: expected {single.name} or {index.name}, got neither; save "
      f"the weights with safetensors"
    )
  tensors, held_by = {}, {}
  for shard in shards:
    if not shard.is_file():
      raise UserError(
        f"{index}: expected the shard {shard.name}, got no such file; "
        f"download it again"
      )
    try:
      file = safe_open(shard, framework="np")
    except SafetensorError as error:
      raise UserError(
        f"{shard}: expected a complete safetensors file, got one that does "
        f"not parse ({error}); download it again"
      ) from None
    for name in file.keys():
      tensors[name] = functools.partial(file.get_tensor, name)
      held_by[name] = shard.name
  if weight_map is not None and held_by != weight_map:
    differ = sorted(
      name
      for name in {*held_by, *weight_map}
      if held_by.get(name) != weight_map.get(name)
    )
    raise UserError(
      f"{index}: expected the tensors of the shards, got a different list for "
      f"{differ}; index and shards belong to different downloads"
    )
  return tensors
