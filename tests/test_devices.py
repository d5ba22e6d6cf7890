"""One batch, any devices: equal scores, losses, gradients and train steps.

Catches: a gradient psum'ed inside the differentiated function (times the
number of devices), a mean of micro-batch means, an index that only counts in
one layout of blocks, a parameter cut so that a product loses terms, a plan or
an evaluation that depends on how many devices there are.
"""

import dataclasses
import functools

import forests
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rm_jax.config import base
from rm_jax.data.loader import Dataset
from rm_jax.data.pack import Geometry, grow
from rm_jax.data.plan import demand, make_eval_plan
from rm_jax.models.sharding import make_mesh
from rm_jax.models.sizes import SIZES
from rm_jax.objectives import LossSpec, loss_sums, mean_loss, weight_sums
from rm_jax.reward_model import HeadSpec, ModelSpec, forward, init_params
from rm_jax.train.evaluate import score_dataset
from rm_jax.train.optim import make_optimizer, make_schedule
from rm_jax.train.step import TrainState, make_steps
from rm_jax.types import UserError

TINY = SIZES["tiny"]
SPEC = ModelSpec(
  TINY,
  HeadSpec("scalar", "unit", "last_token"),
  "float32",
  False,
  (TINY.layers,),
)
LOSS = LossSpec("all_pairs", 0.3)  # two terms with weights of their own
ROWS, BLOCKS = 8, 8
WIDE = Geometry(
  row_len=64,
  blocks=BLOCKS,
  slots=64,
  comparisons=64,
  groups=8,
  group_size=9,
  completions=24,
  align=1,
)


@functools.cache
def groups():
  """K = 1 .. 7 and a tree, in an order that is not that of their sizes."""
  made = forests.ragged_groups(language=True)[:7]
  made.append(forests.forked_group(record=7, language=True))
  weights = np.random.default_rng(1).uniform(0.2, 3.0, len(made))
  return [
    g._replace(weight=float(w)) for g, w in zip(made, weights, strict=True)
  ]


@functools.cache
def start_params():
  return jax.device_get(init_params(SPEC, jax.random.key(0)))


def lay(chosen=None, layout="shared", row_len=64):
  chosen = groups() if chosen is None else chosen
  return forests.batches(
    chosen,
    layout=layout,
    row_len=row_len,
    blocks=BLOCKS,
    rows=ROWS,
    geometry=WIDE._replace(row_len=row_len),
  )[0][0][0]


@functools.cache
def optimizer():
  c = base().optim
  # eps: Adam divides by the gradient's own size, so where a gradient is
  # rounding noise the step would be noise of size lr.
  c.lr, c.warmup_steps, c.eps, c.clip_norm = 1e-3, 1, 1e-3, 0.0
  schedule = make_schedule(c, 3)
  return make_optimizer(c, schedule), schedule


WAYS = {
  "one": (dict(data=1, fsdp=1, tensor=1), "pjit", 1),
  "data8": (dict(data=8, fsdp=1, tensor=1), "pjit", 1),
  "data2fsdp2tensor2": (dict(data=2, fsdp=2, tensor=2), "pjit", 2),
  "pmap8": (dict(data=8, fsdp=1, tensor=1), "pmap", 1),
  "one_accumulate4": (dict(data=1, fsdp=1, tensor=1), "pjit", 4),
  "pmap2_accumulate4": (dict(data=2, fsdp=1, tensor=1), "pmap", 4),
}
QUICK = ("data2fsdp2tensor2", "pmap8")  # the others: make slow


@functools.cache
def steps_of(way):
  shape, parallel, accumulate = WAYS[way]
  count = shape["data"] * shape["fsdp"] * shape["tensor"]
  mesh = make_mesh(**shape, devices=jax.devices()[:count])
  return make_steps(
    SPEC,
    LOSS,
    *optimizer(),
    trainable="all",
    accumulate=accumulate,
    parallel=parallel,
    mesh=mesh,
  )


def first_state():
  params = start_params()
  return TrainState(
    np.int32(0),
    np.int32(0),
    params,
    jax.device_get(optimizer()[0].init(params)),
  )


