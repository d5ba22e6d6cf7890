"""Reasoning steps: a label per step, the first error, a value per step."""

import math

from rm_jax.data.fields import (
  BadRow,
  is_number,
  join_steps,
  need_index,
  need_list,
  need_number,
  need_prompt,
  step_labels,
)
from rm_jax.types import Record

NO_ERROR = -1  # as ProcessBench writes it


def read_steps(row) -> Record:
  """TRL's stepwise format, or K of it: lists of steps, lists of labels."""
  prompt, solutions, labels = need_solutions(row, "labels")
  texts, ends = join_solutions(solutions)
  return Record(
    "steps",
    prompt,
    texts,
    step_ends=ends,
    step_labels=tuple(
      step_labels(marks, f"completion {k}") for k, marks in enumerate(labels)
    ),
  )


def read_values(row) -> Record:
  """Returns a value per step, and as labels too where all lie in [0, 1].

  A value in [0, 1] is a probability of success (Math-Shepherd's soft label is
  the share of rollouts that reach the answer: Wang et al. 2023,
  arXiv:2312.08935), any other number is one of its own scale.
  """
  prompt, solutions, given = need_solutions(row, "values")
  texts, ends = join_solutions(solutions)
  values = tuple(
    tuple(
      need_number(value, f"value {i + 1} of completion {k}")
      for i, value in enumerate(numbers)
    )
    for k, numbers in enumerate(given)
  )
  return value_record(prompt, texts, ends, values)


def value_record(prompt, texts, ends, values, trunk=-1) -> Record:
  shares = all(0 <= value <= 1 for row in values for value in row)
  return Record(
    "values",
    prompt,
    texts,
    step_ends=ends,
    step_labels=values if shares else None,
    step_values=values,
    trunk=trunk,
  )


def read_first_error(row) -> Record:
  """Returns labels of the steps up to `first_error`, an index from 0, or -1."""
  prompt = need_prompt(row["prompt"])
  solutions = need_list(row["completions"], "field 'completions'")
  errors = row["first_error"]
  if not isinstance(solutions[0], list):
    solutions, errors = [solutions], [errors]
  errors = need_list(errors, "field 'first_error'")
  if len(errors) != len(solutions):
    raise BadRow(
      f"field 'first_error' has {len(errors)} values for {len(solutions)} "
      "completions"
    )
  return first_error_record(prompt, solutions, errors)


def first_error_record(prompt, solutions, errors) -> Record:
  """Returns the record of K lists of steps, each with its first error.

      label(step) = 1 before the first error, 0 at it, NaN after it

  Nobody says whether the steps after the first error are right, and a process
  reward model learns none of them; scored they are like all others.

  Source: Lightman et al. 2023, arXiv:2305.20050, section 2.6 (supervision up
  to the first incorrect step).

  Args:
    prompt: as the record has it.
    solutions: K lists of texts.
    errors: K indices from 0; -1 where no step is wrong.

  Raises:
    BadRow: an empty step, an index that is none of the steps.
  """
  solutions = [
    need_list(steps, f"completion {k}") for k, steps in enumerate(solutions)
  ]
  texts, ends = join_solutions(solutions)
  labels = []
  for k, error in enumerate(errors):
    count = len(solutions[k])
    right = count
    if not (is_number(error) and error == NO_ERROR):
      right = need_index(error, f"the first error of completion {k}", count)
    marks = (1.0,) * right + (0.0,) * (right < count)
    labels.append(marks + (math.nan,) * (count - len(marks)))
  return Record(
    "steps",
    prompt,
    texts,
    step_ends=ends,
    step_labels=tuple(labels),
  )


def need_solutions(row, field: str) -> tuple:
  """Returns (prompt, K lists of steps, K lists of the field's values)."""
  prompt = need_prompt(row["prompt"])
  solutions = need_list(row["completions"], "field 'completions'")
  given = need_list(row[field], f"field '{field}'")
  if not isinstance(solutions[0], list):
    solutions, given = [solutions], [given]
  if len(solutions) != len(given):
    raise BadRow(
      f"field '{field}' has {len(given)} lists for {len(solutions)} completions"
    )
  for k, (steps, values) in enumerate(zip(solutions, given, strict=True)):
    need_list(steps, f"completion {k}")
    need_list(values, f"{field} {k}")
    if len(steps) != len(values):
      raise BadRow(
        f"completion {k} has {len(steps)} steps but {len(values)} {field}"
      )
  return prompt, solutions, given


def join_solutions(solutions) -> tuple:
  """Returns (texts, ends) of K lists of steps."""
  joined = [
    join_steps(steps, f"completion {k}") for k, steps in enumerate(solutions)
  ]
  return tuple(text for text, _ in joined), tuple(ends for _, ends in joined)
