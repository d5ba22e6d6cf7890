"""Labels of value functions against loops over time."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rm_jax.losses import (
  monte_carlo_targets,
  segmented_targets,
  td_lambda_targets,
)
from rm_jax.types import UserError

# jitted: op by op a scan of 64 tokens takes seconds.
lambda_returns = jax.jit(td_lambda_targets)
monte_carlo = jax.jit(monte_carlo_targets)
segmented = jax.jit(segmented_targets)
LENGTHS = [0, 1, 2, 3, 7, 64]  # the scan joins pairs: odd and even lengths


def returns_by_loop(rewards, values, discount, trace):
  """The recursion, last token first, in float64 over plain lists."""
  following_return = following_value = 0.0
  targets = []
  for reward, value in reversed(list(zip(rewards, values, strict=True))):
    following_return = reward + discount * (
      (1 - trace) * following_value + trace * following_return
    )
    following_value = value
    targets.append(following_return)
  return targets[::-1]


def draw(length):
  generator = np.random.default_rng(length)
  return np.float32(generator.normal(size=(2, length)))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(
  "discount, trace", [(1.0, 0.95), (0.9, 0.5), (0.9, 0.0), (0.5, 1.0), (0, 1)]
)
def test_equal_the_loop(length, discount, trace):
  # Catches the value of the same token in place of the next one's, a discount
  # on the reward, a value that is read beyond the end, and a scan that runs
  # forwards.
  rewards, values = draw(length)
  got = lambda_returns(rewards, values, discount=discount, trace=trace)
  assert got.dtype == jnp.float32 and got.shape == (length,)
  want = returns_by_loop(rewards.tolist(), values.tolist(), discount, trace)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", LENGTHS)
def test_monte_carlo_is_the_sum_of_what_comes(length):
  # Catches a return without the token's own reward, and trace 1 that still
  # looks at the values.
  rewards, values = draw(length)
  want = [
    sum(0.9 ** (u - t) * float(rewards[u]) for u in range(t, length))
    for t in range(length)
  ]
  got = monte_carlo(rewards, discount=0.9)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
    lambda_returns(rewards, values, discount=0.9, trace=1), got, rtol=1e-6
  )


def test_a_reward_at_the_end_is_everybodys_label():
  # Catches an outcome that reaches only the last token: with discount 1 the
  # value label is the outcome label at every token.
  rewards = jnp.array([[0, 0, 0, 1], [0, 0, 0, 0]])
  got = monte_carlo_targets(rewards, discount=1.0)
  np.testing.assert_array_equal(got, [[1.0] * 4, [0.0] * 4])


def test_trace_0_looks_one_token_ahead():
  # Catches trace and 1 - trace that are swapped.
  got = td_lambda_targets(
    jnp.array([1.0, 2.0, 3.0]),
    jnp.array([10.0, 20.0, 30.0]),
    discount=0.5,
    trace=0.0,
  )
  np.testing.assert_array_equal(got, [1 + 0.5 * 20, 2 + 0.5 * 30, 3.0])


def test_an_exact_value_function_is_its_own_label_for_every_trace():
  # Catches weights of value and return that do not add up to 1.
  rewards, _ = draw(9)
  values = monte_carlo(rewards, discount=0.8)
  for trace in (0.0, 0.3, 0.95, 1.0):
    got = lambda_returns(rewards, values, discount=0.8, trace=trace)
    np.testing.assert_allclose(got, values, rtol=1e-5, atol=1e-6)


def test_no_gradient_flows_into_the_values():
  # Catches a label that is trained to meet its prediction.
  rewards, values = draw(5)
  options = {"discount": 0.9, "trace": 0.5}
  segments = np.array([1, 1, 1, 2, 2])
  for targets in (
    functools.partial(td_lambda_targets, **options),
    lambda r, v: segmented_targets(r, v, segments, **options),
  ):
    slope = jax.jit(jax.grad(lambda v, f=targets: f(rewards, v).sum()))(values)
    np.testing.assert_array_equal(slope, np.zeros(5))


@pytest.mark.parametrize("trace", [0.0, 0.7, 1.0])
def test_every_completion_of_a_row_as_if_alone(trace):
  # Catches returns and values that cross a border, a border that is seen one
  # token late, numbers that have to rise or to be consecutive, and a number
  # that comes back later and is taken for the same completion.
  segments = np.array([5, 5, 5, 2, 2, 9, 5, 5, 0, 0, 0, 0])
  rewards, values = draw(12)
  want = []
  for start, end in [(0, 3), (3, 5), (5, 6), (6, 8), (8, 12)]:
    want += returns_by_loop(
      rewards[start:end].tolist(), values[start:end].tolist(), 0.9, trace
    )
  got = segmented(rewards, values, segments, discount=0.9, trace=trace)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("garbage", [math.nan, math.inf])
@pytest.mark.parametrize("trace", [0.0, 0.7, 1.0])
def test_nothing_enters_another_completion(garbage, trace):
  # Catches 0 * NaN at a border: one broken completion would take the row. The
  # broken one stands between two others.
  segments = np.array([1, 1, 2, 2, 2, 3, 3, 3])
  rewards, values = draw(8)
  loss = functools.partial(segmented, discount=0.9, trace=trace)
  want = np.asarray(loss(rewards, values, segments))
  rewards[2:5] = values[2:5] = garbage
  got = np.asarray(loss(rewards, values, segments))
  np.testing.assert_array_equal(got[[0, 1, 5, 6, 7]], want[[0, 1, 5, 6, 7]])
  assert not np.isfinite(got[2:5]).any()


def test_rows_jit_and_vmap_agree():
  # Catches an axis counted from the front, which is time in one row only, and
  # a check that reads the value of a traced number.
  rewards, values = np.float32(np.random.default_rng(3).normal(size=(2, 3, 6)))
  segments = np.array([[1, 1, 2, 2, 2, 2], [1] * 6, [1, 2, 3, 4, 5, 6]])
  options = {"discount": 0.9, "trace": 0.5}
  whole = segmented_targets(rewards, values, segments, **options)
  for row in range(3):
    one = segmented(rewards[row], values[row], segments[row], **options)
    np.testing.assert_allclose(whole[row], one, rtol=1e-5)
  arguments = rewards, values, segments
  np.testing.assert_allclose(segmented(*arguments, **options), whole, rtol=1e-5)
  mapped = jax.jit(jax.vmap(functools.partial(segmented_targets, **options)))
  np.testing.assert_allclose(mapped(*arguments), whole, rtol=1e-5)


def test_large_returns_stay_finite():
  # Catches a closed form with 1 / discount^t, which leaves float32.
  got = lambda_returns(
    np.full(2048, 1e4, np.float32), np.zeros(2048), discount=0.9, trace=1.0
  )
  np.testing.assert_allclose(got[0], 1e5, rtol=1e-5)
  assert np.isfinite(got).all()


def test_mistakes_are_errors():
  # Catches percents for shares, scalars, and segments that are a boolean mask.
  ones = np.ones(3, np.float32)
  with pytest.raises(UserError, match=r"discount in \[0, 1\], got 99. Set"):
    monte_carlo_targets(ones, discount=99)
  with pytest.raises(
    UserError, match=r"td_lambda.*trace in \[0, 1\], got -0.1"
  ):
    td_lambda_targets(ones, ones, discount=1, trace=-0.1)
  with pytest.raises(ValueError, match="last axis of time, got shape"):
    monte_carlo_targets(1.0, discount=1)
  with pytest.raises(
    ValueError, match="expected integer segments, got float32"
  ):
    segmented_targets(ones, ones, ones, discount=1, trace=1)
  with pytest.raises(ValueError, match=r"rewards \(3,\) and values \(3, 1\)"):
    td_lambda_targets(ones, ones[:, None], discount=1, trace=1)
