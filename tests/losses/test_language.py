"""Next-token loss against its equation."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rm_jax.losses import next_token_cross_entropy

LOGITS = [[0.5, -1.0, 2.0, 0.0], [3.0, 1.0, -2.0, 1.0]]


def test_equals_the_equation_without_a_shift():
  # Catches a shift by one inside, and the log-probability without its minus.
  tokens = [2, 1]
  want = [
    math.log(sum(map(math.exp, row))) - row[token]
    for row, token in zip(LOGITS, tokens, strict=True)
  ]
  got = next_token_cross_entropy(np.float32(LOGITS), np.array(tokens))
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_gradient_is_softmax_less_the_token():
  # Catches a gradient lost through the maximum that is taken out.
  row, token = LOGITS[0], 3
  total = sum(map(math.exp, row))
  want = [math.exp(x) / total - (k == token) for k, x in enumerate(row)]
  got = jax.grad(next_token_cross_entropy)(jnp.array(row), token)
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_large_logits_keep_their_differences():
  # Catches logsumexp(logits) - logits[token] at 1e4, where float32 steps by
  # 1e-3: the loss depends on differences only.
  want = math.log1p(math.exp(-1.0))
  for size in (0.0, 1e4, -1e4):
    got = next_token_cross_entropy(jnp.array([size + 1, size]), 0)
    np.testing.assert_allclose(got, want, rtol=1e-6)
  value, slope = jax.value_and_grad(next_token_cross_entropy)(
    jnp.array([1e4, -1e4]), 1
  )
  assert value == 2e4
  np.testing.assert_array_equal(slope, [1.0, -1.0])


def test_computes_in_float32():
  # Catches a sum of exponentials in bfloat16: 1,000 ones add up to 256 there.
  got = next_token_cross_entropy(jnp.zeros(1000, jnp.bfloat16), 0)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, math.log(1000), rtol=1e-6)


def test_an_unknown_token_cannot_train_in_silence():
  # Catches an index that wraps (-1 is the last token) or is clipped (V).
  got = next_token_cross_entropy(np.zeros((4, 3)), np.array([-1, -100, 3, 2]))
  np.testing.assert_allclose(got, [math.nan] * 3 + [math.log(3)], rtol=1e-6)


def test_mistakes_are_errors():
  # Catches swapped arguments, and tokens that lost a column to a shift.
  with pytest.raises(ValueError, match="expected integer tokens, got float32"):
    next_token_cross_entropy(np.zeros((2, 3)), np.zeros(2, np.float32))
  with pytest.raises(
    ValueError, match=r"tokens of shape \(5,\) for logits \(5, 3\), got tokens"
  ):
    next_token_cross_entropy(np.zeros((5, 3)), np.zeros(4, np.int32))
