"""What a config.json may leave out, by family, as transformers has it."""

# Gemma 3 has everything here: its published files say almost nothing.
DEFAULTS = {
  "llama": {"rms_norm_eps": 1e-6},
  "mistral": {
    "num_key_value_heads": 8,
    "sliding_window": 4096,
    "rms_norm_eps": 1e-6,
  },
  "qwen2": {"num_key_value_heads": 32, "rms_norm_eps": 1e-6},
  "qwen3": {
    "num_key_value_heads": 32,
    "head_dim": 128,
    "rms_norm_eps": 1e-6,
  },
  "gemma": {
    "num_key_value_heads": 16,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "hidden_act": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
  },
  "gemma2": {
    "num_key_value_heads": 4,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
  },
  "gemma3_text": {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
  },
  "phi3": {"rms_norm_eps": 1e-5},
  "olmo2": {"rms_norm_eps": 1e-5},
  "internlm2": {"rms_norm_eps": 1e-6, "bias": True},
  "gpt2": {
    "n_positions": 1024,
    "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu_new",
    "tie_word_embeddings": True,
  },
  "opt": {
    "max_position_embeddings": 2048,
    "activation_function": "relu",
    "tie_word_embeddings": True,
  },
  "gpt_neox": {
    "layer_norm_eps": 1e-5,
    "hidden_act": "gelu",
    "rotary_pct": 0.25,
  },
}
