"""Named decoder shapes, each with its source: data.

The source of a shape is the config.json published with the weights; the counts
of tests/models/test_sizes.py come from elsewhere.
"""

import math

from rm_jax.models.transformer import DecoderConfig

# What the shapes of one release have in common.
SMOLLM2 = dict(vocab_size=49_152, norm_eps=1e-5, tied=True)
LLAMA2 = dict(vocab_size=32_000, rope_theta=1e4, norm_eps=1e-5, tied=False)
YI = dict(vocab_size=64_000, rope_theta=5e6, norm_eps=1e-5, tied=False)
LLAMA3 = dict(vocab_size=128_256, rope_theta=5e5, norm_eps=1e-5)
# rope_scaling: factor, low and high frequency factor, original positions
LLAMA31 = dict(**LLAMA3, rope_scaling=("llama3", 8.0, 1.0, 4.0, 8192.0))
LLAMA32 = dict(**LLAMA3, rope_scaling=("llama3", 32.0, 1.0, 4.0, 8192.0))
MISTRAL = dict(norm_eps=1e-5, tied=False, family="mistral")
MISTRAL01 = dict(**MISTRAL, vocab_size=32_000, rope_theta=1e4, window=4096)
MISTRAL03 = dict(**MISTRAL, vocab_size=32_768, rope_theta=1e6)
QWEN25 = dict(rope_theta=1e6, qkv_bias=True, family="qwen2")
QWEN25_TIED = dict(**QWEN25, vocab_size=151_936, norm_eps=1e-6, tied=True)
QWEN25_7B = dict(**QWEN25, vocab_size=152_064, norm_eps=1e-6, tied=False)
QWEN25_WIDE = dict(**QWEN25, vocab_size=152_064, norm_eps=1e-5, tied=False)
QWEN3 = dict(
  vocab_size=151_936,
  rope_theta=1e6,
  norm_eps=1e-6,
  qk_norm="head",
  family="qwen3",
)
GEMMA2 = dict(
  vocab_size=256_000,
  rope_theta=1e4,
  norm_eps=1e-6,
  tied=True,
  window=4096,
  norm="rms_plus_one",
  post_norm=True,
  activation="gelu_tanh",
  soft_cap=50.0,
  final_soft_cap=30.0,
  family="gemma2",
)
GEMMA3 = dict(
  rope_theta=1e4,  # of the local layers
  global_rope_theta=1e6,
  norm_eps=1e-6,
  tied=True,
  norm="rms_plus_one",
  post_norm=True,
  qk_norm="head",
  activation="gelu_tanh",
  family="gemma3_text",
)
GEMMA3_1B = dict(**GEMMA3, vocab_size=262_144, window=512)
GEMMA3_TEXT = dict(
  **GEMMA3,
  vocab_size=262_208,
  window=1024,
  global_rope_scaling=("linear", 8.0),
)
PYTHIA = dict(
  rope_theta=1e4,
  norm_eps=1e-5,
  tied=False,
  norm="layer",
  gated=False,
  qkv_bias=True,
  o_bias=True,
  mlp_bias=True,
  activation="gelu",
  parallel=True,
  family="gpt_neox",
)

VOCAB, SCALAR = "vocab_size", "query_scalar"

