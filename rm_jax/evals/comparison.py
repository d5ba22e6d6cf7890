"""Several runs on one page: their arms side by side, one run in detail."""

import html
import pathlib

import numpy as np

from rm_jax.data.doctor.report import percent
from rm_jax.evals.arm_sections import arm_pictures
from rm_jax.evals.arms import (
  Arm,
  Difference,
  another_set,
  arms_of,
  comparison_results,
  paired_differences,
)
from rm_jax.evals.page import Section, datum, html_page, table
from rm_jax.evals.plots import learning_curves
from rm_jax.evals.runs import Run, curve_rows, main_metric, read_run
from rm_jax.evals.sections import every_section
from rm_jax.train.checkpoint import write_json
from rm_jax.types import UserError


def write_comparison(workdirs: list[str], folder: pathlib.Path) -> str:
  """Writes report.html, its pictures and results.json; the lead as text.

  Runs that differ in their seed only are one arm. The page ends with the first
  run in detail.

  Raises:
    UserError: a run given twice or unfinished, a folder that is a run's own.
  """
  given = [pathlib.Path(workdir).resolve() for workdir in workdirs]
  for n, path in enumerate(given):
    if path in given[:n]:
      raise UserError(
        f"{workdirs[n]}: expected different runs, got this one twice: leave "
        "one out of --run."
      )
  if folder.resolve() in given:
    raise UserError(
      f"--out={folder} is the workdir of a run, whose results.json would be "
      "lost: give another folder."
    )
  runs = {
    name: read_run(pathlib.Path(workdir))
    for name, workdir in zip(names_of(given), workdirs, strict=True)
  }
  folder.mkdir(parents=True, exist_ok=True)
  arms = arms_of(runs)
  first, *others = arms
  different = {
    name: another_set(arms[first].first, arms[name].first) for name in others
  }
  paired = {
    name: paired_differences(arms[first], arms[name])
    for name in others
    if not different[name]
  }
  lead = in_words(arms, paired)
  detail = next(iter(runs))
  sections, absent = every_section(runs[detail], folder)
  absent += [
    f"Paired differences of {name} and {first}: {reason}."
    for name, reason in different.items()
    if reason
  ]
  page = html_page(
    f"rm-jax report: {', '.join(arms)}",
    lead=lead,
    boxes=[],
    sections=[
      _numbers(arms, paired),
      _curves(runs, folder),
      *arm_pictures(arms, folder),
      _made(runs),
      Section(
        f"One run in detail: {detail}",
        ("What follows is of this run alone, the first one given.",),
      ),
      *sections,
    ],
    absent=absent,
    folder=folder,
  )
  (folder / "report.html").write_text(page, "utf-8")
  write_json(folder / "results.json", comparison_results(arms, paired))
  said = [lead, *(f"not on it: {line}" for line in absent)]
  return "\n".join([*said, f"{folder / 'report.html'}, results.json"])


def names_of(paths: list[pathlib.Path]) -> list[str]:
  """The shortest ends of the paths that tell them apart."""
  most = max(len(path.parts) for path in paths)
  for length in range(1, most):
    names = ["/".join(path.parts[-length:]) for path in paths]
    if len(set(names)) == len(names):
      return names
  return [str(path) for path in paths]


def in_words(arms: dict[str, Arm], paired: dict) -> str:
  """What the comparison found: the first paragraph of the page."""
  first = next(iter(arms))
  said = []
  for name, differences in paired.items():
    n = len(arms[first].first.scores.chosen)
    said.append(
      f"{name} less {first}: {_verdict(differences['accuracy'])} on the same "
      f"{n:,} held-out comparisons."
    )
    if "gold_accuracy" in differences:
      said.append(f"Against gold: {_verdict(differences['gold_accuracy'])}.")
  if not said:
    said.append("No two of these arms were compared on one evaluation set.")
  known = {n: a for n, a in arms.items() if "accuracy" in a.results["metrics"]}
  if known:
    said += _accuracies(known)
  return " ".join(said)


def _verdict(d: Difference) -> str:
  points = f"{100 * d.value:+.1f} points of accuracy"
  if np.isnan(d.low):
    return f"{points}, without an interval, too few prompts,"
  if not d.excludes_zero:
    verdict = "no difference was shown"
  else:
    verdict = "it is better" if d.value > 0 else "it is worse"
  return (
    f"{points}, 95 % interval {100 * d.low:.1f} to {100 * d.high:.1f}, which "
    f"{'excludes' if d.excludes_zero else 'holds'} 0: {verdict}"
  )


