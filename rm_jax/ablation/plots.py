"""The picture of an experiment: effects with intervals, and curves or arms."""

import os
import textwrap

from rm_jax.ablation.design import Design
from rm_jax.ablation.findings import interval, told_of
from rm_jax.evals import canvas
from rm_jax.evals.verdict import NEITHER, NULL, UNCLAIMED

ROOMY = 16  # outcomes or arms; where there are more they stand closer
FAR = 20  # half intervals from 0; where one is farther, the axis is logarithmic
LONG = 42  # letters of an outcome's name in one line
COLOURS = {
  "reproduced": canvas.GREEN,
  "reversed": canvas.RED,
  "null": canvas.GREY,
  "invalid": canvas.ORANGE,
} | dict.fromkeys(UNCLAIMED, canvas.BLUE)
NOTHING = (NULL, NEITHER)


def plot_experiment(
  design: Design, results: dict, path: str | os.PathLike
) -> None:
  """Writes the PNG.

  Left: every outcome's paired difference in units of half its interval, so that
  1 is where it begins to exclude 0, to the right as published (higher, where
  no sign is claimed), and beside it the difference itself; colour by verdict,
  hollow for null and for no difference. Right: the primary metric over train
  steps, or by arm and seed where its arm has no curve.
  """
  judged = [(o, told) for o, told in told_of(design, results) if told]
  rows = len(judged)
  count = max(rows, len(design.arms))
  many = max(0, count - ROOMY)
  figure, (left, right) = canvas.new(
    3.4 + 0.35 * (count - many) + 0.15 * many, 1, 2
  )
  for place, (outcome, told) in enumerate(judged):
    low = told["mean"] if told["low"] is None else told["low"]
    high = told["mean"] if told["high"] is None else told["high"]
    unit = (high - low) / 2 or abs(told["mean"]) or 1.0
    towards = (outcome.expected or 1) / unit
    colour = COLOURS[told["verdict"]]
    left.errorbar(
      told["mean"] * towards,
      -place,
      xerr=1.0 if high > low else None,
      fmt="o",
      color=colour,
      markerfacecolor="white" if told["verdict"] in NOTHING else colour,
      capsize=4,
      label=told["verdict"],
    )
  left.axvline(0.0, color=canvas.GREY, linewidth=1)
  names = [textwrap.fill(o.name, LONG) for o, _ in judged]
  left.set_yticks([-n for n in range(rows)], names)
  left.set_ylim(-rows + 0.4, 0.6)
  beside = left.secondary_yaxis("right")
  said = [interval(told) for _, told in judged]
  beside.set_yticks([-n for n in range(rows)], said, fontsize=7)
  beside.tick_params(length=0)
  far = max(abs(x) for x in left.get_xlim()) > FAR
  if far:
    left.set_xscale("symlog", linthresh=1.0)
    left.set_xlim(*(1.5 * x for x in left.get_xlim()))
  claimed = all(outcome.expected for outcome, _ in judged)
  left.set_xlabel(
    f"difference / half its 95 % interval{', log beyond 1' if far else ''}\n"
    "right: as published" + ("" if claimed else " (no claim: higher)")
  )
  handles, labels = left.get_legend_handles_labels()
  once = dict(zip(labels, handles, strict=True))
  left.legend(  # above: an interval may be anywhere within
    once.values(),
    once.keys(),
    fontsize=8,
    loc="lower center",
    bbox_to_anchor=(0.5, 1.0),
    ncols=len(once),
  )
  metric = design.outcomes[0].metric
  if design.outcomes[0].arm in results["curves"]:
    _curves(right, results["curves"], metric)
  else:
    _arms(right, design, results, metric)
  right.grid(alpha=0.3)
  if many:
    for axes in (left, right):
      axes.tick_params(axis="y", labelsize=7)
  figure.suptitle(design.title, fontsize=11)
  canvas.write(figure, path)


def _curves(axes, curves: dict, metric: str) -> None:
  for turn, (arm, rows) in enumerate(curves.items()):
    if metric not in rows[0]:
      continue
    axes.plot(
      [row["step"] for row in rows],
      [row[metric] for row in rows],
      **canvas.line_style(turn),
      marker="o",
      markersize=3,
      label=arm,
    )
  axes.set_xlabel("train step")
  axes.set_ylabel(f"{metric.replace('_', ' ')}, mean over seeds")
  axes.legend(fontsize=8)


def _arms(axes, design: Design, results: dict, metric: str) -> None:
  arms = [a for a in design.arms if f"{a}/{metric}" in results["metrics"]]
  for place, arm in enumerate(arms):
    key = f"{arm}/{metric}"
    each = [values[key] for values in results["per_seed"].values()]
    axes.plot(each, [-place] * len(each), "o", color=canvas.BLUE, alpha=0.4)
    axes.plot(results["metrics"][key]["value"], -place, "|", color="black")
  axes.set_yticks([-n for n in range(len(arms))], arms)
  axes.set_xlabel(f"{metric.replace('_', ' ')}\na dot per seed")
