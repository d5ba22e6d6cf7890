"""What simulated annotators say of gold rewards, each beside its closed form.

Exact Plackett-Luce rankings are those of the text world's labellers; here are
the controls with other noise, comparisons of pairs and their strengths.
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit, ndtr

TEMPERATURE = 0.5
THRESHOLDS = (0.3, 0.8, 1.5)  # of strengths 0 | 1 | 2 | 3, in units of gold
STRENGTH_NOISE = 0.3
RATING_THRESHOLDS = (-1.2, -0.4, 0.4, 1.2)  # of ratings 1 | 2 | 3 | 4 | 5
RATING_NOISE = 0.3
# Standard deviation of the Gumbel noise of a Plackett-Luce ranking.
GUMBEL_STD = np.pi / np.sqrt(6)
NOISES = ("plackett_luce", "thurstone", "position_biased")
POSITION_BONUS = 2.0  # of the one listed first over the last, in gold / tau


def preference_probability(difference, *, temperature: float = TEMPERATURE):
  """P(first preferred) = sigmoid(difference / temperature)."""
  return expit(np.asarray(difference, np.float64) / temperature)


def preferences(
  rng, difference: Float[np.ndarray, "*C"], *, temperature: float = TEMPERATURE
) -> Bool[np.ndarray, "*C"]:
  """Whether the first one is preferred: `preference_probability`."""
  chance = preference_probability(difference, temperature=temperature)
  return rng.random(chance.shape) < chance


def strength_probabilities(difference) -> Float[np.ndarray, "*C 4"]:
  """Chances of strengths 0 to 3.

  P(strength >= s) = Phi((|difference| - threshold_s) / STRENGTH_NOISE)
  """
  size = np.abs(np.asarray(difference, np.float64))
  return _levels(size, THRESHOLDS, STRENGTH_NOISE)


def _levels(value, thresholds, noise):
  """P(each level of value + normal noise), lowest first, on a last axis."""
  above = ndtr((value[..., None] - np.asarray(thresholds)) / noise)
  ends = np.zeros((*above.shape[:-1], 1))
  return -np.diff(np.concatenate([ends + 1.0, above, ends], -1))


def strengths(rng, difference) -> Int[np.ndarray, "*C"]:
  """How much better, 0 negligible to 3 significantly; who is not asked.

  `strength_probabilities`
  """
  size = np.abs(np.asarray(difference, np.float64))
  felt = size + STRENGTH_NOISE * rng.standard_normal(size.shape)
  return np.searchsorted(THRESHOLDS, felt, side="right")


def rating_probabilities(gold) -> Float[np.ndarray, "*N 5"]:
  """Chances of ratings 1 to 5 of one completion by itself.

  P(rating > r) = Phi((gold - threshold_r) / RATING_NOISE)
  """
  return _levels(np.asarray(gold, np.float64), RATING_THRESHOLDS, RATING_NOISE)


def ratings(rng, gold) -> Int[np.ndarray, "*N"]:
  """How good, 1 to 5, each completion by itself: `rating_probabilities`."""
  felt = gold + RATING_NOISE * rng.standard_normal(np.shape(gold))
  return 1 + np.searchsorted(RATING_THRESHOLDS, felt, side="right")


def pair_probability(difference, *, noise: str):
  """P(first ranked above second) in a ranking by `rankings`, unlisted.

      plackett_luce: sigmoid(d)      thurstone: Phi(d / (GUMBEL_STD sqrt 2))

  with d = difference / TEMPERATURE: both noises have one variance.
  """
  d = np.asarray(difference, np.float64) / TEMPERATURE
  if noise == "thurstone":
    return ndtr(d / (GUMBEL_STD * np.sqrt(2)))
  return expit(d)


def rankings(
  rng, gold: Float[np.ndarray, "G K"], *, noise: str
) -> Int[np.ndarray, "G K"]:
  """Ranks of each group, 0 the best: sorted by gold / TEMPERATURE + noise.

  plackett_luce: Gumbel noise, which is that model exactly. thurstone: normal
  noise of the same variance. position_biased: as the first, with a bonus that
  falls from POSITION_BONUS to 0 along the order in which they are listed.
  """
  shape = gold.shape
  if noise == "thurstone":
    felt = GUMBEL_STD * rng.standard_normal(shape)
  else:
    felt = rng.gumbel(size=shape)
  felt = felt + gold / TEMPERATURE
  if noise == "position_biased":
    felt = felt + np.linspace(POSITION_BONUS, 0, shape[-1])
  elif noise not in NOISES:
    raise ValueError(f"noise {noise!r} is not known. Known: {NOISES}.")
  return np.argsort(np.argsort(-felt, axis=-1), axis=-1)
