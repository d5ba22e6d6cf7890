"""The parameters a run starts from."""

import dataclasses
import hashlib
import json
import pathlib

import flax.linen as nn
import jax
import numpy as np
from absl import logging

from rm_jax.heads import HEAD_INITS, PUBLISHED
from rm_jax.models.convert import load_pretrained
from rm_jax.models.published_heads import read_held
from rm_jax.models.sizes import SIZES
from rm_jax.models.transformer import DecoderConfig
from rm_jax.reward_model import ModelSpec, init_head, init_params
from rm_jax.train.optim import cut_layers, frozen_segments, segments_for
from rm_jax.train.tasks import learned, read_tasks
from rm_jax.types import UserError

RANDOM = "random:"


def init_from(config, tokenizer) -> tuple[ModelSpec, dict]:
  """(static spec, parameters) of the model a config describes.

  The backbone comes from config.init.from, the head from config.model and
  config.seed. "random:NAME" is a shape of models/sizes.py with the
  tokenizer's vocabulary, for tests and for studies from scratch.
  """
  source = config.init["from"]
  key = jax.random.key(config.seed)
  weights = None
  if source.startswith(RANDOM):
    name = source[len(RANDOM) :]
    if name not in SIZES:
      raise UserError(
        f"config.init.from={source!r} is not known. Known after {RANDOM!r}: "
        f"{sorted(SIZES)}."
      )
    decoder = dataclasses.replace(SIZES[name], vocab_size=len(tokenizer))
  else:
    found = load_pretrained(source)
    decoder, weights = found.config, found.params
    if found.head is not None and config.init.head == "new":
      logging.warning(
        "%s: its reward head (%s) is not used, the head of this run is new "
        "(config.model.head_init=%s); config.init.head=keep keeps it",
        source,
        ", ".join(found.head.tensors),
        config.model.head_init,
      )
  if config.init.layers:
    decoder, weights = first_layers(decoder, weights, config.init.layers)
  spec = make_spec(config, decoder, tokenizer)
  kept = None
  if config.init.head == "keep":
    kept = _keep_head(spec, None if weights is None else found.head, source)
  whole = dataclasses.replace(spec, segments=(decoder.layers,))
  if weights is None:
    params = init_params(whole, jax.random.fold_in(key, 0))
    weights = params["backbone"]
  head = nn.unbox(init_head(spec, jax.random.fold_in(key, 1)))
  params = {
    "backbone": cut_layers(weights, spec.segments),
    "head": head if kept is None else {**head, **kept},
  }
  return spec, params


def first_layers(
  decoder: DecoderConfig, weights: dict | None, count: int
) -> tuple[DecoderConfig, dict | None]:
  """The decoder and its weights without the layers after the first `count`.

  What is cut off is not loaded again: the final norm and the head read the
  states of layer `count`.
  """
  if not 0 < count <= decoder.layers:
    raise UserError(
      f"config.init.layers={count}: expected 1 to {decoder.layers}, the layers "
      "of this backbone, or 0 for all of them."
    )
  if weights is not None:
    stack = jax.tree.map(lambda x: x[:count], weights["layers_0"])
    weights = weights | {"layers_0": stack}
  return dataclasses.replace(decoder, layers=count), weights


def describe_heads(config, spec: ModelSpec, params: dict) -> str:
  """One line per head: what it is, how it was drawn, the std it came out with.

  Args:
    params: of the heads, as the run begins.
  """
  lines = []
  for name, head in (("", spec.head), *spec.tasks):
    own = params["tasks"][name] if name else params
    where = f" of task {name}" if name else ""
    kept = config.init.head == "keep" and not name
    if kept:
      origin = f"kept from {config.init['from']}"
    elif head.kind == "gain_bias":
      lines.append(f"head{where}: gain_bias, gain 1 and bias 0")
      continue
    else:
      std = HEAD_INITS[head.init](spec.decoder.width)
      origin = f"{head.init} (std {std:.4g}), seed {config.seed}"
    kernels = [
      np.ravel(jax.device_get(leaf))
      for path, leaf in jax.tree_util.tree_flatten_with_path(own)[0]
      if path[-1].key == "kernel"
      and path[0].key not in ("tasks", "loss", "inner")
    ]
    drawn = np.concatenate(kernels)
    lines.append(
      f"head{where}: {head.kind}, {origin}; {drawn.size:,} weights of std "
      f"{np.std(drawn):.4g}"
    )
  return "\n".join(lines)


def _keep_head(spec: ModelSpec, held, source: str) -> dict:
  """The published parameters of the main head.

  Raises:
    UserError: there is no head, its loss is not one of ours, or config.model
      describes another.
  """
  if held is None:
    raise UserError(
      f"config.init.head='keep', but config.init.from={source!r} has no reward "
      "head: set config.init.head=new."
    )
  head = read_held(held)
  if head.spec.kind in PUBLISHED:
    raise UserError(
      f"config.init.head='keep': {source} has a head of kind "
      f"{head.spec.kind!r}, which no loss here trains: score with it, or set "
      "config.init.head=new."
    )
  if head.spec.kind != spec.head.kind:
    raise UserError(
      f"config.init.head='keep': {source} has a head of kind "
      f"{head.spec.kind!r}, config.model.head is {spec.head.kind!r}: set "
      f"--config.model.head={head.spec.kind}."
    )
  if head.spec.outputs != spec.head.outputs:
    raise UserError(
      f"config.init.head='keep': the head of {source} has "
      f"{head.spec.outputs} outputs {head.labels}, config.model.attributes "
      f"names {spec.head.outputs}: name as many."
    )
  return head.params


def make_spec(config, decoder, tokenizer) -> ModelSpec:
  """The static spec of a config over this decoder."""
  tasks = read_tasks(config)

  def head(task, c, key):
    if task.head.kind != "gain_bias":
      return task.head
    token = tokenizer.get_vocab().get(c.verdict)
    if token is None:
      raise UserError(
        f"{key}.model.verdict={c.verdict!r} is no token of the tokenizer: "
        "expected one entry of its vocabulary, such as its EOS token "
        f"{tokenizer.eos_token!r}."
      )
    return dataclasses.replace(task.head, token=token)

  segments = segments_for(config.train.trainable, decoder.layers)
  return ModelSpec(
    decoder=decoder,
    head=head(tasks[0], config.model, "config"),
    dtype=config.compute.dtype,
    remat=config.compute.remat,
    segments=segments,
    frozen=frozen_segments(config.train.trainable, segments),
    tasks=tuple(
      (t.name, head(t, config.tasks[t.name].model, f"config.tasks.{t.name}"))
      for t in tasks[1:]
      if t.head is not None
    ),
    learned=learned(tasks),
  )


def digest(params: dict) -> str:
  """sha256 of a parameter tree: names, shapes and every bit of the values.

  A checkpoint holds only what trained; this tells whether the rest, read from
  the base model again, is still what the run began with.
  """
  found = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
    array = np.ascontiguousarray(jax.device_get(leaf))
    name = f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}"
    found.update(name.encode())
    found.update(array.data)
  return found.hexdigest()


def check_base(workdir: pathlib.Path, now: str) -> None:
  """Raises UserError if what did not train is not what the run began with.

  Args:
    workdir: of the run; its run.json holds the digest.
    now: the digest of the frozen parameters at hand.
  """
  stored = json.loads((workdir / "run.json").read_text())["frozen_sha256"]
  if stored != now:
    raise UserError(
      f"{workdir}: the parameters that do not train have digest {now[:12]}, "
      f"the run began with {stored[:12]}: config.init.from holds other weights "
      "now. Put the same base model back, or train again."
    )
