"""Verdicts: the decision protocol, case by case."""

import math

import numpy as np
import pytest

from rm_jax.evals.verdict import find_effect, holds, judge
from rm_jax.types import UserError

UP = np.array([1.0, 1.1, 0.9, 1.2, 0.8, 1.0, 1.1, 0.9])


def word(treated, control, *, expected=1, checks=None, conditions=None):
  effect = find_effect(treated, control, expected=expected)
  return judge(
    effect,
    expected=expected,
    checks=checks or {},
    conditions=conditions or {},
  ).word


def test_the_effect_is_students():
  effect = find_effect([3.0, 2.0, 4.0], [1.0, 1.0, 1.0], expected=1)
  # mean 2, sd 1, t(0.975, 2 degrees) = 4.302653
  assert effect.mean == 2.0 and (effect.agree, effect.seeds) == (3, 3)
  assert effect.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-6)


def test_the_four_words():
  zero = np.zeros(8)
  assert word(UP, zero) == "reproduced"
  assert word(UP, zero, expected=-1) == "reversed"
  assert word(zero, UP, expected=-1) == "reproduced"
  assert word([1, -1] * 4, zero) == "null"
  assert word(UP, zero, checks={"regime": False}) == "invalid"


def test_too_few_seeds_that_agree_are_no_reproduction():
  # Mean 1.65, interval above 0, but two of eight seeds go the other way.
  values = np.array([2.4, 2.1, 2.2, 2.3, 2.2, 2.2, -0.1, -0.1])
  effect = find_effect(values, np.zeros(8), expected=1)
  assert effect.low > 0 and effect.agree == 6
  verdict = judge(effect, expected=1, checks={}, conditions={})
  assert verdict.word == "null" and verdict.why == "only 6 of 8 seeds agree"


def test_a_condition_that_fails_takes_a_reproduction_and_no_reversal():
  unmet = {"curve turns": False}
  assert word(UP, np.zeros(8), conditions=unmet) == "null"
  assert word(-UP, np.zeros(8), conditions=unmet) == "reversed"


def test_one_seed_has_no_verdict():
  assert word([1.0], [0.0]) == "null"
  assert word([1.0], [0.0], expected=0) == "no claim: no difference found"
  with pytest.raises(UserError, match="expected=2 must be 1 or -1"):
    find_effect([1.0], [0.0], expected=2)


def test_without_a_claimed_sign_nothing_is_reproduced_or_reversed():
  zero = np.zeros(8)
  assert word(UP, zero, expected=0) == "no claim: higher"
  assert word(zero, UP, expected=0) == "no claim: lower"
  assert word([1, -1] * 4, zero, expected=0) == "no claim: no difference found"
  # What holds of other outcomes is not asked of it; the regime is.
  assert word(UP, zero, expected=0, conditions={"c": False}).endswith("higher")
  assert word(UP, zero, expected=0, checks={"regime": False}) == "invalid"


def test_without_a_claimed_sign_seeds_agree_with_the_mean():
  below = find_effect([-1.0, -2.0, 0.5, 0.0], np.zeros(4), expected=0)
  assert (below.agree, below.mean) == (2, -0.625)  # 0 agrees with no sign
  # The effect is that of a claim: mean -0.625, sd 1.108678, t(0.975, 3).
  half = 3.182446 * 1.108678 / 2
  assert below.low == pytest.approx(-0.625 - half, abs=1e-5)
  assert below.high == pytest.approx(-0.625 + half, abs=1e-5)


def test_a_check_holds_with_its_whole_interval():
  assert holds(UP, above=0.8, below=None)
  assert not holds(UP, above=0.95, below=None)  # the mean is, its low is not
  assert holds(UP, above=None, below=1.2)
  assert not holds(UP, above=None, below=1.05)
