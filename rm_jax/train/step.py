"""The train step: the only place that changes parameters."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rm_jax.models.sharding import (
  RULES,
  block_sharding,
  check_divides,
  put_blocks,
  put_tree,
  shard_tree,
)
from rm_jax.objectives import LossSpec, loss_sums, mean_loss, weight_sums
from rm_jax.reward_model import (
  ModelSpec,
  abstract_params,
  forward,
)
from rm_jax.train.evaluate import eval_body
from rm_jax.train.optim import (
  merge,
  split_trainable,
  without_frozen_layers,
)
from rm_jax.types import Batch, UserError

PARALLEL = ("pjit", "pmap")


def check_cuts(config, mesh) -> None:
  """Raises UserError unless a batch's blocks and rows split over the mesh."""
  parts = mesh.shape["data"] * mesh.shape["fsdp"]
  each = parts * config.train.accumulate
  if config.data.blocks % each:
    up = -(-config.data.blocks // each) * each
    raise UserError(
      f"config.data.blocks={config.data.blocks} does not split over {parts} "
      f"devices x config.train.accumulate={config.train.accumulate} (remainder "
      f"{config.data.blocks % each}). Nearest above: {up}."
    )
  tensor, row_len = mesh.shape["tensor"], config.data.row_len
  if row_len % tensor:
    raise UserError(
      f"config.mesh.tensor={tensor} does not divide config.data.row_len="
      f"{row_len} (remainder {row_len % tensor}). Choose a divisor of it."
    )


class TrainState(NamedTuple):
  """What a checkpoint holds: only parameters that train are in it."""

  step: Any  # int32: batches seen
  skipped: Any  # int32: of them, updates left out as not finite
  params: Any  # what trains
  opt_state: Any


class Steps(NamedTuple):
  """The compiled functions of a run and how to place what they take."""

  train: Any  # (state, frozen, batch) -> (state, metrics)
  evaluate: Any  # (params, frozen, batch) -> what `eval_body` returns
  put_state: Any  # TrainState as it is stored -> on the devices
  put_frozen: Any
  put_batch: Any  # Batch of the own blocks -> on the devices
  stored: Any  # TrainState on the devices -> as a checkpoint holds it
  first_state: Any  # what trains, of any kind -> the TrainState of step 0
  stored_shape: Any  # what trains -> shapes of `stored`, what `restore` takes
  program: Any  # (state, frozen, batch) -> jaxpr of `train`, nothing computed
  # Of pjit: `train` of several runs, whose states and batches are stacked on a
  # leading axis; metrics too. For one device: nothing of it is cut.
  together: Any = None
  # Of pjit, for a plan:
  trace: Any = None  # shapes of what `train` takes -> the traced step
  shardings: Any = None  # of the TrainState and of the frozen parameters


def _micro_batches(batch: Batch, count: int) -> Batch:
  """[N, ...] to [count, N / count, ...], neighbours on the same device."""

  def cut(x):
    return x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)

  return jax.tree.map(cut, batch)


