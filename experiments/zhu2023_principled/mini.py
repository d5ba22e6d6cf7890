"""K-wise or pairwise likelihood of a linear reward, and pessimism, on W-LIN.

  rm-jax experiment zhu2023_principled --quick
  rm-jax experiment zhu2023_principled

Zhu, Jordan and Jiao 2023, arXiv:2301.11270: splitting rankings into all their
pairs (MLE_2) is consistent but less efficient than the Plackett-Luce likelihood
(MLE_K; Theorem 4.3), and the greedy policy of the estimate can stay 0.1 or more
below the best for any number of comparisons where one that assumes the worst
does not (Theorems 3.9, 3.10).

Splitting means estimates from one ranking are summed as if its pairs were
independent. Adjacent pairs only are a control: that estimate is not consistent.
"""

import numpy as np

D = 8
SIZE = 1.0  # standard deviation of an item's reward, in units of the noise
BOUND = 3.0  # of the weights of the bandit
WIDTH = 2 * BOUND  # of the ellipsoid: so far off an estimate can be

DESIGN = dict(
  title="Zhu et al.: K-wise or pairwise likelihood, and pessimism",
  source="Zhu, Jordan and Jiao 2023, arXiv:2301.11270, Theorems 3.9, 3.10, 4.3",
  claim=(
    "The Plackett-Luce likelihood of rankings estimates with less error than "
    "that of all their pairs; both are consistent."
  ),
  arms=dict(
    mle_k="Plackett-Luce likelihood of the ranking",
    mle_2="all pairs of the ranking",
    one_pair="one random pair of each ranking",
    adjacent="neighbours in the ranking only",
    bandit_greedy="bandit: best action of the estimate",
    bandit_pessimistic="bandit: best action of its lower bound",
  ),
  seeds=tuple(range(8)),
  quick_seeds=(0, 1, 2),
  columns={
    "log_error": "log error, K=9, most rankings",
    "log_error_k3": "the same, K=3",
    "log_error_k5": "the same, K=5",
    "log_error_thurstone": "the same, K=9, normal noise",
    "error": "error, K=9, most rankings",
    "error_few": "error, K=9, a tenth of them",
    "suboptimality": "regret of the bandit",
  },
  outcomes=(
    dict(
      name="log(error of mle_2 / error of mle_k), K=9",
      metric="log_error",
      arm="mle_2",
      less="mle_k",
      expected=1,
      published="above 0 (Theorem 4.3; simulated there, sizes unknown)",
      comparable="a Monte Carlo of the theorem at one design",
    ),
    dict(
      name="the same, K=3",
      metric="log_error_k3",
      arm="mle_2",
      less="mle_k",
      expected=1,
      published="above 0",
      comparable="as above",
    ),
    dict(
      name="the same, K=9, normal noise: both models are wrong",
      metric="log_error_thurstone",
      arm="mle_2",
      less="mle_k",
      expected=1,
      published="none",
      comparable="a control; errors are of the direction of theta",
    ),
    dict(
      name="log error of one_pair less mle_2, K=9",
      metric="log_error",
      arm="one_pair",
      less="mle_2",
      expected=1,
      published="none",
      comparable="ours",
    ),
    dict(
      name="regret of greedy less pessimistic",
      metric="suboptimality",
      arm="bandit_greedy",
      less="bandit_pessimistic",
      expected=1,
      published="0.1 or more for every n (Theorem 3.9)",
      comparable="a bandit in their manner; weights are bounded by 3",
    ),
  ),
  checks=(
    dict(
      name="mle_k is consistent: ten times the rankings, a fifth of the error",
      metric="shrinks",
      arm="mle_k",
      above=5.0,
    ),
    dict(name="mle_2 too", metric="shrinks", arm="mle_2", above=5.0),
    dict(name="adjacent is not", metric="shrinks", arm="adjacent", below=2.0),
  ),
  conditions=(),
  sizes=dict(
    whole=dict(repeats=8, count=10_000, bandits=2_000, plays=100_000),
    quick=dict(repeats=4, count=2_000, bandits=500, plays=10_000),
    two_steps=dict(repeats=2, count=3_000, bandits=10, plays=100),
  ),
  falsified="mle_2 has no more error than mle_k at K=9",
  tuning=None,
)

CASES = (  # (end of the metric's name, K, noise)
  ("", 9, "plackett_luce"),
  ("_k3", 3, "plackett_luce"),
  ("_k5", 5, "plackett_luce"),
  ("_thurstone", 9, "thurstone"),
)


def job(arm, seed, *, repeats, count, bandits, plays):
  """One estimator on `repeats` data sets of a seed: (metrics, no curve)."""
  if arm.startswith("bandit"):
    return {"suboptimality": regret(arm, seed, bandits, plays)}, []
  metrics = {}
  for name, k, noise in CASES:
    error = mean_error(arm, seed, k, noise, repeats, count)
    metrics |= {f"log_error{name}": np.log(error), f"error{name}": error}
  few = mean_error(arm, seed, 9, "plackett_luce", repeats, count // 10)
  return metrics | {"error_few": few, "shrinks": few / metrics["error"]}, []


def mean_error(arm, seed, k, noise, repeats, count) -> float:
  """Mean of |estimate - theta|^2; with normal noise, of their directions."""
  from rm_jax.data.worlds.linear import draw_ranked

  errors = []
  for repeat in range(repeats):
    rng = np.random.default_rng([seed, k, repeat, noise == "thurstone"])
    data = draw_ranked(rng, count=count, k=k, d=D, size=SIZE, noise=noise)
    found, theta = estimate(arm, data.features, rng), data.theta
    if noise == "thurstone":  # the scale of its noise is another
      found = found / np.linalg.norm(found)
      theta = theta / np.linalg.norm(theta)
    errors.append(np.sum((found - theta) ** 2))
  return float(np.mean(errors))


def estimate(arm, features, rng) -> np.ndarray:
  """theta of one set of rankings, items from best to worst."""
  from rm_jax.data.worlds.linear import ranked_pairs
  from rm_jax.evals import linear_fits as fits

  k = features.shape[1]
  if arm == "mle_k":
    return fits.fit(fits.plackett_luce_terms, features)
  pairs = ranked_pairs(k)
  if arm == "adjacent":
    pairs = pairs[pairs[:, 1] == pairs[:, 0] + 1]
  if arm == "one_pair":
    picked = pairs[rng.integers(len(pairs), size=len(features))]
    rows = np.arange(len(features))
    differences = features[rows, picked[:, 0]] - features[rows, picked[:, 1]]
  else:
    differences = fits.pair_differences(features, pairs)
  return fits.fit(fits.pairwise_terms, differences)


def regret(arm, seed, bandits, plays) -> float:
  """How far below the best action the chosen one is, mean over bandits."""
  from rm_jax.data.worlds.linear import draw_bandit
  from rm_jax.evals import linear_fits as fits

  lost = []
  for n in range(bandits):
    bandit = draw_bandit(np.random.default_rng([seed, n]), count=plays)
    seen = bandit.differences, bandit.counts
    theta = fits.bounded_fit(*seen, bandit.wins, bound=BOUND)
    values = bandit.features @ theta
    if arm == "bandit_pessimistic":
      values = fits.pessimistic_values(
        theta, bandit.features, *seen, width=WIDTH, ridge=1.0
      )
    reward = bandit.features @ bandit.theta
    lost.append(reward.max() - reward[values.argmax()])
  return float(np.mean(lost))
