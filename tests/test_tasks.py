"""Several tasks in one run, and what is added to a loss: sums by hand.

Catches: a group that counts for another task, a coefficient on the wrong term,
a mean over all groups instead of the task's own, value targets that cross from
one completion into the next, a regularizer that reads unused slots.
"""

import dataclasses
import functools
import json
import math

import forests
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run

from rm_jax.config import base, task, validate
from rm_jax.inference import RewardModel
from rm_jax.losses import KIND, LOSSES, PARAMETERS
from rm_jax.models.sharding import make_mesh
from rm_jax.objectives import (
  HEAD_OF,
  SUMS,
  LossSpec,
  loss_sums,
  mean_loss,
)
from rm_jax.objectives import weight_sums as sums_of_weights
from rm_jax.reward_model import Outputs
from rm_jax.train import loop
from rm_jax.train.tasks import learned, objective, read_tasks
from rm_jax.types import UserError
from tests.data.fixtures import make_tokenizer


def softplus(x):
  return math.log1p(math.exp(x))


def lay(groups, blocks=1, **how):
  out, _ = forests.batches(
    groups, layout="shared", row_len=32, blocks=blocks, **how
  )
  return out[0]


def placed(batch, owners, values):
  """[N, R, S]: values[group][completion] at each completion's score, else 9."""
  out = np.full(batch.score_where.shape, 9.0, np.float32)
  for n, m in np.argwhere(owners.group >= 0):
    row, slot = divmod(batch.completion_index[n, m], out.shape[-1])
    out[n, row, slot] = values[owners.group[n, m]][owners.completion[n, m]]
  return jnp.asarray(out)


def pair(record, number=0, label=0.0):
  g = forests.group(
    [[1, 10 + record], [1, 20 + record]],
    [1] * 2,
    record=record,
    labels=[1.0, label],
  )
  return g._replace(task=number)


def mean(loss, outputs, batch):
  sums = loss_sums(loss, outputs, batch, dtype="float32")
  return float(mean_loss(loss, sums, sums_of_weights(loss, batch))), sums


# ------------------------------------------------------------ several tasks


@pytest.mark.parametrize("blocks", [1, 2])
def test_each_task_is_a_mean_over_its_own_groups(blocks):
  # Three pairs of the main task, one group of a classification task with a
  # head of its own, one pair of a third task that reads the main head.
  groups = [pair(0), pair(1, 1), pair(2), pair(3, 2), pair(4)]
  batch, owners = lay(groups, blocks)
  main = [(2.0, 1.0), (50.0, -50.0), (0.0, 0.5), (1.0, 3.0), (-1.0, 1.0)]
  own = [(7.0, 8.0), (0.3, -0.7), (7.0, 8.0), (7.0, 8.0), (7.0, 8.0)]
  loss = LossSpec(
    "bradley_terry",
    0.0,
    more=(
      LossSpec(
        "outcome_cross_entropy",
        0.0,
        task="safety",
        head="safety",
        coefficient=0.25,
      ),
      LossSpec("bradley_terry", 0.0, task="other", coefficient=3.0),
    ),
  )
  outputs = Outputs(
    placed(batch, owners, main),
    None,
    None,
    tasks={"safety": placed(batch, owners, own)},
  )
  got, sums = mean(loss, outputs, batch)
  first = [softplus(b - a) for a, b in (main[0], main[2], main[4])]
  second = [softplus(-0.3), softplus(-0.7)]
  third = softplus(main[3][1] - main[3][0])
  want = sum(first) / 3 + 0.25 * sum(second) / 2 + 3.0 * third
  assert got == pytest.approx(want, rel=1e-5)
  assert {k: float(w) for k, (_, w) in sums.items()} == {
    "bradley_terry": 3.0,
    "safety/outcome_cross_entropy": 2.0,
    "other/bradley_terry": 1.0,
  }


def test_a_task_without_groups_in_a_batch_adds_nothing():
  batch, owners = lay([pair(0)])
  loss = LossSpec(
    "bradley_terry",
    0.0,
    more=(LossSpec("hinge", 0.0, task="t", parameters=(("gap", 1.0),)),),
  )
  outputs = Outputs(placed(batch, owners, [(2.0, 1.0)]), None, None)
  assert mean(loss, outputs, batch)[0] == pytest.approx(softplus(-1.0))


