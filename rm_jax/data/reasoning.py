"""Published solutions whose steps or outcomes were labelled.

One reader per data set, in the form its authors gave it. Trees of solutions
are in `trees`.
"""

import re

from rm_jax.data.fields import (
  BadRow,
  is_number,
  join_steps,
  need_completion,
  need_integer,
  need_label,
  need_list,
  need_prompt,
  need_text,
  shown,
)
from rm_jax.data.pairs import pair
from rm_jax.data.steps import NO_ERROR, first_error_record, join_solutions
from rm_jax.types import Record

MATH_SHEPHERD_MARKER = "ки"  # stands where a step ends
STEP_HEAD = re.compile(r"\s*step\s*(\d+)", re.IGNORECASE)


def read_prmbench(row) -> Record:
  """PRMBench: `error_steps` counts from 1 in `modified_process`.

  Its question may be modified, so the original one says which problem it is.
  """
  steps = need_list(row["modified_process"], "field 'modified_process'")
  errors = row["error_steps"]
  for i in errors if isinstance(errors, list) else [errors]:
    if not is_number(i) or not 1 <= i <= len(steps):
      raise BadRow(
        f"error step {shown(i)} is not one of the {len(steps)} steps"
      )
  text, ends = join_steps(steps)
  labels = tuple(0.0 if i + 1 in errors else 1.0 for i in range(len(steps)))
  prompt = need_prompt(row["modified_question"])
  return Record(
    "steps",
    prompt,
    (text,),
    step_ends=(ends,),
    step_labels=(labels,),
    problem=need_text(row.get("original_question") or "", "the problem"),
  )


def solutions(row) -> list:
  return [
    value
    for value in row.values()
    if isinstance(value, dict) and {"solution", "is_correct"} <= value.keys()
  ]


def read_gsm8k(row) -> Record:
  """GSM8K's example solutions: one per model, right or wrong."""
  found = solutions(row)
  if not found:
    raise BadRow("no model has {solution, is_correct}")
  return Record(
    "outcome",
    need_prompt(row["question"]),
    tuple(
      need_completion(s["solution"], f"solution {k}")
      for k, s in enumerate(found)
    ),
    labels=tuple(
      need_label(s["is_correct"], f"label {k}") for k, s in enumerate(found)
    ),
  )


def read_processbench(row) -> Record:
  """ProcessBench: `label` is the first wrong step from 0, -1 for none."""
  return first_error_record(
    need_prompt(row["problem"]), [row["steps"]], [row["label"]]
  )


def read_big_bench_mistake(row) -> Record:
  """BIG-Bench Mistake: `mistake_index` from 0, null for none."""
  mistake = row["mistake_index"]
  error = NO_ERROR if mistake is None else mistake
  return first_error_record(need_prompt(row["input"]), [row["steps"]], [error])


def read_mr_gsm8k(row) -> Record:
  """MR-GSM8K: the first wrong step from 1, of a solution that is wrong."""
  error = NO_ERROR
  if row["model_output_solution_correctness"] != "correct":
    given = row["model_output_solution_first_error_step"]
    error = need_integer(given, "the first error step") - 1
    if error < 0:
      raise BadRow(
        f"the first error step must be 1 or more, got {shown(given)}"
      )
  prompt = need_prompt(row["question"])
  return first_error_record(prompt, [row["model_output_steps"]], [error])


def is_mr_ben(row) -> bool:
  """Whether a row is a whole file of MR-Ben: question id -> solutions."""
  first = next(iter(row.values()), None)
  return (
    isinstance(first, list)
    and bool(first)
    and isinstance(first[0], dict)
    and "Model_Solution_Steps" in first[0]
  )


def read_mr_ben(row) -> list:
  """MR-Ben: per question its solutions, labelled up to the first error.

  Solutions of a question that were shown other options have another prompt,
  hence a record of their own. A solution that cannot be used gives a BadRow,
  the others of its question a record.
  """
  items = []
  for key, found in row.items():
    groups = {}
    for k, solution in enumerate(found):
      try:
        prompt = need_text(solution["Question"], "field 'Question'")
        if solution.get("Options"):
          prompt += f"\n{solution['Options']}"
        steps, first = mr_ben_steps(solution)
        join_steps(steps)  # an empty one is of this solution, not of the group
      except (BadRow, KeyError) as error:
        missing = "missing field " if isinstance(error, KeyError) else ""
        items.append(
          BadRow(f"solution {k} of question {key}: {missing}{error}")
        )
        continue
      prompt_steps, errors = groups.setdefault(prompt, ([], []))
      prompt_steps.append(steps)
      errors.append(first)
    items += [
      first_error_record(prompt, steps, errors)
      for prompt, (steps, errors) in groups.items()
    ]
  if not items:
    raise BadRow("no question has a solution")
  return items


