"""Pictures of what models say at every token of a completion."""

import os
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from rm_jax.evals import canvas
from rm_jax.types import UserError

MARKS = "Dos^vPX*"  # of models in turn: colours may look alike
LETTERS = 9  # of a line of a text below the axis, the rest is cut


class Read(NamedTuple):
  """What one model says along a completion."""

  name: str
  values: Float[np.ndarray, " L"]  # in [0, 1]; NaN: it says nothing there
  learnt: bool | np.ndarray = True  # bool [L]: where training asked it


class Completion(NamedTuple):
  """One panel: tokens, what is true of them, what models say.

  Or the means of many completions, whose "tokens" are the columns of the means.
  """

  title: str
  tokens: list  # L texts, of one line or more
  reads: tuple  # of Read
  truth: Float[np.ndarray, " L"]  # the chance of success; NaN: unknown
  wrong_from: int = -1  # first token of the first wrong step; -1: none


def along_tokens(
  completions: list[Completion], path: str | os.PathLike, *, title: str
) -> None:
  """Writes the PNG: a panel per completion, a line per model.

  Where training asked a model there is a mark; where it is read without having
  been asked there is its line alone. The grey steps are the true chance that
  the completion will be right; what follows the first mistake is shaded.

  Raises:
    UserError: an array is not as long as its tokens.
  """
  figure, grid = canvas.new(
    0.8 + 2.4 * len(completions), len(completions), squeeze=False, sharey=True
  )
  for axes, one in zip(grid[:, 0], completions, strict=True):
    _panel(axes, one)
  handles, labels = grid[0, 0].get_legend_handles_labels()
  figure.legend(
    handles, labels, loc="outside lower center", ncols=3, fontsize=9
  )
  figure.supylabel("chance, value or share", fontsize=10)
  figure.suptitle(title, fontsize=11)
  canvas.write(figure, path)


def _panel(axes, one: Completion) -> None:
  length = len(one.tokens)
  column = np.arange(length)
  for name, values in [
    ("truth", one.truth),
    *((r[0], r[1]) for r in one.reads),
  ]:
    if len(values) != length:
      raise UserError(
        f"along_tokens: expected {length} values of {name}, one a token of "
        f"{one.title!r}, got {len(values)}."
      )
  if one.wrong_from >= 0:
    axes.axvspan(
      one.wrong_from - 0.5, length - 0.5, color=canvas.RED, alpha=0.09, lw=0
    )
  axes.step(
    column,
    one.truth,
    where="mid",
    color=canvas.GREY,
    linewidth=5,
    alpha=0.35,
    label="true chance of a right answer",
  )
  for turn, read in enumerate(one.reads):
    colour = canvas.LINE_COLOURS[turn]
    learnt = np.broadcast_to(read.learnt, length)
    said = np.isfinite(read.values)
    axes.plot(
      column[said],
      read.values[said],
      color=colour,
      linestyle="-" if learnt[said].all() else ":",
      linewidth=1.5,
      marker=MARKS[turn],
      markersize=5,
      markevery=np.flatnonzero(learnt[said]).tolist(),
      label=read.name,
    )
  axes.set_xticks(column, [_short(t) for t in one.tokens])
  axes.set_xlim(-0.5, length - 0.5)
  axes.set_ylim(-0.04, 1.04)
  axes.set_title(one.title, fontsize=10, loc="left")
  axes.grid(alpha=0.3)


def _short(text: str) -> str:
  return "\n".join(
    line if len(line) <= LETTERS else line[: LETTERS - 1] + "…"
    for line in text.split("\n")
  )
