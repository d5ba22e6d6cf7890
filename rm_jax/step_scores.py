"""Scores of reasoning steps to one number per solution.

One causal forward pass scores every step (`RewardModel.score_steps`); here is
what is made of them. Arrays are [..., S] with a boolean `where` of the same
shape: what stands where it is False takes no part, NaN included. numpy,
float64. Product and cumulative product are of probabilities, in log space: a
hundred steps at 0.5 make 1e-30, and thousands make 0, which ties everything.

A solution without a step has no score: that is an error, because the product
over nothing is 1 and would win.
"""

import numpy as np
from jaxtyping import Bool, Float

from rm_jax.types import ArrayLike, UserError


def pad_steps(
  rows: list,
) -> tuple[Float[np.ndarray, "N S"], Bool[np.ndarray, "N S"]]:
  """(scores, where) of solutions with different numbers of steps.

  Example:
    >>> scores, where = pad_steps([[0.9, 0.8], [0.5]])
    >>> print(where.tolist())
    [[True, True], [True, False]]
  """
  arrays = [np.asarray(row, np.float64) for row in rows]
  for n, row in enumerate(arrays):
    if row.ndim != 1:
      raise ValueError(
        f"pad_steps: expected one list of step scores per solution, got shape "
        f"{row.shape} for solution {n}."
      )
  longest = max(map(len, arrays), default=0)
  scores = np.full((len(arrays), longest), np.nan)
  for n, row in enumerate(arrays):
    scores[n, : len(row)] = row
  where = np.arange(longest) < np.asarray([len(a) for a in arrays])[:, None]
  return scores, where


def log_product(
  probabilities: Float[ArrayLike, "*G S"], where: Bool[ArrayLike, "*G S"]
) -> Float[np.ndarray, "*G"]:
  """Logarithm of the product of step probabilities; rank by this one.

      log P(all steps are right) = sum over steps of log p

  -inf where a probability is 0.

  Source: Lightman et al. 2023, arXiv:2305.20050, section 2.6.

  Raises:
    ValueError: shapes differ, NaN or a number outside [0, 1] at a real step, a
      solution without steps.

  Example:
    >>> print(f"{log_product([0.9, 0.5], [True, True]):.4f}")
    -0.7985
  """
  p, where = check_steps("log_product", probabilities, where)
  with np.errstate(divide="ignore"):
    return np.where(where, np.log(_in_unit("log_product", p, where)), 0).sum(-1)


def product(
  probabilities: Float[ArrayLike, "*G S"], where: Bool[ArrayLike, "*G S"]
) -> Float[np.ndarray, "*G"]:
  """Product of step probabilities: `log_product` without the logarithm.

  Example:
    >>> print(f"{product([0.9, 0.5], [True, True]):.4f}")
    0.4500
  """
  return np.exp(log_product(probabilities, where))


def minimum(
  scores: Float[ArrayLike, "*G S"], where: Bool[ArrayLike, "*G S"]
) -> Float[np.ndarray, "*G"]:
  """The lowest step score.

  Source: Lightman et al. 2023, arXiv:2305.20050, appendix F.2; adopted by Wang
  et al. 2023 (Math-Shepherd), arXiv:2312.08935.

  Example:
    >>> print(f"{minimum([0.9, 0.5, 0.7], [True] * 3):.4f}")
    0.5000
  """
  scores, where = check_steps("minimum", scores, where)
  return np.where(where, scores, np.inf).min(-1)


def mean(
  scores: Float[ArrayLike, "*G S"], where: Bool[ArrayLike, "*G S"]
) -> Float[np.ndarray, "*G"]:
  """The mean step score: `weighted` with equal weights.

  Example:
    >>> print(f"{mean([0.9, 0.5, 0.7], [True] * 3):.4f}")
    0.7000
  """
  return weighted(scores, where, np.ones(np.shape(scores)))


def last(
  scores: Float[ArrayLike, "*G S"], where: Bool[ArrayLike, "*G S"]
) -> Float[np.ndarray, "*G"]:
  """The score of the last step: what an outcome model is read at.

  Source: Cobbe et al. 2021, arXiv:2110.14168, section 4.2.

  Example:
    >>> print(f"{last([0.9, 0.5, 0.7], [True, True, False]):.4f}")
    0.5000
  """
  scores, where = check_steps("last", scores, where)
  place = scores.shape[-1] - 1 - where[..., ::-1].argmax(-1)
  return np.take_along_axis(scores, place[..., None], -1)[..., 0]


