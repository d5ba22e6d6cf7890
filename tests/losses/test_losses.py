"""What all losses promise alike: the tables, types, shapes, transformations."""

import doctest
import functools
import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rm_jax import losses
from rm_jax.losses import (
  ARGUMENTS,
  KIND,
  LEARNED,
  LOSSES,
  NEEDS,
  PARAMETERS,
)

# `arguments` and `table` have no losses in them.
MODULES = sorted(
  {module.name for module in pkgutil.iter_modules(losses.__path__)}
  - {"arguments", "table"}
)
B = 4
# A value for every keyword-only parameter.
OPTIONS = {
  "bradley_terry_tempered": {"temperature": 2.0},
  "bradley_terry_smoothed": {"smoothing": 0.1},
  "christiano_mixture": {"noise": 0.1},
  "davidson": {"log_tie": -0.5},
  "rao_kupper": {"log_tie": -0.5},
  "hinge": {"gap": 1.5},
  "square": {"gap": 1.5},
  "focal": {"gamma": 2.0},
  "focal_penalty": {"gamma": 2.0},
  "tempered_logarithm": {"temperature": 0.5},
  "plackett_luce_top": {"top": 1},
  "listnet": {"temperature": 0.7},
  "hl_gauss": {"sigma": 0.75},
}
# Not functions of the difference of scores alone.
ABSOLUTE = ("pair_cross_entropy",)
TWO_SIDES = [name for name in LOSSES if KIND[name] == "pairwise"]
# Those with an array beside the scores.
COMPANY = [n for n in LOSSES if n not in ("score_square", "hidden_square")]
CENTERS = np.linspace(-2, 2, 5)


def arguments(name):
  """Returns the function with its options bound, and arrays for it [B, ...]."""
  generator = np.random.default_rng(0)
  loss = functools.partial(LOSSES[name], **OPTIONS.get(name, {}))
  numbers = np.float32(generator.normal(size=(3, B)))
  ranks = np.array([[0, 1, 2], [1, 0, 0], [2, 1, 1], [0, 0, 0]], np.int32)
  real = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]], bool)
  extra = {
    "margin": np.abs(numbers[2]),
    "preference": np.float32([0.75, 0.5, 1.0, 0.0]),
    "tied": np.array([True, False, False, True]),
  }
  if KIND[name] == "pairwise":
    return loss, [*numbers[:2], *(extra[key] for key in ARGUMENTS[name])]
  if KIND[name] == "listwise":
    return loss, [np.float32(generator.normal(size=(B, 3))), ranks, real]
  if name in ("two_hot", "hl_gauss"):
    bound = functools.partial(loss, centers=CENTERS)
    return bound, [np.float32(generator.normal(size=(B, 5))), numbers[0]]
  if name in ("step_cross_entropy", "next_token_cross_entropy"):
    columns = np.array([1, 0, 0, 1], np.int32)
    return loss, [np.float32(generator.normal(size=(B, 3))), columns]
  if name == "score_square":
    return loss, [numbers[0]]
  if name == "hidden_square":
    return loss, [np.float32(generator.normal(size=(B, 3)))]
  if name == "group_variance":
    return loss, [np.float32(generator.normal(size=(B, 3))), real]
  return loss, list(numbers[:2])


def test_the_tables_name_the_same_losses():
  # Catches a loss that was added to one table only.
  assert list(KIND) == list(NEEDS) == list(LOSSES)
  assert list(PARAMETERS) == list(ARGUMENTS) == list(LOSSES)
  assert set(LEARNED) <= set(LOSSES) and set(losses.__all__) > set(LOSSES)
  for name, loss in LOSSES.items():
    assert loss.__name__ == name
    assert getattr(losses, name) is loss
  kinds = "pairwise listwise pointwise process language regularizer".split()
  assert set(KIND.values()) <= set(kinds)
  needs = (
    "ranks margin preference ties ratings labels step_labels values tokens"
  )
  assert set(NEEDS.values()) <= set(needs.split())


