"""Scores of reasoning steps to the place of a mistake.

Arrays as in rm_jax/step_scores.py: [..., S] with `where`; what stands where it
is False takes no part. Steps are numbered from 0 among the real ones.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from rm_jax.metrics import first_error_f1
from rm_jax.step_scores import check_steps
from rm_jax.types import ArrayLike, UserError

NO_ERROR = -1  # as ProcessBench writes it

# What PRMBench takes the mean over -> classes, spelt as in its files.
PRMBENCH = {
  "simplicity": ("redundency", "circular"),
  "soundness": (
    "counterfactual",
    "step_contradiction",
    "domain_inconsistency",
    "confidence",
  ),
  "sensitivity": ("missing_condition", "deception", "multi_solutions"),
}
NO_WRONG_STEP = "multi_solutions"  # a class of right solutions


def first_error(
  scores: Float[ArrayLike, "*G S"],
  where: Bool[ArrayLike, "*G S"],
  *,
  threshold: float,
) -> Int[np.ndarray, "*G"]:
  """The first step whose score is below the threshold, from 0; -1: none.

  A step exactly at the threshold is right.

  Source: Zheng et al. 2024 (ProcessBench), arXiv:2412.06559, as its public code
  does it.

  Example:
    >>> print(first_error([0.9, 0.5, 0.1], [True] * 3, threshold=0.5))
    2
  """
  scores, where = check_steps("first_error", scores, where)
  below = where & (scores < threshold)
  return _place(below, where)


def best_threshold(
  scores: Float[ArrayLike, "N S"],
  where: Bool[ArrayLike, "N S"],
  gold: Int[ArrayLike, " N"],
) -> tuple[float, float]:
  """(threshold, F1) of the best `first_error_f1`; apply it to other data.

  All thresholds that differ in what they find are tried: half way between
  neighbouring step scores. Of equal F1 the lowest threshold.

  Source: how ProcessBench treats scores that are no probabilities: the best on
  one split, kept for all others.

  Args:
    gold: first wrong step from 0, -1: none.

  Raises:
    ValueError: as of `first_error`; gold lacks one of the two kinds.

  Example:
    >>> scores, where = [[0.9, 0.2], [0.8, 0.6]], [[True] * 2] * 2
    >>> print("{:.2f} {:.2f}".format(*best_threshold(scores, where, [1, -1])))
    0.40 1.00
  """
  scores, where = check_steps("best_threshold", scores, where)
  values = np.unique(scores[where])
  if not np.isfinite(first_error_f1(np.asarray(gold), np.asarray(gold))):
    raise UserError(
      "best_threshold: expected solutions with and without an error, got one "
      "kind only: every threshold would be as good."
    )
  tried = [values[0], *((values[1:] + values[:-1]) / 2), values[-1] + 1.0]
  best = (-1.0, 0.0)
  for threshold in tried:
    found = _place(where & (scores < threshold), where)
    f1 = first_error_f1(found, gold)
    if f1 > best[0]:
      best = (f1, float(threshold))
  return best[1], best[0]


def largest_drop(
  scores: Float[ArrayLike, "*G S"],
  where: Bool[ArrayLike, "*G S"],
  *,
  before: float,
) -> Int[np.ndarray, "*G"]:
  """The step at which the score falls most from the one before, from 0.

      argmax over steps of s_(t-1) - s_t,  s_(-1) = before

  -1 where it falls nowhere; of equal falls the first. Among real steps.

  Args:
    before: what the score is before the first step, such as the base rate.

  Example:
    >>> print(largest_drop([0.8, 0.7, 0.2], [True] * 3, before=0.8))
    2
  """
  scores, where = check_steps("largest_drop", scores, where)
  if not where.all():  # the step before may stand several columns before
    order = np.argsort(~where, -1, kind="stable")
    scores = np.take_along_axis(scores, order, -1)
    where = np.take_along_axis(where, order, -1)
  edge = np.full((*scores.shape[:-1], 1), float(before))
  fall = np.concatenate([edge, scores[..., :-1]], -1) - scores
  fall = np.where(where, fall, -np.inf)
  return np.where(fall.max(-1) > 0, fall.argmax(-1), NO_ERROR)


class Stopped(NamedTuple):
  """What early stopping does to each solution."""

  spent: Int[np.ndarray, "*G"]  # steps that are written
  stopped: Bool[np.ndarray, "*G"]  # before its end


def stop_early(
  scores: Float[ArrayLike, "*G S"],
  where: Bool[ArrayLike, "*G S"],
  *,
  threshold: float,
) -> Stopped:
  """Solutions given up at the first step whose score is below the threshold.

  That step is written, those after it are not. A solution that falls below at
  its last step is whole: nothing was saved, it is not stopped.

  Args:
    scores: of steps, or `cumulative` of them.

  Example:
    >>> got = stop_early([0.9, 0.3, 0.8], [True] * 3, threshold=0.5)
    >>> print(got.spent, got.stopped)
    2 True
  """
  at = first_error(scores, where, threshold=threshold)
  steps = np.asarray(where).sum(-1)
  spent = np.where(at == NO_ERROR, steps, at + 1)
  return Stopped(spent, spent < steps)


class PrmScore(NamedTuple):
  """PRMBench's numbers of one set of steps; -1 where one is 0 / 0."""

  score: float  # half the sum of the two
  f1: float  # of right steps
  f1_negative: float  # of wrong steps


