"""Exported folders read back: transformers' files and rm_jax.json beside them.

rm_jax.json holds what config.json cannot say: how text is read, which head it
was, a bias that the class has no place for, the fingerprint.
"""

import dataclasses
import json
import pathlib
from typing import NamedTuple

import numpy as np

from rm_jax.data.loader import Reading, policy
from rm_jax.data.tokenizers import (
  check_fingerprint,
  fingerprint,
  load_tokenizer,
)
from rm_jax.heads import HeadSpec
from rm_jax.models.convert import place_pretrained
from rm_jax.places import read_json
from rm_jax.reward_model import ModelSpec
from rm_jax.types import UserError

BESIDE = "rm_jax.json"
SCHEMA = 1


class Beside(NamedTuple):
  """The content of rm_jax.json."""

  schema: int
  reading: dict  # of Reading
  head: dict  # of HeadSpec
  attributes: list  # names of the outputs of an attribute head
  bias: list | None  # of the head, where the class of transformers has none
  vocab_size: int  # rows of our table; the file may have one for padding more
  fingerprint: dict


class Loaded(NamedTuple):
  """What a RewardModel is made of."""

  spec: ModelSpec
  params: dict
  tokenizer: object
  reading: Reading
  normaliser: None = None  # it lies beside, in normaliser.json


def is_exported(folder) -> bool:
  """Whether `rm-jax export` wrote a reward model there."""
  return (pathlib.Path(folder) / BESIDE).is_file()


def read_exported(folder: pathlib.Path, *, dtype: str) -> Loaded:
  """A reward model as `rm-jax export` wrote it, bit for bit where float32.

  Raises:
    UserError: another schema, tokenizer, template or head than was written.
  """
  path = folder / BESIDE
  raw = read_json(path)
  if raw.get("schema") != SCHEMA or set(raw) != set(Beside._fields):
    raise UserError(
      f"{path}: expected schema {SCHEMA} with keys {sorted(Beside._fields)}, "
      f"got schema {raw.get('schema')!r} with {sorted(raw)}: export the run "
      "again with this version."
    )
  beside = Beside(**raw)
  reading = Reading(**beside.reading)
  tokenizer = load_tokenizer(folder)
  ours = fingerprint(tokenizer, tokenizer.chat_template, policy(reading))
  try:
    check_fingerprint(beside.fingerprint, ours)
  except UserError as error:
    raise UserError(f"{folder}: {error}") from error
  head = HeadSpec(
    **{k: tuple(v) if type(v) is list else v for k, v in beside.head.items()}
  )
  found = place_pretrained(folder)
  decoder = dataclasses.replace(found.config, vocab_size=beside.vocab_size)
  backbone = dict(found.params)
  table = backbone["embed"]["embedding"][: beside.vocab_size]
  backbone["embed"] = {**backbone["embed"], "embedding": table}
  params = {
    "backbone": backbone,
    "head": head_params(head, *_linear(found, beside, path), path),
  }
  spec = ModelSpec(
    decoder=decoder,
    head=head,
    dtype=dtype,
    remat=False,
    segments=(decoder.layers,),
  )
  return Loaded(spec, params, tokenizer, reading)


def _linear(found, beside: Beside, where):
  """(weight [labels, D], bias [labels] or None) of the head in the folder."""
  if found.head is None:
    raise UserError(
      f"{where.parent}: expected the head that {where.name} describes, got "
      "weights without one: export the run again."
    )
  own = {
    name.rpartition(".")[2]: value for name, value in found.head.tensors.items()
  }
  bias = own.get("bias")
  if beside.bias is not None:
    bias = np.asarray(beside.bias, np.float32)
  return own["weight"], bias


def head_params(head: HeadSpec, weight, bias, where) -> dict:
  """Our parameters of a head from transformers' [labels, D] and [labels]."""
  labels = {"steps": 3, "attributes": head.outputs, "bins": head.outputs}
  if len(weight) != labels.get(head.kind, 1):
    raise UserError(
      f"{where}: head {head.kind!r} has {labels.get(head.kind, 1)} outputs, "
      f"score.weight has {len(weight)}: the files belong to different exports."
    )
  if head.kind == "scalar":
    return {"kernel": weight[0]}
  if head.kind == "biased_scalar":
    return {"linear": {"kernel": weight[0]}, "bias": bias}
  kernel = np.ascontiguousarray(weight.T)
  return (
    {"kernel": kernel}
    if head.kind == "steps"
    else {
      "kernel": kernel,
      "bias": bias,
    }
  )


def write_beside(folder: pathlib.Path, beside: Beside) -> None:
  """Writes rm_jax.json."""
  text = json.dumps(beside._asdict(), indent=2, sort_keys=True)
  (folder / BESIDE).write_text(text + "\n")
