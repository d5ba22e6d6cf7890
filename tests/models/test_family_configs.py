"""config.json of every family: published spellings, old and new.

transformers itself (its configuration classes need no torch) says what a key
that is left out means, and turns an old file into a new one.
"""

import copy
import dataclasses

import pytest

from rm_jax.models.families import DEFAULTS, read_config
from rm_jax.models.sizes import SIZES
from rm_jax.types import UserError

# As published with the weights, but for keys that compute nothing.
LLAMA31 = {
  "model_type": "llama",
  "attention_bias": False,
  "hidden_act": "silu",
  "hidden_size": 4096,
  "intermediate_size": 14336,
  "max_position_embeddings": 131072,
  "mlp_bias": False,
  "num_attention_heads": 32,
  "num_hidden_layers": 32,
  "num_key_value_heads": 8,
  "pretraining_tp": 1,
  "rms_norm_eps": 1e-05,
  "rope_scaling": {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
  },
  "rope_theta": 500000.0,
  "tie_word_embeddings": False,
  "torch_dtype": "bfloat16",
  "vocab_size": 128256,
}
MISTRAL = {
  "model_type": "mistral",
  "hidden_act": "silu",
  "hidden_size": 4096,
  "intermediate_size": 14336,
  "max_position_embeddings": 32768,
  "num_attention_heads": 32,
  "num_hidden_layers": 32,
  "num_key_value_heads": 8,
  "rms_norm_eps": 1e-05,
  "rope_theta": 10000.0,
  "sliding_window": 4096,
  "tie_word_embeddings": False,
  "vocab_size": 32000,
}
QWEN25 = {
  "model_type": "qwen2",
  "hidden_act": "silu",
  "hidden_size": 896,
  "intermediate_size": 4864,
  "max_position_embeddings": 32768,
  "max_window_layers": 24,
  "num_attention_heads": 14,
  "num_hidden_layers": 24,
  "num_key_value_heads": 2,
  "rms_norm_eps": 1e-06,
  "rope_theta": 1000000.0,
  "sliding_window": 32768,
  "tie_word_embeddings": True,
  "use_mrope": False,
  "use_sliding_window": False,
  "vocab_size": 151936,
}
QWEN3 = {
  "model_type": "qwen3",
  "attention_bias": False,
  "head_dim": 128,
  "hidden_act": "silu",
  "hidden_size": 1024,
  "intermediate_size": 3072,
  "max_position_embeddings": 40960,
  "max_window_layers": 28,
  "num_attention_heads": 16,
  "num_hidden_layers": 28,
  "num_key_value_heads": 8,
  "rms_norm_eps": 1e-06,
  "rope_scaling": None,
  "rope_theta": 1000000,
  "sliding_window": None,
  "tie_word_embeddings": True,
  "use_sliding_window": False,
  "vocab_size": 151936,
}
GEMMA2 = {
  "model_type": "gemma2",
  "attention_bias": False,
  "attn_logit_softcapping": 50.0,
  "final_logit_softcapping": 30.0,
  "head_dim": 128,
  "hidden_act": "gelu_pytorch_tanh",
  "hidden_activation": "gelu_pytorch_tanh",
  "hidden_size": 4608,
  "intermediate_size": 36864,
  "max_position_embeddings": 8192,
  "num_attention_heads": 32,
  "num_hidden_layers": 46,
  "num_key_value_heads": 16,
  "query_pre_attn_scalar": 144,
  "rms_norm_eps": 1e-06,
  "rope_theta": 10000.0,
  "sliding_window": 4096,
  "vocab_size": 256000,
}
GEMMA3_1B = {
  "model_type": "gemma3_text",
  "attn_logit_softcapping": None,
  "final_logit_softcapping": None,
  "head_dim": 256,
  "hidden_activation": "gelu_pytorch_tanh",
  "hidden_size": 1152,
  "intermediate_size": 6912,
  "num_attention_heads": 4,
  "num_hidden_layers": 26,
  "num_key_value_heads": 1,
  "query_pre_attn_scalar": 256,
  "rms_norm_eps": 1e-06,
  "rope_local_base_freq": 10000,
  "rope_scaling": None,
  "rope_theta": 1000000,
  "sliding_window": 512,
  "sliding_window_pattern": 6,
  "vocab_size": 262144,
}
# The half that computes text, of the 4b that also sees: almost empty.
GEMMA3_4B = {
  "model_type": "gemma3_text",
  "hidden_size": 2560,
  "intermediate_size": 10240,
  "num_hidden_layers": 34,
  "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
  "sliding_window": 1024,
}
PHI3 = {
  "model_type": "phi3",
  "attention_bias": False,
  "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
  "hidden_act": "silu",
  "hidden_size": 64,
  "intermediate_size": 128,
  "max_position_embeddings": 131072,
  "num_attention_heads": 4,
  "num_hidden_layers": 2,
  "num_key_value_heads": 4,
  "original_max_position_embeddings": 4096,
  "rms_norm_eps": 1e-05,
  "rope_scaling": {
    "long_factor": [1.5, 2.0, 30.0, 60.0, 64.0, 65.0, 66.0, 67.0],
    "short_factor": [1.0, 1.1, 1.2, 1.5, 2.0, 2.5, 2.6, 2.8],
    "type": "longrope",
  },
  "rope_theta": 10000.0,
  "sliding_window": 262144,
  "tie_word_embeddings": False,
  "vocab_size": 32064,
}
OLMO2 = {
  "model_type": "olmo2",
  "attention_bias": False,
  "hidden_act": "silu",
  "hidden_size": 4096,
  "intermediate_size": 11008,
  "max_position_embeddings": 4096,
  "num_attention_heads": 32,
  "num_hidden_layers": 32,
  "num_key_value_heads": 32,
  "rms_norm_eps": 1e-06,
  "rope_scaling": None,
  "rope_theta": 500000,
  "tie_word_embeddings": False,
  "vocab_size": 100352,
}
PYTHIA = {
  "model_type": "gpt_neox",
  "hidden_act": "gelu",
  "hidden_size": 512,
  "intermediate_size": 2048,
  "layer_norm_eps": 1e-05,
  "max_position_embeddings": 2048,
  "num_attention_heads": 8,
  "num_hidden_layers": 6,
  "rotary_emb_base": 10000,
  "rotary_pct": 0.25,
  "tie_word_embeddings": False,
  "use_parallel_residual": True,
  "vocab_size": 50304,
}
GPT2 = {
  "model_type": "gpt2",
  "activation_function": "gelu_new",
  "attn_pdrop": 0.1,
  "layer_norm_epsilon": 1e-05,
  "n_ctx": 1024,
  "n_embd": 768,
  "n_head": 12,
  "n_layer": 12,
  "n_positions": 1024,
  "vocab_size": 50257,
}
OPT = {
  "model_type": "opt",
  "activation_function": "relu",
  "do_layer_norm_before": True,
  "_remove_final_layer_norm": False,
  "ffn_dim": 3072,
  "hidden_size": 768,
  "max_position_embeddings": 2048,
  "num_attention_heads": 12,
  "num_hidden_layers": 12,
  "vocab_size": 50272,
  "word_embed_proj_dim": 768,
}
GEMMA = {
  "model_type": "gemma",
  "head_dim": 256,
  "hidden_act": "gelu",
  "hidden_activation": None,
  "hidden_size": 2048,
  "intermediate_size": 16384,
  "num_attention_heads": 8,
  "num_hidden_layers": 18,
  "num_key_value_heads": 1,
  "rms_norm_eps": 1e-06,
  "rope_theta": 10000.0,
  "vocab_size": 256000,
}
PUBLISHED = {
  "llama3.1_8b": LLAMA31,
  "mistral_7b": MISTRAL,
  "qwen2.5_0.5b": QWEN25,
  "qwen3_0.6b": QWEN3,
  "gemma2_27b": GEMMA2,
  "gemma3_1b": GEMMA3_1B,
  "gemma3_4b": GEMMA3_4B,
  "pythia_70m": PYTHIA,
}
OTHERS = {
  "gemma": GEMMA,
  "phi3": PHI3,
  "olmo2": OLMO2,
  "gpt2": GPT2,
  "opt": OPT,
}


