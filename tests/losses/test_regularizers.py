"""Regularizers against their equations, and what they leave alone."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rm_jax.losses import (
  bradley_terry,
  centering,
  group_variance,
  hidden_square,
  score_square,
)


def test_centering_is_the_squared_sum():
  # Catches the mean (a quarter of it), the difference, and a sign that rewards
  # an offset.
  np.testing.assert_allclose(
    centering(np.float32([2.0, -3.0]), np.float32([1.0, 3.0])), [9.0, 0.0]
  )
  value, slopes = jax.value_and_grad(centering, (0, 1))(2.0, 1.0)
  assert (value, *slopes) == (9.0, 6.0, 6.0)
  assert centering(1e4, 1e4) == 4e8


def test_centering_takes_the_offset_and_leaves_the_difference():
  # Catches a term that also shrinks the scores: its gradient has no part along
  # the difference, and Bradley-Terry's none along the sum.
  term = jax.grad(centering, (0, 1))(2.0, -0.5)
  loss = jax.grad(bradley_terry, (0, 1))(2.0, -0.5)
  assert term[0] - term[1] == 0 and loss[0] + loss[1] == 0


def test_squares_have_no_half():
  # Catches a factor 1/2, and a sum over features that grows with the width.
  np.testing.assert_array_equal(score_square(np.float32([-3, 0.5])), [9, 0.25])
  assert score_square(1e4) == 1e8
  hidden = np.float32([[1, -2, 3, 0], [0, 0, 0, 0.5]])
  np.testing.assert_array_equal(hidden_square(hidden), [14 / 4, 0.25 / 4])
  np.testing.assert_array_equal(
    hidden_square(np.tile(hidden, (1, 3))), hidden_square(hidden)
  )
  slope = jax.grad(lambda h: hidden_square(h).sum())(hidden)
  np.testing.assert_allclose(slope, hidden / 2)


def test_variance_is_that_of_the_population():
  # Catches n - 1, a sum in place of the mean, and padding in the mean.
  scores = [0.5, -1.0, 2.5, 7.0]
  where = np.array([True, True, True, False])
  mean = sum(scores[:3]) / 3
  want = sum((s - mean) ** 2 for s in scores[:3]) / 3
  got = group_variance(np.float32(scores), where)
  np.testing.assert_allclose(got, want, rtol=1e-6)
  slope = jax.grad(group_variance)(jnp.array(scores), where)
  np.testing.assert_allclose(
    slope, [2 * (s - mean) / 3 for s in scores[:3]] + [0.0], rtol=1e-5
  )


@pytest.mark.parametrize("shift", [-50.0, 1e4])
def test_variance_ignores_the_offset(shift):
  # Catches the mean of squares less the squared mean: 1e8 holds no digit of 1.
  scores = np.float32([1.0, -1.0, 0.5])
  np.testing.assert_allclose(
    group_variance(scores + np.float32(shift), True),
    group_variance(scores, True),
    rtol=1e-3,  # scores at 1e4 are themselves rounded to 1e-3
  )


@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e30])
def test_variance_of_padding_equals_removal(garbage):
  # Catches where applied after the arithmetic.
  scores = jnp.array([[1.0, garbage, 3.0], [garbage, 2.0, garbage]])
  where = jnp.array([[True, False, True], [False, True, False]])
  value = group_variance(scores, where)
  np.testing.assert_array_equal(value, [1.0, 0.0])
  slope = jax.grad(lambda s: group_variance(s, where).sum())(scores)
  np.testing.assert_array_equal(slope, [[-1, 0, 1], [0, 0, 0]])


def test_variance_of_nothing_is_zero():
  # Catches 0 / 0, in the value or only in the gradient.
  scores = jnp.array([[math.nan, 2.0], [3.0, 4.0]])
  where = jnp.array([[False, False], [True, False]])
  value, slope = jax.value_and_grad(lambda s: group_variance(s, where).sum())(
    scores
  )
  assert value == 0 and (slope == 0).all()
  empty = group_variance(np.zeros((2, 0)), np.zeros((2, 0), bool))
  np.testing.assert_array_equal(empty, [0.0, 0.0])


def test_mistakes_are_errors():
  # Catches weights taken for where, and single numbers without their axis.
  with pytest.raises(ValueError, match="boolean where, got float32.*multiply"):
    group_variance(np.ones(2), np.ones(2, np.float32))
  with pytest.raises(ValueError, match="last axis of K completions, got shape"):
    group_variance(1.0, True)
  with pytest.raises(ValueError, match="last axis of features, got shape"):
    hidden_square(1.0)
  with pytest.raises(ValueError, match=r"chosen \(3,\) and rejected \(3, 1\)"):
    centering(np.ones(3), np.ones((3, 1)))
