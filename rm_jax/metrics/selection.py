"""What is gained by taking the completion of the highest score."""

import numpy as np
from jaxtyping import Float

from rm_jax.metrics.checks import same_shape
from rm_jax.types import ArrayLike, UserError


def best_of_n(
  proxy: Float[ArrayLike, "G M"], gold: Float[ArrayLike, "G M"], n: int
) -> Float[np.ndarray, " G"]:
  """Expected gold of the best of n by proxy, one value per group; exact.

  The expectation is over all subsets of n of the M completions, each as likely:
  with the completions sorted by proxy, the m-th of M is the best of a subset
  with probability

      C(m - 1, n - 1) / C(M, n)

  and completions of equal proxy share theirs equally. No sampling, no bias; n=1
  is the mean of gold, n = M its value at the highest proxy.

  Source: the unbiased estimator of Nakano et al. 2021 (WebGPT),
  arXiv:2112.09332, App. I, used by Gao et al. 2022, arXiv:2210.10760.

  Raises:
    ValueError: not two equal shapes [G, M], a NaN, or n outside of 1 ... M.

  Example:
    >>> value = best_of_n([[0.1, 0.2, 0.3]], [[3.0, 0.0, 6.0]], 2)
    >>> print(f"{value[0]:.4f}")
    4.0000
  """
  proxy, gold = same_shape("best_of_n", proxy=proxy, gold=gold)
  if proxy.ndim != 2:
    raise ValueError(
      f"best_of_n: expected proxy and gold [G, M], got {proxy.shape}. A single "
      "group is [1, M]."
    )
  size = proxy.shape[1]
  if not (1 <= n <= size and n == int(n)):
    raise UserError(
      f"best_of_n: expected n from 1 to the {size} completions of a group, got "
      f"{n}. Subsets are drawn without replacement."
    )
  # C(m - 1, n - 1) / C(M, n) from m = M down: no factorial, no overflow.
  m = np.arange(size, 0, -1)
  at_most = np.cumprod(np.append(1.0, np.maximum(m[:-1] - n, 0) / m[:-1]))
  chance = (at_most * n / m)[::-1]
  order = np.argsort(proxy, axis=1, kind="stable")
  proxy = np.take_along_axis(proxy, order, axis=1)
  gold = np.take_along_axis(gold, order, axis=1)
  # Runs of equal proxy, numbered through all groups; each shares its chance.
  starts = np.ones(proxy.shape, bool)
  starts[:, 1:] = proxy[:, 1:] != proxy[:, :-1]
  run = np.cumsum(starts) - 1
  chance = np.broadcast_to(chance, proxy.shape).ravel()
  share = np.bincount(run, weights=chance) / np.bincount(run)
  return (share[run].reshape(gold.shape) * gold).sum(1)
