"""What trains, the schedule by hand, and what the optimizer leaves alone."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rm_jax.config import base
from rm_jax.models.sizes import SIZES
from rm_jax.reward_model import HeadSpec, ModelSpec, init_params
from rm_jax.train.optim import (
  cut_layers,
  decayed,
  join_layers,
  make_optimizer,
  make_schedule,
  merge,
  segments_for,
  split_trainable,
)
from rm_jax.types import UserError

TINY = SIZES["tiny"]  # 3 layers


def settings(**changes):
  c = base().optim
  c.update(changes)
  return c


def params_for(trainable):
  segments = segments_for(trainable, TINY.layers)
  whole = ModelSpec(
    TINY,
    HeadSpec("biased_scalar", "unit", "last_token"),
    "float32",
    False,
    (3,),
  )
  params = jax.device_get(init_params(whole, jax.random.key(0)))
  return params | {"backbone": cut_layers(params["backbone"], segments)}


# ---------------------------------------------------------------- schedule


def rates(steps, **changes):
  schedule = make_schedule(settings(**changes), steps)
  return [float(schedule(i)) for i in range(steps)]


def test_cosine_by_hand():
  # Wrong: the decay spans all steps and not those after the warm-up; the last
  # step stops short of the final rate; the first update has size 0.
  got = rates(7, lr=0.6, warmup_steps=2, schedule="cosine", final_lr_ratio=0.1)
  want = [0.2, 0.4] + [
    0.6 * (0.1 + 0.9 * (1 + math.cos(math.pi * i / 4)) / 2) for i in range(5)
  ]
  np.testing.assert_allclose(got, want, rtol=1e-6)
  assert got[-1] == pytest.approx(0.06)


def test_linear_and_constant_by_hand():
  got = rates(5, lr=1.0, warmup_steps=1, schedule="linear", final_lr_ratio=0.4)
  np.testing.assert_allclose(got, [0.5, 1.0, 0.8, 0.6, 0.4], rtol=1e-6)
  got = rates(4, lr=1.0, warmup_steps=3, schedule="constant")
  np.testing.assert_allclose(got, [0.25, 0.5, 0.75, 1.0], rtol=1e-6)
  got = rates(3, lr=1.0, warmup_steps=0, schedule="linear", final_lr_ratio=0.0)
  np.testing.assert_allclose(got, [1.0, 0.5, 0.0], atol=1e-7)


def test_one_train_step_gets_the_whole_rate():
  assert rates(1, lr=0.5, warmup_steps=0) == [0.5]


def test_a_schedule_without_room_or_name_is_refused():
  with pytest.raises(UserError, match=r"warmup_steps=4 leaves no step of .*=4"):
    make_schedule(settings(warmup_steps=4), 4)
  with pytest.raises(UserError, match=r"schedule='wsd' .*Known: \['constant'"):
    make_schedule(settings(schedule="wsd"), 4)
  with pytest.raises(UserError, match=r"name='lion' .*Known: \['adafactor'"):
    make_optimizer(settings(name="lion"), lambda _: 0.1)


# ---------------------------------------------------------------- one update


def update(params, gradient, lr=0.5, **changes):
  optimizer = make_optimizer(settings(**changes), lambda _: lr)
  # jit as the train step does: what depends on values would fail here.
  step = jax.jit(lambda g, p: optimizer.update(g, optimizer.init(p), p)[0])
  return step(gradient, params)


def few_params():
  return {
    "backbone": {
      "final_norm": {"scale": jnp.full(3, 2.0)},
      "mlp": {"kernel": jnp.full((2, 2), 4.0)},
    },
    "head": {"kernel": jnp.full(3, 8.0), "bias": jnp.ones(1)},
  }


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_decay_is_lr_times_weight_and_never_on_head_norm_or_bias(name):
  # A gradient of zero shows it alone. Wrong: decay by weight_decay a step
  # without lr (optax.adafactor), on norms, on the head, on biases.
  params = few_params()
  zeros = jax.tree.map(jnp.zeros_like, params)
  got = update(params, zeros, name=name, weight_decay=0.1)
  np.testing.assert_allclose(
    got["backbone"]["mlp"]["kernel"], -0.5 * 0.1 * 4.0, rtol=1e-6
  )
  for leaf in (
    got["backbone"]["final_norm"]["scale"],
    got["head"]["kernel"],
    got["head"]["bias"],
  ):
    assert not np.any(leaf)


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_first_update_by_hand_and_the_head_multiplier(name):
  # Adam's bias-corrected first update is g / (|g| + eps); Adafactor's second
  # moment of an unfactored leaf is g^2 as well: both are sign(g).
  params = few_params()
  gradient = jax.tree.map(lambda x: jnp.full_like(x, -0.3), params)
  got = update(
    params,
    gradient,
    name=name,
    weight_decay=0.0,
    clip_norm=0.0,
    head_lr_multiplier=3.0,
  )
  np.testing.assert_allclose(got["backbone"]["mlp"]["kernel"], 0.5, rtol=1e-5)
  np.testing.assert_allclose(got["head"]["kernel"], 1.5, rtol=1e-5)
  np.testing.assert_allclose(got["head"]["bias"], 1.5, rtol=1e-5)


def test_clip_by_the_norm_of_all_leaves():
  # eps large beside the gradient makes Adam show its size: g / eps.
  params = {
    "head": {"kernel": jnp.zeros(2)},
    "backbone": {"kernel": jnp.zeros(1)},
  }
  gradient = {
    "head": {"kernel": jnp.array([3.0, 0.0])},
    "backbone": {"kernel": jnp.array([4.0])},
  }
  got = update(params, gradient, lr=1.0, eps=1e6, clip_norm=1.0)
  np.testing.assert_allclose(got["head"]["kernel"][0], -0.6e-6, rtol=1e-5)
  np.testing.assert_allclose(got["backbone"]["kernel"][0], -0.8e-6, rtol=1e-5)
  free = update(params, gradient, lr=1.0, eps=1e6, clip_norm=0.0)
  np.testing.assert_allclose(free["head"]["kernel"][0], -3e-6, rtol=1e-5)


def test_adafactor_factors_large_matrices():
  # 128 x 256: rank-one second moments, v_ij = r_i c_j / mean(r).
  g = np.random.default_rng(0).normal(size=(128, 256))
  r, c = (g**2).mean(1), (g**2).mean(0)
  want = -0.5 * g / np.sqrt(np.outer(r, c) / r.mean())
  params = {"backbone": {"kernel": jnp.zeros(g.shape)}}
  gradient = {"backbone": {"kernel": jnp.asarray(g, jnp.float32)}}
  got = update(
    params, gradient, name="adafactor", weight_decay=0.0, clip_norm=0.0
  )
  np.testing.assert_allclose(got["backbone"]["kernel"], want, rtol=1e-4)


def test_decayed_names_matrices_and_embeddings_only():
  flags = decayed(params_for("all"))
  named = {
    jax.tree_util.keystr(path): flag
    for path, flag in jax.tree_util.tree_flatten_with_path(flags)[0]
  }
  kept = {k for k, flag in named.items() if not flag}
  assert kept == {
    "['backbone']['final_norm']['scale']",
    "['backbone']['layers_0']['attn_norm']['scale']",
    "['backbone']['layers_0']['mlp_norm']['scale']",
    "['head']['bias']",
    "['head']['linear']['kernel']",
  }


# ---------------------------------------------------------------- what trains


@pytest.mark.parametrize(
  "trainable, segments",
  [("all", (3,)), ("head", (3,)), ("last:1", (2, 1)), ("last:3", (3,))],
)
def test_segments(trainable, segments):
  assert segments_for(trainable, 3) == segments


@pytest.mark.parametrize(
  "trainable",
  ["last:0", "last:4", "last:99", "last:", "last", "adapters", "last:-1"],
)
def test_what_cannot_train_is_refused(trainable):
  with pytest.raises(UserError, match=rf"'{trainable}'.*last:n .* n <= 3"):
    segments_for(trainable, 3)


@pytest.mark.parametrize(
  "trainable", ["all", "head", "last:1", "last:2", "last:3"]
)
def test_split_merge_join_give_back_every_leaf(trainable):
  # Wrong: layers in another order, a leaf on both sides or on none.
  params = params_for(trainable)
  trained, frozen = split_trainable(params, trainable)
  assert len(jax.tree.leaves(trained)) + len(jax.tree.leaves(frozen)) == len(
    jax.tree.leaves(params)
  )
  merged = merge(trained, frozen)
  whole = params_for("all")
  back = merged | {"backbone": join_layers(merged["backbone"])}
  assert jax.tree.structure(back) == jax.tree.structure(whole)
  for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(whole), strict=True):
    np.testing.assert_array_equal(a, b)


def test_last_two_are_the_last_two():
  whole, cut = params_for("all"), params_for("last:2")
  trained, frozen = split_trainable(cut, "last:2")
  kernel = whole["backbone"]["layers_0"]["attn"]["q"]["kernel"]
  np.testing.assert_array_equal(
    trained["backbone"]["layers_1"]["attn"]["q"]["kernel"], kernel[1:]
  )
  assert sorted(trained["backbone"]) == ["final_norm", "layers_1"]
  assert sorted(frozen["backbone"]) == ["embed", "layers_0"]


def test_b2_is_how_long_squares_are_remembered():
  # Without momentum the second update of gradients 1 and 2 is
  # 2 / sqrt((b2 (1 - b2) 1 + (1 - b2) 4) / (1 - b2^2)); the first knows no b2.
  c = dict(b1=0.0, b2=0.5, eps=0.0, weight_decay=0.0, clip_norm=0.0)
  params = few_params()
  optimizer = make_optimizer(settings(**c), lambda _: 0.5)
  state = optimizer.init(params)
  for gradient in (1.0, 2.0):
    whole = jax.tree.map(lambda x, g=gradient: jnp.full_like(x, g), params)
    got, state = optimizer.update(whole, state, params)
  want = -0.5 * 2 / math.sqrt((0.5 * 0.5 * 1 + 0.5 * 4) / (1 - 0.5**2))
  np.testing.assert_allclose(got["head"]["kernel"], want, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_momentum_dtype_is_that_of_first_moments_alone(dtype):
  # Catches: second moments rounded too, of which 1 - b2 = 0.05 is added.
  params = few_params()
  state = make_optimizer(settings(momentum_dtype=dtype), lambda _: 0.1).init(
    params
  )
  (adam,) = [
    s
    for s in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, "mu"))
    if hasattr(s, "mu")
  ]
  assert {x.dtype for x in jax.tree.leaves(adam.mu)} == {jnp.dtype(dtype)}
  assert {x.dtype for x in jax.tree.leaves(adam.nu)} == {jnp.dtype("float32")}
