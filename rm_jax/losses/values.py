"""Labels of supervised value functions: returns over the last axis, time.

They are what `squared_error`, `two_hot` or `hl_gauss` compares a prediction at
every token with, and are not differentiated through the values.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from rm_jax.losses.arguments import check_parameter, same_shape


def monte_carlo_targets(
  rewards: Float[ArrayLike, "*B T"], *, discount: float
) -> Float[Array, "*B T"]:
  """Discounted sum of what is still to come, one float32 value per token.

      G_t = r_t + discount G_(t+1),  G beyond the end 0

  Source: Sutton and Barto 2018, the return; with discount 1 and a reward at the
  last token alone every token gets that reward.

  Raises:
    ValueError: no axis of time.
    UserError: `discount` is not in [0, 1].

  Example:
    >>> print(monte_carlo_targets(jnp.array([0.0, 0.0, 1.0]), discount=0.5))
    [0.25 0.5  1.  ]
  """
  check_parameter("monte_carlo_targets", "discount", discount, "[0, 1]")
  rewards = _over_time("monte_carlo_targets", rewards=rewards)[0]
  return _sum_from_the_end(jnp.full_like(rewards, discount), rewards)


def td_lambda_targets(
  rewards: Float[ArrayLike, "*B T"],
  values: Float[ArrayLike, "*B T"],
  *,
  discount: float,
  trace: float,
) -> Float[Array, "*B T"]:
  """Lambda-returns, one float32 value per token; the values are constants.

      G_t = r_t + discount ((1 - trace) V_(t+1) + trace G_(t+1))

  with V and G beyond the end 0. Trace 1 is `monte_carlo_targets`; trace 0 looks
  one token ahead and trusts the values for the rest.

  Source: Sutton and Barto 2018, Exercise 12.1, the recursion of the
  lambda-return. With V_t added and subtracted it is V plus the advantage of
  GAE.

  Raises:
    ValueError: the shapes differ, or no axis of time.
    UserError: `discount` or `trace` is not in [0, 1].

  Example:
    >>> rewards, values = jnp.array([0.0, 0.0, 1.0]), jnp.array([0.2, 0.4, 0.8])
    >>> print(td_lambda_targets(rewards, values, discount=1.0, trace=0.5))
    [0.65 0.9  1.  ]
  """
  rewards, values = _over_time(
    "td_lambda_targets", rewards=rewards, values=values
  )
  one_completion = jnp.zeros(rewards.shape, jnp.int32)
  return _lambda_returns(
    "td_lambda_targets", rewards, values, one_completion, discount, trace
  )


def segmented_targets(
  rewards: Float[ArrayLike, "*B T"],
  values: Float[ArrayLike, "*B T"],
  segments: Int[ArrayLike, "*B T"],
  *,
  discount: float,
  trace: float,
) -> Float[Array, "*B T"]:
  """Lambda-returns of completions that follow one another in a row.

      G_t = r_t + discount ((1 - trace) V_(t+1) + trace G_(t+1)),
        V_(t+1) = G_(t+1) = 0 where segments_(t+1) differs from segments_t

  Each completion gets what `td_lambda_targets` gives it alone; no number of one
  enters another's, NaN included.

  Source: Sutton and Barto 2018, Exercise 12.1, per completion.

  Args:
    segments: integers; a new completion begins where the number changes.

  Raises:
    ValueError: the shapes differ, no axis of time, or segments are no integers.
    UserError: `discount` or `trace` is not in [0, 1].

  Example:
    >>> rewards, segments = jnp.array([0.0, 1.0, 0.0, 3.0]), [1, 1, 2, 2]
    >>> print(segmented_targets(
    ...   rewards, jnp.zeros(4), jnp.array(segments), discount=0.5, trace=1.0))
    [0.5 1.  1.5 3. ]
  """
  rewards, values, segments = _over_time(
    "segmented_targets", rewards=rewards, values=values, segments=segments
  )
  if not jnp.issubdtype(segments.dtype, jnp.integer):
    raise ValueError(
      f"segmented_targets: expected integer segments, got {segments.dtype}. "
      "Number the completions."
    )
  return _lambda_returns(
    "segmented_targets", rewards, values, segments, discount, trace
  )


def _over_time(caller, **arguments):
  rewards, *rest = same_shape(caller, **arguments)
  if not rewards.ndim:
    raise ValueError(
      f"{caller}: expected rewards with a last axis of time, got shape (). "
      "Pass [..., T]."
    )
  return [rewards.astype(jnp.float32), *rest]


def _lambda_returns(caller, rewards, values, segments, discount, trace):
  check_parameter(caller, "discount", discount, "[0, 1]")
  check_parameter(caller, "trace", trace, "[0, 1]")
  values = jax.lax.stop_gradient(values.astype(jnp.float32))
  more = segments[..., :-1] == segments[..., 1:]
  # The last token of a row has nothing after it.
  edge = [(0, 0)] * (rewards.ndim - 1) + [(0, 1)]
  more = jnp.pad(more, edge)[..., : rewards.shape[-1]]
  following = jnp.pad(values[..., 1:], edge)[..., : rewards.shape[-1]]
  following = jnp.where(more, following, 0.0)
  return _sum_from_the_end(
    jnp.where(more, discount * trace, 0.0),
    rewards + discount * (1.0 - trace) * following,
  )


def _sum_from_the_end(keeps, adds):
  """Returns x_t = adds_t + keeps_t x_(t+1) over the last axis, x at the end 0.

  In log2 T rounds, not T: maps x -> a + k x are joined in any grouping.
  """

  def join(later, earlier):
    keep = earlier[0] * later[0]
    # Where nothing is kept nothing is read: 0 * NaN is NaN.
    carried = jnp.where(earlier[0] == 0, 0.0, earlier[0] * later[1])
    return keep, earlier[1] + carried

  _, sums = jax.lax.associative_scan(
    join, (keeps, adds), reverse=True, axis=adds.ndim - 1
  )
  return sums
