"""Pictures of a packed row: its groups, branches, tokens, and who sees whom."""

import os

import numpy as np
from jaxtyping import Bool, Int
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from rm_jax.evals import canvas
from rm_jax.types import ArrayLike, UserError

COLUMNS_PIXELS = 900  # of a packed row: the width less labels and margins
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
LEAST_TOKEN_PIXELS = 11  # of a column: below that its text cannot be read
TOKEN_LETTERS = 10  # of a piece, the rest is cut


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
  figure, (bands, mask) = canvas.new(
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
  mask.matshow(
    sees, cmap=ListedColormap([PADDING, canvas.BLUE]), vmin=0, vmax=1
  )
  mask.set_aspect("auto")
  mask.xaxis.set_ticks_position("bottom")
  for boundary in np.flatnonzero(np.diff(group)) + 0.5:
    mask.axhline(boundary, color=canvas.GREY, linewidth=0.8)
    mask.axvline(boundary, color=canvas.GREY, linewidth=0.8)
  mask.set_title(f"Attention: {sees.mean():.1%} of {length} x {length}")
  mask.set_xlabel("key (column of the row)")
  mask.set_ylabel("query (column of the row)")
  canvas.write(figure, path)


def _same_length(name: str, got: int, length: int) -> None:
  if got != length:
    raise UserError(
      f"packed_row: expected {name} of length {length} as row['tokens'], got "
      f"{got}: give the arrays of one row of the batch."
    )


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


def _legible(piece: str) -> str:
  """The piece with its blanks visible, cut to what fits."""
  piece = piece.replace(" ", "·").replace("\n", "\\n").replace("\t", "\\t")
  if len(piece) > TOKEN_LETTERS:
    return piece[: TOKEN_LETTERS - 1] + "…"
  return piece


def tokens_saved(
  bars: list[tuple[str, int]], path: str | os.PathLike, *, title: str
) -> None:
  """Writes tokens as bars, one below the other, with their numbers."""
  figure, axes = canvas.new(1.3 + 0.45 * len(bars), 1)
  names, counts = zip(*bars, strict=True)
  drawn = axes.barh(names, counts, color=canvas.BLUE, alpha=0.7)
  axes.bar_label(drawn, [f"{count:,}" for count in counts], padding=4)
  axes.invert_yaxis()
  axes.margins(x=0.15)
  axes.set_title(title)
  axes.set_xlabel("tokens")
  axes.xaxis.set_major_formatter("{x:,.0f}")
  axes.spines[["top", "right"]].set_visible(False)
  canvas.write(figure, path)