def mr_ben_steps(solution) -> tuple:
  """Returns (steps, first error) of a solution.

  The first error is the number n of a "Step n" that stands at the beginning of
  a line, not an index of the list: lists hold empty lines, options and headings
  as well. So a step is the lines from its "Step n" to the next one's.
  """
  lines = need_list(solution["Model_Solution_Steps"], "the steps")
  steps, numbers = [], []
  for i, line in enumerate(lines):
    if not need_text(line, f"line {i + 1} of the steps").strip():
      continue
    head = STEP_HEAD.match(line)
    number = int(head.group(1)) if head else None
    if not steps or (number and numbers and number != numbers[-1]):
      steps.append(line)
    else:
      steps[-1] += f"\n{line}"
    if number and numbers[-1:] != [number]:
      numbers.append(number)
  if numbers != list(range(1, len(numbers) + 1)):
    raise BadRow(f"the steps are numbered {numbers}, expected 1, 2, 3 ...")
  if solution["Model_Solution_Correctness"] == "correct":
    return steps, NO_ERROR
  given = solution["Model_Solution_First_Error_Step"]
  if given not in map(str, numbers):
    raise BadRow(
      f"the first error step {shown(given)} is none of the {len(numbers)} steps"
    )
  return steps, int(given) - 1


def read_math_shepherd(row) -> Record:
  """Math-Shepherd: `label` is `input` with + or - in place of the markers.

  Everything before the last "Step 1:" of the first step is the prompt.

  Source: Wang et al. 2023, arXiv:2312.08935 (hard labels; the released form).
  """
  text = need_text(row["input"], "field 'input'")
  label = need_text(row["label"], "field 'label'")
  *steps, tail = text.split(MATH_SHEPHERD_MARKER)
  if not steps:
    raise BadRow(f"field 'input' has no marker {MATH_SHEPHERD_MARKER!r}")
  marks, rest = [], label
  for i, step in enumerate(steps):
    mark = rest[len(step) : len(step) + 1]
    if not rest.startswith(step) or mark not in ("+", "-"):
      raise BadRow(
        f"field 'label' does not repeat field 'input' up to its marker "
        f"{i + 1} of {len(steps)}, with + or - for it"
      )
    marks.append(1.0 if mark == "+" else 0.0)
    rest = rest[len(step) + 1 :]
  if rest != tail:
    raise BadRow(
      f"field 'label' goes on otherwise than field 'input' after the last of "
      f"its {len(steps)} markers"
    )
  if tail.strip():
    raise BadRow(f"field 'input' goes on after its last marker: {tail[:40]!r}")
  prompt, found, first = steps[0].rpartition("Step 1:")
  if not found:
    raise BadRow("no 'Step 1:' says where the first step begins")
  steps = [text.strip() for text in (found + first, *steps[1:])]
  texts, ends = join_solutions([steps])
  return Record(
    "steps",
    need_prompt(prompt.strip()),
    texts,
    step_ends=ends,
    step_labels=(tuple(marks),),
  )


def read_rewardmath_direct(row) -> Record:
  """RewardMATH, one solution: right where it is the chosen one."""
  label = row["solution_type"]
  if label not in ("chosen", "rejected"):
    raise BadRow(
      f"solution_type must be chosen or rejected, got {shown(label)}"
    )
  texts, _ = join_solutions([need_list(row["eval_solution"], "the solution")])
  labels = (float(label == "chosen"),)
  return Record("outcome", need_prompt(row["problem"]), texts, labels=labels)


def read_rewardmath_pair(row) -> Record:
  """RewardMATH, two solutions: `chosen_position` is A or B."""
  names = ("eval_solution_A", "eval_solution_B")
  position = row["chosen_position"]
  if position not in ("A", "B"):
    raise BadRow(f"chosen_position must be A or B, got {shown(position)}")
  names = names if position == "A" else names[::-1]
  texts, _ = join_solutions([need_list(row[name], name) for name in names])
  return pair(need_prompt(row["problem"]), *texts, names=names)