def weighted(
  scores: Float[ArrayLike, "*G S"],
  where: Bool[ArrayLike, "*G S"],
  weights: Float[ArrayLike, "*G S"],
) -> Float[np.ndarray, "*G"]:
  """Weighted mean of the step scores.

      sum of w s / sum of w

  over real steps. Weights may be tokens per step, or anything that is not
  negative and not 0 for all steps of a solution.

  Raises:
    ValueError: as of the others; a negative weight, weights that are all 0.

  Example:
    >>> print(f"{weighted([0.9, 0.5], [True, True], [1.0, 3.0]):.4f}")
    0.6000
  """
  scores, where = check_steps("weighted", scores, where)
  weights, _ = check_steps("weighted", weights, where, name="weights")
  if (weights[where] < 0).any():
    raise ValueError(
      f"weighted: expected weights of 0 or more, got {weights[where].min():g}."
    )
  total = np.where(where, weights, 0.0).sum(-1)
  if (total == 0).any():
    raise ValueError(
      f"weighted: the weights of the solution at {_first(total == 0)} are all "
      "0. Give one of its steps a weight, or leave it out."
    )
  return np.where(where, weights * scores, 0.0).sum(-1) / total


# Name -> the function; `weighted` needs an argument more.
AGGREGATES = {
  "product": product,
  "log_product": log_product,
  "min": minimum,
  "mean": mean,
  "last": last,
}


def aggregate(
  scores: Float[ArrayLike, "*G S"], where: Bool[ArrayLike, "*G S"], *, by: str
) -> Float[np.ndarray, "*G"]:
  """One score per solution, by a name of AGGREGATES.

  Raises:
    UserError: an unknown name.
    ValueError: see the function of the name.

  Example:
    >>> print(f"{aggregate([0.9, 0.5], [True, True], by='min'):.4f}")
    0.5000
  """
  if by not in AGGREGATES:
    raise UserError(
      f"aggregate: by={by!r} is not known. Known: {', '.join(AGGREGATES)}."
    )
  return AGGREGATES[by](scores, where)


def cumulative(
  scores: Float[ArrayLike, "*G S"], where: Bool[ArrayLike, "*G S"], *, by: str
) -> Float[np.ndarray, "*G S"]:
  """At each real step the aggregate of the steps so far; NaN elsewhere.

  What a solution would score if it ended there. By mean over logits it is the
  running score of Lyu et al. 2025 (OREAL), arXiv:2502.06781, whose token weight
  is its sigmoid.

  Args:
    by: a name of AGGREGATES; last gives the scores themselves.

  Example:
    >>> print(cumulative([0.9, 0.5, 0.8], [True] * 3, by="product").round(4))
    [0.9  0.45 0.36]
  """
  if by not in AGGREGATES:
    raise UserError(
      f"cumulative: by={by!r} is not known. Known: {', '.join(AGGREGATES)}."
    )
  scores, where = check_steps("cumulative", scores, where)
  if by == "min":
    out = np.minimum.accumulate(np.where(where, scores, np.inf), -1)
  elif by == "mean":
    out = np.where(where, scores, 0.0).cumsum(-1)
    out = out / np.maximum(where.cumsum(-1), 1)
  elif by == "last":
    out = scores
  else:
    p = _in_unit("cumulative", scores, where)
    with np.errstate(divide="ignore"):
      out = np.where(where, np.log(p), 0.0).cumsum(-1)
    out = np.exp(out) if by == "product" else out
  return np.where(where, out, np.nan)


def check_steps(caller: str, scores, where, *, name: str = "scores"):
  """(float64, bool) of one shape: a number at every real step, one or more.

  Raises:
    ValueError: other shapes, a solution without steps, NaN at a real step.
  """
  scores, where = np.asarray(scores, np.float64), np.asarray(where)
  if where.dtype != bool:
    raise ValueError(
      f"{caller}: expected a boolean where, got {where.dtype}. Compare it with "
      "0, or index it."
    )
  if scores.shape != where.shape or not where.ndim:
    raise ValueError(
      f"{caller}: expected {name} and where of one shape [..., S], got "
      f"{scores.shape} and {where.shape}."
    )
  empty = ~where.any(-1)
  if empty.any():
    raise ValueError(
      f"{caller}: the solution at {_first(empty)} has no step. Leave it out "
      "and count it."
    )
  unknown = where & np.isnan(scores)
  if unknown.any():
    raise ValueError(
      f"{caller}: expected numbers, got NaN in {name} at index "
      f"{_first(unknown)}. Find out why the step has no score, or set where to "
      "False there."
    )
  return scores, where


def _in_unit(caller, p, where):
  """Probabilities at real steps, 1 elsewhere."""
  bad = where & ((p < 0) | (p > 1))
  if bad.any():
    raise ValueError(
      f"{caller}: expected probabilities from 0 to 1, got {p[bad][0]:g} at "
      f"index {_first(bad)}. Take the sigmoid of scores that are logits."
    )
  return np.where(where, p, 1.0)


def _first(marked) -> tuple:
  return tuple(int(i) for i in np.argwhere(marked)[0]) if marked.ndim else ()
