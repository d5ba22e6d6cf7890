"""What all losses promise alike: the tables, types, shapes, transformations."""

import doctest
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rm_jax import losses
from rm_jax.losses import KIND, LOSSES, NEEDS

MODULES = ["language", "listwise", "pairwise", "pointwise", "process"]
B = 4
CENTERS = np.linspace(-2, 2, 5)


def arguments(name):
  """Returns the function with its options bound, and arrays for it [B, ...]."""
  generator = np.random.default_rng(0)
  loss = LOSSES[name]
  numbers = np.float32(generator.normal(size=(3, B)))
  ranks = np.array([[0, 1, 2], [1, 0, 0], [2, 1, 1], [0, 0, 0]], np.int32)
  real = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]], bool)
  if name == "bradley_terry_margin":
    return loss, list(numbers)
  if name == "plackett_luce_top":
    loss = functools.partial(loss, top=1)
  if KIND[name] == "listwise":
    return loss, [np.float32(generator.normal(size=(B, 3))), ranks, real]
  if name in ("two_hot", "hl_gauss"):
    options = {"sigma": 0.75} if name == "hl_gauss" else {}
    bound = functools.partial(loss, centers=CENTERS, **options)
    return bound, [np.float32(generator.normal(size=(B, 5))), numbers[0]]
  if name in ("step_cross_entropy", "next_token_cross_entropy"):
    columns = np.array([1, 0, 0, 1], np.int32)
    return loss, [np.float32(generator.normal(size=(B, 3))), columns]
  return loss, list(numbers[:2])


def test_the_tables_name_the_same_losses():
  # Catches a loss that was added to one table only.
  assert list(KIND) == list(NEEDS) == list(LOSSES)
  for name, loss in LOSSES.items():
    assert loss.__name__ == name
    assert getattr(losses, name) is loss
  kinds = "pairwise listwise pointwise process language regularizer".split()
  assert set(KIND.values()) <= set(kinds)
  needs = "ranks margin labels step_labels values tokens".split()
  assert set(NEEDS.values()) <= set(needs)


@pytest.mark.parametrize("name", LOSSES)
def test_jit_and_vmap_agree_with_a_plain_call(name):
  # Catches Python branches on values, reductions over leading axes (vmap sees
  # none), and rank promotion.
  loss, arrays = arguments(name)
  want = loss(*arrays)
  assert want.shape == (B,) and want.dtype == jnp.float32
  np.testing.assert_allclose(jax.jit(loss)(*arrays), want, rtol=1e-6)
  np.testing.assert_allclose(jax.vmap(loss)(*arrays), want, rtol=1e-6)
  blocks = [x.reshape(2, 2, *x.shape[1:]) for x in arrays]
  np.testing.assert_allclose(loss(*blocks), want.reshape(2, 2), rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_equals_finite_differences_and_stays_with_its_item(name):
  # Catches a gradient that leaks into other items of the batch, and one that is
  # not that of the value: central differences of the float32 loss.
  loss, arrays = arguments(name)
  first, *rest = (jnp.asarray(x) for x in arrays)
  jacobian = jax.jacobian(lambda x: loss(x, *rest))(first)
  for i in range(B):
    others = np.delete(np.asarray(jacobian[i]), i, axis=0)
    assert (others == 0).all()
  generator = np.random.default_rng(1)
  direction = jnp.asarray(generator.choice([-1.0, 1.0], first.shape))
  step = 1e-2
  slope = (
    loss(first + step * direction, *rest)
    - loss(first - step * direction, *rest)
  ) / (2 * step)
  want = (jacobian * direction[None]).reshape(B, -1).sum(1)
  np.testing.assert_allclose(slope, want, atol=1e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_integers_and_half_floats_give_float32(name):
  # Catches zeros_like of an integer input, which cuts every loss to an integer,
  # and a loss that stays in the input's type.
  loss, arrays = arguments(name)
  whole = np.round(arrays[0]).astype(np.int32)
  want = loss(whole.astype(np.float32), *arrays[1:])
  got = loss(whole, *arrays[1:])
  assert got.dtype == jnp.float32
  np.testing.assert_array_equal(got, want)
  half = jnp.asarray(whole, jnp.bfloat16)
  got = loss(half, *arrays[1:])
  assert got.dtype == jnp.float32
  np.testing.assert_array_equal(got, want)
  got = loss(arrays[0].astype(np.float64), *arrays[1:])
  assert got.dtype == jnp.float32


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("wrong", ["scalar", "element", "column", "longer"])
def test_arrays_of_other_shapes_are_errors_that_name_both(name, wrong):
  # Catches broadcasting. A numpy scalar is an element of an array, not a Python
  # number, although its float64 passes isinstance(x, float).
  loss, arrays = arguments(name)
  second = arrays[1]
  arrays[1] = {
    "scalar": jnp.asarray(second.ravel()[0]),
    "element": np.float64(0.0),
    "column": second[..., None],
    "longer": np.concatenate([second, second]),
  }[wrong]
  shape = str(np.shape(arrays[1])).replace("(", r"\(").replace(")", r"\)")
  expected = str(second.shape).replace("(", r"\(").replace(")", r"\)")
  with pytest.raises(ValueError, match=rf"{name}: .*{expected}.*{shape}"):
    loss(*arrays)


@pytest.mark.parametrize(
  "name", [name for name in LOSSES if name != "next_token_cross_entropy"]
)
def test_a_python_number_stands_for_all_also_under_jit(name):
  # Catches shape errors that appear only when jit turns the number into a
  # tracer, and a number that is not spread over the batch.
  loss, (first, _, *rest) = arguments(name)
  full = np.full(rest[0].shape if rest else (B,), 1.0, np.float32)
  want = loss(first, full, *rest)
  np.testing.assert_array_equal(loss(first, 1.0, *rest), want)
  np.testing.assert_allclose(jax.jit(loss)(first, 1.0, *rest), want, rtol=1e-6)


@pytest.mark.parametrize("module", MODULES)
def test_doctests(module):
  # Catches an example that no longer prints what it says.
  module = importlib.import_module(f"rm_jax.losses.{module}")
  result = doctest.testmod(module)
  assert result.attempted and not result.failed
  for name, function in vars(module).items():
    if (
      getattr(function, "__module__", "") == module.__name__ and name[0] != "_"
    ):
      assert ">>>" in function.__doc__, name
