"""Sampling: prompts in, completions that the decoder writes out.

A decoding step is a forward of the same decoder over rows that hold the next
token of every completion of one prompt: a tree with the prompt as its trunk.
Earlier keys and values come from a cache, those of a prompt once for all of
its completions.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from tqdm import tqdm

from rm_jax.models.attention import Past, soften
from rm_jax.models.dots import dot
from rm_jax.models.draws import draw
from rm_jax.models.sight import Forest
from rm_jax.models.transformer import Decoder, DecoderConfig, unembedding
from rm_jax.types import UserError

# Completions in a batch, at most. Of 32, 128 and 256 the fastest on two cores
# (bench/decode.py): fewer do not pay for reading the weights.
SIDE_BY_SIDE = 128
CACHE_BYTES = 1 << 30  # of keys and values in a batch, at most
SHORTEST = 16  # columns of a prompt: this, or a power of two above it
DTYPES = ("bfloat16", "float32")


class Rule(NamedTuple):
  """Everything static about the sampling of one batch."""

  config: DecoderConfig
  dtype: str
  max_tokens: int
  temperature: float
  top_p: float


def sample(
  config: DecoderConfig,
  params: dict,
  prompts: list[list[int]],
  *,
  samples: int,
  max_tokens: int,
  temperature: float,
  top_p: float,
  stop: tuple[int, ...],
  seed: int,
  dtype: str,
) -> list[list[list[int]]]:
  """`samples` completions of every prompt, as token ids.

      mass = exp(logits / temperature), 0 outside the `nucleus`
      token = first one at which the running sum of mass exceeds u * its total
      u = uniform(fold_in of the seed with prompt index, sample index, step)

  So what is drawn for a prompt depends on its place in the list, and neither
  on the other prompts nor on how they are batched; but where u falls within
  rounding (1e-6) of a border, another batch size may draw the neighbour.

  Args:
    params: the canonical tree (one stack of layers), numpy or jax.
    prompts: token ids, of any lengths.
    max_tokens: of a completion, its end included. Room for so many keys and
      values is taken at once.
    temperature: 0 takes the most probable token; the samples are then equal.
    top_p: 1 draws from the whole vocabulary.
    stop: ids that end a completion; the one that did is its last token.
    dtype: of the matrix products and the cache; bfloat16 or float32.

  Raises:
    UserError: an empty prompt, or a number or token id out of its range.
  """
  found = continue_from(
    config,
    params,
    prompts,
    [[len(prompt)] for prompt in prompts],
    samples=samples,
    max_tokens=max_tokens,
    temperature=temperature,
    top_p=top_p,
    stop=stop,
    seed=seed,
    dtype=dtype,
  )
  return [completions for (completions,) in found]


def continue_from(
  config: DecoderConfig,
  params: dict,
  prompts: list[list[int]],
  forks: list[list[int]],
  *,
  samples: int,
  max_tokens: int,
  temperature: float,
  top_p: float,
  stop: tuple[int, ...],
  seed: int,
  dtype: str,
) -> list[list[list[list[int]]]]:
  """`samples` completions of prefixes of every prompt: by prompt and fork.

  A prompt is encoded once for all its prefixes: a completion from a fork sees
  the tokens below it. As `sample` draws them, sample n of fork f by the number
  f * samples + n. A batch is as wide as the most forks of a prompt ask for, so
  prompts with equally many cost least.

  Args:
    forks: of each prompt how many of its tokens the prefixes have, 1 or more.

  Raises:
    UserError: as `sample`; a fork that its prompt does not have.
  """
  stop = tuple(stop)
  rule = Rule(config, str(dtype), max_tokens, float(temperature), float(top_p))
  _check(rule, prompts, samples, stop)
  _check_forks(prompts, forks)
  found = [[[[] for _ in range(samples)] for _ in own] for own in forks]
  most = max(map(len, forks), default=0)
  if not most:
    return found
  # Longest first: neighbours share their padding, and memory that does not
  # suffice is missed at once.
  order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
  rows, width = _batch_shape(
    rule, len(prompts), _bucket(rule, len(prompts[order[0]])), most * samples
  )
  params = jax.tree.map(jnp.asarray, params)
  layers, table = cut(rule, params)
  ends_by = np.array(stop, np.int32)
  bar = tqdm(
    total=sum(map(len, forks)) * samples,
    desc="sample",
    unit="completion",
    disable=None,
  )
  for begin in range(0, len(order), rows):
    batch = order[begin : begin + rows]
    tokens = np.zeros((rows, _bucket(rule, len(prompts[batch[0]]))), np.int32)
    lengths = np.ones(rows, np.int32)
    index = np.full(rows, -1, np.int32)  # rows without a prompt stay -1
    at = np.ones((rows, most), np.int32)
    count = np.zeros(rows, np.int32)  # completions of each row
    index[: len(batch)] = batch
    for row, i in enumerate(batch):
      tokens[row, : len(prompts[i])] = prompts[i]
      lengths[row] = len(prompts[i])
      at[row, : len(forks[i])] = forks[i]
      count[row] = len(forks[i]) * samples
    trunk, hidden = prefill(rule, params, tokens, lengths, at)
    for first in range(0, most * samples, width):
      number = np.arange(first, first + width, dtype=np.int32)
      where = number < count[:, None]
      fork = np.minimum(number // samples, most - 1)
      keys = _keys(jax.random.key(seed), index, number)
      state = (trunk, hidden[:, fork], at[:, fork], keys, where)
      drawn, ends = jax.device_get(
        _decode(rule, layers, table, *state, ends_by)
      )
      for row, column in np.argwhere(where):
        ids = drawn[row, column, : ends[row, column]].tolist()
        of, n = divmod(int(number[column]), samples)
        found[index[row]][of][n] = ids
      bar.update(int(where.sum()))
  bar.close()
  return found


# ---------------------------------------------------------------- one batch


@functools.partial(jax.jit, static_argnums=0)
def cut(rule: Rule, params: dict) -> tuple[dict, Float[Array, "V D"]]:
  """The tree with a subtree for every layer, and the unembedding; rounded.

  To cut a layer out of its stack and to round it at every step would cost as
  much as to compute with it. What the residual stream adds up stays float32:
  the embedding table, and the norms.
  """
  c = rule.config
  layers = {
    f"layers_{n}": jax.tree.map(
      lambda x, n=n: x[n].astype(rule.dtype) if x.ndim == 3 else x[n],
      params["layers_0"],
    )
    for n in range(c.layers)
  }
  table = unembedding(params, c).astype(rule.dtype)
  return {**params, **layers}, table


@functools.partial(jax.jit, static_argnums=0)
def prefill(
  rule: Rule,
  params: dict,
  tokens: Int[Array, "B T"],
  lengths: Int[Array, " B"],
  forks: Int[Array, "B F"],
) -> tuple[list, Float[Array, "B F D"]]:
  """(keys, values) of the trunks, by layer; hidden states before the forks."""
  c = rule.config
  columns = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
  columns = jnp.broadcast_to(columns, tokens.shape)
  real = (columns < lengths[:, None]).astype(jnp.int32)
  forest = Forest(real, 0 * columns, columns, 0 * columns)
  decoder = Decoder(c, (c.layers,), rule.dtype, remat=False)
  hidden, sown = decoder.apply(
    {"params": params}, tokens, forest, mutable=["intermediates"]
  )
  attention = sown["intermediates"]["layers_0"]["attn"]
  k, v = (
    attention[name][0].swapaxes(2, 3).astype(rule.dtype)  # [N, B, J, T, d]
    for name in ("keys", "values")
  )
  trunk = [(k[n], v[n]) for n in range(c.layers)]
  return trunk, jnp.take_along_axis(hidden, forks[..., None] - 1, axis=1)


@jax.jit
def _keys(key, index, number):
  """The key of every completion [B, L]: the seed's with prompt and sample."""
  fold = jax.random.fold_in
  prompts = jax.vmap(fold, (None, 0))(key, index)
  return jax.vmap(jax.vmap(fold, (None, 0)), (0, None))(prompts, number)


