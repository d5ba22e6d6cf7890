"""Losses of reasoning steps against their equation."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rm_jax.losses import step_binary_cross_entropy, step_cross_entropy

LOGITS = [[0.5, -1.0, 2.0], [0.0, 0.0, 0.0], [3.0, 1.0, -2.0], [0.1, 0.2, 0.3]]


@pytest.mark.parametrize("dtype", [np.int32, np.float32, jnp.bfloat16])
def test_labels_minus_one_zero_one_are_columns_zero_one_two(dtype):
  # Catches labels used as columns: -1 would wrap to the last class, so bad
  # steps would train as good ones. Batches carry labels as float32.
  labels = [-1, 0, 1, 1]
  want = [
    math.log(sum(map(math.exp, row))) - row[label + 1]
    for row, label in zip(LOGITS, labels, strict=True)
  ]
  got = step_cross_entropy(np.float32(LOGITS), jnp.array(labels, dtype))
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_gradient_is_softmax_less_the_class():
  # Catches a gradient that flows through the mask of the class.
  row, label = LOGITS[0], 0
  total = sum(map(math.exp, row))
  want = [math.exp(x) / total - (k == label + 1) for k, x in enumerate(row)]
  got = jax.grad(step_cross_entropy)(jnp.array(row), label)
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_a_label_without_a_class_cannot_train_in_silence():
  # Catches -100 taken for a mask, and soft labels cut to a class: in this loss
  # both are mistakes of the data, and the loss says so.
  got = step_cross_entropy(np.zeros((4, 3)), np.float32([-100, 0.5, 2, 1]))
  np.testing.assert_allclose(got, [math.nan] * 3 + [math.log(3)], rtol=1e-6)


def test_is_finite_at_extreme_logits():
  # Catches log(softmax) and its NaN gradient.
  logits = jnp.array([1e4, -1e4, 0.0])
  value, slope = jax.value_and_grad(step_cross_entropy)(logits, 0)
  assert value == 2e4
  np.testing.assert_array_equal(slope, [1.0, -1.0, 0.0])


def test_needs_three_classes():
  # Catches a head with two outputs whose labels -1 and 1 would both fit.
  with pytest.raises(ValueError, match=r"expected logits \[..., 3\].*\(4, 2\)"):
    step_cross_entropy(np.zeros((4, 2)), np.zeros(4))


@pytest.mark.parametrize("label", [0.0, 0.25, 1.0])
def test_binary_cross_entropy_takes_shares_of_rollouts(label):
  # Catches soft labels cut by int(): 0.25 would train as 0.
  logits = [-3.0, 0.0, 1.5]
  want = [
    label * math.log1p(math.exp(-z)) + (1 - label) * math.log1p(math.exp(z))
    for z in logits
  ]
  got = step_binary_cross_entropy(np.float32(logits), np.full(3, label))
  np.testing.assert_allclose(got, want, rtol=1e-6)
  got = step_binary_cross_entropy(np.float32(logits), label)
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_binary_cross_entropy_has_no_sentinel_and_no_overflow():
  # Catches bool(-100) = True, and -100 skipped as a mask.
  np.testing.assert_allclose(
    step_binary_cross_entropy(2.0, -100),
    math.log1p(math.exp(2.0)) + 200.0,
    rtol=1e-6,
  )
  for z, y, want in [
    (1e4, 1, (0, 0)),
    (-1e4, 1, (1e4, -1)),
    (1e4, 0, (1e4, 1)),
  ]:
    assert jax.value_and_grad(step_binary_cross_entropy)(z, y) == want
