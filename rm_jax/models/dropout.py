"""Residual dropout, drawn for a token and not for a place in a batch."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

SITES = (
  2  # of a layer: what attention adds to the stream, and what the MLP adds
)


def drop(
  x: Float[Array, "B L D"],
  ids: UInt32[Array, "B L"],
  site: Int[Array, ""],
  *,
  rate: float,
) -> Float[Array, "B L D"]:
  """x with every entry 0 with chance `rate`, the others divided by 1 - rate.

      kept_d = hash(id of the token, site, d) >= rate 2^32

  So the mean of an entry is what it was, and the mask of a token is the same
  wherever the token stands: copies of a trunk in several rows lose the same
  entries, on any mesh, and a backward pass that computes a layer again too.

  A hash: a key of `jax.random` for each token takes ten times as long, to
  compile and to run (a CPU; 1,536 tokens of width 32).

  Source: Srivastava et al. 2014 (JMLR 15), in the form that scales in training;
  where it stands is Vaswani et al. 2017, arXiv:1706.03762, section 5.4: what a
  sub-layer gives, before it is added (here after its own norm, if it has one).

  Args:
    ids: of `rm_jax.data.dropout`: of the token in this train step.
    site: SITES * layer + 0 or 1, so that no two masks of a token are one.
    rate: in [0, 1).
  """
  channels = _mixed(jnp.arange(x.shape[-1], dtype=jnp.uint32))
  # One off: the hash of 0 is 0, and site 0 would leave the ids as they are.
  tokens = _mixed(ids ^ _mixed(jnp.asarray(site + 1, jnp.uint32)))
  bits = _mixed(tokens[..., None] ^ channels[None, None])
  kept = bits >= jnp.uint32(round(rate * 2**32))
  return jnp.where(kept, x / (1 - rate), jnp.zeros((), x.dtype))


def _mixed(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
  """One to one; every bit of x moves every bit of the result.

  Source: Wellons 2018, the constants of "lowbias32".
  """
  x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)
