"""Writes tests/golden/tiny_llama_logits.json with torch and transformers.

    python -m tests.golden.make_tiny_llama_logits   (environment of make parity)

Regenerate when a case of tests/models/fixtures.py is added or changed on
purpose, never because our numbers moved: these are not our numbers.
"""

import json
import pathlib
import tempfile

import numpy as np

from tests.models import fixtures

OUT = pathlib.Path(__file__).with_name("tiny_llama_logits.json")


def torch_outputs(folder: pathlib.Path, *, classifier: bool) -> dict:
  """{"logits": of every position, or of the sequence for a classifier}."""
  import torch
  import transformers

  auto = (
    transformers.AutoModelForSequenceClassification
    if classifier
    else transformers.AutoModelForCausalLM
  )
  model = auto.from_pretrained(
    folder, dtype=torch.float32, attn_implementation="eager"
  ).eval()
  with torch.no_grad():
    logits = model(torch.tensor(fixtures.TOKENS)).logits
  return {"logits": np.round(logits.double().numpy(), 6).tolist()}


def make() -> dict:
  cases = {}
  with tempfile.TemporaryDirectory() as scratch:
    for case in fixtures.CASES:
      folder = fixtures.write_case(pathlib.Path(scratch) / case, case)
      classifier = fixtures.CASES[case]["labels"] > 0
      cases[case] = torch_outputs(folder, classifier=classifier)
  return cases


if __name__ == "__main__":
  OUT.write_text(json.dumps(make(), separators=(",", ":")) + "\n")
