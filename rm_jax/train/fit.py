"""A small run in memory: token groups in, scores out, no files.

The path is that of `loop.train` from token groups on: plan, packed batches, the
train step, the evaluation step. What is left out is what makes a long run safe:
checkpoints, logs, a workdir. One device, since such runs stand beside each
other, one per process.
"""

import dataclasses
import functools
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from rm_jax.config import validate
from rm_jax.data.loader import Dataset, lay_step
from rm_jax.data.pack import Geometry
from rm_jax.data.plan import Plan
from rm_jax.models.sharding import make_mesh
from rm_jax.models.sizes import SIZES
from rm_jax.reward_model import ModelSpec, init_params
from rm_jax.train.evaluate import Scored, score_dataset
from rm_jax.train.init import RANDOM, make_spec
from rm_jax.train.optim import make_optimizer, make_schedule
from rm_jax.train.sets import dropout_seed, score_plan, train_plan
from rm_jax.train.step import Steps, TrainState, make_steps
from rm_jax.train.tasks import objective, read_tasks


class Fitted(NamedTuple):
  """What a run gave."""

  scored: Scored | None  # of the evaluation set, at the end
  more: dict  # name -> Scored of further sets, at the end
  curve: list  # of (train step, Scored of the curve's set)
  losses: list  # of every train step
  params: dict  # at the end, numpy
  tokens: int  # computed in training, padding left out
  completions: int  # forward passes of completions in training


class Run(NamedTuple):
  """What `fit` is called with; it says what each is."""

  config: ConfigDict
  train: Dataset
  test: Dataset | None
  vocabulary: int
  parts: list | None = None
  more: dict[str, Dataset] | None = None
  curve: Dataset | None = None
  every: int = 0
  start: dict | None = None


def fit(
  config,
  train: Dataset,
  test: Dataset | None,
  *,
  vocabulary: int,
  parts: list | None = None,
  more: dict[str, Dataset] | None = None,
  curve: Dataset | None = None,
  every: int = 0,
  start: dict | None = None,
) -> Fitted:
  """Trains one reward model on token groups and scores `test`.

  Args:
    config: of rm_jax.config.base; config.init.from is "random:NAME".
    test: None: nothing is scored at the end.
    vocabulary: how many token ids there are.
    parts: of `make_plan`: groups of several tasks.
    more: further sets that are scored at the end, by name.
    curve: scored every `every` train steps, and at the end.
    start: parameters of an earlier run; None: drawn from config.seed.
  """
  run = Run(config, train, test, vocabulary, parts, more, curve, every, start)
  return fit_together([run])[0]


def program(run: Run) -> tuple:
  """Equal where runs differ in seed, learning rate, data and start at most."""
  written = run.config.to_dict() | {"seed": None}
  written["optim"] = written["optim"] | {"lr": None}
  known = json.dumps(written, sort_keys=True)
  return known, run.vocabulary, run.curve is None, run.every


def fit_together(runs: list[Run]) -> list[Fitted]:
  """`fit` of each run, trained side by side by one vmapped train step.

  What parts them is data, stacked on a leading axis: parameters, optimizer
  state (the learning rate is in it), batches (dropout ids are in them). One
  compilation serves any seeds. Evaluation sets differ in size, so scores are
  computed run after run, by the evaluation step of one.

  Args:
    runs: of one `program`. One run alone takes the plain train step.
  """
  assert len({program(run) for run in runs}) == 1
  for run in runs:
    validate(run.config)
  c, alone = runs[0].config, len(runs) == 1
  spec = spec_of(c, runs[0].vocabulary)
  steps = compiled_steps(c, spec, objective(read_tasks(c)))
  plans = [train_plan(r.config, r.train.demands, r.parts) for r in runs]
  states, frozen = [_first_state(steps, spec, r) for r in runs], {}
  if alone:
    state, take = states[0], steps.train
  else:
    plans, take = _in_one_shape(plans), steps.together
    # As numpy: on the device each stack would be a compilation of its own. Put
    # where the step puts it: it is compiled anew for arrays from elsewhere.
    whole = _stacked(jax.device_get(states))
    state = jax.device_put(whole, states[0].step.sharding)

  def scorers() -> list:
    """Dataset -> Scored, one per run, by the parameters of now."""
    own = [state.params]
    if not alone:
      own = jax.device_put(_parted(state.params, len(runs)))
    return [functools.partial(_score, c, steps, p, frozen) for p in own]

  losses, drawn = [], [[] for _ in runs]
  tokens, completions = [0 for _ in runs], [0 for _ in runs]
  for step in range(1, c.num_train_steps + 1):
    batches = []
    for n, (run, plan) in enumerate(zip(runs, plans, strict=True)):
      masks = dropout_seed(run.config)
      batch, owners, counts = lay_step(run.train, plan, step - 1, dropout=masks)
      batches.append(batch)
      tokens[n] += counts["useful_tokens"]
      completions[n] += int((owners.group >= 0).sum())
    # Numpy as it is: `put_batch` takes ten times as long as what jit does with
    # the arrays by itself, which for one device is the same.
    batch = batches[0] if alone else _stacked(batches)
    state, out = take(state, frozen, batch)
    losses.append(out["loss"])
    if runs[0].curve is not None and (
      step % runs[0].every == 0 or step == c.num_train_steps
    ):
      for run, score, own in zip(runs, scorers(), drawn, strict=True):
        own.append((step, score(run.curve)))
  losses = np.reshape(jax.device_get(losses), (-1, len(runs))).T.tolist()
  params = [jax.device_get(state.params)]
  if not alone:
    params = _parted(state.params, len(runs))
  fitted = []
  for n, (run, score) in enumerate(zip(runs, scorers(), strict=True)):
    others = {name: score(data) for name, data in (run.more or {}).items()}
    scored = None if run.test is None else score(run.test)
    told = (scored, others, drawn[n], losses[n], params[n])
    fitted.append(Fitted(*told, tokens[n], completions[n]))
  return fitted


