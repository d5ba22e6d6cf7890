"""Errors of a value function: bias and spread of equal states, baselines."""

import pathlib
from types import SimpleNamespace

import numpy as np
import pytest

from rm_jax.ablation import chain_runs as runs
from rm_jax.ablation.design import load_file
from rm_jax.data.worlds import chain

ROOT = pathlib.Path(__file__).parents[2]
MINI = load_file(ROOT / "experiments/farebrother2024_values/mini.py")


@pytest.fixture(scope="module")
def side():
  rng = np.random.default_rng(3)
  problems = chain.draw_problems(rng, count=20, modulus=7, squares=0.0)
  own = chain.draw_solutions(rng, problems, MINI.generator(), count=3)
  return problems, own


def test_an_error_is_the_bias_of_states_and_the_spread_within_them():
  # Two states: errors +1, -1 around 0 and 2, 4 around 3.
  truth = np.asarray([0.2, 0.2, 0.7, 0.7])
  found = truth + [1, -1, 2, 4]
  bias, spread = MINI.parts(found, truth)
  assert bias == pytest.approx(np.sqrt(9 / 2))
  assert spread == pytest.approx(1.0)
  assert bias**2 + spread**2 == pytest.approx((1 + 1 + 4 + 16) / 4)
  # Rounding does not make two states of one.
  assert MINI.parts(found, truth + [0, 1e-13, 0, 0])[1] == pytest.approx(1.0)


def test_a_constant_has_no_spread(side):
  # Wrong: how states differ counted as if it were noise of the model.
  held = runs.hold(*side)
  found = np.full(side[1].values.shape, 0.4)
  told = MINI.measures(found, held)
  assert told["spread"] == pytest.approx(0.0, abs=1e-12)
  assert told["spread_first"] == pytest.approx(0.0, abs=1e-12)
  assert told["bias"] == pytest.approx(told["rmse"])
  assert told["rank_correlation"] == 0.0


def test_errors_are_those_of_lines(side):
  held = runs.hold(*side)
  rng = np.random.default_rng(0)
  found = rng.random(side[1].values.shape)
  told = MINI.measures(found, held)
  every, first, last = [], [], []
  chances = chain.success(side[0], MINI.generator())
  for g, k in np.ndindex(side[1].lines.shape):
    count = side[1].lines[g, k]
    for line in range(count):
      value = side[1].values[g, k, line]
      error = found[g, k, line] - chances[g, line + 1, value]
      every.append(error)
      first += [error] if line == 0 else []
      last += [error] if line == count - 1 else []
  for name, own in dict(rmse=every, rmse_first=first, rmse_last=last).items():
    assert told[name] == pytest.approx(np.sqrt(np.mean(np.square(own))))


@pytest.mark.parametrize("by_place", [False, True])
def test_a_mean_return_is_that_of_training(side, by_place):
  held = runs.hold(*side)
  found = MINI.mean_returns(*side, held, by_place=by_place)
  lengths, lines = side[0].lengths, side[1].lines

  def like(g, line):
    return [
      float(side[1].outcome[h, k])
      for h, k in np.ndindex(lines.shape)
      for other in range(lines[h, k])
      if not by_place or (lengths[h], other) == (lengths[g], line)
    ]

  for g, k in np.ndindex(lines.shape):
    for line in range(lines[g, k]):
      assert found[g, k, line] == pytest.approx(np.mean(like(g, line)))


def test_a_curve_is_of_the_lines_that_it_scores(side, monkeypatch):
  # Scores are those of the lines in order, the truth theirs: errors of 0.1 and
  # of the number of the line.
  monkeypatch.setattr(MINI, "SHOWN", 4)
  held = runs.hold(*side)
  truth = MINI.true_values(held)[:4, 0]
  where = chain.is_line(side[1])[:4, 0]
  said = SimpleNamespace(completions=(truth + 0.1)[where][:, None])
  off = truth + np.arange(chain.LINES)
  later = SimpleNamespace(completions=off[where][:, None])
  first, second = MINI.along([(5, said), (9, later)], held)
  assert first["step"] == 5 and second["step"] == 9
  assert first["rmse"] == pytest.approx(0.1) == pytest.approx(first["bias"])
  assert first["spread"] == pytest.approx(0.0, abs=1e-9)
  lines = [n for _, n in np.argwhere(where)]
  assert second["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(lines))))
