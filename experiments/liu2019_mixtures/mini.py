"""Rankings of two populations: one Plackett-Luce model, or a mixture. On W-LIN.

  rm-jax experiment liu2019_mixtures --quick
  rm-jax experiment liu2019_mixtures

ListMLE (Xia et al. 2008) is the Plackett-Luce likelihood of a ranking. Liu,
Zhao, Liao, Lu and Xia 2019 (AAAI, Learning Plackett-Luce mixtures from partial
preferences) fit several populations of judges to rankings, also to partial
ones. No number of theirs is compared with.

Half of the judges like a style that the other half dislikes; they agree about
the rest. A ranking does not say whose it is. The held-out likelihood of a
mixture is that of a judge whose population is unknown.
"""

import functools

import numpy as np

K, D = 7, 8
SIZE, STYLE = 1.0, 0.5  # standard deviations in reward; the noise is Gumbel
WHOLE = 0.1  # share of the rankings whose order below TOP is known, partial
TOP = 2
STARTS = 3
ALIKE = ("single_alike", "mixture_alike", "top_2", "dropped")

DESIGN = dict(
  title="Plackett-Luce mixtures: two populations of judges",
  source=(
    "Liu et al. 2019, AAAI, Learning Plackett-Luce mixtures from partial "
    "preferences; Xia et al. 2008, ListMLE"
  ),
  claim=(
    "Rankings of judges who disagree are more likely under a mixture than "
    "under one Plackett-Luce model."
  ),
  arms=dict(
    single="one Plackett-Luce model",
    mixture="two components",
    pairs="Bradley-Terry on all pairs",
    truth="the judges' own weights, nothing fitted",
    single_alike="one model; judges who agree",
    mixture_alike="two components; judges who agree",
    top_2="judges who agree; a tenth whole, of the others the first two",
    dropped="the same without those others",
  ),
  seeds=tuple(range(8)),
  quick_seeds=(0, 1, 2),
  columns=dict(
    log_likelihood="held-out log-likelihood of a ranking",
    auc="who ranked: area under the curve",
    log_error="log error of the weights",
    pair_accuracy="accuracy of pairs",
  ),
  outcomes=(
    dict(
      name="log-likelihood of mixture less single",
      metric="log_likelihood",
      arm="mixture",
      less="single",
      expected=1,
      published="mixtures fit better; no number compared",
      comparable="linear rewards of random features here",
    ),
    dict(
      name="of mixture less pairs",
      metric="log_likelihood",
      arm="mixture",
      less="pairs",
      expected=1,
      published="none",
      comparable="ours",
    ),
    dict(
      name="of mixture less single, judges who agree",
      metric="log_likelihood",
      arm="mixture_alike",
      less="single_alike",
      expected=-1,
      published="none",
      comparable="a control: what a component too many costs",
    ),
    dict(
      name="of top_2 less dropped: partial rankings",
      metric="log_likelihood",
      arm="top_2",
      less="dropped",
      expected=1,
      published="partial preferences are used; no number compared",
      comparable="as above",
    ),
    dict(
      name="of whole rankings less top_2",
      metric="log_likelihood",
      arm="single_alike",
      less="top_2",
      expected=1,
      published="none",
      comparable="ours: what the places below two are worth",
    ),
  ),
  checks=(
    dict(
      name="the judges' own weights tell who ranked",
      metric="auc",
      arm="truth",
      above=0.8,
    ),
    dict(
      name="no model is more than 0.05 above the judges' own",
      metric="log_likelihood",
      arm="mixture",
      less="truth",
      below=0.05,
    ),
    dict(
      name="the mixture is found: at most 0.05 below them",
      metric="log_likelihood",
      arm="truth",
      less="mixture",
      below=0.05,
    ),
    dict(
      name="pairs are won as often as the closed form says",
      metric="pair_gap",
      arm="truth",
      below=0.02,
    ),
    dict(
      name="and a mixture gains nothing where judges agree",
      metric="log_likelihood",
      arm="mixture_alike",
      less="single_alike",
      below=0.01,
    ),
  ),
  conditions=(
    dict(
      name="it gains 0.05 nats per ranking",
      metric="log_likelihood",
      arm="mixture",
      less="single",
      above=0.05,
    ),
    dict(
      name="and tells who ranked, area 0.8",
      metric="auc",
      arm="mixture",
      above=0.8,
    ),
  ),
  sizes=dict(
    whole=dict(count=2_000, test=4_000),
    quick=dict(count=600, test=1_000),
    two_steps=dict(count=400, test=100),
  ),
  falsified="single has the held-out likelihood of mixture, or more",
  tuning=None,
)


