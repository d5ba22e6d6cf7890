import collections
import itertools

import pytest

from rm_jax.data.recognise import row_items
from tests.data.reading import count, raw, read, refusal, told

# ---------------------------------------------------------------- rows by hand


@pytest.mark.parametrize("errors, labels", [([2], (1.0, 0.0)), ([3], None)])
def test_prmbench_counts_errors_from_one(errors, labels):
  row = dict(
    modified_question="Q", modified_process=["a", "b"], error_steps=errors
  )
  got = read(row)
  if labels:
    assert got.step_labels == (labels,)
  else:
    assert str(got) == "error step 3 is not one of the 2 steps"


def test_gsm8k_solutions_of_a_question_are_one_group():
  row = dict(
    question="Q",
    ground_truth="G",
    small=dict(solution="a", is_correct=False),
    large=dict(solution="b", is_correct=True),
  )
  got = read(row)
  assert (got.kind, got.prompt) == ("outcome", "Q")
  assert (got.completions, got.labels) == (("a", "b"), (0.0, 1.0))


STEPS = ["one", "two", "six"]


@pytest.mark.parametrize(
  "row",
  [
    dict(problem="Q", label=1, final_answer_correct=False),
    dict(input="Q", mistake_index=1, target="t", answer="a"),
    dict(
      question="Q",
      model_output_solution_correctness="wrong",
      model_output_solution_first_error_step=2,  # from 1
    ),
  ],
)
def test_the_first_error_is_the_second_step(row):
  # Catches: counting from 1 where the data counts from 0, and the reverse;
  # labels on the steps after the error.
  name = "model_output_steps" if "question" in row else "steps"
  got = read(row | {name: STEPS})
  assert (got.kind, got.prompt) == ("steps", "Q")
  assert got.completions == ("one\ntwo\nsix",)
  assert got.step_ends == ((3, 7, 11),)
  assert told(got) == (((0, 1.0), (1, 0.0)),)


@pytest.mark.parametrize(
  "row",
  [
    # A wrong answer behind right steps says nothing about the steps.
    dict(problem="Q", label=-1, final_answer_correct=False),
    dict(input="Q", mistake_index=None, target="t", answer="a"),
    dict(
      question="Q",
      model_output_solution_correctness="correct",
      model_output_solution_first_error_step="N/A",
    ),
  ],
)
def test_no_error_makes_every_step_right(row):
  name = "model_output_steps" if "question" in row else "steps"
  got = read(row | {name: STEPS})
  assert got.step_labels == ((1.0, 1.0, 1.0),)
  assert got.step_ends == ((3, 7, 11),)


@pytest.mark.parametrize(
  "row, reason",
  [
    (
      dict(problem="Q", steps=STEPS, label=3),
      "the first error of completion 0",
    ),
    (dict(problem="Q", steps=STEPS, label=None), "the first error of complet"),
    (dict(problem="Q", steps=["a", ""], label=0), "step 2 of completion 0 is"),
    (dict(input="Q", steps=STEPS, mistake_index=-2), "the first error of com"),
    (
      dict(
        question="Q",
        model_output_steps=STEPS,
        model_output_solution_correctness="wrong",
        model_output_solution_first_error_step=0,
      ),
      "the first error step must be 1 or more, got 0",
    ),
  ],
)
def test_bad_first_errors_are_named(row, reason):
  assert refusal(row).startswith(reason)


def mr_ben(lines, first, options="A: 1"):
  return dict(
    Question="Q",
    Options=options,
    Model_Solution_Steps=lines,
    Model_Solution_Correctness="correct" if first == "N/A" else "incorrect",
    Model_Solution_First_Error_Step=first,
  )


def test_mr_ben_counts_the_steps_that_say_so_not_the_lines():
  # Catches: "2" as the second entry of the list, here an empty line; headings,
  # options and empty lines as steps; a prompt without its options.
  lines = ["Step 1: a", "", "Step 2: b", " - A: 1", "Step 2.A: c", "", "step 3"]
  found = [
    mr_ben(["Let us see", *lines, "Solution: A"], "N/A"),
    mr_ben(lines, "2"),
    mr_ben("def f(): pass", "def f(): pass"),
    mr_ben(lines, "4"),
    mr_ben(["Step 1: a", "Step 1: b", "Step 2", "Step 1"], "1"),
    mr_ben(lines, "1", options="A: 2"),
  ]
  *bad, shared, other = row_items({"id-7": found}, "auto")
  assert (shared.kind, shared.prompt) == ("steps", "Q\nA: 1")
  assert shared.completions == (
    "Let us see\nStep 1: a\nStep 2: b\n - A: 1\nStep 2.A: c\nstep 3\n"
    "Solution: A",
    "Step 1: a\nStep 2: b\n - A: 1\nStep 2.A: c\nstep 3",
  )
  ends = tuple(
    len(shared.completions[0].split(s)[0]) for s in ("\nStep 2: b", "\nstep 3")
  )
  assert shared.step_ends[0] == (*ends, len(shared.completions[0]))
  assert told(shared) == (
    ((0, 1.0), (1, 1.0), (2, 1.0)),
    ((0, 1.0), (1, 0.0)),
  )
  # Another wording of the options is another prompt: not the same group.
  assert (other.prompt, told(other)) == ("Q\nA: 2", (((0, 0.0),),))
  assert list(map(str, bad)) == [
    "solution 2 of question id-7: the steps must be a list, got str",
    'solution 3 of question id-7: the first error step "4" is none of the 3 '
    "steps",
    "solution 4 of question id-7: the steps are numbered [1, 2, 1], expected "
    "1, 2, 3 ...",
  ]


