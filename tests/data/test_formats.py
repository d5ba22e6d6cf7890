import collections
import json
import math

import numpy as np
import pytest

from rm_jax.data.compare import find_comparisons, find_margins, find_ranks
from rm_jax.data.sources import read_records
from rm_jax.types import Comparison
from tests.data.reading import assistant, count, read, refusal

PAIR = dict(prompt="Q", chosen="good", rejected="bad")


def test_ranking_ratings_outcome():
  texts = dict(prompt="Q", completions=["a", "b", "c"])
  assert read(dict(texts, ranks=[1, 2, 2])).ranks == (1, 2, 2)
  got = read(dict(texts, ratings=[1, 2.5, 3]))
  assert (got.kind, got.ratings) == ("ratings", (1.0, 2.5, 3.0))
  # Catches int(): a soft label 0.7 read as 0.
  row = dict(texts, labels=[True, 0.7, 0])
  got = read(row, kind="outcome")
  assert (got.kind, got.labels) == ("outcome", (1.0, 0.7, 0.0))
  got = read(dict(prompt="Q", completion="a", label=False))
  assert (got.kind, got.labels) == ("outcome", (0.0,))
  assert read(texts).kind == "unlabelled"


# ------------------------------------------------------- ratings by attribute

THREE = dict(prompt="Q", completions=["a", "b", "c"])


def test_attributes_keep_the_order_of_the_first_completion():
  # Catches: values by position where the second object has another order.
  ratings = [dict(z=1, a=2), dict(a=3, z=4), dict(z=5, a=None)]
  got = read(dict(THREE, ratings=ratings))
  assert (got.kind, got.ratings) == ("ratings", None)
  assert got.attributes == ("z", "a")
  assert str(got.attribute_ratings) == "((1.0, 2.0), (4.0, 3.0), (5.0, nan))"


def test_attributes_that_differ_are_all_there_in_sorted_order():
  # Catches: attributes of the first completion only; absent read as 0.
  ratings = [dict(z=1), dict(b=3), dict(z=5, a=0)]
  got = read(dict(THREE, ratings=ratings))
  assert got.attributes == ("a", "b", "z")
  assert str(got.attribute_ratings) == (
    "((nan, nan, 1.0), (nan, 3.0, nan), (0.0, nan, 5.0))"
  )


def test_a_ranking_may_have_ratings_of_either_form():
  row = dict(THREE, ranks=[0, 1, 1])
  assert read(dict(row, ratings=[3, 2, 2])).ratings == (3.0, 2.0, 2.0)
  got = read(dict(row, ratings=[dict(x=1), dict(x=2), dict(x=3)]))
  assert (got.kind, got.ranks, got.ratings) == ("ranking", (0, 1, 1), None)
  assert got.attribute_ratings == ((1.0,), (2.0,), (3.0,))


# --------------------------------------------------------------- comparisons


def test_comparisons_put_the_preferred_side_first_and_keep_cycles():
  # Catches: 0 read as a tie; the share kept when the sides turn; a cycle or a
  # second vote on the same two taken out; indices that count from 1.
  listed = [
    [0, 1, 1],
    [1, 2, 1],
    [0, 2, 0],  # 2 beats 0: a cycle
    [0, 1, 0.5, 0],
    [0, 1, 0.25, 3],
    [0, 1, 1],
    [2.0, 1.0, True, None],  # of an Arrow table
  ]
  got = read(dict(THREE, comparisons=listed))
  assert (got.kind, got.ranks) == ("comparisons", None)
  assert got.comparisons == (
    Comparison(0, 1, 1.0, None),
    Comparison(1, 2, 1.0, None),
    Comparison(2, 0, 1.0, None),
    Comparison(0, 1, 0.5, 0.0),
    Comparison(1, 0, 0.75, 3.0),
    Comparison(0, 1, 1.0, None),
    Comparison(2, 1, 1.0, None),
  )
  assert all(isinstance(c.chosen, int) for c in got.comparisons)


def test_comparisons_keep_the_ratings_beside_them():
  # Catches: ratings read as the order, comparisons lost; a margin of ratings
  # that takes the side named first for the chosen one.
  row = dict(THREE, comparisons=[[0, 1, 1], [0, 2, 0, 2]], ratings=[4, 5, 2])
  got = read(row)
  assert (got.kind, got.ratings) == ("comparisons", (4.0, 5.0, 2.0))
  assert find_ranks(got) is None
  found = find_comparisons(got, ties=False)
  assert found == [Comparison(0, 1, 1.0, None), Comparison(2, 0, 1.0, 2.0)]
  margins = find_margins(got, found, margin="rating_difference")
  # Both labels contradict the ratings.
  np.testing.assert_array_equal(margins, [-1.0, -2.0])


