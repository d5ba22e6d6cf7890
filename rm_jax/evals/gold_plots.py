"""Pictures against the gold reward of a world whose truth is known."""

import os

import numpy as np
from jaxtyping import Float, Int

from rm_jax.evals import canvas
from rm_jax.types import ArrayLike


def gold_against_score(
  gold: Float[ArrayLike, " M"],
  scores: Float[ArrayLike, " M"],
  group: Int[ArrayLike, " M"],
  path: str | os.PathLike,
  *,
  tau: float,
) -> None:
  """Writes score over gold: as they are, and each less its group's mean.

  Only the right panel shows what comparisons can teach: a constant added to all
  scores of one prompt changes no comparison.

  Args:
    tau: mean of Kendall's tau within groups, for the title; NaN: none.
  """
  gold, scores = np.asarray(gold, float), np.asarray(scores, float)
  member = np.unique(group, return_inverse=True)[1]
  figure, (left, right) = canvas.new(4.6, 1, 2)
  alpha = float(np.clip(300 / len(gold), 0.05, 0.6))
  for axes, x, y in (
    (left, gold, scores),
    (right, _less_mean(gold, member), _less_mean(scores, member)),
  ):
    axes.scatter(x, y, s=14, alpha=alpha, color=canvas.BLUE, linewidths=0)
    axes.grid(alpha=0.3)
  left.set_title(f"All {len(gold)} completions")
  left.set_xlabel("gold reward")
  left.set_ylabel("score (head output)")
  said = f"{tau:.3f}" if np.isfinite(tau) else "not defined"
  right.set_title(f"Within {member.max() + 1} groups, mean tau-b: {said}")
  right.set_xlabel("gold reward less the group's mean")
  right.set_ylabel("score less the group's mean")
  canvas.write(figure, path)


def best_of_n_curves(
  lines: dict[str, Float[ArrayLike, " K"]],
  low: Float[ArrayLike, " K"],
  high: Float[ArrayLike, " K"],
  path: str | os.PathLike,
  *,
  groups: int,
) -> None:
  """Writes how far the best of n is from the group's mean to its best.

  Args:
    lines: by who chooses, at n = 1 ... K; the first one is the model, with the
      band from `low` to `high`. 0 is the mean of the group, 1 its best.
    groups: how many the lines are means of.
  """
  figure, axes = canvas.new(5.2, 1)
  n = np.arange(1, len(low) + 1)
  looks = (
    dict(color=canvas.BLUE, marker="o", linewidth=2.5),
    dict(color=canvas.GREEN, marker="^", linestyle=(0, (6, 3))),
    dict(color=canvas.ORANGE, marker="s", linestyle=(0, (2, 2))),
    dict(color=canvas.GREY, linestyle="--"),
  )
  for (name, values), look in zip(lines.items(), looks, strict=True):
    axes.plot(n, values, label=name, **look)
  axes.fill_between(
    n,
    low,
    high,
    color=canvas.BLUE,
    alpha=0.2,
    linewidth=0,
    label="its 95 % interval over prompts",
  )
  axes.set_xticks(n if len(n) <= 16 else n[:: len(n) // 8])
  axes.set_title(f"Gold reward of the best of n, {groups:,} groups of {len(n)}")
  axes.set_xlabel("n completions to choose from")
  axes.set_ylabel("0: mean of the group, 1: its best")
  axes.grid(alpha=0.3)
  axes.legend(loc="best", fontsize=9)
  canvas.write(figure, path)


def arms_best_of_n(
  arms: dict[str, tuple],
  known: dict[str, Float[ArrayLike, " K"]],
  path: str | os.PathLike,
  *,
  groups: int,
) -> None:
  """Writes `best_of_n_curves` of several models beside each other.

  Args:
    arms: by name (values, low, high) at n = 1 ... K.
    known: what needs no model: dashed.
  """
  figure, axes = canvas.new(5.2, 1)
  for turn, (name, (values, low, high)) in enumerate(arms.items()):
    colour = canvas.LINE_COLOURS[turn % len(canvas.LINE_COLOURS)]
    n = np.arange(1, len(values) + 1)
    axes.plot(n, values, color=colour, marker="o", label=name)
    axes.fill_between(n, low, high, color=colour, alpha=0.15, linewidth=0)
  looks = ((0, (6, 3)), (0, (2, 2)), (0, (1, 3)))
  for (name, values), dashes in zip(known.items(), looks, strict=True):
    n = np.arange(1, len(values) + 1)
    axes.plot(n, values, color=canvas.GREY, linestyle=dashes, label=name)
  axes.set_title(f"Gold reward of the best of n, {groups:,} groups; 95 % bands")
  axes.set_xlabel("n completions to choose from")
  axes.set_ylabel("0: mean of the group, 1: its best")
  axes.set_xticks(n if len(n) <= 16 else n[:: len(n) // 8])
  axes.grid(alpha=0.3)
  axes.legend(loc="best", fontsize=9)
  canvas.write(figure, path)


def _less_mean(values: np.ndarray, member: np.ndarray) -> np.ndarray:
  return values - (np.bincount(member, values) / np.bincount(member))[member]
