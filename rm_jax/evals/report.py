"""A finished run -> one page, its pictures and its headline numbers."""

import pathlib

from rm_jax.data.doctor.report import percent
from rm_jax.evals import breakdown
from rm_jax.evals.comparison import write_comparison
from rm_jax.evals.page import html_page
from rm_jax.evals.runs import Run, read_run
from rm_jax.evals.score_sections import best_of_n_in_words
from rm_jax.evals.sections import every_section
from rm_jax.types import UserError

PAGE = "report.html"


def report(runs: list[str], out: str) -> str:
  """What the verb prints: the page of one run, or that of several beside.

  Args:
    runs: workdirs.
    out: folder of the page; "": the workdir of the one run.

  Raises:
    UserError: a run twice or unfinished, several runs without a folder.
  """
  if len(runs) == 1:
    return write_report(runs[0], out or runs[0])
  if not out:
    raise UserError(
      f"--out is missing: a comparison of {len(runs)} runs belongs to none of "
      "them. Give a folder for it."
    )
  return write_comparison(runs, pathlib.Path(out))


def write_report(
  workdir: str | pathlib.Path, out: str | pathlib.Path | None = None
) -> str:
  """Writes report.html and its pictures; the headline numbers as text.

  What the run has not (comparisons, strengths, gold) or what moved since (its
  data, its tokenizer) the page leaves out and says so.

  Args:
    out: folder, made if missing; None: the workdir.

  Raises:
    UserError: the folder holds no finished run.
  """
  run = read_run(pathlib.Path(workdir))
  folder = pathlib.Path(out or workdir)
  folder.mkdir(parents=True, exist_ok=True)
  sections, absent = every_section(run, folder)
  page = html_page(
    f"rm-jax report: {run.workdir.resolve().name}",
    lead=in_words(run),
    boxes=boxes(run.results["metrics"]),
    sections=sections,
    absent=absent,
    folder=folder,
  )
  (folder / PAGE).write_text(page, "utf-8")
  drawn = [name for section in sections for name, _ in section.pictures]
  lines = [
    headline(run.results),
    f"{folder / PAGE}, with {', '.join(drawn)}",
    *(f"not on it: {line}" for line in absent),
  ]
  return "\n".join(lines)


def in_words(run: Run) -> str:
  """What a run found: the first paragraph of its page."""
  metrics, s = run.results["metrics"], run.scores
  said = [f"After {run.results['num_train_steps']:,} train steps"]
  if "accuracy" in metrics:
    said += _accuracy_in_words(metrics, run.longer_is_better)
  if "label_accuracy" in metrics:
    said += _labels_in_words(metrics, first=len(said) == 1)
  if "squared_error" in metrics:
    said += _errors_in_words(metrics, first=len(said) == 1)
  if len(said) == 1:
    said.append(
      "there is nothing to hold the scores against: the evaluation set has "
      "neither comparisons nor labels."
    )
  best = breakdown.best_of(s, longer_is_better=run.longer_is_better)
  if best is not None:
    side = "longest" if run.longer_is_better else "shortest"
    said.append(best_of_n_in_words(best, side))
  return " ".join(said)


def _accuracy_in_words(metrics: dict, longer_is_better: bool) -> list[str]:
  m, base = metrics["accuracy"], metrics["length_only_accuracy"]
  gain = metrics["accuracy_over_length"]
  said = [
    "the reward model gives the chosen completion the higher score in "
    f"{percent(m['value'])} of {m['n']:,} held-out comparisons"
    f"{_interval(m, percent)}; chance is {percent(0.5)}."
  ]
  if m["low"] is None:
    said.append("Too few prompts for an interval: this shows nothing.")
  elif m["high"] < 0.5:
    said.append("That is worse than chance.")
  elif m["low"] <= 0.5:
    said.append("The interval holds chance: nothing learnt was shown.")
  side = "longer" if longer_is_better else "shorter"
  said.append(
    f"Always calling the {side} completion better is right in "
    f"{percent(base['value'])}."
  )
  if gain["low"] is None:
    said.append(
      "The model is not shown to beat this length baseline: the difference of "
      f"{_points(gain['value'])} has no interval."
    )
  elif gain["low"] > 0:
    said.append(
      f"The model beats this length baseline by {_points(gain['value'])}"
      f"{_interval(gain, _points)}."
    )
  elif gain["high"] < 0:
    said.append(
      f"The model does not beat this length baseline, it is worse by "
      f"{_points(-gain['value'])}: the difference is {_points(gain['value'])}"
      f"{_interval(gain, _points)}."
    )
  else:
    said.append(
      "The model does not beat this length baseline: the difference is "
      f"{_points(gain['value'])} and its 95 % interval, "
      f"{_points(gain['low'])} to {_points(gain['high'])}, holds 0."
    )
  return said


