"""What a record says about pairs of its completions: order, votes, margins."""

import numpy as np

from rm_jax.data.rejects import record_error
from rm_jax.data.tokenize import check_choice
from rm_jax.margins import MARGINS, NEEDS
from rm_jax.types import Comparison, Record

STATED = "record"  # the margin that the data itself states

# Margins that read no rating: any pair of numbers will do.
RATING_FREE = ("none", "constant_one")


def find_ranks(record: Record) -> np.ndarray | None:
  """Returns int32 [K], smaller is better, or None where nothing gives an order.

  From the ranks, the pair, the ratings or the outcome labels: the first that
  the record has. Of several attributes none is the order.
  """
  if record.ranks is not None:
    return np.asarray(record.ranks, np.int32)
  if record.comparisons is not None:
    return None  # may hold cycles
  if record.kind == "pair":
    return np.asarray([0, 1], np.int32)
  values = record.ratings if record.ratings is not None else record.labels
  if values is None:
    return None
  better_first = sorted(set(values), reverse=True)
  return np.asarray([better_first.index(v) for v in values], np.int32)


def find_comparisons(record: Record, *, ties: bool) -> list[Comparison]:
  """Returns the comparisons: those the record lists, else all its ranks give.

  Args:
    ties: also the tied ones, with preference 1/2, each once.
  """
  if record.comparisons is not None:
    return [c for c in record.comparisons if ties or c.preference > 0.5]
  ranks = find_ranks(record)
  if ranks is None:
    return []
  preference = 1.0 if record.preference is None else record.preference
  if record.kind == "pair" and record.ranks is None:
    return [Comparison(0, 1, preference, record.strength)]
  found = [
    Comparison(int(i), int(j), preference, record.strength)
    for i, j in np.argwhere(ranks[:, None] < ranks[None, :])
  ]
  if ties:
    tied = np.argwhere(np.triu(ranks[:, None] == ranks[None, :], 1))
    found += [Comparison(int(i), int(j), 0.5, None) for i, j in tied]
  return found


def find_margins(record, comparisons, *, margin: str) -> np.ndarray:
  """Returns float32 [C]: the margin of each comparison; a tie has 0."""
  check_choice("config.loss.margin", margin, (*MARGINS, STATED))
  out = np.zeros(len(comparisons), np.float32)
  for n, compared in enumerate(comparisons):
    if compared.preference > 0.5:
      try:
        out[n] = one_margin(record, compared, margin)
      except ValueError as error:
        raise record_error(record, str(error)) from error
  return out


def one_margin(record: Record, compared: Comparison, margin: str) -> float:
  """Returns the margin of one comparison that is not a tie."""
  ratings = record.ratings
  if margin == STATED:
    given, needs = record.margin, ("margin",)
  elif NEEDS[margin] == ("strength",):
    given, needs = compared.strength, ("strength",)
  else:
    if margin in RATING_FREE:
      ratings = (0.0,) * len(record.completions)
    given, needs = ratings, NEEDS[margin]
  if given is None:
    raise ValueError(
      f"margin {margin!r} needs {' and '.join(needs)}, the record has none: "
      "add them or use margin 'none'"
    )
  if margin == STATED:
    return given
  if given is ratings:
    return MARGINS[margin](ratings[compared.chosen], ratings[compared.rejected])
  return MARGINS[margin](given)
