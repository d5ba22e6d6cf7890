"""Losses in place of Bradley-Terry against their equations in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rm_jax.losses import (
  bradley_terry,
  exponential,
  focal,
  focal_penalty,
  hinge,
  pair_cross_entropy,
  square,
  tempered_logarithm,
)
from rm_jax.types import UserError

DIFFERENCES = [-30.0, -4.0, -0.5, 0.0, 0.5, 1.5, 4.0, 20.0, 30.0]


def sigmoid(x):
  return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def minus_log_sigmoid(x):
  return max(-x, 0.0) + math.log1p(math.exp(-abs(x)))


def focal_by_formula(d, gamma):
  return sigmoid(-d) ** gamma * minus_log_sigmoid(d)


def penalty_by_formula(d, gamma):
  # 1 - 2 (p - 1/2) = 2 (1 - p) for p above 1/2; typed so that it keeps digits.
  kept = 2 * sigmoid(-d) if d > 0 else 1.0
  return kept**gamma * minus_log_sigmoid(d)


def tempered_by_formula(d, t):
  if t == 0:
    return sigmoid(-d)
  return -math.expm1(-(1 - t) * minus_log_sigmoid(d)) / (1 - t)


@pytest.mark.parametrize("d", DIFFERENCES)
def test_equal_their_equations(d):
  # Catches swapped sides, a gap of the wrong sign, a square without its root's
  # gap, 1 - p in place of p, and a penalty on wrong orders instead of right.
  for got, want in [
    (hinge(d, 0.0, gap=1.5), max(0.0, 1.5 - d)),
    (square(d, 0.0, gap=1.5), (d - 1.5) ** 2),
    (focal(d, 0.0, gamma=2.0), focal_by_formula(d, 2.0)),
    (focal(d, 0.0, gamma=0.5), focal_by_formula(d, 0.5)),
    (focal_penalty(d, 0.0, gamma=2.0), penalty_by_formula(d, 2.0)),
    (focal_penalty(d, 0.0, gamma=0.5), penalty_by_formula(d, 0.5)),
    (
      tempered_logarithm(d, 0.0, temperature=0.5),
      tempered_by_formula(d, 0.5),
    ),
    (tempered_logarithm(d, 0.0, temperature=0), tempered_by_formula(d, 0)),
    (
      pair_cross_entropy(d, 0.7),
      minus_log_sigmoid(d) + minus_log_sigmoid(-0.7),
    ),
  ]:
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-30)


def test_the_formulas_above_are_the_printed_ones():
  # The printed forms lose digits at large differences, not at small ones.
  # Catches a rearrangement that is wrong in the test and the code alike.
  for d in (-2.0, -0.5, 0.5, 2.0):
    p = sigmoid(d)
    loss = -math.log(p)
    for gamma in (0.5, 2.0):
      printed = loss * (1 - p) ** gamma
      assert math.isclose(focal_by_formula(d, gamma), printed, rel_tol=1e-9)
      printed = loss * (1 - 2 * max(p - 0.5, 0)) ** gamma
      assert math.isclose(penalty_by_formula(d, gamma), printed, rel_tol=1e-9)
    for t in (0.0, 0.5, 0.9):
      printed = -(p ** (1 - t) - 1) / (1 - t)
      assert math.isclose(tempered_by_formula(d, t), printed, rel_tol=1e-9)


@pytest.mark.parametrize("d", [-9.9, -3.0, 0.0, 5.0, 30.0])
def test_exponential_is_one_until_its_end(d):
  # Catches an exponential of chosen - rejected, and a line that begins early.
  value, slope = jax.value_and_grad(exponential)(d, 0.0)
  np.testing.assert_allclose(value, math.exp(-d), rtol=1e-5)
  np.testing.assert_allclose(slope, -math.exp(-d), rtol=1e-5)


@pytest.mark.parametrize("d", [-10.0, -11.0, -100.0, -2e4])
def test_exponential_goes_on_as_its_tangent(d):
  # Catches infinity from -89 on, a clip (no gradient left to correct a wrong
  # order), and a kink at the end.
  end = math.exp(10.0)
  value, slope = jax.value_and_grad(exponential)(d, 0.0)
  np.testing.assert_allclose(value, end * (1 + (-d - 10)), rtol=1e-5)
  np.testing.assert_allclose(slope, -end, rtol=1e-5)


@pytest.mark.parametrize("d", [-30.0, -0.5, 0.5, 3.0, 30.0])
def test_without_their_parameter_they_are_bradley_terry(d):
  # Catches a power that is applied to the wrong factor, and a tempered
  # logarithm that does not end in the logarithm.
  plain = bradley_terry(d, 0.0)
  for got in (focal(d, 0.0, gamma=0), focal_penalty(d, 0.0, gamma=0)):
    np.testing.assert_allclose(got, plain, rtol=1e-6)
  got = tempered_logarithm(d, 0.0, temperature=1 - 1e-4)
  np.testing.assert_allclose(got, plain, rtol=5e-3)


def test_what_a_wrong_order_costs():
  # Catches a penalty that also weakens wrong orders, an unbounded tempered
  # logarithm, and focal weights that do not come back to 1.
  for loss in (focal, focal_penalty):
    value, slope = jax.value_and_grad(loss)(-1e4, 1e4, gamma=2.0)
    assert (value, slope) == (2e4, -1.0)
  assert focal_penalty(-0.5, 0.0, gamma=3.0) == bradley_terry(-0.5, 0.0)
  assert focal(-0.5, 0.0, gamma=3.0) < bradley_terry(-0.5, 0.0)
  value, slope = jax.value_and_grad(tempered_logarithm)(
    -1e4, 1e4, temperature=0.75
  )
  assert (value, slope) == (4.0, 0.0)


def test_small_losses_keep_their_digits():
  # Catches 1 - p^power and (1 - p)^gamma from a p that float32 rounds to 1: at
  # a difference of 20 the loss would be 0 and its gradient gone.
  want = 2 * math.exp(-20.0) / 2
  value, slope = jax.value_and_grad(tempered_logarithm)(
    20.0, 0.0, temperature=0.5
  )
  np.testing.assert_allclose([value, -slope], [want, want], rtol=1e-5)
  np.testing.assert_allclose(
    focal(20.0, 0.0, gamma=1.0), math.exp(-40.0), rtol=1e-5
  )


def test_gaps_are_where_the_gradient_ends():
  # Catches a hinge that goes on, and a square whose least is not at the gap.
  slopes = jax.vmap(jax.grad(lambda d: hinge(d, 0.0, gap=2.0)))
  np.testing.assert_array_equal(
    slopes(jnp.array([-5.0, 1.9, 2.1])), [-1, -1, 0]
  )
  slopes = jax.vmap(jax.grad(lambda d: square(d, 0.0, gap=2.0)))
  np.testing.assert_allclose(slopes(jnp.array([1.0, 2.0, 5.0])), [-2, 0, 6])


def test_contradicting_labels_end_the_square_at_the_mean():
  # Catches a gap that is not per comparison: with three labels of four for it
  # the least of the mean is at gap times (3/4 - 1/4), as the docstring says.
  def mean(d):
    return (3 * square(d, 0.0, gap=2.0) + square(0.0, d, gap=2.0)) / 4

  assert jax.grad(mean)(1.0) == 0.0


def test_pair_cross_entropy_sees_the_level_of_a_prompt():
  # Catches a difference in it: both scores moved by 2 cost more.
  np.testing.assert_allclose(
    pair_cross_entropy(3.0, 1.0),
    math.log1p(math.exp(-3)) + math.log1p(math.exp(1)),
    rtol=1e-6,
  )
  value, slopes = jax.value_and_grad(pair_cross_entropy, (0, 1))(-1e4, 1e4)
  assert (value, *slopes) == (2e4, -1.0, 1.0)


@pytest.mark.parametrize(
  "loss, options, message",
  [
    (hinge, {"gap": 0}, r"gap in \(0, inf\), got 0. Set config.loss.gap"),
    (square, {"gap": -1.0}, r"gap in \(0, inf\), got -1.0"),
    (focal, {"gamma": -1}, r"gamma in \[0, inf\), got -1"),
    (focal_penalty, {"gamma": math.nan}, "got nan"),
    (tempered_logarithm, {"temperature": 1}, r"temperature in \[0, 1\), got 1"),
  ],
)
def test_a_parameter_out_of_its_range_is_an_error(loss, options, message):
  # Catches a gap under which equal scores are perfect, and 0 / 0 at 1.
  with pytest.raises(UserError, match=f"{loss.__name__}: expected .*{message}"):
    loss(1.0, 0.0, **options)
