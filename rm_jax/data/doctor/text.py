"""Defects that one record shows by itself: pure functions, record -> count."""

import re
from collections.abc import Callable
from typing import NamedTuple

from rm_jax.data.compare import find_comparisons
from rm_jax.data.templates import completion_messages, prompt_messages
from rm_jax.types import Record

# What gives an order of completions; outcome labels are counted as labels.
ORDERED = ("pair", "ranking", "ratings", "comparisons")

LEAST_ENDING = 40  # characters: "Paris" without a full stop is no cut
LEAST_REPEAT = 20  # characters: a prompt "Why?" is repeated by accident
OPEN_ENDS = ",;-([{"  # beside letters: after these a text goes on

REPLACEMENT = re.compile("\ufffd")
# Of the C0 controls, tab and line ends are text; C1 ones come from wrong
# decoding of Windows-1252.
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
# Joiners belong to emoji and to scripts such as Persian: only beside ASCII.
ZERO_WIDTH = re.compile(
  "[\u200b\u2060\ufeff]|(?:^|(?<=[\x00-\x7f]))[\u200c\u200d](?=[\x00-\x7f]|$)"
)
# UTF-8 read as Windows-1252 or Latin-1: U+2019 becomes a circumflexed a, a euro
# sign and a trade mark sign; U+00E9 an A with tilde and a copyright sign.
MOJIBAKE = re.compile(
  "\u00e2(?:\u20ac.|\u0080[\u0080-\u00bf])|\u00c3[\u0080-\u00bf]"
  "|\u00c2[\u0080-\u00bf]|\u00ef\u00bb\u00bf"
)
LONE_CR = re.compile("\r(?!\n)")


def text_of(completion) -> str:
  """Returns the words of a completion, of several messages one per line."""
  if isinstance(completion, str):
    return completion
  return "\n".join(m["content"] for m in completion_messages(completion))


def compared(record: Record) -> tuple[list, list]:
  """Returns (strict, tied): the comparisons that an annotator made.

  Outcome labels order completions too, but nobody compared them.
  """
  if record.kind not in ORDERED:
    return [], []
  found = find_comparisons(record, ties=True)
  strict = [c for c in found if c.preference > 0.5]
  return strict, [c for c in found if c.preference <= 0.5]


def is_cut(text: str) -> bool:
  """Returns whether a long text ends in a letter or in mid-clause."""
  text = text.rstrip()
  return len(text) >= LEAST_ENDING and (
    text[-1].isalpha() or text[-1] in OPEN_ENDS
  )


def squeezed(text: str) -> str:
  return "".join(text.split())


# ---------------------------------------------------------------- checks


def short_completion(record, texts) -> int:
  return sum(len(text.strip()) <= 1 for text in texts)


def empty_prompt(record, texts) -> int:
  return not any(m["content"].strip() for m in prompt_messages(record.prompt))


def identical_completions(record, texts) -> int:
  """Counts equal texts of a group; messages count with their roles."""
  return len(texts) - len({repr(c) for c in record.completions})


def white_space_pair(record, texts) -> int:
  """Counts completions that differ from an earlier one in white space only."""
  return len(set(texts)) - len(set(map(squeezed, texts)))


def leading_space(record, texts) -> int:
  """Counts groups where some completions begin with white space, some don't."""
  return len({text[:1].isspace() for text in texts}) > 1


def repeats_prompt(record, texts) -> int:
  """Counts completions that begin with the last user turn."""
  turns = [m for m in prompt_messages(record.prompt) if m["role"] == "user"]
  asked = " ".join(turns[-1]["content"].split()).casefold() if turns else ""
  if len(asked) < LEAST_REPEAT:
    return 0
  return sum(
    " ".join(text.split()).casefold().startswith(asked) for text in texts
  )


def equal_ratings(record, texts) -> int:
  if record.kind != "pair" or record.ratings is None:
    return 0
  return record.ratings[0] == record.ratings[1]


