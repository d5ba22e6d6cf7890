"""Pointwise losses against their equation in float64, and at the extremes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rm_jax.losses import (
  expected_value,
  hl_gauss,
  outcome_cross_entropy,
  squared_error,
  two_hot,
)
from rm_jax.types import UserError

M = 7
CENTERS = np.linspace(-1.5, 1.5, M)
STEP = 0.5
LOGITS = st.lists(st.floats(-30, 30, width=32), min_size=M, max_size=M)


def log_softmax(logits):
  peak = max(logits)
  total = math.log(sum(math.exp(x - peak) for x in logits))
  return [x - peak - total for x in logits]


def gaussian_by_midpoints(label, sigma):
  """Mass of each bin by adding the density at 4,000 points of it: no erf."""
  masses = []
  for center in CENTERS:
    points = center + STEP * ((np.arange(4000) + 0.5) / 4000 - 0.5)
    masses.append(np.exp(-0.5 * ((points - label) / sigma) ** 2).sum())
  return np.array(masses) / sum(masses)


@pytest.mark.parametrize("label", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("logit", [-100.0, -1.5, 0.0, 2.0, 100.0])
def test_binary_cross_entropy_equals_the_equation(logit, label):
  # Catches soft labels cut to 0 or 1, which is what int() does to 0.3, and a
  # sign error; at +-100 log(sigmoid) is -inf in float32.
  log_right = -math.log1p(math.exp(-logit))
  log_wrong = -logit + log_right
  want = -label * log_right - (1 - label) * log_wrong
  got, slope = jax.value_and_grad(outcome_cross_entropy)(logit, label)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-30)
  np.testing.assert_allclose(
    slope, 1 / (1 + math.exp(-logit)) - label, atol=1e-6
  )


def test_minus_100_is_a_number_not_a_mask():
  # Catches a sentinel borrowed from language-model code: softplus(z) + 100 z.
  got = outcome_cross_entropy(2.0, -100)
  np.testing.assert_allclose(got, math.log1p(math.exp(2.0)) + 200.0, rtol=1e-6)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_confident_right_answer_costs_nothing(sign):
  # Catches softplus(z) - y z: both are 1e4, the difference is rounding, and at
  # z = 20 it is 0 where the loss is 2e-9.
  label = 0.5 + 0.5 * sign
  value, slope = jax.value_and_grad(outcome_cross_entropy)(sign * 1e4, label)
  assert (value, slope) == (0.0, 0.0)
  value, slope = jax.value_and_grad(outcome_cross_entropy)(-sign * 1e4, label)
  assert (value, slope) == (1e4, -sign)
  np.testing.assert_allclose(
    outcome_cross_entropy(sign * 20, label), math.exp(-20), rtol=1e-5
  )


def test_squared_error_has_no_half():
  # Catches a factor 1/2, and integers that stay integers (0.5 would be 0).
  np.testing.assert_array_equal(
    squared_error(np.array([0.5, -2.0]), np.array([2, 1])), [2.25, 9.0]
  )
  value, slope = jax.value_and_grad(squared_error)(1e4, -1e4)
  assert (value, slope) == (4e8, 4e4)


@settings(max_examples=30, deadline=None)
@given(LOGITS, st.floats(-3, 3, width=32), st.sampled_from([0.2, 0.375, 3.0]))
def test_categorical_losses_equal_the_loops(logits, label, sigma):
  # Catches a target on one bin, edges taken for centers (half a step off),
  # sigma counted in bins, mass outside of the support that is lost, and labels
  # that are not clipped.
  clipped = min(max(label, CENTERS[0]), CENTERS[-1])
  log_probabilities = log_softmax(logits)
  two = np.zeros(M)
  low = min(int((clipped - CENTERS[0]) / STEP), M - 2)
  two[low + 1] = (clipped - CENTERS[low]) / STEP
  two[low] = 1 - two[low + 1]
  gauss = gaussian_by_midpoints(clipped, sigma)
  logits = np.float32(logits)
  np.testing.assert_allclose(
    two_hot(logits, label, CENTERS),
    -np.dot(two, log_probabilities),
    rtol=1e-5,
    atol=1e-5,
  )
  np.testing.assert_allclose(
    hl_gauss(logits, label, CENTERS, sigma=sigma),
    -np.dot(gauss, log_probabilities),
    rtol=1e-5,
    atol=1e-5,
  )
  np.testing.assert_allclose(
    expected_value(logits, CENTERS),
    np.dot(np.exp(log_probabilities), CENTERS),
    atol=1e-5,
  )


@pytest.mark.parametrize("label", [-9.0, -1.5, -0.6, 0.0, 1.1, 1.5, 9.0])
def test_the_best_two_hot_fit_returns_the_label(label):
  # Catches weights on the wrong neighbour: at the minimum softmax(logits) is
  # the target, where the gradient vanishes and the mean is the clipped label.
  clipped = min(max(label, -1.5), 1.5)
  target = np.maximum(0, 1 - np.abs(clipped - CENTERS) / STEP)
  logits = jnp.log(jnp.array(target) + 1e-30)
  slope = jax.grad(two_hot)(logits, label, CENTERS)
  np.testing.assert_allclose(slope, np.zeros(M), atol=1e-6)
  np.testing.assert_allclose(
    expected_value(logits, CENTERS), clipped, atol=1e-6
  )


def test_a_narrow_gaussian_is_the_bin_of_the_label():
  # Catches a division by an underflowed mass: sigma far below the step.
  logits = jnp.arange(M, dtype=jnp.float32)
  got = hl_gauss(logits, 0.1, CENTERS, sigma=1e-6)
  want = -log_softmax(list(range(M)))[3]  # the center at 0
  np.testing.assert_allclose(got, want, rtol=1e-6)
  assert np.isfinite(hl_gauss(logits, -1e4, CENTERS, sigma=1e-6))


def test_categorical_losses_are_finite_at_extreme_logits():
  # Catches log(softmax): the gradient of a bin with probability 0 is NaN.
  logits = jnp.array([1e4, -1e4, 0, 1e4, -1e4, 0, -1e4])
  for loss in (
    lambda x: two_hot(x, 0.6, CENTERS),
    lambda x: hl_gauss(x, 0.6, CENTERS, sigma=0.375),
    lambda x: expected_value(x, CENTERS),
  ):
    value, slope = jax.value_and_grad(loss)(logits)
    assert np.isfinite(value) and np.isfinite(slope).all()


def test_mistakes_are_errors():
  # Catches centers that are edges (one too many), not even, or descending.
  logits = jnp.zeros((2, M))
  with pytest.raises(ValueError, match=r"centers \(7,\).*got centers \(8,\)"):
    two_hot(logits, jnp.zeros(2), np.arange(8))
  with pytest.raises(ValueError, match="ascend at equal distances.*linspace"):
    two_hot(logits, jnp.zeros(2), np.arange(M) ** 2)
  with pytest.raises(ValueError, match="ascend at equal distances"):
    expected_value(logits, -CENTERS)
  with pytest.raises(ValueError, match="expected sigma > 0, got 0"):
    hl_gauss(logits, jnp.zeros(2), CENTERS, sigma=0)
  for sigma in (3.1, 1e9, math.inf, math.nan):  # 1e9: 0 / 0, the loss is NaN
    with pytest.raises(UserError, match=rf"expected sigma .*got {sigma}"):
      hl_gauss(logits, jnp.zeros(2), CENTERS, sigma=sigma)
  assert np.isfinite(hl_gauss(logits, jnp.zeros(2), CENTERS, sigma=3.0)).all()
  with pytest.raises(
    ValueError, match=r"labels of shape \(2,\) for logits \(2, 7\), got labels"
  ):
    hl_gauss(logits, jnp.zeros((2, 1)), CENTERS, sigma=0.5)
  with pytest.raises(ValueError, match=r"logits \(3,\) and labels \(3, 1\)"):
    outcome_cross_entropy(jnp.zeros(3), jnp.zeros((3, 1)))
