import math

import pytest

from tests.data.reading import read, refusal, told


def test_steps_end_at_their_last_character():
  row = dict(prompt="Q", completions=["one", "two \n", "x"], labels=[1, 0, 0.5])
  got = read(row)
  assert got.completions == ("one\ntwo \n\nx",)
  # characters: one|\n|two| \n\n|x; white space does not end a step
  assert got.step_ends == ((3, 7, 11),)
  # Catches int() and bool() on soft labels.
  assert got.step_labels == ((1.0, 0.0, 0.5),)


def test_three_class_steps_keep_wrong_and_neutral_apart():
  # Catches: bool(-1) == True, and a neutral 0 read as wrong.
  row = dict(prompt="Q", completions=["a", "b", "c"], labels=[1, 0, -1])
  assert read(row).step_labels == ((1.0, 0.5, 0.0),)
  row = dict(prompt="Q", completions=["a", "b"], labels=[True, -100])
  assert "step label 2" in str(read(row))


def test_steps_of_several_completions():
  row = dict(prompt="Q", completions=[["a", "b"], ["c"]], labels=[[1, 0], [1]])
  got = read(row)
  assert got.completions == ("a\nb", "c")
  assert got.step_ends == ((1, 3), (1,))
  assert got.step_labels == ((1.0, 0.0), (1.0,))


# ---------------------------------------------------------------- first error

STEPS = dict(prompt="Q", completions=["one", "two", "six"])


@pytest.mark.parametrize(
  "error, labels",
  [
    (-1, (1.0, 1.0, 1.0)),
    (0, (0.0,)),
    (1, (1.0, 0.0)),
    (2, (1.0, 1.0, 0.0)),
    (1.0, (1.0, 0.0)),  # of an Arrow table
  ],
)
def test_nothing_is_said_of_steps_after_the_first_error(error, labels):
  # Catches: steps after the error as wrong, or as right; an index from 1; -1
  # as the last step.
  got = read(dict(STEPS, first_error=error))
  assert (got.kind, got.completions) == ("steps", ("one\ntwo\nsix",))
  # Every step has an end, so that every step can be scored.
  assert got.step_ends == ((3, 7, 11),)
  assert len(got.step_labels[0]) == 3
  assert told(got) == (tuple(enumerate(labels)),)


def test_first_errors_of_several_completions():
  row = dict(prompt="Q", completions=[["a", "b"], ["c"]], first_error=[0, -1])
  got = read(row)
  assert got.completions == ("a\nb", "c")
  assert got.step_ends == ((1, 3), (1,))
  assert told(got) == (((0, 0.0),), ((0, 1.0),))


@pytest.mark.parametrize(
  "error, reason",
  [
    (3, "the first error of completion 0 must be in 0 ... 2, got 3"),
    (-2, "the first error of completion 0 must be in 0 ... 2, got -2"),
    (None, "the first error of completion 0 must be an integer, got null"),
    (True, "the first error of completion 0 must be an integer, got true"),
    (0.5, "the first error of completion 0 must be an integer, got 0.5"),
  ],
)
def test_a_bad_first_error_is_named(error, reason):
  assert refusal(dict(STEPS, first_error=error)).startswith(reason)


# --------------------------------------------------------------------- values


def test_values_in_0_1_are_labels_as_well():
  got = read(dict(STEPS, values=[0.5, 1, 0]))
  assert (got.kind, got.step_ends) == ("values", ((3, 7, 11),))
  assert got.step_values == got.step_labels == ((0.5, 1.0, 0.0),)


def test_values_of_their_own_scale_are_no_labels():
  # Catches: values clipped to [0, 1]; -1 read as the class "wrong".
  for values in ([-1, 0, 1], [0, 1, 7.5]):
    got = read(dict(STEPS, values=values))
    assert got.step_values == (tuple(map(float, values)),)
    assert got.step_labels is None


def test_one_value_outside_takes_the_labels_of_all_completions():
  row = dict(prompt="Q", completions=[["a", "b"], ["c"]])
  got = read(dict(row, values=[[0.1, 0.2], [1.1]]))
  assert got.step_values == ((0.1, 0.2), (1.1,))
  assert got.step_labels is None


@pytest.mark.parametrize(
  "values, reason",
  [
    ([1, 1], "completion 0 has 3 steps but 2 values"),
    ([1, 1, math.inf], "value 3 of completion 0 must be finite, got inf"),
    ([1, None, 1], "value 2 of completion 0 must be a number, got null"),
    ([], "field 'values' is empty"),
  ],
)
def test_bad_values_say_what_is_wrong(values, reason):
  assert refusal(dict(STEPS, values=values)).startswith(reason)
