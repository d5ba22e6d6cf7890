"""Newton fits of linear rewards: their losses are those of rm_jax.losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rm_jax.data.worlds.linear import (
  draw_bandit,
  draw_mixed,
  draw_ranked,
  ranked_pairs,
)
from rm_jax.evals import linear_fits as fits
from rm_jax.losses import LOSSES


def ranked(count=40, k=4, d=3, seed=0):
  return draw_ranked(
    np.random.default_rng(seed),
    count=count,
    k=k,
    d=d,
    size=1.0,
    noise="plackett_luce",
  )


def ours(theta, features):
  """Mean of rm_jax.losses.plackett_luce, items from best to worst."""
  ranks = jnp.broadcast_to(jnp.arange(features.shape[1]), features.shape[:2])
  where = jnp.ones(features.shape[:2], bool)
  scores = jnp.asarray(features, jnp.float32) @ theta
  return LOSSES["plackett_luce"](scores, ranks, where).mean()


def pairwise(theta, differences):
  score = jnp.asarray(differences, jnp.float32) @ theta
  return LOSSES["bradley_terry"](score, jnp.zeros_like(score)).mean()


def test_terms_are_those_of_the_losses():
  # Wrong: a last place that counts, a Hessian without the means' part.
  data = ranked()
  theta = np.array([0.5, -1.0, 0.3])
  pairs = fits.pair_differences(data.features, ranked_pairs(4))
  for terms, loss, x in (
    (fits.plackett_luce_terms, ours, data.features),
    (fits.pairwise_terms, pairwise, pairs),
  ):
    value, gradient, hessian = terms(theta, x)
    at, x = jnp.asarray(theta, jnp.float32), jnp.asarray(x, jnp.float32)
    want = jax.jit(  # one compilation, not one per operation
      lambda t, x, f=loss: (f(t, x), jax.grad(f)(t, x), jax.hessian(f)(t, x))
    )(at, x)
    assert value == pytest.approx(float(want[0]), rel=1e-5)
    np.testing.assert_allclose(gradient, want[1], atol=1e-5)
    np.testing.assert_allclose(hessian, want[2], atol=1e-4)


def test_weights_of_places_and_of_rankings_are_those_of_the_losses():
  # Wrong: a gradient without the weights, places counted from the last.
  data = ranked()
  theta = np.array([0.5, -1.0, 0.3])
  scores = jnp.asarray(data.features @ theta, jnp.float32)
  ranks = jnp.broadcast_to(jnp.arange(4), scores.shape)
  where = jnp.ones(scores.shape, bool)
  top = LOSSES["plackett_luce_top"](scores, ranks, where, top=2)
  first = (np.arange(3) < 2).astype(float)
  half = np.arange(40)[:, None] % 2
  value, gradient, hessian = fits.plackett_luce_terms(
    theta, data.features, first * half
  )
  assert value == pytest.approx(float((half[:, 0] * top).sum() / 40), rel=1e-5)
  for n, step in enumerate(1e-5 * np.eye(3)):  # slopes of what is above
    ahead, behind = (
      fits.plackett_luce_terms(theta + s, data.features, first * half)
      for s in (step, -step)
    )
    assert gradient[n] == pytest.approx((ahead[0] - behind[0]) / 2e-5, abs=1e-7)
    np.testing.assert_allclose(
      hessian[n], (ahead[1] - behind[1]) / 2e-5, atol=1e-7
    )


def test_likelihoods_of_populations_add_up():
  data = ranked(count=6)
  thetas = np.array([[0.5, -1.0, 0.3], [0.0, 0.0, 0.0]])
  own = fits.ranking_log_likelihoods(thetas, data.features)
  assert own[:, 1] == pytest.approx(-np.log(24.0))  # 4 items, all orders alike
  loss, *_ = fits.plackett_luce_terms(thetas[0], data.features)
  assert own[:, 0].mean() == pytest.approx(-loss)
  mixture = fits.Mixture(thetas, np.array([0.3, 0.7]))
  want = np.log(0.3 * np.exp(own[:, 0]) + 0.7 / 24)
  assert fits.mixture_log_likelihoods(mixture, data.features) == pytest.approx(
    want
  )
  belongs = fits.memberships(mixture, data.features)
  assert belongs[:, 0] == pytest.approx(0.3 * np.exp(own[:, 0] - want))


def test_a_mixture_finds_who_ranked():
  # Wrong: components that stay alike, memberships that do not reach the fit.
  data = draw_mixed(
    np.random.default_rng(6), count=800, k=7, d=4, size=1.0, style=1.5
  )
  found = fits.fit_mixture(
    data.features, components=2, starts=2, rng=np.random.default_rng(7)
  )
  errors = ((found.thetas[None] - data.thetas[:, None]) ** 2).sum(-1)
  assert errors.min(1).max() < 0.1 * errors.max()
  assert sorted(errors.argmin(1)) == [0, 1]
  assert found.shares == pytest.approx([0.5, 0.5], abs=0.06)
  own = fits.memberships(found, data.features).argmax(1)
  same = np.mean(own == data.population)
  assert max(same, 1 - same) > 0.9


def test_a_mixture_is_where_its_likelihood_does_not_grow():
  # Wrong: rounds that end because a step was cut short.
  data = draw_mixed(
    np.random.default_rng(6), count=800, k=7, d=4, size=1.0, style=1.5
  )
  found = fits.fit_mixture(
    data.features, components=2, starts=1, rng=np.random.default_rng(7)
  )

  def value(thetas, share):
    mixture = fits.Mixture(thetas, np.array([share, 1 - share]))
    return fits.mixture_log_likelihoods(mixture, data.features).mean()

  share, h = found.shares[0], 1e-3
  best = value(found.thetas, share)
  for place in np.ndindex(found.thetas.shape):
    for sign in (1, -1):
      moved = found.thetas.copy()
      moved[place] += sign * h
      # To second order only: half h^2 times a curvature of about 1.
      assert value(moved, share) - best < 1e-6, place
  assert max(value(found.thetas, share + x) for x in (h, -h)) - best < 1e-6


def test_a_population_of_hardly_any_rankings_is_none():
  # Judges who agree and few of them: a second population ends as one that a
  # few rankings separate, with weights that grow for ever.
  data = ranked(count=12, k=3, d=3)
  with pytest.raises(ValueError, match=r"4 starts .* 3 weights: 12 rankings"):
    fits.fit_mixture(
      data.features, components=4, starts=4, rng=np.random.default_rng(0)
    )


def test_all_pairs_of_a_ranking_are_instructgpts_loss():
  data = ranked()
  theta = np.array([0.5, -1.0, 0.3])
  differences = fits.pair_differences(data.features, ranked_pairs(4))
  scores = jnp.asarray(data.features @ theta, jnp.float32)
  ranks = jnp.broadcast_to(jnp.arange(4), scores.shape)
  loss = LOSSES["all_pairs"](scores, ranks, jnp.ones(scores.shape, bool))
  value = fits.pairwise_terms(theta, differences)[0]
  assert value == pytest.approx(float(loss.mean()), rel=1e-5)


def test_a_fit_is_where_the_gradient_vanishes_and_nears_the_truth():
  data = ranked(count=4_000, k=5)
  found = fits.fit(fits.plackett_luce_terms, data.features)
  gradient = fits.plackett_luce_terms(found, data.features)[1]
  assert np.abs(gradient).max() < 1e-9
  assert np.abs(found - data.theta).max() < 0.2


def test_separable_data_have_no_fit():
  with pytest.raises((ValueError, np.linalg.LinAlgError)):
    fits.fit(fits.pairwise_terms, np.array([[1.0], [2.0]]))


def test_pairs_cost_what_theory_says_where_all_items_are_alike():
  """At theta = 0 the variances have the ratio 1 / corr^2 of two scores.

  The estimates are linear in scores of the places: k-wise the exponential ones
  (sums of 1/j), pairwise the places themselves. For K = 9: 8/7.
  """
  k, d, count, repeats = 9, 2, 400, 150
  savage = np.cumsum(1 / np.arange(k, 0, -1))
  want = 1 / np.corrcoef(savage, np.arange(k))[0, 1] ** 2
  assert want == pytest.approx(8 / 7, abs=1e-3)
  rng = np.random.default_rng(0)
  errors = np.zeros(2)
  for _ in range(repeats):
    features = rng.standard_normal((count, k, d))  # any order is as likely
    differences = fits.pair_differences(features, ranked_pairs(k))
    errors += [
      np.sum(fits.fit(fits.plackett_luce_terms, features) ** 2),
      np.sum(fits.fit(fits.pairwise_terms, differences) ** 2),
    ]
  # 150 x 2 squares of numbers that correlate by sqrt(7/8): an error of 0.05.
  assert errors[1] / errors[0] == pytest.approx(want, abs=0.15)
  assert errors[1] > errors[0]


def test_one_comparison_alone_goes_to_the_bound_and_pessimism_does_not_follow():
  bandit = draw_bandit(np.random.default_rng(0), count=100_000)
  bandit = bandit._replace(wins=np.array([52_498.0, 1.0]))  # the wrong one won
  seen = bandit.differences, bandit.counts
  theta = fits.bounded_fit(*seen, bandit.wins, bound=3.0)
  assert theta[0] == pytest.approx(3.0)
  assert theta[1] == pytest.approx(np.log(52_498 / 47_502), abs=1e-4)
  assert (bandit.features @ theta).argmax() == 0  # worth -0.9
  low = fits.pessimistic_values(
    theta, bandit.features, *seen, width=6.0, ridge=1.0
  )
  assert low.argmax() == 3  # worth 0.1, the best
