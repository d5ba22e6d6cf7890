"""Rows of a Parquet file as plain Python, a batch at a time."""

import datetime
import decimal

from rm_jax.data.fields import BadRow
from rm_jax.types import UserError

ROWS = 256  # decoded at a time


def read_parquet(file, stream):
  """Yields (row number from 1, dict or BadRow) of an open Parquet file.

  A row is what JSON would have held: lists and dicts, text, numbers, booleans.
  Dates and times become ISO text, decimals numbers, bytes the UTF-8 text they
  hold. A column that is null in a row is left out of it: a Parquet file gives
  every row all columns, a JSON row has those it needs. A value that cannot be
  said in JSON (a picture) makes its row a BadRow that names the column.

  Args:
    file: for messages.
    stream: binary, can seek.

  Raises:
    UserError: not a whole Parquet file.
  """
  import pyarrow
  from pyarrow import parquet

  number = 0
  try:
    # Not ahead of the reader: whole row groups would lie in memory.
    whole = parquet.ParquetFile(stream, pre_buffer=False)
    for batch in whole.iter_batches(batch_size=ROWS):
      for row in _rows(batch):
        number += 1
        yield number, row
  except (pyarrow.ArrowException, OSError) as error:
    where = f"row {number + 1} of {file}" if number else str(file)
    text = " ".join(str(error).split())[:200]
    raise UserError(
      f"{where}: expected a whole Parquet file, got one that does not parse "
      f"({text}): copy it again."
    ) from error


def _rows(batch) -> list:
  """The rows of a batch; one that does not convert costs only itself."""
  batch = _microseconds(batch)
  try:
    rows = batch.to_pylist()
  except Exception:  # two columns of one name, a year that Python has not
    rows = [_one(batch, i) for i in range(batch.num_rows)]
  return [row if isinstance(row, BadRow) else _plain_row(row) for row in rows]


def _microseconds(batch):
  """The batch in microseconds: pandas writes nano, no datetime holds them."""
  import pyarrow as pa

  for i, field in enumerate(batch.schema):
    if getattr(field.type, "unit", "") != "ns":
      continue
    if pa.types.is_timestamp(field.type):
      to = pa.timestamp("us", field.type.tz)
    else:
      to = (
        pa.duration("us")
        if pa.types.is_duration(field.type)
        else (pa.time64("us"))
      )
    column = batch.column(i).cast(to, safe=False)
    batch = batch.set_column(i, field.name, column)
  return batch


def _one(batch, index: int):
  try:
    return batch.slice(index, 1).to_pylist()[0]
  except Exception as error:
    text = " ".join(str(error).split())[:200]
    return BadRow(f"a column holds what JSON has no word for: {text}")


def _plain_row(row: dict):
  out = {}
  for name, value in row.items():
    if value is None:
      continue
    try:
      out[name] = plain(value)
    except BadRow as error:
      return BadRow(f"column {name!r}: {error}")
  return out


def plain(value):
  """The value as JSON would have given it; BadRow where JSON has no word."""
  if value is None or isinstance(value, str | bool | int | float):
    return value
  if isinstance(value, list | tuple):  # a tuple: an entry of a map
    return [plain(x) for x in value]
  if isinstance(value, dict):
    return {str(name): plain(x) for name, x in value.items()}
  if isinstance(value, bytes):
    try:
      return value.decode("utf-8")
    except UnicodeDecodeError as error:
      raise BadRow(f"bytes that are no UTF-8 text at {error.start}") from None
  if isinstance(value, datetime.datetime | datetime.date | datetime.time):
    return value.isoformat()
  if isinstance(value, datetime.timedelta):
    return value.total_seconds()
  if isinstance(value, decimal.Decimal):
    whole = value.is_finite() and value == int(value)
    return int(value) if whole else float(value)
  if hasattr(value, "tolist"):  # numpy: half floats, arrays
    return plain(value.tolist())
  raise BadRow(f"{type(value).__name__} has no word in JSON")
