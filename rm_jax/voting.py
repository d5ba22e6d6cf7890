"""Votes of sampled solutions for their answers: numpy, float64.

Beside `metrics.best_of_n`, which picks by score alone. Answers are integers or
strings; two solutions vote together where their answers are equal, so bring
answers to one form before.
"""

import numpy as np
from jaxtyping import Bool, Float, Shaped

from rm_jax.types import ArrayLike, UserError


def vote_chances(
  answers: Shaped[ArrayLike, "G M"], weights: Float[ArrayLike, "G M"]
) -> Float[np.ndarray, "G M"]:
  """The chance of each solution to be the one that a weighted vote picks.

  The answer with the largest sum of weights wins; of its solutions the one with
  the largest weight is picked. Ties of answers, then of solutions, are drawn
  with equal chances. Each row sums to 1, so that the accuracy of the vote is
  the sum of chance times right, and what else holds of the picked solution
  (its steps are right, its length) is a sum as well. Equal weights are a
  majority vote and pick any of its solutions.

  Source: Uesato et al. 2022, arXiv:2211.14275, section 2.5: weighted by a
  reward model, then its best sample; Wang et al. 2022 (self-consistency),
  arXiv:2203.11171: equal weights.

  Args:
    weights: 0 or more, such as probabilities; 0 leaves a solution out. Scores
      that can be negative have no sum that means anything.

  Raises:
    ValueError: not two equal shapes [G, M], a weight that is negative, infinite
      or NaN, a group whose weights are all 0.

  Example:
    >>> chances = vote_chances([[3, 3, 8, 8]], [[0.5, 0.4, 0.8, 0.0]])
    >>> print(chances.tolist())
    [[1.0, 0.0, 0.0, 0.0]]
  """
  weights = _weights("vote_chances", answers, weights)
  out = np.zeros(weights.shape)
  for g, (said, weight) in enumerate(
    zip(np.asarray(answers), weights, strict=True)
  ):
    _, index = np.unique(said, return_inverse=True)
    totals = np.bincount(index, weight)
    # Sums in another order differ in their last bits, which is no victory.
    wins = np.isclose(totals, totals.max(), rtol=1e-12, atol=0.0)
    for answer in np.flatnonzero(wins):
      own = index == answer
      best = own & (weight == weight[own].max())
      out[g, best] = 1.0 / (wins.sum() * best.sum())
  return out


def majority_of_n(
  answers: Shaped[ArrayLike, "G M"], right: Bool[ArrayLike, "G M"], n: int
) -> Float[np.ndarray, " G"]:
  """Expected accuracy of a majority vote of n of M solutions; exact.

  The expectation is over all subsets of n, each as likely; answers that tie for
  most votes win with equal chances. With N_a solutions of answer a the votes
  are a multivariate hypergeometric draw, which is what independent binomials
  (N_a, n / M) are, given that they sum to n:

      E = sum over c of sum over j of 1 / (1 + j)
          P(the right answer has c votes, j others c, the rest fewer | sum n)

  summed by multiplying polynomials, one answer at a time. n = 1 is the share of
  right solutions, n = M the vote of all.

  Args:
    right: whether the answer is the right one: the same for equal answers, and
      true of one answer of a group at most.

  Raises:
    ValueError: not two equal shapes [G, M], n outside of 1 ... M, or equal
      answers of which one is right.

  Example:
    >>> right = [[True, True, False, False]]
    >>> print(f"{majority_of_n([[3, 3, 8, 9]], right, 3)[0]:.4f}")
    0.6667
  """
  answers, right = np.asarray(answers), np.asarray(right)
  if answers.shape != right.shape or right.ndim != 2 or right.dtype != bool:
    raise ValueError(
      "majority_of_n: expected answers and boolean right, both [G, M], got "
      f"{answers.shape} and {right.dtype} {right.shape}."
    )
  size = right.shape[1]
  if not (1 <= n <= size and n == int(n)):
    raise UserError(
      f"majority_of_n: expected n from 1 to the {size} solutions of a group, "
      f"got {n}. Subsets are drawn without replacement."
    )
  out = np.zeros(len(right))
  for g, (said, truth) in enumerate(zip(answers, right, strict=True)):
    names, index, counts = np.unique(
      said, return_inverse=True, return_counts=True
    )
    share = np.bincount(index, truth) / counts
    if not np.isin(share, (0.0, 1.0)).all() or share.sum() > 1:
      raise ValueError(
        f"majority_of_n: in group {g} one answer must be right and the same "
        f"whoever gives it, got right answers {names[share > 0].tolist()}."
      )
    if share.any():
      out[g] = _plurality(int(counts @ share), counts[share == 0], n, size)
  return out


def _plurality(own: int, others, n: int, size: int) -> float:
  """P(the answer of `own` solutions wins among n of all), ties shared."""
  from scipy import stats  # here: half a second that others need not pay

  chance = n / size
  if n == size:
    most = max(others, default=0)
    return float(own > most) or float(own == most) / (1 + np.sum(others == own))
  pmfs = [stats.binom.pmf(np.arange(n + 1), count, chance) for count in others]
  mine = stats.binom.pmf(np.arange(n + 1), own, chance)
  total = 0.0
  for c in range(1, min(own, n) + 1):
    # ways[j, s]: P(j others have c votes, none more, together s votes)
    ways = np.zeros((1, n - c + 1))
    ways[0, 0] = 1.0
    for pmf in pmfs:
      fewer = [np.convolve(row, pmf[:c])[: n - c + 1] for row in ways]
      if n - c < c:  # no other can have c votes as well
        ways = np.asarray(fewer)
        continue
      grown = np.zeros((len(ways) + 1, n - c + 1))
      grown[:-1] = fewer
      grown[1:, c:] += ways[:, : n - 2 * c + 1] * pmf[c]
      ways = grown
    shared = 1.0 / (1 + np.arange(len(ways)))
    total += mine[c] * (shared @ ways[:, n - c])
  return float(total / stats.binom.pmf(n, size, chance))


def _weights(caller, answers, weights):
  weights = np.asarray(weights, np.float64)
  if np.shape(answers) != weights.shape or weights.ndim != 2:
    raise ValueError(
      f"{caller}: expected answers and weights [G, M], got {np.shape(answers)} "
      f"and {weights.shape}. A single group is [1, M]."
    )
  bad = ~(np.isfinite(weights) & (weights >= 0))
  if bad.any():
    at = tuple(int(i) for i in np.argwhere(bad)[0])
    raise ValueError(
      f"{caller}: expected weights of 0 or more, got {weights[at]:g} at index "
      f"{at}. Take the sigmoid of scores that are logits."
    )
  empty = np.flatnonzero(~weights.any(1))
  if len(empty):
    raise ValueError(
      f"{caller}: all weights of group {empty[0]} are 0, nobody votes. Leave "
      "the group out and count it."
    )
  return weights
