"""W-LIN: a linear reward on random features, for what theory says of losses."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from rm_jax.data.worlds.labellers import GUMBEL_STD


class Ranked(NamedTuple):
  """Rankings of K items each; items stand from best to worst."""

  features: Float[np.ndarray, "N K d"]
  theta: Float[np.ndarray, " d"]  # the truth


def draw_ranked(
  rng: np.random.Generator,
  *,
  count: int,
  k: int,
  d: int,
  size: float,
  noise: str,
) -> Ranked:
  """`count` rankings of `k` items by a reward theta . features plus noise.

  Features are standard normal / sqrt(d), theta has norm size * sqrt(d), so
  that the reward of an item has standard deviation `size`.

  Args:
    noise: plackett_luce (Gumbel: that model exactly) or thurstone (normal, of
      the same variance).
  """
  if noise not in ("plackett_luce", "thurstone"):
    raise ValueError(f"noise {noise!r}: expected plackett_luce or thurstone.")
  theta = rng.standard_normal(d)
  theta *= size * np.sqrt(d) / np.linalg.norm(theta)
  features = rng.standard_normal((count, k, d)) / np.sqrt(d)
  if noise == "thurstone":
    felt = GUMBEL_STD * rng.standard_normal((count, k))
  else:
    felt = rng.gumbel(size=(count, k))
  order = np.argsort(-(features @ theta + felt), axis=1)
  return Ranked(np.take_along_axis(features, order[..., None], 1), theta)


class Mixed(NamedTuple):
  """Rankings of two populations of judges; items stand from best to worst."""

  features: Float[np.ndarray, "N K d"]
  thetas: Float[np.ndarray, "2 d"]  # of each population
  population: Int[np.ndarray, " N"]  # who ranked


def draw_mixed(
  rng: np.random.Generator,
  *,
  count: int,
  k: int,
  d: int,
  size: float,
  style: float,
) -> Mixed:
  """Plackett-Luce rankings of judges who agree but for style, half and half.

      theta_c = quality +- taste

  quality reads all features but the last, taste only the last one: `size` and
  `style` are the standard deviations of the two parts of an item's reward.
  """
  quality, taste = rng.standard_normal(d), np.zeros(d)
  quality[-1], taste[-1] = 0.0, style * np.sqrt(d)
  quality *= size * np.sqrt(d) / np.linalg.norm(quality)
  thetas = np.stack([quality + taste, quality - taste])
  features = rng.standard_normal((count, k, d)) / np.sqrt(d)
  population = rng.integers(2, size=count)
  reward = np.einsum("nkd,nd->nk", features, thetas[population])
  order = np.argsort(-(reward + rng.gumbel(size=(count, k))), axis=1)
  ranked = np.take_along_axis(features, order[..., None], 1)
  return Mixed(ranked, thetas, population)


def ranked_pairs(k: int) -> Int[np.ndarray, "P 2"]:
  """(better, worse) places of all pairs of a ranking, best first."""
  return np.stack(np.triu_indices(k, 1), 1)


class Bandit(NamedTuple):
  """Actions with features, a reward, and comparisons that were seen."""

  features: Float[np.ndarray, "A d"]
  theta: Float[np.ndarray, " d"]
  differences: Float[np.ndarray, "P d"]  # features of first less second
  counts: Float[np.ndarray, " P"]
  wins: Float[np.ndarray, " P"]  # of the first


def draw_bandit(rng: np.random.Generator, *, count: int) -> Bandit:
  """Four actions of which one pair is compared often, one once, one never.

      features  (1, 1), (1, 0), (0, 0), (0, 1)    theta  (-1, 0.1)
      rewards   -0.9    -1      0       0.1

  The first two are compared `count` times, which tells theta_2 well; the second
  and the third once, which tells next to nothing of theta_1. The best action is
  the fourth: it was never compared, but lies where the data are.

  Source: in the manner of Zhu et al. 2023, arXiv:2301.11270, Theorem 3.9.
  """
  features = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
  theta = np.array([-1.0, 0.1])
  differences = features[[0, 1]] - features[[1, 2]]
  counts = np.array([count, 1])
  chance = 1 / (1 + np.exp(-differences @ theta))
  wins = rng.binomial(counts, chance)
  return Bandit(
    features, theta, differences, counts.astype(float), wins.astype(float)
  )
