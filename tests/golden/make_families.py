"""Writes tests/golden/families/NAME/ with torch and transformers.

    python -m tests.golden.make_families [NAME ...]

in the environment of make parity.

Each is a classifier as transformers saves it, with tiny weights, and
expected.json: hidden states and scores of ragged rows. InternLM2, which
transformers does not know, comes from tests/parity/internlm2.py.

Regenerate one when its case is added or changed on purpose, never because our
numbers moved: these are not our numbers.
"""

import json
import pathlib
import sys

import numpy as np

FOLDER = pathlib.Path(__file__).with_name("families")

# head_dim is not width / heads where a family allows it, kv_heads not heads:
# mix-ups then change shapes. Windows are shorter than the rows.
SIZES = {
  "vocab_size": 96,
  "hidden_size": 32,
  "intermediate_size": 40,
  "num_hidden_layers": 3,
  "num_attention_heads": 4,
  "max_position_embeddings": 128,
  "initializer_range": 0.2,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
WIDE = {**GROUPED, "head_dim": 12}
BASE = {"rope_type": "default", "rope_theta": 300.0}
KINDS = ["sliding_attention", "full_attention", "sliding_attention"]

# name -> (model_type, config); what makes it differ from Llama bites.
CASES = {
  "llama": ("llama", {**WIDE, "rope_parameters": BASE}),
  "llama3": (
    "llama",
    {
      **WIDE,
      "attention_bias": True,
      "mlp_bias": True,
      "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 300.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        # Of six wavelengths from 6 to 600 some lie on each side and between.
        "original_max_position_embeddings": 64,
      },
    },
  ),
  "mistral": (
    "mistral",
    {**WIDE, "rope_parameters": BASE, "sliding_window": 5},
  ),
  "qwen2": (
    "qwen2",
    {
      **GROUPED,
      "rope_parameters": BASE,
      "use_sliding_window": True,
      "sliding_window": 5,
      "max_window_layers": 1,
    },
  ),
  "qwen3": ("qwen3", {**WIDE, "rope_parameters": BASE}),
  "gemma": ("gemma", {**WIDE, "rope_parameters": BASE}),
  "gemma2": (
    "gemma2",
    {
      **WIDE,
      "rope_parameters": BASE,
      "query_pre_attn_scalar": 20,
      "sliding_window": 5,
      "attn_logit_softcapping": 2.0,
      "final_logit_softcapping": 3.0,
    },
  ),
  "gemma3": (
    "gemma3_text",
    {
      **WIDE,
      "query_pre_attn_scalar": 20,
      "sliding_window": 5,
      "layer_types": KINDS,
      "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        "full_attention": {
          "rope_type": "linear",
          "factor": 4.0,
          "rope_theta": 3000.0,
        },
      },
    },
  ),
  "phi3": (
    "phi3",
    {
      **GROUPED,
      "sliding_window": 6,
      "rope_parameters": {**BASE, "partial_rotary_factor": 0.5},
    },
  ),
  "phi3_longrope": (
    "phi3",
    {
      **GROUPED,
      "original_max_position_embeddings": 32,
      "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 300.0,
        "short_factor": [1.0, 1.3, 1.9, 2.5],
        "long_factor": [4.0, 5.0, 6.0, 7.0],
      },
    },
  ),
  "olmo2": ("olmo2", {**GROUPED, "rope_parameters": BASE}),
  "gpt2": (
    "gpt2",
    {
      "vocab_size": 96,
      "n_embd": 32,
      "n_inner": 40,
      "n_layer": 3,
      "n_head": 4,
      "n_positions": 32,
      "initializer_range": 0.2,
    },
  ),
  "opt": (
    "opt",
    {
      "vocab_size": 96,
      "hidden_size": 32,
      "word_embed_proj_dim": 32,
      "ffn_dim": 40,
      "num_hidden_layers": 3,
      "num_attention_heads": 4,
      "max_position_embeddings": 32,
      "init_std": 0.2,
    },
  ),
  "pythia": (
    "gpt_neox",
    {
      **SIZES,
      "rope_parameters": {**BASE, "partial_rotary_factor": 0.5},
    },
  ),
  "internlm2": (
    "internlm2",
    {
      **GROUPED,
      "architectures": ["InternLM2ForSequenceClassification"],
      "model_type": "internlm2",
      "bias": True,
      "hidden_act": "silu",
      "rms_norm_eps": 1e-5,
      "rope_theta": 300.0,
      "rope_scaling": {"type": "dynamic", "factor": 2.0},
      "tie_word_embeddings": False,
    },
  ),
}