def _train_body(spec, loss, optimizer, schedule, accumulate, axis):
  """One update from one batch; `axis` names the pmap axis, if any."""

  def total(tree):
    return jax.lax.psum(tree, axis) if axis else tree

  def body(state: TrainState, frozen: dict, batch: Batch):
    if (spec.dropout > 0) != (batch.dropout_ids is not None):
      raise ValueError(
        f"a model of dropout {spec.dropout:g} and a batch with"
        f"{'out' * (batch.dropout_ids is None)} dropout_ids: give `lay_step` "
        "the seed of the masks where the rate is above 0, and only there."
      )
    # Weights first: they are data, and the gradient below divides by them.
    weights = total(weight_sums(loss, batch))

    def micro(carry, part):
      def objective(params):
        outputs = forward(
          spec,
          merge(params, frozen),
          part,
          language=loss.reads_language,
          hidden=loss.reads_hidden,
        )
        sums = loss_sums(loss, outputs, part, dtype=spec.dtype)
        return mean_loss(loss, sums, weights), sums

      grads, sums = jax.grad(objective, has_aux=True)(state.params)
      return jax.tree.map(jnp.add, carry, (grads, sums)), None

    zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, jnp.float32), state.params
    )
    none = {t: (jnp.float32(0), jnp.float32(0)) for t in loss.coefficients}
    if accumulate == 1:
      (grads, sums), _ = micro((zeros, none), batch)
    else:
      (grads, sums), _ = jax.lax.scan(
        micro, (zeros, none), _micro_batches(batch, accumulate)
      )
    # One psum, after the gradient. One inside would multiply it by the
    # number of devices, silently.
    grads, sums = total((grads, sums))

    value = mean_loss(loss, sums, weights)
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(value) & jnp.isfinite(norm)
    rate = schedule(state.step - state.skipped)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    updated = optax.apply_updates(state.params, updates)

    def keep(new, old):
      return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)

    state = TrainState(
      step=state.step + 1,
      skipped=state.skipped + (~finite).astype(jnp.int32),
      params=keep(updated, state.params),
      opt_state=keep(opt_state, state.opt_state),
    )
    metrics = {
      "loss": value,
      "grad_norm": norm,
      "lr": jnp.asarray(rate, jnp.float32),
      "skipped": state.skipped,
      "terms": sums,
      "learned": state.params.get("head", {}).get("loss", {}),
    }
    return state, metrics

  return body


def make_steps(
  spec: ModelSpec,
  loss: LossSpec,
  optimizer,
  schedule,
  *,
  trainable: str,
  accumulate: int,
  parallel: str,
  mesh,
  known_states: bool = False,
) -> Steps:
  """The step functions of a run under pjit or pmap; same numbers from both.

  Args:
    mesh: of `sharding.make_mesh`; pmap uses all its devices as one data axis.
    accumulate: micro-batches per train step; divides the blocks of a batch.
    known_states: batches have the states of the frozen layers, and `frozen`
      is that of `without_frozen_layers`.
  """
  if parallel not in PARALLEL:
    raise UserError(
      f"config.parallel={parallel!r} is not known. Known: {sorted(PARALLEL)}."
    )
  if parallel == "pmap":
    return _pmap_steps(spec, loss, optimizer, schedule, accumulate, mesh)

  heads, tensor = spec.decoder.heads, mesh.shape["tensor"]
  if heads % tensor:
    raise UserError(
      f"config.mesh.tensor={tensor} does not divide the {heads} attention "
      f"heads of the backbone (remainder {heads % tensor}). Choose a divisor "
      f"of {heads}."
    )
  boxed_params, boxed_frozen = split_trainable(abstract_params(spec), trainable)
  if known_states:
    boxed_frozen = without_frozen_layers(boxed_frozen, spec.frozen)
  param_shards = shard_tree(boxed_params, mesh)
  frozen_shards = shard_tree(boxed_frozen, mesh)
  check_divides(boxed_params, param_shards, mesh)
  check_divides(boxed_frozen, frozen_shards, mesh)
  alone = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  boxed_opt = jax.eval_shape(optimizer.init, boxed_params)
  opt_shards = jax.tree.map(
    # adafactor's factored moments have fewer axes than their parameter.
    lambda shard, leaf: shard if len(shard.spec) <= leaf.ndim else alone,
    shard_tree(boxed_opt, mesh),
    nn.unbox(boxed_opt),
  )
  state_shards = TrainState(alone, alone, param_shards, opt_shards)
  blocks = block_sharding(mesh)

  def scoped(function):
    # The mesh and the rules are in force while the step is traced.
    @functools.wraps(function)
    def call(*args):
      with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        return function(*args)

    return call

  body = _train_body(spec, loss, optimizer, schedule, accumulate, None)
  train = jax.jit(
    body,
    donate_argnums=0,
    in_shardings=(state_shards, frozen_shards, blocks),
    out_shardings=(state_shards, alone),
  )
  together = jax.jit(
    jax.vmap(body, in_axes=(0, None, 0)),
    donate_argnums=0,
    in_shardings=alone,
    out_shardings=alone,
  )
  evaluate = jax.jit(
    eval_body(spec, loss, None),
    in_shardings=(param_shards, frozen_shards, blocks),
    out_shardings=alone,  # whole on every host: a few bytes a completion
  )
  moments = jax.jit(optimizer.init, out_shardings=opt_shards)
  trace = scoped(train.trace)

  def first_state(trained):
    params = put_tree(trained, param_shards)
    zero = put_tree((np.int32(0), np.int32(0)), (alone, alone))
    return TrainState(*zero, params, moments(params))

  def stored_shape(trained):
    def shape(x, shard):
      return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=shard)

    return jax.tree.map(shape, _shapes(optimizer, trained), state_shards)

  return Steps(
    train=scoped(train),
    evaluate=scoped(evaluate),
    put_state=lambda s: put_tree(s, state_shards),
    put_frozen=lambda f: put_tree(f, frozen_shards),
    put_batch=lambda b: put_blocks(b, mesh),
    stored=lambda s: s,
    first_state=first_state,
    stored_shape=stored_shape,
    program=lambda *args: trace(*args).jaxpr,
    together=scoped(together),
    trace=trace,
    shardings=(state_shards, frozen_shards),
  )