SHEPHERD = dict(
  input="Why - so + ? Step 1: a - b ки\nStep 2: c. The answer is: 2 ки",
  label="Why - so + ? Step 1: a - b +\nStep 2: c. The answer is: 2 -",
)


def test_math_shepherd_marks_stand_where_the_markers_stand():
  # Catches: + and - counted in the text of the steps; the question as a step;
  # markers left in the text.
  got = read(SHEPHERD)
  assert (got.kind, got.prompt) == ("steps", "Why - so + ?")
  first, second = "Step 1: a - b", "Step 2: c. The answer is: 2"
  assert got.completions == (f"{first}\n{second}",)
  assert got.step_ends == ((len(first), len(first) + 1 + len(second)),)
  assert got.step_labels == ((1.0, 0.0),)


@pytest.mark.parametrize(
  "field, old, new, reason",
  [
    ("label", " -", " ки", "field 'label' does not repeat field 'input' up to"),
    ("label", "c.", "d.", "field 'label' does not repeat field 'input' up to"),
    ("label", "2 -", "2", "field 'label' does not repeat field 'input' up to"),
    ("label", "2 -", "2 - +", "field 'label' goes on otherwise than field 'in"),
    ("input", "2 ки", "2", "field 'label' goes on otherwise than field 'in"),
    ("input", "Step 1: ", "", "field 'label' does not repeat field 'input'"),
  ],
)
def test_math_shepherd_marks_must_agree_with_the_markers(
  field, old, new, reason
):
  # Catches: zip() that stops at the shorter of marks and markers.
  head, found, tail = SHEPHERD[field].rpartition(old)
  assert found
  row = dict(SHEPHERD, **{field: head + new + tail})
  assert refusal(row).startswith(reason)


def test_math_shepherd_says_where_its_form_ends():
  said = dict(input="Q a ки", label="Q a +")
  assert refusal(said) == "no 'Step 1:' says where the first step begins"
  said = dict(input="Q Step 1: a ки more", label="Q Step 1: a + more")
  assert refusal(said) == "field 'input' goes on after its last marker: ' more'"
  said = refusal(dict(input="Q", label="Q"), kind="math_shepherd")
  assert said == "field 'input' has no marker 'ки'"


def test_rewardmath_texts():
  row = dict(problem="Q", eval_solution=["a", "b"], solution_type="rejected")
  got = read(row)
  assert (got.kind, got.labels) == ("outcome", (0.0,))
  assert got.completions == ("a\nb",)
  assert read(dict(row, solution_type="chosen")).labels == (1.0,)
  assert refusal(dict(row, solution_type="")).startswith(
    "solution_type must be"
  )
  sides = dict(problem="Q", eval_solution_A=["a"], eval_solution_B=["b", "c"])
  assert read(dict(sides, chosen_position="A")).completions == ("a", "b\nc")
  assert read(dict(sides, chosen_position="B")).completions == ("b\nc", "a")
  reason = refusal(dict(sides, chosen_position=None))
  assert reason == "chosen_position must be A or B, got null"


# ------------------------------------------------------------------ real files


def test_gsm8k_solutions(rm_data):
  path = rm_data / "gsm8k/example_model_solutions.part_0319-1318.jsonl.gz"
  records, reasons = count(path)
  assert (len(records), reasons) == (1_000, {})
  labels = list(itertools.chain.from_iterable(r.labels for r in records))
  assert len(labels) == 4_000
  assert round(sum(labels) / len(labels), 3) == 0.375


def test_prmbench(rm_data):
  records, reasons = count(rm_data / "prmbench")
  outside = sum(n for r, n in reasons.items() if r.startswith("error step"))
  assert outside == 57
  assert sum(reasons.values()) - outside == 1  # one empty step
  assert len(records) == 3_203 - 58
  assert all(0.0 in record.step_labels[0] for record in records)


def labelled(records):
  """Returns (records without an error, labels in all)."""
  right = sum(0.0 not in r.step_labels[0] for r in records)
  return right, sum(len(told(r)[0]) for r in records)


