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
import numpy as np

from rm_jax.config import validate
from rm_jax.data.loader import Dataset, lay_step
from rm_jax.models.sharding import make_mesh
from rm_jax.models.sizes import SIZES
from rm_jax.reward_model import ModelSpec, init_params
from rm_jax.train.evaluate import Scored, score_dataset
from rm_jax.train.init import RANDOM, make_spec
from rm_jax.train.optim import make_optimizer, make_schedule, split_trainable
from rm_jax.train.sets import score_plan, train_plan
from rm_jax.train.step import Steps, make_steps
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
  optim = json.dumps(config.optim.to_dict(), sort_keys=True)
  steps = _steps(spec, loss, optim, config.num_train_steps)
  if start is None:
    params = init_params(spec, jax.random.key(config.seed))
  else:
    # A copy: the train step overwrites what it is given.
    params = jax.tree.map(np.array, start)
  trained, frozen = split_trainable(params, "all")
  state = steps.first_state(trained)
  frozen = steps.put_frozen(frozen)

  def score(data):
    laid = score_plan(config, data.demands)

    def run(batch):
      out = steps.evaluate(state.params, frozen, steps.put_batch(batch))
      return jax.device_get(out)

    return score_dataset(run, data, laid)

  losses, drawn, tokens, completions = [], [], 0, 0
  for step in range(1, config.num_train_steps + 1):
    batch, owners, counts = lay_step(train, plan, step - 1)
    state, out = steps.train(state, frozen, steps.put_batch(batch))
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


def _optimizer(optim: str, num_train_steps: int):
  """(schedule, optimizer) of config.optim as JSON."""
  from ml_collections import ConfigDict

  c = ConfigDict(json.loads(optim))
  schedule = make_schedule(c, num_train_steps)
  return schedule, make_optimizer(c, schedule)


@functools.lru_cache(maxsize=16)
def _steps(spec, loss, optim: str, num_train_steps: int) -> Steps:
  """Compiled once for all runs of a process that differ in data and seed."""
  schedule, optimizer = _optimizer(optim, num_train_steps)
  return make_steps(
    spec,
    loss,
    optimizer,
    schedule,
    trainable="all",
    accumulate=1,
    parallel="pjit",
    mesh=make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1]),
  )
