"""Dropout: who loses what, when, and that nothing else decides it.

Catches: a mask that depends on the row, the layout, the mesh, the micro-batch
or a restart; one mask for all layers, channels or train steps; sums that are
not scaled; dropout in evaluation; a backward pass with a mask of its own.
"""

import dataclasses
import functools

import forests
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rm_jax.config import base, validate
from rm_jax.data.loader import Reading, lay_step, open_loader, with_demands
from rm_jax.data.plan import make_plan
from rm_jax.models.dropout import drop
from rm_jax.models.sharding import make_mesh
from rm_jax.models.sizes import SIZES
from rm_jax.objectives import LossSpec
from rm_jax.reward_model import HeadSpec, ModelSpec, forward, init_params
from rm_jax.train.optim import (
  cut_layers,
  join_layers,
  make_optimizer,
  make_schedule,
)
from rm_jax.train.step import make_steps
from rm_jax.types import UserError

TINY = SIZES["tiny"]
RATE = 0.2
SPEC = ModelSpec(
  TINY,
  HeadSpec("scalar", "unit", "last_token"),
  "float32",
  False,
  (TINY.layers,),
  dropout=RATE,
)
LOSS = LossSpec("all_pairs", 0.3)
BLOCKS, ROW_LEN = 4, 48


# ---------------------------------------------------------------- one mask


def test_drop_keeps_the_mean_and_the_share():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 400, 64)))
  x = x.astype(jnp.float32)
  ids = jnp.arange(400, dtype=jnp.uint32)[None]
  out = np.asarray(jax.jit(functools.partial(drop, rate=RATE))(x, ids, 3))
  kept = out != 0
  np.testing.assert_allclose(
    out[kept], np.asarray(x)[kept] / (1 - RATE), rtol=1e-6
  )
  # 25,600 draws: four standard errors of a share of 0.8 are 0.010.
  assert abs(kept.mean() - (1 - RATE)) < 0.010
  # Of channels 400 draws each: their shares scatter as independent ones do.
  assert 0.012 < kept[0].mean(0).std() < 0.030  # sqrt(0.16 / 400) = 0.020


def test_the_mask_is_of_the_token_and_the_site():
  x, rate = jnp.ones((2, 3, 64), jnp.float32), 0.5
  ids = jnp.asarray([[7, 8, 9], [9, 7, 7]], jnp.uint32)
  out = np.asarray(drop(x, ids, 0, rate=rate))
  np.testing.assert_array_equal(out[0, 0], out[1, 1])
  np.testing.assert_array_equal(out[0, 2], out[1, 0])
  assert (out[0, 0] != out[0, 1]).any()
  assert (out != np.asarray(drop(x, ids, 1, rate=rate))).any()
  np.testing.assert_array_equal(np.asarray(drop(x, ids, 0, rate=0.0)), x)


# ---------------------------------------------------------------- ids


def groups():
  made = forests.ragged_groups(language=True)[:7]
  return [*made, forests.forked_group(record=7, language=True)]


def data_and_plan(layout, align=1):
  reading = Reading(
    "auto", "end_of_turn", ROW_LEN, "drop", layout, align, "mean"
  )
  data = with_demands(groups(), reading, [], {}, [])
  plan = make_plan(
    data.demands,
    num_steps=3,
    batch="groups",
    groups_per_batch=len(data.groups),
    rows_per_batch=0,
    blocks=BLOCKS,
    row_len=ROW_LEN,
    layout=layout,
    align=align,
    seed=0,
    shuffle=True,
  )
  return data, plan


def lay(layout="shared", step=0, align=1, seed=5, **how):
  data, plan = data_and_plan(layout, align)
  return lay_step(data, plan, step, dropout=seed, **how)[:2]


def ids_by_path(batch):
  """{path of token ids from the first token on: the set of its ids}."""
  found = {}
  for n, r, column in np.argwhere(batch.group_ids > 0):
    path, at = [], column
    while at >= 0:
      path.append(int(batch.tokens[n, r, at]))
      at = batch.parents[n, r, at]
    mine = found.setdefault(tuple(path[::-1]), set())
    mine.add(int(batch.dropout_ids[n, r, column]))
  return found


@pytest.mark.parametrize("layout, align", [("padded", 1), ("shared", 4)])
def test_ids_are_those_of_the_token_in_every_layout(layout, align):
  want, _ = lay("packed")
  assert ids_by_path(want) == (
    found := ids_by_path(lay(layout, align=align)[0])
  )
  # But for the end that completions of one path each have for themselves.
  assert sum(len(ids) > 1 for ids in found.values()) < 5
  once = [ids for ids in found.values() if len(ids) == 1]
  assert len(set.union(*once)) == len(once)


def test_ids_change_with_step_and_seed_and_not_with_hosts():
  batch, _ = lay()
  for other in (lay(step=1)[0], lay(seed=6)[0]):
    old, new = ids_by_path(batch), ids_by_path(other)
    assert old.keys() == new.keys()
    assert not set.union(*old.values()) & set.union(*new.values())
  for block in range(BLOCKS):
    mine, _ = lay(blocks=[block])
    np.testing.assert_array_equal(mine.dropout_ids, batch.dropout_ids[[block]])
  assert lay(seed=None)[0].dropout_ids is None


# ---------------------------------------------------------------- the model


@functools.cache
def params():
  return jax.device_get(init_params(SPEC, jax.random.key(0)))


