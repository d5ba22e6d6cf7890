"""Adapters train as the model they stand for, on every device, and resume.

Catches: a head that is a target or stays behind (frozen, not saved), frozen
weights in the optimizer's state, a scale that only one of two paths has, an
adapter cut so that its product loses terms.
"""

import dataclasses
import functools
import math
import shutil
from typing import NamedTuple

import flax.linen as nn
import forests
import jax
import numpy as np
import pytest
import tiny_run

from rm_jax import RewardModel
from rm_jax.config import base, validate
from rm_jax.data.pack import Geometry
from rm_jax.models.lora import LoraSpec, init_lora, merge_lora
from rm_jax.models.sharding import make_mesh, shard_tree
from rm_jax.models.sizes import SIZES
from rm_jax.objectives import LossSpec
from rm_jax.reward_model import (
  HeadSpec,
  ModelSpec,
  abstract_params,
  init_params,
)
from rm_jax.train.checkpoint import load_params
from rm_jax.train.loop import train
from rm_jax.train.optim import make_optimizer, make_schedule, split_trainable
from rm_jax.train.step import TrainState, make_steps
from rm_jax.types import UserError

TINY = SIZES["tiny"]
LORA = LoraSpec(rank=2, alpha=6.0, targets=("all",))
SPEC = ModelSpec(
  TINY,
  HeadSpec("scalar", "unit", "last_token"),
  "float32",
  False,
  (TINY.layers,),
  lora=LORA,
)
LOSS = LossSpec("all_pairs", 0.0)
GEOMETRY = Geometry(
  row_len=64,
  blocks=8,
  slots=64,
  comparisons=64,
  groups=8,
  group_size=9,
  completions=24,
  align=1,
)


@functools.cache
def params():
  """Random weights; B is not the zeros it begins as."""
  drawn = jax.device_get(init_params(SPEC, jax.random.key(0)))
  rng = np.random.default_rng(0)

  def fill(path, x):
    return (
      rng.normal(0, 0.2, x.shape).astype(np.float32)
      if (path[-1].key == "b")
      else x
    )

  drawn["lora"] = jax.tree_util.tree_map_with_path(fill, drawn["lora"])
  return drawn


@functools.cache
def batch():
  return forests.batches(
    forests.ragged_groups()[:7],
    layout="shared",
    row_len=64,
    blocks=8,
    rows=8,
    geometry=GEOMETRY,
  )[0][0][0]


@functools.cache
def optimizer():
  c = base().optim
  # eps as in tests/test_devices.py: no step of the size of rounding.
  c.lr, c.warmup_steps, c.eps, c.clip_norm = 1e-3, 1, 1e-3, 0.0
  schedule = make_schedule(c, 3)
  return make_optimizer(c, schedule), schedule


@functools.cache
def steps_of(spec, trainable, way, parallel, accumulate):
  mesh = make_mesh(
    **dict(zip(("data", "fsdp", "tensor"), way, strict=True)),
    devices=jax.devices()[: math.prod(way)],
  )
  return make_steps(
    spec,
    LOSS,
    *optimizer(),
    trainable=trainable,
    accumulate=accumulate,
    parallel=parallel,
    mesh=mesh,
  )


class Went(NamedTuple):
  """What a train step gave, as numpy."""

  scores: np.ndarray  # before it
  gradient: dict
  state: TrainState
  metrics: dict


def go(spec, whole, trainable, way=(1, 1, 1), parallel="pjit", accumulate=1):
  """Scores, and one train step."""
  steps = steps_of(spec, trainable, way, parallel, accumulate)
  trained, frozen = split_trainable(jax.device_get(whole), trainable)
  opt = jax.device_get(optimizer()[0].init(trained))
  state = steps.put_state(TrainState(np.int32(0), np.int32(0), trained, opt))
  frozen, data = steps.put_frozen(frozen), steps.put_batch(batch())
  scores = None
  if way == (1, 1, 1):
    scores = jax.device_get(steps.evaluate(state.params, frozen, data))[0]
  state, metrics = steps.train(state, frozen, data)
  state = jax.device_get(steps.stored(state))
  # After one step Adam's first moment is (1 - b1) times the gradient.
  gradient = jax.tree.map(
    lambda m: m / (1 - base().optim.b1), state.opt_state[0][0].mu
  )
  return Went(scores, gradient, state, jax.device_get(metrics))


@functools.cache
def alone():
  return go(SPEC, params(), "lora")


