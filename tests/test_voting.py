"""Votes: against every subset written out, one by one."""

import collections
import itertools

import numpy as np
import pytest
from scipy.stats import hypergeom

from rm_jax.types import UserError
from rm_jax.voting import majority_of_n, vote_chances


def loop_vote(answers, weights):
  """{solution: chance} of one group, by dictionaries."""
  totals = collections.defaultdict(float)
  for answer, weight in zip(answers, weights, strict=True):
    totals[answer] += weight
  winners = [
    a for a, t in totals.items() if abs(t - max(totals.values())) < 1e-9
  ]
  chances = [0.0] * len(answers)
  for winner in winners:
    own = [k for k, a in enumerate(answers) if a == winner]
    top = max(weights[k] for k in own)
    best = [k for k in own if weights[k] == top]
    for k in best:
      chances[k] = 1 / len(winners) / len(best)
  return chances


def groups(seed=0, count=40, size=7, names=4):
  rng = np.random.default_rng(seed)
  answers = rng.integers(0, names, (count, size))
  return answers, answers == rng.integers(0, names, (count, 1))


def test_a_vote_picks_as_a_loop_over_dictionaries_does():
  answers, _ = groups()
  rng = np.random.default_rng(1)
  for weights in (
    np.ones(answers.shape),  # a majority: ties of answers and of solutions
    rng.integers(0, 4, answers.shape).astype(float) + (np.arange(7) == 0),
    rng.random(answers.shape),
  ):
    got = vote_chances(answers, weights)
    assert got.sum(1) == pytest.approx(1.0)
    for g in range(len(answers)):
      want = loop_vote(answers[g].tolist(), weights[g].tolist())
      assert got[g] == pytest.approx(want, abs=1e-12)
  names = np.asarray(["a", "b", "c", "d"])[answers]
  assert np.array_equal(vote_chances(names, weights), got)


def test_sums_that_differ_by_rounding_are_ties():
  # 0.1 + 0.2 is not 0.3 in floating point.
  got = vote_chances([[1, 1, 2]], [[0.1, 0.2, 0.3]])
  assert got.tolist() == [[0.0, 0.5, 0.5]]


@pytest.mark.parametrize("n", range(1, 8))
def test_majority_is_the_mean_over_every_subset(n):
  # Catches draws with replacement, ties that go to the first, and the right
  # answer that ties with two others.
  answers, right = groups()
  got = majority_of_n(answers, right, n)
  for g in range(len(answers)):
    credits = []
    for subset in itertools.combinations(range(7), n):
      votes = collections.Counter(answers[g, list(subset)].tolist())
      best = [a for a, v in votes.items() if v == max(votes.values())]
      truth = answers[g][right[g]][:1]
      credits.append(sum(a in truth for a in best) / len(best))
    assert got[g] == pytest.approx(np.mean(credits), abs=1e-12)


def test_majority_of_all_is_the_vote_with_equal_weights():
  answers, right = groups(2, size=30)
  got = majority_of_n(answers, right, 30)
  chances = vote_chances(answers, np.ones(answers.shape))
  assert got == pytest.approx((chances * right).sum(1))
  assert majority_of_n(answers, right, 1) == pytest.approx(right.mean(1))


def test_many_solutions_neither_overflow_nor_lose_precision():
  # C(1860, 930) has 558 digits.
  answers = np.repeat([[0, 1]], [1_000, 860], axis=1)
  got = majority_of_n(answers, answers == 0, 101)
  want = hypergeom.sf(50, 1_860, 1_000, 101)  # 51 votes or more
  assert got[0] == pytest.approx(want, rel=1e-9)
  mirrored = majority_of_n(answers, answers == 1, 101)
  assert got[0] + mirrored[0] == pytest.approx(1.0, abs=1e-9)


def test_what_a_vote_refuses():
  with pytest.raises(ValueError, match=r"\(1, 2\) and \(2,\)"):
    vote_chances([[1, 2]], [1.0, 1.0])
  with pytest.raises(ValueError, match=r"got -1 at index \(0, 1\)"):
    vote_chances([[1, 2]], [[1.0, -1.0]])
  with pytest.raises(ValueError, match="got nan at index"):
    vote_chances([[1, 2]], [[np.nan, 1.0]])
  with pytest.raises(ValueError, match="weights of group 1 are 0"):
    vote_chances([[1, 2], [1, 2]], [[1.0, 1.0], [0.0, 0.0]])
  with pytest.raises(UserError, match="n from 1 to the 2 solutions"):
    majority_of_n([[1, 2]], [[True, False]], 3)
  with pytest.raises(ValueError, match="in group 0 one answer must be right"):
    majority_of_n([[1, 1]], [[True, False]], 1)
  with pytest.raises(ValueError, match="in group 0 one answer must be right"):
    majority_of_n([[1, 2]], [[True, True]], 1)
