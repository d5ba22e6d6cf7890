"""Losses with ties against their models, whose parameters they get back."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rm_jax.losses import LEARNED, LOSSES, bradley_terry, davidson, rao_kupper

TIES = {"davidson": davidson, "rao_kupper": rao_kupper}
DIFFERENCES = [-30.0, -4.0, -0.5, 0.0, 1.5, 30.0]
LOG_TIES = [-8.0, -0.5, 0.0, 2.0, 12.0]


def davidson_chances(chosen, rejected, log_tie):
  """(chosen, rejected, tied) from strengths e^score: the model as printed."""
  a, b, nu = math.exp(chosen), math.exp(rejected), math.exp(log_tie)
  total = a + b + nu * math.sqrt(a * b)
  return a / total, b / total, nu * math.sqrt(a * b) / total


def rao_kupper_chances(chosen, rejected, log_tie):
  a, b, theta = math.exp(chosen), math.exp(rejected), 1 + math.exp(log_tie)
  return (
    a / (a + theta * b),
    b / (theta * a + b),
    (theta**2 - 1) * a * b / (a + theta * b) / (theta * a + b),
  )


CHANCES = {"davidson": davidson_chances, "rao_kupper": rao_kupper_chances}


@pytest.mark.parametrize("log_tie", LOG_TIES)
@pytest.mark.parametrize("name", TIES)
def test_equal_their_models(name, log_tie):
  # Catches a missing root of the product, theta on the wrong side, ties that
  # count as a choice, and theta^2 + 1.
  loss = functools.partial(TIES[name], log_tie=log_tie)
  for d in DIFFERENCES:
    chances = CHANCES[name](d / 2, -d / 2, log_tie)
    assert math.isclose(sum(chances), 1.0, rel_tol=1e-9)
    want = [-math.log(chance) for chance in chances]
    got = [
      loss(d / 2, -d / 2, False),
      loss(-d / 2, d / 2, False),
      loss(d / 2, -d / 2, True),
    ]
    # Where a chance is 1 - 1e-14 its logarithm has no digits in float64.
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", TIES)
@pytest.mark.parametrize("log_tie", [-0.5, 3.0])
def test_who_is_called_chosen_does_not_matter_in_a_tie(name, log_tie):
  # Catches a tie that pulls one side up: gradients are mirrored, and push the
  # scores together.
  loss = TIES[name]
  value, slopes = jax.value_and_grad(loss, (0, 1))(
    1.0, -0.5, True, log_tie=log_tie
  )
  swapped, mirrored = jax.value_and_grad(loss, (0, 1))(
    -0.5, 1.0, True, log_tie=log_tie
  )
  np.testing.assert_allclose(value, swapped, rtol=1e-6)
  np.testing.assert_allclose(slopes, mirrored[::-1], rtol=1e-6)
  assert slopes[0] > 0 > slopes[1]


@pytest.mark.parametrize("d", DIFFERENCES)
@pytest.mark.parametrize("name", TIES)
def test_without_ties_it_is_bradley_terry(name, d):
  # Catches a constant that is left over where no tie is ever seen.
  value, slope = jax.value_and_grad(TIES[name])(d, 0.0, False, log_tie=-80.0)
  want, want_slope = jax.value_and_grad(bradley_terry)(d, 0.0)
  np.testing.assert_allclose(value, want, rtol=1e-6)
  np.testing.assert_allclose(slope, want_slope, rtol=1e-6)


def test_equal_scores_tie_as_often_as_said():
  # Catches nu = log_tie, and theta = exp(log_tie), which is below 1 for half of
  # what may be learnt.
  for log_tie in LOG_TIES:
    nu, theta = math.exp(log_tie), 1 + math.exp(log_tie)
    np.testing.assert_allclose(
      math.exp(-davidson(0.3, 0.3, True, log_tie=log_tie)),
      nu / (2 + nu),
      rtol=1e-5,
    )
    np.testing.assert_allclose(
      math.exp(-rao_kupper(0.3, 0.3, True, log_tie=log_tie)),
      (theta - 1) / (theta + 1),
      rtol=1e-5,
    )


def test_small_losses_keep_their_digits():
  # Catches log Z - c and -log(theta^2 - 1) + ... + ...: both cancel where the
  # outcome was sure. Wanted: log(1 + x) of the odds against, x ~ 1e-13.
  odds = math.exp(-40.0) + math.exp(-10.0 - 20.0)
  np.testing.assert_allclose(
    davidson(40.0, 0.0, False, log_tie=-10.0), math.log1p(odds), rtol=1e-5
  )
  odds = (math.exp(0.5) + math.exp(-0.5)) / math.exp(30.0)
  np.testing.assert_allclose(
    davidson(1.0, 0.0, True, log_tie=30.0), math.log1p(odds), rtol=1e-5
  )
  theta = 1 + math.exp(30.0)
  odds = (2 + theta * (math.e + 1 / math.e)) / (theta**2 - 1)
  np.testing.assert_allclose(
    rao_kupper(1.0, 0.0, True, log_tie=30.0), math.log1p(odds), rtol=1e-5
  )


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("log_tie", LOG_TIES)
@pytest.mark.parametrize("name", TIES)
def test_gradient_into_log_tie(name, log_tie, tied):
  # Catches log_tie turned into a constant, which would never be learnt, and the
  # gradient of the branch that was not observed.
  chances, chosen, rejected, width = CHANCES[name], 0.8, -0.4, 1e-5

  def loss(a):
    return -math.log(chances(chosen, rejected, a)[2 if tied else 0])

  want = (loss(log_tie + width) - loss(log_tie - width)) / (2 * width)
  got = jax.grad(
    lambda a: TIES[name](chosen, rejected, tied, log_tie=a), allow_int=False
  )(jnp.float32(log_tie))
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-6)
  if name == "davidson":  # d loss / d log nu = P(tied) - [tied]
    share = chances(chosen, rejected, log_tie)[2]
    np.testing.assert_allclose(got, share - tied, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", TIES)
def test_gradients_are_finite_at_extremes(name):
  # Catches infinity times 0 in the branch that jnp.where drops.
  for d, log_tie in itertools.product((-2e4, 2e4), (-50.0, 0.0, 50.0)):
    for tied in (True, False):
      value, slopes = jax.value_and_grad(
        lambda c, r, a, t=tied: TIES[name](c, r, t, log_tie=a), (0, 1, 2)
      )(d / 2, -d / 2, jnp.float32(log_tie))
      assert np.isfinite(value) and np.isfinite(slopes).all()


def test_mistakes_are_errors():
  # Catches the share 0.5 of a tie given for the boolean, and one log_tie for
  # each comparison, which could explain every label.
  scores = np.zeros(3, np.float32)
  for loss in TIES.values():
    with pytest.raises(
      ValueError, match=f"{loss.__name__}: expected a boolean tied, got float32"
    ):
      loss(scores, scores, np.full(3, 0.5, np.float32), log_tie=0.0)
    with pytest.raises(
      ValueError, match=r"expected one log_tie, got shape \(3"
    ):
      loss(scores, scores, True, log_tie=scores)


# Six items and 20,000 comparisons drawn from each model: the loss has to give
# the strengths and the tie parameter back.
SCORES = np.array([0.0, -0.9, -0.3, 0.4, 0.8, 1.6])
LOG_TIE = -0.4
COMPARISONS = 20_000


def draw(name, seed):
  """Counts [pairs, 3] of (first, second, tied), and the pairs, from the model.

  Ordered pairs equally often; probabilities from the printed form in float64,
  not from the loss.
  """
  generator = np.random.default_rng(seed)
  pairs = list(itertools.permutations(range(6), 2))
  drawn = np.bincount(
    generator.integers(len(pairs), size=COMPARISONS), minlength=len(pairs)
  )
  chances = [CHANCES[name](SCORES[i], SCORES[j], LOG_TIE) for i, j in pairs]
  counts = [
    generator.multinomial(n, p) for n, p in zip(drawn, chances, strict=True)
  ]
  return np.array(pairs), np.array(counts), np.array(chances)


def standard_errors(name, pairs):
  """Of the five free scores and log_tie: Fisher information, by differences.

  Information of one comparison: mean over pairs of the sum over outcomes of
  (dP)(dP)^T / P.
  """
  truth, width = np.append(SCORES[1:], LOG_TIE), 1e-5

  def chances(parameters):
    scores = np.append(0.0, parameters[:5])
    return np.array(
      [CHANCES[name](scores[i], scores[j], parameters[5]) for i, j in pairs]
    )

  steps = width * np.eye(6)
  slopes = [
    (chances(truth + h) - chances(truth - h)) / (2 * width) for h in steps
  ]
  information = np.einsum("apo,bpo,po->ab", slopes, slopes, 1 / chances(truth))
  information *= COMPARISONS / len(pairs)
  return np.sqrt(np.diag(np.linalg.inv(information)))


@pytest.mark.parametrize("name", TIES)
def test_gives_the_parameters_of_simulated_labellers_back(name):
  # Catches a likelihood that is none: ties given too little or too much, theta
  # and nu confused (each model's data are fitted by its own loss), a factor in
  # the score difference. Three standard errors, from the information.
  pairs, counts, _ = draw(name, seed=0)
  loss = LOSSES[name]

  @jax.jit
  def total(parameters):
    scores = jnp.append(0.0, parameters[:5])
    chosen, rejected = scores[pairs[:, 0]], scores[pairs[:, 1]]
    log_tie = parameters[5]
    losses = [
      loss(chosen, rejected, False, log_tie=log_tie),
      loss(rejected, chosen, False, log_tie=log_tie),
      loss(chosen, rejected, True, log_tie=log_tie),
    ]
    return (jnp.stack(losses, axis=1) * counts).sum() / COMPARISONS

  gradient, curvature = jax.jit(jax.grad(total)), jax.jit(jax.hessian(total))
  fit = jnp.append(jnp.zeros(5), LEARNED[name]["log_tie"])
  for _ in range(12):  # Newton from equal scores
    fit = fit - jnp.linalg.solve(curvature(fit), gradient(fit))
  assert np.abs(gradient(fit)).max() < 1e-5
  errors = standard_errors(name, pairs)
  assert (errors < 0.05).all()  # so that three of them are a test
  z = (np.asarray(fit) - np.append(SCORES[1:], LOG_TIE)) / errors
  assert np.abs(z).max() < 3, z
  # And the spread that the loss itself states is the one of the information.
  stated = np.sqrt(np.diag(np.linalg.inv(curvature(fit))) / COMPARISONS)
  np.testing.assert_allclose(stated, errors, rtol=0.1)


@pytest.mark.parametrize("name", TIES)
def test_the_tied_share_is_the_closed_form(name):
  # Catches a P(tied) that is off by a factor: exp(-loss) of ties, averaged over
  # the pairs, against the share among 20 times 20,000 comparisons, within three
  # binomial errors (0.2 %).
  pairs, _, chances = draw(name, seed=0)
  seen = sum(draw(name, seed)[1][:, 2].sum() for seed in range(20))
  scores = SCORES.astype(np.float32)
  losses = TIES[name](
    scores[pairs[:, 0]], scores[pairs[:, 1]], True, log_tie=LOG_TIE
  )
  np.testing.assert_allclose(np.exp(-losses), chances[:, 2], rtol=1e-5)
  share = float(np.exp(-losses).mean())
  error = math.sqrt(share * (1 - share) / (20 * COMPARISONS))
  assert error < 1e-3
  assert abs(seen / (20 * COMPARISONS) - share) < 3 * error
