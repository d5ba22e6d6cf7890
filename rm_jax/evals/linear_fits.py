"""Linear rewards fitted by Newton's method in float64: what theory speaks of.

The losses are those of rm_jax.losses on scores theta . features, in numpy so
that hundreds of fits take seconds.
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit, logsumexp

STEPS = 50
CLOSE = 1e-10  # of the Newton step
ROUNDS = 200  # of expectation and maximisation
GAINED = 1e-6  # nats per ranking in a round: from there on it is at its end


class Mixture(NamedTuple):
  """Populations of judges: the weights of each, and how many belong to it."""

  thetas: Float[np.ndarray, "C d"]
  shares: Float[np.ndarray, " C"]


def plackett_luce_terms(
  theta: Float[np.ndarray, " d"],
  features: Float[np.ndarray, "N K d"],
  weights: Float[np.ndarray, "N I"] | float = 1.0,
) -> tuple[float, np.ndarray, np.ndarray]:
  """(mean loss, gradient [d], Hessian [d, d]) of rankings, best item first.

      loss = 1/N sum_n sum_i w_ni logsumexp_{j >= i} (s_j - s_i)

  Source: Plackett 1975; Zhu et al. 2023, arXiv:2301.11270, MLE_K. With weight 0
  from place k on it is the likelihood of the first k places: the order of the
  items below is not read.

  Args:
    weights: of each choice, I = K - 1, or of whole rankings with I = 1.
  """
  scores = features @ theta
  scores = scores - scores.max(1, keepdims=True)
  odds = np.exp(scores)
  # Of items i and below, for every place i but the last.
  total = np.cumsum(odds[:, ::-1], 1)[:, ::-1][:, :-1]
  chance = odds[:, None, :] / total[..., None]  # [N, K - 1, K]
  chance = np.triu(np.ones(chance.shape[1:])) * chance
  weights = np.broadcast_to(weights, total.shape)
  loss = np.sum(weights * (np.log(total) - scores[:, :-1])) / len(scores)
  mean = chance @ features  # [N, K - 1, d]
  gradient = np.einsum("ni,nid->d", weights, mean - features[:, :-1])
  gradient = gradient / len(scores)
  spread = (weights[..., None] * chance).sum(1)  # [N, K]
  d = features.shape[-1]
  flat, means = features.reshape(-1, d), mean.reshape(-1, d)
  hessian = flat.T @ (spread.reshape(-1, 1) * flat)
  hessian = hessian - means.T @ (weights.reshape(-1, 1) * means)
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

  Raises:
    ValueError: no minimum was reached, as where the data are separable.
  """
  theta = np.zeros(data.shape[-1])
  now = terms(theta, data)
  for _ in range(STEPS):
    theta, now, step = _newton(terms, data, theta, now)
    if np.abs(step).max() < CLOSE:
      return theta
  raise ValueError(
    f"no minimum after {STEPS} Newton steps: {len(data)} items are too few for "
    f"{data.shape[-1]} weights, or separable."
  )


def _newton(terms, data, theta, now):
  """(theta, its terms, the step) after one Newton step.

  A step that raises the loss is halved.

  Args:
    now: the terms at `theta`.
  """
  loss, gradient, hessian = now
  step, size = np.linalg.solve(hessian, gradient), 1.0
  now = terms(theta - step, data)
  while now[0] > loss and size > 1e-6:
    size /= 2
    now = terms(theta - size * step, data)
  return theta - size * step, now, step


def ranking_log_likelihoods(
  thetas: Float[np.ndarray, "C d"], features: Float[np.ndarray, "N K d"]
) -> Float[np.ndarray, "N C"]:
  """Plackett-Luce log-likelihood of each ranking under each population."""
  scores = np.einsum("nkd,cd->nck", features, thetas)
  below = np.logaddexp.accumulate(scores[..., ::-1], axis=-1)[..., ::-1]
  return (scores - below).sum(-1)


def mixture_log_likelihoods(
  mixture: Mixture, features: Float[np.ndarray, "N K d"]
) -> Float[np.ndarray, " N"]:
  """log sum_c share_c P(ranking | population c), one value per ranking."""
  each = ranking_log_likelihoods(mixture.thetas, features)
  return logsumexp(each + np.log(mixture.shares), axis=1)


def memberships(
  mixture: Mixture, features: Float[np.ndarray, "N K d"]
) -> Float[np.ndarray, "N C"]:
  """P(population | ranking)."""
  each = ranking_log_likelihoods(mixture.thetas, features)
  each = each + np.log(mixture.shares)
  return np.exp(each - logsumexp(each, axis=1, keepdims=True))


def fit_mixture(
  features: Float[np.ndarray, "N K d"],
  *,
  components: int,
  starts: int,
  rng: np.random.Generator,
) -> Mixture:
  """Populations of Plackett-Luce judges by expectation and maximisation.

  Source: Liu et al. 2019, Learning Plackett-Luce mixtures from partial
  preferences; the model is theirs, the features are not.

  Each population takes one Newton step a round towards the rankings that belong
  to it: the rounds end where full maximisations would, in a fraction of the
  time (Lange 1995, A gradient algorithm locally equivalent to the EM
  algorithm).

  Args:
    starts: how often it begins anew, around the single fit; the likelihood has
      several maxima, and the highest that was found is returned.

  Raises:
    ValueError: from every start one population shrank to fewer rankings than
      it has weights, where its maximum is at infinity.
  """
  single = fit(plackett_luce_terms, features)
  found = []
  for _ in range(starts):
    thetas = single + rng.standard_normal((components, len(single)))
    mixture = Mixture(thetas, np.full(components, 1 / components))
    before = -np.inf
    for _ in range(ROUNDS):
      belongs = memberships(mixture, features)
      if belongs.sum(0).min() < len(single):
        break
      mixture = _step(mixture, features, belongs)
      now = mixture_log_likelihoods(mixture, features).mean()
      if now - before < GAINED:
        found.append((now, mixture))
        break
      before = now
    else:
      found.append((now, mixture))
  if not found:
    raise ValueError(
      f"from {starts} starts a population shrank to fewer rankings than its "
      f"{len(single)} weights: {len(features)} rankings do not tell "
      f"{components} populations apart."
    )
  return max(found, key=lambda one: one[0])[1]


def _step(mixture: Mixture, features, belongs) -> Mixture:
  """Each population a Newton step nearer to the rankings that belong to it."""
  thetas = []
  for theta, own in zip(mixture.thetas, belongs.T, strict=True):
    terms = functools.partial(plackett_luce_terms, weights=own[:, None])
    thetas.append(_newton(terms, features, theta, terms(theta, features))[0])
  return Mixture(np.stack(thetas), belongs.mean(0))


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
