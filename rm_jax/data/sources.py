"""Places that people have data in to records.

Every row gives records or a Reject that names its file and line; none is
dropped in silence.
"""

import contextlib
import difflib
import gzip
import io
import json
import os
import zlib

from rm_jax.data.builder import Prepared, find_split, read_split
from rm_jax.data.fields import BadRow
from rm_jax.data.hub import hub_files
from rm_jax.data.parquet import read_parquet
from rm_jax.data.recognise import check_kind, row_items
from rm_jax.data.rejects import Reject
from rm_jax.places import (
  Remote,
  list_folder,
  local_path,
  reached,
  remote,
  scheme,
)
from rm_jax.types import Record, UserError

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".parquet")
CHUNK = 1 << 16  # characters read at a time from a JSON array
HEAD = 1 << 16  # bytes that tell what a JSON file holds


def read_records(path, *, kind="auto"):
  """Yields a Record or a Reject per record of a place, streaming.

  Args:
    path: a .json or .jsonl file, plain or .gz, holding a JSON array, one object
      per line, or objects over many lines; a .parquet file; or a folder, whose
      files with these endings are read in name order. Either may be behind a
      URL (gs://, s3:// and what else fsspec knows). Or a data set:
      hf://OWNER/NAME[/PATH][:SPLIT], tfds://NAME_OR_FOLDER[:SPLIT].
    kind: "auto" recognises each row by its fields; a key of FORMATS reads
      every row as that. {prompt, completions, labels} is TRL's stepwise format
      unless kind="outcome" says that the completions are whole answers.

  Raises:
    UserError: no such file, unknown kind, a file that breaks off; `kind` for
      a data set that holds records already.
  """
  check_kind(kind)
  for file in find_files(path):
    for line, row in read_rows(file):
      if isinstance(row, BadRow):
        yield Reject(str(file), line, str(row))
        continue
      if isinstance(row, Record):
        yield _as_stored(row, file, kind)
        continue
      for item in row_items(row, kind):
        if isinstance(item, BadRow):
          yield Reject(str(file), line, str(item))
        else:
          yield item._replace(source=str(file), line=line)


def _as_stored(record: Record, file, kind) -> Record:
  """A record that `write_dataset` wrote keeps its own file and line."""
  if kind != "auto":
    raise UserError(
      f"{file} holds records, which were read as {record.kind!r} before: "
      f"kind={kind!r} comes too late. Use 'auto', or write it again."
    )
  return record


def find_files(path) -> list:
  """Returns the files to read, each a Path, a Remote or a Prepared split.

  All of them have a `name` and print as what a message should say. UserError
  names the nearest if nothing is there.
  """
  if scheme(path) == "tfds":
    return [find_split(str(path))]
  if scheme(path) == "hf":
    return hub_files(str(path), suffixes=SUFFIXES)
  local = local_path(path)
  return _remote_files(str(path)) if local is None else _local_files(local)


def _local_files(path) -> list:
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


def _remote_files(url: str) -> list:
  place = remote(url)
  root = url.rstrip("/")
  files = list_folder(place)
  single = list(files) == [place.name]  # a file, or a folder of its own name
  if single and place.fs.isfile(place.path):
    root = root.removesuffix(f"/{place.name}")
  found = [
    Remote(place.fs, info["name"], f"{root}/{name}")
    for name, info in files.items()
    if name.endswith(SUFFIXES)
  ]
  if not found:
    shown = ", ".join(list(files)[:3]) or "nothing"
    raise UserError(
      f"{url} holds no data file: expected names ending in "
      f"{', '.join(SUFFIXES)}, got {shown}. Correct the address."
    )
  return found


