"""results.json of experiments to the tables, words and pictures of READMEs.

A README holds marks, `<!-- verdict -->`, `<!-- table -->`, `<!-- run -->`,
`<!-- panels -->` and `<!-- series -->` where the design has them and, of the
summary, `<!-- experiments -->`; what stands between a mark and `<!-- end -->`
is written here and nowhere else.
"""

import collections
import json
import pathlib
import re

from rm_jax.ablation.design import (
  Design,
  digest,
  find_experiments,
  load_design,
  load_designs,
  result_name,
)
from rm_jax.ablation.findings import interval, told_of
from rm_jax.evals.verdict import VERDICTS
from rm_jax.types import UserError

README = "README.md"
PLOTS = dict(mini="plot.png", lm="plot_lm.png")
PANELS, SERIES = "panels.png", "series.png"
MARK = re.compile(
  r"<!-- (verdict|table|run|panels|series|experiments)(?: (\w+))? -->\n"
  r".*?<!-- end -->",
  re.DOTALL,
)


def report_experiments(folder: pathlib.Path) -> str:
  """Renders every README, picture and the summary; a line for each.

  Raises:
    UserError: no experiments, or a README without its marks.
  """
  lines = []
  for key in find_experiments(folder):
    for design in load_designs(folder, key):
      render(design)
      results = read_results(design)
      said = results["verdict"] if results else "not run yet"
      name = key if design.preset == "mini" else f"{key} {design.preset}"
      lines.append(f"{name}: {said}")
  return "\n".join(lines)


def read_results(design: Design) -> dict | None:
  """The results in the experiment's folder; None: not run yet."""
  path = design.path.parent / result_name(design.preset)
  return json.loads(path.read_text()) if path.exists() else None


def render(design: Design) -> None:
  """Writes the picture and README of an experiment, and the summary."""
  from rm_jax.ablation.panels import plot_panels
  from rm_jax.ablation.plots import plot_experiment
  from rm_jax.ablation.series import plot_series

  folder = design.path.parent
  results = read_results(design)
  if results is not None:
    plot_experiment(design, results, folder / PLOTS[design.preset])
    # Of an earlier design arms may be missing: its pictures stay.
    if design.panels and not _is_old(design, results):
      plot_panels(design, results, folder / PANELS)
    if design.series and not _is_old(design, results):
      plot_series(design, results, folder / SERIES)
  for path in (folder / README, folder.parent / README):
    if not path.exists():
      raise UserError(f"{path} is missing: it holds the marks of the tables.")
    path.write_text(filled(path.read_text(), path.parent, design.key), "utf-8")


def filled(text: str, folder: pathlib.Path, key: str = "") -> str:
  """The text of a README with everything between marks made anew.

  Args:
    folder: where the README lies: of one experiment, or of all.
    key: of the experiment whose README it is; unread in the summary.
  """

  def fill(match):
    what, preset = match[1], match[2]
    if what == "experiments":
      made = summary(folder)
    else:
      design = load_design(folder.parent, key, preset or "mini")
      made = _written(design, what)
    begin = match[0].partition("\n")[0]
    return f"{begin}\n{made}\n<!-- end -->"

  return MARK.sub(fill, text)


def _written(design: Design, what: str) -> str:
  results = read_results(design)
  if results is None:
    run = f"rm-jax experiment {design.key}"
    more = f" --preset={design.preset}" if design.preset != "mini" else ""
    return f"Not run yet: `{run}{more}`." if what == "verdict" else "Not run."
  if what == "verdict":
    alt = f"{design.title}: effects with 95 % intervals"
    plot = PLOTS[design.preset]
    return f"{in_words(design, results)}\n\n![{alt}]({plot})"
  if what == "panels":
    from rm_jax.ablation.panels import panels_table

    titles = "; ".join(panel.title for panel in design.panels)
    made = "Not run."
    if not _is_old(design, results):
      made = panels_table(design, results)
    return f"![{design.title}: {titles}]({PANELS})\n\n{made}"
  if what == "series":
    titles = "; ".join(series.title for series in design.series)
    return f"![{design.title}: {titles}]({SERIES})"
  return table(design, results) if what == "table" else how(design, results)


def in_words(design: Design, results: dict) -> str:
  """The verdict on the primary endpoint, in a sentence or two."""
  # The primary one that was judged, whatever the design says now.
  told = results["outcomes"][0]
  text = (
    f"**{results['verdict']}**: {told['name']} is {interval(told)} "
    f"(p = {_p(told['p'])}, {told['seeds']} seeds); {told['why']}."
  )
  if results["size"] != "whole":
    text += " A quick run: a check of the machinery, not a result."
  if _is_old(design, results):
    text += (
      f" Note: {design.path.name} has changed since; these are results of an "
      "earlier design."
    )
  return text


