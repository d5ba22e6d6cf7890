"""States of the frozen layers from disk: the same run, computed once.

Catches: states after the final norm or one layer off, rows of another token or
group, a loss that reads a parameter that is no longer there, a gradient that
lost the frozen layers' context, states of other weights or data taken for ours.
"""

import dataclasses
import functools
import json

import forests
import jax
import numpy as np
import pytest
import tiny_run

from rm_jax.config import base, validate
from rm_jax.data.loader import Reading, lay_step, with_demands
from rm_jax.data.pack import Geometry
from rm_jax.data.plan import make_plan
from rm_jax.models.sharding import make_mesh
from rm_jax.models.sizes import SIZES
from rm_jax.objectives import LossSpec
from rm_jax.reward_model import HeadSpec, ModelSpec, init_params
from rm_jax.train import hidden, log, loop
from rm_jax.train.hidden import with_states
from rm_jax.train.init import digest
from rm_jax.train.optim import (
  cut_layers,
  frozen_segments,
  make_optimizer,
  make_schedule,
  segments_for,
  split_trainable,
  without_frozen_layers,
)
from rm_jax.train.sets import Sets
from rm_jax.train.step import TrainState, make_steps
from rm_jax.types import UserError
from tests.data.fixtures import make_tokenizer

TINY = SIZES["tiny"]
LOSS = LossSpec("all_pairs", 0.3, regularizers=(("hidden_square", 0.1),))
ROW_LEN, BLOCKS = 48, 8
LAYOUTS = ("padded", "packed", "shared")
# Room for the groups in every layout, so that all share one compilation.
ROWS = 9
WIDE = Geometry(
  row_len=ROW_LEN,
  blocks=BLOCKS,
  slots=64,
  comparisons=36,
  groups=1,
  group_size=9,
  completions=9,
  align=1,
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  """Locks go to a folder of the test."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


def spec_for(trainable, head="scalar"):
  segments = segments_for(trainable, TINY.layers)
  return ModelSpec(
    TINY,  # tied: the language loss reads the frozen embedding
    HeadSpec(head, "unit", "last_token", token=5),
    "float32",
    False,
    segments,
    frozen=frozen_segments(trainable, segments),
  )


@functools.cache
def params_for(trainable, head="scalar"):
  spec = spec_for(trainable, head)
  whole = dataclasses.replace(spec, segments=(TINY.layers,))
  params = jax.device_get(init_params(whole, jax.random.key(0)))
  # Norms that are not all ones: states before and after one differ.
  params = jax.tree_util.tree_map_with_path(
    lambda path, x: x * 1.7 if "norm" in jax.tree_util.keystr(path) else x,
    params,
  )
  params["backbone"] = cut_layers(params["backbone"], spec.segments)
  return jax.device_get(split_trainable(params, trainable))


@functools.cache
def sets_for(layout):
  made = forests.ragged_groups(language=True)
  made.append(forests.forked_group(record=len(made), language=True))
  reading = Reading(
    "auto", "end_of_turn", ROW_LEN, "drop", layout, 1, "last_token"
  )

  def data(groups):
    return with_demands(groups, reading, [], {}, ["p"] * len(groups))

  return Sets(data(made[2:]), data(made[:2]), [], [True], {})


def config_for(folder, layout, trainable):
  c = base()
  c.train.trainable, c.train.cache_hidden = trainable, str(folder)
  c.data.layout, c.data.row_len, c.data.blocks = layout, ROW_LEN, BLOCKS
  c.evals.rows = 1
  return c


def mesh_of(count):
  shape = dict(data=count, fsdp=1, tensor=1)
  return make_mesh(**shape, devices=jax.devices()[:count])


def with_cache(folder, layout, trainable, head="scalar", **changes):
  """The sets of `sets_for`, with states from `folder`."""
  frozen = params_for(trainable, head)[1]
  settings = dict(frozen=frozen, sets=sets_for(layout), mesh=mesh_of(8))
  settings |= dict(spec=spec_for(trainable, head)) | changes
  return with_states(
    config_for(folder, layout, trainable),
    base=digest(settings["frozen"]),
    tokenizer=make_tokenizer(),
    **settings,
  )


@functools.cache
def optimizer():
  c = base().optim
  # eps: Adam divides by the gradient's own size, see tests/test_devices.py.
  c.lr, c.warmup_steps, c.eps, c.clip_norm = 1e-3, 1, 1e-3, 0.0
  schedule = make_schedule(c, 2)
  return make_optimizer(c, schedule), schedule


def batch_of(data, layout):
  plan = make_plan(
    data.demands,
    num_steps=1,
    batch="groups",
    groups_per_batch=len(data.groups),
    rows_per_batch=0,
    blocks=BLOCKS,
    row_len=ROW_LEN,
    layout=layout,
    align=1,
    seed=0,
    shuffle=False,
  )
  (step,) = plan.steps
  wide = plan._replace(geometry=WIDE, steps=(step._replace(rows=ROWS),))
  return lay_step(data, wide, 0)[:2]


@functools.cache
def steps_of(trainable, head, loss, parallel, devices, known):
  return make_steps(
    spec_for(trainable, head),
    loss,
    *optimizer(),
    trainable=trainable,
    accumulate=1,
    parallel=parallel,
    mesh=mesh_of(devices),
    known_states=known,
  )


def run(
  data,
  layout,
  trainable,
  *,
  parallel="pjit",
  devices=1,
  head="scalar",
  loss=LOSS,
):
  """Scores by completion, and two train steps, as one tree of arrays."""
  trained, frozen = params_for(trainable, head)
  known = data.states is not None
  steps = steps_of(trainable, head, loss, parallel, devices, known)
  batch, owners = batch_of(data, layout)
  if known:
    frozen = without_frozen_layers(frozen, spec_for(trainable, head).frozen)
  batch, frozen = steps.put_batch(batch), steps.put_frozen(frozen)
  state = steps.put_state(
    TrainState(np.int32(0), np.int32(0), trained, optimizer()[0].init(trained))
  )
  out = jax.device_get(steps.evaluate(state.params, frozen, batch))
  scores, _, sums, _ = out
  real = owners.group >= 0
  names = zip(owners.group[real], owners.completion[real], strict=True)
  by_owner = dict(zip(names, np.asarray(scores)[real], strict=True))
  logged = []
  for _ in range(2):
    state, metrics = steps.train(state, frozen, batch)
    logged.append({k: metrics[k] for k in ("loss", "grad_norm", "terms")})
  after = jax.device_get(steps.stored(state))
  return jax.device_get(
    dict(
      scores=np.array([by_owner[key] for key in sorted(by_owner)]),
      sums=sums,
      logged=logged,
      moments=after.opt_state[0][0].mu,
      params=after.params,
    )
  )


def assert_same(got, want):
  def close(path, x, y):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    worst, size = np.abs(x - y).max(), np.abs(y).max()
    where = jax.tree_util.keystr(path)
    # Of the largest value of the leaf: the states were computed in rows of
    # another layout, on other devices, and float32 sums in another order there.
    assert worst <= 1e-5 * max(size, 1e-30), (where, worst, size)

  jax.tree_util.tree_map_with_path(close, got, want)


@functools.cache
def want_for(trainable):
  """Without a cache, in a layout that shares nothing."""
  return run(sets_for("packed").train, "packed", trainable)


@pytest.mark.parametrize(
  "trainable, layout",
  [
    ("head", "shared"),
    *(
      pytest.param(trainable, layout, marks=pytest.mark.slow)
      # 3: all layers train, the states are the embeddings.
      for trainable, layout in [
        *(("last:1", layout) for layout in LAYOUTS),
        ("last:3", "shared"),
      ]
    ),
  ],
)
def test_nothing_changes_in_any_layout(tmp_path, trainable, layout):
  want = want_for(trainable)
  largest = max(np.abs(x).max() for x in jax.tree.leaves(want["moments"]))
  assert largest > 1e-3, "a zero gradient would agree with anything"
  data = with_cache(tmp_path / "states", layout, trainable).train
  assert_same(run(data, layout, trainable), want)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["pjit", "pmap"])
def test_nothing_changes_on_eight_devices(tmp_path, parallel):
  want = want_for("last:1")
  data = with_cache(tmp_path / "states", "shared", "last:1").train
  got = run(data, "shared", "last:1", parallel=parallel, devices=8)
  assert_same(got, want)


@pytest.mark.slow
def test_a_head_that_reads_the_frozen_embedding(tmp_path):
  # A loss of single scores: a comparison has no gradient for a bias.
  how = dict(
    layout="shared",
    trainable="last:1",
    head="gain_bias",
    loss=LossSpec("outcome_cross_entropy", 0.3),
  )
  want = run(sets_for("shared").train, **how)
  data = with_cache(tmp_path / "s", "shared", "last:1", head="gain_bias").train
  assert_same(run(data, **how), want)


def test_every_side_reads_rows_of_its_own(tmp_path):
  # In one file: training groups first.
  folder = tmp_path / "states"
  sets = with_cache(folder, "shared", "last:1")
  whole = np.fromfile(folder / "states.float32", "<f4")
  states = [s.states.states for s in (sets.train, sets.test)]
  np.testing.assert_array_equal(np.concatenate(states).ravel(), whole)
  compute = jax.jit(hidden.frozen_states, static_argnums=0)
  spec, (_, frozen) = spec_for("last:1"), params_for("last:1")
  for side in ("train", "test"):
    batch, _ = batch_of(getattr(sets, side), "shared")
    plain = batch._replace(hidden=None)
    want = np.asarray(compute(spec, frozen["backbone"], plain))
    assert_same(batch.hidden[batch.group_ids > 0], want[batch.group_ids > 0])


def never(*_):
  raise AssertionError("computed again")


def test_the_second_run_computes_nothing(tmp_path, monkeypatch):
  first = with_cache(tmp_path / "states", "shared", "last:1")
  monkeypatch.setattr(hidden, "_compute", never)
  again = with_cache(tmp_path / "states", "padded", "last:1", mesh=mesh_of(1))
  np.testing.assert_array_equal(
    again.train.states.states, first.train.states.states
  )


@pytest.mark.parametrize(
  "change, entry",
  [
    ("frozen", "frozen_sha256"),
    ("dtype", "dtype: stored 'float32', ours 'bfloat16'"),
    ("data", "data.train.sha256"),
    ("layers", "frozen_layers: stored 2, ours 1"),
  ],
)
def test_states_of_other_runs_are_refused(tmp_path, monkeypatch, change, entry):
  with_cache(tmp_path / "states", "shared", "last:1")
  monkeypatch.setattr(hidden, "_compute", never)
  trainable, changes = "last:1", {}
  if change == "frozen":
    frozen = params_for("last:1")[1]
    changes["frozen"] = jax.tree.map(lambda x: x * np.float32(2), frozen)
  elif change == "dtype":
    spec = spec_for("last:1")
    changes["spec"] = dataclasses.replace(spec, dtype="bfloat16")
  elif change == "data":
    sets = sets_for("shared")
    groups = list(sets.train.groups)
    first = groups[0].tokens[0].copy()
    first[-1] += 1  # one token of one completion
    groups[0] = groups[0]._replace(tokens=(first, *groups[0].tokens[1:]))
    changes["sets"] = sets._replace(train=sets.train._replace(groups=groups))
  else:
    trainable = "last:2"
  with pytest.raises(UserError) as error:
    with_cache(tmp_path / "states", "shared", trainable, **changes)
  assert entry in str(error.value) and "\n" not in str(error.value)


# ---------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp("hidden")
  return (
    tiny_run.write_rows(folder / "pairs.jsonl", tiny_run.pairs(24)),
    tiny_run.write_tokenizer(folder / "tokenizer"),
  )


def rows_of(workdir):
  return [
    {k: v for k, v in row.items() if v is not None}
    for row in tiny_run.rows_without_times(workdir)
  ]


def test_a_whole_run_and_one_that_was_stopped(files, tmp_path, monkeypatch):
  monkeypatch.setattr(loop, "make_mesh", lambda **_: mesh_of(2))
  settings = dict(train__trainable="last:1")
  cached = settings | dict(train__cache_hidden=str(tmp_path / "states"))
  plain, whole = tmp_path / "plain", tmp_path / "whole"
  config = tiny_run.config(*files, **settings)
  assert loop.train(config, plain, command="") == 0
  config = tiny_run.config(*files, **cached)
  assert loop.train(config, whole, command="") == 0
  got, want = rows_of(whole), rows_of(plain)
  assert [r.keys() for r in got] == [r.keys() for r in want]
  for a, b in zip(got, want, strict=True):
    for key in a:
      # Not 1e-5: this run has Adam's own eps of 1e-8, so where a gradient is
      # rounding its step is not (see `optimizer`), and later losses follow.
      # 1e-6: of accuracies and differences that are 0.
      assert a[key] == pytest.approx(b[key], rel=1e-4, abs=1e-6), key

  # Broken off after step 3, then again: bit for bit the run that was not.
  broken, write = tmp_path / "broken", log.Log.write

  def stop(self, row):
    write(self, row)
    if row["step"] == 3:
      raise KeyboardInterrupt

  with monkeypatch.context() as m:
    m.setattr(log.Log, "write", stop)
    with pytest.raises(KeyboardInterrupt):
      loop.train(config, broken, command="")
  assert loop.train(config, broken, command="") == 0
  assert rows_of(broken) == rows_of(whole)


def test_a_base_model_that_changed_is_one_line(files, tmp_path, monkeypatch):
  # The random base model comes from the seed: another seed, another model.
  monkeypatch.setattr(loop, "make_mesh", lambda **_: mesh_of(2))
  settings = dict(
    train__trainable="head",
    train__cache_hidden=str(tmp_path / "states"),
    num_train_steps=1,
    optim__warmup_steps=0,
  )
  for seed in (0, 1):
    config = tiny_run.config(*files, seed=seed, **settings)
    if seed == 0:
      assert loop.train(config, tmp_path / "0", command="") == 0
      continue
    with pytest.raises(UserError, match="frozen_sha256: stored '.*remove this"):
      loop.train(config, tmp_path / "1", command="")
  key = json.loads((tmp_path / "states" / "states.json").read_text())["key"]
  assert key["frozen_layers"] == TINY.layers


def test_nothing_is_frozen_where_all_trains():
  c = base()
  c.data.source, c.train.cache_hidden = "pairs.jsonl", "states"
  with pytest.raises(UserError, match="trainable='all' freezes none"):
    validate(c)
  c.train.trainable = "head"
  validate(c)
