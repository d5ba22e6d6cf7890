"""Linear rewards fitted by Newton's method in float64: what theory speaks of.

The losses are those of rm_jax.losses on scores theta . features, in numpy so
that hundreds of fits take seconds.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit

STEPS = 50
CLOSE = 1e-10  # of the Newton step


def plackett_luce_terms(
  theta: Float[np.ndarray, " d"], features: Float[np.ndarray, "N K d"]
) -> tuple[float, np.ndarray, np.ndarray]:
  """(mean loss, gradient [d], Hessian [d, d]) of rankings, best item first.

      loss = 1/N sum_n sum_i logsumexp_{j >= i} (s_j - s_i)

  Source: Plackett 1975; Zhu et al. 2023, arXiv:2301.11270, MLE_K.
  """
  scores = features @ theta
  scores = scores - scores.max(1, keepdims=True)
  weights = np.exp(scores)
  # Of items i and below, for every place i but the last.
  total = np.cumsum(weights[:, ::-1], 1)[:, ::-1][:, :-1]
  chance = weights[:, None, :] / total[..., None]  # [N, K - 1, K]
  chance = np.triu(np.ones(chance.shape[1:])) * chance
  loss = np.sum(np.log(total) - scores[:, :-1]) / len(scores)
  mean = chance @ features  # [N, K - 1, d]
  gradient = (mean - features[:, :-1]).sum((0, 1)) / len(scores)
  spread = chance.sum(1)  # [N, K]
  d = features.shape[-1]
  flat, means = features.reshape(-1, d), mean.reshape(-1, d)
  hessian = flat.T @ (spread.reshape(-1, 1) * flat) - means.T @ means
  return float(loss), gradient, hessian / len(scores)


def pairwise_terms(
  theta: Float[np.ndarray, " d"], differences: Float[np.ndarray, "P d"]
) -> tuple[float, np.ndarray, np.ndarray]:
  """(mean loss, gradient, Hessian) of pairs: softplus(-theta . difference).

  Args:
    differences: features of the chosen item less those of the rejected one.
  """
  score = differences @ theta
  wrong = expit(-score)
  loss = np.logaddexp(0.0, -score).mean()
  gradient = -(wrong @ differences) / len(score)
  hessian = differences.T @ ((wrong * (1 - wrong))[:, None] * differences)
  return float(loss), gradient, hessian / len(score)


def fit(terms, data: np.ndarray) -> Float[np.ndarray, " d"]:
  """The theta that minimises the loss `terms` on `data`, by Newton steps.

  Steps that raise the loss are halved.

  Raises:
    ValueError: no minimum was reached, as where the data are separable.
  """
  theta = np.zeros(data.shape[-1])
  loss, gradient, hessian = terms(theta, data)
  for _ in range(STEPS):
    step = np.linalg.solve(hessian, gradient)
    if np.abs(step).max() < CLOSE:
      return theta
    size = 1.0
    now = terms(theta - step, data)
    while now[0] > loss and size > 1e-6:
      size /= 2
      now = terms(theta - size * step, data)
    theta = theta - size * step
    loss, gradient, hessian = now
  raise ValueError(
    f"no minimum after {STEPS} Newton steps: {len(data)} items are too few for "
    f"{data.shape[-1]} weights, or separable."
  )


def pair_differences(
  features: Float[np.ndarray, "N K d"], pairs: Int[np.ndarray, "P 2"]
) -> Float[np.ndarray, "NP d"]:
  """Features of chosen less rejected, of the same places in every ranking."""
  chosen, rejected = features[:, pairs[:, 0]], features[:, pairs[:, 1]]
  return (chosen - rejected).reshape(-1, features.shape[-1])


def bounded_fit(
  differences: Float[np.ndarray, "P d"],
  counts: Float[np.ndarray, " P"],
  wins: Float[np.ndarray, " P"],
  *,
  bound: float,
) -> Float[np.ndarray, " d"]:
  """Bradley-Terry over comparisons by count, every |theta_i| <= bound.

      loss = sum_p wins_p softplus(-s_p) + (counts_p - wins_p) softplus(s_p)

  The bound stands in for the bounded set that the theory maximises over: one
  comparison alone has its maximum at infinity.
  """
  from scipy.optimize import minimize

  def objective(theta):
    score = differences @ theta
    lost = counts - wins
    loss = wins @ np.logaddexp(0, -score) + lost @ np.logaddexp(0, score)
    return loss, (counts * expit(score) - wins) @ differences

  found = minimize(
    objective,
    np.zeros(differences.shape[1]),
    jac=True,
    method="L-BFGS-B",
    bounds=[(-bound, bound)] * differences.shape[1],
    options=dict(ftol=1e-15, gtol=1e-10),
  )
  return found.x


def pessimistic_values(
  theta: Float[np.ndarray, " d"],
  features: Float[np.ndarray, "A d"],
  differences: Float[np.ndarray, "P d"],
  counts: Float[np.ndarray, " P"],
  *,
  width: float,
  ridge: float,
) -> Float[np.ndarray, " A"]:
  """The least reward of each action over the ellipsoid around theta.

      theta . phi - width |phi|_{(S + ridge I / n)^-1} / sqrt(n)
      S = sum_p counts_p x_p x_p' / n

  Source: Zhu et al. 2023, arXiv:2301.11270, Algorithm 1, with the reference
  vector 0.
  """
  gram = (differences.T * counts) @ differences
  inverse = np.linalg.inv(gram + ridge * np.eye(len(theta)))
  reach = np.sqrt(np.einsum("ad,de,ae->a", features, inverse, features))
  return features @ theta - width * reach
