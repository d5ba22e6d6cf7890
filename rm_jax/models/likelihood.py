"""What a language model says of given tokens, without [B, L, V] logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from rm_jax.models.attention import row_axes, soften
from rm_jax.models.dots import dot

CHUNK = 256  # tokens of a device whose logits exist at a time


def token_values(
  of_logits,
  context: Float[Array, "B S D"],
  unembedding: Float[Array, "V D"],
  tokens: Int[Array, "B S"],
  *,
  dtype: str,
  soft_cap: float,
) -> Float[Array, "B S"]:
  """A number for each token from the logits that predict it, in float32.

  On a mesh each device takes its own rows (and, over a tensor axis, its own
  columns) and holds the whole unembedding meanwhile: it is gathered once, and
  its gradient comes back in parts once, both in the dtype it comes in. Chunks
  of all rows together would be computed everywhere, and sum a gradient each.

  Args:
    of_logits: (logits [C, V], tokens [C]) -> [C].
    context: hidden states that predict the tokens: those at their parents.
    dtype: of the product with the unembedding.
    soft_cap: logits become soft_cap * tanh(logit / soft_cap); 0: they stay.
  """
  run = functools.partial(_by_chunks, of_logits, dtype=dtype, soft_cap=soft_cap)
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return run(context, unembedding, tokens)
  context, unembedding = _back_together(context, unembedding)

  def cut(axis, size):
    divides = axis in mesh.axis_names and size % mesh.shape[axis] == 0
    return axis if divides else None

  kept = cut("tensor", len(unembedding)), cut("fsdp", unembedding.shape[1])

  def gathered(context, part, tokens):
    for axis, over in enumerate(kept):
      if over:
        part = jax.lax.all_gather(part, over, axis=axis, tiled=True)
    return run(context, part, tokens)

  line = PartitionSpec(
    row_axes(mesh, len(tokens)), cut("tensor", tokens.shape[1])
  )
  return jax.shard_map(
    gathered,
    mesh=mesh,
    in_specs=(line, PartitionSpec(*kept), line),
    out_specs=line,
    check_vma=False,
  )(context, unembedding, tokens)


@jax.custom_vjp
def _back_together(context, unembedding):
  """Both as they are; their gradients are done before either is read.

  Else a compiler may send the unembedding's home last, and hold it whole, in
  float32, on every device through the backward pass of the layers.
  """
  return context, unembedding


_back_together.defvjp(
  lambda *both: (both, None),
  lambda _, gradients: jax.lax.optimization_barrier(gradients),
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 4, 5))
def _by_chunks(of_logits, context, unembedding, tokens, dtype, soft_cap):
  """The same on one device: logits of one chunk at a time, twice if trained.

  Its own gradient: that of the unembedding is summed over chunks in float32,
  whatever it crosses the mesh as, with no float32 copy of the unembedding.
  """

  def one(part):
    states, wanted = part
    logits = dot("sd,vd->sv", states, unembedding, dtype=dtype)
    return of_logits(soften(logits, soft_cap) if soft_cap else logits, wanted)

  found = jax.lax.map(one, (_cut(context), _cut(tokens)))
  return found.reshape(-1)[: tokens.size].reshape(tokens.shape)


def _cut(x: Float[Array, "B S *E"]) -> Float[Array, "N C *E"]:
  """Tokens in chunks, the last one filled up with zeros."""
  total = x.shape[0] * x.shape[1]
  chunk = min(CHUNK, total)
  flat = x.reshape(total, *x.shape[2:])
  padding = [(0, -total % chunk)] + [(0, 0)] * (flat.ndim - 1)
  return jnp.pad(flat, padding).reshape(-1, chunk, *x.shape[2:])


def _forward(of_logits, context, unembedding, tokens, dtype, soft_cap):
  found = _by_chunks(of_logits, context, unembedding, tokens, dtype, soft_cap)
  return found, (context, unembedding, tokens)


def _backward(of_logits, dtype, soft_cap, kept, cotangent):
  context, unembedding, tokens = kept

  def one(total, part):
    states, wanted, own = part
    logits = dot("sd,vd->sv", states, unembedding, dtype=dtype)

    def rest(x):
      return of_logits(soften(x, soft_cap) if soft_cap else x, wanted)

    (slope,) = jax.vjp(rest, logits)[1](own)
    total += dot("sv,sd->vd", slope, states, dtype=dtype)
    return total, dot("sv,vd->sd", slope, unembedding, dtype=dtype)

  table, states = jax.lax.scan(
    one,
    jnp.zeros(unembedding.shape, jnp.float32),
    (_cut(context), _cut(tokens), _cut(cotangent)),
  )
  states = states.reshape(-1, states.shape[-1])[: tokens.size]
  return (
    states.reshape(context.shape).astype(context.dtype),
    table.astype(unembedding.dtype),
    np.zeros(tokens.shape, jax.dtypes.float0),
  )


_by_chunks.defvjp(_forward, _backward)


def log_likelihood(
  logits: Float[Array, "*C V"], tokens: Int[Array, "*C"]
) -> Float[Array, "*C"]:
  """log p(token): its logit minus the logsumexp of all."""
  picked = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
  return picked - jax.nn.logsumexp(logits, axis=-1)
