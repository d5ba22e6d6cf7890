"""Backbone, pooling and head joined: params and batch to scores."""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rm_jax.heads import HEADS
from rm_jax.models.attention import Forest
from rm_jax.models.transformer import Decoder, DecoderConfig, unembedding
from rm_jax.pooling import POOLINGS, read_positions, segment_mean
from rm_jax.types import Batch, UserError


@dataclasses.dataclass(frozen=True)
class ModelSpec:
  """Everything static about a reward model; hashable, so jit can key on it."""

  decoder: DecoderConfig
  head: str
  head_init: str
  pooling: str
  dtype: str
  remat: bool
  segments: tuple

  def __post_init__(self):
    if self.head not in HEADS:
      raise UserError(
        f"config.model.head={self.head!r} is not known. Known: {sorted(HEADS)}."
      )
    if self.pooling not in POOLINGS:
      raise UserError(
        f"config.model.pooling={self.pooling!r} is not known. Known: "
        f"{sorted(POOLINGS)}."
      )


class Outputs(NamedTuple):
  """What a forward pass gives to the losses, float32."""

  scores: Float[Array, "N R S"]  # or [N, R, S, 3] from the step head
  context: Any  # [N, R, S, D] hidden states that predict the scored tokens
  unembedding: Any  # [V, D]


def modules(spec: ModelSpec) -> tuple[Decoder, nn.Module]:
  """The Linen modules of a reward model: backbone and head."""
  decoder = Decoder(spec.decoder, spec.segments, spec.dtype, spec.remat)
  return decoder, HEADS[spec.head](spec.head_init)


def init_boxed(spec: ModelSpec, key: jax.Array) -> dict:
  """Random parameters, boxed with their logical axes."""
  decoder, head = modules(spec)
  backbone_key, head_key = jax.random.split(key)
  tokens = jnp.zeros((1, 2), jnp.int32)
  forest = Forest(tokens + 1, tokens, tokens, tokens)
  pooled = jnp.zeros((1, 1, spec.decoder.width), jnp.float32)
  return {
    "backbone": decoder.init(backbone_key, tokens, forest)["params"],
    "head": head.init(head_key, pooled)["params"],
  }


def abstract_params(spec: ModelSpec) -> dict:
  """Shapes and logical axes of the parameters, without computing any."""
  init = functools.partial(init_boxed, spec)
  return jax.eval_shape(init, jax.random.key(0))


def init_params(spec: ModelSpec, key: jax.Array) -> dict:
  """Random parameters: {"backbone": ..., "head": ...}."""
  # Jitted: eagerly, every random array is a compilation of its own.
  return nn.unbox(jax.jit(init_boxed, static_argnums=0)(spec, key))


def forward(
  spec: ModelSpec, params: dict, batch: Batch, *, language: bool
) -> Outputs:
  """Scores at every slot of a batch.

  Args:
    params: {"backbone": ..., "head": ...} with the stacks of `spec.segments`.
    language: also return what the next-token loss needs. The token of a slot
      is predicted by the hidden state at its *parent*, wherever that lies in
      the row; the first token of a row has none and weight 0.
  """
  blocks, rows, length = batch.tokens.shape
  slots = batch.score_positions.shape[-1]

  def lines(x):  # [N, R, X] -> [N * R, X]: rows never meet in the backbone
    return x.reshape(blocks * rows, x.shape[-1])

  forest = Forest(
    lines(batch.group_ids),
    lines(batch.branch_ids),
    lines(batch.positions),
    lines(batch.fork_positions),
  )
  decoder, head = modules(spec)
  hidden = decoder.apply(
    {"params": params["backbone"]}, lines(batch.tokens), forest
  )
  columns = lines(batch.score_positions)
  pooled = read_positions(hidden, columns)
  scores = head.apply({"params": params["head"]}, pooled)
  scores = scores.reshape(blocks, rows, slots, *scores.shape[2:])
  if spec.pooling == "mean":
    scores = segment_mean(
      scores,
      batch.slot_completion,
      batch.score_where,
      num_segments=batch.completion_index.shape[-1],
    )
  if not language:
    return Outputs(scores, None, None)
  parents = jnp.take_along_axis(lines(batch.parents), columns, axis=1)
  context = read_positions(hidden, jnp.maximum(parents, 0))
  return Outputs(
    scores,
    context.reshape(blocks, rows, slots, -1),
    unembedding(params["backbone"], spec.decoder),
  )


def completion_scores(
  scores: Float[Array, "N R S"], batch: Batch
) -> Float[Array, "N M"]:
  """The score of each completion of each block; 0 where there is none."""
  blocks = scores.shape[0]
  flat = scores.reshape(blocks, -1)
  picked = jnp.take_along_axis(flat, batch.completion_index, axis=1)
  return jnp.where(batch.completion_where, picked, 0.0)
