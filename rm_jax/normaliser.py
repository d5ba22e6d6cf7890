"""Mean and std of a model's scores on a stated distribution.

A pairwise loss leaves scores without an origin and without a unit. What RL
wants, mean 0 and std 1, is of a distribution: the policy's samples, not the
chosen and rejected sides of an evaluation set. So a normaliser carries the
name, the size and the digest of the file it was fitted on. It lies beside the
model and belongs to one set of weights and one way to read text.

Source: Ziegler et al. 2019, arXiv:1909.08593 (mean 0 and variance 1 on the
policy's samples); Stiennon et al. 2020, arXiv:2009.01325, and Ouyang et al.
2022, arXiv:2203.02155, shift the mean only, to reference texts.
"""

import dataclasses
import hashlib
import json
import pathlib
from typing import NamedTuple

import jax
import numpy as np

from rm_jax.data.tokenizers import check_fingerprint
from rm_jax.places import read_json
from rm_jax.types import UserError

FILE = "normaliser.json"
SCHEMA = 1


class Normaliser(NamedTuple):
  """What turns a score into a reward: (score - mean) / std."""

  mean: float
  std: float
  source: str = ""  # the file whose completions were scored
  sha256: str = ""  # of that file
  scores: int = 0  # completions the two numbers are of
  rows: int = 0
  rejected: int = 0  # rows that could not be scored


def fit(scores, **known) -> Normaliser:
  """The Normaliser of these scores; std is that of the population.

  Args:
    scores: [n] of completions.
    known: the other fields.

  Raises:
    UserError: fewer than two scores, or all the same.
  """
  scores = np.asarray(scores, np.float64).reshape(-1)
  # Not the std: that of equal scores is 1e-17 where their mean is rounded.
  if len(scores) < 2 or not np.ptp(scores) > 0:
    raise UserError(
      f"{known.get('source', 'scores')}: a normaliser needs scores that "
      f"differ, got {len(scores)} of std 0: score more completions."
    )
  return Normaliser(
    float(np.mean(scores)),
    float(np.std(scores)),
    scores=len(scores),
    **known,
  )


def weights_digest(spec, params) -> str:
  """sha256 of the parameters and of what the model computes with them."""
  head = dataclasses.replace(spec.head, init="")  # how it began is nothing now
  digest = hashlib.sha256(repr((spec.decoder, head)).encode())
  for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
    array = np.ascontiguousarray(leaf)
    name = f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}"
    digest.update(name.encode())
    digest.update(array.reshape(-1).view(np.uint8))
  return digest.hexdigest()


def store(
  folder: pathlib.Path, weights: str, fingerprint: dict, found: Normaliser
) -> pathlib.Path:
  """Writes a normaliser beside the model; those of other weights stay.

  Args:
    folder: of the model.
    weights: `weights_digest` of what was scored with.
    fingerprint: how text was read.
  """
  path = folder / FILE
  entries = _read(path) if path.exists() else {}
  entries[weights] = {"fingerprint": fingerprint, **found._asdict()}
  content = {"schema": SCHEMA, "normalisers": entries}
  try:
    beside = path.with_name(f"{FILE}.tmp")
    beside.write_text(json.dumps(content, indent=2) + "\n")
    beside.replace(path)
  except OSError as error:
    raise UserError(
      f"{path}: the normaliser is kept beside the model, which cannot be "
      f"written ({error.strerror}): copy the model to a folder of yours."
    ) from error
  return path


def find(folder: pathlib.Path, weights, fingerprint: dict) -> Normaliser | None:
  """The normaliser of these weights, None if there is none.

  Args:
    weights: () -> `weights_digest`, called where a file is there at all.
    fingerprint: how text is read now.

  Raises:
    UserError: it was fitted with another tokenizer, template or reading; shows
      the difference.
  """
  path = folder / FILE
  if not path.is_file():
    return None
  entry = _read(path).get(weights())
  if entry is None:
    return None
  entry = dict(entry)
  try:
    check_fingerprint(entry.pop("fingerprint"), fingerprint)
  except UserError as error:
    raise UserError(
      f"{path}: the normaliser of this model was fitted on other tokens: "
      f"{error}, or remove {FILE} and fit it again."
    ) from error
  return Normaliser(**entry)


def _read(path: pathlib.Path) -> dict:
  raw = read_json(path)
  entries = raw.get("normalisers")
  wanted = {"fingerprint", *Normaliser._fields}
  if (
    raw.get("schema") != SCHEMA
    or not isinstance(entries, dict)
    or any(set(entry) != wanted for entry in entries.values())
  ):
    raise UserError(
      f"{path}: expected schema {SCHEMA} and normalisers with the keys "
      f"{sorted(wanted)}, got schema {raw.get('schema')!r}: remove the file "
      "and fit the normaliser again."
    )
  return entries


def fold_gain(spec, params: dict, normaliser) -> tuple:
  """(spec, params, normaliser) whose scores have std 1; the mean is left.

  Every head is linear in what is divided here, so rewards stay what they were:
  (s / std - mean / std) / 1 = (s - mean) / std. Ratings and objectives of a
  head with several outputs stay as they are; their weighted sum is divided.

  Raises:
    UserError: a head of probabilities, which have a unit.
  """
  mean, std = (float(x) for x in normaliser[:2])
  head, own = spec.head, dict(params["head"])
  linear = {
    "scalar": ("kernel",),
    "biased_scalar": ("linear", "bias"),
    "two_layer": ("outer",),
    "gain_bias": ("gain", "bias"),
    "gated": ("scale",),
  }
  if head.kind in linear:
    for name in linear[head.kind]:
      own[name] = jax.tree.map(lambda x: x / np.float32(std), own[name])
  elif head.kind == "attributes" and head.weights:
    weights = tuple(w / std for w in head.weights)
    head = dataclasses.replace(head, weights=weights)
  elif head.kind == "bins":
    low, high, count = head.centers
    head = dataclasses.replace(head, centers=(low / std, high / std, count))
  elif head.kind == "implicit":
    head = dataclasses.replace(head, beta=head.beta / std)
  else:
    raise UserError(
      f"a head of kind {head.kind!r} gives probabilities or labels, which have "
      "a unit already: there is no gain to fold."
    )
  folded = Normaliser(*normaliser)._replace(mean=mean / std, std=1.0)
  return (
    dataclasses.replace(spec, head=head),
    {**params, "head": own},
    folded,
  )
