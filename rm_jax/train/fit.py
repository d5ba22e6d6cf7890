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
from rm_jax.models.sharding import make_mesh
from rm_jax.models.sizes import SIZES
from rm_jax.reward_model import ModelSpec, init_params
from rm_jax.train.evaluate import Scored, score_dataset
from rm_jax.train.init import RANDOM, make_spec
from rm_jax.train.optim import make_optimizer, make_schedule, split_trainable
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
  validate(config)
  spec = spec_of(config, vocabulary)
  loss = objective(read_tasks(config))
  plan = train_plan(config, train.demands, parts)
  steps = compiled_steps(config, spec, loss)
  if start is None:
    params = init_params(spec, jax.random.key(config.seed))
  else:
    # A copy: the train step overwrites what it is given.
    params = jax.tree.map(np.array, start)
  trained, frozen = split_trainable(params, "all")
  state = with_rate(steps.first_state(trained), config.optim.lr)
  frozen = steps.put_frozen(frozen)

  def score(data):
    laid = score_plan(config, data.demands)

    def run(batch):
      return jax.device_get(steps.evaluate(state.params, frozen, batch))

    return score_dataset(run, data, laid)

  masks = dropout_seed(config)
  losses, drawn, tokens, completions = [], [], 0, 0
  for step in range(1, config.num_train_steps + 1):
    batch, owners, counts = lay_step(train, plan, step - 1, dropout=masks)
    # Numpy as it is: `put_batch` takes ten times as long as what jit does with
    # the arrays by itself, which for one device is the same.
    state, out = steps.train(state, frozen, batch)
    losses.append(out["loss"])
    tokens += counts["useful_tokens"]
    completions += int((owners.group >= 0).sum())
    if curve is not None and (
      step % every == 0 or step == config.num_train_steps
    ):
      drawn.append((step, score(curve)))
  losses = [float(x) for x in jax.device_get(losses)]
  others = {name: score(data) for name, data in (more or {}).items()}
  last = jax.device_get(state.params)
  scored = None if test is None else score(test)
  return Fitted(scored, others, drawn, losses, last, tokens, completions)


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
