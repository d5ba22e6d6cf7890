"""Several runs on one page: their numbers side by side, and what differs."""

import html
import pathlib
from typing import NamedTuple

import numpy as np

from rm_jax.data.doctor.report import percent
from rm_jax.evals import breakdown
from rm_jax.evals.page import Section, datum, html_page, table
from rm_jax.evals.plots import learning_curves
from rm_jax.evals.runs import Run, curve_rows, main_metric, read_run
from rm_jax.evals.score_plots import sigmoid
from rm_jax.metrics import accuracy, bootstrap_interval
from rm_jax.types import UserError

SEED = 0  # of the bootstraps
SAME = ("prompt", "group", "chosen", "rejected")  # of the evaluation sets


class Difference(NamedTuple):
  """The mean of a run's metric less that of the first run, paired."""

  value: float
  low: float
  high: float


def write_comparison(workdirs: list[str], folder: pathlib.Path) -> str:
  """Writes report.html and learning_curves.png; the lead as text.

  Raises:
    UserError: a run given twice or unfinished.
  """
  given = [pathlib.Path(workdir).resolve() for workdir in workdirs]
  for n, path in enumerate(given):
    if path in given[:n]:
      raise UserError(
        f"{workdirs[n]}: expected different runs, got this one twice: leave "
        "one out of --run."
      )
  runs = {
    name: read_run(pathlib.Path(workdir))
    for name, workdir in zip(names_of(given), workdirs, strict=True)
  }
  folder.mkdir(parents=True, exist_ok=True)
  first, *others = runs
  different = {name: another_set(runs[first], runs[name]) for name in others}
  paired = {
    name: paired_differences(runs[first], runs[name])
    for name in others
    if not different[name]
  }
  lead = in_words(runs, paired)
  absent = [
    f"Paired differences of {name} and {first}: {reason}."
    for name, reason in different.items()
    if reason
  ]
  page = html_page(
    f"rm-jax report: {', '.join(runs)}",
    lead=lead,
    boxes=[],
    sections=[
      _numbers(runs, paired),
      _curves(runs, folder),
      Section(
        "How they were made",
        tuple(f"{n}: {run.results['command']}" for n, run in runs.items()),
      ),
    ],
    absent=absent,
    folder=folder,
  )
  (folder / "report.html").write_text(page, "utf-8")
  said = [lead, *(f"not on it: {line}" for line in absent)]
  return "\n".join([*said, f"{folder / 'report.html'}, learning_curves.png"])


def names_of(paths: list[pathlib.Path]) -> list[str]:
  """The shortest ends of the paths that tell them apart."""
  most = max(len(path.parts) for path in paths)
  for length in range(1, most):
    names = ["/".join(path.parts[-length:]) for path in paths]
    if len(set(names)) == len(names):
      return names
  return [str(path) for path in paths]


def another_set(a: Run, b: Run) -> str:
  """Why comparisons of two runs cannot be paired; "" if they can."""
  if not len(a.scores.chosen) or not len(b.scores.chosen):
    return "an evaluation set has no comparisons"
  names = [
    name
    for name in SAME
    if not np.array_equal(getattr(a.scores, name), getattr(b.scores, name))
  ]
  # Other tokenizers count other lengths of the same text.
  if not names and _tokenizer(a) == _tokenizer(b):
    if not np.array_equal(a.scores.length, b.scores.length):
      names = ["length"]
  if names:
    return f"their evaluation sets differ ({', '.join(names)})"
  return ""


def _tokenizer(run: Run) -> str:
  return run.config.init.tokenizer or run.config.init["from"]


def paired_differences(a: Run, b: Run) -> dict[str, Difference]:
  """{metric: b less a} with 95 % intervals: bootstrap over prompts.

  What both runs find hard cancels: each comparison is set against itself.
  """
  prompts = breakdown.prompts_of_comparisons(a.scores)
  found = {}
  for name, of in {"accuracy": _credit, "brier": _squared_error}.items():
    values = of(b.scores) - of(a.scores)
    low, high = bootstrap_interval(values, groups=prompts, seed=SEED)
    found[name] = Difference(float(values.mean()), low, high)
  return found


