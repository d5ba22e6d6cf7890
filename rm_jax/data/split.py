"""Which side of a split a record is on: decided by its prompt or problem."""

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


def problem_key(record) -> str:
  """Returns the sha256 (hex) of what a split keeps together.

  The prompt; where the record names a problem, that: PRMBench asks one problem
  in several wordings, an OpenAssistant tree goes on from one first turn. Of a
  problem only letters and digits count, since its copies are spaced otherwise.
  """
  if not record.problem:
    return prompt_key(record)
  text = unicodedata.normalize("NFKC", record.problem).casefold()
  letters = "".join(c for c in text if c.isalnum())
  return hashlib.sha256(letters.encode()).hexdigest()


def is_held_out(record, *, share: float, seed: int, by: str) -> bool:
  """Whether a record is on the held-out side.

      held out  iff  (first 8 bytes of sha256("seed:key")) / 2^64 < share

  The side of a record does not depend on the other records, their order or
  number; `share` is met in expectation over keys, not exactly.

  Args:
    by: "prompt", or the problem where a record names one (`problem_key`);
      "annotator": no annotator is on both sides, prompts may be.

  Raises:
    UserError: a share that is none; a record without annotator.
  """
  if not 0 <= share <= 1:
    raise UserError(
      f"the held-out share must be in [0, 1], got {share}: give the part of "
      f"the {by}s to hold out, such as 0.05."
    )
  return _place(record, seed=seed, by=by) < share


def is_used(record, *, share: float, seed: int, by: str) -> bool:
  """Whether a record of the training side is in this share of it.

  A larger share holds every record of a smaller one. Independent of
  `is_held_out` of the same seed.

  Args:
    share, seed, by: as of `is_held_out`.
  """
  return share == 1 or _place(record, seed=f"used {seed}", by=by) < share


def _place(record, *, seed, by: str) -> float:
  """A number in [0, 1) that the seed and the record's key decide."""
  key = record.annotator if by == "annotator" else problem_key(record)
  if not key:
    raise UserError(
      f"{record.source}:{record.line} names no annotator, expected one in "
      "every record for config.data.split_by='annotator': split by 'prompt'."
    )
  digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
  return int.from_bytes(digest[:8], "big") / 2**64