def read_rows(file):
  """Yields (line, row or BadRow) of one of `find_files`.

  In a JSON array, a Parquet file or a data set the line is the row; of an
  object over many lines it is the first. A row is a dict, but for data sets
  that hold Records.
  """
  if isinstance(file, Prepared):
    yield from read_split(file)
    return
  told = reached if isinstance(file, Remote) else _allowed
  with told(str(file)), file.open("rb") as raw:
    if file.name.endswith(".parquet"):
      yield from read_parquet(file, raw)
      return
    try:
      stream = gzip.open(raw) if file.name.endswith(".gz") else raw
      head = stream.read(HEAD).removeprefix(b"\xef\xbb\xbf")
      stream.seek(0)
      if head.lstrip().startswith(b"["):
        yield from read_array(file, _text(stream))
      elif spans_lines(head):
        yield from read_objects(file, _text(stream))
      else:
        yield from read_lines(stream)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
      raise UserError(
        f"{file} is not a whole gzip file ({error}): copy it again."
      ) from error
    except UnicodeDecodeError as error:  # lines are rejected one by one
      raise UserError(
        f"{file} is not UTF-8 text ({error.reason}): save it as UTF-8."
      ) from error


@contextlib.contextmanager
def _allowed(file: str):
  try:
    yield
  except OSError as error:  # no permission, a disk that fails
    raise UserError(
      f"{file}: expected a file that can be read, got {error.strerror}: check "
      "its permissions."
    ) from error


def _text(stream):
  return io.TextIOWrapper(stream, encoding="utf-8-sig")


def spans_lines(head: bytes) -> bool:
  """Whether a file that begins like this holds objects over many lines.

  So it is where the first line breaks off and what follows goes on: a bad line
  among lines is none of it.
  """
  cut = len(head) >= HEAD - 3  # a byte order mark was taken off
  text = head.decode("utf-8", "replace").strip()
  first, newline, _ = text.partition("\n")
  if not newline or not first.startswith("{") or _error(first) is None:
    return False
  error = _error(text)
  if error is None:
    return True
  if not cut:
    return error.pos >= len(text)
  # Cut anywhere: within a word, or in a string, whose start is named.
  late = error.pos > len(text) - 16
  return late or error.msg.startswith("Unterminated string")


def _error(text: str) -> json.JSONDecodeError | None:
  """Why no JSON value stands at the beginning of the text; None if one does."""
  try:
    json.JSONDecoder().raw_decode(text)
  except json.JSONDecodeError as error:
    return error
  except (ValueError, RecursionError):
    pass  # a value that the reader of lines will refuse
  return None


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
  values = _values(file, text.read(CHUNK).lstrip()[1:], text, "the array")
  for row, (_, value) in enumerate(values, start=1):
    yield row, value


def read_objects(file, text):
  """Yields (its first line, value) of values that stand one after another."""
  return _values(file, "", text, "")


def _values(file, buffer, text, array: str):
  """Yields (line where it begins, value); in an array up to its bracket."""
  decoder = json.JSONDecoder()
  row, line = 0, 1
  while True:
    rest = buffer.lstrip()
    if array:
      rest = rest.removeprefix("," if row else "").lstrip()
      if rest.startswith("]"):
        return
    line += buffer.count("\n", 0, len(buffer) - len(rest))
    buffer = rest
    try:
      value, end = decoder.raw_decode(buffer)
      # A number at the end of the buffer may go on in the next chunk.
      whole = end < len(buffer) or not array
    except json.JSONDecodeError as error:
      problem, whole = error, False
    except (ValueError, RecursionError) as error:
      # A number of thousands of digits; brackets nested as deep.
      value, end, problem, whole = None, len(buffer), error, False
    else:
      problem = "it breaks off"
    if whole:
      row += 1
      yield line, value
      line += buffer.count("\n", 0, end)
      buffer = buffer[end:]
      continue
    more = text.read(max(CHUNK, len(buffer)))  # doubling: linear in total
    if not more:
      if not array and not buffer:
        return
      # Nothing after this row can be found, so it is not one reject.
      part = (
        f"row {row + 1} of {array}" if array else f"the object of line {line}"
      )
      raise UserError(
        f"{file}: bad JSON in {part} ({problem}): correct the file, or write "
        "one object per line."
      )
    buffer += more
