"""The breakdown of scores, against numbers by hand and slow paths."""

import itertools
import math

import numpy as np
import pytest

from rm_jax.evals import breakdown
from rm_jax.evals.runs import Scores, read_scores
from rm_jax.types import UserError

NAN = math.nan


def make(groups, *, strength=None, prompts=None) -> Scores:
  """Scores of groups [(score, length, gold), ...]; the first beats the rest."""
  sizes = [len(group) for group in groups]
  score, length, gold = np.array(
    [completion for group in groups for completion in group], float
  ).T
  starts = np.cumsum([0, *sizes])
  pairs = [
    (starts[n], starts[n] + k)
    for n, size in enumerate(sizes)
    for k in range(1, size)
  ]
  chosen, rejected = np.array(pairs).T
  return Scores(
    score,
    length,
    gold,
    np.repeat(np.arange(len(groups)), sizes),
    np.array(prompts or [f"{n:02}" for n in range(len(groups))]),
    chosen,
    rejected,
    np.full(len(pairs), NAN) if strength is None else np.array(strength, float),
  )


def save(path, **changes):
  """A scores.npz of two tasks and a tie."""
  arrays = dict(
    scores=np.float32([1, 2, 3, 10, 20, 30, 40]),
    group=[0, 0, 0, 1, 2, 2, 2],
    length=[5, 6, 7, 8, 9, 10, 11],
    comparisons=np.int32([[0, 2, 0], [0, 1, 0], [2, 1, 0], [2, 0, 2]]),
    preference=np.float32([1.0, 0.5, 0.8, 1.0]),
    strength=np.float32([3, 0, NAN, 1]),
    gold=np.float32([0, 1, 2, NAN, 5, 6, 7]),
    prompt=np.asarray(["a", "b", "c"]),
    task=[0, 1, 0],
  )
  np.savez(path, **arrays | changes)
  return path


class TestReading:
  def test_ties_and_other_tasks_are_left_out(self, tmp_path):
    # Catches a tie counted as won, an index into the group taken for one into
    # all scores, and groups of another task that move those behind them.
    s = read_scores(save(tmp_path / "scores.npz"))
    assert s.scores.tolist() == [1, 2, 3, 20, 30, 40]
    assert s.group.tolist() == [0, 0, 0, 1, 1, 1]
    assert s.prompt.tolist() == ["a", "c"]
    assert s.scores[s.chosen].tolist() == [3, 30, 20]
    assert s.scores[s.rejected].tolist() == [1, 20, 40]
    assert s.strength[[0, 2]].tolist() == [3, 1] and np.isnan(s.strength[1])
    assert breakdown.prompts_of_comparisons(s).tolist() == ["a", "c", "c"]

  def test_scores_of_an_older_version_are_refused(self, tmp_path):
    path = tmp_path / "scores.npz"
    np.savez(path, scores=[1.0], group=[0])
    with pytest.raises(
      UserError, match="none of length, comparisons, .* older"
    ):
      read_scores(path)


class TestTemperature:
  def test_halves_share_no_prompt(self):
    # Catches a split by comparison: both sides of one prompt would be used to
    # fit and to measure.
    prompts = np.array(["b", "a", "c", "b", "d", "a"])
    half = breakdown.fitting_half(prompts)
    assert half.tolist() == [False, True, True, False, False, True]

  def test_fitted_on_one_half_and_measured_on_the_other(self):
    # Catches the fit made on what it is measured on. Prompts 00, 02, ... fit:
    # three of four right at a difference of 2, so sigmoid(2 / T) = 3/4 and
    # T = 2 / log 3. The others, all right at 2, have p = 3/4 after: Brier 1/16.
    groups = [[(2, 1, 0), (0, 1, 0)] for _ in range(8)]
    groups[6] = groups[6][::-1]
    found = breakdown.tempered(make(groups))
    assert found.temperature == pytest.approx(2 / math.log(3))
    assert (found.fitted, len(found.before)) == (4, 4)
    p = 1 / (1 + math.exp(-2))
    assert found.brier_before == pytest.approx((1 - p) ** 2)
    assert found.brier_after == pytest.approx(1 / 16)
    assert found.error_before == pytest.approx(1 - p)
    assert found.error_after == pytest.approx(1 / 4)

  def test_the_minimum_is_that_of_a_grid(self):
    rng = np.random.default_rng(0)
    groups = [[(rng.normal(1, 3), 1, 0), (0, 1, 0)] for _ in range(200)]
    s = make(groups)
    found = breakdown.tempered(s)
    fit = breakdown.fitting_half(breakdown.prompts_of_comparisons(s))
    d = breakdown.score_diff(s)[fit]
    grid = np.geomspace(0.1, 100, 20_001)
    loss = [np.logaddexp(0, -d / t).mean() for t in grid]
    assert found.temperature == pytest.approx(grid[np.argmin(loss)], rel=1e-3)

  @pytest.mark.parametrize("difference", [0.0, 1.0])
  def test_no_temperature_fits_a_perfect_order_or_equal_scores(
    self, difference
  ):
    # Catches a division by 0 or NaN that reaches the page.
    groups = [[(difference, 1, 0), (0, 1, 0)] for _ in range(4)]
    assert breakdown.tempered(make(groups)) is None

  def test_one_prompt_has_no_other_half(self):
    groups = [[(1, 1, 0), (2, 1, 0), (0, 1, 0)]]
    assert breakdown.tempered(make(groups)) is None


