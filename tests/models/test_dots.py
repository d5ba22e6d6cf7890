"""Products of rounded operands: the values and both gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from rm_jax.models.dots import dot

CASES = [  # spec, shape of a, shape of b
  ("bti,io->bto", (2, 5, 8), (8, 6)),
  ("bljgd,bmjd->bjglm", (2, 5, 2, 3, 4), (2, 7, 2, 4)),
  ("sd,vd->sv", (5, 8), (11, 8)),
]


def rounded(x):
  return np.asarray(jnp.asarray(x).astype(jnp.bfloat16), np.float64)


@pytest.mark.parametrize("spec, left, right", CASES)
def test_bfloat16_rounds_operands_and_adds_in_float32(spec, left, right):
  # Catches a bfloat16 accumulator (error 1e-2) and an unrounded operand.
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=left), rng.normal(size=right)
  a, b = a.astype(np.float32), b.astype(np.float32)
  want = np.einsum(spec, rounded(a), rounded(b))
  got = dot(spec, a, b, dtype="bfloat16")
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("spec, left, right", CASES)
def test_gradients_are_the_products_of_the_formula(spec, left, right, dtype):
  # d/da of sum(g * (a . b)): the same einsum with a and the result swapped.
  rng = np.random.default_rng(1)
  a = rng.normal(size=left).astype(np.float32)
  b = rng.normal(size=right).astype(np.float32)
  out_shape = np.einsum(spec, a, b).shape
  g = rng.normal(size=out_shape).astype(np.float32)
  keep = rounded if dtype == "bfloat16" else np.float64
  terms, out = spec.split("->")
  x, y = terms.split(",")
  want_a = np.einsum(f"{out},{y}->{x}", keep(g), keep(b))
  want_b = np.einsum(f"{x},{out}->{y}", keep(a), keep(g))
  _, pull = jax.vjp(lambda a, b: dot(spec, a, b, dtype=dtype), a, b)
  got_a, got_b = pull(jnp.asarray(g))
  assert got_a.dtype == got_b.dtype == jnp.float32
  np.testing.assert_allclose(got_a, want_a, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(got_b, want_b, rtol=1e-4, atol=1e-5)


def test_results_and_gradients_have_the_dtype_they_are_given():
  # What crosses a mesh: a gradient of float32 would be twice the bytes.
  a, b = jnp.ones((2, 5, 8), jnp.bfloat16), jnp.ones((8, 6), jnp.bfloat16)
  product = functools.partial(dot, dtype="bfloat16", result=jnp.bfloat16)
  traced = jax.make_jaxpr(
    jax.grad(lambda a, b: product("bti,io->bto", a, b).sum(), (0, 1))
  )(a, b)
  found = [
    e for e in dots_of(traced.jaxpr) if e.primitive.name == "dot_general"
  ]
  assert len(found) == 3
  assert {e.outvars[0].aval.dtype for e in found} == {jnp.dtype("bfloat16")}
  assert {x.dtype for x in traced.out_avals} == {jnp.dtype("bfloat16")}


def dots_of(jaxpr):
  for eqn in jaxpr.eqns:
    yield eqn
    for inside in jaxprs_in_params(eqn.params):
      yield from dots_of(inside)
