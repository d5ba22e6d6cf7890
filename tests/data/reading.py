"""Rows in, records out: what the tests of the readers share."""

import collections
import gzip
import json
import math

from rm_jax.data.fields import BadRow
from rm_jax.data.recognise import row_items
from rm_jax.data.rejects import Reject
from rm_jax.data.sources import read_records


def read(row, kind="auto"):
  """Returns the one Record or BadRow of a row."""
  (item,) = row_items(row, kind)
  return item


def refusal(row, kind="auto") -> str:
  """Returns why a row cannot be used; fails where it can."""
  item = read(row, kind)
  assert isinstance(item, BadRow), item
  return str(item)


def told(record) -> tuple:
  """Returns K tuples of (step, label): the steps that have a label."""
  return tuple(
    tuple((i, y) for i, y in enumerate(marks) if not math.isnan(y))
    for marks in record.step_labels
  )


def user(text):
  return {"role": "user", "content": text}


def assistant(text):
  return {"role": "assistant", "content": text}


def count(path):
  """Returns (records, Counter of reasons) of a file or folder."""
  records, reasons = [], collections.Counter()
  for item in read_records(path):
    if isinstance(item, Reject):
      reasons[item.reason] += 1
    else:
      records.append(item)
  return records, reasons


def raw(path) -> list:
  """Returns the rows of a file by json alone; an object is one row."""
  opener = gzip.open if path.name.endswith(".gz") else open
  with opener(path, "rt", encoding="utf-8") as stream:
    text = stream.read()
  try:
    value = json.loads(text)
  except json.JSONDecodeError:
    return [json.loads(line) for line in text.split("\n") if line]
  return value if isinstance(value, list) else [value]
