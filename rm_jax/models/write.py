"""Weights and config.json in the form that transformers reads."""

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from rm_jax.models.families import read_config
from rm_jax.models.transformer import DecoderConfig
from rm_jax.types import UserError

DTYPES = {"float32": np.dtype("float32"), "bfloat16": ml_dtypes.bfloat16}

# Keys of a published config.json that speak of other weights than ours: its
# head, its code, its quantisation, its files.
FOREIGN = (
  "_name_or_path",
  "architectures",
  "auto_map",
  "dtype",
  "id2label",
  "label2id",
  "num_labels",
  "problem_type",
  "quantization_config",
  "torch_dtype",
  "transformers_version",
)


class Family(NamedTuple):
  """The classes of transformers over one decoder; "": there is none."""

  sequence: str
  token: str
  causal: str
  token_head: str = "score"  # what its token classifier calls its linear map


def _family(name, token_head="score", **changed) -> Family:
  rules = {
    "sequence": f"{name}ForSequenceClassification",
    "token": f"{name}ForTokenClassification",
    "causal": f"{name}ForCausalLM",
  }
  return Family(**rules | changed, token_head=token_head)


# model_type -> classes, as transformers 5.24 has them.
FAMILIES = {
  "llama": _family("Llama"),
  "mistral": _family("Mistral"),
  "qwen2": _family("Qwen2"),
  "qwen3": _family("Qwen3"),
  "gemma": _family("Gemma"),
  "gemma2": _family("Gemma2"),
  "gemma3_text": _family("Gemma3Text", token="", causal="Gemma3ForCausalLM"),
  "phi3": _family("Phi3"),
  "olmo2": _family("Olmo2", token=""),
  "gpt2": _family("GPT2", "classifier", causal="GPT2LMHeadModel"),
  "opt": _family("OPT", token=""),
  "gpt_neox": _family("GPTNeoX", "classifier"),
}


def find_family(base: dict, architecture: str, *, where: str) -> Family:
  """The classes for a raw config.json.

  Raises:
    UserError: transformers has no such class over this decoder.
  """
  family = FAMILIES.get(base["model_type"])
  if family is None or not getattr(family, architecture):
    known = [n for n, f in FAMILIES.items() if getattr(f, architecture)]
    raise UserError(
      f"{where}: transformers has no class for architecture {architecture!r} "
      f"over model_type {base['model_type']!r}; it has one for {known}. Export "
      "with another --architecture, or score with rm-jax."
    )
  return family


def plan_shards(sizes: dict[str, int], limit: int) -> list[list[str]]:
  """Names in order, cut into files of at most `limit` bytes of tensors.

  A tensor larger than the limit has a file of its own.
  """
  shards, held = [[]], 0
  for name, size in sizes.items():
    if shards[-1] and held + size > limit:
      shards.append([])
      held = 0
    shards[-1].append(name)
    held += size
  return shards


def write_tensors(
  folder: Path,
  tensors: dict[str, np.ndarray],
  *,
  dtype: str,
  exact: tuple = (),
  max_shard_bytes: int,
) -> list[str]:
  """Writes model.safetensors, or shards with their index; returns the names.

  Args:
    tensors: {Hugging Face name: float32 array}.
    dtype: float32 or bfloat16, of what is written.
    exact: names that stay float32.
    max_shard_bytes: of the tensors in one file.
  """
  from safetensors.numpy import save_file

  def kind(name):
    return DTYPES["float32" if name in exact else dtype]

  sizes = {
    name: array.size * np.dtype(kind(name)).itemsize
    for name, array in tensors.items()
  }
  shards = plan_shards(sizes, max_shard_bytes)
  names = ["model.safetensors"]
  if len(shards) > 1:
    names = [
      f"model-{n + 1:05d}-of-{len(shards):05d}.safetensors"
      for n in range(len(shards))
    ]
  for file, held in zip(names, shards, strict=True):
    # Contiguous: safetensors writes a view in its memory order, in silence.
    # One shard at a time: what is cast lives no longer than its file.
    part = {k: np.ascontiguousarray(tensors[k], dtype=kind(k)) for k in held}
    save_file(part, folder / file, metadata={"format": "pt"})
  if len(shards) == 1:
    return names
  index = {
    "metadata": {"total_size": sum(sizes.values())},
    "weight_map": {
      name: file
      for file, held in zip(names, shards, strict=True)
      for name in sorted(held)
    },
  }
  path = folder / "model.safetensors.index.json"
  path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
  return [*names, path.name]


