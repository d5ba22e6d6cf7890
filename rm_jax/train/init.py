"""The parameters a run starts from."""

import dataclasses
import hashlib
import json
import pathlib

import flax.linen as nn
import jax
import numpy as np
from absl import logging

from rm_jax.models.convert import load_pretrained
from rm_jax.models.sizes import SIZES
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
    if found.score is not None:
      logging.warning(
        "%s: its score.weight is not used, the head of this run is new "
        "(config.model.head_init=%s)",
        source,
        config.model.head_init,
      )
  spec = make_spec(config, decoder, tokenizer)
  whole = dataclasses.replace(spec, segments=(decoder.layers,))
  if weights is None:
    params = init_params(whole, jax.random.fold_in(key, 0))
    weights = params["backbone"]
  params = {
    "backbone": cut_layers(weights, spec.segments),
    "head": nn.unbox(init_head(spec, jax.random.fold_in(key, 1))),
  }
  return spec, params


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