@pytest.mark.parametrize("name", LOSSES)
def test_the_tables_name_the_arguments(name):
  # Catches a parameter that no config key sets, a key that sets nothing, a
  # default below the config, and an argument that objectives would not pass.
  parameters = inspect.signature(LOSSES[name]).parameters.values()
  assert all(p.default is inspect.Parameter.empty for p in parameters)
  named = [p.name for p in parameters if p.kind == p.KEYWORD_ONLY]
  placed = [p.name for p in parameters if p.kind != p.KEYWORD_ONLY]
  sides = 2 if placed[:2] == ["chosen", "rejected"] else 1
  assert ARGUMENTS[name] == tuple(placed[sides:])
  keys = set(PARAMETERS[name])
  if "centers" in placed:
    assert {"low", "high", "bins"} <= keys
    keys -= {"low", "high", "bins"}
  assert keys | set(LEARNED.get(name, ())) == set(named)
  assert set(OPTIONS.get(name, {})) == set(named)


@pytest.mark.parametrize("name", TWO_SIDES)
def test_a_pairwise_loss_sees_the_difference_and_prefers_the_right_order(name):
  # Catches a sum of scores, swapped sides, and scores used as they are.
  loss, (chosen, rejected, *rest) = arguments(name)
  want = loss(chosen, rejected, *rest)
  moved = loss(chosen + np.float32(2), rejected + np.float32(2), *rest)
  if name in ABSOLUTE:
    assert (abs(moved - want) > 1e-2).all()
  else:
    np.testing.assert_allclose(moved, want, rtol=1e-4, atol=1e-6)
  low, high = np.full(B, -0.5, np.float32), np.full(B, 0.5, np.float32)
  opinion = {
    "margin": np.ones(B, np.float32),
    "preference": np.full(B, 0.75, np.float32),
    "tied": np.zeros(B, bool),
  }
  rest = [opinion[key] for key in ARGUMENTS[name]]
  assert (loss(high, low, *rest) < loss(low, high, *rest)).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [30.0, 1e4])
def test_is_finite_at_extreme_scores(name, size):
  # Catches exp, log and a power that leave float32, in the value or only in the
  # gradient, and infinity times 0 behind a mask.
  loss, (first, *rest) = arguments(name)
  signs = np.random.default_rng(2).choice([-1.0, 0.0, 1.0], first.shape)
  scores = np.float32(signs * size)
  sides = 2 if KIND[name] == "pairwise" or name == "centering" else 1
  for other in (-scores, scores[::-1]):
    inputs = [scores, other, *rest[1:]] if sides == 2 else [scores, *rest]
    value = loss(*inputs)
    slopes = jax.grad(
      lambda *heads, inputs=inputs: loss(*heads, *inputs[sides:]).sum(),
      tuple(range(sides)),
    )(*inputs[:sides])
    assert np.isfinite(value).all(), value
    assert all(np.isfinite(slope).all() for slope in slopes), slopes


@pytest.mark.parametrize("extra", ["margin", "preference", "tied"])
def test_a_column_of_labels_is_an_error_not_a_matrix(extra):
  # Catches [B, 1] - [B] -> [B, B], which trains on pairs that do not exist.
  readers = [name for name in LOSSES if ARGUMENTS[name] == (extra,)]
  assert readers
  for name in readers:
    loss, (chosen, rejected, last) = arguments(name)
    with pytest.raises(
      ValueError, match=rf"{name}: .*chosen \(4,\) and {extra} \(4, 1\)"
    ):
      loss(chosen, rejected, last[:, None])


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


@pytest.mark.parametrize("name", COMPANY)
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
  # True is no number: jit makes an array of it.
  "name",
  [name for name in COMPANY if name != "group_variance"],
)
def test_a_python_number_stands_for_all_also_under_jit(name):
  # Catches shape errors that appear only when jit turns the number into a
  # tracer, and a number that is not spread over the batch.
  loss, (first, second, *rest) = arguments(name)
  full = np.ones_like(second)
  one = full.ravel()[0].item()
  want = loss(first, full, *rest)
  np.testing.assert_array_equal(loss(first, one, *rest), want)
  np.testing.assert_allclose(
    jax.jit(loss)(first, one, *rest), want, rtol=1e-6, atol=1e-7
  )


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
