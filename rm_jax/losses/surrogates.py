"""Other losses of one comparison: what is tried in place of Bradley-Terry.

Each but `pair_cross_entropy` is a function of the score difference alone.
`bradley_terry_tempered` of the same comparison of losses is in `pairwise`.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from rm_jax.losses.arguments import (
  check_parameter,
  same_shape,
  score_difference,
)

EXPONENTIAL_END = 10.0  # from here on `exponential` is a straight line


def hinge(
  chosen: Float[ArrayLike, "*C"],
  rejected: Float[ArrayLike, "*C"],
  *,
  gap: float,
) -> Float[Array, "*C"]:
  """Hinge loss: what the score difference lacks to the gap, one value each.

      loss = max(0, gap - (chosen - rejected))

  Source: Liu et al. 2024 (Skywork-Reward), arXiv:2410.18451, hinge.

  Args:
    gap: score difference that is enough. It only sets the scale of the scores:
      with 0 equal scores would be perfect.

  Raises:
    ValueError: the shapes differ.
    UserError: `gap` is not positive.

  Example:
    >>> print(f"{hinge(1.0, 0.5, gap=2.0):.4f}")
    1.5000
  """
  check_parameter("hinge", "gap", gap, "(0, inf)")
  (score_diff,) = score_difference("hinge", chosen, rejected)
  return jax.nn.relu(gap - score_diff)


def square(
  chosen: Float[ArrayLike, "*C"],
  rejected: Float[ArrayLike, "*C"],
  *,
  gap: float,
) -> Float[Array, "*C"]:
  """Squared distance of the score difference from a gap, one value each.

      loss = (chosen - rejected - gap)^2

  Scores that are better than the gap by much cost as much as wrong ones: with
  labels that contradict each other the best difference is gap times the share
  for less the share against.

  Source: Liu et al. 2024 (Skywork-Reward), arXiv:2410.18451, margin MSE. The
  form is that of Azar et al. 2023 (IPO), arXiv:2310.12036, on scores.

  Args:
    gap: score difference of every comparison; it sets the scale of the scores.

  Raises:
    ValueError: the shapes differ.
    UserError: `gap` is not positive.

  Example:
    >>> print(f"{square(1.0, 0.5, gap=2.0):.4f}")
    2.2500
  """
  check_parameter("square", "gap", gap, "(0, inf)")
  (score_diff,) = score_difference("square", chosen, rejected)
  return (score_diff - gap) ** 2


def exponential(
  chosen: Float[ArrayLike, "*C"], rejected: Float[ArrayLike, "*C"]
) -> Float[Array, "*C"]:
  """Exponential loss, one float32 value per comparison.

      loss = exp(rejected - chosen)

  Continued as a straight line, e^10 (1 + rejected - chosen - 10), where the
  rejected score is more than 10 above: the exponential leaves float32 at 89,
  and one such comparison would take the whole gradient.

  Source: Freund et al. 2003 (RankBoost), without the line.

  Raises:
    ValueError: the shapes differ.

  Example:
    >>> print(f"{exponential(2.0, 0.5):.4f}")
    0.2231
  """
  (score_diff,) = score_difference("exponential", chosen, rejected)
  curved = jnp.minimum(-score_diff, EXPONENTIAL_END)
  # Beyond the end `curved` is constant, and the slope is that at the end.
  return jnp.exp(curved) * (1.0 - score_diff - curved)


def focal(
  chosen: Float[ArrayLike, "*C"],
  rejected: Float[ArrayLike, "*C"],
  *,
  gamma: float,
) -> Float[Array, "*C"]:
  """Bradley-Terry loss that lets go of easy comparisons, one value each.

      loss = -(1 - p)^gamma log p,  p = sigmoid(chosen - rejected)

  Source: Liu et al. 2024 (Skywork-Reward), arXiv:2410.18451, focal. Gamma 0 is
  `bradley_terry`.

  Args:
    gamma: how fast; every comparison loses weight, wrong ones least.

  Raises:
    ValueError: the shapes differ.
    UserError: `gamma` is negative.

  Example:
    >>> print(f"{focal(2.0, 0.5, gamma=2.0):.4f}")
    0.0067
  """
  check_parameter("focal", "gamma", gamma, "[0, inf)")
  (score_diff,) = score_difference("focal", chosen, rejected)
  # log(1 - p) = -softplus(d): no power of a number that rounds to 0.
  log_wrong = -jax.nn.softplus(score_diff)
  return jnp.exp(gamma * log_wrong) * jax.nn.softplus(-score_diff)


def focal_penalty(
  chosen: Float[ArrayLike, "*C"],
  rejected: Float[ArrayLike, "*C"],
  *,
  gamma: float,
) -> Float[Array, "*C"]:
  """Bradley-Terry loss, less on comparisons in the right order, one value each.

      loss = -(1 - 2 max(0, p - 1/2))^gamma log p,
        p = sigmoid(chosen - rejected)

  Comparisons in the wrong order (p < 1/2) keep their whole loss, unlike in
  `focal`.

  Source: Liu et al. 2024 (Skywork-Reward), arXiv:2410.18451, focal with
  penalty. Gamma 0 is `bradley_terry`.

  Args:
    gamma: how fast the weight of comparisons in the right order falls.

  Raises:
    ValueError: the shapes differ.
    UserError: `gamma` is negative.

  Example:
    >>> print(f"{focal_penalty(2.0, 0.5, gamma=2.0):.4f}")
    0.0268
  """
  check_parameter("focal_penalty", "gamma", gamma, "[0, inf)")
  (score_diff,) = score_difference("focal_penalty", chosen, rejected)
  # 1 - 2 max(0, p - 1/2) = min(1, 2 (1 - p)), and log(1 - p) = -softplus(d).
  log_twice_wrong = math.log(2.0) - jax.nn.softplus(score_diff)
  weight = jnp.exp(gamma * jnp.minimum(0.0, log_twice_wrong))
  return weight * jax.nn.softplus(-score_diff)


def tempered_logarithm(
  chosen: Float[ArrayLike, "*C"],
  rejected: Float[ArrayLike, "*C"],
  *,
  temperature: float,
) -> Float[Array, "*C"]:
  """Bradley-Terry loss with a bounded logarithm, one value per comparison.

      loss = (1 - p^(1 - temperature)) / (1 - temperature),
        p = sigmoid(chosen - rejected)

  At most 1 / (1 - temperature): comparisons in a hopelessly wrong order have no
  gradient left. Temperature 0 is 1 - p; towards 1 it becomes `bradley_terry`.

  Source: Liu et al. 2024 (Skywork-Reward), arXiv:2410.18451, tempered log. The
  logarithm is that of Amid et al. 2019, arXiv:1906.03361.

  Args:
    temperature: in [0, 1). From 1 on there is no bound, above it the loss
      overflows.

  Raises:
    ValueError: the shapes differ.
    UserError: `temperature` is not in [0, 1).

  Example:
    >>> print(f"{tempered_logarithm(2.0, 0.5, temperature=0.5):.4f}")
    0.1916
  """
  check_parameter("tempered_logarithm", "temperature", temperature, "[0, 1)")
  (score_diff,) = score_difference("tempered_logarithm", chosen, rejected)
  power = 1.0 - temperature
  # expm1: 1 - p^power is rounding where p is near 1.
  return -jnp.expm1(-power * jax.nn.softplus(-score_diff)) / power


def pair_cross_entropy(
  chosen: Float[ArrayLike, "*C"], rejected: Float[ArrayLike, "*C"]
) -> Float[Array, "*C"]:
  """Cross-entropy of "good" for one side and "bad" for the other, one value.

      loss = -log sigmoid(chosen) - log(1 - sigmoid(rejected))

  Not a function of the difference: the scores have to explain how good the
  completions of a prompt are on the whole, which the labels do not say.

  Source: Liu et al. 2024 (Skywork-Reward), arXiv:2410.18451, cross-entropy.

  Raises:
    ValueError: the shapes differ.

  Example:
    >>> print(f"{pair_cross_entropy(2.0, 0.5):.4f}")
    1.1010
  """
  chosen, rejected = same_shape(
    "pair_cross_entropy", chosen=chosen, rejected=rejected
  )
  return jax.nn.softplus(-chosen.astype(jnp.float32)) + jax.nn.softplus(
    rejected.astype(jnp.float32)
  )
