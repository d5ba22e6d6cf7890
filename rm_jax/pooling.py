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


def read_positions(
  hidden: Float[Array, "B L D"], columns: Int[Array, "B S"]
) -> Float[Array, "B S D"]:
  """The hidden state at each scored column: never looked up by token id."""
  return jnp.take_along_axis(hidden, columns[:, :, None], axis=1)


def segment_mean(
  values: Float[Array, "N R S"],
  segments: Int[Array, "N R S"],
  where: Bool[Array, "N R S"],
  *,
  num_segments: int,
) -> Float[Array, "N R S"]:
  """Each slot's value replaced by the mean over its segment in the block.

      out_s = mean of v_t over real slots t with segment_t == segment_s

  Slots of one completion may lie in one row only, but a block's segments are
  numbered over all its rows. Unused slots give 0. With a linear head this
  equals the head of the mean hidden state.
  """

  def one_block(v, s, w):
    v, s, w = v.reshape(-1), s.reshape(-1), w.reshape(-1)
    real = jnp.where(w, v, 0.0)
    sums = jax.ops.segment_sum(real, s, num_segments=num_segments)
    counts = jax.ops.segment_sum(
      w.astype(jnp.float32), s, num_segments=num_segments
    )
    means = sums / jnp.maximum(counts, 1.0)
    return jnp.where(w, means[s], 0.0)

  flat = jax.vmap(one_block)(values, segments, where)
  return flat.reshape(values.shape)
