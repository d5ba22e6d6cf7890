"""Rankings, ratings, comparisons, outcomes and unlabelled rows of our own.

Pairs are in `pairs`, reasoning steps in `steps`.
"""

from rm_jax.data.fields import (
  BadRow,
  need_attributes,
  need_completion,
  need_each,
  need_group,
  need_index,
  need_integer,
  need_label,
  need_list,
  need_messages,
  need_number,
  need_prompt,
  need_strength,
)
from rm_jax.types import Comparison, Record

# How two formats of several spellings look, for people.
OUTCOME = (
  "{prompt, completion, label}, or {prompt, completions, labels} with "
  "kind='outcome'"
)
UNLABELLED = "{prompt, completions} or {prompt, completion} (to be scored)"


def read_ranking(row) -> Record:
  prompt, completions = need_group(row)
  ranks = tuple(
    need_integer(rank, f"rank {k}")
    for k, rank in enumerate(need_each(row, "ranks", len(completions)))
  )
  return with_ratings(Record("ranking", prompt, completions, ranks), row)


def with_ratings(record: Record, row) -> Record:
  """Returns the record with the ratings that the row has beside its order."""
  if row.get("ratings") is None:
    return record
  rated = read_ratings(row)
  return record._replace(
    ratings=rated.ratings,
    attributes=rated.attributes,
    attribute_ratings=rated.attribute_ratings,
  )


def read_ratings(row) -> Record:
  """Returns the ratings of K completions: a number each, or one by attribute.

  The order of the attributes, and what is not rated: see `need_attributes`.
  """
  prompt, completions = need_group(row)
  ratings = need_each(row, "ratings", len(completions))
  names = [f"rating {k}" for k in range(len(ratings))]
  record = Record("ratings", prompt, completions)
  if any(isinstance(rating, dict) for rating in ratings):
    attributes, values = need_attributes(ratings, names)
    return record._replace(attributes=attributes, attribute_ratings=values)
  numbers = tuple(map(need_number, ratings, names))
  return record._replace(ratings=numbers)


def read_comparisons(row) -> Record:
  """Returns the comparisons in the order of the row; cycles are kept.

  An entry is [i, j, outcome] or [i, j, outcome, strength], i and j from 0. The
  outcome is the share of votes for i: 1 i is better, 0 j is better, 1/2 a tie.
  The same two may be compared again: another vote, hence another entry.
  """
  prompt, completions = need_group(row)
  entries = need_list(row["comparisons"], "field 'comparisons'")
  found = []
  for n, entry in enumerate(entries):
    name = f"comparison {n}"
    entry = need_list(entry, name)
    if len(entry) not in (3, 4):
      raise BadRow(
        f"{name} must be [i, j, outcome] or [i, j, outcome, strength], got "
        f"{len(entry)} values"
      )
    i, j = (
      need_index(k, f"an index of {name}", len(completions)) for k in entry[:2]
    )
    if i == j:
      raise BadRow(f"{name} is of completion {i} with itself")
    outcome = need_label(entry[2], f"the outcome of {name}")
    strength = need_strength([*entry, None][3], f"the strength of {name}")
    found.append(compared(i, j, outcome, strength))
  record = Record("comparisons", prompt, completions, comparisons=tuple(found))
  return with_ratings(record, row)


def compared(i, j, outcome, strength=None) -> Comparison:
  """Returns the comparison with the side first that `outcome` is for."""
  if outcome < 0.5:
    return Comparison(j, i, 1 - outcome, strength)
  return Comparison(i, j, outcome, strength)


def read_outcome(row) -> Record:
  if "completions" in row and "labels" in row:
    prompt, completions = need_group(row)
    labels = need_each(row, "labels", len(completions))
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
