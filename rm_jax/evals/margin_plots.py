"""The picture of every margin.

python -m rm_jax.evals.margin_plots docs/margins.png
"""

import argparse
import math
import os
import pathlib

import numpy as np
from matplotlib.axes import Axes

from rm_jax.evals import canvas
from rm_jax.margins import MARGINS, NEEDS

HIGHEST_MARGIN = 4.6  # rating_squared goes on to 16 and would flatten the rest


def draw_margins(path: str | os.PathLike) -> None:
  """Writes every margin: of two ratings on 1 to 5, and of a strength 0 to 3.

  A line is the margin over the difference of the two ratings, a dot a pair of
  whole ratings. Where pairs of one difference have different margins a band
  holds them all, from the lowest rated pair to the highest.
  """
  figure, (left, right) = canvas.new(
    6.0, 1, 2, gridspec_kw={"width_ratios": (1.15, 1)}
  )
  difference = np.linspace(0.0, 4.0, 401)
  grid = np.arange(1.0, 6.0)
  chosen, rejected = np.array(
    [(c, r) for c in grid for r in grid if c >= r]
  ).T  # [15]
  strength = np.linspace(0.0, 3.0, 301)
  lines: dict[Axes, list] = {left: [], right: []}
  for name, margin in MARGINS.items():
    axes = right if NEEDS[name] == ("strength",) else left
    turn = len(lines[axes])
    how = dict(
      **canvas.line_style(turn),
      linewidth=2.2,
      zorder=2 + turn % len(canvas.DASHES),
    )
    dots = dict(marker="o", markersize=5, linestyle="", color=how["color"])
    if axes is right:
      right.plot(strength, margin(strength), **how)
      right.plot(np.arange(4), margin(np.arange(4)), **dots)
      lines[right].append((name, how["color"], strength, margin(strength)))
      continue
    low, high = margin(1 + difference, np.ones(401)), margin(5, 5 - difference)
    left.fill_between(difference, low, high, color=how["color"], alpha=0.2)
    left.plot(difference, (low + high) / 2, **how)
    left.plot(chosen - rejected, margin(chosen, rejected), **dots)
    lines[left].append((name, how["color"], difference, low))
  left.set_title("Margins of two ratings, 1 to 5", fontsize=15)
  left.set_xlabel("chosen rating - rejected rating", fontsize=13)
  left.set_ylabel("margin (units of score)", fontsize=13)
  left.set_ylim(-0.2, HIGHEST_MARGIN)
  right.set_title("Margins of a strength", fontsize=15)
  right.set_xlabel(
    "0 unsure, 1 slightly, 2 better, 3 significantly", fontsize=13
  )
  right.set_ylim(-0.15, 3.35)
  for axes, last in ((left, 4), (right, 3)):
    axes.set_xticks(range(last + 1))
    axes.tick_params(labelsize=12)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    _name_lines(axes, lines[axes])
  canvas.write(figure, path)


def _name_lines(axes: Axes, lines: list) -> None:
  """Writes the name of each line behind its end, apart from one another.

  A line that leaves the panel through its top is named there, with the value
  of its end.

  Args:
    axes: with its limits set; grows to the right.
    lines: (name, colour, x [n], y [n]) of each, all with the same last x.
  """
  bottom, top = axes.get_ylim()
  gap = 0.052 * (top - bottom)  # of two lines of text
  below = -math.inf
  for name, colour, x, y in sorted(lines, key=lambda line: line[3][-1]):
    how = dict(color=colour, fontsize=13, va="center")
    if y[-1] > top:
      leaves = x[y <= top][-1] + 0.03 * x[-1]
      text = f"{name}: {y[-1]:g} at {x[-1]:g}"
      axes.text(leaves, top - gap / 2, text, **how)
      continue
    below = max(y[-1], below + gap)
    axes.plot(
      x[-1] * np.array([1.0, 1.05]), [y[-1], below], color=colour, linewidth=0.8
    )
    axes.text(x[-1] * 1.06, below, name, **how)
  axes.set_xlim(-0.04 * x[-1], 1.62 * x[-1])


def main() -> None:
  """Writes the picture."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("path", type=pathlib.Path)
  draw_margins(parser.parse_args().path)


if __name__ == "__main__":
  main()
