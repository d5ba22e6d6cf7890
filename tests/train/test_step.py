"""One update: what changes, what must not, and a step that is not finite."""

import dataclasses
import functools
import math

import forests
import jax
import numpy as np
import pytest

from rm_jax.config import base
from rm_jax.models.sharding import make_mesh
from rm_jax.models.sizes import SIZES
from rm_jax.objectives import LossSpec
from rm_jax.reward_model import HeadSpec, ModelSpec, init_params
from rm_jax.train.optim import (
  cut_layers,
  make_optimizer,
  make_schedule,
  segments_for,
  split_trainable,
)
from rm_jax.train.step import TrainState, make_steps

TINY = SIZES["tiny"]


def batch():
  groups = [g for g in forests.ragged_groups() if len(g.tokens) in (2, 3, 4)]
  return forests.batches(groups, layout="shared", row_len=32, blocks=2)[0][0][0]


@functools.cache
def setup(trainable, head_init="unit", name="adamw", dtype="float32", lr=1e-2):
  spec = ModelSpec(
    TINY,
    HeadSpec("scalar", head_init, "last_token"),
    dtype,
    False,
    segments_for(trainable, TINY.layers),
  )
  c = base().optim
  # A norm of 0: the gradient itself is in Adam's first moment.
  c.name, c.lr, c.warmup_steps, c.clip_norm = name, lr, 2, 0.0
  schedule = make_schedule(c, 6)
  optimizer = make_optimizer(c, schedule)
  steps = make_steps(
    spec,
    LossSpec("bradley_terry_margin", 0.0),
    optimizer,
    schedule,
    trainable=trainable,
    accumulate=1,
    parallel="pjit",
    mesh=make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1]),
  )
  whole = dataclasses.replace(spec, segments=(TINY.layers,))
  params = jax.device_get(init_params(whole, jax.random.key(0)))
  params["backbone"] = cut_layers(params["backbone"], spec.segments)
  trained, frozen = jax.device_get(split_trainable(params, trainable))
  state = TrainState(
    np.int32(0), np.int32(0), trained, jax.device_get(optimizer.init(trained))
  )
  return steps, state, frozen, schedule


def go(trainable, batches, **how):
  steps, state, frozen, _ = setup(trainable, **how)
  state = steps.put_state(state)
  out = []
  for b in batches:
    state, metrics = steps.train(
      state, steps.put_frozen(frozen), steps.put_batch(b)
    )
    out.append(jax.device_get((steps.stored(state), metrics)))
  return out


def assert_equal(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(x, y)


def test_the_first_loss_of_a_zeros_head_is_log_2():
  # With margins of 0 only; by hand for the others.
  ((_, metrics),) = go("all", [batch()], head_init="zeros")
  b = batch()
  want = np.log1p(np.exp(b.margin.astype(np.float64))) * b.comparison_weight
  np.testing.assert_allclose(
    metrics["loss"], want.sum() / b.comparison_weight.sum(), rtol=1e-6
  )
  plain = b._replace(margin=b.margin * 0)
  ((_, metrics),) = go("all", [plain], head_init="zeros")
  np.testing.assert_allclose(metrics["loss"], math.log(2), rtol=1e-6)


@pytest.mark.parametrize("trainable", ["all", "head", "last:1"])
def test_exactly_what_trains_changes_and_with_the_same_gradient(trainable):
  # Wrong: a stopped gradient in a layer that trains, a frozen leaf that decay
  # or the optimizer moves, a checkpoint that carries frozen leaves.
  _, before, frozen, _ = setup(trainable)
  ((after, _),) = go(trainable, [batch()])
  for path, leaf in jax.tree_util.tree_flatten_with_path(after.params)[0]:
    old = functools.reduce(lambda t, k: t[k.key], path, before.params)
    assert np.any(leaf != old), jax.tree_util.keystr(path)
  frozen_sizes = sum(x.size for x in jax.tree.leaves(frozen))
  every = sum(x.size for x in jax.tree.leaves(setup("all")[1].params))
  kept = sum(x.size for x in jax.tree.leaves(after.params))
  assert kept + frozen_sizes == every
  # Two moments of what trains, and counters: nothing for frozen leaves.
  moments = sum(x.size for x in jax.tree.leaves(after.opt_state))
  assert 2 * kept <= moments <= 2 * kept + 8
  ((whole, _),) = go("all", [batch()])
  want = whole.opt_state[0][0].mu
  got = after.opt_state[0][0].mu
  np.testing.assert_allclose(
    got["head"]["kernel"], want["head"]["kernel"], rtol=1e-4, atol=1e-7
  )
  if trainable == "last:1":
    np.testing.assert_allclose(
      got["backbone"]["layers_1"]["mlp"]["up"]["kernel"][0],
      want["backbone"]["layers_0"]["mlp"]["up"]["kernel"][-1],
      rtol=1e-3,
      atol=1e-7,
    )


@pytest.mark.parametrize("poison", ["weight", "margin"])
def test_a_step_that_is_not_finite_is_skipped_and_counted(poison):
  # Wrong: NaN moments that spoil every later step; a schedule that moves on.
  good, bad = batch(), batch()
  if poison == "weight":
    bad.comparison_weight[0, 0] = np.nan
  else:
    bad.margin[0, 0] = np.inf
  (one, _), (two, metrics), (three, last) = go("all", [good, bad, good])
  assert not np.isfinite(metrics["loss"])
  assert_equal((two.params, two.opt_state), (one.params, one.opt_state))
  assert (int(two.step), int(two.skipped)) == (2, 1)
  # What follows is what would have followed without it, at the same rate.
  _, (want, want_metrics) = go("all", [good, good])
  assert_equal((three.params, three.opt_state), (want.params, want.opt_state))
  assert last["lr"] == want_metrics["lr"]
  assert (int(three.step), int(three.skipped)) == (3, 1)
  assert np.isfinite(last["loss"])


def test_adafactor_trains():
  out = go("all", [batch()] * 5, name="adafactor", head_init="zeros")
  losses = [float(m["loss"]) for _, m in out]
  assert losses[-1] < 0.9 * losses[0]


def test_bfloat16_products_leave_float32_parameters_that_move_a_little():
  # Catches parameters or moments kept in bfloat16: near 1 its numbers lie 2^-8
  # apart, and an update of 1e-5 is lost.
  how = dict(dtype="bfloat16", lr=1e-5)
  steps, before, _, _ = setup("all", **how)
  begun = steps.first_state(before.params)
  *_, (after, _) = go("all", [batch()] * 3, **how)
  for state in (begun, after):
    for leaf in jax.tree.leaves((state.params, state.opt_state)):
      assert leaf.dtype in (np.float32, np.int32), leaf.dtype  # int: counts
  old, new = (
    s.params["backbone"]["final_norm"]["scale"] for s in (before, after)
  )
  assert (old == 1).all()
  moved = np.abs(new.astype(np.float64) - 1)
  assert (moved > 1e-6).all() and (moved < 4e-5).all()