# ------------------------------------------------------------- regularizers


def test_regularizers_by_hand():
  three = forests.group([[1, 5], [1, 6], [1, 7]], [1] * 3, record=1)
  batch, owners = lay([pair(0), three])
  values = [(2.0, -1.0), (0.5, 1.5, 4.0)]
  scores = placed(batch, owners, values)
  pooled = jnp.stack([scores, 2 * scores], axis=-1)
  loss = LossSpec(
    "bradley_terry",
    0.0,
    regularizers=(
      ("centering", 0.1),
      ("score_square", 0.2),
      ("group_variance", 0.3),
      ("hidden_square", 0.4),
    ),
  )
  got, _ = mean(loss, Outputs(scores, None, None, pooled=pooled), batch)
  pairs = [(2.0, -1.0)] + [(0.5, 1.5), (0.5, 4.0), (1.5, 4.0)]
  weights = [1.0] + [1 / 3] * 3  # every group weighs 1
  every = [s for group in values for s in group]

  def average(terms):
    return sum(t * w for t, w in zip(terms, weights, strict=True)) / 2

  square = sum(s * s for s in every) / 5
  want = (
    average([softplus(b - a) for a, b in pairs])
    + 0.1 * average([(a + b) ** 2 for a, b in pairs])
    + 0.2 * square
    + 0.3 * (np.var(values[0]) + np.var(values[1])) / 2
    + 0.4 * square * (1 + 4) / 2
  )
  assert got == pytest.approx(want, rel=1e-5)


# ------------------------------------------------------------ value targets


def test_value_targets_stay_within_their_completion():
  # Two completions of different length in one row; the label is the reward
  # after the last token. A slow loop per completion.
  group = forests.group(
    [[1, 2, 3, 4, 5], [1, 2, 6]],
    [1, 1],
    labels=[1.0, 0.25],
    pooling="every_token",
  )
  batch, owners = lay([group, pair(1, label=0.5)])
  rng = np.random.default_rng(0)
  scores = jnp.asarray(rng.normal(size=batch.score_where.shape), jnp.float32)
  discount, trace = 0.9, 0.6
  for name in ("squared_error", "outcome_cross_entropy"):
    loss = LossSpec(name, 0.0, discount=discount, trace=trace)
    got, _ = mean(loss, Outputs(scores, None, None), batch)
    total = weight = 0.0
    for n, m in np.argwhere(owners.group >= 0):
      mine = batch.score_where[n] & (batch.slot_completion[n] == m)
      z = np.asarray(scores[n], np.float64)[mine]
      y, w = batch.labels[n][mine][-1], batch.weight[n][mine]
      v = z if name == "squared_error" else 1 / (1 + np.exp(-z))
      target = np.zeros(len(z))
      target[-1] = y
      for t in range(len(z) - 2, -1, -1):
        target[t] = discount * ((1 - trace) * v[t + 1] + trace * target[t + 1])
      if name == "squared_error":
        losses = (z - target) ** 2
      else:
        losses = np.log1p(np.exp(z)) - target * z
      total, weight = total + (losses * w).sum(), weight + w.sum()
    assert got == pytest.approx(total / weight, rel=1e-4)


def test_a_value_target_lets_no_gradient_through():
  group = forests.group(
    [[1, 2, 3, 4]], [1], labels=[1.0], pooling="every_token"
  )
  batch, _ = lay([group])
  scores = jnp.full(batch.score_where.shape, 0.5)
  loss = LossSpec("squared_error", 0.0, discount=1.0, trace=0.0)

  def f(s):
    sums = loss_sums(loss, Outputs(s, None, None), batch, dtype="float32")
    return mean_loss(loss, sums, sums_of_weights(loss, batch))

  # Every target is 0.5, the next value, but the last, which is the label.
  got = jax.grad(f)(scores)
  want = np.where(np.arange(3) == 2, 2 * (0.5 - 1.0) / 3, 0.0)
  np.testing.assert_allclose(got[batch.score_where], want, atol=1e-6)


