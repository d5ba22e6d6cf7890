"""Files that people have to records: foreign field names end here.

A row's format is recognised by its fields (FORMATS, first match). Every row
gives records or a Reject that names its file and line; none is dropped in
silence.
"""

import difflib
import gzip
import json
import os
import pathlib
import zlib
from collections.abc import Callable
from typing import NamedTuple

from rm_jax.data.fields import BadRow
from rm_jax.data.foreign import (
  read_gsm8k,
  read_oasst,
  read_prm800k,
  read_prmbench,
  solutions,
)
from rm_jax.data.formats import (
  OUTCOME,
  UNLABELLED,
  read_outcome,
  read_pair,
  read_ranking,
  read_ratings,
  read_steps,
  read_unlabelled,
)
from rm_jax.data.rejects import Reject, check_share, write_rejects
from rm_jax.types import UserError

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
CHUNK = 1 << 16  # characters read at a time from a JSON array


def load(path, *, kind="auto", max_reject_share: float, rejects_path) -> list:
  """Returns the records of a file or folder; rejects are written and counted.

  Writes `rejects_path`, one JSON object {file, line, reason} per line. Raises
  UserError when nothing is read or more than `max_reject_share` is rejected.
  """
  records, rejects = [], []
  for item in read_records(path, kind=kind):
    (rejects if isinstance(item, Reject) else records).append(item)
  write_rejects(rejects, rejects_path)
  total = len(records) + len(rejects)
  if not total:
    raise UserError(f"{path} holds no records, expected at least one row.")
  check_share(rejects, total, max_reject_share=max_reject_share)
  return records


def read_records(path, *, kind="auto"):
  """Yields a Record or a Reject per record of a file or folder, streaming.

  Args:
    path: .json or .jsonl, plain or .gz, holding a JSON array or one object per
      line; or a folder, whose files with these endings are read in name order.
    kind: "auto" recognises each row by its fields; a key of FORMATS reads
      every row as that. {prompt, completions, labels} is TRL's stepwise format
      unless kind="outcome" says that the completions are whole answers.

  Raises:
    UserError: no such file, unknown kind, a file that breaks off.
  """
  check_kind(kind)
  for file in find_files(path):
    for line, row in read_rows(file):
      if isinstance(row, BadRow):
        yield Reject(str(file), line, str(row))
        continue
      for item in row_items(row, kind):
        if isinstance(item, BadRow):
          yield Reject(str(file), line, str(item))
        else:
          yield item._replace(source=str(file), line=line)


def check_kind(kind: str) -> None:
  if kind != "auto" and kind not in FORMATS:
    raise UserError(
      f"kind={kind!r} is unknown: use 'auto' or one of {', '.join(FORMATS)}."
    )


def find_files(path) -> list:
  """Returns the files to read; UserError names the nearest if none is there."""
  path = pathlib.Path(path)
  if path.is_dir():
    files = sorted(f for f in path.rglob("*") if f.name.endswith(SUFFIXES))
    if not files:
      raise UserError(
        f"{path} holds no data file: expected names ending in "
        f"{', '.join(SUFFIXES)}."
      )
    return files
  if not path.exists():
    folder = path.parent
    names = os.listdir(folder) if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.3)
    found = ", ".join(near or sorted(names)[:3])
    hint = f"nearest there: {found}" if found else f"{folder} has no files"
    raise UserError(f"{path} does not exist ({hint}). Correct the path.")
  if not path.name.endswith(SUFFIXES):
    raise UserError(
      f"{path} has an unknown ending: expected one of {', '.join(SUFFIXES)}."
    )
  return [path]


def read_rows(file):
  """Yields (line, row or BadRow); in a JSON array the line is the row."""
  opener = gzip.open if file.name.endswith(".gz") else open
  try:
    with opener(file, "rb") as stream:
      head = stream.read(CHUNK).removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"["):
      with opener(file, "rt", encoding="utf-8-sig") as text:
        yield from read_array(file, text)
    else:
      with opener(file, "rb") as stream:
        yield from read_lines(stream)
  except (EOFError, gzip.BadGzipFile, zlib.error) as error:
    raise UserError(
      f"{file} is not a whole gzip file ({error}): copy it again."
    ) from error


def read_lines(stream):
  for line, raw in enumerate(stream, start=1):
    if not raw.strip():
      continue
    try:
      yield line, json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
      yield line, BadRow(f"not UTF-8 at byte {error.start} of the line")
    except json.JSONDecodeError as error:
      yield line, BadRow(f"bad JSON at column {error.colno}: {error.msg}")
    except (ValueError, RecursionError) as error:
      # A number of thousands of digits; brackets nested as deep.
      yield line, BadRow(f"bad JSON: {error}")