def close(got, want):
  """Sums in another order, of the scale of the leaf."""
  for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
    b = np.asarray(b)
    scale = max(abs(b).max(), 1e-6)
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * scale)


# ---------------------------------------------------------------- one model


@functools.cache
def dense():
  """The merged weights, all of which train."""
  plain = dataclasses.replace(SPEC, lora=None)
  return go(plain, merge_lora(LORA, params()), "all")


@pytest.mark.slow
def test_scores_are_those_of_the_merged_weights():
  close(alone().scores, dense().scores)
  # The adapters are not nothing: without them the scores are others.
  without = params() | {"lora": jax.tree.map(np.zeros_like, params()["lora"])}
  assert abs(go(SPEC, without, "lora").scores - alone().scores).max() > 0.1


def test_merged_weights_are_the_formula():
  merged = merge_lora(LORA, params())["backbone"]["layers_0"]
  before = params()["backbone"]["layers_0"]
  own = params()["lora"]["layers_0"]
  for part, name in (("attn", "o"), ("mlp", "down")):
    for layer in range(TINY.layers):
      a, b = (np.float64(own[part][name][x][layer]) for x in "ab")
      want = before[part][name]["kernel"][layer] + 6.0 / 2 * (a @ b)
      got = merged[part][name]["kernel"][layer]
      np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  assert merged["attn_norm"] is before["attn_norm"]


def test_a_run_begins_as_its_base_model():
  begun = jax.device_get(init_params(SPEC, jax.random.key(0)))
  for x in jax.tree.leaves(
    jax.tree_util.tree_map_with_path(
      lambda path, x: x if path[-1].key == "b" else np.zeros(1), begun["lora"]
    )
  ):
    assert not x.any()
  a = begun["lora"]["layers_0"]["mlp"]["down"]["a"]
  assert a.shape == (3, TINY.mlp_width, 2)
  assert np.std(a) == pytest.approx(TINY.mlp_width**-0.5, rel=0.2)
  assert len({float(x) for x in a[:, 0, 0]}) == 3  # no layer is another's copy


def test_other_targets_draw_the_same_numbers():
  boxed = abstract_params(dataclasses.replace(SPEC, lora=None))["backbone"]
  key = jax.random.key(3)
  few, every = (
    nn.unbox(jax.jit(functools.partial(init_lora, spec, boxed))(key))
    for spec in (LoraSpec(2, 6.0, ("v",)), LoraSpec(2, 6.0, ("q", "v")))
  )
  assert set(few["layers_0"]) == {"attn"}
  assert set(few["layers_0"]["attn"]) == {"v"}
  assert set(every["layers_0"]["attn"]) == {"q", "v"}
  a, b = (t["layers_0"]["attn"]["v"]["a"] for t in (few, every))
  assert np.array_equal(a, b)
  assert set(params()["lora"]["layers_0"]["mlp"]) == {"gate", "up", "down"}


# ---------------------------------------------------------------- what trains


def test_adapters_and_head_train_and_nothing_else():
  state = alone().state
  assert set(state.params) == {"lora", "head"}
  before = {k: params()[k] for k in ("lora", "head")}
  for a, b in zip(*map(jax.tree.leaves, (state.params, before)), strict=True):
    assert np.any(a != b)
  kept = sum(x.size for x in jax.tree.leaves(state.params))
  moments = sum(x.size for x in jax.tree.leaves(state.opt_state))
  assert 2 * kept <= moments <= 2 * kept + 8


def test_the_gradient_is_that_of_the_merged_weights():
  # d loss / d B = scale A^T dW, d loss / d A = scale dW B^T, with dW from a
  # run in which the merged weights themselves train.
  got, full = alone().gradient, dense().gradient
  for part, name in (("attn", "q"), ("attn", "o"), ("mlp", "up")):
    dw = np.float64(full["backbone"]["layers_0"][part][name]["kernel"])
    own = params()["lora"]["layers_0"][part][name]
    a, b = np.float64(own["a"]), np.float64(own["b"])
    found = got["lora"]["layers_0"][part][name]
    close(found["b"], 3.0 * np.einsum("lir,lio->lro", a, dw))
    close(found["a"], 3.0 * np.einsum("lio,lro->lir", dw, b))
  close(got["head"], full["head"])


# ---------------------------------------------------------------- devices


