"""Which side of a split a record is on: decided by its prompt alone."""

import hashlib
import unicodedata

from rm_jax.data.templates import prompt_messages
from rm_jax.types import UserError


def prompt_key(record) -> str:
  """Returns the sha256 (hex) of the record's normalised prompt.

  Normalised: Unicode NFKC, case folded, runs of white space made one space; a
  string prompt equals the same text as a user turn. Two prompts that differ
  only there are the same question to a model.
  """
  digest = hashlib.sha256()
  for message in prompt_messages(record.prompt):
    text = unicodedata.normalize("NFKC", message["content"]).casefold()
    digest.update(f"{message['role']}\0{' '.join(text.split())}\0".encode())
  return digest.hexdigest()


def split_by_prompt(records, *, share: float, seed: int):
  """Returns (train, held_out): every prompt is on exactly one side.

      held out  iff  sha256(seed, prompt) / 2^256 < share

  The side of a record does not depend on the other records, their order or
  number; `share` is met in expectation over prompts, not exactly.
  """
  if not 0 <= share <= 1:
    raise UserError(
      f"the held-out share must be in [0, 1], got {share}: give the part of "
      "the prompts to hold out, such as 0.05."
    )
  train, held_out = [], []
  for record in records:
    digest = hashlib.sha256(f"{seed}:{prompt_key(record)}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    (held_out if place < share else train).append(record)
  return train, held_out


def overlap(a, b) -> int:
  """Returns how many distinct prompts occur in both lists of records."""
  keys = {prompt_key(record) for record in a}
  return len(keys & {prompt_key(record) for record in b})
