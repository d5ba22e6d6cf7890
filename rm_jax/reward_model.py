"""Backbone, pooling and head joined: params and batch to scores."""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rm_jax.heads import HeadSpec
from rm_jax.models.likelihood import log_likelihood, token_values
from rm_jax.models.lora import LoraSpec, init_lora, with_adapters
from rm_jax.models.sight import Forest
from rm_jax.models.transformer import Decoder, DecoderConfig, unembedding
from rm_jax.pooling import read_positions, segment_mean, segment_sum
from rm_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class ModelSpec:
  """Everything static about a reward model; hashable, so jit can key on it."""

  decoder: DecoderConfig
  head: HeadSpec
  dtype: str
  remat: bool
  segments: tuple
  tasks: tuple = ()  # of (name, HeadSpec): the heads of further tasks
  learned: tuple = ()  # of (task, name, initial): what a loss learns
  frozen: int = 0  # how many of the segments, the first ones, do not train
  lora: LoraSpec | None = None  # adapters beside the backbone
  attention: str = "blocks"  # how it is computed: config.compute.attention
  results: str = "float32"  # dtype of what products give
  dropout: float = 0.0  # rate of residual dropout, where a batch has its ids
  unrolled: int = 2  # layers of the longest stack that is written out

  @property
  def decoder_module(self) -> Decoder:
    """The Linen module of the backbone."""
    return self.decoder_of(self.decoder, self.segments)

  def decoder_of(self, decoder: DecoderConfig, segments: tuple) -> Decoder:
    """The module of any decoder that computes as this model does."""
    return Decoder(
      decoder,
      segments,
      self.dtype,
      self.remat,
      self.attention,
      self.results,
      self.dropout,
      self.unrolled,
    )


class Outputs(NamedTuple):
  """What a forward pass gives to the losses, float32."""

  scores: Float[Array, "N R S"]  # or [N, R, S, A] from a head of A outputs
  context: Any  # [N, R, S, D] hidden states that predict the scored tokens
  unembedding: Any  # [V, D]
  soft_cap: float = 0.0  # of the logits they make together; 0: none
  tasks: Any = {}  # scores of the heads of further tasks, by name
  pooled: Any = None  # [N, R, S, D]
  learned: Any = {}  # {task: {name: scalar}}


def init_head(spec: ModelSpec, key: jax.Array) -> dict:
  """Random parameters of all heads, boxed with their logical axes.

  {..., "tasks": {name: {...}}, "loss": {task or "main": {name: scalar}}}: the
  main head's own, then those of further tasks and of losses, where there are.
  """
  pooled = jnp.zeros((1, 1, spec.decoder.width), jnp.float32)

  def init(head, key):
    row = (pooled[0, 0],) if head.kind == "gain_bias" else ()
    return head.module().init(key, pooled, *row)["params"]

  params = dict(init(spec.head, key))
  if spec.tasks:
    params["tasks"] = {
      name: init(head, jax.random.fold_in(key, n))
      for n, (name, head) in enumerate(spec.tasks)
    }
  for task, name, initial in spec.learned:
    own = params.setdefault("loss", {}).setdefault(task or "main", {})
    own[name] = jnp.float32(initial)
  return params


def init_boxed(spec: ModelSpec, key: jax.Array) -> dict:
  """Random parameters, boxed with their logical axes."""
  backbone_key, head_key = jax.random.split(key)
  # Two tokens are no row of the kernel's.
  decoder = dataclasses.replace(spec, attention="blocks").decoder_module
  params = {
    "backbone": _init_decoder(decoder, backbone_key),
    "head": init_head(spec, head_key),
  }
  if spec.lora is not None:
    key = jax.random.fold_in(key, 2)
    params["lora"] = init_lora(spec.lora, params["backbone"], key)
  return params


def _init_decoder(decoder: Decoder, key: jax.Array) -> dict:
  tokens = jnp.zeros((1, 2), jnp.int32)
  forest = Forest(tokens + 1, tokens, tokens, tokens)
  return decoder.init(key, tokens, forest)["params"]


def abstract_backbones(spec: ModelSpec) -> dict:
  """Shapes and logical axes of what is large, also under published heads.

  {"backbone": ...}, and {"head": {"reference": ...}} of an implicit reward.
  """

  def shapes(decoder):
    init = functools.partial(_init_decoder, decoder)
    return jax.eval_shape(init, jax.random.key(0))

  found = {"backbone": shapes(spec.decoder_module)}
  reference = spec.head.reference
  if reference is not None:
    own = shapes(spec.decoder_of(reference, (reference.layers,)))
    found["head"] = {"reference": own}
  return found


def abstract_params(spec: ModelSpec) -> dict:
  """Shapes and logical axes of the parameters, without computing any."""
  init = functools.partial(init_boxed, spec)
  return jax.eval_shape(init, jax.random.key(0))


def init_params(spec: ModelSpec, key: jax.Array) -> dict:
  """Random parameters: {"backbone": ..., "head": ...}."""
  # Jitted: eagerly, every random array is a compilation of its own.
  return nn.unbox(jax.jit(init_boxed, static_argnums=0)(spec, key))


def _lines(x):
  """[N, R, X] -> [N * R, X]: rows never meet in the backbone."""
  return x.reshape(-1, *x.shape[2:])


def _forest(batch: Batch) -> Forest:
  return Forest(
    _lines(batch.group_ids),
    _lines(batch.branch_ids),
    _lines(batch.positions),
    _lines(batch.fork_positions),
  )


