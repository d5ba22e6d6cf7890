import collections
import json

import pytest

from tests.data.reading import count, raw, read, refusal, told


def test_prm800k_alternatives_fork_and_never_follow_each_other():
  # Catches trap: alternatives of one step concatenated as consecutive steps.
  def rated(text, rating):
    return dict(text=text, rating=rating)

  steps = [
    dict(completions=[rated("A", 1)], chosen_completion=0),
    dict(
      completions=[rated("B1", -1), rated("B2", 0)],
      chosen_completion=None,
      human_completion=dict(text="BH", rating=None),
    ),
    dict(completions=[rated("C", 1), rated("D", 1)], chosen_completion=1),
    dict(completions=[rated("E", -1), rated("F", 1)], chosen_completion=None),
  ]
  row = dict(question=dict(problem="Q"), label=dict(steps=steps))
  got = read(row)
  assert got.trunk == 0
  assert got.completions == (
    "A\nBH\nD\nE",
    "A\nB1",
    "A\nB2",
    "A\nBH\nC",
    "A\nBH\nD\nF",
  )
  # BH has no rating: no label; a fork is labelled on its own step only.
  assert got.step_ends == ((1, 4, 6, 8), (4,), (4,), (6,), (8,))
  trunk, *forks = told(got)
  assert trunk == ((0, 1.0), (2, 1.0), (3, 0.0))
  assert forks == [((0, y),) for y in (0.0, 0.5, 1.0, 1.0)]


@pytest.mark.parametrize("check", ["quality_control", "initial_screening"])
def test_prm800k_tests_of_the_labeller_are_rejected_by_name(check):
  # Catches: known answers, shown to find careless labellers, learned as data.
  steps = [dict(completions=[dict(text="A", rating=1)], chosen_completion=0)]
  row = dict(question=dict(problem="Q"), label=dict(steps=steps))
  assert read(dict(row, **{f"is_{check}_question": False})) == read(row)
  reason = f"{check.replace('_', ' ')}: a test of the labeller"
  assert refusal(dict(row, **{f"is_{check}_question": True})) == reason


# ------------------------------------------------------------------- MATH-APS

# Q - A(.5) - AB(.25) - ABC(0)
#           |         - ABD(1)
#           - AE(.75)
#   - F(1)
TEXTS = {"A": 0.5, "AB": 0.25, "ABC": 0.0, "ABD": 1.0, "AE": 0.75, "F": 1.0}
WANTED = dict(
  kind="values",
  prompt="Q",
  trunk=0,
  completions=("A\nB\nC", "A\nB\nD", "A\nE", "F"),
  # A and AB count in the trunk only; a leaf counts on its own last step.
  step_ends=((1, 3, 5), (5,), (3,), (1,)),
  step_values=((0.5, 0.25, 0.0), (1.0,), (0.75,), (1.0,)),
  step_labels=((0.5, 0.25, 0.0), (1.0,), (0.75,), (1.0,)),
)


def node(text, value, *children):
  return dict(text=text, mc_value=value, children=list(children))


def tree():
  return node(
    "Q",
    0.6,
    node("F", 1.0),
    node(
      "A",
      0.5,
      node("E", 0.75),
      node("B", 0.25, node("C", 0.0), node("D", 1.0)),
    ),
  )


def test_math_aps_values_stand_once_and_follow_what_they_saw():
  # Catches: siblings joined to one path; a shared step labelled per leaf; the
  # trunk taken as the first leaf, so that few tokens are shared; the value of
  # the question put on the first step.
  got = read(dict(question="Q", reasoning_steps=tree()))
  for field in ("kind", "prompt", "trunk"):
    assert getattr(got, field) == WANTED[field]
  assert got.completions[0] == WANTED["completions"][0]
  fields = ("completions", "step_ends", "step_values", "step_labels")
  # The trunk first, the other leaves by depth: F, E, D.
  for field in fields:
    trunk, *others = WANTED[field]
    assert getattr(got, field) == (trunk, *others[::-1]), field


@pytest.mark.parametrize("order", [1, -1])
def test_math_aps_prefixes_are_the_same_tree(order):
  entries = [
    dict(solution_prefix="Q\n\n" + "\n".join(text), mc_value=value)
    for text, value in list(TEXTS.items())[::order]
  ]
  entries.append(dict(solution_prefix="Q", mc_value=0.6))
  got = read(dict(question="Q", reasoning_steps=entries))
  said = {
    completion[:end]: value
    for completion, ends, values in zip(
      got.completions, got.step_ends, got.step_values, strict=True
    )
    for end, value in zip(ends, values, strict=True)
  }
  assert said == {"\n".join(text): value for text, value in TEXTS.items()}
  assert sum(map(len, got.step_ends)) == len(TEXTS)
  assert len(got.completions[0]) == 5 and len(got.step_ends[0]) == 3


def test_a_prefix_that_ends_within_a_word_is_no_step_of_the_longer_one():
  # Catches: the value of "1" put on the token of "12".
  entries = [
    dict(solution_prefix=text, mc_value=value)
    for text, value in (("Q 1", 0.5), ("Q 12", 1.0))
  ]
  got = read(dict(question="Q", reasoning_steps=entries))
  assert got.completions == ("1", "12")
  assert got.step_ends == ((1,), (2,))


