"""Published data sets in the form their authors gave them, row by row."""

from rm_jax.data.fields import (
  ROLES,
  BadRow,
  is_number,
  join_steps,
  need_completion,
  need_label,
  need_list,
  need_prompt,
  three_class,
)
from rm_jax.data.formats import read_ranking
from rm_jax.types import Record


def read_prmbench(row) -> Record:
  """PRMBench: `error_steps` counts from 1 in `modified_process`."""
  steps = need_list(row["modified_process"], "field 'modified_process'")
  errors = row["error_steps"]
  for i in errors if isinstance(errors, list) else [errors]:
    if not is_number(i) or not 1 <= i <= len(steps):
      raise BadRow(f"error step {i} is not one of the {len(steps)} steps")
  text, ends = join_steps(steps)
  labels = tuple(0.0 if i + 1 in errors else 1.0 for i in range(len(steps)))
  prompt = need_prompt(row["modified_question"])
  return Record(
    "steps", prompt, (text,), step_ends=(ends,), step_labels=(labels,)
  )


def read_prm800k(row) -> Record:
  """A PRM800K labelling as a tree: the path taken, and forks from it.

  Completion 0 is the trunk: at each step the chosen completion, or the one a
  human wrote (it has no rating, so no label). A last step without either goes
  on with its first completion: the step where the solution went wrong. Every
  other rated completion of a step is a fork: the path before that step and
  itself, labelled on its own step only, so that no step counts twice and none
  follows an alternative that it never saw.

  Source: Lightman et al. 2023, arXiv:2305.20050 (the released PRM800K schema).
  """
  steps = need_list(row["label"]["steps"], "field 'label.steps'")
  path, path_labels, forks = [], [], []
  for i, step in enumerate(steps):
    completions = step.get("completions") or []
    chosen, human = step.get("chosen_completion"), step.get("human_completion")
    if chosen is None and human is None:
      if i + 1 < len(steps) and any(
        s.get("completions") for s in steps[i + 1 :]
      ):
        raise BadRow(f"step {i + 1} has no chosen completion but steps follow")
      chosen = 0
    if human is not None and chosen is None:
      taken = {"text": human["text"], "rating": None}
    elif 0 <= chosen < len(completions):
      taken = completions[chosen]
    elif completions:
      raise BadRow(f"step {i + 1} chose completion {chosen} of none such")
    else:
      break  # given up: a last step that nobody wrote
    for other in completions:
      if other is not taken and other["rating"] is not None:
        forks.append((len(path), other["text"], three_class(other["rating"])))
    rating = taken["rating"]
    path.append(taken["text"])
    path_labels.append(None if rating is None else three_class(rating))
  text, ends = join_steps(need_list(path, "the path"), "the trunk")
  labelled = [i for i, label in enumerate(path_labels) if label is not None]
  texts = [text]
  step_ends = [tuple(ends[i] for i in labelled)]
  labels = [tuple(path_labels[i] for i in labelled)]
  for depth, other, label in forks:
    fork, fork_ends = join_steps([*path[:depth], other], "an alternative")
    texts.append(fork)
    step_ends.append(fork_ends[-1:])
    labels.append((label,))
  return Record(
    "steps",
    need_prompt(row["question"]["problem"]),
    tuple(texts),
    step_ends=tuple(step_ends),
    step_labels=tuple(labels),
    trunk=0,
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


def read_oasst(row) -> list:
  """Every group of ranked sibling replies of a tree, as a ranking.

  A single reply is not a ranking and gives no record; a group in which a reply
  has no rank gives a BadRow.
  """
  items = []

  def visit(node, before):
    role = ROLES.get(node["role"], node["role"])
    dialogue = (*before, {"role": role, "content": node["text"]})
    replies = node.get("replies") or []
    answers = [reply for reply in replies if reply["role"] == "assistant"]
    if len(answers) > 1:
      ranks = [answer.get("rank") for answer in answers]
      row = dict(
        prompt=list(dialogue),
        completions=[answer["text"] for answer in answers],
        ranks=ranks,
      )
      try:
        items.append(read_ranking(row))
      except BadRow as error:
        items.append(BadRow(f"replies to {node['message_id']}: {error}"))
    for reply in replies:
      visit(reply, dialogue)

  visit(row["prompt"], ())
  return items