def _shapes(optimizer, trained) -> TrainState:
  """Shapes and types of the state whose parameters these are."""
  params = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), trained
  )
  number = jax.ShapeDtypeStruct((), np.int32)
  opt_state = jax.eval_shape(optimizer.init, params)
  return TrainState(number, number, params, opt_state)


def _pmap_steps(spec, loss, optimizer, schedule, accumulate, mesh):
  """Pure data parallelism: parameters copied, blocks cut by device."""
  for axis in ("fsdp", "tensor"):
    if mesh.shape[axis] != 1:
      raise UserError(
        f"config.parallel='pmap' copies parameters to every device, but "
        f"config.mesh.{axis}={mesh.shape[axis]} would cut them. Set it to 1 or "
        "use config.parallel='pjit'."
      )
  if mesh.is_multi_process:
    raise UserError(
      f"config.parallel='pmap' runs in one process, this run has "
      f"{jax.process_count()}: use config.parallel='pjit', whose numbers are "
      "the same."
    )
  devices = list(mesh.devices.ravel())
  count = len(devices)
  train = jax.pmap(
    _train_body(spec, loss, optimizer, schedule, accumulate, "devices"),
    axis_name="devices",
    devices=devices,
    donate_argnums=0,
  )
  evaluate = jax.pmap(
    eval_body(spec, loss, "devices"), axis_name="devices", devices=devices
  )
  over = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))

  def copies(tree):
    return jax.tree.map(
      lambda x: jax.device_put(
        jnp.broadcast_to(jnp.asarray(x)[None], (count, *jnp.shape(x))), over
      ),
      tree,
    )

  def cut(batch):
    return jax.tree.map(
      lambda x: jax.device_put(x.reshape(count, -1, *x.shape[1:]), over), batch
    )

  def train_step(state, frozen, batch):
    state, metrics = train(state, frozen, batch)
    return state, jax.tree.map(lambda x: x[0], metrics)

  def eval_step(params, frozen, batch):
    *of_blocks, sums, whose = evaluate(params, frozen, batch)
    scores, slots, whose = (
      x.reshape(-1, *x.shape[2:]) for x in (*of_blocks, whose)
    )
    return scores, slots, jax.tree.map(lambda x: x[0], sums), whose

  return Steps(
    train=train_step,
    evaluate=eval_step,
    put_state=copies,
    put_frozen=copies,
    put_batch=cut,
    stored=lambda s: jax.device_get(jax.tree.map(lambda x: x[0], s)),
    first_state=lambda trained: copies(
      TrainState(
        np.int32(0), np.int32(0), trained, jax.jit(optimizer.init)(trained)
      )
    ),
    stored_shape=lambda trained: _shapes(optimizer, trained),
    program=jax.make_jaxpr(train),
  )
