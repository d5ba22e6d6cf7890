"""Writes tests/golden/smollm2_logits.json with torch and transformers.

    python -m tests.golden.make_smollm2_logits    (environment of make parity)

transformers reads the GGUF file with its own code, tokenizer included, and
torch runs the model in float32: an implementation that shares nothing with
ours. Regenerate when a text below changes or another release of the weights
is embedded, never because our numbers moved.
"""

import json
import math
import pathlib

import numpy as np

from rm_jax.places import locate

OUT = pathlib.Path(__file__).with_name("smollm2_logits.json")

CHAT = [
  {"role": "user", "content": "Which of the two is heavier, lead or cork?"},
  {"role": "assistant", "content": "Lead, volume for volume."},
  {"role": "user", "content": "And a kilogram of each?"},
]
TEXTS = {
  "plain": "The ferry to the island leaves at noon, and the last one returns",
  "digits_unicode": " 3 cafés sold 1,250 crêpes in 2019 — 東京 sold 4096 🙂",
}
LONG = (
  "The lighthouse at the end of the harbour wall was built from grey stone "
  "that the fishermen carried across the bay in small boats. For the first "
  "ten years it burned whale oil, and a keeper climbed the narrow stairs "
  "every evening to trim the wick and polish the glass. When the winter "
  "storms came, he would sleep beside the lamp, because a single dark hour "
  "could cost a ship. Later the town paid for an electric light, and the "
  "keeper's daughter learned to repair the motor that turned the lens. She "
  "wrote down the weather twice a day in a blue notebook, the direction of "
  "the wind, the height of the waves, and the names of the boats that had "
  "not yet come home. Her notebooks are now in the museum, and scientists "
  "use them to find out how the climate of the coast has changed."
)


def load_torch():
  """(model, tokenizer) as transformers reads them from the GGUF file."""
  import torch
  from transformers import AutoModelForCausalLM, AutoTokenizer

  path = locate("smollm2")
  where = {"gguf_file": path.name}
  tokenizer = AutoTokenizer.from_pretrained(path.parent, **where)
  model = AutoModelForCausalLM.from_pretrained(
    path.parent, **where, dtype=torch.float32, attn_implementation="eager"
  )
  return model.eval(), tokenizer


def run(model, tokens: list) -> tuple[np.ndarray, np.ndarray]:
  """Logits [L, V] and final hidden states [L, D], float64."""
  import torch

  with torch.no_grad():
    out = model(torch.tensor([tokens]), output_hidden_states=True)
  return out.logits[0].double().numpy(), out.hidden_states[-1][
    0
  ].double().numpy()


def log_sum_exp(logits: np.ndarray) -> np.ndarray:
  top = logits.max(-1, keepdims=True)
  return (top + np.log(np.exp(logits - top).sum(-1, keepdims=True)))[..., 0]


def perplexity(logits: np.ndarray, tokens: list) -> float:
  """exp of the mean of -log p(token | tokens before it), first token free."""
  picked = logits[np.arange(len(tokens) - 1), tokens[1:]]
  return math.exp(np.mean(log_sum_exp(logits[:-1]) - picked))


def make(model, tokenizer) -> dict:
  texts = {
    "chat": tokenizer.apply_chat_template(
      CHAT, tokenize=False, add_generation_prompt=True
    ),
    **TEXTS,
  }
  rows = {}
  for name, text in texts.items():
    tokens = tokenizer(text)["input_ids"]
    logits, hidden = run(model, tokens)
    positions = [0, len(tokens) // 2, len(tokens) - 1]
    top = np.argsort(-logits[positions], axis=-1)[:, :5]
    rows[name] = {
      "text": text,
      "tokens": tokens,
      "positions": positions,
      "top_ids": top.tolist(),
      "top_logits": _round(np.take_along_axis(logits[positions], top, -1)),
      "log_sum_exp": _round(log_sum_exp(logits[positions])),
      "hidden": _round(hidden[positions, :8]),
      "hidden_rms": _round(np.sqrt((hidden[positions] ** 2).mean(-1))),
    }
  tokens = tokenizer(LONG)["input_ids"]
  value = perplexity(run(model, tokens)[0], tokens)
  return {
    "texts": rows,
    "perplexity": {"text": LONG, "tokens": tokens, "value": round(value, 6)},
  }


def _round(values: np.ndarray) -> list:
  return np.round(values, 6).tolist()


if __name__ == "__main__":
  golden = make(*load_torch())
  OUT.write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")
