"""Who sees whom, and what attention makes of it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rm_jax.models.attention import attend, softmax
from rm_jax.models.sight import Forest, see, visible


def forest(**rows):
  return Forest(
    *(jnp.asarray([rows[name]], jnp.int32) for name in Forest._fields)
  )


# A trunk of 3, a branch that forks at 3, one that forks at 2, a second tree of
# 2, one column of padding.
ROW = forest(
  group_ids=[1, 1, 1, 1, 1, 1, 2, 2, 0],
  branch_ids=[0, 0, 0, 1, 1, 2, 0, 0, 0],
  positions=[0, 1, 2, 3, 4, 2, 0, 1, 0],
  fork_positions=[0, 0, 0, 3, 3, 2, 0, 0, 0],
)
SEEN = """
X........
XX.......
XXX......
XXXX.....
XXXXX....
XX...X...
......X..
......XX.
........X
"""


def drawn(text):
  return np.array([[c == "X" for c in line] for line in text.split()])


def test_the_rule_drawn_by_hand():
  # Catches a branch that sees its sibling or the trunk beyond its fork.
  np.testing.assert_array_equal(visible(ROW, window=0)[0], drawn(SEEN))


def test_a_window_counts_positions_not_columns():
  # Branch 2 lies in column 5 at position 2: it still sees positions 1 and 2.
  near = """
  X........
  XX.......
  .XX......
  ..XX.....
  ...XX....
  .X...X...
  ......X..
  ......XX.
  ........X
  """
  np.testing.assert_array_equal(visible(ROW, window=2)[0], drawn(near))


@pytest.mark.parametrize("heads, kv_heads", [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("scale, cap", [(8**-0.5, 0.0), (0.9, 0.7)])
def test_attend_equals_a_loop_in_float64(heads, kv_heads, scale, cap):
  # Catches heads that share the wrong key head, a wrong scale, a leaking mask,
  # a cap that lifts what is hidden.
  rng = np.random.default_rng(0)
  length, size = 9, 8
  q = rng.normal(size=(1, length, heads, size))
  k, v = rng.normal(size=(2, 1, length, kv_heads, size))
  mask = drawn(SEEN)[None]
  want = np.zeros_like(q)
  for h in range(heads):
    j = h // (heads // kv_heads)
    for a in range(length):
      seen = [b for b in range(length) if mask[0, a, b]]
      logits = [q[0, a, h] @ k[0, b, j] * scale for b in seen]
      if cap:
        logits = [cap * math.tanh(x / cap) for x in logits]
      top = max(logits)
      parts = [math.exp(x - top) for x in logits]
      for b, part in zip(seen, parts, strict=True):
        want[0, a, h] += part / sum(parts) * v[0, b, j]
  got = attend(
    *(jnp.asarray(x, jnp.float32) for x in (q, k, v)),
    see(ROW, window=0),
    dtype="float32",
    scale=scale,
    soft_cap=cap,
  )
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_query_that_sees_nothing_is_finite_in_value_and_gradient():
  q, k, v = jnp.ones((3, 1, 4, 2, 8))
  nothing = see(forest(**dict.fromkeys(Forest._fields, [0] * 4)), window=0)
  nothing = nothing._replace(mask=jnp.zeros((1, 4, 4), bool))

  def total(q, k, v):
    return attend(q, k, v, nothing, dtype="float32").sum()

  value, grads = jax.value_and_grad(total, (0, 1, 2))(q, k, v)
  assert np.isfinite(value)
  assert all(np.isfinite(g).all() for g in grads)


def test_the_softmax_and_its_gradient_are_those_of_jax():
  # The gradient by the formula y (g - sum g y); wrong: a sum over another axis.
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 3, 5)).astype(np.float32) * 8
  x[0, 0] = -3e38  # a row of padding: everything hidden
  x[0, 1, 2:] = -3e38
  g = rng.normal(size=x.shape).astype(np.float32)
  y, back = jax.vjp(softmax, x)
  np.testing.assert_array_equal(y, jax.nn.softmax(x, axis=-1))
  wanted = y * (g - (g * np.asarray(y)).sum(-1, keepdims=True))
  np.testing.assert_allclose(back(g)[0], wanted, atol=1e-6)
  _, of_jax = jax.vjp(lambda x: jax.nn.softmax(x, axis=-1), x)
  np.testing.assert_allclose(back(g)[0], of_jax(g)[0], atol=1e-5)