@functools.lru_cache(maxsize=4)
def data(seed: int, count: int, test: int, style: float):
  """(training, held-out) rankings of the judges of a seed."""
  from rm_jax.data.worlds.linear import draw_mixed

  rng = np.random.default_rng([2019, seed])
  both = draw_mixed(rng, count=count + test, k=K, d=D, size=SIZE, style=style)
  return tuple(
    both._replace(features=both.features[s], population=both.population[s])
    for s in (slice(count), slice(count, None))
  )


def job(arm, seed, *, count, test):
  """One model on the rankings of a seed: (metrics, no curve)."""
  from rm_jax.evals import linear_fits as fits

  train, held = data(seed, count, test, 0.0 if arm in ALIKE else STYLE)
  mixture = estimate(arm, train, np.random.default_rng([7, seed]))
  own = fits.mixture_log_likelihoods(mixture, held.features)
  # The nearest component is compared: they come in no order.
  errors = ((mixture.thetas[None] - held.thetas[:, None]) ** 2).sum(-1).min(1)
  metrics = {
    "log_likelihood": float(own.mean()),
    "log_error": float(np.log(errors.mean())) if arm != "truth" else 0.0,
    "auc": told_apart(mixture, held),
    "pair_gap": pair_gap(held),
    "pair_accuracy": pair_accuracy(mixture, held.features),
  }
  return metrics, []


def estimate(arm, train, rng):
  """The Mixture of an arm; of one component where it has one."""
  from rm_jax.data.worlds.linear import ranked_pairs
  from rm_jax.evals import linear_fits as fits

  if arm == "truth":
    return fits.Mixture(train.thetas, np.full(2, 0.5))
  if arm.startswith("mixture"):
    return fits.fit_mixture(
      train.features, components=2, starts=STARTS, rng=rng
    )
  features, terms = train.features, fits.plackett_luce_terms
  whole = int(WHOLE * len(features))
  if arm == "pairs":
    terms = fits.pairwise_terms
    features = fits.pair_differences(features, ranked_pairs(K))
  elif arm == "dropped":
    features = features[:whole]
  elif arm == "top_2":
    known = np.arange(K - 1) < TOP
    weights = np.where(np.arange(len(features))[:, None] < whole, 1.0, known)
    terms = functools.partial(terms, weights=weights)
  return fits.Mixture(fits.fit(terms, features)[None], np.ones(1))


def told_apart(mixture, held) -> float:
  """P(a ranking of the first population looks more like it than one of the
  second): 1/2 of one component, and where judges agree.
  """
  from rm_jax.evals.linear_fits import memberships

  if len(mixture.shares) == 1:
    return 0.5
  belongs = memberships(mixture, held.features)[:, 0]
  first, second = (np.sort(belongs[held.population == p]) for p in (0, 1))
  below = np.searchsorted(second, first, "left")
  tied = np.searchsorted(second, first, "right") - below
  area = float(np.mean(below + tied / 2) / len(second))
  return max(area, 1 - area)  # components come in no order


def pair_gap(held) -> float:
  """How far the share of pairs that gold's better one wins is from its chance.

  In a Plackett-Luce ranking the better of two is ahead with probability
  sigmoid(|difference of rewards|), whatever else is ranked.
  """
  from scipy.special import expit

  reward = np.einsum("nkd,nd->nk", held.features, held.thetas[held.population])
  first, second = np.triu_indices(K, 1)
  ahead = reward[:, first] - reward[:, second]
  return float(abs(np.mean(ahead > 0) - np.mean(expit(np.abs(ahead)))))


def pair_accuracy(mixture, features) -> float:
  """Share of held-out pairs that the mean reward of the components orders."""
  reward = features @ (mixture.shares @ mixture.thetas)
  first, second = np.triu_indices(K, 1)
  return float(np.mean(reward[:, first] > reward[:, second]))
