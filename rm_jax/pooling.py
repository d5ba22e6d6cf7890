"""Hidden states to one vector, or one value, per scored position."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# How slots are placed (in data) and what is done with them (here).
#   last_token   one slot per completion: the token where its score is read
#   every_token  a slot at every token of the completion
#   mean         as every_token, and the completion's score is their mean
#   step_ends    a slot at the last token of every reasoning step
POOLINGS = ("last_token", "every_token", "mean", "step_ends")

# What published heads need beside those.
#   prompt_and_last  as last_token, and before it a slot at the prompt's end
#   sum              as every_token, and the completion's score is their sum
PLACINGS = (*POOLINGS, "prompt_and_last", "sum")


def read_positions(
  hidden: Float[Array, "B L D"], columns: Int[Array, "B S"]
) -> Float[Array, "B S D"]:
  """The hidden state at each scored column: never looked up by token id."""
  return jnp.take_along_axis(hidden, columns[:, :, None], axis=1)


def segment_sum(
  values: Float[Array, "N R S"],
  segments: Int[Array, "N R S"],
  where: Bool[Array, "N R S"],
  *,
  num_segments: int,
) -> Float[Array, "N R S"]:
  """At every slot, real or not, the sum over its segment in the block.

      out_s = sum of v_t over real slots t with segment_t == segment_s

  Slots of one completion may lie in one row only, but a block's segments are
  numbered over all its rows.
  """

  def one_block(v, s, w):
    v, s, w = v.reshape(-1), s.reshape(-1), w.reshape(-1)
    real = jnp.where(w, v, 0.0)
    return jax.ops.segment_sum(real, s, num_segments=num_segments)[s]

  return jax.vmap(one_block)(values, segments, where).reshape(values.shape)


def segment_mean(
  values: Float[Array, "N R S"],
  segments: Int[Array, "N R S"],
  where: Bool[Array, "N R S"],
  *,
  num_segments: int,
) -> Float[Array, "N R S"]:
  """At every real slot the mean over its segment in the block; elsewhere 0.

  With a linear head the mean of scores is the score of the mean hidden state.
  """
  total = segment_sum(values, segments, where, num_segments=num_segments)
  ones = where.astype(jnp.float32)
  count = segment_sum(ones, segments, where, num_segments=num_segments)
  return jnp.where(where, total / jnp.maximum(count, 1.0), 0.0)
