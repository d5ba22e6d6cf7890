"""A padded torch step, as TRL's RewardTrainer lays one out; a child process.

  PYTHON_OF_MAKE_PARITY -m bench.theirs    reads requests, one JSON a line

TRL 1.16 by default: float32 weights under bfloat16 autocast (`bf16=True`),
gradient checkpointing, one forward of AutoModelForSequenceClassification over
chosen and rejected on the batch axis, padded to the longest, transformers'
default attention (sdpa), fused AdamW without weight decay, the gradient clipped
to norm 1. Here as there, without the data loader and the logging around it.
"""

import contextlib
import json
import sys
import time

PAD = 0  # <|endoftext|>: in no completion, so the last token is found by it


def load(path: str, config: dict):
  """(model, optimizer) with these weights, float32."""
  import torch
  from safetensors.torch import load_file
  from transformers import LlamaConfig, LlamaForSequenceClassification

  llama = LlamaConfig(**config, num_labels=1, pad_token_id=PAD)
  model = LlamaForSequenceClassification(llama)
  missing, unexpected = model.load_state_dict(load_file(path), strict=False)
  assert not missing and not unexpected, (missing, unexpected)
  model.train()  # this model has no dropout
  optimizer = torch.optim.AdamW(
    model.parameters(), lr=1e-4, weight_decay=0.0, fused=True
  )
  return model, optimizer


def padded(rows: list[list[int]]) -> dict:
  """The batch of a collator that pads on the right to the longest."""
  import torch

  assert all(PAD not in row for row in rows)
  longest = max(map(len, rows))
  ids = torch.full((len(rows), longest), PAD)
  where = torch.zeros((len(rows), longest), dtype=torch.long)
  for i, row in enumerate(rows):
    ids[i, : len(row)] = torch.tensor(row)
    where[i, : len(row)] = 1
  return {"input_ids": ids, "attention_mask": where, "use_cache": False}


class Clock:
  """Seconds since the last look, of the clock and of all threads."""

  def __init__(self):
    self.spent = {}
    self.at = time.perf_counter(), time.process_time()

  def look(self, name: str) -> None:
    now = time.perf_counter(), time.process_time()
    wall, cpu = self.spent.get(name, (0.0, 0.0))
    self.spent[name] = (
      wall + now[0] - self.at[0],
      cpu + now[1] - self.at[1],
    )
    self.at = now


def gradient(model, request: dict, clock: Clock) -> float:
  """Leaves the gradient of the mean loss in the model; returns the loss."""
  import torch

  autocast = contextlib.nullcontext()
  if request["dtype"] == "bfloat16":
    autocast = torch.autocast("cpu", dtype=torch.bfloat16)
  if request["checkpointing"]:
    model.gradient_checkpointing_enable()
  else:
    model.gradient_checkpointing_disable()
  chosen, rejected = request["chosen"], request["rejected"]
  total, size = 0.0, request["pairs_at_once"]
  for at in range(0, len(chosen), size):
    part = slice(at, at + size)
    batch = padded(chosen[part] + rejected[part])
    with autocast:
      logits = model(**batch).logits.squeeze(-1)
      better, worse = torch.chunk(logits, 2)
      losses = -torch.nn.functional.logsigmoid(better - worse)
      loss = losses.sum() / len(chosen)
    clock.look("forward")
    loss.backward()
    clock.look("backward")
    total += float(loss)
  return total


def step(model, optimizer, request: dict) -> dict:
  """One train step; what each part took, {part: (wall, cpu)} seconds."""
  import torch

  clock = Clock()
  loss = gradient(model, request, clock)
  norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
  optimizer.step()
  optimizer.zero_grad()
  clock.look("optimizer")
  whole = [sum(spent[n] for spent in clock.spent.values()) for n in range(2)]
  return {
    "loss": loss,
    "grad_norm": float(norm),
    "spent": clock.spent | {"step": whole},
  }


def scores(model, rows: list[list[int]]) -> list[float]:
  """Scores in float32, without a gradient."""
  import torch

  with torch.no_grad():
    return model(**padded(rows)).logits.squeeze(-1).tolist()


def gradients(model, request: dict) -> dict[str, list]:
  """{tensor: (norm, first 64 numbers)} of the gradient."""
  loss = gradient(model, request, Clock())
  out = {
    name: (float(p.grad.norm()), p.grad.flatten()[:64].tolist())
    for name, p in model.named_parameters()
  }
  model.zero_grad()
  return {"loss": loss, "gradients": out}


def main() -> None:
  out = sys.stdout
  sys.stdout = sys.stderr  # what a library prints is no answer
  model = optimizer = None
  for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "load":
      import torch
      import transformers

      model, optimizer = load(request["path"], request["config"])
      answer = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "attention": model.config._attn_implementation,
      }
    elif request["do"] == "scores":
      answer = scores(model, request["rows"])
    elif request["do"] == "gradients":
      answer = gradients(model, request)
    else:
      answer = step(model, optimizer, request)
    print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
  main()