@functools.partial(jax.jit, static_argnums=0)
def _decode(
  rule, params, table, trunk, hidden, forks, keys, where, stop
) -> tuple[Int[Array, "B L M"], Int[Array, "B L"]]:
  """Completions of a batch of trunks, and how many tokens each has."""
  put = jax.lax.dynamic_update_slice_in_dim

  def write(state, hidden, own):
    """Draws a token at every end and puts it there."""
    step, tokens, ends, done, _ = state
    logits = dot("bld,vd->blv", hidden, table, dtype=rule.dtype)
    if rule.config.final_soft_cap:
      logits = soften(logits, rule.config.final_soft_cap)
    drawn = draw(
      logits, keys, step, temperature=rule.temperature, top_p=rule.top_p
    )
    tokens = put(tokens, drawn[..., None], step, axis=2)
    ends = jnp.where(done, ends, step + 1)
    done |= (drawn[..., None] == stop[None, None]).any(axis=-1)
    return step + 1, tokens, ends, done, own

  def advance_and_write(state):
    step, tokens, _, _, own = state
    last = jax.lax.dynamic_index_in_dim(tokens, step - 1, 2, keepdims=False)
    return write(
      state, *advance(rule, params, trunk, own, last, forks, step - 1)
    )

  def unfinished(state):
    step, _, _, done, _ = state
    return (step < rule.max_tokens) & ~done.all()

  tokens = jnp.zeros((*where.shape, rule.max_tokens), jnp.int32)
  nothing = jnp.zeros(where.shape, jnp.int32)
  own = empty_branches(rule, *where.shape)
  state = (jnp.int32(0), tokens, nothing, ~where, own)
  state = write(state, hidden, own)
  _, tokens, ends, _, _ = jax.lax.while_loop(
    unfinished, advance_and_write, state
  )
  return tokens, ends