def read_array(file, text):
  """Yields (row number, value) of a JSON array without holding all of it."""
  decoder = json.JSONDecoder()
  buffer = text.read(CHUNK).lstrip()[1:]
  row = 0
  while True:
    buffer = buffer.lstrip().removeprefix("," if row else "").lstrip()
    if buffer.startswith("]"):
      return
    try:
      value, end = decoder.raw_decode(buffer)
      # A number at the end of the buffer may go on in the next chunk.
      whole = end < len(buffer)
    except json.JSONDecodeError as error:
      problem, whole = error, False
    else:
      problem = "it breaks off"
    if whole:
      row += 1
      yield row, value
      buffer = buffer[end:]
      continue
    more = text.read(max(CHUNK, len(buffer)))  # doubling: linear in total
    if not more:
      # Nothing after this row can be found, so it is not one reject.
      raise UserError(
        f"{file}: bad JSON in row {row + 1} of the array ({problem}): correct "
        "the file, or write one object per line."
      )
    buffer += more


class Format(NamedTuple):
  """How a row is recognised and read."""

  fields: tuple  # present in every such row
  test: Callable  # row -> bool: what the field names alone do not tell
  read: Callable  # row -> Record, or list of Record and BadRow
  shape: str  # for people


def always(row) -> bool:
  return True


# The first match counts: foreign formats before the general ones.
FORMATS = {
  "prm800k": Format(
    ("question", "label"),
    lambda row: isinstance(row["label"], dict) and "steps" in row["label"],
    read_prm800k,
    "{question: {problem}, label: {steps}} (PRM800K)",
  ),
  "prmbench": Format(
    ("modified_question", "modified_process", "error_steps"),
    always,
    read_prmbench,
    "{modified_question, modified_process, error_steps} (PRMBench)",
  ),
  "oasst": Format(
    ("message_tree_id", "prompt"),
    lambda row: isinstance(row["prompt"], dict),
    read_oasst,
    "{message_tree_id, prompt: {text, role, replies}} (OpenAssistant)",
  ),
  "gsm8k": Format(
    ("question",),
    lambda row: bool(solutions(row)),
    read_gsm8k,
    "{question, <model>: {solution, is_correct}} (GSM8K solutions)",
  ),
  "pair": Format(
    ("chosen", "rejected"),
    always,
    read_pair,
    "{[prompt,] chosen, rejected [, strength, chosen_rating, rejected_rating]}",
  ),
  "ranking": Format(
    ("prompt", "completions", "ranks"),
    always,
    read_ranking,
    "{prompt, completions, ranks}",
  ),
  "ratings": Format(
    ("prompt", "completions", "ratings"),
    always,
    read_ratings,
    "{prompt, completions, ratings}",
  ),
  "steps": Format(
    ("prompt", "completions", "labels"),
    always,
    read_steps,
    "{prompt, completions: steps, labels} (TRL stepwise)",
  ),
  "outcome": Format(
    (),
    lambda row: (
      {"prompt", "completion", "label"} <= row.keys()
      or {"messages", "label"} <= row.keys()
    ),
    read_outcome,
    OUTCOME,
  ),
  "unlabelled": Format(
    ("prompt",),
    lambda row: "completions" in row or "completion" in row,
    read_unlabelled,
    UNLABELLED,
  ),
}


def row_items(row, kind) -> list:
  """Returns the Records and BadRows of one parsed row."""
  try:
    if not isinstance(row, dict):
      raise BadRow(f"expected a JSON object, got {type(row).__name__}")
    name = recognise(row) if kind == "auto" else kind
    absent = [field for field in FORMATS[name].fields if field not in row]
    if absent:
      raise BadRow(
        f"missing field {absent[0]!r}, expected {FORMATS[name].shape}"
      )
    items = FORMATS[name].read(row)
    return items if isinstance(items, list) else [items]
  except BadRow as error:
    return [error]
  except (KeyError, TypeError, AttributeError) as error:
    # Inside a nested foreign row: no field is as its format says.
    problem = f"{type(error).__name__}: {error}"
    return [BadRow(f"malformed, expected {FORMATS[name].shape}: {problem}")]


def recognise(row) -> str:
  for name, known in FORMATS.items():
    if all(field in row for field in known.fields) and known.test(row):
      return name
  shapes = "; ".join(known.shape for known in FORMATS.values())
  raise BadRow(
    f"unrecognised record: keys {{{', '.join(sorted(row))}}}; known shapes: "
    f"{shapes}"
  )