def _is_old(design: Design, results: dict) -> bool:
  size = design.sizes.get(results["size"], {})
  return results["digest"] != digest(design, size)


def table(design: Design, results: dict) -> str:
  """Arms by metrics, then outcomes beside what was published."""
  names = list(design.columns)
  lines = [
    f"| arm | {' | '.join(design.columns.values())} |",
    f"|---|{'---|' * len(names)}",
  ]
  for arm, what in design.arms.items():
    cells = [results["metrics"].get(f"{arm}/{name}") for name in names]
    row = " | ".join("" if c is None else _value(c) for c in cells)
    lines.append(f"| {arm}: {what} | {row} |")
  lines += [
    "",
    "| difference | ours, 95 % interval | verdict | published | not comparable "
    "because |",
    "|---|---|---|---|---|",
  ]
  for outcome, told in told_of(design, results):
    if told is None:
      lines.append(
        f"| {outcome.name} | not run | | {outcome.published} | "
        f"{outcome.comparable} |"
      )
      continue
    lines.append(
      f"| {outcome.name} | {interval(told)} | {told['verdict']} "
      f"({told['agree']} of {told['seeds']} seeds) | {outcome.published} | "
      f"{outcome.comparable} |"
    )
  # The file sorts its keys: the order is the design's. Of an earlier design
  # (`in_words` says so) names may be left, which come last.
  order = [c.name for c in (*design.checks, *design.conditions)]
  order += sorted(results["checks"].keys() - set(order))
  held = [
    f"{name}: {'holds' if results['checks'][name] else 'does not hold'}"
    for name in order
    if name in results["checks"]
  ]
  if held:
    lines += ["", f"Checks: {'; '.join(held)}."]
  return "\n".join(lines)


def how(design: Design, results: dict) -> str:
  """Seeds, seconds, device and commit, in a sentence."""
  seeds = ", ".join(map(str, results["seeds"]))
  each = results["job_seconds"] / results["jobs"]
  commits = " and ".join(results["commit"])
  beside = ""
  if "vmapped" in results:
    counts = " or ".join(map(str, results["vmapped"]))
    beside = f"; trained {counts} side by side, seconds are shares"
  files = results.get("data") or []  # results before there were such designs
  told = ""
  if files:
    rows = sum(file["rows"] for file in files)
    name = result_name(design.preset)
    told = f" Read: {len(files)} files, {rows:,} rows, sha256 in `{name}`."
  return (
    f"{results['jobs']} jobs ({len(design.arms)} arms, seeds {seeds}), "
    f"{results['job_seconds']:,.0f} seconds of jobs ({each:.1f} each{beside}), "
    "device "
    f"{' and '.join(results['device'])}, jax {results['versions']['jax']}, "
    f"commit {commits}. `{results['command']}`{told}"
  )


def summary(folder: pathlib.Path) -> str:
  """One row per experiment and preset: claim, verdict, effect, seconds.

  Below it the verdicts of each preset, counted, and the seconds of its jobs.
  """
  lines = [
    "| experiment | claim | verdict | primary effect, 95 % interval | seeds | "
    "seconds of jobs |",
    "|---|---|---|---|---|---|",
  ]
  by_preset: dict[str, list[dict]] = {}
  for key in find_experiments(folder):
    for design in load_designs(folder, key):
      results = read_results(design)
      name = f"[{key}]({key}/README.md)" + (
        "" if design.preset == "mini" else f" {design.preset}"
      )
      row = f"| {name} | {design.claim} "
      if results is None:
        lines.append(f"{row}| not run yet | | | |")
        continue
      told = results["outcomes"][0]
      lines.append(
        f"{row}| {results['verdict']} | {told['name']}: "
        f"{interval(told)} | {told['seeds']} | {results['job_seconds']:,.0f} |"
      )
      by_preset.setdefault(design.preset, []).append(results)
  for preset, each in by_preset.items():
    counts = collections.Counter(results["verdict"] for results in each)
    verdicts = ", ".join(f"{counts[v]} {v}" for v in VERDICTS if counts[v])
    spent = sum(results["job_seconds"] for results in each)
    lines += [
      "",
      f"{len(each)} of {preset} have run ({verdicts}): {spent:,.0f} seconds of "
      f"jobs, {spent / 3_600:.1f} hours of one worker.",
    ]
  return "\n".join(lines)


def _value(entry: dict) -> str:
  value = entry["value"]
  if abs(value) >= 1_000:
    return f"{value:,.0f}"
  text = f"{value:.4f}"
  if entry["low"] is not None:
    text += f" +- {(entry['high'] - entry['low']) / 2:.4f}"
  return text


def _p(p) -> str:
  if p is None:
    return "unknown"
  return "< 0.0001" if p < 1e-4 else f"{p:.4f}"
