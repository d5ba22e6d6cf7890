"""Sections of a comparison that show its arms beside each other."""

import html
import pathlib

import numpy as np

from rm_jax.evals import breakdown
from rm_jax.evals.arms import Arm
from rm_jax.evals.gold_plots import arms_best_of_n
from rm_jax.evals.page import Section, datum, table
from rm_jax.evals.score_plots import interval_dots


def arm_pictures(arms: dict[str, Arm], folder: pathlib.Path) -> list[Section]:
  """What can be drawn of these arms; what their runs lack is left out."""
  made = (
    accuracies(arms, folder),
    strengths(arms, folder),
    temperatures(arms),
    best_of_n(arms, folder),
  )
  return [section for section in made if section is not None]


def accuracies(arms: dict[str, Arm], folder: pathlib.Path) -> Section | None:
  known = {
    name: arm.results["metrics"]
    for name, arm in arms.items()
    if "accuracy" in arm.results["metrics"]
  }
  if not known:
    return None
  rows = [(name, m["accuracy"]) for name, m in known.items()]
  first = next(iter(known.values()))
  rows.append(("length only", first["length_only_accuracy"]))
  if "gold_agreement" in first:
    rows.append(("gold itself", first["gold_agreement"]))
  keys = ("value", "low", "high", "n")
  interval_dots(
    [(name, *(entry[key] for key in keys)) for name, entry in rows],
    folder / "arms_accuracy.png",
    title="Accuracy, 95 % intervals over prompts",
    label="accuracy (share of comparisons)",
    reference=("chance", 0.5),
  )
  said = "; ".join(f"{name} {entry['value']:.3f}" for name, entry in rows)
  return Section(
    "Accuracy of the arms",
    ("Gold itself is how often the labels agree with the known reward.",)
    if "gold_agreement" in first
    else (),
    (("arms_accuracy.png", f"Accuracy with interval: {said}"),),
  )


def strengths(arms: dict[str, Arm], folder: pathlib.Path) -> Section | None:
  found = {name: breakdown.by_strength(*a.scores) for name, a in arms.items()}
  names = list(dict.fromkeys(row[0] for rows in found.values() for row in rows))
  rows = [
    (f"{strength}, {arm}", *row[1:])
    for strength in names
    for arm, of in found.items()
    for row in of
    if row[0] == strength
  ]
  if not rows:
    return None
  interval_dots(
    rows,
    folder / "arms_by_strength.png",
    title="Accuracy by strength, 95 % intervals over prompts",
    label="accuracy (share of comparisons)",
    reference=("chance", 0.5),
  )
  said = "; ".join(f"{row[0]} {row[1]:.3f} of {row[4]:,}" for row in rows)
  return Section(
    "Accuracy of the arms by strength",
    (),
    (("arms_by_strength.png", f"Accuracy by strength: {said}"),),
  )


def temperatures(arms: dict[str, Arm]) -> Section | None:
  """Calibration before and after one temperature, the mean over seeds."""
  rows = []
  for name, arm in arms.items():
    found = [breakdown.tempered(scores) for scores in arm.scores]
    if any(f is None for f in found):
      continue
    numbers = {
      "temperature": [f.temperature for f in found],
      "error before": [f.error_before for f in found],
      "error after": [f.error_after for f in found],
      "Brier before": [f.brier_before for f in found],
      "Brier after": [f.brier_after for f in found],
    }
    means = [
      datum(float(np.mean(values)), key) for key, values in numbers.items()
    ]
    rows.append([html.escape(name), *means])
  if not rows:
    return None
  return Section(
    "Calibration of the arms",
    (
      "A temperature fitted on the comparisons of one half of the prompts; "
      "calibration error and Brier score on the other half, before and after "
      "division by it. Above 1: the scores differ by more than they should.",
    ),
    body=table(["arm", *numbers], rows),
  )


def best_of_n(arms: dict[str, Arm], folder: pathlib.Path) -> Section | None:
  found = {
    name: breakdown.best_of(
      *arm.scores, longer_is_better=arm.first.longer_is_better
    )
    for name, arm in arms.items()
  }
  found = {name: best for name, best in found.items() if best is not None}
  if not found:
    return None
  first = next(iter(found.values()))
  arms_best_of_n(
    {name: (best.model, best.low, best.high) for name, best in found.items()},
    {
      "gold itself: the most possible": first.most,
      "length only": first.by_length,
      "random choice": first.random,
    },
    folder / "arms_best_of_n.png",
    groups=first.groups,
  )
  said = "; ".join(
    f"{name} {best.model[-1]:.3f} ({best.low[-1]:.3f} to {best.high[-1]:.3f})"
    for name, best in found.items()
  )
  return Section(
    "Best of n of the arms",
    (
      "Gold reward of the completion with the highest of n scores, from the "
      "mean of the group (0) to its best (1); exact over all subsets of n. At "
      f"n = {len(first.model)}: {said}; length only "
      f"{first.by_length[-1]:.3f}.",
    ),
    (("arms_best_of_n.png", f"Best of n: {said}"),),
  )
