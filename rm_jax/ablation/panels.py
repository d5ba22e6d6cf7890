"""Panels of a design: differences between arms, metric by metric."""

import os

import numpy as np

from rm_jax.ablation.design import Design, Panel
from rm_jax.ablation.findings import interval
from rm_jax.evals import canvas
from rm_jax.metrics import paired_interval


def gains(panel: Panel, results: dict) -> dict[str, list[tuple]]:
  """{name: (mean, low, high) by metric}: paired over the seeds, 95 %."""
  return {
    name: [_difference(results, metric, *pair) for metric in panel.metrics]
    for name, pair in panel.gains.items()
  }


def _difference(results, metric, arm, less) -> tuple:
  sides = (
    np.asarray([v[f"{a}/{metric}"] for v in results["per_seed"].values()])
    for a in (arm, less)
  )
  return paired_interval(*sides)[:3]


def plot_panels(design: Design, results: dict, path: str | os.PathLike) -> None:
  """Writes the PNG: panels side by side on one scale, a line for each gain."""
  count = len(design.panels)
  figure, grid = canvas.new(4.0, 1, count, sharey=True, squeeze=False)
  for axes, panel in zip(grid[0], design.panels, strict=True):
    lines = gains(panel, results)
    for turn, (name, values) in enumerate(lines.items()):
      mean, low, high = np.asarray(values).T
      # Side by side: intervals on each other cannot be read.
      place = np.arange(len(mean)) + 0.12 * (turn - (len(lines) - 1) / 2)
      axes.errorbar(
        place,
        mean,
        yerr=np.nan_to_num([mean - low, high - mean]),
        **canvas.line_style(turn),
        marker="o",
        markersize=4,
        capsize=3,
        label=name,
      )
    axes.axhline(0.0, color=canvas.GREY, linewidth=1)
    axes.set_xticks(range(len(panel.metrics)), panel.metrics.values())
    axes.tick_params(axis="x", labelsize=8)
    axes.set_title(panel.title, fontsize=10)
    axes.grid(alpha=0.3)
  grid[0][0].set_ylabel("difference, mean and 95 % interval")
  grid[0][-1].legend(fontsize=8)
  figure.suptitle(design.title, fontsize=11)
  canvas.write(figure, path)


def panels_table(design: Design, results: dict) -> str:
  """One row per panel and gain: its mean and interval by metric."""
  names = {
    name: told for p in design.panels for name, told in p.metrics.items()
  }
  lines = [
    f"| | | {' | '.join(names.values())} |",
    f"|---|---|{'---|' * len(names)}",
  ]
  for panel in design.panels:
    for name, values in gains(panel, results).items():
      by = dict(zip(panel.metrics, values, strict=True))
      cells = [_cell(by[m]) if m in by else "" for m in names]
      lines.append(f"| {panel.title} | {name} | {' | '.join(cells)} |")
  return "\n".join(lines)


def _cell(value) -> str:
  mean, low, high = (None if x != x else x for x in value)
  return interval(dict(mean=mean, low=low, high=high))
