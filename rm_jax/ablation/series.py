"""Series of a design: means over a number, a line for each of a few arms."""

import os

import numpy as np

from rm_jax.ablation.design import Design, Series
from rm_jax.evals import canvas


def points(series: Series, results: dict) -> dict[str, tuple]:
  """{name: (numbers, means, low, high)}; of curves without intervals.

  Intervals are those of the mean over seeds, 95 %, NaN where one seed ran.
  """
  found = {}
  for name, line in series.lines.items():
    if series.at:
      each = [results["metrics"][f"{arm}/{metric}"] for arm, metric in line]
      told = [[e["value"], e["low"], e["high"]] for e in each]
      found[name] = (series.at, *np.asarray(told, float).T)
    else:
      arm, metric = line
      rows = results["curves"][arm]
      numbers, means = ([r[key] for r in rows] for key in ("step", metric))
      found[name] = (numbers, np.asarray(means), None, None)
  return found


def plot_series(design: Design, results: dict, path: str | os.PathLike) -> None:
  """Writes the PNG: series side by side, intervals where there are any."""
  figure, grid = canvas.new(4.0, 1, len(design.series), squeeze=False)
  for axes, series in zip(grid[0], design.series, strict=True):
    for turn, (name, told) in enumerate(points(series, results).items()):
      numbers, means, low, high = told
      bars = None
      if low is not None:
        bars = np.nan_to_num([means - low, high - means])
        # Side by side: intervals on each other cannot be read.
        middle = (len(series.lines) - 1) / 2
        numbers = np.asarray(numbers) * 1.05 ** (turn - middle)
      axes.errorbar(
        numbers,
        means,
        yerr=bars,
        **canvas.line_style(turn),
        marker="o",
        markersize=4,
        capsize=3,
        label=name,
      )
    if series.at:
      axes.set_xscale("log")
      axes.set_xticks(series.at, [f"{x:g}" for x in series.at])
      axes.set_xticks([], minor=True)
    axes.set_xlabel(series.axis)
    axes.set_title(series.title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
  figure.suptitle(
    f"{design.title}\nmean over seeds, 95 % interval where one is drawn",
    fontsize=11,
  )
  canvas.write(figure, path)
