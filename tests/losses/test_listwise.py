"""Listwise losses against Python loops in float64, and their invariances."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rm_jax.losses import (
  all_pairs,
  bradley_terry,
  listnet,
  plackett_luce,
  plackett_luce_top,
)
from rm_jax.types import UserError

G, K = 3, 5  # one shape for all examples: one compilation per loss
top_2 = functools.partial(plackett_luce_top, top=2)
RANKED = {
  "all_pairs": all_pairs,
  "plackett_luce": plackett_luce,
  "top": top_2,
}
# listnet reads the ranks as labels: any numbers, and their size counts.
TEMPERATURE = 0.7
LISTWISE = RANKED | {
  "listnet": functools.partial(listnet, temperature=TEMPERATURE)
}
jitted = {name: jax.jit(loss) for name, loss in LISTWISE.items()}
slopes = {
  name: jax.jit(jax.grad(lambda s, r, w, f=loss: f(s, r, w).sum()))
  for name, loss in LISTWISE.items()
}


def softplus(x):
  return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def sigmoid(x):
  return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def pairs_by_loop(scores, ranks, where):
  """All-pairs loss and gradient of one group, from the sum over pairs."""
  items = range(len(scores))
  pairs = [
    (i, j)
    for i in items
    for j in items
    if where[i] and where[j] and ranks[i] < ranks[j]
  ]
  gradient = np.zeros(len(scores))
  loss = 0.0
  for i, j in pairs:
    loss += softplus(scores[j] - scores[i]) / len(pairs)
    gradient[j] += sigmoid(scores[j] - scores[i]) / len(pairs)
    gradient[i] -= sigmoid(scores[j] - scores[i]) / len(pairs)
  return loss, gradient


def choices_by_loop(scores, ranks, where, top):
  """Plackett-Luce loss and gradient of one group, choice by choice.

  From the textbook form, log of a sum of exponentials minus the chosen score,
  in float64 over plain lists: no mask, no matrix.
  """
  real = [k for k in range(len(scores)) if where[k]]
  gradient = np.zeros(len(scores))
  loss = 0.0
  for i in real:
    if sum(ranks[j] < ranks[i] for j in real) >= top:
      continue
    left = [j for j in real if ranks[j] >= ranks[i]]
    peak = max(scores[j] for j in left)
    total = sum(math.exp(scores[j] - peak) for j in left)
    loss += peak + math.log(total) - scores[i]
    for j in left:
      gradient[j] += math.exp(scores[j] - peak) / total
    gradient[i] -= 1
  return loss, gradient


def chances_by_loop(values):
  peak = max(values)
  powers = [math.exp(value - peak) for value in values]
  return [power / sum(powers) for power in powers]


def listnet_by_loop(scores, labels, where):
  """ListNet loss and gradient of one group: two softmax over plain lists."""
  real = [k for k in range(len(scores)) if where[k]]
  gradient = np.zeros(len(scores))
  loss = 0.0
  if real:
    wanted = chances_by_loop([float(labels[k]) / TEMPERATURE for k in real])
    given = chances_by_loop([scores[k] for k in real])
    peak = max(scores[k] for k in real)
    total = math.log(sum(math.exp(scores[k] - peak) for k in real))
    for k, p, q in zip(real, wanted, given, strict=True):
      loss -= p * (scores[k] - peak - total)
      gradient[k] = q - p
  return loss, gradient


LOOPS = {
  "all_pairs": pairs_by_loop,
  "plackett_luce": functools.partial(choices_by_loop, top=math.inf),
  "top": functools.partial(choices_by_loop, top=2),
  "listnet": listnet_by_loop,
}


def rows(values):
  row = st.lists(values, min_size=K, max_size=K)
  return st.lists(row, min_size=G, max_size=G)


@settings(max_examples=40, deadline=None)
@given(
  rows(st.floats(-20, 20, width=32)),
  rows(st.integers(-2, 3)),
  rows(st.booleans()),
)
def test_value_and_gradient_equal_the_loops(scores, ranks, where):
  # Catches ranks read as larger-is-better, ties that count as pairs, an item in
  # its own or its betters' denominator, padding that takes part, a mean over
  # K^2 instead of over pairs, a sum over groups, the temperature on the scores.
  arguments = np.float32(scores), np.int32(ranks), np.array(where)
  for name, loop in LOOPS.items():
    want = [loop(*group) for group in zip(scores, ranks, where, strict=True)]
    np.testing.assert_allclose(
      jitted[name](*arguments), [loss for loss, _ in want], rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
      slopes[name](*arguments), [slope for _, slope in want], atol=1e-5
    )


def test_worked_values():
  # The values published for scores (2, 1, 0) in rank order. Catches a mean over
  # items in Plackett-Luce, and a sum over pairs in all-pairs.
  scores, ranks, where = jnp.array([2.0, 1.0, 0.0]), jnp.arange(3), True
  first = math.log(math.exp(2) + math.exp(1) + 1) - 2
  second = math.log(math.exp(1) + 1) - 1
  assert (round(first, 4), round(second, 4)) == (0.4076, 0.3133)
  assert round(first + second, 4) == 0.7209
  np.testing.assert_allclose(
    plackett_luce(scores, ranks, where), first + second, rtol=1e-6
  )
  np.testing.assert_allclose(
    plackett_luce_top(scores, ranks, where, top=1), first, rtol=1e-6
  )
  mean = (2 * math.log1p(math.exp(-1)) + math.log1p(math.exp(-2))) / 3
  assert round(mean, 4) == 0.2512
  np.testing.assert_allclose(all_pairs(scores, ranks, where), mean, rtol=1e-6)


def test_tied_items_stay_in_each_others_denominators():
  # Breslow: two tied firsts and a last. Catches Efron, and tied items that are
  # ordered by their place in the array.
  a, b, c = 0.5, -0.25, 1.0
  total = math.log(math.exp(a) + math.exp(b) + math.exp(c))
  got = plackett_luce(jnp.array([a, b, c]), jnp.array([1, 1, 2]), True)
  np.testing.assert_allclose(got, total - a + total - b, rtol=1e-6)


@pytest.mark.parametrize("loss", RANKED.values(), ids=RANKED)
@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0, 1e4])
def test_two_items_are_bradley_terry(loss, size):
  # Catches logsumexp - s_i: at a difference of 20 it is 0 in float32, or off by
  # percents, where softplus is 2e-9.
  scores = jnp.array([[0.3, -0.1], [-1, 1], [0.9, 0], [0.7, 0.4]]) * size
  ranks = jnp.array([[0, 1], [0, 1], [4, 2], [-1, 0]])
  chosen = jnp.array([0, 0, 1, 0])
  want = bradley_terry(
    scores[jnp.arange(4), chosen], scores[jnp.arange(4), 1 - chosen]
  )
  np.testing.assert_allclose(loss(scores, ranks, True), want, rtol=1e-6)


def test_keeps_the_small_losses_of_confident_groups():
  # Catches the cancellation with K > 2: the loss is 2 e^-20 + e^-20 to first
  # order, and float32 cannot hold 20 + 4e-9.
  got = plackett_luce(jnp.array([40.0, 20, 0]), jnp.arange(3), True)
  want = math.log1p(math.exp(-20) + math.exp(-40)) + math.log1p(math.exp(-20))
  np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("name", RANKED)
def test_only_differences_and_order_matter(name):
  # Catches absolute scores, ranks used as numbers, and places that matter.
  generator = np.random.default_rng(0)
  scores = np.float32(generator.normal(size=(G, K)))
  ranks = np.array([[0, 1, 2, 3, 4], [0, 0, 1, 1, 3], [2, 2, 2, 0, 1]])
  where = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 1, 1], [0, 1, 1, 1, 0]]) > 0
  loss = jitted[name]
  want = loss(scores, ranks, where)
  same = functools.partial(np.testing.assert_allclose, desired=want, rtol=2e-5)
  same(loss(scores + np.float32(8.5), ranks, where))
  same(loss(scores, 10 * ranks - 7, where))
  same(loss(scores, 2**24 + ranks, where))  # as float32 these would be tied
  order = generator.permutation(K)
  same(loss(scores[:, order], ranks[:, order], where[:, order]))
  groups = np.array([2, 0, 1])
  np.testing.assert_allclose(
    loss(scores[groups], ranks[groups], where[groups]), want[groups], rtol=1e-6
  )


@pytest.mark.parametrize("loss", LISTWISE.values(), ids=LISTWISE)
def test_a_copy_of_the_group_beside_it_changes_nothing(loss):
  # Catches a softmax or a sum over the axis of groups.
  scores, ranks = jnp.array([[0.5, -1.0, 2.0]]), jnp.array([[0, 2, 1]])
  once = loss(scores, ranks, True)
  twice = loss(jnp.tile(scores, (2, 1)), jnp.tile(ranks, (2, 1)), True)
  np.testing.assert_allclose(twice, jnp.tile(once, 2), rtol=1e-6)


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("name", LISTWISE)
def test_padding_equals_removal(name, garbage):
  # Catches where applied after the arithmetic: NaN * 0 is NaN, in the value or
  # only in the gradient.
  scores = np.float32([[0.5, garbage, -1.0, garbage, 2.0]] * G)
  ranks = np.array([[0, -9, 2, 1, 1]] * G)
  where = np.array([[True, False, True, False, True]] * G)
  kept = [0, 2, 4]
  short = LISTWISE[name](scores[0, kept], ranks[0, kept], True)
  np.testing.assert_allclose(
    jitted[name](scores, ranks, where), [short] * G, rtol=1e-6
  )
  got = np.asarray(slopes[name](scores, ranks, where)[0])
  want = jax.grad(LISTWISE[name])(
    jnp.array(scores[0, kept]), ranks[0, kept], True
  )
  np.testing.assert_allclose(got[kept], want, rtol=1e-5)
  assert (got[[1, 3]] == 0).all()


@pytest.mark.parametrize("name", LISTWISE)
def test_nothing_real_is_exactly_zero(name):
  # Catches 0 / 0 of the mean, and the NaN gradient of logsumexp over nothing:
  # one empty group would wipe out a train step. The third group has a single
  # item, nothing to compare.
  scores = np.float32([[math.nan] * K, [1, 2, 3, 4, 5], [7] * K])
  ranks = np.array([list(range(K))] * G)
  where = np.zeros((G, K), bool)
  where[2, 3] = True
  assert (np.asarray(jitted[name](scores, ranks, where)) == 0).all()
  assert (np.asarray(slopes[name](scores, ranks, where)) == 0).all()
  empty = LISTWISE[name](
    np.zeros((2, 0)), np.zeros((2, 0), int), np.zeros((2, 0), bool)
  )
  np.testing.assert_array_equal(empty, [0.0, 0.0])


@pytest.mark.parametrize("loss", LISTWISE.values(), ids=LISTWISE)
def test_no_nan_on_the_way(loss):
  # Catches a NaN that a later mask hides: jax_debug_nans, by which one looks
  # for a real one, would stop at every last item of a ranking.
  with jax.debug_nans(True):
    jax.value_and_grad(loss)(jnp.arange(3.0), jnp.arange(3), True)
    jax.value_and_grad(loss)(jnp.arange(3.0), jnp.arange(3), False)


@pytest.mark.parametrize("name", LISTWISE)
@pytest.mark.parametrize("size", [100.0, 1e4])
def test_is_finite_at_extreme_scores(name, size):
  # Catches exp before the maximum is taken out, and infinity times 0 in the
  # gradient of items that do not take part.
  scores = np.float32([[-1, 1, 0, 1, -1], [1, 1, -1, -1, 0], [1] * K]) * size
  ranks = np.array([[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [0, 1, 2, 3, 4]])
  arguments = scores.astype(np.float32), ranks, np.ones((G, K), bool)
  for i, (value, slope) in enumerate(
    zip(jitted[name](*arguments), slopes[name](*arguments), strict=True)
  ):
    loss, gradient = LOOPS[name](scores[i].tolist(), ranks[i], [True] * K)
    np.testing.assert_allclose(value, loss, rtol=1e-5)
    np.testing.assert_allclose(slope, gradient, atol=1e-5)


def test_top_counts_items_above_not_places():
  # Catches ranks compared with top (1, 1, 2, 4 would lose its terms), and items
  # of a tie at the border that are cut.
  scores = jnp.array([0.5, -1.0, 2.0, 0.0])
  ranks = jnp.array([10, 10, 20, 40])
  for top in (1, 2, 3, 4, 9):
    want, _ = choices_by_loop(
      scores.tolist(), [10, 10, 20, 40], [True] * 4, top
    )
    got = plackett_luce_top(scores, ranks, True, top=top)
    np.testing.assert_allclose(got, want, rtol=1e-5)
  assert plackett_luce_top(scores, ranks, True, top=1) == (
    plackett_luce_top(scores, ranks, True, top=2)
  )
  np.testing.assert_array_equal(
    plackett_luce_top(scores, ranks, True, top=3),
    plackett_luce(scores, ranks, True),
  )


@pytest.mark.parametrize("shift", [-3.0, 0.0, 8.5])
def test_listnet_is_least_where_scores_are_labels(shift):
  # Catches the divergence in place of the cross-entropy (0 there, not the
  # entropy), and a temperature that multiplies.
  labels = np.float32([3.0, 1.0, 0.5, -2.0])
  scores = jnp.array(labels / 4.0 + shift)
  value, slope = jax.value_and_grad(listnet)(
    scores, labels, True, temperature=4.0
  )
  chances = chances_by_loop((labels / 4.0).tolist())
  np.testing.assert_allclose(
    value, -sum(p * math.log(p) for p in chances), rtol=1e-5
  )
  np.testing.assert_allclose(slope, np.zeros(4), atol=1e-6)


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -1e30])
def test_listnet_ignores_labels_that_are_not_real(garbage):
  # Catches a softmax over the labels that forgets `where`: an annotator who
  # skipped a completion leaves NaN.
  scores, where = jnp.array([0.5, 9.0, -1.0]), jnp.array([True, False, True])
  labels = np.float32([2.0, garbage, 1.0])
  loss = functools.partial(listnet, temperature=1.0)
  value, slope = jax.value_and_grad(loss)(scores, labels, where)
  want = loss(scores[::2], labels[::2], True)
  np.testing.assert_allclose(value, want, rtol=1e-6)
  assert slope[1] == 0 and np.isfinite(slope).all()


def test_listnet_with_a_cold_temperature_is_the_best_item():
  # Catches labels / temperature that overflows: top = 1 of the ranking then.
  scores, labels = jnp.array([0.5, -1.0, 2.0]), jnp.array([1.0, 5.0, 2.0])
  got = listnet(scores, labels, True, temperature=1e-3)
  want = plackett_luce_top(scores, jnp.array([2, 0, 1]), True, top=1)
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_mistakes_are_errors():
  # Catches silent broadcasting, weights taken for where, and a loss of nothing.
  with pytest.raises(ValueError, match=r"scores \(2, 3\) and ranks \(3,\)"):
    all_pairs(np.ones((2, 3)), np.arange(3), np.ones((2, 3), bool))
  with pytest.raises(ValueError, match="boolean where, got float32.*multiply"):
    plackett_luce(np.ones(3), np.arange(3), np.full(3, 0.5, np.float32))
  with pytest.raises(UserError, match=r"expected top >= 1, got nan"):
    plackett_luce_top(np.ones(3), np.arange(3), True, top=math.nan)
  with pytest.raises(ValueError, match=r"expected top >= 1, got 0.*leave"):
    plackett_luce_top(np.ones(3), np.arange(3), True, top=0)
  with pytest.raises(ValueError, match=r"last axis of K completions, got"):
    all_pairs(1.0, 0, True)
  with pytest.raises(
    UserError, match=r"listnet: expected temperature in \(0, inf\), got 0.*Set"
  ):
    listnet(np.ones(3), np.ones(3), True, temperature=0)
  with pytest.raises(ValueError, match="listnet: .*boolean where, got float32"):
    listnet(np.ones(3), np.ones(3), np.ones(3, np.float32), temperature=1)