def prm_score(
  valid: Bool[ArrayLike, "*N"], right: Bool[ArrayLike, "*N"]
) -> PrmScore:
  """How well steps that are called valid are the right ones, pooled.

      score = F1 / 2 + F1_negative / 2,    F1 = 2 P R / (P + R)

  F1 with right steps as the positive class, F1_negative with wrong ones. As in
  its code 0 / 0 is -1 and is reckoned with: P = -1 and R = 0 give F1 = 0.

  Source: Song et al. 2025 (PRMBench), arXiv:2501.03124. Its overall score is
  that of all classes' steps together, its class `multi_solutions`, where no
  step is wrong, reports F1 alone; negative results are shown as 0.

  Args:
    valid: score above the threshold, 0.5 where it is a probability.

  Raises:
    ValueError: shapes differ, or one is not boolean.

  Example:
    >>> got = prm_score([True, True, False], [True, False, False])
    >>> print(f"{got.score:.4f}")
    0.6667
  """
  valid, right = _check_called("prm_score", valid, right)

  def f1(found, real):
    hits = float((found & real).sum())
    precision = _ratio(hits, found.sum())
    recall = _ratio(hits, real.sum())
    return _ratio(2 * precision * recall, precision + recall)

  of_right, of_wrong = f1(valid, right), f1(~valid, ~right)
  return PrmScore(0.5 * of_right + 0.5 * of_wrong, of_right, of_wrong)


class Called(NamedTuple):
  """What PRMBench asks of one solution: its steps are called valid or not."""

  name: str  # its class, one of PRMBENCH
  problem: str  # `idx` of its file
  valid: Bool[ArrayLike, " S"]
  right: Bool[ArrayLike, " S"]


class PrmbenchNumbers(NamedTuple):
  """Of some of its solutions; a share of nothing is nan."""

  solutions: int
  score: float  # PRM-Score
  f1: float  # of right steps
  f1_negative: float  # of wrong steps
  right_steps: float  # share of right steps called valid
  wrong_steps: float  # share of wrong steps called invalid
  all_steps: float  # share of steps called what they are
  first_error: float  # share of first wrong steps called invalid
  similarity: float  # |share valid - share valid of the original|, mean


class PrmbenchTable(NamedTuple):
  """PRMBench's table."""

  overall: PrmbenchNumbers  # of all solutions together
  means: dict[str, float]  # name of PRMBENCH -> unweighted mean of scores
  classes: dict[str, PrmbenchNumbers]


