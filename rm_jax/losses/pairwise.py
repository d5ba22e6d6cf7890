"""Likelihoods of one comparison under the Bradley-Terry model, one value each.

The model says how likely a labeller prefers `chosen`; the functions differ in
what the labeller does besides: says how much better, errs, votes, ties.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from rm_jax.losses.arguments import check_parameter, score_difference


def bradley_terry(
  chosen: Float[ArrayLike, "*C"], rejected: Float[ArrayLike, "*C"]
) -> Float[Array, "*C"]:
  """Bradley-Terry loss, one float32 value per comparison.

      loss = -log sigmoid(chosen - rejected) = softplus(rejected - chosen)

  Source: Bradley and Terry 1952; Ouyang et al. 2022 (InstructGPT),
  arXiv:2203.02155, Eq. (1), whose 1 / (K choose 2) is a weight and stays
  outside. Written as log(1 + exp(rejected - chosen)) it is Eq. (3.1) of Askell
  et al. 2021, arXiv:2112.00861.

  Raises:
    ValueError: the shapes differ.

  Example:
    >>> print(f"{bradley_terry(2.0, 0.5):.4f}")
    0.2014
  """
  (score_diff,) = score_difference("bradley_terry", chosen, rejected)
  return jax.nn.softplus(-score_diff)


def bradley_terry_margin(
  chosen: Float[ArrayLike, "*C"],
  rejected: Float[ArrayLike, "*C"],
  margin: Float[ArrayLike, "*C"],
) -> Float[Array, "*C"]:
  """Bradley-Terry loss with an annotated margin, one float32 value each.

      loss = -log sigmoid(chosen - rejected - margin)

  Source: Touvron et al. 2023 (Llama 2), arXiv:2307.09288, Sec. 3.2.2. Margin 0
  is `bradley_terry`.

  Args:
    margin: how much better the annotator called the chosen one, in units of
      score; a Python number means the same for all (see `rm_jax.margins`).

  Raises:
    ValueError: the shapes differ; a margin of shape [C, 1] is not accepted.

  Example:
    >>> print(f"{bradley_terry_margin(2.0, 0.5, 1.0):.4f}")
    0.4741
  """
  score_diff, margin = score_difference(
    "bradley_terry_margin", chosen, rejected, margin=margin
  )
  return jax.nn.softplus(margin.astype(jnp.float32) - score_diff)


def bradley_terry_scaled(
  chosen: Float[ArrayLike, "*C"],
  rejected: Float[ArrayLike, "*C"],
  margin: Float[ArrayLike, "*C"],
) -> Float[Array, "*C"]:
  """Bradley-Terry loss times the annotated margin, one float32 value each.

      loss = -margin log sigmoid(chosen - rejected)

  A comparison of margin 2 counts as two. The mean margin scales the gradient as
  a learning rate would: for a fair comparison with `bradley_terry` divide the
  margins by their mean.

  Source: Wang et al. 2024 (HelpSteer2-Preference), arXiv:2410.01257, the scaled
  Bradley-Terry loss, with strengths 1 to 3. Margin 1 is `bradley_terry`.

  Args:
    margin: how many comparisons this one counts for, 0 or more; 0 is a
      comparison without an opinion and costs nothing.

  Raises:
    ValueError: the shapes differ; a margin of shape [C, 1] is not accepted.

  Example:
    >>> print(f"{bradley_terry_scaled(2.0, 0.5, 3.0):.4f}")
    0.6042
  """
  score_diff, margin = score_difference(
    "bradley_terry_scaled", chosen, rejected, margin=margin
  )
  return margin.astype(jnp.float32) * jax.nn.softplus(-score_diff)


def bradley_terry_tempered(
  chosen: Float[ArrayLike, "*C"],
  rejected: Float[ArrayLike, "*C"],
  *,
  temperature: float,
) -> Float[Array, "*C"]:
  """Bradley-Terry loss of scores in units of a temperature, one value each.

      loss = -log sigmoid((chosen - rejected) / temperature)

  Source: Liu et al. 2024 (Skywork-Reward), arXiv:2410.18451, Bradley-Terry with
  a temperature. Temperature 1 is `bradley_terry`.

  Args:
    temperature: score difference that counts as 1. The best scores grow with
      it; the gradient at equal scores falls.

  Raises:
    ValueError: the shapes differ.
    UserError: `temperature` is not positive.

  Example:
    >>> print(f"{bradley_terry_tempered(2.0, 0.5, temperature=3.0):.4f}")
    0.4741
  """
  check_parameter(
    "bradley_terry_tempered", "temperature", temperature, "(0, inf)"
  )
  (score_diff,) = score_difference("bradley_terry_tempered", chosen, rejected)
  return jax.nn.softplus(-score_diff / temperature)


def bradley_terry_smoothed(
  chosen: Float[ArrayLike, "*C"],
  rejected: Float[ArrayLike, "*C"],
  *,
  smoothing: float,
) -> Float[Array, "*C"]:
  """Bradley-Terry loss with smoothed labels, one float32 value per comparison.

      loss = -(1 - smoothing) log sigmoid(chosen - rejected)
             - smoothing log sigmoid(rejected - chosen)

  An average of two losses, so scores stop growing: the best score difference is
  log((1 - smoothing) / smoothing). `christiano_mixture` averages probabilities
  and has no such end.

  Source: Wang et al. 2024 (Secrets of RLHF II), arXiv:2401.06080, label
  smoothing. Smoothing 0 is `bradley_terry`.

  Args:
    smoothing: share of the label that goes to the other order, in [0, 0.5): at
      0.5 equal scores are best whatever the labels.

  Raises:
    ValueError: the shapes differ.
    UserError: `smoothing` is not in [0, 0.5).

  Example:
    >>> print(f"{bradley_terry_smoothed(2.0, 0.5, smoothing=0.1):.4f}")
    0.3514
  """
  check_parameter("bradley_terry_smoothed", "smoothing", smoothing, "[0, 0.5)")
  (score_diff,) = score_difference("bradley_terry_smoothed", chosen, rejected)
  return (1.0 - smoothing) * jax.nn.softplus(
    -score_diff
  ) + smoothing * jax.nn.softplus(score_diff)


def bradley_terry_soft(
  chosen: Float[ArrayLike, "*C"],
  rejected: Float[ArrayLike, "*C"],
  preference: Float[ArrayLike, "*C"],
) -> Float[Array, "*C"]:
  """Cross-entropy with the share of votes for the chosen one, one value each.

      loss = -preference log sigmoid(chosen - rejected)
             - (1 - preference) log sigmoid(rejected - chosen)

  Source: Christiano et al. 2017, arXiv:1706.03741, whose label distributions
  are (1, 0), (0, 1) and, for a tie, (1/2, 1/2). Preference 1 is
  `bradley_terry`.

  Args:
    preference: share of votes for `chosen`, in [0, 1]; 0.5 is a tie.

  Raises:
    ValueError: the shapes differ; a preference of shape [C, 1] is not accepted.

  Example:
    >>> print(f"{bradley_terry_soft(2.0, 0.5, 0.75):.4f}")
    0.5764
  """
  score_diff, preference = score_difference(
    "bradley_terry_soft", chosen, rejected, preference=preference
  )
  preference = preference.astype(jnp.float32)
  # Two softplus: softplus(-d) + (1 - preference) d cancels at large d.
  return preference * jax.nn.softplus(-score_diff) + (
    1.0 - preference
  ) * jax.nn.softplus(score_diff)


def christiano_mixture(
  chosen: Float[ArrayLike, "*C"],
  rejected: Float[ArrayLike, "*C"],
  *,
  noise: float,
) -> Float[Array, "*C"]:
  """Loss of a labeller who sometimes answers at random, one value each.

      loss = -log((1 - noise) sigmoid(chosen - rejected) + noise / 2)

  The logarithm of an averaged probability: at most log(2 / noise), so one wrong
  label cannot pull without end, and no end to the scores
  (`bradley_terry_smoothed` is the opposite in both).

  Source: Christiano et al. 2017, arXiv:1706.03741, who set noise to 0.1. Noise
  0 is `bradley_terry`.

  Args:
    noise: share of cases in which either answer is equally likely, in [0, 1).

  Raises:
    ValueError: the shapes differ.
    UserError: `noise` is not in [0, 1).

  Example:
    >>> print(f"{christiano_mixture(2.0, 0.5, noise=0.1):.4f}")
    0.2410
  """
  check_parameter("christiano_mixture", "noise", noise, "[0, 1)")
  (score_diff,) = score_difference("christiano_mixture", chosen, rejected)
  noise = jnp.float32(noise)
  # A sum of logarithms: sigmoid(-1e4) is 0 and its logarithm has no slope.
  return -jnp.logaddexp(
    jnp.log1p(-noise) - jax.nn.softplus(-score_diff), jnp.log(noise / 2)
  )
