"""One tiny trained run and one published model, made once per process."""

import functools
import pathlib

import numpy as np

from rm_jax.data.sources import read_records
from rm_jax.data.split import is_held_out
from rm_jax.train.loop import train
from tests import tiny_run
from tests.data.fixtures import make_tokenizer
from tests.models import fixtures


@functools.cache
def run(base: pathlib.Path, trainable: str) -> pathlib.Path:
  """The workdir of a run of two train steps; its data lie beside it.

  Ask with `tmp_path_factory.getbasetemp()`: the same folder, the same run.
  """
  folder = base / f"run_{trainable.replace(':', '_')}"
  folder.mkdir()
  data = tiny_run.write_rows(folder / "pairs.jsonl", tiny_run.pairs(24))
  tokenizer = tiny_run.write_tokenizer(folder / "tokenizer")
  config = tiny_run.config(
    data,
    tokenizer,
    num_train_steps=2,
    model__head_init="stiennon",  # scores of size 1: differences show
    train__trainable=trainable,
    data__blocks=8,  # the devices of tests/conftest.py
  )
  workdir = folder / "workdir"
  assert train(config, workdir, command="rm-jax train") == 0
  return workdir


def held_out(workdir: pathlib.Path) -> list:
  """The records the run was evaluated on, in its order."""
  records = list(read_records(workdir.parent / "pairs.jsonl"))
  share = tiny_run.TINY["data.eval_share"]
  return [
    r for r in records if is_held_out(r, share=share, seed=0, by="prompt")
  ]


@functools.cache
def published(base: pathlib.Path, labels: int) -> pathlib.Path:
  """A folder as `*ForSequenceClassification` saves it; 0 labels: no head."""
  tokenizer = make_tokenizer()
  folder = base / f"published_{labels}"
  tokenizer.save_pretrained(folder)
  kind = "SequenceClassification" if labels else "CausalLM"
  config = fixtures.CONFIG | {
    "architectures": [f"LlamaFor{kind}"],
    "vocab_size": len(tokenizer),
  }
  tensors = fixtures.draw_tensors(tied=False, labels=labels, seed=3)
  rng = np.random.default_rng(4)
  for name, tensor in tensors.items():
    if len(tensor) == fixtures.VOCAB:  # tables: as long as the vocabulary
      shape = (len(tokenizer), fixtures.WIDTH)
      tensors[name] = rng.normal(0, 0.2, shape).astype(np.float32)
  return fixtures.write_folder(
    folder, config, tensors, dtype="float32", shards=1
  )
