"""What is added to a loss with a coefficient, never inside of one.

A pairwise loss does not see a shift of all scores of a prompt, and pays for
larger scores without end; these say what the labels leave open.
"""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from rm_jax.losses.arguments import boolean, same_shape


def centering(
  chosen: Float[ArrayLike, "*C"], rejected: Float[ArrayLike, "*C"]
) -> Float[Array, "*C"]:
  """Squared sum of the two scores of a comparison, one float32 value each.

      term = (chosen + rejected)^2

  Removes the offset of every prompt, so that scores of several reward models
  can be compared.

  Source: Eisenstein et al. 2023, arXiv:2312.09244. Added to what is minimised,
  whatever the sign of the printed objective.

  Raises:
    ValueError: the shapes differ.

  Example:
    >>> print(f"{centering(2.0, -0.5):.4f}")
    2.2500
  """
  chosen, rejected = same_shape("centering", chosen=chosen, rejected=rejected)
  return (chosen.astype(jnp.float32) + rejected.astype(jnp.float32)) ** 2


def score_square(scores: Float[ArrayLike, "*B"]) -> Float[Array, "*B"]:
  """Square of each score, one float32 value per completion.

      term = score^2

  Source: no paper; a normal prior on every score, offset and scale in one.

  Example:
    >>> print(f"{score_square(-1.5):.4f}")
    2.2500
  """
  (scores,) = same_shape("score_square", scores=scores)
  return scores.astype(jnp.float32) ** 2


def group_variance(
  scores: Float[ArrayLike, "*G K"], where: Bool[ArrayLike, "*G K"]
) -> Float[Array, "*G"]:
  """Population variance of the scores of a group, one float32 value per group.

      term = 1/n sum over real i of (s_i - mean)^2,  n real completions

  Holds the scale and leaves the offset free. Fewer than two real completions
  give 0.

  Source: no paper; the part of `score_square` that a shift does not change.

  Raises:
    ValueError: the shapes differ, no axis of completions, or `where` holds
      weights.

  Example:
    >>> print(f"{group_variance(jnp.array([2.0, 1.0, 0.0]), True):.4f}")
    0.6667
  """
  scores, where = same_shape("group_variance", scores=scores, where=where)
  if not scores.ndim:
    raise ValueError(
      "group_variance: expected scores with a last axis of K completions, got "
      "shape (). Pass [..., K]."
    )
  where = boolean("group_variance", "where", where)
  scores = jnp.where(where, scores.astype(jnp.float32), 0.0)
  count = jnp.maximum(where.sum(-1), 1)
  mean = scores.sum(-1) / count
  # Differences from the mean, not mean of squares: at 1e4 these would cancel.
  apart = jnp.where(where, scores - mean[..., None], 0.0)
  return (apart**2).sum(-1) / count


def hidden_square(hidden: Float[ArrayLike, "*B D"]) -> Float[Array, "*B"]:
  """Mean square of the hidden state that the head reads, one value each.

      term = 1/D sum over d of h_d^2

  Source: no paper for the term; that hidden states of widely spread norm go
  with over-optimisation is Hong et al. 2025, arXiv:2505.07271, who centre the
  scores of a batch instead.

  Raises:
    ValueError: no axis of features.

  Example:
    >>> print(f"{hidden_square(jnp.array([1.0, -2.0])):.4f}")
    2.5000
  """
  (hidden,) = same_shape("hidden_square", hidden=hidden)
  if not hidden.ndim:
    raise ValueError(
      "hidden_square: expected hidden states with a last axis of features, got "
      "shape (). Pass [..., D]."
    )
  return (hidden.astype(jnp.float32) ** 2).mean(-1)
