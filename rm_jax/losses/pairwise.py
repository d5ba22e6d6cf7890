"""Losses of one comparison: a chosen and a rejected score, one value each."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from rm_jax.losses.arguments import same_shape


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
  chosen, rejected = same_shape(
    "bradley_terry", chosen=chosen, rejected=rejected
  )
  # float32 before the difference: in bfloat16 close scores subtract to a tie.
  return jax.nn.softplus(
    rejected.astype(jnp.float32) - chosen.astype(jnp.float32)
  )


def bradley_terry_margin(
  chosen: Float[ArrayLike, "*C"],
  rejected: Float[ArrayLike, "*C"],
  margin: Float[ArrayLike, "*C"],
) -> Float[Array, "*C"]:
  """Bradley-Terry loss with an annotated margin, one float32 value each.

      loss = -log sigmoid(chosen - rejected - margin)

  Source: Touvron et al. 2023 (Llama 2), arXiv:2307.09288, Eq. (2). Margin 0 is
  `bradley_terry`.

  Args:
    margin: how much better the annotator called the chosen one, in units of
      score; a Python number means the same for all (see `rm_jax.margins`).

  Raises:
    ValueError: the shapes differ; a margin of shape [C, 1] is not accepted.

  Example:
    >>> print(f"{bradley_terry_margin(2.0, 0.5, 1.0):.4f}")
    0.4741
  """
  chosen, rejected, margin = same_shape(
    "bradley_terry_margin", chosen=chosen, rejected=rejected, margin=margin
  )
  score_diff = chosen.astype(jnp.float32) - rejected.astype(jnp.float32)
  return jax.nn.softplus(margin.astype(jnp.float32) - score_diff)