def _labels_in_words(metrics: dict, *, first: bool) -> list[str]:
  m, base = metrics["label_accuracy"], metrics["majority_accuracy"]
  beats = m["low"] is not None and m["low"] > base["value"]
  start = "the model tells" if first else "It tells"
  return [
    f"{start} {percent(m['value'])} of {m['n']:,} held-out labels"
    f"{_interval(m, percent)}.",
    f"Always saying the larger class is right in {percent(base['value'])}: "
    f"{_verdict(beats)}",
  ]


def _errors_in_words(metrics: dict, *, first: bool) -> list[str]:
  m, base = metrics["squared_error"], metrics["constant_squared_error"]
  beats = m["high"] is not None and m["high"] < base["value"]
  start = "the squared error" if first else "The squared error"
  return [
    f"{start} on {m['n']:,} held-out labels is {m['value']:.4f}"
    f"{_interval(m, lambda x: f'{x:.4f}')}.",
    "Always saying the mean of the labels errs by "
    f"{base['value']:.4f}: {_verdict(beats)}",
  ]


def _verdict(beats: bool) -> str:
  if beats:
    return "the interval excludes it, the model beats this baseline."
  return "the model is not shown to beat this baseline."


def _interval(entry: dict, text) -> str:
  if entry["low"] is None:
    return ""
  return (
    f" (95 % interval over prompts {text(entry['low'])} to "
    f"{text(entry['high'])})"
  )


def _points(value: float) -> str:
  return f"{100 * value:.1f} points"


def boxes(metrics: dict) -> list[tuple[str, str]]:
  """(number, name) of the few numbers that one looks for."""
  names = {
    "accuracy": "accuracy",
    "length_only_accuracy": "length only",
    "label_accuracy": "label accuracy",
    "majority_accuracy": "larger class",
    "squared_error": "squared error",
    "constant_squared_error": "constant",
    "calibration_error": "calibration error",
    "loss": "loss",
  }
  return [
    (f"{metrics[name]['value']:.4f}", text)
    for name, text in names.items()
    if name in metrics and metrics[name]["value"] is not None
  ]


def headline(found: dict) -> str:
  """The few lines of a results.json that one reads first.

  Args:
    found: the content of results.json.
  """
  metrics = found["metrics"]

  def entry(name, text):
    if name not in metrics or metrics[name]["value"] is None:
      return []
    m = metrics[name]
    low = m["low"]
    interval = "" if low is None else f" [{low:.4f}, {m['high']:.4f}]"
    return [f"{text:24}{m['value']:.4f}{interval}"]

  n = next(
    metrics[k]["n"]
    for k in ("accuracy", "label_accuracy", "squared_error", "score_mean")
    if k in metrics
  )
  what = "comparisons" if "accuracy" in metrics else "labels"
  return "\n".join(
    [
      f"after {found['num_train_steps']} train steps, on {n:,} held-out "
      f"{what}, 95 % intervals over prompts:",
      *entry("accuracy", "accuracy (chance 0.5)"),
      *entry("length_only_accuracy", "length-only baseline"),
      *entry("accuracy_over_length", "accuracy over length"),
      *entry("calibration_error", "calibration error"),
      *entry("label_accuracy", "label accuracy"),
      *entry("majority_accuracy", "larger-class baseline"),
      *entry("label_calibration_error", "label calibration error"),
      *entry("squared_error", "squared error"),
      *entry("constant_squared_error", "constant baseline"),
      *entry("loss", "loss"),
    ]
  )
