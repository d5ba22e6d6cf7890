"""Losses of one number per completion or token: correctness and values.

The categorical losses predict a distribution over *centers*, M ascending values
at equal distances; bin i reaches half a step to both sides of center i.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from rm_jax.losses.arguments import rows_of_logits, same_shape
from rm_jax.types import UserError


def outcome_cross_entropy(
  logits: Float[ArrayLike, "*B"], labels: Float[ArrayLike, "*B"]
) -> Float[Array, "*B"]:
  """Binary cross-entropy of "this completion is correct", one value each.

      loss = softplus(z) - y z = -y log sigmoid(z) - (1 - y) log sigmoid(-z)

  Source: Lyu et al. 2025 (OREAL), arXiv:2502.06781, there of the mean logit of
  a completion; the task is that of Cobbe et al. 2021, arXiv:2110.14168, who
  regress it with a squared error (`squared_error`).

  Args:
    labels: probability of being correct, anything in [0, 1]. No value is
      special: -100 is a wrong label, not a mask. Masks are weights, outside.

  Raises:
    ValueError: the shapes differ.

  Example:
    >>> print(f"{outcome_cross_entropy(1.5, 0.25):.4f}")
    1.3264
  """
  logits, labels = same_shape(
    "outcome_cross_entropy", logits=logits, labels=labels
  )
  logits = logits.astype(jnp.float32)
  # Two softplus, not softplus(z) - y z: at z = 1e4, y = 1 that subtracts two
  # numbers near 1e4 and what is left is rounding.
  labels = labels.astype(jnp.float32)
  return labels * jax.nn.softplus(-logits) + (1.0 - labels) * jax.nn.softplus(
    logits
  )


def squared_error(
  predictions: Float[ArrayLike, "*B"], labels: Float[ArrayLike, "*B"]
) -> Float[Array, "*B"]:
  """Squared error of a prediction, one value each; no factor 1/2.

      loss = (p - y)^2

  Source: Cobbe et al. 2021, arXiv:2110.14168 (verifier); Wang et al. 2024
  (HelpSteer2), arXiv:2406.08673 (attribute ratings).

  Raises:
    ValueError: the shapes differ.

  Example:
    >>> print(f"{squared_error(0.5, 2.0):.4f}")
    2.2500
  """
  predictions, labels = same_shape(
    "squared_error", predictions=predictions, labels=labels
  )
  return (predictions.astype(jnp.float32) - labels.astype(jnp.float32)) ** 2


def two_hot(
  logits: Float[ArrayLike, "*B M"],
  labels: Float[ArrayLike, "*B"],
  centers: Float[ArrayLike, " M"],
) -> Float[Array, "*B"]:
  """Cross-entropy against the label on its two neighbouring centers.

      loss = -sum over i of max(0, 1 - |y - c_i| / step) log softmax(logits)_i

  with y clipped to [c_1, c_M]. The target's mean is y: `expected_value` of a
  perfect fit returns the label.

  Source: Farebrother et al. 2024, arXiv:2403.03950 (Two-Hot); Schrittwieser et
  al. 2020 (MuZero), arXiv:1911.08265.

  Raises:
    ValueError: the shapes do not fit, or the centers are not ascending at equal
      distances.

  Example:
    >>> loss = two_hot(jnp.array([0.0, 1.0, 2.0]), 0.25, np.array([0, 1, 2]))
    >>> print(f"{loss:.4f}")
    2.1576
  """
  logits, labels, centers = _on_centers("two_hot", logits, labels, centers)
  step = (centers[-1] - centers[0]) / (centers.size - 1)
  distances = jnp.abs(labels[..., None] - _along(centers, logits)) / step
  return _cross_entropy(logits, jnp.maximum(0.0, 1.0 - distances))


def hl_gauss(
  logits: Float[ArrayLike, "*B M"],
  labels: Float[ArrayLike, "*B"],
  centers: Float[ArrayLike, " M"],
  *,
  sigma: float,
) -> Float[Array, "*B"]:
  """Cross-entropy against a Gaussian around the label, cut into the bins.

      q_i = Phi((c_i + step/2 - y) / sigma) - Phi((c_i - step/2 - y) / sigma)
      loss = -sum over i of q_i / (q_1 + ... + q_M) log softmax(logits)_i

  with y clipped to [c_1, c_M].

  Source: Imani and White 2018, arXiv:1806.04613; Farebrother et al. 2024,
  arXiv:2403.03950 (HL-Gauss), whose sigma is 0.75 times the step.

  Args:
    sigma: standard deviation in the units of the labels, not in bins; at most
      c_M - c_1. Of a wider one all bins get the same, and where it is very wide
      their masses round to 0 in float32, which is 0 / 0.

  Raises:
    ValueError: the shapes do not fit, the centers are not ascending at equal
      distances.
    UserError: sigma is not above 0, or more than c_M - c_1.

  Example:
    >>> logits = jnp.array([0.0, 1.0, 2.0])
    >>> loss = hl_gauss(logits, 0.25, np.array([0, 1, 2]), sigma=0.75)
    >>> print(f"{loss:.4f}")
    1.9141
  """
  if not isinstance(sigma, jax.core.Tracer) and not sigma > 0:
    raise UserError(
      f"hl_gauss: expected sigma > 0, got {sigma}. It is in units of the "
      "labels; 0.75 times the distance of two centers is usual."
    )
  given = centers
  logits, labels, centers = _on_centers("hl_gauss", logits, labels, centers)
  if not any(isinstance(x, jax.core.Tracer) for x in (sigma, given)):
    widest = np.ptp(np.asarray(given, np.float64))
    if not sigma <= widest * (1 + 1e-6):  # 0.7 - 0.4 is not 0.3
      raise UserError(
        f"hl_gauss: expected sigma <= {widest:g}, the last center less the "
        f"first, got {sigma}: every label would have the same target. 0.75 "
        "times the distance of two centers is usual."
      )
  step = (centers[-1] - centers[0]) / (centers.size - 1)
  offsets = _along(centers, logits) - labels[..., None]
  below = jax.scipy.special.ndtr((offsets - step / 2) / sigma)
  above = jax.scipy.special.ndtr((offsets + step / 2) / sigma)
  mass = above - below
  # The label lies on the support, which holds about half the mass at least.
  return _cross_entropy(logits, mass / mass.sum(-1, keepdims=True))


def expected_value(
  logits: Float[ArrayLike, "*B M"], centers: Float[ArrayLike, " M"]
) -> Float[Array, "*B"]:
  """The number that a categorical head predicts: its mean, one value each.

      value = sum over i of softmax(logits)_i c_i

  Source: Farebrother et al. 2024, arXiv:2403.03950.

  Raises:
    ValueError: the shapes do not fit, or the centers are not ascending at equal
      distances.

  Example:
    >>> value = expected_value(jnp.array([0.0, 0.0, 1.0]), np.array([0, 1, 2]))
    >>> print(f"{value:.4f}")
    1.3642
  """
  logits, _, centers = _on_centers("expected_value", logits, 0.0, centers)
  return (jax.nn.softmax(logits) * _along(centers, logits)).sum(-1)


def _on_centers(caller, logits, labels, centers):
  """Returns float32 logits, labels clipped to the centers, and the centers."""
  logits, labels = rows_of_logits(caller, logits, "labels", labels)
  if jnp.shape(centers) != logits.shape[-1:] or logits.shape[-1] < 2:
    raise ValueError(
      f"{caller}: expected centers ({logits.shape[-1]},), two or more, for "
      f"logits {logits.shape}, got centers {jnp.shape(centers)}. Pass one "
      "center per logit."
    )
  if not isinstance(centers, jax.core.Tracer):  # a traced one has no values yet
    steps = np.diff(np.asarray(centers, np.float64))
    # 1e-3 of a step: linspace in float32 is no more even than that.
    if not (steps.min() > 0 and np.ptp(steps) <= 1e-3 * steps.mean()):
      raise ValueError(
        f"{caller}: expected centers that ascend at equal distances, got "
        f"distances from {steps.min():g} to {steps.max():g}. Use linspace."
      )
  centers = jnp.asarray(centers).astype(jnp.float32)
  labels = jnp.clip(labels.astype(jnp.float32), centers[0], centers[-1])
  return logits, labels, centers


def _along(centers, logits):
  """Returns the centers with as many axes as the logits."""
  return jnp.expand_dims(centers, range(logits.ndim - 1))


def _cross_entropy(logits, targets):
  return -(targets * jax.nn.log_softmax(logits)).sum(-1)
