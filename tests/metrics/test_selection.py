"""Best of n against all subsets."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rm_jax import metrics
from rm_jax.types import UserError

FEW = st.integers(-2, 2)  # few values: ties are common


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_best_of_n_equals_the_mean_over_all_subsets(data):
  # Catches drawing with replacement, the first of a tie winning (or the last),
  # and ties shared over the group instead of over the tie.
  size = data.draw(st.integers(1, 6))
  n = data.draw(st.integers(1, size))
  row = st.lists(FEW, min_size=size, max_size=size)
  proxy, gold = data.draw(st.tuples(row, row))
  means = []
  for subset in itertools.combinations(range(size), n):
    top = max(proxy[i] for i in subset)
    best = [gold[i] for i in subset if proxy[i] == top]
    means.append(sum(best) / len(best))
  # A second group: catches runs of ties that cross from one row to the next.
  got = metrics.best_of_n([proxy, proxy], [gold, [7] * size], n)
  np.testing.assert_allclose(got, [np.mean(means), 7], atol=1e-12)


def test_best_of_n_is_exact_where_factorials_overflow():
  # Catches binomials in floats: C(4096, 1024) is 1e1000. With proxy = gold =
  # 0 ... M - 1 the expected maximum of n is n (M + 1)/(n + 1) - 1.
  size, n = 4096, 1024
  values = np.random.default_rng(0).permutation(size)[None].astype(float)
  want = n * (size + 1) / (n + 1) - 1
  np.testing.assert_allclose(metrics.best_of_n(values, values, n), [want])
  with pytest.raises(UserError, match="from 1 to the 4096 .* got 4097"):
    metrics.best_of_n(values, values, 4097)
  with pytest.raises(UserError, match="got 0"):
    metrics.best_of_n(values, values, 0)
  with pytest.raises(ValueError, match=r"\[G, M\], got \(4096,\)"):
    metrics.best_of_n(values[0], values[0], 1)
