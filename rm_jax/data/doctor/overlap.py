"""Contamination: prompts and completions that two data sets share."""

import collections
import hashlib
from typing import NamedTuple

from rm_jax.data.doctor.text import Check, text_of
from rm_jax.data.split import prompt_key
from rm_jax.data.templates import prompt_messages

GRAM = 8  # words
NEAR = 0.5  # share of a prompt's word 8-grams that the other set holds
BOILERPLATE = 10  # prompts: 8-grams that more of them hold say nothing
LEAST_COMPLETION = 20  # characters: "Yes." is no leak


class Index(NamedTuple):
  """Hashes of another data set: no text."""

  prompts: set
  completions: set
  grams: collections.Counter  # hash of 8 words -> prompts that hold it


def index_prompts(records) -> Index:
  """Returns the hashes of a stream of records to compare another with."""
  index = Index(set(), set(), collections.Counter())
  for record in records:
    index.completions.update(completion_keys(record))
    key = prompt_key(record)
    if key not in index.prompts:
      index.prompts.add(key)
      index.grams.update(grams(record))
  return index


def grams(record) -> set:
  """Returns hashes of all runs of GRAM words in the prompt's user turns.

  Python's own hash: salted anew per process, and never written down.
  """
  out = set()
  for message in prompt_messages(record.prompt):
    if message["role"] != "user":
      continue
    words = message["content"].casefold().split()
    for i in range(len(words) - GRAM + 1):
      out.add(hash(tuple(words[i : i + GRAM])))
  return out


def completion_keys(record) -> set:
  out = set()
  for completion in record.completions:
    text = " ".join(text_of(completion).split()).casefold()
    if len(text) >= LEAST_COMPLETION:
      out.add(hashlib.blake2b(text.encode(), digest_size=8).digest())
  return out


def shared_prompt(record, index: Index) -> bool:
  return bool(prompt_messages(record.prompt)) and (
    prompt_key(record) in index.prompts
  )


def near_prompt(record, index: Index) -> bool:
  """Returns whether another prompt of `index` is nearly this one.

  At least NEAR of its word 8-grams stand in prompts of the other set. 8-grams
  of more than BOILERPLATE of those are left out on both sides; prompts of
  fewer words have none.
  """
  own = [g for g in grams(record) if index.grams[g] <= BOILERPLATE]
  known = sum(index.grams[g] > 0 for g in own)
  return (
    bool(own)
    and known >= NEAR * len(own)
    and (not shared_prompt(record, index))
  )


def shared_completion(record, index: Index) -> bool:
  return not index.completions.isdisjoint(completion_keys(record))


OVERLAPS = {
  "shared_prompt": Check(
    "contamination",
    "error",
    "records",
    shared_prompt,
    "records whose prompt is in the other data set too (case and white space "
    "aside)",
    "Remove them from one side: training refuses such a split.",
  ),
  "near_prompt": Check(
    "contamination",
    "warning",
    "records",
    near_prompt,
    f"records with another prompt of which {NEAR:.0%} or more of the runs of "
    f"{GRAM} words stand in the other set's prompts (runs that more than "
    f"{BOILERPLATE} of those hold are left out)",
    "Look at the examples: reworded questions leak as well as equal ones.",
  ),
  "shared_completion": Check(
    "contamination",
    "warning",
    "records",
    shared_completion,
    f"records with a completion ({LEAST_COMPLETION} characters or more) that "
    "the other set has too",
    "Canned answers are harmless; a copied answer of a test set is not.",
  ),
}
