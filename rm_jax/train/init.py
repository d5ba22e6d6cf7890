"""The parameters a run starts from."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from rm_jax.models.convert import load_pretrained
from rm_jax.models.sizes import SIZES
from rm_jax.reward_model import ModelSpec, init_params, modules
from rm_jax.train.optim import cut_layers, segments_for
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
  spec = make_spec(config, decoder)
  whole = dataclasses.replace(spec, segments=(decoder.layers,))
  if weights is None:
    params = init_params(whole, jax.random.fold_in(key, 0))
    weights = params["backbone"]
  _, head = modules(spec)
  pooled = jnp.zeros((1, 1, decoder.width), jnp.float32)
  params = {
    "backbone": cut_layers(weights, spec.segments),
    "head": nn.unbox(head.init(jax.random.fold_in(key, 1), pooled)["params"]),
  }
  return spec, params


def make_spec(config, decoder) -> ModelSpec:
  """The static spec of a config over this decoder."""
  return ModelSpec(
    decoder=decoder,
    head=config.model.head,
    head_init=config.model.head_init,
    pooling=config.model.pooling,
    dtype=config.compute.dtype,
    remat=config.compute.remat,
    segments=segments_for(config.train.trainable, decoder.layers),
  )
