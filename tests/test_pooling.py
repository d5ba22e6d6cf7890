"""Where the head reads, and means over a completion's tokens."""

import jax
import jax.numpy as jnp
import numpy as np

from rm_jax.pooling import read_positions, segment_mean


def test_reads_the_columns_that_are_asked_for():
  # Wrong: the last column, or one shared by all rows.
  hidden = jnp.arange(2 * 4 * 3, dtype=jnp.float32).reshape(2, 4, 3)
  got = read_positions(hidden, jnp.array([[3, 0], [1, 1]]))
  np.testing.assert_array_equal(got[0], hidden[0, jnp.array([3, 0])])
  np.testing.assert_array_equal(got[1], hidden[1, jnp.array([1, 1])])


def test_only_the_token_that_is_read_matters():
  hidden = jnp.ones((1, 4, 2))
  gradient = jax.grad(lambda h: jnp.sum(read_positions(h, jnp.array([[2]]))))(
    hidden
  )
  np.testing.assert_array_equal(gradient[0, :, 0], [0, 0, 1, 0])


VALUES = np.array([[[1.0, 3.0, np.nan], [10.0, 5.0, 7.0]]], np.float32)
SEGMENTS = np.array([[[0, 0, 0], [1, 2, 2]]])
WHERE = np.array([[[True, True, False], [True, True, True]]])


def test_means_by_hand_with_padding_of_nan():
  # Segment 0 has a slot that is not real: it must not count, nor its NaN.
  got = segment_mean(
    jnp.asarray(VALUES),
    jnp.asarray(SEGMENTS),
    jnp.asarray(WHERE),
    num_segments=4,
  )
  np.testing.assert_array_equal(got, [[[2.0, 2.0, 0.0], [10.0, 6.0, 6.0]]])


def test_blocks_number_their_segments_alone():
  # Wrong: one segment sum over all blocks.
  both = [jnp.concatenate([jnp.asarray(x)] * 2) for x in (SEGMENTS, WHERE)]
  values = jnp.concatenate([jnp.asarray(VALUES), 100 + jnp.asarray(VALUES)])
  got = segment_mean(values, *both, num_segments=4)
  np.testing.assert_array_equal(got[1, 1], [110.0, 106.0, 106.0])


def test_gradient_is_shared_and_finite():
  def f(v):
    out = segment_mean(
      v, jnp.asarray(SEGMENTS), jnp.asarray(WHERE), num_segments=3
    )
    return out[0, 1, 2]

  gradient = jax.grad(f)(jnp.asarray(VALUES))
  np.testing.assert_array_equal(gradient, [[[0, 0, 0], [0, 0.5, 0.5]]])