# name: (in common, width, layers, heads, kv_heads, head_dim, mlp_width, rest)
TABLE = {
  # HuggingFaceTB/SmolLM2-135M, 360M, 1.7B
  "smollm2_135m": (SMOLLM2, 576, 30, 9, 3, 64, 1536, {"rope_theta": 1e5}),
  "smollm2_360m": (SMOLLM2, 960, 32, 15, 5, 64, 2560, {"rope_theta": 1e5}),
  "smollm2_1.7b": (SMOLLM2, 2048, 24, 32, 32, 64, 8192, {"rope_theta": 1.3e5}),
  # meta-llama/Llama-2-7b-hf, 13b, 70b
  "llama2_7b": (LLAMA2, 4096, 32, 32, 32, 128, 11_008, {}),
  "llama2_13b": (LLAMA2, 5120, 40, 40, 40, 128, 13_824, {}),
  "llama2_70b": (LLAMA2, 8192, 80, 64, 8, 128, 28_672, {}),
  # 01-ai/Yi-34B
  "yi_34b": (YI, 7168, 60, 56, 8, 128, 20_480, {}),
  # meta-llama/Llama-3.1-8B, 70B
  "llama3.1_8b": (LLAMA31, 4096, 32, 32, 8, 128, 14_336, {"tied": False}),
  "llama3.1_70b": (LLAMA31, 8192, 80, 64, 8, 128, 28_672, {"tied": False}),
  # meta-llama/Llama-3.2-1B, 3B
  "llama3.2_1b": (LLAMA32, 2048, 16, 32, 8, 64, 8192, {"tied": True}),
  "llama3.2_3b": (LLAMA32, 3072, 28, 24, 8, 128, 8192, {"tied": True}),
  # mistralai/Mistral-7B-v0.1, which has a window, and v0.3
  "mistral_7b": (MISTRAL01, 4096, 32, 32, 8, 128, 14_336, {}),
  "mistral_7b_v0.3": (MISTRAL03, 4096, 32, 32, 8, 128, 14_336, {}),
  # Qwen/Qwen2.5-0.5B, 1.5B, 3B, 7B, 14B, 32B, 72B
  "qwen2.5_0.5b": (QWEN25_TIED, 896, 24, 14, 2, 64, 4864, {}),
  "qwen2.5_1.5b": (QWEN25_TIED, 1536, 28, 12, 2, 128, 8960, {}),
  "qwen2.5_3b": (QWEN25_TIED, 2048, 36, 16, 2, 128, 11_008, {}),
  "qwen2.5_7b": (QWEN25_7B, 3584, 28, 28, 4, 128, 18_944, {}),
  "qwen2.5_14b": (QWEN25_WIDE, 5120, 48, 40, 8, 128, 13_824, {}),
  "qwen2.5_32b": (QWEN25_WIDE, 5120, 64, 40, 8, 128, 27_648, {}),
  "qwen2.5_72b": (QWEN25_WIDE, 8192, 80, 64, 8, 128, 29_568, {}),
  # Qwen/Qwen3-0.6B, 1.7B, 4B, 8B, 14B, 32B
  "qwen3_0.6b": (QWEN3, 1024, 28, 16, 8, 128, 3072, {"tied": True}),
  "qwen3_1.7b": (QWEN3, 2048, 28, 16, 8, 128, 6144, {"tied": True}),
  "qwen3_4b": (QWEN3, 2560, 36, 32, 8, 128, 9728, {"tied": True}),
  "qwen3_8b": (QWEN3, 4096, 36, 32, 8, 128, 12_288, {"tied": False}),
  "qwen3_14b": (QWEN3, 5120, 40, 40, 8, 128, 17_408, {"tied": False}),
  "qwen3_32b": (QWEN3, 5120, 64, 64, 8, 128, 25_600, {"tied": False}),
  # google/gemma-2-2b, 9b, 27b: every second layer is global
  "gemma2_2b": (GEMMA2, 2304, 26, 8, 4, 256, 9216, {SCALAR: 256.0}),
  "gemma2_9b": (GEMMA2, 3584, 42, 16, 8, 256, 14_336, {SCALAR: 256.0}),
  "gemma2_27b": (GEMMA2, 4608, 46, 32, 16, 128, 36_864, {SCALAR: 144.0}),
  # google/gemma-3-1b-pt; the text half of 4b, 12b, 27b: every sixth is global
  "gemma3_1b": (GEMMA3_1B, 1152, 26, 4, 1, 256, 6912, {SCALAR: 256.0}),
  "gemma3_4b": (GEMMA3_TEXT, 2560, 34, 8, 4, 256, 10_240, {SCALAR: 256.0}),
  "gemma3_12b": (GEMMA3_TEXT, 3840, 48, 16, 8, 256, 15_360, {SCALAR: 256.0}),
  "gemma3_27b": (GEMMA3_TEXT, 5376, 62, 32, 16, 128, 21_504, {SCALAR: 168.0}),
  # EleutherAI/pythia-70m to 12b: a quarter of a head turns
  "pythia_70m": (PYTHIA, 512, 6, 8, 8, 64, 2048, {VOCAB: 50_304}),
  "pythia_160m": (PYTHIA, 768, 12, 12, 12, 64, 3072, {VOCAB: 50_304}),
  "pythia_410m": (PYTHIA, 1024, 24, 16, 16, 64, 4096, {VOCAB: 50_304}),
  "pythia_1b": (PYTHIA, 2048, 16, 8, 8, 256, 8192, {VOCAB: 50_304}),
  "pythia_1.4b": (PYTHIA, 2048, 24, 16, 16, 128, 8192, {VOCAB: 50_304}),
  "pythia_2.8b": (PYTHIA, 2560, 32, 32, 32, 80, 10_240, {VOCAB: 50_304}),
  "pythia_6.9b": (PYTHIA, 4096, 32, 32, 32, 128, 16_384, {VOCAB: 50_432}),
  "pythia_12b": (PYTHIA, 5120, 36, 40, 40, 128, 20_480, {VOCAB: 50_688}),
}


