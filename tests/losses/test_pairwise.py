"""Pairwise losses against their equation in float64, and at the extremes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rm_jax.losses import bradley_terry, bradley_terry_margin

C = 5  # one shape for all examples: one compilation
SCORES = st.lists(st.floats(-50, 50, width=32), min_size=C, max_size=C)


def minus_log_sigmoid(x: float) -> float:
  """-log sigmoid(x) in float64, from the definition, on the safe side of 0."""
  if x >= 0:
    return math.log1p(math.exp(-x))
  return -x + math.log1p(math.exp(x))


@settings(max_examples=30, deadline=None)
@given(SCORES, SCORES, SCORES)
def test_equals_the_equation_pair_by_pair(chosen, rejected, margin):
  # Catches swapped sides, a margin of the wrong sign or outside of the
  # logarithm, and a broadcast of margins over pairs: the loop has C terms.
  plain = [
    minus_log_sigmoid(c - r) for c, r in zip(chosen, rejected, strict=True)
  ]
  wide = [
    minus_log_sigmoid(c - r - m)
    for c, r, m in zip(chosen, rejected, margin, strict=True)
  ]
  sides = np.float32(chosen), np.float32(rejected)
  np.testing.assert_allclose(
    bradley_terry(*sides), plain, rtol=2e-5, atol=1e-30
  )
  np.testing.assert_allclose(
    bradley_terry_margin(*sides, np.float32(margin)),
    wide,
    rtol=2e-5,
    atol=1e-30,
  )


def test_worked_value_of_a_margin():
  # Catches a margin that is added to the score difference: 0.0789 instead.
  want = -math.log(1 / (1 + math.exp(-(2.0 - 0.5 - 1.0))))
  np.testing.assert_allclose(
    bradley_terry_margin(2.0, 0.5, 1.0), want, rtol=1e-6
  )


def test_a_column_of_margins_is_an_error_not_a_matrix():
  # Catches [C, 1] - [C] -> [C, C], which trains on pairs that do not exist.
  scores = jnp.ones(4)
  with pytest.raises(
    ValueError,
    match=r"bradley_terry_margin: expected equal shapes, got chosen \(4,\) "
    r"and margin \(4, 1\)",
  ):
    bradley_terry_margin(scores, scores, jnp.ones((4, 1)))


@pytest.mark.parametrize("shift", [-30.0, 0.0, 7.5])
def test_ignores_a_shift_of_both_scores(shift):
  # Catches a loss of anything but the difference.
  chosen, rejected, margin = jnp.array([[1, -2], [0.5, 3], [0, 1.0]])
  np.testing.assert_allclose(
    bradley_terry_margin(chosen + shift, rejected + shift, margin),
    bradley_terry_margin(chosen, rejected, margin),
    rtol=1e-5,
  )


def test_a_pair_does_not_change_the_loss_of_another():
  # Catches sums over the batch before the sigmoid, right for one pair only:
  # permuted and duplicated pairs keep their values.
  chosen, rejected = jnp.array([[1, -2, 0.5], [0.25, 3, -1]])
  one = bradley_terry(chosen, rejected)
  order = np.array([2, 0, 1])
  np.testing.assert_array_equal(
    bradley_terry(chosen[order], rejected[order]), one[order]
  )
  twice = bradley_terry(jnp.tile(chosen, 2), jnp.tile(rejected, 2))
  np.testing.assert_array_equal(twice, jnp.tile(one, 2))
  for i in range(3):
    np.testing.assert_allclose(
      bradley_terry(chosen[i], rejected[i]), one[i], rtol=1e-6
    )


@pytest.mark.parametrize("size", [100.0, 1e4])
def test_is_finite_and_exact_at_extreme_scores(size):
  # Catches log(sigmoid(x)), -inf from x = -104, and log(1 + exp(x)), inf from
  # x = 89; the gradients would be NaN.
  for loss in (bradley_terry, lambda c, r: bradley_terry_margin(c, r, 0.0)):
    value, slopes = jax.value_and_grad(loss, (0, 1))(-size, size)
    assert (value, *slopes) == (2 * size, -1.0, 1.0)
    value, slopes = jax.value_and_grad(loss, (0, 1))(size, -size)
    assert value == 0.0
    assert abs(slopes[0]) < 1e-30 and abs(slopes[1]) < 1e-30


def test_gradient_is_minus_the_chance_of_the_other_order():
  # Catches a stopped or doubled gradient: d/dchosen = sigmoid(x) - 1.
  for c, r, m in [(0.3, 0.3, 0.0), (2.0, -1.0, 0.5), (-3.0, 1.0, 2.0)]:
    want = 1 / (1 + math.exp(-(c - r - m))) - 1
    slopes = jax.grad(bradley_terry_margin, (0, 1, 2))(c, r, m)
    np.testing.assert_allclose(slopes, [want, -want, -want], rtol=1e-5)


def test_subtracts_in_float32_whatever_comes_in():
  # Catches a difference in bfloat16: 4.015625 rounds to 4.0 there, and close
  # scores become ties.
  chosen = jnp.array([4.0], jnp.bfloat16)
  rejected = jnp.array([-0.015625], jnp.bfloat16)
  assert float(chosen[0] - rejected[0]) == 4.0  # what it guards against
  want = minus_log_sigmoid(4.015625)
  loss = bradley_terry(chosen, rejected)
  assert loss.dtype == jnp.float32
  np.testing.assert_allclose(loss, [want], rtol=1e-6)