def run(way, batch):
  """Everything that must be equal, as one tree of numpy arrays."""
  steps = steps_of(way)
  state = steps.put_state(first_state())
  scores = steps.evaluate(
    state.params, steps.put_frozen({}), steps.put_batch(batch)
  )
  logged, states = [], []
  for _ in range(3):
    state, metrics = steps.train(
      state, steps.put_frozen({}), steps.put_batch(batch)
    )
    logged.append({k: metrics[k] for k in ("loss", "grad_norm", "terms")})
    states.append(jax.device_get(steps.stored(state)))
  # After one step Adam's first moment is (1 - b1) times the gradient.
  gradient = states[0].opt_state[0][0].mu
  return jax.device_get(
    dict(
      sums=scores[2],
      logged=logged,
      gradient=gradient,
      params=states[2].params,
      opt_state=states[2].opt_state,
    )
  ), np.asarray(scores[0])


@functools.cache
def reference():
  return run("one", lay())


def assert_same(got, want, limit=1e-5):
  def close(path, x, y):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    worst, size = np.abs(x - y).max(), np.abs(y).max()
    where = jax.tree_util.keystr(path)
    assert worst <= limit * max(size, 1e-30), (where, worst, size)

  jax.tree_util.tree_map_with_path(close, got, want)


def test_the_reference_learns_something():
  # A gradient of zero, or of one term only, would agree with anything.
  tree, _ = reference()
  for name, leaf in tree["gradient"]["backbone"]["layers_0"]["attn"].items():
    assert np.abs(leaf["kernel"]).max() > 1e-6, name
  losses = [float(x["loss"]) for x in tree["logged"]]
  assert losses[2] < losses[1] < losses[0]
  assert float(tree["logged"][0]["terms"]["next_token_cross_entropy"][1]) > 50


def test_the_reference_gradient_is_that_of_the_formula():
  # Independent of the step: autodiff of sum / W, on one device.
  batch = jax.tree.map(jnp.asarray, lay())

  def objective(params):
    sums = loss_sums(
      LOSS, forward(SPEC, params, batch, language=True), batch, dtype="float32"
    )
    return mean_loss(LOSS, sums, weight_sums(LOSS, batch))

  value, gradient = jax.jit(jax.value_and_grad(objective))(start_params())
  tree, _ = reference()
  b1 = base().optim.b1
  scaled = jax.tree.map(lambda g: g * np.float32(1 - b1), gradient)
  assert_same(tree["gradient"], scaled)
  np.testing.assert_allclose(tree["logged"][0]["loss"], value, rtol=1e-6)
  np.testing.assert_allclose(
    tree["logged"][0]["grad_norm"], optax.tree.norm(gradient), rtol=1e-5
  )


@pytest.mark.parametrize(
  "way",
  [
    way if way in QUICK else pytest.param(way, marks=pytest.mark.slow)
    for way in WAYS
    if way != "one"
  ],
)
def test_devices_and_micro_batches_change_nothing(way):
  tree, scores = run(way, lay())
  want, want_scores = reference()
  assert_same(scores, want_scores)
  assert_same(tree, want)


def test_the_pmap_gradient_is_not_multiplied_by_the_devices():
  # Wrong: psum inside the function that is differentiated. grad_norm would be
  # 8 times that of one device, and Adam would hide it.
  got = run("pmap8", lay())[0]["logged"][0]["grad_norm"]
  want = reference()[0]["logged"][0]["grad_norm"]
  np.testing.assert_allclose(got, want, rtol=1e-5)
  assert not np.isclose(8 * got, want)


def test_blocks_may_stand_in_any_order():
  order = np.random.default_rng(0).permutation(BLOCKS)
  batch = jax.tree.map(lambda x: x[order], lay())
  for way in ("one", "data8", "one_accumulate4"):
    tree, scores = run(way, batch)
    want, want_scores = reference()
    assert_same(tree, want)
    assert_same(scores, want_scores[order])


@pytest.mark.parametrize(
  "change",
  [
    dict(chosen="reversed"),
    dict(layout="packed"),
    dict(layout="padded"),
    dict(row_len=128),
  ],
  ids=str,
)
def test_how_groups_are_laid_changes_nothing(change):
  if change.get("chosen"):
    change = dict(chosen=groups()[::-1])
  tree, _ = run("one", lay(**change))
  assert_same(tree, reference()[0])


