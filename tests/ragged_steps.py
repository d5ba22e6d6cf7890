"""Step scores of solutions with different numbers of steps."""

import numpy as np


def ragged(seed=0, count=60, longest=7):
  """Solutions of 1 to `longest` steps; padding is poison."""
  rng = np.random.default_rng(seed)
  where = rng.random((count, longest)) < 0.6  # gaps within, too
  where[np.arange(count), rng.integers(0, longest, count)] = True
  scores = rng.random((count, longest)).round(1)  # ties
  return np.where(where, scores, np.nan), where


def own_steps(scores, where):
  return [
    [s for s, w in zip(*row, strict=True) if w]
    for row in zip(scores, where, strict=True)
  ]
