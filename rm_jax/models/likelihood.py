"""How likely a language model finds given tokens, without [B, L, V] logits."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rm_jax.models.attention import soften
from rm_jax.models.dots import dot

CHUNK = 256  # tokens whose logits exist at a time


def token_log_likelihood(
  context: Float[Array, "*T D"],
  unembedding: Float[Array, "V D"],
  tokens: Int[Array, "*T"],
  *,
  dtype: str,
  soft_cap: float,
) -> Float[Array, "*T"]:
  """log p(token | context), float32: its logit minus the logsumexp of all.

  Args:
    context: hidden states that predict the tokens: those at their parents.
    dtype: of the product with the unembedding.
    soft_cap: logits become soft_cap * tanh(logit / soft_cap); 0: they stay.
  """
  total = tokens.size
  chunk = min(CHUNK, total)
  spare = -total % chunk
  states = jnp.pad(
    context.reshape(total, context.shape[-1]), ((0, spare), (0, 0))
  )
  wanted = jnp.pad(tokens.reshape(total), (0, spare))

  @jax.checkpoint
  def one_chunk(part):
    state, token = part
    logits = dot("sd,vd->sv", state, unembedding, dtype=dtype)
    if soft_cap:
      logits = soften(logits, soft_cap)
    picked = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0]
    return picked - jax.nn.logsumexp(logits, axis=-1)

  found = jax.lax.map(
    one_chunk,
    (states.reshape(-1, chunk, states.shape[-1]), wanted.reshape(-1, chunk)),
  )
  return found.reshape(-1)[:total].reshape(tokens.shape)
