"""The parameters a run starts from."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from absl import logging
from jax.experimental.multihost_utils import process_allgather
from ml_collections import ConfigDict

from rm_jax.data.tokenizers import check_vocab_size
from rm_jax.heads import HEAD_INITS, PUBLISHED
from rm_jax.models.convert import (
  Opened,
  open_pretrained,
  place_tree,
  read_tree,
)
from rm_jax.models.lora import LoraSpec, init_lora, merge_lora
from rm_jax.models.published_heads import read_held
from rm_jax.models.sharding import check_divides, shard_tree
from rm_jax.models.sizes import SIZES
from rm_jax.models.transformer import DecoderConfig
from rm_jax.places import find_run, read_json
from rm_jax.reward_model import (
  ModelSpec,
  abstract_params,
  init_head,
  init_params,
)
from rm_jax.train.checkpoint import load_params
from rm_jax.train.optim import (
  cut_layers,
  frozen_segments,
  join_layers,
  merge,
  segments_for,
  split_trainable,
)
from rm_jax.train.tasks import learned, read_tasks
from rm_jax.types import UserError

RANDOM = "random:"


def init_from(config, tokenizer, mesh=None) -> tuple[ModelSpec, dict]:
  """(static spec, parameters) of the model a config describes.

  The backbone comes from config.init.from: a language model or a reward model
  in a folder, a GGUF file, behind a URL or on the Hub, or a run's workdir or
  checkpoint. The head comes from config.model and config.seed, or from the same
  place (config.init.head=keep). "random:NAME" is a shape of models/sizes.py
  with the tokenizer's vocabulary, for tests and for studies from scratch.

  Args:
    mesh: a published backbone is read straight into its shards on it, by every
      process its own. Else it comes as numpy arrays.
  """
  source = config.init["from"]
  key = jax.random.key(config.seed)
  run = find_run(source)
  if source.startswith(RANDOM):
    decoder = _random_shape(source, tokenizer)
    held = begun = weights = None
  elif run is not None:
    begun, tree, _ = read_run(*run, tokenizer)
    decoder, weights = begun.decoder, join_layers(tree["backbone"])
    held = tree["head"]
  else:
    opened = open_pretrained(source)
    decoder, held, weights, begun = opened.config, opened.head, opened, None
  check_vocab_size(tokenizer, decoder.vocab_size)  # before weights are read
  if config.init.layers:
    decoder, weights = first_layers(decoder, weights, config.init.layers)
  spec = make_spec(config, decoder, tokenizer)
  decoder = spec.decoder
  if isinstance(weights, Opened):
    weights = weights._replace(config=decoder)
  elif weights is not None and not decoder.unembeds:
    weights = {k: v for k, v in weights.items() if k != "lm_head"}
  kept = _kept_head(config, spec, held, begun)
  head = nn.unbox(init_head(spec, jax.random.fold_in(key, 1)))
  if weights is None:
    whole = dataclasses.replace(spec, segments=(decoder.layers,), lora=None)
    weights = init_params(whole, jax.random.fold_in(key, 0))["backbone"]
  params = {
    "backbone": _backbone(weights, spec, mesh),
    "head": {**head, **kept},
  }
  if spec.lora is not None:
    boxed = abstract_params(spec)["backbone"]
    own = jax.random.fold_in(key, 2)
    draw = functools.partial(init_lora, spec.lora, boxed)
    params["lora"] = nn.unbox(jax.jit(draw)(own))
  return spec, params


def find_tokenizer(config) -> str:
  """The place of the tokenizer of a run, which is read before all else.

  Raises:
    UserError: config.init.from is a shape that nobody knows, or a shape alone.
  """
  source, place = config.init["from"], config.init.tokenizer
  if source.startswith(RANDOM):
    check_random(source)
    if not place:
      raise UserError(
        f"config.init.from={source!r} is a shape without a tokenizer: set "
        "config.init.tokenizer, such as --config.init.tokenizer=smollm2."
      )
  return place or source


def check_random(source: str) -> None:
  """Nothing, if the shape of "random:NAME" is known."""
  if source.removeprefix(RANDOM) not in SIZES:
    raise UserError(
      f"config.init.from={source!r} is not known. Known after {RANDOM!r}: "
      f"{sorted(SIZES)}."
    )


def _random_shape(source: str, tokenizer) -> DecoderConfig:
  check_random(source)
  name = source.removeprefix(RANDOM)
  return dataclasses.replace(SIZES[name], vocab_size=len(tokenizer))


def _backbone(weights, spec: ModelSpec, mesh) -> dict:
  """The stacks of `spec.segments`, of a tree or of a place not yet read."""
  if not isinstance(weights, Opened):
    return cut_layers(weights, spec.segments)
  if mesh is None:
    tree = read_tree(weights.tensors, weights.config)
    return cut_layers(tree, spec.segments)
  boxed = abstract_params(spec)["backbone"]
  shards = shard_tree(boxed, mesh)
  check_divides(boxed, shards, mesh)
  return place_tree(
    weights.tensors, weights.config, segments=spec.segments, shards=shards
  )


def _kept_head(config, spec: ModelSpec, held, begun) -> dict:
  """Parameters of the main head that are not new; says which were left.

  Args:
    held: a published head, or parameters of the heads of a run.
    begun: the spec of that run, else None.
  """
  source = config.init["from"]
  if config.init.head == "keep":
    if begun is None:
      return _keep_head(spec, held, source)
    same = dataclasses.replace(begun.head, init=spec.head.init)
    if same != spec.head:
      raise UserError(
        f"config.init.head='keep': {source} has the head {begun.head}, "
        f"config.model describes {spec.head}: make them equal or set "
        "config.init.head=new."
      )
    return {k: v for k, v in held.items() if k not in ("tasks", "loss")}
  if held is not None:
    names = held.tensors if begun is None else held
    logging.warning(
      "%s: its reward head (%s) is not used, the head of this run is new "
      "(config.model.head_init=%s); config.init.head=keep keeps it",
      source,
      ", ".join(names),
      config.model.head_init,
    )
  return {}


def read_run(
  workdir: pathlib.Path, which: str, step: int | None, tokenizer
) -> tuple[ModelSpec, dict, int]:
  """(static spec, all parameters, step) of a run's checkpoint.

  What did not train is read from the base model again, and has to be what the
  run began with.

  Args:
    which: best or last.
    step: of the checkpoint; None takes the newest.
  """
  run = read_json(workdir / "run.json")
  config = ConfigDict(run["config"])
  decoder = DecoderConfig(**run["model"]["decoder"])
  spec = make_spec(config, decoder, tokenizer)
  params, step = load_params(workdir, which, step)
  trainable = config.train.trainable
  if trainable == "all":
    return spec, params, step
  begun, whole = init_from(config, tokenizer)
  if begun.decoder != spec.decoder:
    raise UserError(
      f"{workdir}: the base model {config.init['from']!r} is now "
      f"{begun.decoder}, the run was trained on {spec.decoder}. Put the same "
      "base model back."
    )
  frozen = split_trainable(whole, trainable)[1]
  check_base(workdir, digest(frozen))
  # One model, not two: whoever reads a run pays for no adapters.
  params = merge_lora(spec.lora, merge(params, frozen))
  return dataclasses.replace(spec, lora=None), params, step


def first_layers(
  decoder: DecoderConfig, weights, count: int
) -> tuple[DecoderConfig, Any]:
  """The decoder and its weights without the layers after the first `count`.

  What is cut off is not read: the final norm and the head read the states of
  layer `count`.

  Args:
    weights: a tree, a place not yet read, or None: to be drawn.
  """
  if not 0 < count <= decoder.layers:
    raise UserError(
      f"config.init.layers={count}: expected 1 to {decoder.layers}, the layers "
      "of this backbone, or 0 for all of them."
    )
  decoder = dataclasses.replace(decoder, layers=count)
  if isinstance(weights, Opened):
    weights = weights._replace(config=decoder)
  elif weights is not None:
    stack = jax.tree.map(lambda x: x[:count], weights["layers_0"])
    weights = weights | {"layers_0": stack}
  return decoder, weights


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
    if head.kind == "gain_bias":  # two numbers, no kernel
      gain, bias = (
        np.ravel(jax.device_get(own[k]))[0] for k in ("gain", "bias")
      )
      origin = f", kept from {config.init['from']}" if kept else ""
      lines.append(
        f"head{where}: gain_bias{origin}, gain {gain:.4g} and bias {bias:.4g}"
      )
      continue
    if kept:
      origin = f"kept from {config.init['from']}"
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
  """The static spec of a config over this decoder.

  An unembedding of its own that no loss and no head reads is left out.

  Args:
    tokenizer: None for a plan: which token a head reads does not matter there.
  """
  tasks = read_tasks(config)

  def head(task, c, key):
    if task.head.kind != "gain_bias" or tokenizer is None:
      return task.head
    token = tokenizer.get_vocab().get(c.verdict)
    if token is None:
      raise UserError(
        f"{key}.model.verdict={c.verdict!r} is no token of the tokenizer: "
        "expected one entry of its vocabulary, such as its EOS token "
        f"{tokenizer.eos_token!r}."
      )
    return dataclasses.replace(task.head, token=token)

  reads = any(
    task.loss.reads_language or (task.head and task.head.kind == "gain_bias")
    for task in tasks
  )
  if reads and not decoder.unembeds:
    raise UserError(
      f"config.init.from={config.init['from']!r} has no unembedding, because "
      "nothing read it when it was trained, but this run reads token logits "
      "(config.loss.language_coefficient, config.model.head='gain_bias'). "
      "Start from a language model."
    )
  if not decoder.tied:
    decoder = dataclasses.replace(decoder, unembeds=reads)
  segments = segments_for(config.train.trainable, decoder.layers)
  return ModelSpec(
    decoder=decoder,
    head=head(tasks[0], config.model, "config"),
    dtype=config.compute.dtype,
    results=config.compute.results,
    remat=config.compute.remat,
    attention=config.compute.attention,
    unrolled=config.compute.unrolled,
    segments=segments,
    frozen=frozen_segments(config.train.trainable, segments),
    tasks=tuple(
      (t.name, head(t, config.tasks[t.name].model, f"config.tasks.{t.name}"))
      for t in tasks[1:]
      if t.head is not None
    ),
    learned=learned(tasks),
    lora=_lora(config),
    dropout=float(config.model.dropout),
  )


def _lora(config) -> LoraSpec | None:
  """The adapters of a run whose config.train.trainable is "lora"."""
  if config.train.trainable != "lora":
    return None
  c = config.lora
  return LoraSpec(c.rank, float(c.alpha), tuple(c.targets))


def digest(params: dict) -> str:
  """sha256 of a parameter tree: names, shapes and every bit of the values.

  A checkpoint holds only what trained; this tells whether the rest, read from
  the base model again, is still what the run began with.
  """
  found = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
    name = f"{jax.tree_util.keystr(path)} {np.dtype(leaf.dtype)} {leaf.shape}"
    found.update(name.encode())
    # Of what is cut over several hosts none could hold a whole stack: a layer
    # at a time, which are the same bytes.
    spans = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
    layered = spans and leaf.ndim > 2
    for part in (leaf[i] for i in range(len(leaf))) if layered else (leaf,):
      whole = process_allgather(part, tiled=True) if spans else part
      found.update(np.ascontiguousarray(jax.device_get(whole)).data)
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
