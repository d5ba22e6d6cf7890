import pytest

from rm_jax.data.split import is_held_out, is_used, problem_key, prompt_key
from rm_jax.types import Record, UserError


def record(prompt, completions=("a", "b")):
  return Record("pair", prompt, completions)


def split_by_prompt(records, *, share, seed):
  sides = [], []
  for r in records:
    sides[is_held_out(r, share=share, seed=seed, by="prompt")].append(r)
  return sides


def test_no_prompt_is_on_both_sides():
  # Catches a split of pairs: with 4 pairs per prompt it puts nearly every
  # prompt on both sides.
  records = [
    record(f"prompt {i}", (f"a{j}", "b")) for i in range(200) for j in range(4)
  ]
  train, held_out = split_by_prompt(records, share=0.25, seed=0)
  assert len(train) + len(held_out) == 800
  assert not {prompt_key(r) for r in train} & {prompt_key(r) for r in held_out}
  # 200 prompts at 1/4: 50, standard deviation sqrt(200 * 3/16) = 6.1
  assert 30 <= len(held_out) / 4 <= 70


def test_side_depends_on_prompt_and_seed_alone():
  # Catches a split by position, by shuffled order, or by Python's own hash.
  records = [record(f"prompt {i}") for i in range(100)]
  _, held_out = split_by_prompt(records, share=0.5, seed=3)
  _, of_half = split_by_prompt(records[::-2], share=0.5, seed=3)
  kept = {r.prompt for r in records[::-2]}
  assert {r.prompt for r in of_half} == {
    r.prompt for r in held_out if r.prompt in kept
  }
  _, other = split_by_prompt(records, share=0.5, seed=4)
  assert {r.prompt for r in other} != {r.prompt for r in held_out}


def test_an_annotator_is_on_one_side_and_has_to_be_named():
  # Wrong: the prompt decides although the annotator was asked for.
  records = [
    record(f"prompt {n}")._replace(annotator=f"rater {n % 9}")
    for n in range(90)
  ]
  sides = {}
  for r in records:
    held = is_held_out(r, share=0.5, seed=0, by="annotator")
    sides.setdefault(r.annotator, set()).add(held)
  assert all(len(s) == 1 for s in sides.values())
  assert {True, False} == set.union(*sides.values())
  with pytest.raises(UserError, match="names no annotator, expected one in"):
    is_held_out(record("x"), share=0.5, seed=0, by="annotator")


@pytest.mark.parametrize("share, sizes", [(0, (9, 0)), (1, (0, 9))])
def test_share_of_nothing_and_all(share, sizes):
  records = [record(str(i)) for i in range(9)]
  assert tuple(map(len, split_by_prompt(records, share=share, seed=0))) == sizes


def test_share_outside_is_the_users_mistake():
  with pytest.raises(UserError, match=r"must be in \[0, 1\], got 5"):
    split_by_prompt([record("x")], share=5, seed=0)


def test_same_question_in_other_clothes_is_the_same_prompt():
  # Catches leaks by white space, case, or string against one user turn.
  same = [
    "What is  it?",
    "what is it?\n",
    ({"role": "user", "content": "What is it?"},),
  ]
  assert len({prompt_key(record(prompt)) for prompt in same}) == 1
  other = ({"role": "system", "content": "What is it?"},)
  two = ({"role": "user", "content": "What is"}, *same[2])
  assert len({prompt_key(record(p)) for p in (same[0], other, two)}) == 3


def test_a_problem_in_other_words_stays_on_its_side():
  # Catches a split by the wording: a question that was modified, or asked
  # later in the same dialogue, is evaluated by a model that knows its problem.
  def asked(problem, prompt):
    return record(prompt)._replace(problem=problem)

  records = [
    asked(f"What is {i} + {i}?", f"wording {j} of {i}")
    for i in range(100)
    for j in range(3)
  ]
  train, held_out = split_by_prompt(records, share=0.3, seed=0)
  assert not {r.problem for r in train} & {r.problem for r in held_out}
  assert len(train) % 3 == 0 and 60 <= len(held_out) <= 120
  one = problem_key(asked("Find $34x+6 \\pmod {20}$.", "a"))
  assert one == problem_key(asked("find $34x + 6 \\pmod{20}$", "b"))
  assert one != problem_key(asked("Find $35x+6 \\pmod {20}$.", "a"))
  assert problem_key(record("plain")) == prompt_key(record("plain"))


def test_a_larger_share_holds_the_smaller():
  # Catches shares drawn anew, which would compare data sets, not sizes; and a
  # share that follows from the split, which would leave nothing of some.
  records = [record(f"prompt {i}") for i in range(400)]

  def used(share):
    how = dict(share=share, seed=0, by="prompt")
    return {r.prompt for r in records if is_used(r, **how)}

  assert used(0) == set() and len(used(1)) == 400
  assert used(0.1) < used(0.3) < used(0.7)
  # 120 of 400, standard deviation sqrt(400 * 0.21) = 9.2
  assert 90 <= len(used(0.3)) <= 150
  how = dict(share=0.3, seed=0, by="prompt")
  both = sum(is_held_out(r, **how) and is_used(r, **how) for r in records)
  assert 18 <= both <= 54  # 36 if independent, standard deviation 5.7