@pytest.mark.parametrize(
  "name, n, right", [("gsm8k", 400, 193), ("math", 1_000, 406)]
)
def test_processbench(rm_data, name, n, right):
  path = rm_data / f"processbench/{name}.json.gz"
  records, reasons = count(path)
  assert (len(records), reasons) == (n, {})
  labels = sum(
    len(row["steps"]) if row["label"] == -1 else row["label"] + 1
    for row in raw(path)
  )
  assert labelled(records) == (right, labels)


@pytest.mark.parametrize(
  "task, right",
  [
    ("word_sorting", 34),
    ("tracking_shuffled_objects", 40),
    ("multistep_arithmetic", 62),
  ],
)
def test_big_bench_mistake(rm_data, task, right):
  records, reasons = count(rm_data / f"big_bench_mistake/{task}.jsonl.gz")
  assert (len(records), reasons) == (300, {})
  assert labelled(records)[0] == right


def test_mr_gsm8k(rm_data):
  records, reasons = count(rm_data / "mr_gsm8k")
  assert (len(records), reasons) == (326 + 323 + 173, {})
  assert labelled(records)[0] == 0
  errors = collections.Counter(len(told(r)[0]) for r in records)
  assert errors[1] == 27 + 20 + 11  # Claude, GPT3_5, llama2_70b


@pytest.mark.parametrize(
  "subject, solutions, correct, prompts, bad",
  [("physics", 667, 319, 226, 2), ("chemistry", 848, 382, 284, 0)],
)
def test_mr_ben(rm_data, subject, solutions, correct, prompts, bad):
  (row,) = raw(rm_data / f"mr_ben/{subject}.json.gz")
  items = row_items(row, "auto")
  records = [item for item in items if not isinstance(item, Exception)]
  reasons = [str(item) for item in items if isinstance(item, Exception)]
  # 223 questions of physics: in 3 of them one solution saw other options.
  assert len(records) == prompts
  assert len(reasons) == bad
  assert all("the steps are numbered" in reason for reason in reasons)
  marks = list(itertools.chain.from_iterable(r.step_labels for r in records))
  assert len(marks) == solutions - bad
  assert sum(0.0 not in mark for mark in marks) == correct
  assert {len(r.completions) for r in records} <= {1, 2, 3}


def test_mr_ben_first_errors_are_the_steps_that_were_put_right(rm_data):
  # An independent witness for counting "Step n" and not lines: the annotators'
  # corrected step repeats the number of the step they call wrong.
  agree = total = 0
  for subject in ("physics", "chemistry"):
    (row,) = raw(rm_data / f"mr_ben/{subject}.json.gz")
    for solution in itertools.chain.from_iterable(row.values()):
      first = solution["Model_Solution_First_Error_Step"]
      put_right = str(solution["Model_Solution_Rectified_First_Error_Step"])
      if first != "N/A":
        total += 1
        agree += f"step {first}" in put_right[:40].lower()
  assert total == 348 + 466
  assert agree >= total - 5


def test_mr_ben_coding_has_no_steps(rm_data):
  (row,) = raw(rm_data / "mr_ben/coding.json.gz")
  items = row_items(row, "auto")
  assert len(items) == 238
  assert all("must be a list, got str" in str(item) for item in items)


def test_math_shepherd_samples(rm_data):
  path = rm_data / "openr_samples/samples_math-shepherd.jsonl"
  records, reasons = count(path)
  assert (len(records), reasons) == (7, {})
  labels = collections.Counter(y for r in records for y in r.step_labels[0])
  assert labels == {1.0: 5, 0.0: 20}
  for record, row in zip(records, raw(path), strict=True):
    # Put together again it is the input, up to white space.
    text = f"{record.prompt} " + record.completions[0]
    assert text.split() == row["input"].replace("ки", " ").split()
    assert all(
      step.startswith(f"Step {i}:")
      for i, step in enumerate(record.completions[0].split("\n"), start=1)
    )


def test_rewardmath_texts_of_the_benchmark(rm_data):
  path = rm_data / "rewardmath/dataset/benchmark"
  records, reasons = count(path)
  assert not reasons
  singles = [r for r in records if r.kind == "outcome"]
  pairs = [r for r in records if r.kind == "pair"]
  assert (len(singles), len(pairs)) == (20, 18)
  right = {r.completions[0] for r in singles if r.labels == (1.0,)}
  assert len(right) == 2
  # Both files are of the same two problems: the chosen side is the right one.
  assert {r.completions[0] for r in pairs} == right


def test_prmbench_names_the_problem_whose_question_was_modified():
  row = dict(modified_question="Q", modified_process=["a"], error_steps=[1])
  assert read(row).problem == ""
  assert read(row | {"original_question": "Q, whole"}).problem == "Q, whole"