@pytest.mark.parametrize(
  "way, parallel, accumulate",
  [
    ((2, 2, 2), "pjit", 2),
    pytest.param((8, 1, 1), "pmap", 1, marks=pytest.mark.slow),
  ],
)
def test_the_same_on_any_devices(way, parallel, accumulate):
  got = go(SPEC, params(), "lora", way, parallel, accumulate)
  close(got.metrics["loss"], alone().metrics["loss"])
  close(got.gradient, alone().gradient)
  close(got.state.params, alone().state.params)


def test_only_the_rank_is_never_cut():
  mesh = make_mesh(data=2, fsdp=2, tensor=2)
  own = shard_tree(abstract_params(SPEC)["lora"], mesh)["layers_0"]
  specs = {
    name: tuple(own[part][name][x].spec)
    for part, name in (("attn", "q"), ("attn", "o"), ("mlp", "down"))
    for x in "a"
  }
  assert specs == {
    "q": (None, "fsdp", None),
    "o": (None, "tensor", None),
    "down": (None, "tensor", None),
  }
  assert tuple(own["attn"]["q"]["b"].spec) == (None, None, "tensor")
  assert tuple(own["mlp"]["down"]["b"].spec) == (None, None, "fsdp")


# ---------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("lora")
  data = tiny_run.write_rows(folder / "pairs.jsonl", tiny_run.pairs(24))
  tokenizer = tiny_run.write_tokenizer(folder / "tokenizer")
  c = tiny_run.config(
    data,
    tokenizer,
    train__trainable="lora",
    lora__rank=2,
    data__blocks=8,
    optim__lr=1e-2,
  )
  assert train(c, folder / "run", command="rm-jax train") == 0
  return folder / "run", c


def test_a_run_goes_on_bit_for_bit(workdir, tmp_path):
  place, config = workdir
  copy = shutil.copytree(place, tmp_path / "run")
  shutil.rmtree(copy / "checkpoints" / "4")
  assert train(config, copy, command="rm-jax train") == 0
  a, b = (load_params(x, "last", 4)[0] for x in (place, copy))
  assert set(a) == {"lora", "head"}  # the base is not in the checkpoint
  for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
    assert np.array_equal(x, y)


def test_scoring_and_export_have_the_merged_weights(workdir, tmp_path):
  from rm_jax.export.folder import export

  place, _ = workdir
  model = RewardModel.load(place / "checkpoints" / "4")
  assert set(model.params) == {"backbone", "head"}
  assert model.spec.lora is None
  trained = load_params(place, "last", 4)[0]
  q = trained["lora"]["layers_0"]["attn"]["q"]
  product = np.einsum("lir,lro->lio", q["a"], q["b"]) * 16.0 / 2
  assert abs(product).max() > 1e-4
  base_q = np.asarray(
    model.params["backbone"]["layers_0"]["attn"]["q"]["kernel"]
  )
  export(
    str(place / "checkpoints" / "4"),
    str(tmp_path / "out"),
    average=[],
    architecture="auto",
    dtype="float32",
    max_shard_bytes=1 << 30,
    task="",
    results=[],
  )
  back = RewardModel.load(tmp_path / "out")
  got = back.params["backbone"]["layers_0"]["attn"]["q"]["kernel"]
  assert np.array_equal(got, base_q)
  card = (tmp_path / "out" / "README.md").read_text()
  assert "| `lora.rank` | `2` |" in card


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
  "keys, message",
  [
    ({"lora.rank": 4}, "trainable='all' and config.lora.rank=4: .* both or"),
    ({"train.trainable": "lora"}, "trainable='lora' and config.lora.rank=0"),
    (
      {
        "train.trainable": "lora",
        "lora.rank": 4,
        "train.cache_hidden": "states",
      },
      "cache_hidden='states' .*trainable='lora' freezes none",
    ),
    ({"lora.alpha": -1.0}, "config.lora.alpha=-1.0 must be 0 or more"),
  ],
)
def test_keys(keys, message):
  c = base()
  c.data.source = "pairs.jsonl"
  c.update_from_flattened_dict(keys)
  with pytest.raises(UserError, match=message):
    validate(c)


@pytest.mark.parametrize("targets", [("q", "score"), ()])
def test_targets_that_are_no_linear_map(targets):
  spec = dataclasses.replace(SPEC, lora=LoraSpec(2, 6.0, targets))
  with pytest.raises(
    UserError,
    match=r"(\['score'\]|nothing) names no .* Known: \['down', 'gate', 'k'",
  ):
    init_params(spec, jax.random.key(0))