def dataset(layout):
  pieces = [grow(g, layout=layout, row_len=64, align=1) for g in groups()]
  demands = [demand(g, p) for g, p in zip(groups(), pieces, strict=True)]
  return Dataset(groups(), demands, [], [], {}, 0, 0, (0, 0))


@functools.cache
def one_at_a_time():
  """({record: scores}, {term: (sum, weight)}) by a plain loop, no packing."""
  params = start_params()

  @jax.jit
  def score(batch):
    outputs = forward(SPEC, params, batch, language=True)
    return outputs.scores, loss_sums(LOSS, outputs, batch, dtype="float32")

  scores, sums = [], {t: np.zeros(2) for t in LOSS.coefficients}
  wide = WIDE._replace(blocks=1, slots=64)
  for g in groups():
    batch, owners = forests.batches(
      [g], layout="padded", row_len=64, blocks=1, rows=ROWS, geometry=wide
    )[0][0]
    by_slot, terms = jax.device_get(score(jax.tree.map(jnp.asarray, batch)))
    flat = by_slot.reshape(-1)
    count = len(g.tokens)
    scores.append(flat[batch.completion_index[0, :count]])
    for term, pair in terms.items():
      sums[term] += np.asarray(pair, np.float64)
    assert (owners.completion[0, :count] == np.arange(count)).all()
  return scores, sums


@pytest.mark.parametrize(
  "way, layout, blocks, rows",
  [
    ("one", "shared", 1, 1),
    ("one", "padded", 2, 4),
    ("data8", "shared", 8, 1),
    ("pmap8", "packed", 8, 2),
  ],
)
def test_a_full_evaluation_is_a_sum_over_groups(way, layout, blocks, rows):
  # Wrong: a mean of batch means, a dropped last batch, repeated padding.
  data, steps = dataset(layout), steps_of(way)
  plan = make_eval_plan(
    data.demands, blocks=blocks, rows=rows, row_len=64, layout=layout, align=1
  )
  params = steps.put_state(first_state()).params

  def evaluate(batch):
    return jax.device_get(
      steps.evaluate(params, steps.put_frozen({}), steps.put_batch(batch))
    )

  scored = score_dataset(evaluate, data, plan)
  scores, sums = one_at_a_time()
  assert_same(scored.completions, scores)
  assert scored.sums.keys() == sums.keys()
  for term, (total, weight) in scored.sums.items():
    np.testing.assert_allclose(total, sums[term][0], rtol=1e-5)
    np.testing.assert_allclose(weight, sums[term][1], rtol=1e-6)


def test_a_mesh_that_cuts_unevenly_is_refused():
  shape = dict(data=2, fsdp=1, tensor=4)  # 2 key heads x 16 = 32, mlp 48
  mesh = make_mesh(**shape)
  uneven = SPEC.decoder.__class__(**{**vars(SPEC.decoder), "vocab_size": 95})
  with pytest.raises(UserError, match=r"tensor=4 does not divide .* of 95"):
    make_steps(
      dataclasses.replace(SPEC, decoder=uneven),
      LOSS,
      *optimizer(),
      trainable="all",
      accumulate=1,
      parallel="pjit",
      mesh=mesh,
    )


def test_pmap_refuses_a_mesh_that_cuts_parameters():
  with pytest.raises(UserError, match=r"config\.mesh\.fsdp=2 would cut them"):
    make_steps(
      SPEC,
      LOSS,
      *optimizer(),
      trainable="all",
      accumulate=1,
      parallel="pmap",
      mesh=make_mesh(data=4, fsdp=2, tensor=1),
    )


def test_an_unknown_way_to_run_in_parallel_is_refused():
  with pytest.raises(UserError, match=r"parallel='xmap' is not known.*pjit"):
    make_steps(
      SPEC,
      LOSS,
      *optimizer(),
      trainable="all",
      accumulate=1,
      parallel="xmap",
      mesh=make_mesh(data=8, fsdp=1, tensor=1),
    )
