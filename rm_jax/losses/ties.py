"""Likelihoods of one comparison that may end in a tie, one value each.

Both models have one parameter for how readily labellers tie, learnt with the
scores; `log_tie` is its unbounded form. Of a tied comparison it does not matter
which completion is called chosen.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from rm_jax.losses.arguments import boolean, score_difference


def davidson(
  chosen: Float[ArrayLike, "*C"],
  rejected: Float[ArrayLike, "*C"],
  tied: Bool[ArrayLike, "*C"],
  *,
  log_tie: float | Float[Array, ""],
) -> Float[Array, "*C"]:
  """Negative log-likelihood in Davidson's model of ties, one value each.

      loss = -log P,  P(chosen) = e^c / Z,  P(tied) = nu e^((c + r) / 2) / Z
      Z = e^c + e^r + nu e^((c + r) / 2),  nu = exp(log_tie)

  with c the chosen and r the rejected score. The odds of the two orders stay
  Bradley-Terry's; at equal scores the share of ties is nu / (2 + nu). As
  log_tie falls to -infinity it is `bradley_terry`.

  Source: Davidson 1970, on the Bradley-Terry model with ties; as a loss of
  language models Chen et al. 2024, arXiv:2409.17431.

  Args:
    tied: True where neither was preferred.
    log_tie: a Python number or a scalar array; gradients flow into it.

  Raises:
    ValueError: the shapes differ, `tied` holds floats, `log_tie` is no scalar.

  Example:
    >>> print(f"{davidson(2.0, 0.5, True, log_tie=0.0):.4f}")
    1.2780
  """
  score_diff, tied, log_tie = _arguments(
    "davidson", chosen, rejected, tied, log_tie
  )
  half = score_diff / 2
  # 1/P - 1, the other two outcomes against the observed one, as a logarithm:
  # softplus of it keeps small losses, log Z - c would round them away.
  others = jnp.where(
    tied,
    jnp.logaddexp(half, -half) - log_tie,
    jnp.logaddexp(-score_diff, log_tie - half),
  )
  return jax.nn.softplus(others)


def rao_kupper(
  chosen: Float[ArrayLike, "*C"],
  rejected: Float[ArrayLike, "*C"],
  tied: Bool[ArrayLike, "*C"],
  *,
  log_tie: float | Float[Array, ""],
) -> Float[Array, "*C"]:
  """Negative log-likelihood in Rao and Kupper's model of ties, one value each.

      loss = -log P,  P(chosen) = e^c / (e^c + theta e^r)
      P(tied) = (theta^2 - 1) e^c e^r / (e^c + theta e^r) / (theta e^c + e^r)
      theta = 1 + exp(log_tie)

  with c the chosen and r the rejected score. A labeller who sees a difference
  below log theta ties. At equal scores the share of ties is
  (theta - 1) / (theta + 1). As log_tie falls to -infinity it is
  `bradley_terry`.

  Source: Rao and Kupper 1967; as a loss of language models Chen et al. 2024,
  arXiv:2409.17431. Here theta = 1 + exp(log_tie), above 1 without a bound on
  what is learnt.

  Args:
    tied: True where neither was preferred.
    log_tie: a Python number or a scalar array; gradients flow into it.

  Raises:
    ValueError: the shapes differ, `tied` holds floats, `log_tie` is no scalar.

  Example:
    >>> print(f"{rao_kupper(2.0, 0.5, True, log_tie=0.0):.4f}")
    1.5693
  """
  score_diff, tied, log_tie = _arguments(
    "rao_kupper", chosen, rejected, tied, log_tie
  )
  log_theta = jax.nn.softplus(log_tie)
  log_two = math.log(2.0)
  # theta^2 - 1 = exp(log_tie) (2 + exp(log_tie)), and 1/P(tied) - 1 is
  # (2 + theta (e^d + e^-d)) / (theta^2 - 1), d the score difference: a sum of
  # positive terms.
  log_square_less_1 = log_tie + jnp.logaddexp(log_two, log_tie)
  apart = log_theta + jnp.logaddexp(score_diff, -score_diff)
  others = jnp.where(
    tied,
    jnp.logaddexp(log_two, apart) - log_square_less_1,
    log_theta - score_diff,
  )
  return jax.nn.softplus(others)


def _arguments(caller, chosen, rejected, tied, log_tie):
  score_diff, tied = score_difference(caller, chosen, rejected, tied=tied)
  tied = boolean(caller, "tied", tied)
  if jnp.shape(log_tie):
    raise ValueError(
      f"{caller}: expected one log_tie, got shape {jnp.shape(log_tie)}. Pass a "
      "number or an array of shape ()."
    )
  return score_diff, tied, jnp.asarray(log_tie).astype(jnp.float32)