# ------------------------------------------------------------ from a config


def config_with(**changes):
  c = base()
  c.data.source = "a.jsonl"
  c.update_from_flattened_dict(
    {key.replace("__", "."): value for key, value in changes.items()}
  )
  return c


def test_a_config_with_a_task_gives_both():
  c = config_with(loss__name="davidson", loss__centering=0.01)
  c.tasks.safety = task()
  c.tasks.safety.source = "b.jsonl"
  c.tasks.safety.coefficient = 0.5
  c.tasks.safety.model.head = "biased_scalar"
  c.tasks.safety.loss.name = "outcome_cross_entropy"
  validate(c)
  tasks = read_tasks(c)
  assert [t.name for t in tasks] == ["", "safety"]
  assert [t.supervision.task for t in tasks] == [0, 1]
  assert [t.supervision.ties for t in tasks] == [True, False]
  assert tasks[1].head.kind == "biased_scalar"
  assert objective(tasks).coefficients == {
    "davidson": 1.0,
    "centering": 0.01,
    "safety/outcome_cross_entropy": 0.5,
  }
  assert learned(tasks) == (("", "log_tie", 0.0),)


BAD = [
  (dict(loss__name="hinge"), r"config\.loss\.gap is not set, but loss 'hinge'"),
  (dict(loss__gap=1.0), r"gap=1\.0 is not read by .*only by hinge, square"),
  (dict(loss__margin="llama2_small"), "is not read by loss 'bradley_terry'"),
  (dict(loss__discount=0.9), r"discount=0\.9 and .*trace=None: set both"),
  (dict(loss__discount=2.0, loss__trace=1.0), r"discount=2\.0 must be in"),
  (
    dict(loss__discount=1.0, loss__trace=1.0),
    "is of a value at every token, but .*last_token",
  ),
  (dict(loss__centering=-1.0), "centering=-1.0 must be 0 or more"),
  (
    dict(
      loss__name="two_hot",
      model__head="bins",
      loss__low=1.0,
      loss__high=0.0,
      loss__bins=3,
    ),
    "low=1.0, high=0.0, bins=3 give no centers",
  ),
  (
    dict(model__attributes=("a",)),
    r"attributes=\('a',\) and config\.model\.head='scalar'",
  ),
  (
    dict(model__head="attributes", loss__name="squared_error"),
    r"attributes=\(\) and config\.model\.head='attributes'",
  ),
  (
    dict(
      model__head="attributes",
      model__attributes=("a",),
      loss__name="bradley_terry",
    ),
    "reads one number per completion",
  ),
  (
    dict(
      model__head="attributes",
      model__attributes=("a", "b"),
      model__attribute_weights=(1.0,),
      loss__name="squared_error",
    ),
    "must be one number for each of the 2",
  ),
  (
    dict(
      model__head="attributes",
      model__attributes=("a",),
      loss__name="squared_error",
      loss__score_square=0.1,
    ),
    "score_square is of one score per completion",
  ),
  (
    dict(loss__name="christiano_mixture", loss__noise=1.5),
    r"noise in \[0, 1\), got 1\.5",
  ),
  (
    dict(
      loss__name="hl_gauss",
      model__head="bins",
      loss__low=0.0,
      loss__high=1.0,
      loss__bins=3,
      loss__sigma=-1.0,
    ),
    "expected sigma > 0, got -1",
  ),
  (dict(model__verdict="yes"), r"verdict='yes' and config\.model\.head="),
  (dict(loss__name="centering"), "of kind 'regularizer', which is added"),
]


@pytest.mark.parametrize("changes, message", BAD)
def test_what_does_not_fit_is_said(changes, message):
  with pytest.raises(UserError, match=message):
    read_tasks(config_with(**changes))


@pytest.mark.parametrize(
  "name, changes, message",
  [
    ("safety", {}, r"config\.tasks\.safety\.source is empty"),
    ("t", dict(source="x", weight=0.0), r"tasks\.t\.weight=0\.0 must be above"),
    ("t", dict(source="x", coefficient=-1.0), "coefficient=-1.0 must be above"),
  ],
)
def test_a_task_is_checked_before_any_file_is_read(name, changes, message):
  c = config_with()
  c.tasks[name] = task()
  c.tasks[name].update(changes)
  with pytest.raises(UserError, match=message):
    validate(c)