def empty_branches(rule: Rule, rows: int, width: int) -> list:
  """(keys, values) of every layer, with room for max_tokens in each branch."""
  c = rule.config
  shape = (rows, width, c.kv_heads, rule.max_tokens, c.head_dim)
  return [(jnp.zeros(shape, rule.dtype),) * 2 for _ in range(c.layers)]


def advance(
  rule: Rule,
  params: dict,
  trunk: list,
  own: list,
  last: Int[Array, "B L"],
  forks: Int[Array, "B L"],
  column: Int[Array, ""],
) -> tuple[Float[Array, "B L D"], list]:
  """Hidden states after one more token of every branch; the branches with it.

  Args:
    params: what `cut` returns.
    trunk: (keys, values) of every layer, what `prefill` returns.
    own: the same of the branches, which hold `column` tokens.
    last: the tokens.
    forks: trunk tokens that each branch sees.
  """
  c = rule.config
  branches = 1 + jnp.arange(last.shape[1], dtype=jnp.int32)[None]
  branches = jnp.broadcast_to(branches, last.shape)
  forest = Forest(jnp.ones_like(forks), branches, forks + column, forks)
  past = tuple(Past(*t, *o) for t, o in zip(trunk, own, strict=True))
  decoder = Decoder(c, (c.layers,), rule.dtype, remat=False)
  hidden, sown = decoder.apply(
    {"params": params}, last, forest, past, mutable=["intermediates"]
  )
  layers = (sown["intermediates"][f"layers_{n}"] for n in range(c.layers))
  return hidden, [
    (x["attn"]["keys"][0], x["attn"]["values"][0]) for x in layers
  ]


# ---------------------------------------------------------------- sizes


def _bucket(rule: Rule, length: int) -> int:
  """Columns for a prompt of this length: few shapes are compiled."""
  columns = max(SHORTEST, 1 << (length - 1).bit_length())
  return min(columns, rule.config.max_positions or columns)


def _batch_shape(rule, prompts, length, samples) -> tuple[int, int]:
  """(prompts, samples of each) in a batch: full ones, as equal as can be."""
  c = rule.config
  bytes_each = 2 * jnp.dtype(rule.dtype).itemsize  # a key and a value
  room = CACHE_BYTES // (bytes_each * c.layers * c.kv_heads * c.head_dim)
  most = max(1, min(SIDE_BY_SIDE, (room - length) // rule.max_tokens))
  width = _even(samples, most)
  most = min(SIDE_BY_SIDE // width, room // (length + width * rule.max_tokens))
  return _even(prompts, max(1, most)), width


def _even(count: int, most: int) -> int:
  """The size of the fewest equal parts of at most `most`."""
  return -(-count // -(-count // most))


def _check(rule, prompts, samples, stop):
  size = rule.config.vocab_size
  at_least_one = {"samples": samples, "max_tokens": rule.max_tokens}
  for name, value in at_least_one.items():
    if value < 1:
      raise UserError(f"{name}={value} must be 1 or more.")
  if not 0 <= rule.temperature < float("inf"):
    raise UserError(
      f"temperature={rule.temperature} must be 0 (the most probable token) or "
      "more."
    )
  if not 0 < rule.top_p <= 1:
    raise UserError(
      f"top_p={rule.top_p} must be above 0 and at most 1 (the whole "
      "vocabulary)."
    )
  if rule.dtype not in DTYPES:
    raise UserError(f"dtype={rule.dtype!r} is not known. Known: {DTYPES}.")
  for i, prompt in enumerate(prompts):
    if not len(prompt):
      raise UserError(
        f"prompts[{i}]: expected one token or more, got none; begin it with "
        "the BOS token."
      )
  most = rule.config.max_positions
  for i, prompt in enumerate(prompts):
    if most and len(prompt) + rule.max_tokens > most:
      raise UserError(
        f"prompts[{i}]: {len(prompt)} tokens and max_tokens={rule.max_tokens} "
        f"are {len(prompt) + rule.max_tokens}, the decoder has positions for "
        f"{most}; shorten the prompt or max_tokens."
      )
  named = {"stop": stop} | {f"prompts[{i}]": x for i, x in enumerate(prompts)}
  for name, ids in named.items():
    wrong = [x for x in ids if not 0 <= x < size]
    if wrong:
      raise UserError(
        f"{name}: expected token ids below {size}, the decoder's vocabulary, "
        f"got {wrong[0]}; use the tokenizer of the weights."
      )


def _check_forks(prompts, forks):
  if len(forks) != len(prompts):
    raise UserError(
      f"forks: expected one list for each of the {len(prompts)} prompts, got "
      f"{len(forks)}."
    )
  for i, (prompt, own) in enumerate(zip(prompts, forks, strict=True)):
    wrong = [f for f in own if not 1 <= f <= len(prompt)]
    if wrong:
      raise UserError(
        f"forks[{i}]: expected 1 to {len(prompt)}, the tokens of the prompt, "
        f"got {wrong[0]}."
      )
