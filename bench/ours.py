"""Our train step on given groups: what `rm-jax train` runs, and its parts."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from bench.groups import reading
from bench.machine import Spent, timed
from rm_jax.config import base
from rm_jax.data.loader import lay_step, with_demands
from rm_jax.data.plan import make_plan
from rm_jax.models.convert import load_pretrained
from rm_jax.models.sharding import make_mesh
from rm_jax.objectives import LossSpec, loss_sums, mean_loss, weight_sums
from rm_jax.reward_model import (
  HeadSpec,
  ModelSpec,
  completion_scores,
  forward,
  init_head,
)
from rm_jax.train.init import first_layers
from rm_jax.train.optim import make_optimizer, make_schedule
from rm_jax.train.step import TrainState, make_steps
from rm_jax.types import TokenizedGroup

# The optimizer of both sides: transformers' defaults with TRL's learning rate.
ADAMW = dict(
  lr=1e-4, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0, clip_norm=1.0
)
LOSS = LossSpec("bradley_terry", 0.0)


class Setting(NamedTuple):
  """What can differ between two of our steps over the same groups."""

  layout: str
  row_len: int
  rows: int  # of a block, at least; a micro-batch is one block
  dtype: str
  remat: bool
  unrolled: int = 2  # layers of the longest stack that is not scanned


class Work(NamedTuple):
  """A step's batch and the counts that rates are made of."""

  batch: Any  # Batch of N blocks
  owners: Any
  counts: dict  # groups, useful_tokens, computed_tokens
  blocks: int


def load_model(layers: int = 0, seed: int = 0) -> tuple[ModelSpec, dict]:
  """SmolLM2-135M with a head that is not zero, so that scores differ.

  Args:
    layers: only the first so many; 0: all.
  """
  found = load_pretrained("smollm2")
  decoder, weights = first_layers(
    found.config, found.params, layers or found.config.layers
  )
  head = HeadSpec("scalar", "stiennon", "last_token")
  spec = ModelSpec(decoder, head, "float32", True, (decoder.layers,))
  params = {
    "backbone": weights,
    "head": nn.unbox(init_head(spec, jax.random.key(seed))),
  }
  return spec, params


def lay_groups(groups: list[TokenizedGroup], setting: Setting) -> Work:
  """One batch of exactly these groups, in the fewest blocks that take them."""
  how = reading(setting.layout, setting.row_len)
  data = with_demands(groups, how, [], {}, [])

  def plan(blocks):
    return make_plan(
      data.demands,
      num_steps=1,
      batch="groups",
      groups_per_batch=len(groups),
      rows_per_batch=0,
      blocks=blocks,
      row_len=setting.row_len,
      layout=setting.layout,
      align=1,
      seed=0,
      shuffle=False,
    )

  # A group lies in one block: with a block for each, rows that the tallest has.
  rows = max(setting.rows, plan(len(groups)).row_counts[-1])
  for blocks in range(1, len(groups) + 1):
    found = plan(blocks)
    if found.row_counts[-1] <= rows:
      break
  return Work(*lay_step(data, found, 0), blocks)


