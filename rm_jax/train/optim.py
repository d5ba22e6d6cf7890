"""Config to optax: what trains, the schedule, the chain."""

import jax
import jax.numpy as jnp
import optax

from rm_jax.types import UserError

SCHEDULES = ("constant", "linear", "cosine")
OPTIMIZERS = ("adamw", "adafactor")


def segments_for(trainable: str, layers: int) -> tuple[int, ...]:
  """Lengths of the decoder's layer stacks, frozen ones first.

  Raises:
    UserError: `config.train.trainable` is not all, head, lora or last:n.
  """
  if trainable in ("all", "head", "lora"):
    return (layers,)
  kind, _, count = trainable.partition(":")
  if kind == "last" and count.isdecimal() and 0 < int(count) <= layers:
    n = int(count)
    return (layers,) if n == layers else (layers - n, n)
  raise UserError(
    f"config.train.trainable={trainable!r}: expected all, head, lora, or "
    f"last:n with 1 <= n <= {layers} (the layers of this backbone)."
  )


def frozen_segments(trainable: str, segments: tuple[int, ...]) -> int:
  """How many of the layer stacks, the first ones, do not train."""
  return {"all": 0, "lora": 0, "head": 1}.get(trainable, len(segments) - 1)


def cut_layers(backbone: dict, segments: tuple[int, ...]) -> dict:
  """A backbone whose one stack `layers_0` is cut into stacks of `segments`."""
  rest = {k: v for k, v in backbone.items() if k != "layers_0"}
  begin = 0
  for index, count in enumerate(segments):
    part = slice(begin, begin + count)
    rest[f"layers_{index}"] = jax.tree.map(
      lambda x, part=part: x[part], backbone["layers_0"]
    )
    begin += count
  return rest


def join_layers(backbone: dict) -> dict:
  """The inverse of `cut_layers`: one stack again."""
  stacks = sorted(k for k in backbone if k.startswith("layers_"))
  rest = {k: v for k, v in backbone.items() if k not in stacks}
  rest["layers_0"] = jax.tree.map(
    lambda *parts: jnp.concatenate(parts), *(backbone[k] for k in stacks)
  )
  return rest


def split_trainable(params: dict, trainable: str) -> tuple[dict, dict]:
  """(what trains, what stays) of {"backbone", "head"}; `merge` joins them.

  all: everything. head: the head. last:n: the last n layers (their own
  stack), the final norm and the head. lora: the adapters and the head, which
  is never a target and always trains.
  """
  if trainable == "all":
    return params, {}
  if trainable in ("head", "lora"):
    frozen = {"backbone": params["backbone"]}
    return {k: v for k, v in params.items() if k != "backbone"}, frozen
  backbone = params["backbone"]
  last = max(k for k in backbone if k.startswith("layers_"))
  moving = {k: v for k, v in backbone.items() if k in (last, "final_norm")}
  still = {k: v for k, v in backbone.items() if k not in moving}
  return {"backbone": moving, "head": params["head"]}, {"backbone": still}


def without_frozen_layers(frozen: dict, segments: int) -> dict:
  """What is still read of the frozen parameters where the states are known.

  Args:
    segments: how many of the layer stacks are frozen.
  """
  passed = {f"layers_{n}" for n in range(segments)}
  backbone = {k: v for k, v in frozen["backbone"].items() if k not in passed}
  return frozen | {"backbone": backbone}


def merge(trained: dict, frozen: dict) -> dict:
  """One parameter tree of two disjoint ones."""
  out = dict(frozen)
  for key, value in trained.items():
    both = isinstance(value, dict) and key in out
    out[key] = merge(value, out[key]) if both else value
  return out


def decayed(params: dict) -> dict:
  """True where weight decay applies: not on the head, norms or biases."""

  def rule(path, _):
    names = [str(getattr(p, "key", p)) for p in path]
    return names[0] != "head" and names[-1] not in ("scale", "bias")

  return jax.tree_util.tree_map_with_path(rule, params)


def make_schedule(c, num_train_steps: int) -> optax.Schedule:
  """Learning rate by number of updates made so far.

  Update i of `warmup_steps` w gets lr (i + 1) / (w + 1); then constant, or
  linear or cosine to `final_lr_ratio` of lr at the last train step.

  Args:
    c: config.optim.
  """
  if c.schedule not in SCHEDULES:
    raise UserError(
      f"config.optim.schedule={c.schedule!r} is not known. Known: "
      f"{sorted(SCHEDULES)}."
    )
  if c.warmup_steps >= num_train_steps:
    raise UserError(
      f"config.optim.warmup_steps={c.warmup_steps} leaves no step of "
      f"config.num_train_steps={num_train_steps} at the full learning rate."
    )
  # One less: the last update (number num_train_steps - 1) gets the last rate.
  rest = max(num_train_steps - c.warmup_steps - 1, 1)
  after = {
    "constant": optax.constant_schedule(c.lr),
    "linear": optax.linear_schedule(c.lr, c.lr * c.final_lr_ratio, rest),
    "cosine": optax.cosine_decay_schedule(c.lr, rest, c.final_lr_ratio),
  }[c.schedule]
  if not c.warmup_steps:
    return after
  # From lr / (warmup + 1), not from 0: an update of size 0 is a wasted step.
  warm = optax.linear_schedule(
    c.lr / (c.warmup_steps + 1), c.lr, c.warmup_steps
  )
  return optax.join_schedules([warm, after], [c.warmup_steps])


def make_optimizer(c, schedule: optax.Schedule) -> optax.GradientTransformation:
  """Clip, adamw or adafactor, then the head's own multiple of the rate.

      p <- p - lr (u + weight_decay p),  u of Adam or of Adafactor

  Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2; Shazeer
  and Stern 2018, arXiv:1804.04235, algorithm 4, without its relative step
  sizes, update clipping and momentum.

  Args:
    c: config.optim: name, b1, b2, eps, weight_decay, clip_norm (0: none),
      head_lr_multiplier, momentum_dtype.
  """
  if c.name not in OPTIMIZERS:
    raise UserError(
      f"config.optim.name={c.name!r} is not known. Known: {sorted(OPTIMIZERS)}."
    )
  if c.name == "adamw":
    core = optax.adamw(
      schedule,
      b1=c.b1,
      b2=c.b2,
      eps=c.eps,
      weight_decay=c.weight_decay,
      mask=decayed,
      mu_dtype=c.momentum_dtype,
    )
  else:
    # optax.adafactor would decay by weight_decay a step, not by lr times it.
    core = optax.chain(
      optax.scale_by_factored_rms(),
      optax.add_decayed_weights(c.weight_decay, mask=decayed),
      optax.scale_by_learning_rate(schedule),
    )

  def head_only(params):
    return {
      key: jax.tree.map(lambda _, key=key: key == "head", value)
      for key, value in params.items()
    }

  chain = [core, optax.masked(optax.scale(c.head_lr_multiplier), head_only)]
  if c.clip_norm:
    chain.insert(0, optax.clip_by_global_norm(c.clip_norm))
  return optax.chain(*chain)
