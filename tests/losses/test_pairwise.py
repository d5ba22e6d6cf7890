"""Pairwise losses against their equation in float64, and at the extremes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rm_jax.losses import (
  bradley_terry,
  bradley_terry_margin,
  bradley_terry_scaled,
  bradley_terry_smoothed,
  bradley_terry_soft,
  bradley_terry_tempered,
  christiano_mixture,
)
from rm_jax.types import UserError

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


DIFFERENCES = [-60.0, -7.5, -1.0, 0.0, 0.25, 3.0, 20.0, 60.0]


@pytest.mark.parametrize("d", DIFFERENCES)
def test_other_labellers_equal_their_equations(d):
  # Catches a strength inside of the logarithm, a temperature that multiplies,
  # smoothing that is split between both orders, votes for the other side, and a
  # random answer that counts whole instead of half.
  right, wrong = minus_log_sigmoid(d), minus_log_sigmoid(-d)
  chance = math.exp(-right)
  for got, want in [
    (bradley_terry_scaled(d, 0.0, 3.0), 3 * right),
    (
      bradley_terry_tempered(d, 0.0, temperature=4.0),
      minus_log_sigmoid(d / 4),
    ),
    (
      bradley_terry_smoothed(d, 0.0, smoothing=0.2),
      0.8 * right + 0.2 * wrong,
    ),
    (bradley_terry_soft(d, 0.0, 0.75), 0.75 * right + 0.25 * wrong),
    (
      christiano_mixture(d, 0.0, noise=0.1),
      -math.log(0.9 * chance + 0.05),
    ),
  ]:
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("d", DIFFERENCES)
def test_a_plain_labeller_is_bradley_terry(d):
  # Catches a constant that is left over: log 0 of no noise, a factor 2.
  plain = jax.value_and_grad(bradley_terry)(d, 0.0)
  for loss in (
    lambda c: bradley_terry_scaled(c, 0.0, 1.0),
    lambda c: bradley_terry_soft(c, 0.0, 1.0),
    lambda c: bradley_terry_tempered(c, 0.0, temperature=1.0),
    lambda c: bradley_terry_smoothed(c, 0.0, smoothing=0.0),
    lambda c: christiano_mixture(c, 0.0, noise=0.0),
  ):
    np.testing.assert_allclose(
      jax.value_and_grad(loss)(d), plain, rtol=1e-6, atol=1e-30
    )


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4])
def test_smoothing_ends_the_scores_and_the_mixture_does_not(share):
  # Catches one of the two taken for the other: smoothing has its least loss at
  # log((1 - s) / s); the mixture falls for ever and costs at most log(2 / s).
  best = math.log((1 - share) / share)

  def slope(loss, d, **options):
    return float(jax.grad(loss)(d, 0.0, **options))

  smoothed = bradley_terry_smoothed
  assert abs(slope(smoothed, best, smoothing=share)) < 1e-6
  assert slope(smoothed, best - 1, smoothing=share) < 0
  assert slope(smoothed, best + 1, smoothing=share) > 0
  assert slope(christiano_mixture, best + 1, noise=share) < 0
  np.testing.assert_allclose(
    christiano_mixture(-1e4, 1e4, noise=share), math.log(2 / share), rtol=1e-6
  )


@pytest.mark.parametrize("d", DIFFERENCES)
def test_votes_are_swapped_with_the_sides(d):
  # Catches a share that is read for the rejected side, and a tie that is not
  # worth the same both ways.
  for share in (0.0, 0.3, 0.5):
    np.testing.assert_allclose(
      bradley_terry_soft(d, 0.0, share),
      bradley_terry_soft(0.0, d, 1 - share),
      rtol=1e-6,
    )


def test_votes_stay_exact_at_extreme_scores():
  # Catches softplus(-d) + (1 - p) d: at d = 2e4 and p = 1 it is rounding.
  value, slope = jax.value_and_grad(bradley_terry_soft)(1e4, -1e4, 1.0)
  assert (value, slope) == (0.0, 0.0)
  value, slope = jax.value_and_grad(bradley_terry_soft)(1e4, -1e4, 0.0)
  assert (value, slope) == (2e4, 1.0)


def test_no_opinion_costs_nothing():
  # Catches strength 0 that trains as a whole comparison.
  value, slopes = jax.value_and_grad(bradley_terry_scaled, (0, 1))(
    -3.0, 2.0, 0.0
  )
  assert (value, *slopes) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
  "loss, options, message",
  [
    (bradley_terry_tempered, {"temperature": 0}, r"temperature in \(0, inf\)"),
    (bradley_terry_tempered, {"temperature": math.nan}, "got nan"),
    (
      bradley_terry_smoothed,
      {"smoothing": 0.5},
      r"smoothing in \[0, 0.5\), got",
    ),
    (bradley_terry_smoothed, {"smoothing": -0.1}, "smoothing in .*got -0.1"),
    (
      christiano_mixture,
      {"noise": 1},
      r"noise in \[0, 1\), got 1. Set config.",
    ),
    (christiano_mixture, {"noise": math.inf}, "got inf"),
  ],
)
def test_a_parameter_out_of_its_range_is_an_error(loss, options, message):
  # Catches percents (10 for 0.1), a division by 0, and labels turned round.
  with pytest.raises(UserError, match=f"{loss.__name__}: expected .*{message}"):
    loss(1.0, 0.0, **options)


def test_a_traced_parameter_passes():
  # Catches a comparison of a tracer, which has no value inside of jit.
  for loss, key, value in [
    (bradley_terry_tempered, "temperature", 2.0),
    (bradley_terry_smoothed, "smoothing", 0.2),
    (christiano_mixture, "noise", 0.2),
  ]:
    got = jax.jit(lambda x, f=loss, k=key: f(0.5, 0.0, **{k: x}))(value)
    np.testing.assert_allclose(got, loss(0.5, 0.0, **{key: value}), rtol=1e-6)
