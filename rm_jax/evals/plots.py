"""Pictures of a run: arrays or dictionaries in, one PNG out.

  python -m rm_jax.evals.plots margins docs/margins.png

Each function draws on a figure of its own that pyplot never hears of, so
nothing is left open and no backend is chosen. A picture is 1000 pixels wide.
"""

import argparse
import math
import os
import pathlib

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from rm_jax.margins import MARGINS, NEEDS
from rm_jax.types import ArrayLike, UserError

WIDTH, DPI = 10.0, 100  # inches, pixels per inch
COLUMNS_PIXELS = 900  # of a packed row: the width less labels and margins

# Okabe and Ito's colours: told apart in every common form of colour blindness.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
GREY = "#666666"
GROUP_COLOURS = ("#A6CEE3", "#FDBF6F", "#B2DF8A", "#CAB2D6")
BRANCH_COLOURS = (
  "#D9D9D9",  # the trunk
  "#56B4E9",
  "#E69F00",
  "#66C2A5",
  "#CC79A7",
  "#F0E442",
  "#9DA3E0",
)
PADDING = "#FFFFFF"

BINS = 15  # of the reliability curve, as in metrics.calibration_error
MOST_BINS = 60  # of a histogram: more are thinner than its lines
# Of lines that share a panel, in turn; the dashes tell lines apart that lie on
# each other.
LINE_COLOURS = (BLUE, ORANGE, GREEN, RED, "#AA4499", "#56B4E9", GREY, "#000000")
DASHES = ("-", (0, (6, 3)), (0, (2, 2)))  # later ones lie on top
HIGHEST_MARGIN = 4.6  # rating_squared goes on to 16 and would flatten the rest
LEAST_TOKEN_PIXELS = 11  # of a column: below that its text cannot be read
TOKEN_LETTERS = 10  # of a piece, the rest is cut


def learning_curve(metrics_rows: list[dict], path: str | os.PathLike) -> None:
  """Writes the train loss and the evaluation accuracy over train steps.

  The dashed lines are what a model that knows nothing gets: a Bradley-Terry
  loss of log 2 and an accuracy of 1/2.

  Args:
    metrics_rows: one dictionary per logged step, in any order. `step` in each;
      `loss` in those of training; `accuracy` in those of an evaluation, with
      `accuracy_low` and `accuracy_high` where an interval is known. Other keys
      are not read.
    path: the PNG to write.

  Raises:
    UserError: no row has `step` with `loss` or `accuracy`.
  """
  train = _column(metrics_rows, "loss")  # [T, 2]
  evals = _column(metrics_rows, "accuracy")  # [E, 2]
  if not len(train) and not len(evals):
    raise UserError(
      f"learning_curve: expected rows with step and loss or accuracy, got "
      f"{len(metrics_rows)} rows without: train for longer than one log "
      f"interval, or give the rows of another run."
    )
  figure, (upper, lower) = _figure(7.0, 2, sharex=True)
  upper.set_title("Learning curve")
  upper.plot(*train.T, color=BLUE, linewidth=1.0, alpha=0.45, label="per step")
  window = max(1, len(train) // 20)
  if window > 1:
    mean = np.convolve(train[:, 1], np.ones(window) / window, "valid")
    upper.plot(
      train[window - 1 :, 0],
      mean,
      color=BLUE,
      linewidth=2.0,
      label=f"mean of {window} logged steps",
    )
  upper.axhline(
    math.log(2), color=GREY, linestyle="--", label="log 2: knows nothing"
  )
  upper.set_ylabel("train loss (nats)")
  lower.plot(*evals.T, color=RED, marker="o", markersize=4, label="evaluation")
  low = _column(metrics_rows, "accuracy_low")
  high = _column(metrics_rows, "accuracy_high")
  if len(low) and np.array_equal(low[:, 0], high[:, 0]):
    lower.fill_between(
      low[:, 0],
      low[:, 1],
      high[:, 1],
      color=RED,
      alpha=0.2,
      linewidth=0,
      label="its interval",
    )
  lower.axhline(0.5, color=GREY, linestyle="--", label="chance")
  lower.set_ylabel("accuracy (share of comparisons)")
  lower.set_xlabel("train step")
  for axes in (upper, lower):
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize=9)
  _write(figure, path)


