"""Losses of a group of K completions, ranked or labelled, one value per group.

`ranks`: smaller is better, equal is tied, only their order matters. `where`:
False items take no part, whatever their score and rank hold, NaN included.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from rm_jax.losses.arguments import boolean, check_parameter, same_shape
from rm_jax.types import UserError


def all_pairs(
  scores: Float[ArrayLike, "*G K"],
  ranks: Int[ArrayLike, "*G K"],
  where: Bool[ArrayLike, "*G K"],
) -> Float[Array, "*G"]:
  """Mean Bradley-Terry loss over all ordered pairs, one value per group.

      loss = 1/P sum over real i, j with rank_i < rank_j of softplus(s_j - s_i)

  with P the number of those pairs. Ties give no pair; no pair gives 0.

  Source: Ouyang et al. 2022 (InstructGPT), arXiv:2203.02155, Eq. (1). There P
  is (K choose 2); here pairs that are tied or padding are not counted.

  Raises:
    ValueError: the shapes differ, or `where` holds weights.

  Example:
    >>> loss = all_pairs(jnp.array([2.0, 1.0, 0.0]), jnp.arange(3), True)
    >>> print(f"{loss:.4f}")
    0.2512
  """
  differences, ranks, real = _compare("all_pairs", scores, ranks, where)
  pairs = real & (ranks[..., :, None] < ranks[..., None, :])  # [*G, K, K]
  losses = jnp.where(pairs, jax.nn.softplus(differences), 0.0)
  # At least 1: a group without a pair is 0 / 1, value and gradient.
  return losses.sum((-2, -1)) / jnp.maximum(pairs.sum((-2, -1)), 1)


def plackett_luce(
  scores: Float[ArrayLike, "*G K"],
  ranks: Int[ArrayLike, "*G K"],
  where: Bool[ArrayLike, "*G K"],
) -> Float[Array, "*G"]:
  """Negative log-likelihood of the whole ranking, one value per group.

      loss = sum over i of -log(exp s_i / sum over j of exp s_j)
           = sum over i of softplus(log sum over j != i of exp(s_j - s_i))

  with i and j real and rank_j >= rank_i: each i is chosen among those not above
  it. The second form has no cancellation: logsumexp minus s_i would lose the
  small losses of confident groups to float32. Tied items stay in each other's
  denominators (Breslow); nobody left to beat gives 0. At K = 2 it is
  `bradley_terry`.

  Source: Plackett 1975; Xia et al. 2008 (ListMLE); Zhu et al. 2023,
  arXiv:2301.11270 (MLE_K), up to their 1/n over groups. Ties: Breslow 1974.

  Raises:
    ValueError: the shapes differ, or `where` holds weights.

  Example:
    >>> loss = plackett_luce(jnp.array([2.0, 1.0, 0.0]), jnp.arange(3), True)
    >>> print(f"{loss:.4f}")
    0.7209
  """
  terms, _ = _choices("plackett_luce", scores, ranks, where)
  return terms.sum(-1)


def plackett_luce_top(
  scores: Float[ArrayLike, "*G K"],
  ranks: Int[ArrayLike, "*G K"],
  where: Bool[ArrayLike, "*G K"],
  *,
  top: int,
) -> Float[Array, "*G"]:
  """Negative log-likelihood of the first `top` choices, one value per group.

      loss = the terms of plackett_luce of the real i with
             |{real j: rank_j < rank_i}| < top

  Who comes later only appears in denominators, so their order does not count.
  Items tied at the border are all kept. `top` >= K - 1 is `plackett_luce`.

  Source: Xia et al. 2009 (top-k consistency of ranking methods), the top-k
  ListMLE; top = 1 is the softmax cross-entropy of the best item.

  Raises:
    ValueError: the shapes differ, or `where` holds weights.
    UserError: `top` < 1, or NaN.

  Example:
    >>> scores = jnp.array([2.0, 1.0, 0.0])
    >>> print(f"{plackett_luce_top(scores, jnp.arange(3), True, top=1):.4f}")
    0.4076
  """
  if not top >= 1:  # NaN, too
    raise UserError(
      f"plackett_luce_top: expected top >= 1, got {top}. With no choice to "
      "explain the loss is always 0: leave the loss out instead."
    )
  terms, outranked_by = _choices("plackett_luce_top", scores, ranks, where)
  return jnp.where(outranked_by < top, terms, 0.0).sum(-1)


def listnet(
  scores: Float[ArrayLike, "*G K"],
  labels: Float[ArrayLike, "*G K"],
  where: Bool[ArrayLike, "*G K"],
  *,
  temperature: float,
) -> Float[Array, "*G"]:
  """Cross-entropy of two choices of the best completion, one value per group.

      loss = -sum over i of p_i log q_i
      p = softmax(labels / temperature),  q = softmax(scores)

  over real completions. It is least, the entropy of p and not 0, where the
  scores are the labels / temperature up to a constant: unlike in a ranking the
  size of the labels counts. One or no real completion gives 0.

  Source: Cao et al. 2007 (ListNet), the top-one probability. The temperature of
  the labels is ours; 1 is the paper's.

  Args:
    labels: a rating or another number per completion, larger is better.
    temperature: in units of the labels; towards 0 only the best one counts.

  Raises:
    ValueError: the shapes differ, or `where` holds weights.
    UserError: `temperature` is not positive.

  Example:
    >>> scores, labels = jnp.array([2.0, 1.0, 0.0]), jnp.array([3.0, 1.0, 1.0])
    >>> print(f"{listnet(scores, labels, True, temperature=1.0):.4f}")
    0.7271
  """
  check_parameter("listnet", "temperature", temperature, "(0, inf)")
  scores, labels, real = _real_items(
    "listnet", scores=scores, labels=labels, where=where
  )
  labels = labels.astype(jnp.float32) / temperature
  chances = jnp.exp(_log_softmax(labels, real))
  return -jnp.where(real, chances * _log_softmax(scores, real), 0.0).sum(-1)


def _log_softmax(values, real):
  """Returns log softmax over the real items, and 0 for the others."""
  # Finite where nothing is real or K = 0: infinity less itself is NaN.
  lowest = jnp.finfo(jnp.float32).min
  peak = jnp.where(real, values, lowest).max(-1, keepdims=True, initial=lowest)
  values = jnp.where(real, values - jax.lax.stop_gradient(peak), 0.0)
  total = jnp.where(real, jnp.exp(values), 0.0).sum(-1, keepdims=True)
  # 1 where nothing is real: log 0 is a NaN gradient behind a mask.
  total = jnp.where(real.any(-1, keepdims=True), total, 1.0)
  return jnp.where(real, values - jnp.log(total), 0.0)


def _choices(caller, scores, ranks, where):
  """Returns each item's term [*G, K], and how many real items outrank it."""
  differences, ranks, real = _compare(caller, scores, ranks, where)
  own = jnp.eye(ranks.shape[-1], dtype=bool)
  below = ranks[..., None, :] >= ranks[..., :, None]
  beaten = real & below & ~jnp.broadcast_to(own, real.shape)
  last = ~beaten.any(-1)  # nobody to beat, or padding
  logits = jnp.where(beaten, differences, -jnp.inf)
  # A row of -inf is NaN on the way, and stops a run under jax_debug_nans: give
  # it numbers, then drop it.
  logits = jnp.where(last[..., None], 0.0, logits)
  # initial: K = 0 has no maximum; the group's loss is then an empty sum.
  peak = jax.lax.stop_gradient(logits.max(-1, initial=-jnp.inf))
  logsumexp = peak + jnp.log(jnp.exp(logits - peak[..., None]).sum(-1))
  terms = jnp.where(last, 0.0, jax.nn.softplus(logsumexp))
  return terms, (real & ~below).sum(-1)


def _compare(caller, scores, ranks, where):
  """Returns s_j - s_i and who of (i, j) is real, [*G, K, K], and the ranks."""
  scores, ranks, real = _real_items(
    caller, scores=scores, ranks=ranks, where=where
  )
  differences = scores[..., None, :] - scores[..., :, None]
  return differences, ranks, real[..., :, None] & real[..., None, :]


def _real_items(caller, **arguments):
  """Returns float32 scores, 0 where not real, the second argument, where."""
  scores, others, where = same_shape(caller, **arguments)
  if not scores.ndim:
    raise ValueError(
      f"{caller}: expected scores with a last axis of K completions, got shape "
      "(). Pass [..., K]."
    )
  where = boolean(caller, "where", where)
  # Before any arithmetic: NaN * 0 is NaN, also in the gradient.
  return jnp.where(where, scores.astype(jnp.float32), 0.0), others, where
