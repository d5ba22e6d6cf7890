"""Runs that differ in their seed -> one results.json and its table.

python -m rm_jax.evals.seeds runs/hh-0 runs/hh-1 --out=results.json
"""

import argparse
import json
import pathlib

import numpy as np

from rm_jax.evals.breakdown import credit_of, gold_credit_of
from rm_jax.evals.runs import read_labels, read_scores
from rm_jax.metrics import accuracy, bootstrap_interval
from rm_jax.train.checkpoint import write_json
from rm_jax.train.evaluate import value
from rm_jax.train.labels import label_credits
from rm_jax.types import UserError

SAME = ("chosen", "rejected", "prompt", "length")  # of the evaluation sets


def merge(workdirs: list[pathlib.Path]) -> dict:
  """One results.json of several: values are means over seeds.

  Accuracies and squared errors get an interval by bootstrap over prompts of the
  mean credit over seeds: it covers the choice of prompts; the spread over seeds
  is in per_seed.

  Raises:
    UserError: a run is unfinished, or was evaluated on another set.
  """
  runs, scores, labels = [], [], []
  for workdir in workdirs:
    if not (workdir / "results.json").exists():
      raise UserError(
        f"{workdir}: no results.json. Finish the run: repeat its rm-jax train "
        "command."
      )
    runs.append(json.loads((workdir / "results.json").read_text()))
    scores.append(read_scores(workdir / "scores.npz"))
    labels.append(read_labels(workdir / "scores.npz"))
    for name in SAME:
      one, other = (getattr(s, name) for s in (scores[0], scores[-1]))
      if not np.array_equal(one, other):
        raise UserError(
          f"{workdir}: another evaluation set than {workdirs[0]} ({name} "
          "differ). Merge runs that differ in config.seed only."
        )
  per_seed = {}
  for run, workdir in zip(runs, workdirs, strict=True):
    for seed, values in run["per_seed"].items():
      if seed in per_seed:
        raise UserError(f"{workdir}: seed {seed} is given twice.")
      per_seed[seed] = values
  seeds = [int(s) for s in per_seed]
  metrics = {}
  for name, entry in runs[0]["metrics"].items():
    values = [v[name] for v in per_seed.values()]
    mean = None if None in values else float(np.mean(values))
    metrics[name] = value(mean, n=entry["n"]) | {"seeds": seeds}
  credits = _credits(scores, runs) | _label_credits(scores, labels)
  for name, credit in credits.items():
    low, high = bootstrap_interval(credit[0], groups=credit[1], seed=0)
    # One prompt has no interval: null, as in results.json of one run.
    found = metrics[name]
    metrics[name] |= value(found["value"], low, high, found["n"])
  first = runs[0]
  return first | {
    "command": [run["command"] for run in runs],
    "commit": sorted({run["commit"] for run in runs}),
    "seconds": [run["seconds"] for run in runs],
    "metrics": metrics,
    "per_seed": per_seed,
  }


def _credits(scores, runs):
  """{metric: (credit per comparison, mean over seeds; its prompt)}."""
  chosen, rejected = scores[0].chosen, scores[0].rejected
  if not len(chosen):
    return {}
  credit = credit_of(*scores)
  length = scores[0].length
  longer = accuracy(length[chosen], length[rejected], ties="half")
  stated = runs[0]["metrics"]["length_only_accuracy"]["value"]
  if abs(longer.mean() - stated) > 1e-9:  # the shorter one is the baseline
    longer = 1 - longer
  numbers = _prompts(scores[0])
  prompt = numbers[scores[0].group[chosen]]
  credits = {
    "accuracy": (credit, prompt),
    "length_only_accuracy": (longer, prompt),
    "accuracy_over_length": (credit - longer, prompt),
  }
  if "gold_agreement" in runs[0]["metrics"]:
    gold = scores[0].gold
    agrees = accuracy(gold[chosen], gold[rejected], ties="half")
    credits["gold_agreement"] = (agrees, prompt)
    pairs, prompts = gold_credit_of(*scores)
    number = dict(zip(scores[0].prompt, numbers, strict=True))
    credits["gold_accuracy"] = (pairs, np.array([number[p] for p in prompts]))
  return credits


def _label_credits(scores, labels) -> dict:
  """{metric: (credit per label or completion, mean over seeds; its prompt)}."""
  if not len(labels[0].labels):
    return {}
  each = [label_credits(found) for found in labels]
  prompts = _prompts(scores[0])
  return {
    name: (np.mean([e[name][0] for e in each], axis=0), prompts[group])
    for name, (_, group) in each[0].items()
  }


def _prompts(scores) -> np.ndarray:
  """A number per group, equal where the prompt is.

  In the order of the file, so that resamples do not hang on hashes.
  """
  _, first, same = np.unique(
    scores.prompt, return_index=True, return_inverse=True
  )
  return first[same]


def table(results: dict) -> str:
  """Accuracy beside chance and the length-only baseline, in Markdown."""

  def cell(name, values):
    entry = results["metrics"][name]
    text = f"{entry['value']:.3f}"
    if entry["low"] is not None:
      text += f" [{entry['low']:.3f}, {entry['high']:.3f}]"
    return f"{text} | {values}"

  rows = ["| | accuracy [95 % interval] | per seed |", "|---|---|---|"]
  for label, name in (
    ("reward model", "accuracy"),
    ("length only", "length_only_accuracy"),
    ("reward model minus length only", "accuracy_over_length"),
  ):
    each = ", ".join(f"{v[name]:.3f}" for v in results["per_seed"].values())
    rows.append(f"| {label} | {cell(name, each)} |")
  rows.insert(4, "| chance | 0.500 | |")
  m = results["metrics"]
  # Lists where runs were merged, alone where there was one.
  commits = np.atleast_1d(results["commit"])
  seconds = [f"{s:.0f}" for s in np.atleast_1d(results["seconds"])]
  rows += [
    "",
    f"{m['accuracy']['n']} held-out comparisons, ties count one half "
    f"(tie rate {m['tie_rate']['value']:.3f}); calibration error "
    f"{m['calibration_error']['value']:.3f}; Brier {m['brier']['value']:.3f}. "
    f"Device {results['device']}, jax {results['versions']['jax']}, commit "
    f"{', '.join(commits)}, {' and '.join(seconds)} seconds.",
  ]
  return "\n".join(rows)


def main() -> None:
  """Merges, writes and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("workdirs", nargs="+", type=pathlib.Path)
  parser.add_argument("--out", required=True, type=pathlib.Path)
  args = parser.parse_args()
  try:
    results = merge(args.workdirs)
  except UserError as error:
    parser.error(str(error))  # one line, exit code 2
  args.out.parent.mkdir(parents=True, exist_ok=True)
  write_json(args.out, results)
  print(table(results))


if __name__ == "__main__":
  main()
