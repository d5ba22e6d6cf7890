"""Learning curves: of one run, and of several on top of each other."""

import os

import numpy as np

from rm_jax.evals import canvas
from rm_jax.types import UserError

SMOOTHED = 20  # the running mean covers this part of the logged steps


def learning_curves(
  runs: dict[str, list[dict]],
  path: str | os.PathLike,
  *,
  metric: str,
  references: dict[str, float],
  loss_references: dict[str, float],
) -> None:
  """Writes the train loss and an evaluation metric over train steps.

  A run alone also shows every logged step and the interval of its metric.

  Args:
    runs: by name, a dictionary per logged step in any order. `step` in each;
      `loss` in those of training; `value` in those of an evaluation, with `low`
      and `high` where an interval is known.
    path: the PNG to write.
    metric: what `value` is, for the axis.
    references: by name, values of the metric that are known without a model;
      dashed lines.
    loss_references: the same, of the loss.

  Raises:
    UserError: no row of any run has `step` with `loss` or `value`.
  """
  points = {
    name: (_column(rows, "loss"), _column(rows, "value"))
    for name, rows in runs.items()
  }
  if not any(len(column) for pair in points.values() for column in pair):
    raise UserError(
      f"learning_curves: expected rows with step and loss or value, got "
      f"{sum(map(len, runs.values()))} rows without: train for longer than one "
      "log interval, or give the rows of another run."
    )
  figure, (upper, lower) = canvas.new(7.0, 2, sharex=True)
  alone = len(runs) == 1
  upper.set_title("Learning curve" if alone else "Learning curves")
  for turn, (name, (train, evals)) in enumerate(points.items()):
    colour = canvas.LINE_COLOURS[turn % len(canvas.LINE_COLOURS)]
    dashes = canvas.DASHES[turn % len(canvas.DASHES)]
    mean, window = _running_mean(train)
    if alone:
      label = "per step"
      upper.plot(*train.T, color=colour, linewidth=1.0, alpha=0.45, label=label)
    if window > 1 or not alone:
      label = f"mean of {window} logged steps" if alone else name
      upper.plot(
        *mean.T, color=colour, linestyle=dashes, linewidth=2.0, label=label
      )
    lower.plot(
      *evals.T,
      color=canvas.RED if alone else colour,
      linestyle=dashes,
      marker="o",
      markersize=4,
      label="evaluation" if alone else name,
    )
  if alone:
    _band(lower, next(iter(runs.values())))
  for axes, lines in ((upper, loss_references), (lower, references)):
    for turn, (name, value) in enumerate(lines.items(), start=1):
      dashes = canvas.DASHES[turn % len(canvas.DASHES)]
      axes.axhline(value, color=canvas.GREY, linestyle=dashes, label=name)
  upper.set_ylabel("train loss")
  lower.set_ylabel(metric)
  lower.set_xlabel("train step")
  for axes in (upper, lower):
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize=9)
  canvas.write(figure, path)


def _band(axes, rows: list[dict]) -> None:
  low, high = _column(rows, "low"), _column(rows, "high")
  if not len(low) or not np.array_equal(low[:, 0], high[:, 0]):
    return
  axes.fill_between(
    low[:, 0],
    low[:, 1],
    high[:, 1],
    color=canvas.RED,
    alpha=0.2,
    linewidth=0,
    label="its 95 % interval",
  )


def _running_mean(train: np.ndarray) -> tuple[np.ndarray, int]:
  """((step, mean of the last `window` losses) [n, 2], window)."""
  window = max(1, len(train) // SMOOTHED)
  if not len(train):
    return train, window
  mean = np.convolve(train[:, 1], np.ones(window) / window, "valid")
  return np.stack([train[window - 1 :, 0], mean], axis=1), window


def _column(rows: list[dict], key: str) -> np.ndarray:
  """(step, value) of the rows that have the key, [n, 2], by step."""
  found = [
    (row["step"], row[key]) for row in rows if "step" in row and key in row
  ]
  return np.array(sorted(found), np.float64).reshape(-1, 2)