@pytest.mark.parametrize(
  "steps, reason",
  [
    ([dict(solution_prefix="Q", mc_value=1)], "no step has a value"),
    ([dict(solution_prefix="P x", mc_value=1)], "prefix 0 does not begin with"),
    ([dict(solution_prefix="Q x", mc_value="1")], "value 0 must be a number"),
    (node("Q", 1.0), "no step has a value"),
    (node("Q", 1.0, node(" ", 1.0)), "node 0 is empty"),
    (node("Q", 1.0, node("A", None)), "the value of node 0 must be a number"),
    (node("Q", 1.0, dict(text="A")), "malformed, expected {question, reason"),
  ],
)
def test_bad_math_aps_says_what_is_wrong(steps, reason):
  assert refusal(dict(question="Q", reasoning_steps=steps)).startswith(reason)


# ------------------------------------------------------------------ real files


def test_prm800k_samples(rm_data):
  path = rm_data / "openr_samples/samples_prm800k.jsonl"
  records, reasons = count(path)
  assert len(records) == 5
  assert reasons == {"initial screening: a test of the labeller": 1}
  labels = collections.Counter(
    y for r in records for marks in told(r) for _, y in marks
  )
  # Every rated completion of the other rows once, counted in their text alone.
  rated, everything = collections.Counter(), collections.Counter()
  for row in raw(path):
    text = json.dumps(row["label"])
    here = {y: text.count(f'"rating": {r},') for r, y in LABEL_OF.items()}
    everything.update(here)
    if not row["is_initial_screening_question"]:
      rated.update(here)
  assert everything == {1.0: 55, 0.5: 3, 0.0: 15}
  assert labels == rated


LABEL_OF = {1: 1.0, 0: 0.5, -1: 0.0}


def walk(steps) -> tuple:
  """What a labeller of PRM800K saw, from the raw steps alone.

  Returns (the whole path, per step a list of (all that was read, label,
  whether the path goes on from it)).
  """
  path, seen = [], []
  for step in steps:
    written, human = step["completions"] or [], step["human_completion"]
    contexts = ["\n".join([*path, c["text"]]) for c in written]
    if human is not None:
      path.append(human["text"])
    elif written:  # a last step may have no choice: its first
      path.append(written[step["chosen_completion"] or 0]["text"])
    taken = "\n".join(path)
    seen.append(
      [
        (context, LABEL_OF[c["rating"]], context == taken)
        for context, c in zip(contexts, written, strict=True)
      ]
    )
  return "\n".join(path), seen


def test_prm800k_samples_have_no_context_that_nobody_saw(rm_data):
  # Catches: a fork behind another alternative, of its step or of an earlier
  # one; a step left out or chosen that was not; a fork that goes on; a label on
  # another text than it was given to.
  path = rm_data / "openr_samples/samples_prm800k.jsonl"
  records, _ = count(path)
  rows = [r for r in raw(path) if not r["is_initial_screening_question"]]
  early = 0
  for record, row in zip(records, rows, strict=True):
    whole, seen = walk(row["label"]["steps"])
    trunk, *forks = record.completions
    assert trunk == whole
    alternatives = [[c for c, _, on in step if not on] for step in seen]
    assert forks == [context for step in alternatives for context in step]
    got = [
      (completion[: ends[i]], label)
      for completion, ends, marks in zip(
        record.completions, record.step_ends, told(record), strict=True
      )
      for i, label in marks
    ]
    judged = [(context, label) for step in seen for context, label, _ in step]
    assert sorted(got) == sorted(judged)
    early += sum(map(len, alternatives[: len(record.step_ends[0]) - 1]))
  assert early == 5 + 6  # the path goes on after them: they could be taken in


def test_math_aps_list_sample(rm_data):
  path = rm_data / "openr_samples/samples_math-aps.jsonl.gz"
  records, reasons = count(path)
  assert (len(records), reasons) == (3, {})
  for record, row in zip(records, raw(path), strict=True):
    # Independent of the tree: every (prefix, value) of the file but the
    # question, as often as it stands there, and nothing else.
    wanted = collections.Counter(
      (
        step["solution_prefix"][len(row["question"]) :].strip(),
        step["mc_value"],
      )
      for step in row["reasoning_steps"][1:]
    )
    assert said(record) == wanted
  assert sum(len(said) for r in records for said in r.step_ends) == 145 - 3


def said(record):
  return collections.Counter(
    (completion[:end], value)
    for completion, ends, values in zip(
      record.completions, record.step_ends, record.step_values, strict=True
    )
    for end, value in zip(ends, values, strict=True)
  )


def test_math_aps_tree_sample(rm_data):
  path = rm_data / "openr_samples/samples_math-aps-tree.jsonl.gz"
  records, reasons = count(path)
  assert (len(records), reasons) == (3, {})
  for record, row in zip(records, raw(path), strict=True):
    wanted = collections.Counter()

    def visit(node, path, wanted=wanted):
      for child in node["children"]:
        text = [*path, child["text"]]
        wanted["\n".join(text), child["mc_value"]] += 1
        visit(child, text)

    visit(row["reasoning_steps"], [])
    assert said(record) == wanted
  assert sum(len(ends) for r in records for ends in r.step_ends) == 257 - 3