def read(raw, **changed):
  return read_config({**raw, **changed}, where="config.json")


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_a_named_shape_is_what_its_config_says(name):
  # Catches a shape with a wrong base, epsilon, window or cap, which no count
  # of parameters shows.
  assert read(PUBLISHED[name]) == SIZES[name]


@pytest.mark.parametrize("name", [*PUBLISHED, *OTHERS])
def test_new_spelling_says_the_same(name):
  # Through transformers: reads the old file, fills it in, writes a new one.
  import transformers

  raw = {**PUBLISHED, **OTHERS}[name]
  raw = copy.deepcopy(raw)  # transformers writes into what it is given
  rest = {k: v for k, v in raw.items() if k not in ("model_type", "auto_map")}
  new = transformers.AutoConfig.for_model(raw["model_type"], **rest).to_dict()
  assert "rope_scaling" not in new and "rope_theta" not in new
  assert read(new) == read(raw)


@pytest.mark.parametrize("family", sorted(set(DEFAULTS) - {"internlm2"}))
def test_defaults_are_those_of_transformers(family):
  import transformers

  config = transformers.AutoConfig.for_model(family)
  got = {key: getattr(config, key, None) for key in DEFAULTS[family]}
  # A key of old files only; the new one has it among the rotary parameters.
  if family == "gpt_neox":
    got["rotary_pct"] = config.rope_parameters["partial_rotary_factor"]
  assert got == DEFAULTS[family]


