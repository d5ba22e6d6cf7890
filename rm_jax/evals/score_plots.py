"""Pictures of scores: of the two sides, by strength, by length, as odds."""

import os
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from rm_jax.evals import canvas
from rm_jax.train.labels import sigmoid
from rm_jax.types import ArrayLike, UserError

BINS = 15  # of the reliability curve, as in metrics.calibration_error
MOST_BINS = 60  # of a histogram: more are thinner than its lines


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
  figure, (left, right) = canvas.new(4.2, 1, 2)
  edges = _edges(np.concatenate([chosen, rejected]))
  for values, colour, name in (
    (rejected, canvas.ORANGE, "rejected"),
    (chosen, canvas.BLUE, "chosen"),
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
  right.hist(score_diff, _edges(score_diff), color=canvas.GREEN, alpha=0.7)
  right.axvline(0.0, color=canvas.GREY, linestyle="--", label="0: a tie")
  right.axvline(
    score_diff.mean(),
    color=canvas.GREEN,
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
  canvas.write(figure, path)


class Bins(NamedTuple):
  """Predicted and observed preference by bin; bins that hold something."""

  mean: np.ndarray  # [b] of the predicted probabilities
  share: np.ndarray  # [b] that is the chosen side
  count: np.ndarray  # [BINS], the empty ones too
  error: float  # expected calibration error


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
  bins = _odds(score_diff)
  figure, (upper, lower) = canvas.new(
    8.0, 2, sharex=True, gridspec_kw={"height_ratios": (3, 1)}
  )
  upper.set_title(
    f"Reliability: ECE = {bins.error:.4f} over {BINS} bins, "
    f"{len(score_diff)} comparisons seen from both sides"
  )
  _diagonal(upper)
  upper.plot(
    bins.mean, bins.share, color=canvas.BLUE, marker="o", label="observed"
  )
  upper.vlines(
    bins.mean,
    bins.mean,
    bins.share,
    color=canvas.RED,
    linewidth=2,
    label="error",
  )
  upper.legend(loc="upper left", fontsize=9)
  centres = (np.arange(BINS) + 0.5) / BINS
  bars = lower.bar(
    centres, bins.count, 0.9 / BINS, color=canvas.BLUE, alpha=0.6
  )
  lower.bar_label(bars, [str(n) for n in bins.count], fontsize=8, padding=1)
  lower.margins(y=0.2)
  lower.set_ylabel("count")
  lower.set_xlabel("predicted: sigmoid(score difference)")
  lower.set_xlim(0, 1)
  for axes in (upper, lower):
    axes.grid(alpha=0.3)
  canvas.write(figure, path)
  return bins.error


def reliability_after(
  before: Float[ArrayLike, " C"],
  after: Float[ArrayLike, " C"],
  path: str | os.PathLike,
  *,
  temperature: float,
) -> tuple[float, float]:
  """Writes `reliability` of raw and of divided differences; their two ECEs.

  Args:
    before: chosen minus rejected score.
    after: the same divided by the temperature.

  Raises:
    UserError: no comparison, different shapes, a difference that is not finite.
  """
  before, after = _scores("reliability_after", before, after)
  figure, axes = canvas.new(6.0, 1)
  _diagonal(axes)
  errors = []
  for values, colour, marker, name in (
    (before, canvas.ORANGE, "s", "before"),
    (after, canvas.BLUE, "o", f"after division by {temperature:.3g}"),
  ):
    bins = _odds(values)
    axes.plot(
      bins.mean,
      bins.share,
      color=colour,
      marker=marker,
      label=f"{name}: ECE {bins.error:.4f}",
    )
    errors.append(bins.error)
  axes.set_title(
    f"Reliability before and after temperature, {len(before)} comparisons "
    "that did not fit it"
  )
  axes.set_xlabel("predicted: sigmoid(score difference / temperature)")
  axes.set_xlim(0, 1)
  axes.grid(alpha=0.3)
  axes.legend(loc="upper left", fontsize=10)
  canvas.write(figure, path)
  return errors[0], errors[1]


def interval_dots(
  rows: list[tuple],
  path: str | os.PathLike,
  *,
  title: str,
  label: str,
  reference: tuple[str, float],
) -> None:
  """Writes a value with its interval per row, and how many it is of.

  Args:
    rows: (name, value, low, high, n) from the top; low and high None or NaN:
      no interval.
    label: of the values.
    reference: (name, value) of a dashed line.
  """
  figure, axes = canvas.new(1.6 + 0.55 * len(rows), 1)
  name, value = reference
  axes.axvline(value, color=canvas.GREY, linestyle="--")
  axes.annotate(
    f" {name}", (value, len(rows) - 0.55), color=canvas.GREY, va="bottom"
  )
  for place, (_, value, low, high, n) in enumerate(rows):
    if low is not None and np.isfinite([low, high]).all():
      axes.plot([low, high], [place, place], color=canvas.BLUE, linewidth=2.5)
    axes.plot(value, place, color=canvas.BLUE, marker="o", markersize=9)
    axes.annotate(
      f"{value:.3f}, n = {n:,}",
      (value, place),
      (0, 8),
      textcoords="offset points",
      ha="center",
      fontsize=10,
    )
  axes.set_yticks(range(len(rows)), [row[0] for row in rows], fontsize=11)
  axes.set_ylim(len(rows) - 0.5, -0.75)
  axes.margins(x=0.15)
  axes.set_title(title)
  axes.set_xlabel(label)
  axes.grid(alpha=0.3, axis="x")
  canvas.write(figure, path)


def score_by_length(
  length: Float[ArrayLike, " M"],
  scores: Float[ArrayLike, " M"],
  path: str | os.PathLike,
  *,
  correlation: float,
) -> None:
  """Writes the score of every completion over its tokens.

  Args:
    correlation: of the two within groups, for the title; NaN: none.
  """
  length, scores = _scores("score_by_length", length, scores)
  figure, axes = canvas.new(4.6, 1)
  axes.scatter(
    length, scores, s=12, alpha=_alpha(scores), color=canvas.BLUE, linewidths=0
  )
  said = f"{correlation:.3f}" if np.isfinite(correlation) else "not defined"
  axes.set_title(
    f"Score over length, {len(scores)} completions; correlation within "
    f"groups: {said}"
  )
  axes.set_xlabel("tokens of prompt and completion")
  axes.set_ylabel("score (head output)")
  axes.grid(alpha=0.3)
  canvas.write(figure, path)


def _odds(score_diff: np.ndarray) -> Bins:
  """The bins of both sides of every comparison."""
  predicted = np.concatenate([sigmoid(score_diff), sigmoid(-score_diff)])
  won = np.repeat([1.0, 0.0], len(score_diff))  # [2 C]
  edges = np.arange(1, BINS) / BINS
  index = np.searchsorted(edges, predicted, side="left")
  count = np.bincount(index, minlength=BINS)  # [BINS]
  real = count > 0
  mean = np.bincount(index, predicted, BINS)[real] / count[real]
  share = np.bincount(index, won, BINS)[real] / count[real]
  error = float(np.abs(mean - share) @ count[real] / count.sum())
  return Bins(mean, share, count, error)


def _diagonal(axes) -> None:
  axes.plot(
    [0, 1], [0, 1], color=canvas.GREY, linestyle="--", label="calibrated"
  )
  axes.set_ylabel("observed: share that is the chosen side")
  axes.set_ylim(-0.03, 1.03)


def _alpha(values: np.ndarray) -> float:
  """Of dots, fainter where there are many."""
  return float(np.clip(300 / len(values), 0.05, 0.6))


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


def _edges(values: np.ndarray) -> np.ndarray:
  """Bin edges after the data, at most MOST_BINS bins."""
  edges = np.histogram_bin_edges(values, "auto")
  if len(edges) > MOST_BINS + 1:  # an outlier, or a million scores
    return np.histogram_bin_edges(values, MOST_BINS)
  return edges
