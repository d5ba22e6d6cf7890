"""Runs in memory: the numbers of the train step, whatever the layout."""

import math

import numpy as np
import pytest

from rm_jax.ablation import token_runs as runs
from rm_jax.data.worlds.utility import draw_texts, draw_world
from rm_jax.train import fit as module


def data(c, seed=0, prompts=12):
  rng = np.random.default_rng(seed)
  texts = draw_texts(rng, draw_world(rng), prompts=prompts, completions=3)
  ranks = np.argsort(np.argsort(-texts.gold, axis=1), axis=1)
  return runs.groups_of(c, texts, runs.whole(texts), ranks=ranks)


def config(**changes):
  c = runs.token_config(seed=3, steps=4, groups=4, loss="all_pairs", rate=1e-2)
  c.evals.rows = 32
  c.update_from_flattened_dict(changes)
  return c


@pytest.mark.slow
def test_layouts_give_one_run():
  # Catches a plan, a slot or a weight that depends on how rows are laid.
  padded = config()
  shared = config(**{"data.layout": "shared", "data.row_len": 60})
  a = runs.run(padded, data(padded), data(padded, 1))
  b = runs.run(shared, data(shared), data(shared, 1))
  assert a.losses[0] == pytest.approx(math.log(2), rel=1e-6)
  np.testing.assert_allclose(a.losses, b.losses, rtol=1e-4)
  np.testing.assert_allclose(
    runs.scores_of(a.scored), runs.scores_of(b.scored), atol=1e-4
  )
  assert a.completions == b.completions == 4 * 4 * 3
  assert a.tokens > b.tokens  # the prompt once, not three times


def test_seeds_share_a_compilation_and_the_same_seed_its_numbers():
  c = config()
  curve = data(c, 1, 4)
  first = runs.run(
    c, data(c), data(c, 1), curve=curve, every=3, more={"again": data(c, 1)}
  )
  before = module._steps.cache_info().currsize
  again = runs.run(c, data(c), data(c, 1))
  c.seed = 4
  other = runs.run(c, data(c, 5), data(c, 1))
  assert module._steps.cache_info().currsize == before
  assert first.losses == again.losses != other.losses
  assert [step for step, _ in first.curve] == [3, 4]
  np.testing.assert_array_equal(
    runs.scores_of(first.more["again"]), runs.scores_of(first.scored)
  )


def test_a_run_starts_where_another_ended_and_leaves_it_as_it_was():
  # Wrong: parameters that the train step, which takes them over, overwrites.
  c = config()
  first = runs.run(c, data(c), data(c, 1))
  c.optim.lr = 0.0
  for _ in range(2):
    still = runs.run(c, data(c), data(c, 1), start=first.params)
    np.testing.assert_array_equal(
      runs.scores_of(still.scored), runs.scores_of(first.scored)
    )
  c.optim.lr = 1e-2
  on = runs.run(c, data(c), data(c, 1), start=first.params)
  assert on.losses[0] == still.losses[0] < first.losses[0]
  again = runs.run(c, data(c), data(c, 1), start=first.params)
  assert on.losses == again.losses