def rating_against_order(record, texts) -> int:
  """Counts comparisons whose rejected side has the higher rating."""
  if record.ratings is None:
    return 0
  return sum(
    record.ratings[c.chosen] < record.ratings[c.rejected]
    for c in compared(record)[0]
  )


def all_tied(record, texts) -> int:
  strict, tied = compared(record)
  return bool(tied) and not strict


def has(pattern) -> Callable:
  """Returns a check: does any text of the record hold the pattern?"""

  def find(record, texts) -> int:
    prompt = (m["content"] for m in prompt_messages(record.prompt))
    return any(pattern.search(text) for text in (*prompt, *texts))

  return find


class Check(NamedTuple):
  """A defect that one record shows: how to find it and what to do about it."""

  section: str
  severity: str
  unit: str  # what the count is a share of
  find: Callable  # (Record, texts) -> count
  what: str
  advice: str


CHECKS = {
  "all_tied_groups": Check(
    "labels",
    "warning",
    "ordered records",
    all_tied,
    "groups without any strict comparison",
    "Only a loss with ties (davidson) learns from them; others reject them.",
  ),
  "equal_ratings": Check(
    "labels",
    "warning",
    "ordered records",
    equal_ratings,
    "pairs whose two sides have the same rating, yet one is called chosen",
    "Leave them out or train with a loss for ties: the order is a coin flip.",
  ),
  "rating_against_order": Check(
    "labels",
    "warning",
    "comparisons",
    rating_against_order,
    "comparisons whose rejected side has the higher rating",
    "Find out which of the two is the label, and correct the other.",
  ),
  "short_completion": Check(
    "text",
    "warning",
    "completions",
    short_completion,
    "completions of at most one character",
    "Remove them unless one letter is a full answer here.",
  ),
  "empty_prompt": Check(
    "text",
    "note",
    "records",
    empty_prompt,
    "records without a prompt",
    "Right for plain text; else look for the field that holds the prompt.",
  ),
  "identical_completions": Check(
    "text",
    "warning",
    "completions",
    identical_completions,
    "completions equal to another one of their group",
    "Remove the repeats: ranked apart, they teach that equal is unequal.",
  ),
  "white_space_pair": Check(
    "text",
    "warning",
    "completions",
    white_space_pair,
    "completions that differ from another one in white space only",
    "Remove these groups: a model would learn white space.",
  ),
  "leading_space": Check(
    "text",
    "note",
    "records",
    leading_space,
    "groups where some completions begin with white space and others do not",
    "Strip all completions: the first token would tell the sides apart.",
  ),
  "repeats_prompt": Check(
    "text",
    "note",
    "completions",
    repeats_prompt,
    f"completions that begin with the last user turn ({LEAST_REPEAT} "
    "characters or more)",
    "Cut the repeated prompt if the generator echoed it.",
  ),
  "replacement_character": Check(
    "text",
    "warning",
    "records",
    has(REPLACEMENT),
    "records with U+FFFD: characters lost in decoding",
    "Read the original again as UTF-8; the lost characters are not in here.",
  ),
  "control_character": Check(
    "text",
    "warning",
    "records",
    has(CONTROL),
    "records with control characters (C0 but tab and line ends, DEL, C1)",
    "Remove them; U+0080 to U+009F mean that Windows-1252 was read as Latin-1.",
  ),
  "mojibake": Check(
    "text",
    "warning",
    "records",
    has(MOJIBAKE),
    "records with mojibake: UTF-8 that was read as Windows-1252 or Latin-1",
    "Encode these texts back as Windows-1252 and decode them as UTF-8.",
  ),
  "zero_width": Check(
    "text",
    "note",
    "records",
    has(ZERO_WIDTH),
    "records with zero-width characters (joiners of emoji and scripts aside)",
    "Remove them: people do not see them, tokenizers do.",
  ),
  "lone_cr": Check(
    "text",
    "note",
    "records",
    has(LONE_CR),
    "records with a carriage return that no line feed follows",
    "Replace it by a line feed.",
  ),
}