def _credit(scores) -> np.ndarray:
  s = scores.scores
  return accuracy(s[scores.chosen], s[scores.rejected], ties="half")


def _squared_error(scores) -> np.ndarray:
  """Of each comparison, the same from both sides."""
  return sigmoid(-breakdown.score_diff(scores)) ** 2


def in_words(runs: dict[str, Run], paired: dict) -> str:
  """What the comparison found: the first paragraph of the page."""
  first = next(iter(runs))
  said = []
  for name, differences in paired.items():
    d = differences["accuracy"]
    if np.isnan(d.low):
      verdict = "without an interval: too few prompts."
    else:
      excludes = d.low > 0 or d.high < 0
      verdict = (
        f"95 % interval {100 * d.low:.1f} to {100 * d.high:.1f}, which "
        f"{'excludes' if excludes else 'holds'} 0: "
        f"{_order(d) if excludes else 'no difference was shown'}."
      )
    said.append(
      f"{name} less {first}: {100 * d.value:+.1f} points of accuracy on the "
      f"same {len(runs[first].scores.chosen):,} comparisons, {verdict}"
    )
  if not said:
    said.append("No two of these runs were compared on one evaluation set.")
  accuracies = [
    f"{name} {percent(run.results['metrics']['accuracy']['value'])}"
    for name, run in runs.items()
    if "accuracy" in run.results["metrics"]
  ]
  if accuracies:
    said.append(f"Accuracies: {', '.join(accuracies)}.")
  return " ".join(said)


def _order(d: Difference) -> str:
  return "it is better" if d.value > 0 else "it is worse"


def _numbers(runs: dict[str, Run], paired: dict) -> Section:
  """Every metric of every run; differences where they can be paired."""
  first = next(iter(runs))
  every = list(
    dict.fromkeys(n for run in runs.values() for n in run.results["metrics"])
  )
  head = ["metric", *runs, *(f"{name} less {first}" for name in paired)]
  rows = []
  for metric in every:
    cells = [html.escape(metric.replace("_", " "))]
    for run in runs.values():
      entry = run.results["metrics"].get(metric, {"value": None})
      cells.append(datum(entry["value"], metric))
    for differences in paired.values():
      cells.append(
        _difference(differences[metric]) if metric in differences else ""
      )
    rows.append(cells)
  text = ["Values as in each run's results.json."]
  if paired:
    text.append(
      f"Differences to {first} are paired by comparison, with 95 % intervals "
      "by bootstrap over prompts."
    )
  return Section("Numbers", tuple(text), body=table(head, rows))


def _difference(d: Difference) -> str:
  if np.isnan(d.low):
    return datum(d.value, "difference")
  return (
    f"{datum(d.value, 'difference')} [{datum(d.low, 'low')}, "
    f"{datum(d.high, 'high')}]"
  )


def _curves(runs: dict[str, Run], folder: pathlib.Path) -> Section:
  metric = main_metric(next(iter(runs.values())).results)
  learning_curves(
    {name: curve_rows(run.rows, metric) for name, run in runs.items()},
    folder / "learning_curves.png",
    metric=metric.replace("_", " "),
    references={"chance": 0.5} if metric == "accuracy" else {},
    loss_references={},
  )
  losses = {run.config.loss.name for run in runs.values()}
  text = []
  if len(losses) > 1:
    text.append(
      f"The runs have different losses ({', '.join(sorted(losses))}): compare "
      "the lower panel, not the upper one."
    )
  return Section(
    "Learning curves",
    tuple(text),
    (
      (
        "learning_curves.png",
        f"Train loss and {metric.replace('_', ' ')} of {', '.join(runs)}",
      ),
    ),
  )