def _accuracies(arms: dict[str, Arm]) -> list[str]:
  """Each arm, whether it beats length, what the labels allow, gold."""
  said = []
  for name, arm in arms.items():
    m, count = arm.results["metrics"]["accuracy"], len(arm.runs)
    seeds = f", mean of {count} seeds" if count > 1 else ""
    said.append(f"{name}: accuracy {_with_interval(m)}{seeds}.")
  every = {name: arm.results["metrics"] for name, arm in arms.items()}
  metrics = next(iter(every.values()))
  length = _with_interval(metrics["length_only_accuracy"])
  said.append(f"Length alone reaches {length}; chance is {percent(0.5)}.")
  for name, m in every.items():
    gain = m["accuracy_over_length"]
    over = f"{name} less length alone is {100 * gain['value']:.1f} points"
    if gain["low"] is None:
      said.append(f"{over}, without an interval: that shows nothing.")
      continue
    over += f" ({100 * gain['low']:.1f} to {100 * gain['high']:.1f})"
    beats = "it beats length" if gain["low"] > 0 else "not shown to beat it"
    said.append(f"{over}: {beats}.")
  if "gold_agreement" in metrics:
    said.append(
      "The labels are noisy: the chosen completion has the higher gold reward "
      f"in {percent(metrics['gold_agreement']['value'])} of the comparisons, "
      "about the most that a model can reach."
    )
  if "gold_accuracy" in metrics:
    accuracies = ", ".join(
      f"{name} {_with_interval(m['gold_accuracy'])}"
      for name, m in every.items()
    )
    said.append(
      f"On all {metrics['gold_accuracy']['n']:,} pairs of one prompt, in the "
      f"order of gold itself: {accuracies}; length alone "
      f"{percent(metrics['gold_length_only_accuracy']['value'])}."
    )
  return said


def _with_interval(entry: dict) -> str:
  if entry["low"] is None:
    return percent(entry["value"])
  return (
    f"{percent(entry['value'])} ({percent(entry['low'])} to "
    f"{percent(entry['high'])})"
  )


def _numbers(arms: dict[str, Arm], paired: dict) -> Section:
  """Every metric of every arm; differences where they can be paired."""
  first = next(iter(arms))
  every = list(
    dict.fromkeys(n for arm in arms.values() for n in arm.results["metrics"])
  )
  head = ["metric", *arms, *(f"{name} less {first}" for name in paired)]
  rows = []
  for metric in every:
    cells = [html.escape(metric.replace("_", " "))]
    for arm in arms.values():
      entry = arm.results["metrics"].get(metric)
      cells.append(_entry(entry, metric) if entry else "")
    for differences in paired.values():
      found = differences.get(metric)
      cells.append(_entry(found._asdict(), "difference") if found else "")
    rows.append(cells)
  text = ["Means over the seeds of an arm, 95 % intervals over prompts."]
  if paired:
    text.append(
      f"Differences to {first} are paired by comparison. Another choice of "
      "seeds is not in the intervals: see each seed below."
    )
  seeds = [
    [html.escape(name)]
    + [
      datum(
        run.results["metrics"].get(metric, {}).get("value"), f"seed {metric}"
      )
      for metric in SHOWN
    ]
    for arm in arms.values()
    for name, run in arm.runs.items()
  ]
  shown = [metric.replace("_", " ") for metric in SHOWN]
  return Section(
    "Numbers",
    tuple(text),
    body=table(head, rows) + table(["run", *shown], seeds),
  )


# Of each run, seed by seed.
SHOWN = ("accuracy", "gold_accuracy", "score_diff", "calibration_error")


def _entry(entry: dict, name: str) -> str:
  """A value and, where there is one, its interval."""
  value, low = datum(entry["value"], name), entry["low"]
  if low is None or np.isnan(low):
    return value
  return f"{value} [{datum(low, 'low')}, {datum(entry['high'], 'high')}]"


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


def _made(runs: dict[str, Run]) -> Section:
  """The command of each run, and the seconds of its stages."""
  names = list(
    dict.fromkeys(
      n for run in runs.values() for n in run.results.get("stages", {})
    )
  )
  rows = [
    [html.escape(name)]
    + [f"{run.results.get('stages', {}).get(stage, 0):,.1f}" for stage in names]
    + [f"{run.results['seconds']:,.1f}"]
    for name, run in runs.items()
  ]
  total = sum(run.results["seconds"] for run in runs.values())
  return Section(
    "How they were made",
    (
      *(f"{name}: {run.results['command']}" for name, run in runs.items()),
      f"{total:,.0f} seconds in all, by stage:",
    ),
    body=table(["run", *names, "all"], rows),
  )
