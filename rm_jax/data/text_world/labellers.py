"""Simulated labellers: what people with a known noise say of a known reward.

Each labeller draws from a closed form that stands beside it, so that what was
drawn can be held against what was meant. Differences and thresholds are in
units of gold, whose variance over the training completions is 1. Only `random`
of a numpy generator is used, through inverse distribution functions: one
uniform number per draw, in a fixed order.
"""

import statistics
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from rm_jax.types import ArrayLike, UserError

RATING_THRESHOLDS = (-1.2, -0.4, 0.4, 1.2)  # between ratings 1, 2, 3, 4, 5
STRENGTH_THRESHOLDS = (0.3, 0.8, 1.5)  # between strengths 0, 1, 2, 3
TIE = 0.1  # a felt difference below it is called a tie
VERDICTS = np.arange(-4, 5)


class Annotator(NamedTuple):
  """How one labeller differs from the others."""

  name: str
  shift: float  # of ratings: below 0 is strict
  temperature: float  # of comparisons and rankings
  noise: float  # standard deviation of what is felt before a rating
  careless: float  # share of judgements made without reading


ANNOTATORS = (
  Annotator("steady", 0.0, 0.5, 0.3, 0.0),
  Annotator("strict", -0.5, 0.5, 0.3, 0.0),
  Annotator("generous", 0.5, 0.5, 0.3, 0.0),
  Annotator("unsure", 0.0, 1.0, 0.8, 0.0),
  Annotator("hasty", 0.0, 0.5, 0.3, 0.3),
)


def sigmoid(x: ArrayLike) -> np.ndarray:
  """1 / (1 + exp(-x)), by tanh: exp overflows at large differences."""
  return 0.5 + 0.5 * np.tanh(0.5 * np.asarray(x, np.float64))


def verdict_probabilities(
  difference: Float[ArrayLike, "*C"],
  *,
  temperature: float,
  tie: float = TIE,
  thresholds: tuple = STRENGTH_THRESHOLDS,
) -> Float[np.ndarray, "*C 9"]:
  """Chances of the nine verdicts, in the order of VERDICTS.

      P(verdict = v) = F(cut_{v+1}) - F(cut_v)
      F(x)           = sigmoid((x - difference) / temperature)
      cuts           = -inf, -t3, -t2, -t1, -tie, tie, t1, t2, t3, inf

  An ordered logistic model. With tie = 0 the sign is that of Bradley and Terry;
  with a tie it is the model of Rao and Kupper 1967 at
  theta = exp(tie / temperature).
  """
  cuts = _cuts(tie, thresholds)
  difference = np.asarray(difference, np.float64)[..., None]
  below = sigmoid((cuts - difference) / temperature)
  ends = np.zeros((*below.shape[:-1], 1))
  return np.diff(np.concatenate([ends, below, ends + 1.0], -1))


def verdicts(
  rng: np.random.Generator,
  difference: Float[ArrayLike, "*C"],
  *,
  temperature: float,
  tie: float = TIE,
  thresholds: tuple = STRENGTH_THRESHOLDS,
) -> Int[np.ndarray, "*C"]:
  """What is said of two completions, -4 to 4: `verdict_probabilities`.

  The sign says who is better, above 0 the first; the size less 1 is the
  strength, 0 unsure to 3 significantly; 0 is a tie. One felt difference, the
  true one with logistic noise, decides both: a strong verdict is seldom wrong.
  """
  difference = np.asarray(difference, np.float64)
  felt = difference + temperature * _logistic(rng, difference.shape)
  return np.searchsorted(_cuts(tie, thresholds), felt, side="right") - 4


def rating_probabilities(
  gold: Float[ArrayLike, "*N"],
  *,
  noise: float,
  shift: float = 0.0,
  thresholds: tuple = RATING_THRESHOLDS,
) -> Float[np.ndarray, "*N R"]:
  """Chances of the ratings 1 to R = len(thresholds) + 1.

      P(rating = k) = Phi((t_k - gold - shift) / noise)
                      - Phi((t_{k-1} - gold - shift) / noise)

  with t_0 = -inf and t_R = inf: an ordered probit model.
  """
  gold = np.asarray(gold, np.float64)[..., None]
  z = (np.asarray(thresholds, np.float64) - gold - shift) / noise
  below = np.vectorize(statistics.NormalDist().cdf, otypes=[float])(z)
  ends = np.zeros((*below.shape[:-1], 1))
  return np.diff(np.concatenate([ends, below, ends + 1.0], -1))


def ratings(
  rng: np.random.Generator,
  gold: Float[ArrayLike, "*N"],
  *,
  noise: float,
  shift: float = 0.0,
  thresholds: tuple = RATING_THRESHOLDS,
) -> Int[np.ndarray, "*N"]:
  """Ratings 1 to R of the completions: `rating_probabilities`."""
  gold = np.asarray(gold, np.float64)
  felt = gold + shift + noise * _normal(rng, gold.shape)
  return np.searchsorted(np.asarray(thresholds), felt, side="right") + 1