# Hub repository -> the name of its shape: a plan reads no weights.
PUBLISHED = {
  "meta-llama/Llama-2-7b-hf": "llama2_7b",
  "meta-llama/Llama-2-7b-chat-hf": "llama2_7b",
  "meta-llama/Llama-2-13b-hf": "llama2_13b",
  "meta-llama/Llama-2-70b-hf": "llama2_70b",
  "meta-llama/Llama-2-70b-chat-hf": "llama2_70b",
  "meta-llama/Llama-3.1-8B": "llama3.1_8b",
  "meta-llama/Llama-3.1-8B-Instruct": "llama3.1_8b",
  "meta-llama/Llama-3.1-70B": "llama3.1_70b",
  "meta-llama/Llama-3.1-70B-Instruct": "llama3.1_70b",
  "01-ai/Yi-34B-Chat": "yi_34b",
  "EleutherAI/pythia-6.9b": "pythia_6.9b",
}


def _shape(common, width, layers, heads, kv_heads, head_dim, mlp_width, rest):
  fields = {**common, **rest}
  every = {"gemma2": 2, "gemma3_text": 6}.get(fields.get("family"))
  if every:  # the first global layer ends the first period
    fields["global_layers"] = range(every - 1, layers, every)
    fields["embed_scale"] = math.sqrt(width)
  if fields.get("family") == "gpt_neox":
    fields["rotary_dim"] = head_dim // 4
  return DecoderConfig(
    width=width,
    layers=layers,
    heads=heads,
    kv_heads=kv_heads,
    head_dim=head_dim,
    mlp_width=mlp_width,
    **fields,
  )


def _mini(width):
  return DecoderConfig(
    vocab_size=64,
    width=width,
    layers=2,
    heads=4,
    kv_heads=4,
    head_dim=width // 4,
    mlp_width=3 * width,
    rope_theta=1e4,
    norm_eps=1e-5,
    tied=True,
  )


SIZES = {
  # Ours: odd enough (grouped heads, head_dim not width / heads) to catch
  # mix-ups, small enough to compile in a second.
  "tiny": DecoderConfig(
    vocab_size=96,
    width=32,
    layers=3,
    heads=4,
    kv_heads=2,
    head_dim=16,
    mlp_width=48,
    rope_theta=1e4,
    norm_eps=1e-5,
    tied=True,
  ),
  # Ours: the miniature experiments on token worlds; 300 train steps in seconds.
  "mini": _mini(32),
  # Widths of their studies of size.
  "mini_8": _mini(8),
  "mini_16": _mini(16),
  "mini_64": _mini(64),
  **{name: _shape(*row) for name, row in TABLE.items()},
}