def fit(
  groups: list[TokenizedGroup],
  layout: str,
  row_lens,
  *,
  tokens: int,
  dtype: str = "float32",
  remat: bool = False,
) -> Setting:
  """The setting of these row lengths that computes fewest tokens.

  Args:
    tokens: of a micro-batch, at least.
  """
  return min(
    (Setting(layout, n, max(1, tokens // n), dtype, remat) for n in row_lens),
    key=lambda how: lay_groups(groups, how).counts["computed_tokens"],
  )


def block_by_block(batch):
  """[N, ...] to [N, 1, ...]: a micro-batch is one block."""
  return jax.tree.map(lambda x: x[:, None], batch)


class Run(NamedTuple):
  """Compiled functions over one batch, with the state they change."""

  step: Any  # () -> {"loss", "grad_norm"}: a whole train step
  parts: dict  # {"forward", "optimizer"}: () -> anything
  scores: Any  # () -> [scores of each group]
  loss: Any  # () -> mean loss, nothing changes
  gradients: Any  # () -> gradient of the loss
  compiled: Any  # () -> (the compiled gradient, what it is called with)
  work: Work


def optimizer_of() -> tuple:
  """(optimizer, schedule) of every run."""
  c = base().optim
  c.update(ADAMW | dict(schedule="constant", warmup_steps=0))
  schedule = make_schedule(c, 1_000)
  return make_optimizer(c, schedule), schedule


def hold(params: dict) -> dict:
  """{"state": TrainState}: one for all runs, whose steps change it in place."""
  own = jax.tree.map(jnp.array, params)
  moments = jax.jit(optimizer_of()[0].init)(own)
  return {"state": TrainState(np.int32(0), np.int32(0), own, moments)}


def start(
  spec: ModelSpec, held: dict, groups: list[TokenizedGroup], setting: Setting
) -> Run:
  """A run over the state of `hold` that has not compiled anything yet."""
  spec = ModelSpec(
    **vars(spec)
    | dict(dtype=setting.dtype, remat=setting.remat, unrolled=setting.unrolled)
  )
  work = lay_groups(groups, setting)
  optimizer, schedule = optimizer_of()
  steps = make_steps(
    spec,
    LOSS,
    optimizer,
    schedule,
    trainable="all",
    accumulate=work.blocks,
    parallel="pjit",
    mesh=make_mesh(data=-1, fsdp=1, tensor=1, devices=jax.devices()[:1]),
  )
  batch = steps.put_batch(work.batch)
  held["state"] = steps.put_state(held["state"])

  def step():
    held["state"], out = steps.train(held["state"], {}, batch)
    return {name: float(out[name]) for name in ("loss", "grad_norm")}

  @jax.jit
  def score(params, batch):
    def one(_, part):
      out = forward(spec, params, part, language=False)
      sums = loss_sums(LOSS, out, part, dtype=spec.dtype)
      return None, (completion_scores(out.scores, part), sums)

    return jax.lax.scan(one, None, block_by_block(batch))[1]

  @jax.jit
  def gradient(params, batch):
    weights = weight_sums(LOSS, batch)

    def one(carry, part):
      def objective(params):
        out = forward(spec, params, part, language=False)
        sums = loss_sums(LOSS, out, part, dtype=spec.dtype)
        return mean_loss(LOSS, sums, weights)

      return jax.tree.map(jnp.add, carry, jax.grad(objective)(params)), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    return jax.lax.scan(one, zeros, block_by_block(batch))[0]

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def update(params, opt_state, grads):
    norm = optax.tree.norm(grads)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, norm

  def optimize():
    before = held["state"]
    if "grads" not in held:
      held["grads"] = jax.tree.map(jnp.zeros_like, before.params)
    after, moments, norm = update(
      before.params, before.opt_state, held["grads"]
    )
    held["state"] = before._replace(params=after, opt_state=moments)
    return norm

  def scores():
    found = np.asarray(score(held["state"].params, batch)[0]).reshape(-1)
    owners = np.stack([x.reshape(-1) for x in work.owners])
    out = [np.zeros(len(g.tokens), np.float32) for g in groups]
    for group, completion, value in zip(*owners, found, strict=True):
      if group >= 0:
        out[group][completion] = value
    return out

  def loss():
    total, weight = score(held["state"].params, batch)[1][LOSS.name]
    return float(total.sum() / weight.sum())

  return Run(
    step=step,
    parts={
      "forward": lambda: score(held["state"].params, batch),
      "optimizer": optimize,
    },
    scores=scores,
    loss=loss,
    gradients=lambda: gradient(held["state"].params, batch),
    compiled=lambda: (
      gradient.lower(held["state"].params, batch).compile(),
      (held["state"].params, batch),
    ),
    work=work,
  )


def second(function):
  """What a call gives and takes that follows another, as steps of a run do.

  After something else memory has to be asked for first: two seconds of a step
  that takes nine.
  """
  timed(function)
  return timed(function)


def parts_of(run: Run) -> dict[str, Spent]:
  """What forward, backward and optimizer took beside a whole step.

  Forward and optimizer are compiled alone; the backward pass, with what it
  computes a second time, is what is left of the step.
  """
  _, whole = second(run.step)
  alone = {name: second(part)[1] for name, part in run.parts.items()}
  rest = [
    whole[n] - sum(spent[n] for spent in alone.values()) for n in range(2)
  ]
  return {"step": whole, "backward": Spent(*rest)} | alone
