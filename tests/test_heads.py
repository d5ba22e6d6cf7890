"""Heads: one linear map, in float32, and what they start from."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rm_jax.heads import HEAD_INITS, HEADS, GainBiasHead
from rm_jax.reward_model import HeadSpec
from rm_jax.types import UserError

POOLED = jnp.asarray(
  np.random.default_rng(0).normal(size=(2, 3, 400)), jnp.float32
)


def init(head, kernel_init, seed=0):
  module = HeadSpec(head, kernel_init, "last_token", outputs=4).module()
  return module, nn.unbox(module.init(jax.random.key(seed), POOLED)["params"])


@pytest.mark.parametrize("head", sorted(set(HEADS) - {"gain_bias"}))
def test_zeros_give_zero_so_the_first_pairwise_loss_is_log_2(head):
  module, params = init(head, "zeros")
  scores = module.apply({"params": params}, POOLED)
  assert not np.any(scores)
  if scores.ndim == 2:
    loss = jax.nn.softplus(scores[0, 1] - scores[0, 0])
    np.testing.assert_allclose(loss, math.log(2), rtol=1e-6)


@pytest.mark.parametrize(
  "name, std",
  [("stiennon", 401**-0.5), ("small", 1 / 401), ("unit", 1.0)],
)
def test_standard_deviations(name, std):
  # 400 draws: the sample deviates by 1 / sqrt(800) = 3.5 %; 4 sigma.
  _, params = init("scalar", name)
  assert np.std(params["kernel"]) == pytest.approx(std, rel=0.15)
  _, same = init("scalar", name)
  _, other = init("scalar", name, seed=1)
  np.testing.assert_array_equal(params["kernel"], same["kernel"])
  assert np.any(params["kernel"] != other["kernel"])


def test_scalar_is_a_float32_dot_product():
  # Wrong: a product in bfloat16, which cannot tell 257 from 256.
  module, params = init("scalar", "unit")
  got = module.apply({"params": params}, POOLED.astype(jnp.bfloat16))
  exact = np.asarray(POOLED.astype(jnp.bfloat16), np.float64)
  want = exact @ np.asarray(params["kernel"], np.float64)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_bias_is_added_once():
  module, params = init("biased_scalar", "unit")
  params["bias"] = params["bias"] + 2.5
  plain = HEADS["scalar"]("unit").apply({"params": params["linear"]}, POOLED)
  got = module.apply({"params": params}, POOLED)
  np.testing.assert_allclose(got, plain + 2.5, rtol=1e-6)


def test_three_logits_a_step():
  module, params = init("steps", "unit")
  got = module.apply({"params": params}, POOLED)
  assert got.shape == (2, 3, 3)
  want = np.asarray(POOLED, np.float64) @ np.asarray(
    params["kernel"], np.float64
  )
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_an_unknown_init_lists_the_known():
  with pytest.raises(UserError, match=r"head_init='xavier' .*\['small'"):
    init("scalar", "xavier")
  assert set(HEAD_INITS) == {"zeros", "stiennon", "small", "unit"}


def test_gain_and_bias_of_one_logit():
  # Cobbe et al. 2021: two parameters on the logit of one token. Wrong: a gain
  # on the bias too, or a head that ignores the row it is given.
  row = jnp.asarray(np.random.default_rng(1).normal(size=400), jnp.float32)
  module = GainBiasHead()
  params = nn.unbox(module.init(jax.random.key(0), POOLED, row)["params"])
  assert jax.tree.map(np.shape, params) == {"gain": (1,), "bias": (1,)}
  logit = np.asarray(POOLED, np.float64) @ np.asarray(row, np.float64)
  begun = module.apply({"params": params}, POOLED, row)
  np.testing.assert_allclose(begun, logit, rtol=1e-4, atol=1e-4)
  trained = {"gain": jnp.array([-2.0]), "bias": jnp.array([3.0])}
  got = module.apply({"params": trained}, POOLED, row)
  np.testing.assert_allclose(got, -2 * logit + 3, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", ["attributes", "bins"])
def test_several_numbers_each_with_its_bias(head):
  module, params = init(head, "unit")
  params["bias"] = jnp.array([0.0, 1.0, -2.0, 5.0])
  got = module.apply({"params": params}, POOLED)
  assert got.shape == (2, 3, 4) and got.dtype == jnp.float32
  want = np.asarray(POOLED, np.float64) @ np.asarray(
    params["kernel"], np.float64
  )
  want += np.asarray(params["bias"], np.float64)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_an_unknown_head_and_pooling_list_the_known():
  with pytest.raises(UserError, match=r"head='linear' .*\['attributes', 'bi"):
    HeadSpec("linear", "zeros", "last_token")
  with pytest.raises(UserError, match=r"pooling='max' .*\['every_token', 'l"):
    HeadSpec("scalar", "zeros", "max")
