"""What a language model says of given tokens, without [B, L, V] logits."""

import functools
import math

import jax
import jax.numpy as jnp
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
  its gradient summed over devices once, both in the dtype it comes in. Chunks
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
  tensor = mesh.shape.get("tensor", 1)
  columns = "tensor" if tensor > 1 and tokens.shape[1] % tensor == 0 else None
  line = PartitionSpec(row_axes(mesh, len(tokens)), columns)
  return jax.shard_map(
    run,
    mesh=mesh,
    in_specs=(line, PartitionSpec(), line),
    out_specs=line,
    check_vma=False,
  )(context, unembedding, tokens)


def _by_chunks(of_logits, context, unembedding, tokens, *, dtype, soft_cap):
  """The same on one device: logits of one chunk at a time."""
  table = unembedding.astype(jnp.float32)  # its gradient is summed in float32
  total = math.prod(tokens.shape)
  chunk = min(CHUNK, total)
  spare = -total % chunk
  states = jnp.pad(
    context.reshape(total, context.shape[-1]), ((0, spare), (0, 0))
  )
  wanted = jnp.pad(tokens.reshape(total), (0, spare))

  @jax.checkpoint
  def one_chunk(part):
    state, token = part
    logits = dot("sd,vd->sv", state, table, dtype=dtype)
    if soft_cap:
      logits = soften(logits, soft_cap)
    return of_logits(logits, token)

  found = jax.lax.map(
    one_chunk,
    (states.reshape(-1, chunk, states.shape[-1]), wanted.reshape(-1, chunk)),
  )
  return found.reshape(-1)[:total].reshape(tokens.shape)


def log_likelihood(
  logits: Float[Array, "*C V"], tokens: Int[Array, "*C"]
) -> Float[Array, "*C"]:
  """log p(token): its logit minus the logsumexp of all."""
  picked = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
  return picked - jax.nn.logsumexp(logits, axis=-1)
