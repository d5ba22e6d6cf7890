"""Losses over the reasoning steps of a completion, one value per step.

Which steps count (all, or up to the first wrong one) is a weight, outside.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from rm_jax.losses.arguments import rows_of_logits, same_shape


def step_binary_cross_entropy(
  logits: Float[ArrayLike, "*S"], labels: Float[ArrayLike, "*S"]
) -> Float[Array, "*S"]:
  """Binary cross-entropy of "this step is good", one value per step.

      loss = softplus(z) - y z = -y log sigmoid(z) - (1 - y) log sigmoid(-z)

  Source: Wang et al. 2023 (Math-Shepherd), arXiv:2312.08935; a hard label says
  that some rollout from the step was right, a soft one which share was. Printed
  there without the minus sign.

  Args:
    labels: anything in [0, 1]. No value is special: -100 is a wrong label, not
      a mask.

  Raises:
    ValueError: the shapes differ.

  Example:
    >>> print(f"{step_binary_cross_entropy(1.5, 0.25):.4f}")
    1.3264
  """
  logits, labels = same_shape(
    "step_binary_cross_entropy", logits=logits, labels=labels
  )
  logits = logits.astype(jnp.float32)
  labels = labels.astype(jnp.float32)
  # Two softplus: softplus(z) - y z cancels for confident right steps.
  return labels * jax.nn.softplus(-logits) + (1.0 - labels) * jax.nn.softplus(
    logits
  )


def step_cross_entropy(
  logits: Float[ArrayLike, "*S 3"], labels: Float[ArrayLike, "*S"]
) -> Float[Array, "*S"]:
  """Cross-entropy over bad, neutral and good, one value per step.

      loss = -log softmax(logits)[label + 1],   label in {-1, 0, 1}

  Source: Lightman et al. 2023, arXiv:2305.20050, Sec. 2.6; there the classes
  are three tokens of the vocabulary.

  Args:
    labels: -1, 0 or 1, as integers or floats. Any other label has no class and
      gives NaN, so that it cannot train in silence.

  Raises:
    ValueError: the last axis is not 3, or the shapes do not fit.

  Example:
    >>> loss = step_cross_entropy(jnp.array([0.0, 1.0, 2.0]), 1)
    >>> print(f"{loss:.4f}")
    0.4076
  """
  logits, labels = rows_of_logits(
    "step_cross_entropy", logits, "labels", labels
  )
  if logits.shape[-1] != 3:
    raise ValueError(
      "step_cross_entropy: expected logits [..., 3] (bad, neutral, good), got "
      f"{logits.shape}. Use a head with 3 outputs."
    )
  columns = jnp.arange(-1, 2, dtype=labels.dtype)
  columns = jnp.expand_dims(columns, range(labels.ndim))
  is_class = labels[..., None] == columns  # [*S, 3]
  log_probabilities = jnp.where(is_class, jax.nn.log_softmax(logits), 0.0)
  return jnp.where(is_class.any(-1), -log_probabilities.sum(-1), jnp.nan)
