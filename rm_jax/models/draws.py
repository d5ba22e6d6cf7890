"""One token from its logits: temperature, nucleus, and the draw itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

BLOCK = 256  # tokens whose mass is added up before any is looked at


def draw(
  logits: Float[Array, "B L V"],
  keys: Array,
  step: Int[Array, ""],
  *,
  temperature: float,
  top_p: float,
) -> Int[Array, "B L"]:
  """Token ids, each drawn by its key and the step; see `decode.sample`."""
  if temperature == 0:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
  below = logits - logits.max(axis=-1, keepdims=True)
  mass = jnp.exp(below / temperature)
  if top_p < 1:
    mass = nucleus(mass, top_p)
  fold = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (0, None))
  uniform = jax.vmap(jax.vmap(jax.random.uniform))(fold(keys, step))
  return invert(mass, uniform)


def nucleus(mass: Float[Array, "B L V"], top_p: float) -> Float[Array, "B L V"]:
  """The mass of the fewest tokens that hold `top_p` of it all, 0 elsewhere.

  Most probable first; where tokens tie at the border, all of them stay.
  `mass` lies in [0, 1]. The least mass that stays is found by bisection over
  the bits of a float, whose order is that of the numbers: 30 sums, where to
  sort 49,152 tokens takes ten times as long.

  Source: Holtzman et al. 2020 (ICLR), nucleus sampling.
  """

  def least(mass):  # [V / BLOCK, BLOCK]: XLA:CPU adds up blocks as vectors
    needed = top_p * mass.sum(axis=0).sum()

    def halve(_, bounds):
      low, high = bounds
      middle = low + (high - low) // 2
      border = jax.lax.bitcast_convert_type(middle, jnp.float32)
      held = jnp.where(mass >= border, mass, 0.0).sum(axis=0).sum()
      enough = held >= needed
      return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    above = np.float32(1).view(np.int32) + 1  # nothing weighs so much
    low, _ = jax.lax.fori_loop(0, 30, halve, (jnp.int32(0), jnp.int32(above)))
    return jax.lax.bitcast_convert_type(low, jnp.float32)

  # Row by row: a row stays in the cache of a core while it is searched.
  blocks = _blocks(mass)
  border = jax.lax.map(least, blocks.reshape(-1, *blocks.shape[2:]))
  return jnp.where(mass >= border.reshape(*mass.shape[:2], 1), mass, 0.0)


def invert(
  mass: Float[Array, "B L V"], uniform: Float[Array, "B L"]
) -> Int[Array, "B L"]:
  """First token at which the running sum exceeds uniform * the whole sum.

  In two stages, block and token: one running sum over the vocabulary costs
  forty times as much.
  """
  blocks = _blocks(mass)
  sums = jnp.cumsum(blocks.sum(axis=-1), axis=-1)
  goal = uniform * sums[..., -1]
  block = (sums <= goal[..., None]).sum(axis=-1)
  pick = functools.partial(jnp.take_along_axis, axis=2)
  before = jnp.where(block > 0, pick(sums, block[..., None] - 1)[..., 0], 0.0)
  inside = pick(blocks, block[..., None, None])[..., 0, :]
  passed = jnp.cumsum(inside, axis=-1) <= (goal - before)[..., None]
  # Rounding may pass a block's whole sum: its last token that weighs anything.
  last = BLOCK - 1 - jnp.argmax(inside[..., ::-1] > 0, axis=-1)
  return block * BLOCK + jnp.minimum(passed.sum(axis=-1), last)


def _blocks(mass):
  """[B, L, V] -> [B, L, V / BLOCK, BLOCK], filled up with 0."""
  mass = jnp.pad(mass, ((0, 0), (0, 0), (0, -mass.shape[-1] % BLOCK)))
  return mass.reshape(*mass.shape[:2], -1, BLOCK)
