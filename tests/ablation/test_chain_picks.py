"""The designs on W-CHAIN: best of N by several rules and along training."""

import itertools
import math
import pathlib
import types

import numpy as np
import pytest

from rm_jax.ablation.design import load_file

ROOT = pathlib.Path(__file__).parents[2]
LIGHTMAN, COBBE = (
  load_file(ROOT / "experiments" / key / "mini.py")
  for key in ("lightman2023_prm", "cobbe2021_verifiers")
)


def test_the_curve_is_the_best_of_n_of_the_samples_shown(monkeypatch):
  # Catches: other problems or samples than those that were scored, best of all
  # that are shown.
  monkeypatch.setattr(COBBE, "SHOWN", 5)
  monkeypatch.setattr(COBBE, "N", 3)
  rng = np.random.default_rng(3)
  outcome = rng.random((4, 8)) < 0.5
  held = types.SimpleNamespace(solutions=types.SimpleNamespace(outcome=outcome))
  # Of one decimal: some tie.
  curve = [
    (step, rng.random((3, 5)).round(1).astype(np.float32)) for step in (2, 4)
  ]
  got = COBBE.along(
    [
      (step, types.SimpleNamespace(completions=list(scores)))
      for step, scores in curve
    ],
    held,
    3,
  )
  ties = 0
  for row, (step, scores) in zip(got, curve, strict=True):
    right = []
    for g in range(3):
      for subset in itertools.combinations(range(5), 3):
        top = max(scores[g, k] for k in subset)
        best = [outcome[g, k] for k in subset if scores[g, k] == top]
        right.append(sum(best) / len(best))
        ties += len(best) > 1
    assert row == {
      "step": step,
      "accuracy_10": pytest.approx(math.fsum(right) / len(right)),
    }
  assert ties and got[0]["accuracy_10"] != got[1]["accuracy_10"]


def test_the_curve_is_of_ten_among_twenty():
  assert (COBBE.N, COBBE.SHOWN) == (10, 20)
  # The two highest are right: wrong where a subset has neither.
  scores = np.arange(20.0)[None]
  outcome = np.zeros((1, 256), bool)
  outcome[0, 18:] = True
  held = types.SimpleNamespace(solutions=types.SimpleNamespace(outcome=outcome))
  curve = [(1, types.SimpleNamespace(completions=list(scores)))]
  without = math.comb(18, 10) / math.comb(20, 10)
  (row,) = COBBE.along(curve, held, 1)
  assert row["accuracy_10"] == pytest.approx(1 - without)


def invented(hits: dict):
  """({rule: scores [4, 256]}, solutions): each rule's best are right so often.

  Below the highest one scores are those of a draw.
  """
  rng = np.random.default_rng(2)
  right = rng.random((4, 256)) < 0.4
  scores = {rule: rng.random(right.shape) for rule in hits}
  for rule, count in hits.items():
    for g in range(4):
      kind = right[g] if g < count else ~right[g]
      scores[rule][g, int(np.flatnonzero(kind)[7])] = 2.0
  first_error = np.where(right, -1, 0)
  return scores, types.SimpleNamespace(outcome=right, first_error=first_error)


def of_subsets(scores, right, n: int) -> float:
  """Best of n over all subsets: the highest of C(lower ones, n - 1) of them."""
  total = 0
  for own, ok in zip(scores, right, strict=True):
    for score in own[ok]:
      total += math.comb(int((own < score).sum()), n - 1)
  return total / len(scores) / math.comb(scores.shape[1], n)


def test_rules_spread_by_their_best_of_256():
  # Catches: mean and last among the four rules, whose spread would be 1.
  scores, solutions = invented(
    dict(
      product=3,
      minimum=2,
      product_negative=1,
      minimum_negative=2,
      mean=4,
      last=0,
    )
  )
  got = LIGHTMAN.measures(scores, solutions)
  assert got["accuracy_256"] == 3 / 4
  assert got["rule_spread"] == 3 / 4 - 1 / 4
  assert got["mean_256"] == 1.0 and got["last_256"] == 0.0
  four = of_subsets(scores["product"], solutions.outcome, 4)
  assert got["accuracy_4"] == pytest.approx(four)
  assert got["gain_256_over_4"] == pytest.approx(3 / 4 - four)


def test_an_outcome_model_has_one_rule():
  scores, solutions = invented(dict(last=1))
  got = LIGHTMAN.measures(scores, solutions)
  assert got["accuracy_256"] == got["last_256"] == 1 / 4
  four = of_subsets(scores["last"], solutions.outcome, 4)
  assert got["gain_256_over_4"] == pytest.approx(1 / 4 - four)
  assert "rule_spread" not in got and "mean_256" not in got


def test_the_gap_is_the_area_of_training_less_the_held_out_one(monkeypatch):
  # Catches: the gap turned, the one side's scores with the other's outcomes.
  monkeypatch.setattr(COBBE, "NS", (1, 2))

  def both(scores, outcome):
    scores = np.asarray(scores, float)[..., None]
    solutions = types.SimpleNamespace(
      outcome=np.asarray(outcome, bool), first_error=np.zeros((1, 4), int)
    )
    return (
      types.SimpleNamespace(at_end=lambda: scores),
      types.SimpleNamespace(solutions=solutions),
    )

  # Held out the right 4 and 1 above the wrong 3 and 2: in 2 pairs of 4.
  # In training the right 2 above the wrong 1, 0 and not 3: in 2 of 3.
  scores, held = both([[4, 3, 2, 1]], [[1, 0, 0, 1]])
  seen, learnt = both([[0, 1, 2, 3]], [[0, 0, 1, 0]])
  got = COBBE.measures(scores, seen, held, learnt)
  assert got["outcome_auc"] == pytest.approx(2 / 4)
  assert got["gap"] == pytest.approx(2 / 3 - 2 / 4)
  # The best of two is right where it is the 4: in 3 of 6 subsets.
  assert got["accuracy_1"] == got["accuracy_2"] == pytest.approx(1 / 2)