def _first_state(steps: Steps, spec: ModelSpec, run: Run) -> TrainState:
  if run.start is None:
    params = init_params(spec, jax.random.key(run.config.seed))
  else:
    # A copy: the train step overwrites what it is given.
    params = jax.tree.map(np.array, run.start)
  return with_rate(steps.first_state(params), run.config.optim.lr)


def _score(config, steps: Steps, params, frozen, data: Dataset) -> Scored:
  def run(batch):
    return jax.device_get(steps.evaluate(params, frozen, batch))

  return score_dataset(run, data, score_plan(config, data.demands))


def _in_one_shape(plans: list[Plan]) -> list[Plan]:
  """The same batches, each in a shape that takes all of them.

  Padding has weight 0. A seed may have drawn longer solutions than another, or
  groups that take more rows.
  """
  geometry = Geometry(*map(max, zip(*(p.geometry for p in plans), strict=True)))
  rows = max(count for p in plans for count in p.row_counts)
  return [
    Plan(tuple(s._replace(rows=rows) for s in p.steps), geometry, (rows,))
    for p in plans
  ]


def _stacked(trees: list):
  """Trees of numpy arrays as one, on a leading axis."""
  return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _parted(tree, count: int) -> list:
  """The inverse of `_stacked`, also for arrays on the device."""
  tree = jax.device_get(tree)
  return [jax.tree.map(lambda x, n=n: x[n], tree) for n in range(count)]


def spec_of(config, vocabulary: int) -> ModelSpec:
  """The reward model of a run on token groups."""
  name = config.init["from"].removeprefix(RANDOM)
  decoder = dataclasses.replace(SIZES[name], vocab_size=vocabulary)
  return make_spec(config, decoder, None)


def compiled_steps(config, spec: ModelSpec, loss) -> Steps:
  """The step functions of a run: those of any other learning rate, too."""
  optim = config.optim.to_dict() | {"lr": 1.0}  # see `with_rate`
  named = json.dumps(optim, sort_keys=True)
  return _steps(spec, loss, named, config.num_train_steps)


def with_rate(state: TrainState, rate: float) -> TrainState:
  """The state of step 0 of `compiled_steps`, at a learning rate."""
  opt_state = optax.tree.set(state.opt_state, learning_rate=jnp.float32(rate))
  return state._replace(opt_state=opt_state)


@functools.lru_cache(maxsize=64)  # a tuning's losses by their train steps
def _steps(spec, loss, optim: str, num_train_steps: int) -> Steps:
  """Compiled once for all runs of a process that differ in data, seed, rate.

  The learning rate is the last factor of an update and lies in the optimizer's
  state, as data: as a constant each would be compiled anew, which takes as long
  as a job.
  """
  c = ConfigDict(json.loads(optim))
  schedule = make_schedule(c, num_train_steps)
  # scale, not scale_by_learning_rate: the chain has the sign already.
  scale = optax.inject_hyperparams(
    lambda learning_rate: optax.scale(learning_rate)
  )
  return make_steps(
    spec,
    loss,
    optax.chain(make_optimizer(c, schedule), scale(learning_rate=1.0)),
    schedule,
    trainable="all",
    accumulate=1,
    parallel="pjit",
    mesh=make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1]),
  )