# No padding id inside: the classifier of transformers pools by token id. One
# row of a single token, two longer than every window.
LENGTHS = (14, 9, 1, 12)
PAD = 0


def rows() -> list[list[int]]:
  rng = np.random.default_rng(29)
  return [rng.integers(1, 96, n).tolist() for n in LENGTHS]


def perturb(name: str, shape: tuple, rng) -> np.ndarray | None:
  """Noise for what is drawn as ones or zeros; it would hide what skips it."""
  return rng.random(shape) - 0.5 if len(shape) == 1 else None


def make_torch(name: str, folder: pathlib.Path) -> None:
  """Draws and saves the classifier of one case; float16 holds it exactly."""
  import torch
  import transformers

  model_type, sizes = CASES[name]
  config = transformers.AutoConfig.for_model(
    model_type,
    **sizes,
    num_labels=1,
    pad_token_id=PAD,
    bos_token_id=1,
    eos_token_id=2,
  )
  torch.manual_seed(7)
  model = transformers.AutoModelForSequenceClassification.from_config(config)
  rng = np.random.default_rng(11)
  with torch.no_grad():
    for key, value in model.named_parameters():
      noise = perturb(key, tuple(value.shape), rng)
      if noise is not None:
        value += torch.tensor(noise, dtype=value.dtype)
    model.score.weight.normal_()  # of size 1: scores that differ
  model.half().save_pretrained(folder)


def load_torch(folder: pathlib.Path):
  """The classifier of a folder in torch, float32, without dropout."""
  import torch
  import transformers

  return transformers.AutoModelForSequenceClassification.from_pretrained(
    folder, dtype=torch.float32, attn_implementation="eager"
  ).eval()


def run_torch(model, tokens: list[list[int]], *, side: str = "right"):
  """(hidden states of each row, scores): one padded batch, grad on."""
  import torch

  width = max(map(len, tokens))
  fill = [[PAD] * (width - len(t)) for t in tokens]
  pairs = list(zip(tokens, fill, strict=True))
  ids = [t + f if side == "right" else f + t for t, f in pairs]
  real = [[int(x != PAD) for x in row] for row in ids]
  mask = torch.tensor(real)
  # Else GPT-2 counts the padding on the left.
  positions = (mask.cumsum(1) - 1).clamp(min=0)
  how = dict(
    input_ids=torch.tensor(ids), attention_mask=mask, position_ids=positions
  )
  backbone = getattr(model, model.base_model_prefix)
  hidden = backbone(**how).last_hidden_state
  by_row = [hidden[i][mask[i].bool()] for i in range(len(tokens))]
  return by_row, model(**how).logits[:, 0]


def make(name: str) -> None:
  folder = FOLDER / name
  folder.mkdir(parents=True, exist_ok=True)
  if name == "internlm2":
    from tests.parity import internlm2

    config = {**CASES[name][1], "id2label": {"0": "LABEL_0"}}
    internlm2.save(folder, config, seed=7)
    hidden, scores = internlm2.run(folder, rows())
  else:
    make_torch(name, folder)
    hidden, scores = run_torch(load_torch(folder), rows())
  expected = {
    "tokens": rows(),
    "hidden": [h.detach().double().numpy().round(7).tolist() for h in hidden],
    "scores": scores.detach().double().numpy().round(7).tolist(),
  }
  text = json.dumps(expected, separators=(",", ":"))
  (folder / "expected.json").write_text(text + "\n")


if __name__ == "__main__":
  for case in sys.argv[1:] or CASES:
    make(case)