def ranking_probability(
  gold: Float[ArrayLike, " K"], ranks: Int[ArrayLike, " K"], *, temperature
) -> float:
  """Chance of one ranking without ties, ranks 0 (best) to K - 1.

      P(order) = prod_i exp(u_i) / sum_{j not before i} exp(u_j)
      u        = gold / temperature, in the order of the ranking

  Source: Plackett 1975, with strengths exp(u).
  """
  gold, ranks = np.asarray(gold, np.float64), np.asarray(ranks)
  if sorted(ranks.tolist()) != list(range(gold.size)):
    raise UserError(
      f"ranking_probability: expected ranks that are 0 ... {gold.size - 1} "
      f"once each, got {ranks.tolist()}. A ranking with ties has no chance "
      "under Plackett-Luce."
    )
  utility = gold[np.argsort(ranks)] / temperature
  chance = 1.0
  for place in range(utility.size):
    rest = utility[place:] - utility[place]
    chance /= np.exp(rest).sum()
  return float(chance)


def ranking(
  rng: np.random.Generator, gold: Float[ArrayLike, "*G K"], *, temperature
) -> Int[np.ndarray, "*G K"]:
  """Ranks, 0 the best, of each group: `ranking_probability`.

  Sorting gold / temperature with standard Gumbel noise draws from
  Plackett-Luce exactly; for two completions that is Bradley-Terry.
  """
  gold = np.asarray(gold, np.float64)
  felt = gold / temperature + _gumbel(rng, gold.shape)
  return np.argsort(np.argsort(-felt, axis=-1), axis=-1)


def annotated_verdict_probabilities(
  difference: Float[ArrayLike, "*C"], annotator: Annotator
) -> Float[np.ndarray, "*C 9"]:
  """Chances of the nine verdicts of one annotator.

      P(v) = (1 - careless) P_model(v) + careless [v != 0] / 8

  A careless verdict names a side and a strength at random, never a tie.
  """
  model = verdict_probabilities(difference, temperature=annotator.temperature)
  blind = (VERDICTS != 0) / 8
  return (1 - annotator.careless) * model + annotator.careless * blind


def annotated_verdicts(
  rng: np.random.Generator,
  difference: Float[ArrayLike, "*C"],
  annotator: Annotator,
) -> Int[np.ndarray, "*C"]:
  """Verdicts of one annotator: `annotated_verdict_probabilities`."""
  seen = verdicts(rng, difference, temperature=annotator.temperature)
  blind = VERDICTS[VERDICTS != 0][_below(rng, 8, seen.shape)]
  return np.where(rng.random(seen.shape) < annotator.careless, blind, seen)


def annotated_rating_probabilities(
  gold: Float[ArrayLike, "*N"], annotator: Annotator
) -> Float[np.ndarray, "*N 5"]:
  """Chances of one annotator's ratings 1 to 5.

  P(k) = (1 - careless) P_model(k) + careless / 5
  """
  model = rating_probabilities(
    gold, noise=annotator.noise, shift=annotator.shift
  )
  return (1 - annotator.careless) * model + annotator.careless / 5


def annotated_ratings(
  rng: np.random.Generator,
  gold: Float[ArrayLike, "*N"],
  annotator: Annotator,
) -> Int[np.ndarray, "*N"]:
  """Ratings of one annotator: `annotated_rating_probabilities`."""
  seen = ratings(rng, gold, noise=annotator.noise, shift=annotator.shift)
  blind = 1 + _below(rng, 5, seen.shape)
  return np.where(rng.random(seen.shape) < annotator.careless, blind, seen)


def _cuts(tie, thresholds) -> np.ndarray:
  """The eight places where the verdict on a felt difference changes."""
  up = np.array([tie, *thresholds], np.float64)
  if up.size != 4 or tie < 0 or (np.diff(up) <= 0).any():
    raise UserError(
      "verdicts: expected 0 <= tie < three rising thresholds, got "
      f"tie {tie} and thresholds {thresholds}. Strengths are 0, 1, 2 and 3."
    )
  return np.concatenate([-up[::-1], up])


def _below(rng, count: int, shape) -> np.ndarray:
  """Integers 0 to count - 1, all equally likely."""
  return np.floor(count * rng.random(shape)).astype(int)


def _uniform(rng, shape) -> np.ndarray:
  """Uniform in (0, 1): 0 itself has no logarithm."""
  return np.maximum(rng.random(shape), 2.0**-54)


def _logistic(rng, shape) -> np.ndarray:
  u = _uniform(rng, shape)
  return np.log(u) - np.log1p(-u)


def _gumbel(rng, shape) -> np.ndarray:
  return -np.log(-np.log(_uniform(rng, shape)))


def _normal(rng, shape) -> np.ndarray:
  inverse = statistics.NormalDist().inv_cdf
  return np.vectorize(inverse, otypes=[float])(_uniform(rng, shape))
