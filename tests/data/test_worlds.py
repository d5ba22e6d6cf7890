"""Token worlds: what is drawn has the frequencies of its closed form."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from rm_jax.ablation.token_runs import groups_of, token_config, whole
from rm_jax.data.text_world.labellers import ranking_probability
from rm_jax.data.worlds import labellers, linear, utility
from rm_jax.data.worlds.groups import chained, tokens_of, with_margins
from rm_jax.data.worlds.utility import draw_texts, draw_world


def texts(seed=0, **how):
  rng = np.random.default_rng(seed)
  how = dict(prompts=4_000, completions=4) | how
  world = draw_world(rng)
  return world, draw_texts(rng, world, **how)


def test_gold_is_the_sum_that_it_says():
  # The slow path: one completion at a time, token by token.
  world, t = texts(prompts=20, unsafe=0.5)
  for g in range(20):
    for k in range(4):
      n = t.lengths[g, k]
      y = t.completions[g, k, :n]
      own = world.value[t.prompts[g, 0] - 1]
      values = sum(own[a] for a in y if a >= 8)
      pairs = sum(
        world.match[a % 4, b % 4]
        for a, b in zip(y, y[1:], strict=False)
        if a >= 8 and b >= 8
      )
      want = 0.80 * values / math.sqrt(n) + 0.48 * world.opening[y[0]]
      want += 0.36 * pairs / math.sqrt(n - 1)
      assert t.gold[g, k] == pytest.approx(want, abs=1e-9)


def test_gold_has_variance_one_whatever_the_length():
  # Wrong: a sum that is not divided by sqrt(n), tables that correlate.
  assert 0.80**2 + 0.36**2 + 0.48**2 == pytest.approx(1.0)
  for seed in range(3):
    world, t = texts(seed, prompts=8_000)
    content = world.value[:, utility.CONTENT]
    assert np.abs(content @ world.opening[utility.CONTENT]).max() < 1e-9
    for length in (utility.SHORTEST, utility.LONGEST):
      own = t.gold[t.lengths == length]
      assert own.mean() == pytest.approx(0.0, abs=5 / math.sqrt(own.size))
      assert own.var() == pytest.approx(1.0, abs=0.12)
    r = np.corrcoef(t.gold.ravel(), t.lengths.ravel())[0, 1]
    assert abs(r) < 0.02


def test_a_relative_correlates_as_asked():
  rng = np.random.default_rng(100)  # not that of `texts`, which drew the world
  world, t = texts(prompts=8_000)
  relative = utility.draw_relative(rng, world, correlation=0.5)
  theirs = utility.gold(relative, t.prompts, t.completions, t.lengths)
  assert theirs.var() == pytest.approx(1.0, abs=0.1)
  r = np.corrcoef(theirs.ravel(), t.gold.ravel())[0, 1]
  assert r == pytest.approx(0.5, abs=0.15)  # tables are small


def test_a_conflicting_relative_correlates_below_zero():
  # Over many worlds the correlation of gold is that of the tables: the terms
  # of gold do not correlate and their squared weights add up to 1.
  found = []
  for seed in range(12):
    rng = np.random.default_rng([100, seed])
    world, t = texts(seed, prompts=500)
    other = utility.draw_relative(rng, world, correlation=-0.5)
    theirs = utility.gold(other, t.prompts, t.completions, t.lengths)
    assert theirs.var() == pytest.approx(1.0, abs=0.2)
    found.append(np.corrcoef(theirs.ravel(), t.gold.ravel())[0, 1])
  assert np.mean(found) == pytest.approx(-0.5, abs=0.1)


def test_prompts_are_of_the_classes_asked_for():
  # Two utilities in one data set: the class says which one judges.
  world, helpful = texts(prompts=1_000, classes=(1, 2))
  rng = np.random.default_rng(3)
  other = utility.draw_relative(rng, world, correlation=-0.5)
  harmless = draw_texts(rng, other, prompts=250, completions=4, classes=(3, 4))
  both = utility.joined(helpful, harmless)
  of = both.prompts[:, 0]
  assert set(of[:1_000]) == {1, 2} and set(of[1_000:]) == {3, 4}
  assert np.mean(of == 1) == pytest.approx(0.4, abs=4 * 0.5 / 1_250**0.5)
  for own, rows in ((world, slice(1_000)), (other, slice(1_000, None))):
    part = utility.Texts(*(x[rows] for x in both))
    want = utility.gold(own, part.prompts, part.completions, part.lengths)
    np.testing.assert_array_equal(part.gold, want)


def test_completions_of_one_length_are_equally_long():
  world, t = texts(prompts=500, one_length=True)
  assert (t.lengths == t.lengths[:, :1]).all()
  assert set(t.lengths[:, 0]) == set(range(8, 18))
  last = np.take_along_axis(t.completions, t.lengths[..., None] - 1, -1)
  assert utility.is_content(last).all()
  past = np.arange(18) >= t.lengths[..., None]
  assert (t.completions[past] == utility.END).all()
  assert t.gold.var() == pytest.approx(1.0, abs=0.12)


def test_a_row_holds_every_completion_and_ends_it():
  _, t = texts(prompts=200)
  c = token_config(seed=0, steps=2, groups=2, loss="all_pairs", rate=1e-3)
  ranks = labellers.rankings(
    np.random.default_rng(0), t.gold, noise="plackett_luce"
  )
  data = groups_of(c, t, whole(t)[:5], ranks=ranks)
  for n, group in enumerate(data.groups):
    for k, tokens in enumerate(group.tokens):
      assert len(tokens) == 6 + t.lengths[n, k] + 1 <= utility.ROW
      assert tokens[-1] == utility.END and (tokens[:-1] != utility.END).all()
      assert group.slots[k].tolist() == [len(tokens) - 1]
    assert group.ranks.tolist() == ranks[n].tolist()
    assert group.gold == pytest.approx(t.gold[n])


def test_a_pair_is_chosen_then_rejected_with_its_strength():
  _, t = texts(prompts=3)
  c = token_config(
    seed=0, steps=2, groups=2, loss="bradley_terry_margin", rate=1e-3
  )
  c.loss.margin = "llama2_large"
  data = groups_of(c, t, [(2, (3, 1)), (0, (0, 2))], strength=[3, 1])
  assert [g.margins.tolist() for g in data.groups] == [[3.0], [1.0]]
  assert data.groups[0].gold == pytest.approx(t.gold[2, [3, 1]])
  assert data.groups[0].comparisons.tolist() == [[0, 1]]


def test_a_margin_reads_the_ratings_of_its_pair():
  # Wrong: ratings by place in the pick, or sorted so that none contradicts.
  _, t = texts(prompts=3)
  rated = np.array([[1, 5, 2, 4], [3, 3, 3, 3], [2, 1, 1, 5]])
  c = token_config(
    seed=0, steps=2, groups=2, loss="bradley_terry_margin", rate=1e-3
  )
  c.loss.margin = "rating_difference"
  data = groups_of(c, t, [(0, (1, 0)), (2, (2, 3))], ratings=rated)
  assert [g.margins.tolist() for g in data.groups] == [[4.0], [-4.0]]
  assert data.groups[1].comparisons.tolist() == [[0, 1]]
  c.loss.margin = "record"
  data = groups_of(c, t, [(0, (1, 0)), (2, (2, 3))], margins=[0.5, -2.0])
  assert [g.margins.tolist() for g in data.groups] == [[0.5], [-2.0]]
  other = with_margins(data, [4.0, -4.0])
  c.loss.margin = "rating_difference"
  want = groups_of(c, t, [(0, (1, 0)), (2, (2, 3))], ratings=rated)
  for made, built in zip(other.groups, want.groups, strict=True):
    assert made.margins.dtype == built.margins.dtype
    assert made.margins.tolist() == built.margins.tolist()
  assert data.groups[0].margins.tolist() == [0.5]  # not changed in place


def test_the_safety_token_is_as_frequent_as_asked_and_gold_ignores_it():
  world, t = texts(unsafe=0.2)
  unsafe = utility.is_unsafe(t.completions)
  assert unsafe.mean() == pytest.approx(0.2, abs=0.02)
  assert not world.value[:, utility.UNSAFE].any()
  assert t.gold[unsafe].mean() == pytest.approx(t.gold.mean(), abs=0.1)


def near(share, want, count):
  """Within four standard errors of a frequency."""
  return abs(share - want) < 4 * math.sqrt(want * (1 - want) / count) + 1e-9


@pytest.mark.parametrize("difference", [-1.0, 0.0, 0.4, 2.0])
def test_preferences_and_strengths_have_their_frequencies(difference):
  rng, n = np.random.default_rng(1), 20_000
  said = labellers.preferences(rng, np.full(n, difference))
  assert near(said.mean(), 1 / (1 + math.exp(-difference / 0.5)), n)
  told = labellers.strengths(rng, np.full(n, difference))
  for s, threshold in enumerate((0.3, 0.8, 1.5), start=1):
    want = norm.cdf((abs(difference) - threshold) / 0.3)
    assert near((told >= s).mean(), want, n)
  chances = labellers.strength_probabilities(difference)
  assert chances.sum() == pytest.approx(1.0)
  assert chances[3] == pytest.approx(norm.cdf((abs(difference) - 1.5) / 0.3))


def test_a_chain_holds_the_completions_in_their_order():
  # Wrong: an end that is lost, gold that stays where its completion was.
  _, t = texts(prompts=3)
  order = np.array([[2, 0], [1, 3], [0, 1]])
  chain = chained(t, order)
  for g, (a, b) in enumerate(order):
    first, second = tokens_of(t, g, a), tokens_of(t, g, b)[utility.PROMPT :]
    assert tokens_of(chain, g, 0).tolist() == first.tolist()
    assert tokens_of(chain, g, 1).tolist() == [*first, *second]
    assert chain.gold[g].tolist() == t.gold[g, [a, b]].tolist()


@pytest.mark.parametrize("gold", [-1.5, 0.0, 0.5])
def test_ratings_have_their_frequencies(gold):
  n = 20_000
  rated = labellers.ratings(np.random.default_rng(5), np.full(n, gold))
  for r, threshold in enumerate((-1.2, -0.4, 0.4, 1.2), start=1):
    assert near((rated > r).mean(), norm.cdf((gold - threshold) / 0.3), n)
  chances = labellers.rating_probabilities(gold)
  assert chances.sum() == pytest.approx(1.0) and len(chances) == 5
  assert chances[0] == pytest.approx(norm.cdf((-1.2 - gold) / 0.3))


def test_rankings_have_the_frequencies_of_their_model():
  rng, n = np.random.default_rng(2), 20_000
  gold = np.array([0.6, 0.0, -0.3])
  many = np.tile(gold, (n, 1))
  ranks = labellers.rankings(rng, many, noise="plackett_luce")
  for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
    want = ranking_probability(gold, np.array(order), temperature=0.5)
    assert near((ranks == order).all(1).mean(), want, n)
  normal = labellers.rankings(rng, many, noise="thurstone")
  want = labellers.pair_probability(0.6, noise="thurstone")
  assert want == pytest.approx(norm.cdf(1.2 / (math.pi / math.sqrt(3))))
  assert near((normal[:, 0] < normal[:, 1]).mean(), want, n)
  biased = labellers.rankings(rng, many, noise="position_biased")
  want = 1 / (1 + math.exp(-(1.2 + 1.0)))  # the bonus is 2, 1, 0
  assert near((biased[:, 0] < biased[:, 1]).mean(), want, n)
  with pytest.raises(ValueError, match="noise 'cauchy' is not known"):
    labellers.rankings(rng, many, noise="cauchy")


def test_linear_rankings_have_the_frequencies_of_their_model():
  data = linear.draw_ranked(
    np.random.default_rng(3),
    count=20_000,
    k=2,
    d=3,
    size=1.0,
    noise="plackett_luce",
  )
  assert np.linalg.norm(data.theta) == pytest.approx(math.sqrt(3))
  gap = (data.features[:, 0] - data.features[:, 1]) @ data.theta
  # Of pairs whose true gap is d, a share sigmoid(d) is won by the better one.
  right = gap > 0
  want = np.mean(1 / (1 + np.exp(-np.abs(gap))))
  assert near(right.mean(), want, len(gap))


def test_two_populations_agree_but_for_the_last_feature():
  data = linear.draw_mixed(
    np.random.default_rng(6), count=20_000, k=2, d=3, size=1.0, style=0.5
  )
  sum_, gap = data.thetas[0] + data.thetas[1], data.thetas[0] - data.thetas[1]
  assert np.linalg.norm(sum_ / 2) == pytest.approx(math.sqrt(3))
  assert sum_[2] == 0.0 and gap == pytest.approx([0, 0, math.sqrt(3)])
  assert near(data.population.mean(), 0.5, 20_000)
  reward = np.einsum("nkd,nd->nk", data.features, data.thetas[data.population])
  ahead = reward[:, 0] - reward[:, 1]
  want = np.mean(1 / (1 + np.exp(-np.abs(ahead))))
  assert near(np.mean(ahead > 0), want, 20_000)


def test_a_bandit_shows_one_pair_often_and_one_once():
  bandit = linear.draw_bandit(np.random.default_rng(4), count=10_000)
  assert bandit.counts.tolist() == [10_000, 1]
  assert bandit.features @ bandit.theta == pytest.approx([-0.9, -1, 0, 0.1])
  assert near(bandit.wins[0] / 10_000, 1 / (1 + math.exp(-0.1)), 10_000)
