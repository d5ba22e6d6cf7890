"""Margins: their values, their signatures, and what they refuse."""

import doctest
import inspect
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rm_jax import margins
from rm_jax.margins import MARGINS, NEEDS
from rm_jax.types import UserError

RATINGS = ("chosen_rating", "rejected_rating")
OF_RATINGS = [name for name in MARGINS if NEEDS[name] == RATINGS]
OF_STRENGTH = [name for name in MARGINS if NEEDS[name] == ("strength",)]

# name: margins of (chosen, rejected) = (5, 2), (3, 2.5), (4, 4), (1, 3)
FROM_RATINGS = {
  "none": [0, 0, 0, 0],
  "constant_one": [1, 1, 1, 1],
  "rating_difference": [3, 0.5, 0, -2],
  "rating_log1p": [math.log(4), math.log(1.5), 0, -math.log(3)],
  "rating_sqrt": [math.sqrt(3), math.sqrt(0.5), 0, -math.sqrt(2)],
  "rating_squared": [9, 0.25, 0, -4],
  "rating_tanh": [math.tanh(3), math.tanh(0.5), 0, math.tanh(-2)],
  "rating_capped": [2, 0.5, 0, -2],
  "rating_step": [1, 0, 0, -1],
  "rating_relative": [3 / 7, 0.5 / 5.5, 0, -2 / 4],
}
# name: margins of strength 0, 1, 2, 3
FROM_STRENGTH = {
  "llama2_small": [0, 1 / 3, 2 / 3, 1],
  "llama2_large": [0, 1, 2, 3],
  "strength_squared": [0, 1 / 3, 4 / 3, 3],
  "strength_step": [0, 0, 1, 1],
  "strength_log_odds": [
    math.log(p / (1 - p)) for p in (0.5, 0.625, 0.75, 0.875)
  ],
}


def test_every_margin_says_what_it_needs():
  # Catches a margin in one table only, a parameter renamed, and an option that
  # data cannot fill.
  assert list(MARGINS) == list(NEEDS) == OF_RATINGS + OF_STRENGTH
  assert set(FROM_RATINGS) == set(OF_RATINGS)
  assert set(FROM_STRENGTH) == set(OF_STRENGTH)
  for name, margin in MARGINS.items():
    assert tuple(inspect.signature(margin).parameters) == NEEDS[name]


@pytest.mark.parametrize("name", MARGINS)
def test_every_margin_says_why_and_from_where(name):
  # Catches a margin that nobody can trace: a paper, or the word that it is
  # ours, and a reason beside the equation. No margin at all has no source.
  text = " ".join(MARGINS[name].__doc__.split())
  assert len(text.split("Example:")[0]) > 60
  if name == "none":
    assert "the control of every ablation" in text
    return
  source = text.split("Source: ")[1].split("Example:")[0]
  assert "arXiv:" in source or "ours" in source or "Llama 2" in source


@pytest.mark.parametrize("name", OF_RATINGS)
def test_values_of_two_ratings(name):
  # Catches swapped sides, a lost sign where ratings contradict the label, and
  # integer arithmetic.
  chosen, rejected = [5, 3, 4, 1], [2, 2.5, 4, 3]
  got = MARGINS[name](chosen, rejected)
  assert got.dtype == np.float64 and got.shape == (4,)
  np.testing.assert_allclose(got, FROM_RATINGS[name], rtol=1e-12)
  for c, r, want in zip(chosen, rejected, FROM_RATINGS[name], strict=True):
    one = MARGINS[name](chosen_rating=c, rejected_rating=r)
    assert one.dtype == np.float64 and one.shape == ()
    np.testing.assert_allclose(one, want, rtol=1e-12)


@pytest.mark.parametrize("name", OF_STRENGTH)
def test_values_of_a_strength(name):
  # Catches Llama 2's two tables exchanged, and levels that count from 1.
  got = MARGINS[name](np.arange(4))
  assert got.dtype == np.float64 and got.shape == (4,)
  np.testing.assert_allclose(got, FROM_STRENGTH[name], rtol=1e-12)
  np.testing.assert_allclose(
    MARGINS[name](strength=3), FROM_STRENGTH[name][3], rtol=1e-12
  )


@settings(max_examples=50, deadline=None)
@given(st.floats(-10, 10), st.floats(-10, 10))
def test_never_negative_where_the_ratings_agree_with_the_label(a, b):
  # Catches a margin that pulls a correctly labelled pair together, and ratings
  # of 0 or below that break a logarithm, a root or a ratio.
  for name in OF_RATINGS:
    margin = MARGINS[name](max(a, b), min(a, b))
    assert np.isfinite(margin) and margin >= 0, name
    if name != "constant_one":
      assert MARGINS[name](min(a, b), max(a, b)) == -margin, name


@pytest.mark.parametrize("name", MARGINS)
def test_a_stronger_preference_never_has_a_smaller_margin(name):
  # Catches a table with two levels exchanged.
  if name in OF_STRENGTH:
    got = MARGINS[name](np.linspace(0, 3, 31))
  else:
    got = MARGINS[name](np.linspace(3, 9, 31), np.full(31, 3.0))
  assert (np.diff(got) >= 0).all()


@pytest.mark.parametrize("name", MARGINS)
@pytest.mark.parametrize("bad", [math.nan, None])
def test_a_missing_annotation_is_an_error(name, bad):
  # Catches a NaN margin, which makes every parameter NaN one step later.
  if name in OF_STRENGTH:
    with pytest.raises(
      UserError, match=f"{name}: expected a strength.*got nan"
    ):
      MARGINS[name](np.array([1, bad], float))
    with pytest.raises(ValueError, match="got nan"):
      MARGINS[name](bad)
    return
  with pytest.raises(UserError, match=f"{name}: .*got chosen_rating nan"):
    MARGINS[name](np.array([1, bad], float), np.array([1.0, 1.0]))
  with pytest.raises(ValueError, match=r"got rejected_rating nan.*Drop pairs"):
    MARGINS[name](1.0, bad)


@pytest.mark.parametrize("name", OF_STRENGTH)
@pytest.mark.parametrize("bad", [-1, 3.5, 7])
def test_another_scale_of_strength_is_an_error(name, bad):
  # Catches a scale of -3 to 3 (a swapped pair) or of 1 to 8 read as levels.
  with pytest.raises(
    UserError, match=f"from 0 .* to 3 .*got {float(bad)}.*Map"
  ):
    MARGINS[name]([1, bad])


def test_a_column_of_ratings_is_an_error():
  # Catches [C, 1] - [C] -> [C, C].
  with pytest.raises(
    ValueError, match=r"chosen_rating \(3, 1\) and rejected_rating \(3,\)"
  ):
    MARGINS["rating_difference"](np.ones((3, 1)), np.ones(3))


def test_doctests():
  # Catches an example that no longer prints what it says.
  result = doctest.testmod(margins)
  assert result.attempted == len(MARGINS) and not result.failed
