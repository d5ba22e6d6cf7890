"""Records that cannot be used: named, counted, set aside, never silent."""

import json
import pathlib
from typing import NamedTuple

from rm_jax.types import Record, UserError


class Reject(NamedTuple):
  """One record set aside: where it stood and why."""

  file: str
  line: int  # line or row, from 1
  reason: str


class RecordError(UserError):
  """One record is at fault, not the config: a stream sets `reject` aside.

  A caller with a single record lets it pass and has the message; a caller with
  many catches it, keeps `error.reject` and goes on. Mistakes in the config are
  plain `UserError`s, so that catching this never hides one.
  """

  def __init__(self, reject: Reject):
    super().__init__(f"{reject.file}:{reject.line}: {reject.reason}")
    self.reject = reject


def record_error(record: Record, reason: str) -> RecordError:
  """Returns the error that names the record's file and line."""
  return RecordError(Reject(record.source or "record", record.line, reason))


def write_rejects(rejects, path) -> None:
  """Writes one JSON object {file, line, reason} per reject.

  Without rejects the file is empty: one of an earlier run must not stay.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path, "w", encoding="utf-8") as out:
    for reject in rejects:
      out.write(json.dumps(reject._asdict()) + "\n")


def check_share(rejects, total: int, *, max_reject_share: float) -> None:
  """Raises UserError when more than `max_reject_share` of `total` is unusable.

  Args:
    rejects: list of Reject.
    total: records read, rejects included.
    max_reject_share: in [0, 1]; config.data.max_reject_share.
  """
  if not rejects or len(rejects) <= max_reject_share * total:
    return
  first = rejects[0]
  raise UserError(
    f"{len(rejects)} of {total} records are rejected "
    f"({len(rejects) / total:.1%}), more than "
    f"config.data.max_reject_share={max_reject_share:g}. First: {first.file}:"
    f"{first.line}: {first.reason}. Correct the data, or raise the share if "
    "these may be left out."
  )