def score_histograms(
  chosen: Float[ArrayLike, " C"],
  rejected: Float[ArrayLike, " C"],
  path: str | os.PathLike,
) -> None:
  """Writes histograms of the scores and of the score differences.

  Bins follow the data (numpy's "auto" rule, at most 60) and are the same for
  both sides, so heights may be compared.

  Raises:
    UserError: no comparison, different shapes, or a score that is not finite.
  """
  chosen, rejected = _scores("score_histograms", chosen, rejected)
  score_diff = chosen - rejected
  figure, (left, right) = _figure(4.2, 1, 2)
  edges = _edges(np.concatenate([chosen, rejected]))
  for values, colour, name in (
    (rejected, ORANGE, "rejected"),
    (chosen, BLUE, "chosen"),
  ):
    mean = values.mean()
    left.hist(
      values, edges, color=colour, alpha=0.55, label=f"{name}, mean {mean:.2f}"
    )
    left.axvline(mean, color=colour, linewidth=1.5)
  left.set_title("Scores")
  left.set_xlabel("score (head output)")
  left.set_ylabel("completions")
  left.legend(fontsize=9)
  right.hist(score_diff, _edges(score_diff), color=GREEN, alpha=0.7)
  right.axvline(0.0, color=GREY, linestyle="--", label="0: a tie")
  right.axvline(
    score_diff.mean(),
    color=GREEN,
    linewidth=1.5,
    label=f"mean {score_diff.mean():.2f}",
  )
  right.set_title(
    f"Score differences: {np.mean(score_diff < 0):.1%} below 0, "
    f"n = {len(score_diff)}"
  )
  right.set_xlabel("chosen score - rejected score")
  right.set_ylabel("comparisons")
  right.legend(fontsize=9)
  for axes in (left, right):
    axes.margins(y=0.25)  # room for the legend
  _write(figure, path)


def reliability(
  score_diff: Float[ArrayLike, " C"], path: str | os.PathLike
) -> float:
  """Writes predicted against observed preference; returns the ECE it shows.

      p = sigmoid(score_diff)
      ECE = sum over bins b of n_b / n |mean_b(p) - share of b that is chosen|

  A difference is chosen minus rejected, so on its own it only ever says "the
  first one won". Each comparison is therefore counted from both sides, as
  (p, won) and as (1 - p, lost): n is twice the number of comparisons.

  Source: Guo et al. 2017, arXiv:1706.04599, Eq. (3); there of the predicted
  class, here of "this side is the chosen one". A bin is open on its left.

  Raises:
    UserError: no comparison, or a difference that is not finite.
  """
  (score_diff,) = _scores("reliability", score_diff)
  # exp of a negative number only: exp(800) overflows.
  small = np.exp(-np.abs(score_diff))
  p = np.where(score_diff >= 0, 1.0, small) / (1.0 + small)
  q = np.where(score_diff >= 0, small, 1.0) / (1.0 + small)  # 1 - p, exactly
  predicted = np.concatenate([p, q])  # [2 C]
  won = np.repeat([1.0, 0.0], len(p))
  edges = np.arange(1, BINS) / BINS
  index = np.searchsorted(edges, predicted, side="left")
  count = np.bincount(index, minlength=BINS)  # [BINS]
  real = count > 0
  mean = np.bincount(index, predicted, BINS)[real] / count[real]
  share = np.bincount(index, won, BINS)[real] / count[real]
  error = float(np.abs(mean - share) @ count[real] / count.sum())

  figure, (upper, lower) = _figure(
    8.0, 2, sharex=True, gridspec_kw={"height_ratios": (3, 1)}
  )
  upper.set_title(
    f"Reliability: ECE = {error:.4f} over {BINS} bins, "
    f"{len(score_diff)} comparisons seen from both sides"
  )
  upper.plot([0, 1], [0, 1], color=GREY, linestyle="--", label="calibrated")
  upper.plot(mean, share, color=BLUE, marker="o", label="observed")
  upper.vlines(mean, mean, share, color=RED, linewidth=2, label="error")
  upper.set_ylabel("observed: share that is the chosen side")
  upper.set_ylim(-0.03, 1.03)
  upper.legend(loc="upper left", fontsize=9)
  centres = (np.arange(BINS) + 0.5) / BINS
  bars = lower.bar(centres, count, 0.9 / BINS, color=BLUE, alpha=0.6)
  lower.bar_label(bars, [str(n) for n in count], fontsize=8, padding=1)
  lower.margins(y=0.2)
  lower.set_ylabel("count")
  lower.set_xlabel("predicted: sigmoid(score difference)")
  lower.set_xlim(0, 1)
  for axes in (upper, lower):
    axes.grid(alpha=0.3)
  _write(figure, path)
  return error


