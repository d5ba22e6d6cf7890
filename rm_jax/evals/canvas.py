"""The figure that every picture is drawn on, its colours, and its way out.

A figure is one of its own that pyplot never hears of, so nothing is left open
and no backend is chosen. A picture is 1000 pixels wide.
"""

import os

import numpy as np
from matplotlib.figure import Figure

WIDTH, DPI = 10.0, 100  # inches, pixels per inch

# Okabe and Ito's colours: told apart in every common form of colour blindness.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
GREY = "#666666"
# Of lines that share a panel, in turn; the dashes tell lines apart that lie on
# each other.
LINE_COLOURS = (BLUE, ORANGE, GREEN, RED, "#AA4499", "#56B4E9", GREY, "#000000")
DASHES = ("-", (0, (6, 3)), (0, (2, 2)))  # later ones lie on top


def new(height: float, *grid: int, **how) -> tuple[Figure, np.ndarray]:
  """(figure, axes) of a picture `height` inches high.

  Args:
    grid, how: of `Figure.subplots`.
  """
  figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
  return figure, figure.subplots(*grid, **how)


def line_style(turn: int) -> dict:
  """Colour and dashes of the n-th line of a panel."""
  return dict(
    color=LINE_COLOURS[turn % len(LINE_COLOURS)],
    linestyle=DASHES[turn % len(DASHES)],
  )


def write(figure: Figure, path: str | os.PathLike) -> None:
  """Writes the PNG and drops what was drawn."""
  figure.savefig(path, format="png", dpi=DPI)
  figure.clear()  # drops the artists now, not when the garbage is collected
