"""InternLM2 in torch, on its own: transformers does not carry this family.

Written from the description of the model (Cai et al. 2024, arXiv:2403.17297,
section 2.2 and figure 2: one fused Wqkv in which each key head lies beside its
query heads), a loop over heads and tokens' masks, nothing shared with ours.
"""

import json
import math
import pathlib

import numpy as np


def draw(config: dict, seed: int) -> dict:
  """{published name: float16 array}; norms and biases away from 1 and 0."""
  rng = np.random.default_rng(seed)
  width, mlp = config["hidden_size"], config["intermediate_size"]
  size = width // config["num_attention_heads"]
  fused = (
    config["num_attention_heads"] + 2 * config["num_key_value_heads"]
  ) * (size)
  shapes = {"model.tok_embeddings.weight": (config["vocab_size"], width)}
  for n in range(config["num_hidden_layers"]):
    layer = f"model.layers.{n}."
    shapes |= {
      layer + "attention.wqkv.weight": (fused, width),
      layer + "attention.wqkv.bias": (fused,),
      layer + "attention.wo.weight": (width, width),
      layer + "attention.wo.bias": (width,),
      layer + "feed_forward.w1.weight": (mlp, width),
      layer + "feed_forward.w2.weight": (width, mlp),
      layer + "feed_forward.w3.weight": (mlp, width),
      layer + "attention_norm.weight": (width,),
      layer + "ffn_norm.weight": (width,),
    }
  shapes["model.norm.weight"] = (width,)
  shapes["score.weight"] = (1, width)
  tensors = {}
  for name, shape in shapes.items():
    noise = rng.normal(size=shape) * (1.0 if name == "score.weight" else 0.2)
    one = "norm" in name
    tensors[name] = (noise + one).astype(np.float16)
  return tensors


def save(folder: pathlib.Path, config: dict, *, seed: int) -> None:
  from safetensors.numpy import save_file

  tensors = draw(config, seed)
  save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
  (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def load(folder: pathlib.Path) -> tuple[dict, dict]:
  """(config, {name: float32 tensor that wants a gradient})."""
  from safetensors.torch import load_file

  config = json.loads((folder / "config.json").read_text())
  tensors = load_file(folder / "model.safetensors")
  return config, {k: v.float().requires_grad_() for k, v in tensors.items()}


def forward(config: dict, w: dict, tokens: list[int]):
  """Hidden states [L, D] of one unpadded row."""
  import torch

  heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
  size = config["hidden_size"] // heads
  each = heads // groups
  length = len(tokens)

  def norm(x, name):
    mean = x.pow(2).mean(-1, keepdim=True)
    return x / torch.sqrt(mean + config["rms_norm_eps"]) * w[name]

  rates = config["rope_theta"] ** -(torch.arange(0, size, 2) / size)
  angles = torch.arange(length)[:, None] * rates[None]
  turn = torch.polar(torch.ones_like(angles), angles)  # as complex numbers

  def rotate(x):  # [L, d]: dimension i goes with i + d / 2
    pairs = torch.complex(x[:, : size // 2], x[:, size // 2 :]) * turn
    return torch.cat([pairs.real, pairs.imag], dim=-1)

  future = torch.ones(length, length).triu(1).bool()
  x = w["model.tok_embeddings.weight"][torch.tensor(tokens)]
  for n in range(config["num_hidden_layers"]):
    at = f"model.layers.{n}."
    h = norm(x, at + "attention_norm.weight")
    fused = (
      h @ w[at + "attention.wqkv.weight"].T + w[at + "attention.wqkv.bias"]
    )
    mixed = []
    for group in range(groups):
      first = group * (each + 2) * size
      block = fused[:, first : first + (each + 2) * size]
      k = rotate(block[:, each * size : (each + 1) * size])
      v = block[:, (each + 1) * size :]
      for head in range(each):
        q = rotate(block[:, head * size : (head + 1) * size])
        logits = (q @ k.T / math.sqrt(size)).masked_fill(future, -math.inf)
        mixed.append(logits.softmax(-1) @ v)
    out = torch.cat(mixed, dim=-1) @ w[at + "attention.wo.weight"].T
    x = x + out + w[at + "attention.wo.bias"]
    h = norm(x, at + "ffn_norm.weight")
    gate = torch.nn.functional.silu(h @ w[at + "feed_forward.w1.weight"].T)
    up = h @ w[at + "feed_forward.w3.weight"].T
    x = x + (gate * up) @ w[at + "feed_forward.w2.weight"].T
  return norm(x, "model.norm.weight")


def run(folder: pathlib.Path, rows: list[list[int]], loaded=None):
  """(hidden states of each row, scores at their ends)."""
  import torch

  config, weights = loaded or load(folder)
  hidden = [forward(config, weights, row) for row in rows]
  return hidden, torch.stack(
    [h[-1] @ weights["score.weight"][0] for h in hidden]
  )
