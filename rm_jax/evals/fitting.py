"""A normaliser from the scores that `rm-jax score` wrote."""

import json
import pathlib

from rm_jax.inference import RewardModel
from rm_jax.normaliser import fit, store, weights_digest
from rm_jax.places import scheme
from rm_jax.types import UserError

# Keys of a scored row that hold scores of whole completions.
SCORES = ("score", "scores", "chosen_score", "rejected_score")


def check_writable(model) -> None:
  """Raises UserError where a normaliser cannot be kept beside the model."""
  if scheme(model):
    raise UserError(
      f"--model={model}: --fit_normaliser writes beside the model: copy it to "
      "this machine first."
    )
  if not pathlib.Path(model).is_dir():
    raise UserError(
      f"--model={model}: --fit_normaliser writes into the model's folder, got "
      "no such folder: give one."
    )


def fit_on_output(
  model: RewardModel,
  place,
  file: pathlib.Path,
  output: pathlib.Path,
  **known,
) -> str:
  """Fits the normaliser, keeps it beside the model; one line about it.

  Args:
    place: what the model was loaded from.
    file: the input, whose name is kept.
    output: its rows with their scores.
    known: sha256 of the input, rows, rejected.

  Raises:
    UserError: reasoning steps, scores that do not differ.
  """
  scores = []
  with output.open() as lines:
    for line in lines:
      row = json.loads(line)
      if "step_scores" in row:
        raise UserError(
          f"{file}: a normaliser is of the scores of whole completions, this "
          "file has reasoning steps: leave --fit_normaliser out."
        )
      for key in SCORES:
        scores += _flat(row.get(key))
  found = fit(scores, source=str(file), **known)
  folder = model.run.workdir if model.run else pathlib.Path(place)
  weights = weights_digest(model.spec, model.params)
  path = store(folder, weights, model.fingerprint(), found)
  return (
    f"normaliser: mean {found.mean:.4f}, std {found.std:.4f} of {found.scores} "
    f"scores of {file.name} (sha256 {found.sha256[:12]}), kept in {path}"
  )


def _flat(value) -> list:
  """The numbers of a score, of a list of them or of lists; without nulls."""
  if isinstance(value, list):
    return [number for part in value for number in _flat(part)]
  return [] if value is None else [value]