def frozen_states(
  spec: ModelSpec, backbone: dict, batch: Batch
) -> Float[Array, "N R L D"]:
  """What the first `spec.frozen` stacks give: `forward` takes it as `hidden`.

  The same for a token in its tree at every step of a run, float32.
  """
  states = spec.decoder_module.apply(
    {"params": backbone}, _lines(batch.tokens), _forest(batch), end=spec.frozen
  )
  return states.reshape(*batch.tokens.shape, -1)


def forward(
  spec: ModelSpec,
  params: dict,
  batch: Batch,
  *,
  language: bool,
  hidden: bool = False,
) -> Outputs:
  """Scores at every slot of a batch.

  Args:
    params: {"backbone": ..., "head": ...} with the stacks of `spec.segments`;
      the frozen ones are not read where the batch has their states. "lora"
      where `spec.lora` is.
    language: also return what the next-token loss needs. The token of a slot
      is predicted by the hidden state at its *parent*, wherever that lies in
      the row; the first token of a row has none and weight 0.
    hidden: also return the pooled hidden states.
  """
  blocks, rows, _ = batch.tokens.shape

  def unfold(x):
    return x.reshape(blocks, rows, *x.shape[1:])

  known = {}
  if batch.hidden is not None:
    known = dict(stream=_lines(batch.hidden), begin=spec.frozen)
  if batch.dropout_ids is not None:
    known["dropout_ids"] = _lines(batch.dropout_ids)
  states = spec.decoder_module.apply(
    with_adapters(spec.lora, params),
    _lines(batch.tokens),
    _forest(batch),
    **known,
  )
  columns = _lines(batch.score_positions)
  pooled = read_positions(states, columns)
  c = spec.decoder
  table = unembedding(params["backbone"], c) if c.unembeds else None

  def context(of):  # what predicts the tokens of the slots
    parents = jnp.take_along_axis(_lines(batch.parents), columns, axis=1)
    return read_positions(of, jnp.maximum(parents, 0))

  def likelihood(of, table, c):
    tokens = jnp.take_along_axis(_lines(batch.tokens), columns, axis=1)
    found = token_values(
      log_likelihood,
      context(of),
      table.astype(spec.results),
      tokens,
      dtype=spec.dtype,
      soft_cap=c.final_soft_cap,
    )
    return unfold(found)

  def implicit(head, own):
    """beta (log policy - log reference) of the token at each slot."""
    c, reference = head.reference, own["reference"]
    decoder = spec.decoder_of(c, (c.layers,))
    theirs = decoder.apply(
      {"params": reference}, _lines(batch.tokens), _forest(batch)
    )
    ours = likelihood(states, table, spec.decoder)
    return head.beta * (ours - likelihood(theirs, unembedding(reference, c), c))

  def score(head, own):
    more = ()
    if head.kind == "gain_bias":
      more = (table[head.token],)
    elif head.kind == "verdict":
      more = (table[jnp.asarray(head.verdicts)],)
    elif head.kind == "gated":
      prompt = _prompt_states(unfold(pooled), batch)
      more = (prompt.reshape(pooled.shape),)
    if head.kind == "implicit":
      scores = implicit(head, own)
    else:
      scores = unfold(head.module().apply({"params": own}, pooled, *more))
    if head.pooling not in ("mean", "sum"):
      return scores
    over = functools.partial(
      segment_mean if head.pooling == "mean" else segment_sum,
      segments=batch.slot_completion,
      where=batch.score_where,
      num_segments=batch.completion_index.shape[-1],
    )
    return over(scores) if scores.ndim == 3 else jax.vmap(over, -1, -1)(scores)

  heads = dict(params["head"])
  tasks, learned = heads.pop("tasks", {}), heads.pop("loss", {})
  outputs = Outputs(
    scores=score(spec.head, heads),
    context=None,
    unembedding=None,
    tasks={name: score(head, tasks[name]) for name, head in spec.tasks},
    pooled=unfold(pooled).astype(jnp.float32) if hidden else None,
    learned={"" if k == "main" else k: v for k, v in learned.items()},
  )
  if not language:
    return outputs
  return outputs._replace(
    context=unfold(context(states)),
    unembedding=table.astype(spec.results),  # as which it crosses the mesh
    soft_cap=spec.decoder.final_soft_cap,
  )


def _prompt_states(
  pooled: Float[Array, "N R S D"], batch: Batch
) -> Float[Array, "N R S D"]:
  """At every slot the hidden state at the prompt's end of its completion.

  With pooling `prompt_and_last` a completion has slots at two columns of its
  row and its score is read at the later one. (As many slots at each as there
  are outputs to be read: the mean of equal states is the state.)
  """
  blocks = batch.score_positions.shape[0]
  flat = batch.score_positions.reshape(blocks, -1)
  read = jnp.take_along_axis(flat, batch.completion_index, axis=1)  # [N, M]
  own = jnp.take_along_axis(
    read, batch.slot_completion.reshape(blocks, -1), axis=1
  )
  before = batch.score_positions < own.reshape(batch.score_positions.shape)
  over = functools.partial(
    segment_sum,
    segments=batch.slot_completion,
    where=batch.score_where & before,
    num_segments=batch.completion_index.shape[-1],
  )
  count = over(jnp.ones(before.shape, jnp.float32))
  total = jax.vmap(over, -1, -1)(pooled.astype(jnp.float32))
  return total / jnp.maximum(count, 1.0)[..., None]


def completion_scores(
  scores: Float[Array, "N R S"], batch: Batch
) -> Float[Array, "N M"]:
  """The score of each completion of each block; 0 where there is none."""
  blocks = scores.shape[0]
  flat = scores.reshape(blocks, -1)
  picked = jnp.take_along_axis(flat, batch.completion_index, axis=1)
  return jnp.where(batch.completion_where, picked, 0.0)