class TestStrength:
  def test_each_strength_has_its_own_comparisons(self):
    # Catches rows of a neighbouring strength, unknown counted as 0, and a tie
    # in score that is not one half.
    groups = [
      [(1, 1, 0), (0, 1, 0)],
      [(0, 1, 0), (1, 1, 0)],
      [(1, 1, 0), (1, 1, 0)],
      [(1, 1, 0), (0, 1, 0)],
    ]
    rows = breakdown.by_strength(make(groups, strength=[3, 3, 0, NAN]))
    assert [(r[0], r[1], r[4]) for r in rows] == [
      ("0 unsure", 0.5, 1),
      ("3 significantly", 0.5, 2),
    ]
    assert math.isnan(rows[0][2])  # one prompt has no spread
    assert rows[1][2:4] == (0.0, 1.0)

  def test_no_strength_no_rows(self):
    assert breakdown.by_strength(make([[(1, 1, 0), (0, 1, 0)]])) == []
    assert breakdown.by_gold_difference(make([[(1, 1, NAN), (0, 1, 1)]])) == []

  def test_many_gold_differences_are_read_in_quarters(self):
    # Catches comparisons lost at an edge. 12 differences: quarters of 3.
    groups = [[(1, 1, d), (0, 1, 0)] for d in range(1, 13)]
    rows = breakdown.by_gold_difference(make(groups))
    assert [row[4] for row in rows] == [3, 3, 3, 3]
    assert rows[0][0].startswith("1 up to") and rows[-1][0].endswith("12")


class TestGold:
  def test_agreement_by_hand(self):
    # tau 1 and tau -1/3 ((1 - 2) of 3 pairs); a group of one gold has none.
    groups = [
      [(3, 1, 9), (2, 1, 8), (1, 1, 7)],
      [(1, 1, 3), (3, 1, 2), (2, 1, 1)],
      [(1, 1, 3), (3, 1, 3), (2, 1, 3)],
    ]
    tau, low, high, n = breakdown.rank_agreement(make(groups))
    assert tau == pytest.approx((1 - 1 / 3) / 2) and n == 2
    assert (low, high) == pytest.approx((-1 / 3, 1))

  def test_best_of_n_equals_a_loop_over_subsets(self):
    # Catches sampling, subsets with replacement, groups normalised together,
    # and the mean of a group taken for its best.
    rng = np.random.default_rng(1)
    groups = rng.normal(size=(5, 4, 3)).tolist()
    found = breakdown.best_of(make(groups), longer_is_better=False)
    for name, column, sign in (
      ("model", 0, 1),
      ("by_length", 1, -1),
      ("most", 2, 1),
    ):
      want = []
      for n in range(1, 5):
        parts = []
        for group in groups:
          gold = [c[2] for c in group]
          best = [
            max(subset, key=lambda c: sign * c[column])[2]
            for subset in itertools.combinations(group, n)
          ]
          mean = np.mean(gold)
          parts.append((np.mean(best) - mean) / (max(gold) - mean))
        want.append(np.mean(parts))
      assert getattr(found, name) == pytest.approx(want)
    assert found.most[-1] == pytest.approx(1)
    assert found.random == pytest.approx([0, 0, 0, 0], abs=1e-12)
    assert (found.low <= found.model + 1e-12).all()
    assert (found.model <= found.high + 1e-12).all()
    assert (found.groups, found.left_out) == (5, 0)

  def test_groups_without_room_or_of_another_size_are_counted(self):
    # Catches 0 / 0 where all completions of a group are alike.
    four = [[(0, 1, k) for k in range(4)]] * 2
    alike, three, unknown = (
      [(0, 1, 2)] * 4,
      [(0, 1, k) for k in range(3)],
      [(0, 1, NAN)] * 4,
    )
    found = breakdown.best_of(
      make([*four, alike, three, unknown]), longer_is_better=True
    )
    assert (found.groups, found.left_out) == (2, 3)

  def test_pairs_have_no_best_of_n(self):
    pairs = make([[(1, 1, 1), (0, 1, 0)]] * 3)
    assert breakdown.best_of(pairs, longer_is_better=True) is None