def test_names_and_weights_of_tasks_and_sources():
  c = config_with()
  c.tasks["main"] = task()
  c.tasks["main"].source = "x"
  with pytest.raises(UserError, match="a name of letters and digits that is"):
    read_tasks(c)
  for weights in ((1.0,), (1.0, 0.0)):
    with pytest.raises(UserError, match="one for each of the 2 places"):
      validate(config_with(data__source="a,b", data__weights=weights))
  (got,) = read_tasks(config_with(data__source="a,b", data__weights=(1.0, 3.0)))
  assert got.sources == (("a", 1.0), ("b", 3.0))


# --------------------------------------------------------------- whole runs


@pytest.fixture
def one_device(monkeypatch):
  one = functools.partial(make_mesh, devices=jax.devices()[:1])
  monkeypatch.setattr(loop, "make_mesh", one)


def run(c, workdir):
  assert loop.train(c, workdir, command="rm-jax train") == 0
  rows = [json.loads(x) for x in (workdir / "metrics.jsonl").open()]
  return rows, json.loads((workdir / "results.json").read_text())


def outcomes(count):
  return [
    {
      "prompt": f"{row['prompt']} safe ?",
      "completion": row["chosen"],
      "label": n % 2,
    }
    for n, row in enumerate(tiny_run.pairs(count, seed=5))
  ]


@pytest.mark.slow
def test_a_run_of_two_tasks_measures_both(tmp_path, one_device):
  # Llama 2's auxiliary: a head of its own, drawn twice as often.
  folder = tiny_run.write_tokenizer(tmp_path, make_tokenizer())
  data = tiny_run.write_rows(tmp_path / "pairs.jsonl", tiny_run.pairs(30))
  safe = tiny_run.write_rows(tmp_path / "safe.jsonl", outcomes(30))
  c = tiny_run.config(data, folder, data__groups_per_batch=6)
  c.tasks.safety = task()
  c.tasks.safety.source = str(safe)
  c.tasks.safety.weight = 2.0
  c.tasks.safety.model.head = "biased_scalar"
  c.tasks.safety.model.head_init = "small"
  c.tasks.safety.loss.name = "outcome_cross_entropy"
  rows, results = run(c, tmp_path / "run")
  assert {"loss/bradley_terry", "loss/safety/outcome_cross_entropy"} <= (
    rows[1].keys()
  )
  assert {"accuracy", "safety/label_accuracy"} <= results["metrics"].keys()
  assert results["metrics"]["safety/label_accuracy"]["n"] > 3
  counts = results["counts"]
  assert counts["safety/train_groups"] + counts["safety/test_groups"] == 30


def test_a_loss_with_a_learnt_tie_learns_it(tmp_path, one_device):
  folder = tiny_run.write_tokenizer(tmp_path, make_tokenizer())
  rows = [
    {
      "prompt": row["prompt"],
      "completions": [row["chosen"], row["rejected"]],
      "ranks": [0, n % 2],
    }
    for n, row in enumerate(tiny_run.pairs(40))
  ]
  data = tiny_run.write_rows(tmp_path / "ties.jsonl", rows)
  c = tiny_run.config(
    data, folder, loss__name="davidson", optim__lr=0.05, num_train_steps=6
  )
  rows, results = run(c, tmp_path / "run")
  ties = [row["learned/main/log_tie"] for row in rows[1:]]
  # Half of all comparisons are ties: more than nu = 1 gives equal scores.
  assert ties[-1] > ties[0] > 0
  # A tie is no comparison that accuracy could count.
  assert results["metrics"]["accuracy"]["n"] < results["counts"]["test_groups"]