@pytest.mark.parametrize(
  "entry, reason",
  [
    ([0, 3, 1], "an index of comparison 1 must be in 0 ... 2, got 3"),
    ([-1, 0, 1], "an index of comparison 1 must be in 0 ... 2, got -1"),
    ([0.5, 1, 1], "an index of comparison 1 must be an integer, got 0.5"),
    ([True, 0, 1], "an index of comparison 1 must be an integer, got true"),
    ([1, 1, 1], "comparison 1 is of completion 1 with itself"),
    ([0, 1], "comparison 1 must be [i, j, outcome] or"),
    ([0, 1, 2], "the outcome of comparison 1 must be a boolean or in [0, 1]"),
    ([0, 1, 1, 9], "the strength of comparison 1 must be in [0, 3], got 9"),
    ("0>1", "comparison 1 must be a list, got str"),
  ],
)
def test_bad_comparisons_say_which_and_why(entry, reason):
  row = dict(THREE, comparisons=[[0, 1, 1], entry])
  assert refusal(row).startswith(reason)


# ------------------------------------------------------------------- bad rows


K2 = dict(prompt="Q", completions=["a", "b"])


@pytest.mark.parametrize(
  "row, reason",
  [
    (dict(PAIR, chosen=3), "the chosen completion must be a string, got int"),
    (dict(PAIR, chosen=[3]), r"the chosen completion[0] must be a message"),
    (dict(PAIR, rejected=[assistant("")]), "the rejected completion is empty"),
    (dict(PAIR, prompt=None), "field 'prompt' must be a list"),
    (
      dict(PAIR, chosen_rating=float("nan"), rejected_rating=1),
      "the rating of the chosen completion must be finite, got nan",
    ),
    (
      dict(PAIR, chosen_rating=3),
      "the rating of the rejected completion must be a number, got null",
    ),
    (dict(PAIR, strength="much"), "field 'strength' must be a number"),
    (dict(K2, ranks=[1]), "field 'ranks' has 1 values for 2 completions"),
    (dict(K2, ranks=[1, 1.5]), "rank 1 must be an integer, got 1.5"),
    (dict(K2, ranks=[1, None]), "rank 1 must be an integer, got null"),
    (dict(K2, ranks=[1, float("inf")]), "rank 1 must be an integer"),
    (dict(K2, ratings=[1, float("inf")]), "rating 1 must be finite, got inf"),
    (dict(K2, completions=[], ratings=[]), "field 'completions' is empty"),
    (dict(K2, completions=["a", ""], ranks=[1, 2]), "completion 1 is empty"),
    (dict(K2, labels=[1]), "completion 0 has 2 steps but 1 labels"),
    (
      dict(K2, completions=["a", " "], labels=[1, 1]),
      "step 2 of completion 0 is empty",
    ),
    (
      dict(prompt="Q", completion="a", label=2),
      "label 0 must be a boolean or in [0, 1], got 2",
    ),
    (dict(question={}, label=dict(steps=[{}])), "the path is empty"),
    (dict(question={}, label=dict(steps=[3])), "malformed, expected {question"),
    (7, "expected a JSON object, got int"),
  ],
)
def test_bad_rows_say_what_is_wrong(row, reason):
  assert refusal(row).startswith(reason)


@pytest.mark.parametrize(
  "row, reason",
  [
    (dict(K2, ratings=[1, {"a": 1}]), "rating 0 must be an object, got int"),
    (dict(K2, ratings=[{}, {}]), "no attribute is rated in rating 0 and"),
    (dict(K2, ratings=[1, None]), "rating 1 must be a number, got null"),
    (dict(K2, ratings=[True, 1]), "rating 0 must be a number, got true"),
    (
      dict(K2, ratings=[{"a": 1}, {"a": math.nan}]),
      "'a' of rating 1 must be finite, got nan",
    ),
    (dict(K2, comparisons=[]), "field 'comparisons' is empty"),
  ],
)
def test_bad_ratings_say_what_is_wrong(row, reason):
  assert refusal(row).startswith(reason)


@pytest.mark.parametrize(
  "kind, row, said",
  [
    ("outcome", {"prompt": "Why ?"}, "missing fields, expected {prompt, comp"),
    ("unlabelled", {"prompt": "Why ?"}, "missing field, expected {prompt, com"),
  ],
)
def test_a_kind_asked_for_says_which_fields_it_has(tmp_path, kind, row, said):
  path = tmp_path / "rows.jsonl"
  path.write_text(json.dumps(row) + "\n")
  (reject,) = read_records(path, kind=kind)
  assert reject.line == 1 and reject.reason.startswith(said)


@pytest.mark.parametrize(
  "row, reason",
  [
    (dict(K2, ratings=[1, 10**400]), "rating 1 must fit a float32, got 1000"),
    (dict(K2, ratings=[1, 1e39]), "rating 1 must fit a float32, got 1e+39"),
    (dict(K2, ranks=[0, 2**31]), "rank 1 must be an integer of 32 bits, got"),
    (dict(K2, prompt="\ud800", ranks=[0, 1]), "field 'prompt' holds half a"),
  ],
)
def test_what_no_array_or_tokenizer_can_hold_is_refused(row, reason):
  # Catches: OverflowError out of one row; inf in a label after the cast.
  assert refusal(row).startswith(reason)


# ------------------------------------------------------------------ real files


def test_llama_factory_demo(rm_data):
  records, reasons = count(rm_data / "llama_factory_demo")
  assert not reasons
  kinds = collections.Counter(r.kind for r in records)
  assert kinds == {"pair": 600, "outcome": 300}
  assert sum(r.labels[0] for r in records if r.kind == "outcome") == 150