def attention_mask(
  row: dict[str, Int[ArrayLike, " L"]],
) -> Bool[np.ndarray, "L L"]:
  """Which key (column) each query (row) of one packed row sees.

      same group  and  position_k <= position_q
      and (branch_k = branch_q  or  branch_k = 0 and position_k < fork_q)

  Group 0 is padding: it sees nothing and nothing sees it.

  Args:
    row: `group_ids`, `branch_ids`, `positions`, `fork_positions`, each [L].
  """
  group, branch, position, fork = (
    np.asarray(row[key])
    for key in ("group_ids", "branch_ids", "positions", "fork_positions")
  )
  same_group = (group[:, None] == group) & (group != 0)
  not_later = position <= position[:, None]
  own = branch[:, None] == branch
  trunk = (branch == 0) & (position < fork[:, None])
  return same_group & not_later & (own | trunk)


def packed_row(
  row: dict[str, Int[ArrayLike, " L"]],
  pieces: list[str],
  path: str | os.PathLike,
) -> None:
  """Writes one packed row: its groups, branches and tokens, and who sees whom.

  Args:
    row: `tokens`, `group_ids`, `branch_ids`, `positions`, `fork_positions` of
      one row of a Batch, each [L].
    pieces: the text of each of the L tokens, shown where a column is wide
      enough for it.
    path: the PNG to write.

  Raises:
    UserError: an array or `pieces` is not as long as `tokens`.
  """
  length = len(row["tokens"])
  for key in ("group_ids", "branch_ids", "positions", "fork_positions"):
    _same_length(f"row[{key!r}]", len(row[key]), length)
  _same_length("pieces", len(pieces), length)
  group, branch = np.asarray(row["group_ids"]), np.asarray(row["branch_ids"])

  pixels = COLUMNS_PIXELS / length
  readable = pixels >= LEAST_TOKEN_PIXELS
  top = 2.1 if readable else 1.0  # inches; the mask below has 9.2
  figure, (bands, mask) = _figure(
    9.9 + top, 2, sharex=True, gridspec_kw={"height_ratios": (top, 9.2)}
  )
  real = int((group > 0).sum())
  groups = len(np.unique(group[group > 0]))
  bands.set_title(
    f"One packed row: {groups} group{'' if groups == 1 else 's'}, "
    f"{real} tokens of {length}, {1 - real / length:.0%} padding"
  )
  _band(bands, 2.6, group, group, group, GROUP_COLOURS)
  # Branch 0 is the trunk and keeps its grey, the others take turns.
  turns = np.where(branch == 0, 0, 1 + (branch - 1) % (len(BRANCH_COLOURS) - 1))
  _band(bands, 1.8, group, branch, turns, BRANCH_COLOURS)
  if readable:
    size = min(9.0, 0.72 * 0.72 * pixels + 1.5)  # points: 0.72 per pixel
    for column, piece in enumerate(pieces):
      if group[column]:
        bands.text(
          column,
          1.7,
          _legible(piece),
          rotation=90,
          fontsize=size,
          ha="center",
          va="top",
          family="monospace",
          parse_math=False,  # a price is not a formula
        )
    bands.set_yticks([2.95, 2.15, 1.35], ["group", "branch", "token"])
  else:
    bands.set_yticks([2.95, 2.15], ["group", "branch"])
  bands.set_ylim(0.3 if readable else 1.7, 3.4)
  bands.tick_params(length=0, bottom=False, labelbottom=False)
  bands.spines[:].set_visible(False)

  sees = attention_mask(row)
  mask.matshow(sees, cmap=ListedColormap([PADDING, BLUE]), vmin=0, vmax=1)
  mask.set_aspect("auto")
  mask.xaxis.set_ticks_position("bottom")
  for boundary in np.flatnonzero(np.diff(group)) + 0.5:
    mask.axhline(boundary, color=GREY, linewidth=0.8)
    mask.axvline(boundary, color=GREY, linewidth=0.8)
  mask.set_title(f"Attention: {sees.mean():.1%} of {length} x {length}")
  mask.set_xlabel("key (column of the row)")
  mask.set_ylabel("query (column of the row)")
  _write(figure, path)