def test_attributes_with_missing_ratings_are_measured_one_by_one(
  tmp_path, one_device
):
  folder = tiny_run.write_tokenizer(tmp_path, make_tokenizer())
  rows = [
    {
      "prompt": row["prompt"],
      "completions": [row["chosen"]],
      "ratings": [{"helpful": n % 5, "brief": None if n % 2 else n % 3}],
    }
    for n, row in enumerate(tiny_run.pairs(40))
  ]
  data = tiny_run.write_rows(tmp_path / "rated.jsonl", rows)
  c = tiny_run.config(
    data,
    folder,
    loss__name="squared_error",
    model__head="attributes",
    model__attributes=("helpful", "brief"),
  )
  _, results = run(c, tmp_path / "run")
  metrics = results["metrics"]
  whole = metrics["squared_error"]["n"]
  each = [metrics[f"squared_error/{a}"]["n"] for a in ("helpful", "brief")]
  assert sum(each) == whole and each[0] > each[1] > 0

  # A completion's score is the mean of its attributes, of each its own output.
  model = RewardModel.load(tmp_path / "run")
  ask = ("Who wrote this ?", ["A poet .", "Nobody .", "Be kind . A poet ."])
  rated = model.score_attributes(*ask)
  assert rated.shape == (3, 2) and np.abs(rated[:, 0] - rated[:, 1]).min() > 0
  np.testing.assert_allclose(rated.mean(axis=1), model.score(*ask), rtol=1e-5)
  plain = dataclasses.replace(
    model,
    spec=dataclasses.replace(
      model.spec, head=dataclasses.replace(model.spec.head, kind="scalar")
    ),
  )
  with pytest.raises(UserError, match="a head of kind 'scalar', attributes"):
    plain.score_attributes(*ask)


@pytest.mark.parametrize("name", sorted(n for n in LOSSES if KIND[n] in SUMS))
def test_every_loss_can_be_named_in_a_config(name):
  # Wrong: a loss in the table that no config can train.
  values = dict(
    top=1,
    smoothing=0.1,
    noise=0.1,
    temperature=0.5,
    gap=1.0,
    gamma=2.0,
    low=0.0,
    high=1.0,
    bins=5,
    sigma=0.2,
  )
  changes = {f"loss__{p}": values[p] for p in PARAMETERS[name]}
  head = HEAD_OF.get(name, "scalar")
  pooling = "step_ends" if KIND[name] == "process" else "last_token"
  (got,) = read_tasks(
    config_with(
      loss__name=name, model__head=head, model__pooling=pooling, **changes
    )
  )
  assert got.loss.name == name


@pytest.mark.slow
def test_several_tasks_are_the_same_on_eight_devices(tmp_path, monkeypatch):
  # Wrong: a task's mean taken per device, a learnt tie that each device has.
  folder = tiny_run.write_tokenizer(tmp_path, make_tokenizer())
  ties = [
    {
      "prompt": row["prompt"],
      "completions": [row["chosen"], row["rejected"]],
      "ranks": [0, n % 2],
    }
    for n, row in enumerate(tiny_run.pairs(40))
  ]
  data = tiny_run.write_rows(tmp_path / "ties.jsonl", ties)
  safe = tiny_run.write_rows(tmp_path / "safe.jsonl", outcomes(30))
  found = {}
  for name, parallel, devices in (
    ("one", "pjit", 1),
    ("pjit", "pjit", 8),
    ("pmap", "pmap", 8),
  ):
    mesh = functools.partial(make_mesh, devices=jax.devices()[:devices])
    monkeypatch.setattr(loop, "make_mesh", mesh)
    c = tiny_run.config(
      data,
      folder,
      loss__name="davidson",
      loss__centering=0.1,
      loss__hidden_square=0.01,
      parallel=parallel,
      data__blocks=8,
      data__groups_per_batch=12,
    )
    c.tasks.safety = task()
    c.tasks.safety.source = str(safe)
    c.tasks.safety.model.head = "biased_scalar"
    c.tasks.safety.loss.name = "outcome_cross_entropy"
    loop.train(c, tmp_path / name, command="rm-jax train")
    found[name] = tiny_run.rows_without_times(tmp_path / name)
  assert "learned/main/log_tie" in found["one"][-1]
  for name in ("pjit", "pmap"):
    for ours, want in zip(found[name], found["one"], strict=True):
      assert ours == pytest.approx(want, rel=1e-4, abs=1e-5)
