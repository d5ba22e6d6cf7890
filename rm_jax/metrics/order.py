"""Scores in the order that annotators gave: pairs, classes, rankings."""

import math

import numpy as np
from jaxtyping import Bool, Float, Int

from rm_jax.metrics.checks import check_shapes, numbers, same_shape
from rm_jax.types import ArrayLike, UserError

# Credit for equal scores. Reports use "half"; "drop" leaves the comparison out.
TIE_CREDIT = {"half": 0.5, "wrong": 0.0, "drop": math.nan}


def accuracy(
  chosen: Float[ArrayLike, "*C"],
  rejected: Float[ArrayLike, "*C"],
  *,
  ties: str,
) -> Float[np.ndarray, "*C"]:
  """Credit of each comparison: 1 right order, 0 wrong order, ties by policy.

  Its mean is the accuracy. Equal scores earn 1/2 ("half"), nothing ("wrong"),
  or are left out ("drop"): then only the kept comparisons come back, flat and
  in their order, so the mean is over those and the length says how many.

  Raises:
    ValueError: the shapes differ, a score is NaN, or `ties` is unknown.

  Example:
    >>> credit = accuracy([2.0, 1.0, 0.0], [1.0, 1.0, 1.0], ties="half")
    >>> print(f"{credit.mean():.4f}")
    0.5000
  """
  if ties not in TIE_CREDIT:
    raise UserError(
      f"accuracy: expected ties in {', '.join(TIE_CREDIT)}, got {ties!r}. "
      'Reports use "half".'
    )
  chosen, rejected = same_shape("accuracy", chosen=chosen, rejected=rejected)
  credit = (chosen > rejected).astype(np.float64)
  tied = chosen == rejected
  if ties == "drop":
    return credit[~tied]
  return np.where(tied, TIE_CREDIT[ties], credit)


def roc_area(
  scores: Float[ArrayLike, "*N"], labels: Bool[ArrayLike, "*N"]
) -> float:
  """P(a true item scores higher than a false one), equal scores 1/2.

  The area under the receiver operating characteristic: 1/2 is chance, no
  threshold and no share of true items moves it. nan where one kind is missing.

  Source: Mann and Whitney 1947, their statistic over the number of pairs.

  Raises:
    ValueError: the shapes differ, labels are not boolean, or a score is NaN.

  Example:
    >>> print(f"{roc_area([3.0, 1.0, 1.0], [True, True, False]):.4f}")
    0.7500
  """
  check_shapes("roc_area", scores=scores, labels=labels)
  (scores,) = numbers("roc_area", scores=scores)
  labels = np.asarray(labels)
  if labels.dtype != bool:
    raise ValueError(
      f"roc_area: expected boolean labels, got {labels.dtype}. Compare them "
      "with a threshold."
    )
  false = np.sort(scores[~labels])
  true = scores[labels]
  if not len(false) or not len(true):
    return math.nan
  below = np.searchsorted(false, true, side="left")
  up_to = np.searchsorted(false, true, side="right")
  return float((below + up_to).sum() / (2 * len(true) * len(false)))


def kendall_tau(
  scores: Float[ArrayLike, "*G K"],
  ranks: Int[ArrayLike, "*G K"],
  where: Bool[ArrayLike, "*G K"],
) -> Float[np.ndarray, "*G"]:
  """Kendall's tau-b of scores against ranks, one value per group; 1 agrees.

      tau_b = (agreeing - opposed) / sqrt(pairs untied in scores
                                          * pairs untied in ranks)

  over pairs of real items. Ranks are smaller for better, so a higher score for
  a smaller rank agrees. nan where all scores or all ranks are tied.

  Source: Kendall 1945.

  Raises:
    ValueError: the shapes differ, `where` is not boolean, or the score or the
      rank of a real item is NaN.

  Example:
    >>> print(f"{kendall_tau([3.0, 1.0, 2.0], [0, 1, 2], [True] * 3):.4f}")
    0.3333
  """
  check_shapes("kendall_tau", scores=scores, ranks=ranks, where=where)
  where = np.asarray(where)
  if where.dtype != bool or not where.ndim:
    raise ValueError(
      f"kendall_tau: expected a boolean where [..., K], got {where.dtype} of "
      f"shape {where.shape}. Compare it with 0, or index it."
    )
  # Before the check for NaN: padding may hold anything.
  (scores,) = numbers("kendall_tau", scores=np.where(where, scores, 0.0))
  (ranks,) = numbers("kendall_tau", ranks=np.where(where, ranks, 0))
  # By comparison, not by sign of a difference: inf - inf is NaN.
  higher = _exceeds(scores) - _exceeds(scores).swapaxes(-1, -2)
  better = _exceeds(ranks).swapaxes(-1, -2) - _exceeds(ranks)
  real = where[..., :, None] & where[..., None, :]
  agreement = (higher * better * real).sum((-2, -1))
  untied = (higher**2 * real).sum((-2, -1)) * (better**2 * real).sum((-2, -1))
  with np.errstate(invalid="ignore"):  # 0 / 0: no order, nan
    return agreement / np.sqrt(untied)


def _exceeds(values):
  """Returns [..., K, K]: 1.0 where value i is greater than value j."""
  return (values[..., :, None] > values[..., None, :]).astype(np.float64)