def draw_margins(path: str | os.PathLike) -> None:
  """Writes every margin: of two ratings on 1 to 5, and of a strength 0 to 3.

  A line is the margin over the difference of the two ratings, a dot a pair of
  whole ratings. Where pairs of one difference have different margins a band
  holds them all, from the lowest rated pair to the highest.
  """
  figure, (left, right) = _figure(
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
      color=LINE_COLOURS[turn % len(LINE_COLOURS)],
      linestyle=DASHES[turn % len(DASHES)],
      linewidth=2.2,
      zorder=2 + turn % len(DASHES),
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
  _write(figure, path)


def _figure(height: float, *grid: int, **how) -> tuple[Figure, np.ndarray]:
  figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
  return figure, figure.subplots(*grid, **how)


def _write(figure: Figure, path: str | os.PathLike) -> None:
  figure.savefig(path, format="png", dpi=DPI)
  figure.clear()  # drops the artists now, not when the garbage is collected


def _column(rows: list[dict], key: str) -> np.ndarray:
  """(step, value) of the rows that have the key, [n, 2], by step."""
  found = [
    (row["step"], row[key]) for row in rows if "step" in row and key in row
  ]
  return np.array(sorted(found), np.float64).reshape(-1, 2)


def _scores(where: str, *arrays) -> list[np.ndarray]:
  """The arrays as float64 [C], checked."""
  arrays = [np.asarray(array, np.float64) for array in arrays]
  shapes = [array.shape for array in arrays]
  if len(set(shapes)) > 1 or arrays[0].ndim != 1 or not arrays[0].size:
    raise UserError(
      f"{where}: expected arrays of one shape [C] with C > 0, got "
      f"{' and '.join(map(str, shapes))}: give one value per comparison."
    )
  bad = sum(int((~np.isfinite(array)).sum()) for array in arrays)
  if bad:
    raise UserError(
      f"{where}: expected finite scores, got {bad} that are not: drop these "
      f"comparisons, and count them."
    )
  return arrays


def _same_length(name: str, got: int, length: int) -> None:
  if got != length:
    raise UserError(
      f"packed_row: expected {name} of length {length} as row['tokens'], got "
      f"{got}: give the arrays of one row of the batch."
    )


def _edges(values: np.ndarray) -> np.ndarray:
  """Bin edges after the data, at most MOST_BINS bins."""
  edges = np.histogram_bin_edges(values, "auto")
  if len(edges) > MOST_BINS + 1:  # an outlier, or a million scores
    return np.histogram_bin_edges(values, MOST_BINS)
  return edges


def _band(
  axes: Axes,
  bottom: float,
  group: np.ndarray,
  ids: np.ndarray,
  turns: np.ndarray,
  colours: tuple,
) -> None:
  """Draws every run of one id in one group, with the id where it has room."""
  change = (np.diff(group) != 0) | (np.diff(ids) != 0)
  starts = [0, *(np.flatnonzero(change) + 1)]
  for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
    if not group[start]:
      continue  # padding
    colour = colours[turns[start] % len(colours)]
    axes.bar(start - 0.5, 0.7, end - start, bottom, align="edge", color=colour)
    name = str(ids[start])
    if (end - start) * COLUMNS_PIXELS / len(ids) > 8 * len(name):
      middle = (start + end - 1) / 2
      axes.text(
        middle, bottom + 0.35, name, ha="center", va="center", fontsize=9
      )


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


def _legible(piece: str) -> str:
  """The piece with its blanks visible, cut to what fits."""
  piece = piece.replace(" ", "·").replace("\n", "\\n").replace("\t", "\\t")
  if len(piece) > TOKEN_LETTERS:
    return piece[: TOKEN_LETTERS - 1] + "…"
  return piece


def main() -> None:
  """Writes a picture that needs no run."""
  parser = argparse.ArgumentParser(description="Pictures that need no run.")
  parser.add_argument("picture", choices=["margins"])
  parser.add_argument("path", type=pathlib.Path)
  draw_margins(parser.parse_args().path)


if __name__ == "__main__":
  main()