def llama_config(decoder: DecoderConfig, *, max_positions: int) -> dict:
  """config.json of a decoder that was not read from one (GGUF, random).

  Raises:
    UserError: a decoder of another family, whose config.json says more.
  """
  family = "mistral" if decoder.family == "mistral" else "llama"
  raw = {
    "model_type": family,
    "vocab_size": decoder.vocab_size,
    "hidden_size": decoder.width,
    "intermediate_size": decoder.mlp_width,
    "num_hidden_layers": decoder.layers,
    "num_attention_heads": decoder.heads,
    "num_key_value_heads": decoder.kv_heads,
    "head_dim": decoder.head_dim,
    "hidden_act": "silu",
    "max_position_embeddings": max_positions,
    "rms_norm_eps": decoder.norm_eps,
    # Both spellings: transformers 4 reads the first, 5 the second.
    "rope_theta": decoder.rope_theta,
    "rope_parameters": {
      "rope_type": "default",
      "rope_theta": decoder.rope_theta,
    },
    "tie_word_embeddings": decoder.tied,
    "attention_bias": False,
    "mlp_bias": False,
  }
  if family == "mistral":
    raw["sliding_window"] = decoder.window or None
  whole = dataclasses.replace(decoder, unembeds=True)
  if read_config(raw, where="config.json") != whole:
    raise UserError(
      f"a decoder of family {decoder.family!r} with switches that a "
      f"config.json of {family!r} has no word for: it is written from "
      "that of its base model only. Put the base model back that the run began "
      "with (config.init.from)."
    )
  return raw


def model_config(
  base: dict,
  decoder: DecoderConfig,
  *,
  architecture: str,
  dtype: str,
  labels: tuple,
  tokenizer,
  where: str,
) -> dict:
  """config.json for this decoder, from the one of its base model.

  Args:
    base: the raw config.json of the base model, or of `llama_config`.
    architecture: sequence, token or causal.
    labels: names of the head's outputs; () for a language model.
    tokenizer: gives the special ids; its padding is what pooling skips.
    where: names the base model in errors.

  Raises:
    UserError: the result would describe another decoder than ours.
  """
  raw = {k: v for k, v in base.items() if k not in FOREIGN}
  family = find_family(base, architecture, where=where)
  raw |= {
    "architectures": [getattr(family, architecture)],
    "dtype": dtype,
    "torch_dtype": dtype,  # as transformers 4 spells it
    "vocab_size": decoder.vocab_size,
    "bos_token_id": tokenizer.bos_token_id,
    "eos_token_id": tokenizer.eos_token_id,
    "pad_token_id": tokenizer.pad_token_id,
  }
  if labels:
    raw["id2label"] = {str(n): name for n, name in enumerate(labels)}
    raw["label2id"] = {name: n for n, name in enumerate(labels)}
  if architecture == "token":
    raw["classifier_dropout"] = 0.0  # 0.1 where the key is missing
  described = read_config(raw, where=where)
  # A classifier has no unembedding, tied or not.
  described = dataclasses.replace(
    described, tied=decoder.tied, unembeds=decoder.unembeds
  )
  if described != decoder:
    told, ours = vars(described), vars(decoder)
    differ = [
      f"{name} {told[name]!r} for {ours[name]!r}"
      for name in ours
      if told[name] != ours[name]
    ]
    raise UserError(
      f"{where}: its config.json describes another model than the one that "
      f"was trained ({'; '.join(differ)}). Put the base model back that the "
      "run began with."
    )
  return raw
