"""Trees of solutions: steps with alternatives, rollouts from prefixes.

Every label stands once, and no step follows one that it never saw.
"""

import math

from rm_jax.data.fields import (
  BadRow,
  join_steps,
  need_list,
  need_number,
  need_object,
  need_prompt,
  need_text,
  three_class,
)
from rm_jax.data.steps import value_record
from rm_jax.types import Record


def read_prm800k(row) -> Record:
  """A PRM800K labelling as a tree: the path taken, and forks from it.

  Completion 0 is the trunk: at each step the chosen completion, or the one a
  human wrote (it has no rating, so no label). A last step without either goes
  on with its first completion: the step where the solution went wrong. Every
  other rated completion of a step is a fork: the path before that step and
  itself, labelled on its own step only, so that no step counts twice and none
  follows an alternative that it never saw.

  Labellings that tested the labeller (quality control, initial screening) are
  BadRows.

  Source: Lightman et al. 2023, arXiv:2305.20050 (the released PRM800K schema).
  """
  for check in ("quality_control", "initial_screening"):
    if row.get(f"is_{check}_question"):
      raise BadRow(f"{check.replace('_', ' ')}: a test of the labeller")
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
    path_labels.append(math.nan if rating is None else three_class(rating))
  text, ends = join_steps(need_list(path, "the path"), "the trunk")
  texts, step_ends, labels = [text], [ends], [tuple(path_labels)]
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


def read_math_aps(row) -> Record:
  """MATH-APS, a list of prefixes: the value of each, as a tree.

  A prefix hangs below the longest other one that it goes on from (white space
  follows there, so that no word is cut); see `value_tree`.
  """
  question = need_text(row["question"], "field 'question'")
  entries = need_list(row["reasoning_steps"], "field 'reasoning_steps'")
  nodes, below = [], []
  for i, entry in enumerate(entries):
    prefix = need_text(entry["solution_prefix"], f"prefix {i}")
    if not prefix.startswith(question):
      raise BadRow(f"prefix {i} does not begin with the question")
    text = prefix.removeprefix(question).strip()
    nodes.append((text, need_number(entry["mc_value"], f"value {i}")))
  nodes = [node for node in nodes if node[0]]  # the question alone: no step
  for text, _ in nodes:
    shorter = [
      j
      for j, (other, _) in enumerate(nodes)
      if text.startswith(other) and text[len(other) :][:1].isspace()
    ]
    below.append(max(shorter, key=lambda j: len(nodes[j][0]), default=None))
  texts, values = zip(*nodes, strict=True) if nodes else ((), ())
  return value_tree(question, texts, values, below)


def read_math_aps_tree(row) -> Record:
  """MATH-APS, a tree of texts: the value of each node but the question's."""
  texts, values, below = [], [], []
  root = need_object(row["reasoning_steps"], "field 'reasoning_steps'")
  open_nodes = [(child, None) for child in root["children"]]
  while open_nodes:
    node, above = open_nodes.pop(0)
    name = f"node {len(texts)}"
    text = need_text(node["text"], name)
    if not text.strip():
      raise BadRow(f"{name} is empty")
    if above is not None:
      text, _ = join_steps([texts[above], text], name)
    texts.append(text)
    values.append(need_number(node["mc_value"], f"the value of {name}"))
    below.append(above)
    open_nodes += [(child, len(texts) - 1) for child in node["children"]]
  return value_tree(row["question"], texts, values, below)


def value_tree(question, texts, values, below) -> Record:
  """Returns kind "values": one completion per leaf, each value once.

  Completion 0, the trunk, follows the child that most nodes hang below; the
  others are the other leaves in order. A node that several leaves share has
  its value in the first of them only. The question's own value has no place:
  no step ends there.

  Args:
    question: the prompt.
    texts: of each node, all that was written up to its end.
    values: one per node.
    below: index of the node that a node goes on from, None: the question.
  """
  if not texts:
    raise BadRow("no step has a value")
  children = {}
  for i, above in enumerate(below):
    children.setdefault(above, []).append(i)

  def path(leaf):
    nodes = [leaf]
    while below[nodes[0]] is not None:
      nodes.insert(0, below[nodes[0]])
    return nodes

  sizes = [0] * len(texts)  # nodes at and below each
  for i in range(len(texts)):
    for node in path(i):
      sizes[node] += 1
  trunk = max(children[None], key=sizes.__getitem__)
  while trunk in children:
    trunk = max(children[trunk], key=sizes.__getitem__)
  leaves = [i for i in range(len(texts)) if i not in children and i != trunk]
  leaves.insert(0, trunk)
  ends, given, done = [], [], set()
  for leaf in leaves:
    fresh = [node for node in path(leaf) if node not in done]
    done.update(fresh)
    ends.append(tuple(len(texts[node].rstrip()) for node in fresh))
    given.append(tuple(values[node] for node in fresh))
  return value_record(
    need_prompt(question),
    tuple(texts[leaf] for leaf in leaves),
    tuple(ends),
    tuple(given),
    trunk=0,
  )