def prmbench_table(
  solutions: list[Called], originals: dict[str, Bool[ArrayLike, " T"]]
) -> PrmbenchTable:
  """PRMBench's numbers: overall, of each class, and means over classes.

      overall    = PRM-Score of the steps of all solutions together
      class      = PRM-Score of its steps; of `multi_solutions` F1 alone
      simplicity = (redundency + circular) / 2, the others alike

  A mean is nan where one of its classes has no solution; overall is of what is
  given. Of solutions with one class and problem the first counts, the others
  are duplicates of the public files. Scores are not yet cut at 0, as its tables
  are.

  Source: Song et al. 2025 (PRMBench), arXiv:2501.03124, as its public code
  does it: solutions without a wrong step have no part in `first_error`, and in
  `similarity` none whose original has no step that is called valid.

  Args:
    solutions: the modified ones. Where a model says as well which steps are
      redundant, `valid` is "not redundant" in the two classes of simplicity.
    originals: problem -> valid steps of the solution before it was changed,
      of those that were scored. They enter `similarity` alone.

  Raises:
    ValueError: no solution, a class that is none, one without steps; valid or
      right as of `prm_score`.

  Example:
    >>> called = Called("circular", "0", [True, False], [True, False])
    >>> table = prmbench_table([called], {"0": [True, True]})
    >>> print(table.overall.score, table.overall.similarity)
    1.0 0.5
  """
  known = [name for names in PRMBENCH.values() for name in names]
  for problem, valid in originals.items():
    _check_called(f"original of {problem!r}", valid, valid)
  once = {}
  for n, one in enumerate(solutions):
    if one.name not in known:
      raise UserError(
        f"prmbench_table: class {one.name!r} of solution {n} is not known. "
        f"Known: {known}."
      )
    valid, right = _check_called(f"solution {n}", one.valid, one.right)
    if valid.ndim != 1 or not len(valid):
      raise UserError(
        f"prmbench_table: expected one step or more in a row, got "
        f"{valid.shape} for solution {n}."
      )
    one = one._replace(valid=valid, right=right)
    once.setdefault((one.name, one.problem), one)
  if not once:
    raise UserError("prmbench_table: expected one solution or more, got none.")
  classes = {}
  for name in known:
    if own := [one for one in once.values() if one.name == name]:
      found = _prmbench_numbers(own, originals)
      if name == NO_WRONG_STEP:
        found = found._replace(score=found.f1)
      classes[name] = found
  scores = {name: found.score for name, found in classes.items()}
  means = {
    mean: float(np.mean([scores.get(name, np.nan) for name in names]))
    for mean, names in PRMBENCH.items()
  }
  overall = _prmbench_numbers(list(once.values()), originals)
  return PrmbenchTable(overall, means, classes)


def _prmbench_numbers(solutions, originals) -> PrmbenchNumbers:
  valid = np.concatenate([one.valid for one in solutions])
  right = np.concatenate([one.right for one in solutions])
  first = [
    not one.valid[one.right.argmin()]
    for one in solutions
    if not one.right.all()
  ]
  moved = [
    abs(one.valid.mean() - np.mean(originals[one.problem]))
    for one in solutions
    if np.any(originals.get(one.problem, False))
  ]
  shares = (valid[right], ~valid[~right], valid == right, first, moved)
  return PrmbenchNumbers(
    len(solutions), *prm_score(valid, right), *map(_mean, shares)
  )


def best_prm_threshold(
  scores: Float[ArrayLike, " N"], right: Bool[ArrayLike, " N"]
) -> tuple[float, PrmScore]:
  """(threshold, score) of the best `prm_score`; apply it to other data.

  A step is valid where its score is above the threshold. All thresholds that
  differ in what they call valid are tried: below all steps, half way between
  neighbouring scores, at the highest. Of equal scores the lowest threshold.

  Raises:
    ValueError: not two equal shapes [N] of one step or more, a score that is
      NaN, right that is not boolean.

  Example:
    >>> found = best_prm_threshold([0.9, 0.8, 0.3], [True, True, False])
    >>> print(f"{found[0]:.2f} {found[1].score:.2f}")
    0.55 1.00
  """
  scores, right = np.asarray(scores, np.float64), np.asarray(right)
  if scores.shape != right.shape or scores.ndim != 1 or not len(scores):
    raise ValueError(
      "best_prm_threshold: expected scores and right [N] of one step or more, "
      f"got {scores.shape} and {right.shape}."
    )
  if np.isnan(scores).any():
    raise ValueError(
      f"best_prm_threshold: expected numbers, got NaN at {_first_nan(scores)}."
    )
  values = np.unique(scores)
  tried = [values[0] - 1.0, *((values[1:] + values[:-1]) / 2), values[-1]]
  found = [(prm_score(scores > t, right), t) for t in tried]
  best = max(score.score for score, _ in found)
  score, threshold = next(each for each in found if each[0].score == best)
  return float(threshold), score


def _first_nan(scores) -> int:
  return int(np.isnan(scores).argmax())


def _check_called(name, valid, right):
  """The two as arrays; ValueError unless boolean and of one shape."""
  valid, right = np.asarray(valid), np.asarray(right)
  if (valid.shape, valid.dtype, right.dtype) != (right.shape, bool, bool):
    raise ValueError(
      f"{name}: expected boolean valid and right of one shape, got "
      f"{valid.dtype} {valid.shape} and {right.dtype} {right.shape}."
    )
  return valid, right


def _mean(values) -> float:
  return float(np.mean(values)) if len(values) else float("nan")


def _ratio(a, b) -> float:
  return float(a / b) if b else -1.0


def _place(marked, where):
  """The first marked step by its number among the real ones; -1: none."""
  number = where.cumsum(-1) - 1
  found = np.take_along_axis(number, marked.argmax(-1)[..., None], -1)[..., 0]
  return np.where(marked.any(-1), found, NO_ERROR)