def test_a_model_that_also_sees_is_read_as_its_text_half():
  whole = {"model_type": "gemma3", "text_config": GEMMA3_4B}
  assert read(whole) == read(GEMMA3_4B)


def test_windows_of_some_layers():
  config = read(
    QWEN25, use_sliding_window=True, sliding_window=7, max_window_layers=21
  )
  assert config.window == 7 and config.global_layers == tuple(range(21))
  assert config.kind(20).window == 0 and config.kind(21).window == 7
  # No layer slides: the window is nobody's, and one kind of layer is compiled.
  assert read(QWEN25, use_sliding_window=True).window == 0
  listed = ["full_attention"] + ["sliding_attention"] * 33
  assert read(GEMMA3_4B, layer_types=listed).global_layers == (0,)


def test_kinds_of_layers():
  local, wide = (SIZES["gemma3_4b"].kind(layer) for layer in (4, 5))
  assert local == (1024, 1e4, ()) and wide == (0, 1e6, ("linear", 8.0))
  # Gemma 2 turns all layers alike.
  assert SIZES["gemma2_2b"].kind(1) == (0, 1e4, ())


def test_dynamic_scaling_is_none_up_to_its_length():
  raw = {
    **LLAMA31,
    "model_type": "internlm2",
    "bias": False,
    "max_position_embeddings": 32768,
    "rope_scaling": {"type": "dynamic", "factor": 2.0},
  }
  config = read(raw)
  assert config.rope_scaling == () and config.max_positions == 32768


def test_from_run_json_and_back():
  # JSON has lists where we have tuples; jit keys on the config, so it must
  # hash. Catches a decoder that no longer equals the one it was saved from.
  for config in SIZES.values():
    fields = {
      k: list(v) if isinstance(v, tuple) else v
      for k, v in dataclasses.asdict(config).items()
    }
    back = type(config)(**fields)
    assert back == config and hash(back) == hash(config)


@pytest.mark.parametrize(
  "raw, changed, message",
  [
    (
      {},
      {"model_type": "deepseek", "auto_map": {"AutoModel": "modeling.Model"}},
      r"got 'deepseek' \(its auto_map asks to run Python .* never\)",
    ),
    (GEMMA2, {"use_bidirectional_attention": True}, "bidirectional.* got True"),
    (GPT2, {"scale_attn_by_inverse_layer_idx": True}, "inverse_.* got True"),
    (GPT2, {"add_cross_attention": True}, "add_cross_attention: .* got True"),
    (OPT, {"do_layer_norm_before": False}, "do_layer_norm_before: .* False"),
    (OPT, {"word_embed_proj_dim": 512}, r"proj_dim: .*\[768\], got 512"),
    (QWEN25, {"rope_scaling": {"type": "yarn"}}, "rope_type: .* got 'yarn'"),
    (PHI3, {"original_max_position_embeddings": None}, "which longrope needs"),
    (
      GEMMA3_4B,
      {"layer_types": ["chunked_attention"] * 34},
      "layer_types: .* got 'chunked_attention'",
    ),
  ],
)
def test_refuses_what_it_would_compute_differently(raw, changed, message):
  with pytest.raises(UserError, match=message) as error:
    read(raw, **changed)
  assert "\n" not in str(error.value)
