"""Loss of a language-model head, for joint and generative reward models."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from rm_jax.losses.arguments import rows_of_logits


def next_token_cross_entropy(
  logits: Float[ArrayLike, "*B V"], tokens: Int[ArrayLike, "*B"]
) -> Float[Array, "*B"]:
  """Negative log-probability of each token, one value per token.

      loss = logsumexp(logits) - logits[token]

  Nothing is shifted here: the logits of a row are those that predict its token.
  In a packed row these stand in the column of the token's parent, which is not
  always the column before.

  Source: Cobbe et al. 2021, arXiv:2110.14168 (joint objective).

  Args:
    tokens: ids in [0, V). Any other id, -100 included, gives NaN.

  Raises:
    ValueError: the shapes do not fit, or the tokens are not integers.

  Example:
    >>> print(f"{next_token_cross_entropy(jnp.array([0.0, 1.0, 2.0]), 2):.4f}")
    0.4076
  """
  logits, tokens = rows_of_logits(
    "next_token_cross_entropy", logits, "tokens", tokens
  )
  if not jnp.issubdtype(tokens.dtype, jnp.integer):
    raise ValueError(
      f"next_token_cross_entropy: expected integer tokens, got {tokens.dtype}. "
      "Pass ids (arguments are logits, tokens)."
    )
  # Less the maximum before, not after: at logits of 1e4 float32 steps by 1e-3.
  logits = logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True))
  picked = jnp.take_along_axis(
    logits, jnp.maximum(tokens, 0)[..., None], axis=-1, mode="clip"
  )[..., 0]
  known = (tokens >= 0) & (tokens < logits.shape[-1])
  loss = jnp.log(jnp.exp(logits).sum(-1)) - picked
  return jnp.where(known, loss, jnp.nan)