@functools.cache
def optimizer():
  c = base().optim
  # eps: see tests/test_devices.py.
  c.lr, c.warmup_steps, c.eps, c.clip_norm = 1e-3, 1, 1e-3, 0.0
  schedule = make_schedule(c, 3)
  return make_optimizer(c, schedule), schedule


@functools.cache
def steps_of(way):
  spec, mesh, parallel, accumulate = SPEC, (1, 1, 1), "pjit", 1
  if way == "without":
    spec = dataclasses.replace(SPEC, dropout=0.0)
  if way == "mesh":
    spec = dataclasses.replace(SPEC, remat=True)
    mesh, accumulate = (1, 2, 2), 2
  if way == "pmap":
    mesh, parallel, accumulate = (2, 1, 1), "pmap", 2
  names = ("data", "fsdp", "tensor")
  return make_steps(
    spec,
    LOSS,
    *optimizer(),
    trainable="all",
    accumulate=accumulate,
    parallel=parallel,
    mesh=make_mesh(
      **dict(zip(names, mesh, strict=True)),
      devices=jax.devices()[: int(np.prod(mesh))],
    ),
  )


def train(way, batches):
  """(metrics of each, first moments after the first: its gradient, params)."""
  steps = steps_of(way)
  state, logged, stored = steps.first_state(params()), [], []
  for batch in batches:
    state, out = steps.train(
      state, steps.put_frozen({}), steps.put_batch(batch)
    )
    logged.append(jax.device_get({k: out[k] for k in ("loss", "grad_norm")}))
    stored.append(jax.device_get(steps.stored(state)))
  return logged, stored[0].opt_state[0][0].mu, stored[-1].params


@functools.cache
def reference():
  return train("one", [lay(step=n)[0] for n in range(2)])


def assert_same(got, want, limit=1e-5):
  def close(path, x, y):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    worst, size = np.abs(x - y).max(), np.abs(y).max()
    assert worst <= limit * max(size, 1e-30), jax.tree_util.keystr(path)

  jax.tree_util.tree_map_with_path(close, got, want)


@pytest.mark.parametrize(
  "way", ["mesh", pytest.param("pmap", marks=pytest.mark.slow)]
)
def test_no_mesh_micro_batch_or_remat_changes_a_mask(way):
  assert_same(train(way, [lay(step=n)[0] for n in range(2)]), reference())


def test_no_layout_changes_a_mask():
  # Wrong: copies of a prompt that lose other entries, row by row.
  got = train("one", [lay("padded", step=n)[0] for n in range(2)])
  assert_same(got, reference())


def test_another_step_is_another_mask():
  (first, _), _, _ = reference()
  (again,), _, _ = train("one", [lay(step=1)[0]])
  assert float(first["loss"]) != float(again["loss"])


@functools.partial(jax.jit, static_argnums=0)
def scores(spec, own, batch):
  return forward(spec, own, batch, language=False).scores


def test_evaluation_and_a_rate_of_0_drop_nothing_bit_for_bit():
  batch = lay()[0]
  none = dataclasses.replace(SPEC, dropout=0.0)
  bare = batch._replace(dropout_ids=None)
  want = scores(none, params(), bare)
  np.testing.assert_array_equal(scores(none, params(), batch), want)
  np.testing.assert_array_equal(scores(SPEC, params(), bare), want)


def test_masks_do_not_depend_on_how_layers_are_stacked():
  # Wrong: layers numbered within their stack, or one mask for all of them.
  batch = lay()[0]
  cut = dataclasses.replace(SPEC, segments=(1, TINY.layers - 1))
  parts = params() | {
    "backbone": cut_layers(join_layers(params()["backbone"]), cut.segments)
  }
  whole = scores(SPEC, params(), batch)
  np.testing.assert_allclose(
    scores(cut, parts, batch), whole, rtol=1e-5, atol=1e-5
  )
  bare = batch._replace(dropout_ids=None)
  assert (np.asarray(scores(SPEC, params(), bare)) != np.asarray(whole)).any()


def test_a_step_without_its_ids_is_an_error():
  # Wrong: a run that asks for dropout and silently has none.
  with pytest.raises(ValueError, match=r"dropout 0\.2 and a batch without"):
    train("one", [lay(seed=None)[0]])
  with pytest.raises(ValueError, match=r"dropout 0 and a batch with drop"):
    train("without", [lay()[0]])


def test_a_loader_that_goes_on_gives_the_ids_it_would_have_given():
  data, plan = data_and_plan("shared")
  how = dict(blocks=None, dropout=5)
  loader = open_loader(data, plan, position=None, **how)
  next(loader)
  again = open_loader(data, plan, position=loader.get_state(), **how)
  for step in (1, 2):
    want = lay(step=step)[0].dropout_ids
    np.testing.assert_array_equal(next(again)[0].dropout_ids, want)


def test_what_cannot_be_is_refused():
  c = base()
  c.data.source, c.model.dropout = "pairs.jsonl", 1.0
  with pytest.raises(
    UserError, match=r"model\.dropout=1\.0 must be in \[0, 1\)"
  ):
    validate(c)
  c.model.dropout, c.train.trainable, c.train.cache_hidden = 0.1, "head", "here"
  with pytest.raises(UserError, match=r"dropout=0\.1 .*cache_hidden='here'"):
    validate(c)
  c.train.cache_hidden = ""
  validate(c)
