"""The sections of a run's page: each draws its picture and says its numbers.

A section function returns a Section, or a line that says why there is none.
"""

import json
import math
import pathlib

from rm_jax.data.doctor.report import percent
from rm_jax.data.tokenizers import load_tokenizer
from rm_jax.evals.examples import example_groups, short_row
from rm_jax.evals.page import Section, folded, metric_table, tree
from rm_jax.evals.plots import learning_curves
from rm_jax.evals.row_plots import packed_row, tokens_saved
from rm_jax.evals.runs import Run, curve_rows, main_metric
from rm_jax.evals.score_sections import (
  best_of_n,
  calibration,
  gold,
  histograms,
  length_baseline,
  strengths,
)
from rm_jax.types import UserError

EXAMPLES = 4  # groups shown as trees
# Losses that are log 2 where all scores are 0.
LOG_TWO = (
  "bradley_terry",
  "all_pairs",
  "outcome_cross_entropy",
  "step_binary_cross_entropy",
)
# What is known without a model: line of the curve -> metric of results.json.
BASELINES = {
  "accuracy": {"length only": "length_only_accuracy"},
  "label_accuracy": {"larger class": "majority_accuracy"},
  "squared_error": {"constant": "constant_squared_error"},
}


def every_section(run: Run, folder: pathlib.Path) -> tuple[list, list]:
  """(sections, lines about those that are missing) of a run's page."""
  found, absent = [], []
  for make in (
    learning,
    histograms,
    length_baseline,
    strengths,
    calibration,
    gold,
    best_of_n,
    examples,
    tokens,
    row,
    numbers,
    origin,
  ):
    section = make(run, folder)
    (absent if isinstance(section, str) else found).append(section)
  return found, absent


def learning(run: Run, folder: pathlib.Path) -> Section | str:
  """Train loss and the run's metric over train steps."""
  metric = main_metric(run.results)
  metrics = run.results["metrics"]
  references = {"chance": 0.5} if metric == "accuracy" else {}
  for name, key in BASELINES.get(metric, {}).items():
    if metrics[key]["value"] is not None:
      references[name] = metrics[key]["value"]
  rows = curve_rows(run.rows, metric)
  points = sum("value" in row for row in rows)
  try:
    learning_curves(
      {"run": rows},
      folder / "learning_curve.png",
      metric=metric.replace("_", " "),
      references=references,
      loss_references=loss_references(run.config),
    )
  except UserError as error:
    return f"Learning curves: {error}"
  steps = run.results["num_train_steps"]
  evaluations = f"{points} evaluation{'' if points == 1 else 's'}"
  return Section(
    "Learning curves",
    (f"{steps:,} train steps, {evaluations}; dashed: what needs no model.",),
    (
      (
        "learning_curve.png",
        f"Train loss and {metric.replace('_', ' ')} over {steps} train steps",
      ),
    ),
  )


def loss_references(config) -> dict[str, float]:
  """{name: loss} of a model that knows nothing, where that is known."""
  plain = (
    config.loss.name in LOG_TWO
    and config.loss.margin == "none"
    and not config.loss.language_coefficient
    and not config.tasks
  )
  return {"log 2: knows nothing": math.log(2)} if plain else {}


def examples(run: Run, folder: pathlib.Path) -> Section | str:
  del folder
  try:
    found = example_groups(
      run.config, _tokenizer(run.config), run.scores, count=EXAMPLES
    )
  except (UserError, OSError) as error:  # moved since: the rest stands
    return f"Example groups: {error}"
  if not found:
    return (
      "Example groups: no record of the evaluation data is as it was when the "
      "run was evaluated."
    )
  return Section(
    "Example groups",
    (
      f"The first {len(found)} of the evaluation set, not the best: the shared "
      "trunk, then what each completion adds, the highest score first. The "
      "bar is the score from the lowest of the group to its highest.",
    ),
    body="".join(tree(example) for example in found),
  )


def tokens(run: Run, folder: pathlib.Path) -> Section | str:
  counts = run.results["counts"]
  sides = {"train": "training set", "test": "evaluation set"}
  bars, said = [], []
  for side, name in sides.items():
    apart = counts[f"{side}_tokens_unshared"]
    together = counts[f"{side}_tokens_shared"]
    bars += [(f"{name}, every completion alone", apart)]
    bars += [(f"{name}, as laid out", together)]
    said.append(
      f"{name} {together:,} of {apart:,} tokens, "
      f"{percent(1 - together / apart)} saved"
    )
  layout = run.config.data.layout
  picture = "tokens.png"
  tokens_saved(bars, folder / picture, title=f"Tokens of the layout: {layout}")
  text = [f"Layout {layout}: {'; '.join(said)}."]
  useful = sum(row.get("useful_tokens", 0) for row in run.rows)
  computed = sum(row.get("computed_tokens", 0) for row in run.rows)
  if computed:
    text.append(
      f"The train steps computed {computed:,} columns, of which "
      f"{percent(1 - useful / computed)} were padding."
    )
  return Section("Tokens saved by sharing", tuple(text), ((picture, text[0]),))


def row(run: Run, folder: pathlib.Path) -> Section | str:
  try:
    found, pieces = short_row(run.config, _tokenizer(run.config))
  except (UserError, OSError) as error:  # moved since: the rest stands
    return f"A packed row: {error}"
  packed_row(found, pieces, folder / "packed_row.png")
  return Section(
    "A packed row",
    (
      "A short row of the run's own training data: its groups, branches and "
      "tokens, and which query (row of the square) sees which key (column).",
    ),
    (
      (
        "packed_row.png",
        f"A packed row of {len(pieces)} tokens and its attention mask",
      ),
    ),
  )


def numbers(run: Run, folder: pathlib.Path) -> Section:
  """Every metric of results.json."""
  del folder
  return Section(
    "All numbers",
    ("As in results.json. Equal scores count one half.",),
    body=metric_table(run.results["metrics"]),
  )


def origin(run: Run, folder: pathlib.Path) -> Section:
  """What made the run."""
  del folder
  r = run.results
  versions = ", ".join(f"{k} {v}" for k, v in r["versions"].items())
  config = json.dumps(run.config.to_dict(), indent=1, default=str)
  counts = json.dumps(r["counts"], indent=1)
  return Section(
    "How it was made",
    (
      r["command"],
      f"Commit {r['commit'] or 'unknown'}, {r['device']}, {versions}, "
      f"{r['seconds']:,.0f} seconds.",
    ),
    body=folded("Config", config) + folded("Counts of the data", counts),
  )


def _tokenizer(config):
  return load_tokenizer(config.init.tokenizer or config.init["from"])
