"""Tiny published models, written the way Hugging Face and llama.cpp do.

The tensors are drawn in the layout of the source, so nothing here relies on
the conversion under test. numpy only: the torch environment that makes the
goldens imports this file as well.
"""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

# head_dim is not width / heads, and kv_heads not heads: mix-ups change shapes.
VOCAB, WIDTH, LAYERS, HEADS, KV_HEADS, HEAD_DIM, MLP = 96, 32, 3, 4, 2, 12, 48

DTYPES = {
  "float32": np.float32,
  "float16": np.float16,
  "bfloat16": ml_dtypes.bfloat16,
}

CONFIG = {
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "vocab_size": VOCAB,
  "hidden_size": WIDTH,
  "num_hidden_layers": LAYERS,
  "num_attention_heads": HEADS,
  "num_key_value_heads": KV_HEADS,
  "head_dim": HEAD_DIM,
  "intermediate_size": MLP,
  "hidden_act": "silu",
  "max_position_embeddings": 128,
  "rms_norm_eps": 1e-5,
  "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
  "tie_word_embeddings": False,
  "bos_token_id": 1,
  "eos_token_id": 2,
  "pad_token_id": 0,
}

# What the goldens cover: each row differs from the one before in everything
# that a reader of folders can get wrong.
_OLD_ROPE = {k: v for k, v in CONFIG.items() if k != "rope_parameters"}
CASES = {
  "llama": {"config": CONFIG, "dtype": "float32", "labels": 0},
  "mistral": {
    "config": {
      **_OLD_ROPE,
      "architectures": ["MistralForCausalLM"],
      "model_type": "mistral",
      "rope_theta": 500.0,
      "sliding_window": 4,
      "tie_word_embeddings": True,
    },
    "dtype": "bfloat16",
    "labels": 0,
  },
  "classifier": {
    "config": {
      **_OLD_ROPE,
      "architectures": ["LlamaForSequenceClassification"],
      "rope_theta": 500.0,
      "rope_scaling": None,
      "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
      "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    },
    "dtype": "float16",
    "labels": 2,
  },
}

# No padding id inside: the classifier of transformers pools by token id.
TOKENS = [
  [5, 9, 2, 77, 31, 31, 8, 64, 90, 12, 3],
  [95, 1, 40, 40, 7, 22, 58, 13, 2, 71, 6],
]


def draw_tensors(*, tied: bool, labels: int, seed: int) -> dict:
  """{Hugging Face name: float32 array, [out, in]}, the same on every machine.

  Weights of size 0.2 and norms well away from 1: with the usual 0.02 and ones,
  attention is flat and a norm that is skipped does not show.
  """
  q, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
  shapes = {"model.embed_tokens.weight": (VOCAB, WIDTH)}
  for layer in range(LAYERS):
    shapes |= {
      f"model.layers.{layer}.{name}.weight": shape
      for name, shape in {
        "input_layernorm": (WIDTH,),
        "self_attn.q_proj": (q, WIDTH),
        "self_attn.k_proj": (kv, WIDTH),
        "self_attn.v_proj": (kv, WIDTH),
        "self_attn.o_proj": (WIDTH, q),
        "post_attention_layernorm": (WIDTH,),
        "mlp.gate_proj": (MLP, WIDTH),
        "mlp.up_proj": (MLP, WIDTH),
        "mlp.down_proj": (WIDTH, MLP),
      }.items()
    }
  shapes["model.norm.weight"] = (WIDTH,)
  if labels:
    shapes["score.weight"] = (labels, WIDTH)
  elif not tied:
    shapes["lm_head.weight"] = (VOCAB, WIDTH)
  rng = np.random.default_rng(seed)
  tensors = {}
  for name, shape in shapes.items():
    noise = rng.random(shape) - 0.5
    scaled = 1 + noise if len(shape) == 1 else 0.7 * noise
    tensors[name] = scaled.astype(np.float32)
  return tensors


def write_folder(
  folder: Path, config: dict, tensors: dict, *, dtype: str, shards: int
) -> Path:
  """Writes config.json and the weights as one file or as shards with index."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "config.json").write_text(json.dumps(config))
  typed = {k: v.astype(DTYPES[dtype]) for k, v in tensors.items()}
  if shards == 1:
    save_file(typed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
  weight_map = {}
  for shard in range(shards):
    file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
    held = {k: typed[k] for k in list(typed)[shard::shards]}
    save_file(held, folder / file, metadata={"format": "pt"})
    weight_map |= dict.fromkeys(held, file)
  size = sum(v.nbytes for v in typed.values())
  index = {"metadata": {"total_size": size}, "weight_map": weight_map}
  (folder / "model.safetensors.index.json").write_text(json.dumps(index))
  return folder


def write_case(folder: Path, case: str) -> Path:
  """Writes the folder of one of CASES in two shards."""
  config, dtype = CASES[case]["config"], CASES[case]["dtype"]
  tensors = draw_tensors(
    tied=config["tie_word_embeddings"], labels=CASES[case]["labels"], seed=17
  )
  return write_folder(folder, config, tensors, dtype=dtype, shards=2)


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
  """Rows in llama.cpp's order, row by row: head, then pairs (i, i + d / 2)."""
  size = len(weight) // heads
  rows = [
    head * size + half * (size // 2) + i
    for head in range(heads)
    for i in range(size // 2)
    for half in range(2)
  ]
  return weight[rows]


GGUF_NAMES = {
  "input_layernorm": "attn_norm",
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "post_attention_layernorm": "ffn_norm",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
  "model.embed_tokens": "token_embd",
  "model.norm": "output_norm",
  "lm_head": "output",
  "model.layers": "blk",
}


def write_gguf(
  path: Path,
  tensors: dict,
  *,
  fields: dict,
  extra: dict | None = None,
  architecture: str = "llama",
) -> Path:
  """Writes the tensors as llama.cpp's converter does.

  `fields` are metadata beside the model's, or instead of them (None removes a
  key); `extra` are tensors under their GGUF names.
  """
  import gguf

  fields = {
    "llama.vocab_size": VOCAB,
    "llama.embedding_length": WIDTH,
    "llama.block_count": LAYERS,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KV_HEADS,
    "llama.attention.key_length": HEAD_DIM,
    "llama.feed_forward_length": MLP,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 500.0,
    "llama.rope.dimension_count": HEAD_DIM,
    **fields,
  }
  writer = gguf.GGUFWriter(path, architecture)
  add = {
    bool: writer.add_bool,
    int: writer.add_uint32,
    float: writer.add_float32,
    str: writer.add_string,
    list: writer.add_array,
  }
  for name, value in fields.items():
    if value is not None:
      add[type(value)](name, value)
  for name, value in tensors.items():
    if ".q_proj." in name:
      value = permute(value, HEADS)
    if ".k_proj." in name:
      value = permute(value, KV_HEADS)
    for theirs, ours in GGUF_NAMES.items():
      name = name.replace(theirs, ours)
    writer.add_tensor(name, np.ascontiguousarray(value))
  for name, value in (extra or {}).items():
    writer.add_tensor(name, value)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


def hidden_states(params: dict, config, tokens) -> np.ndarray:
  """Our decoder's hidden states [B, L, D] of plain rows, float32."""
  import jax  # here, not above: this file is also read where there is no jax
  import jax.numpy as jnp

  from rm_jax.models.sight import Forest
  from rm_jax.models.transformer import Decoder

  tokens = jnp.asarray(tokens, jnp.int32)
  ones = jnp.ones_like(tokens)
  positions = jnp.cumsum(ones, axis=1) - 1
  forest = Forest(
    group_ids=ones,
    branch_ids=0 * ones,
    positions=positions,
    fork_positions=0 * ones,
  )
  decoder = Decoder(
    config, segments=(config.layers,), dtype=jnp.float32, remat=False
  )
  apply = jax.jit(lambda p: decoder.apply({"params": p}, tokens, forest))
  return np.asarray(apply(params))
