"""The general formats, row by row: pairs, rankings, ratings, labels, steps."""

import json

from rm_jax.data.fields import (
  BadRow,
  is_number,
  join_steps,
  need_completion,
  need_completions,
  need_label,
  need_list,
  need_messages,
  need_number,
  need_prompt,
  need_text,
  step_labels,
)
from rm_jax.data.templates import common_prefix, parse_dialogue
from rm_jax.types import Record

# How two formats of several spellings look, for people.
OUTCOME = (
  "{prompt, completion, label}, or {prompt, completions, labels} with "
  "kind='outcome'"
)
UNLABELLED = "{prompt, completions} or {prompt, completion} (to be scored)"


def read_pair(row) -> Record:
  chosen, rejected = row["chosen"], row["rejected"]
  if chosen == rejected:
    raise BadRow("chosen and rejected are identical")
  if "prompt" in row:
    prompt = need_prompt(row["prompt"])
  elif "conversations" in row:
    prompt = need_messages(row["conversations"], "field 'conversations'")
  else:
    prompt, chosen, rejected = split_prompt(chosen, rejected)
  completions = (
    need_completion(chosen, "the chosen completion", prompt),
    need_completion(rejected, "the rejected completion", prompt),
  )
  if completions[0] == completions[1]:
    raise BadRow("chosen and rejected are identical")
  strength = row.get("strength")
  if strength is not None:
    strength = need_number(strength, "field 'strength'")
  return Record(
    "pair",
    prompt,
    completions,
    ranks=(0, 1),
    ratings=pair_ratings(row),
    strength=strength,
  )


def pair_ratings(row) -> tuple | None:
  """Returns (chosen, rejected) ratings, or None if the row has none."""
  metadata = row.get("metadata")
  scores = metadata if isinstance(metadata, dict) else {}
  chosen = row.get("chosen_rating", scores.get("score_chosen"))
  rejected = row.get("rejected_rating", scores.get("score_rejected"))
  if chosen is None and rejected is None:
    return None
  return (
    need_number(chosen, "the rating of the chosen completion"),
    need_number(rejected, "the rating of the rejected completion"),
  )


def split_prompt(chosen, rejected):
  """Returns (prompt, chosen, rejected) of a pair with an implicit prompt.

  Messages: the prompt is the longest common message prefix that leaves both a
  message. HH-RLHF dialogues: all turns but the last, which must be equal and
  followed by an Assistant turn on both sides. Other strings: the longest common
  prefix that ends in white space and leaves both some text, as plain text.
  """
  if isinstance(chosen, list) and isinstance(rejected, list):
    chosen = need_messages(chosen, "field 'chosen'")
    rejected = need_messages(rejected, "field 'rejected'")
    shared = common_prefix(chosen[:-1], rejected[:-1])
    prompt = chosen[:shared]
    return prompt, list(chosen[shared:]), list(rejected[shared:])
  chosen = need_text(chosen, "field 'chosen'")
  rejected = need_text(rejected, "field 'rejected'")
  turns, other = parse_dialogue(chosen), parse_dialogue(rejected)
  if turns and other:
    for name, dialogue in (("chosen", turns), ("rejected", other)):
      if dialogue[-1]["role"] != "assistant":
        raise BadRow(f"the {name} dialogue does not end with an Assistant turn")
    if turns[:-1] != other[:-1]:
      raise BadRow(
        "earlier turns of chosen and rejected differ: they answer different "
        "dialogues"
      )
    return turns[:-1], turns[-1]["content"], other[-1]["content"]
  shared = common_prefix(chosen, rejected)
  while shared and not (
    chosen[shared - 1].isspace()
    and chosen[shared:].strip()
    and rejected[shared:].strip()
  ):
    shared -= 1
  return chosen[:shared], chosen[shared:], rejected[shared:]


def read_ranking(row) -> Record:
  prompt, completions, ranks = need_completions(row, "ranks")
  for k, rank in enumerate(ranks):
    if not is_number(rank) or not float(rank).is_integer():
      raise BadRow(f"rank {k} must be an integer, got {json.dumps(rank)[:40]}")
  record = Record("ranking", prompt, completions, tuple(map(int, ranks)))
  if "ratings" not in row:
    return record
  return record._replace(ratings=read_ratings(row).ratings)


def read_ratings(row) -> Record:
  prompt, completions, ratings = need_completions(row, "ratings")
  ratings = tuple(need_number(r, f"rating {k}") for k, r in enumerate(ratings))
  return Record("ratings", prompt, completions, ratings=ratings)


def read_outcome(row) -> Record:
  if "completions" in row and "labels" in row:
    prompt, completions, labels = need_completions(row, "labels")
  else:
    if "messages" in row:  # feedback on the last turn of a conversation
      messages = need_messages(row["messages"], "field 'messages'")
      prompt, answer = messages[:-1], [messages[-1]]
    elif "prompt" in row and "completion" in row:
      prompt, answer = need_prompt(row["prompt"]), row["completion"]
    else:
      raise BadRow(f"missing fields, expected {OUTCOME}")
    completions = (need_completion(answer, "the completion", prompt),)
    labels = [row.get("label")]
  labels = tuple(need_label(y, f"label {k}") for k, y in enumerate(labels))
  return Record("outcome", prompt, completions, labels=labels)


def read_unlabelled(row) -> Record:
  prompt = need_prompt(row["prompt"])
  given = row.get("completions", row.get("completion"))
  many = "completions" in row
  if given is None:
    raise BadRow(f"missing field, expected {UNLABELLED}")
  completions = need_list(given, "field 'completions'") if many else [given]
  texts = tuple(
    need_completion(text, f"completion {k}", prompt)
    for k, text in enumerate(completions)
  )
  return Record("unlabelled", prompt, texts)


def read_steps(row) -> Record:
  """TRL's stepwise format, or K of it: lists of steps, lists of labels."""
  prompt = need_prompt(row["prompt"])
  completions = need_list(row["completions"], "field 'completions'")
  labels = need_list(row["labels"], "field 'labels'")
  if not isinstance(completions[0], list):
    completions, labels = [completions], [labels]
  if len(completions) != len(labels):
    raise BadRow(
      f"field 'labels' has {len(labels)} lists for {len(completions)} "
      "completions"
    )
  texts, ends, values = [], [], []
  for k, (steps, marks) in enumerate(zip(completions, labels, strict=True)):
    name = f"completion {k}"
    steps, marks = need_list(steps, name), need_list(marks, f"labels {k}")
    if len(steps) != len(marks):
      raise BadRow(f"{name} has {len(steps)} steps but {len(marks)} labels")
    text, end = join_steps(steps, name)
    texts.append(text)
    ends.append(end)
    values.append(step_labels(marks, name))
  return Record(
    "steps",
    prompt,
    tuple(texts),
    step_ends=tuple(ends),
    step_labels=tuple(values),
  )
