"""Pairs: a chosen and a rejected completion, votes, ties, ratings of both."""

from rm_jax.data.fields import (
  BadRow,
  need_attributes,
  need_completion,
  need_label,
  need_list,
  need_messages,
  need_number,
  need_prompt,
  need_strength,
  need_text,
  shown,
)
from rm_jax.data.templates import common_prefix, parse_dialogue
from rm_jax.types import Comparison, Record


def read_pair(row) -> Record:
  """Returns the pair, its preferred side first; a tie is kind "comparisons".

  See `find_preference` for who is preferred and `by_preference` for what turns
  with the sides.
  """
  chosen, rejected = row["chosen"], row["rejected"]
  if chosen == rejected:
    raise BadRow("chosen and rejected are identical")
  if "prompt" in row:
    prompt = need_prompt(row["prompt"])
  elif "conversations" in row:
    prompt = need_messages(row["conversations"], "field 'conversations'")
  else:
    prompt, chosen, rejected = split_prompt(chosen, rejected)
  attributes, attribute_ratings = pair_attributes(row)
  margin = row.get("margin")
  if margin is not None:
    margin = need_number(margin, "field 'margin'")
  return by_preference(
    pair(prompt, chosen, rejected)._replace(
      ratings=pair_ratings(row),
      attributes=attributes,
      attribute_ratings=attribute_ratings,
      preference=find_preference(row),
      strength=need_strength(row.get("strength"), "field 'strength'"),
      margin=margin,
    )
  )


def pair(prompt, chosen, rejected, names=("chosen", "rejected")) -> Record:
  """Returns the pair of two completions as a row has them, checked.

  Args:
    prompt: as the record has it.
    chosen, rejected: as the row has them.
    names: of the two, in the words of the row.
  """
  completions = (
    need_completion(chosen, f"the {names[0]} completion", prompt),
    need_completion(rejected, f"the {names[1]} completion", prompt),
  )
  if completions[0] == completions[1]:
    raise BadRow(f"{names[0]} and {names[1]} are identical")
  return Record("pair", prompt, completions, ranks=(0, 1))


def find_preference(row) -> float | None:
  """Returns the share of votes for `chosen`, or None if the row has none.

  votes [a, b]:  a / (a + b)        tie true:  1/2
  """
  given = {
    field: row[field]
    for field in ("preference", "votes", "tie")
    if row.get(field) is not None and row[field] is not False
  }
  if len(given) > 1:
    raise BadRow(f"fields {' and '.join(given)} say the same: leave one")
  if "tie" in given:
    if given["tie"] is not True:
      raise BadRow(f"field 'tie' must be a boolean, got {shown(given['tie'])}")
    return 0.5
  if "votes" in given:
    votes = need_list(given["votes"], "field 'votes'")
    votes = [need_number(v, f"vote count {i}") for i, v in enumerate(votes)]
    if len(votes) != 2 or min(votes) < 0 or not sum(votes):
      raise BadRow(
        f"field 'votes' must be [for chosen, for rejected], got {shown(votes)}"
      )
    return votes[0] / sum(votes)
  if "preference" in given:
    return need_label(given["preference"], "field 'preference'")
  return None


def by_preference(record: Record) -> Record:
  """Returns the pair with the side first that more votes are for.

  Below 1/2 the sides change places with all that belongs to them: ratings,
  attribute ratings; the preference becomes 1 - preference, the margin, a
  difference, changes its sign. At 1/2 nobody is chosen: kind "comparisons"
  with one tie, the completions in the order they had.
  """
  preference = record.preference
  if preference is None or preference > 0.5:
    return record
  if preference == 0.5:
    if record.margin:
      raise BadRow(f"a tie with margin {record.margin:g}: correct one of them")
    return record._replace(
      kind="comparisons",
      ranks=None,
      comparisons=(Comparison(0, 1, 0.5, record.strength),),
      preference=None,
      strength=None,
      margin=None,
    )
  ratings, attributes = record.ratings, record.attribute_ratings
  return record._replace(
    completions=record.completions[::-1],
    ratings=None if ratings is None else ratings[::-1],
    attribute_ratings=None if attributes is None else attributes[::-1],
    preference=1 - preference,
    margin=None if record.margin is None else -record.margin,
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


def pair_attributes(row) -> tuple:
  """Returns (attributes, ratings of chosen and rejected), or two None."""
  fields = ("chosen_ratings", "rejected_ratings")
  objects = [row.get(field) for field in fields]
  if objects == [None, None]:
    return None, None
  return need_attributes(objects, [f"field '{field}'" for field in fields])


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
