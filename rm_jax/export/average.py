"""The mean of several runs' weights: one model for the price of one.

Source: Rame et al. 2024 (WARM), arXiv:2401.12187: reward models fine-tuned from
the same pretrained weights, averaged in the space of weights.
"""

import dataclasses
import json

import jax
import numpy as np

from rm_jax.inference import RewardModel
from rm_jax.types import UserError


def load_average(places: list[str]) -> tuple[RewardModel, list]:
  """(model with the mean of the weights, the runs they come from).

  The mean is taken in float64, one run in memory at a time beside it.

  Raises:
    UserError: fewer than two, or two that have not the same base model,
      shape, head, tokenizer or reading; names both and what differs.
  """
  if len(places) < 2:
    raise UserError(
      f"--average={','.join(places)} names {len(places)} run, a mean needs two "
      "or more: separate them with ',', or use --model."
    )
  first, total, runs = None, None, []
  for place in places:
    model = RewardModel.load(place)
    if model.run is None:
      raise UserError(
        f"--average: {place} is no run of rm-jax train, so what it began with "
        "is unknown: average runs from the same base model."
      )
    runs.append(model.run)
    if first is None:
      first = model
      total = jax.tree.map(lambda x: np.asarray(x, np.float64), model.params)
      continue
    check_same(first, model, places[0], place)
    total = jax.tree.map(
      lambda t, x: t + np.asarray(x, np.float64), total, model.params
    )
  mean = jax.tree.map(lambda t: (t / len(places)).astype(np.float32), total)
  return dataclasses.replace(first, params=mean, run=None), runs


def check_same(first: RewardModel, other: RewardModel, a: str, b: str) -> None:
  """Raises UserError where the mean of two models would mean nothing."""

  def told(model):
    c = model.run.config
    base = c.init["from"]
    if base.startswith("random:"):
      base = f"{base} of seed {c.seed}"  # other seeds, other weights
    stored = json.loads((model.run.workdir / "run.json").read_text())
    fingerprint = stored["fingerprint"]
    return {
      "base model (config.init.from)": base,
      "shape": model.spec.decoder,
      "weights that do not train": stored["frozen_sha256"][:12],
      "trained part (config.train.trainable)": c.train.trainable,
      "head (config.model)": dataclasses.replace(model.spec.head, init=""),
      "heads of tasks": [name for name, _ in model.spec.tasks],
      "vocabulary": fingerprint["vocabulary"],
      "chat template": fingerprint["template"],
      "reading": fingerprint["policy"],
    }

  before, now = told(first), told(other)
  differ = [
    f"{key} {before[key]!r} and {now[key]!r}"
    for key in before
    if before[key] != now[key]
  ]
  if differ:
    raise UserError(
      f"--average: {a} and {b} do not belong together: {'; '.join(differ)}. "
      "Average runs that differ in seed, data order or learning rate only."
    )
