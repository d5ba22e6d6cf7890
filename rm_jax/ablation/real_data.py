"""The published files that a design reads: where they are, and which they were.

They are not part of this repository. RM_DATA names the folder that holds them.
"""

import hashlib
import os
import pathlib

from rm_jax.types import UserError

FOLDER = "RM_DATA"


def find_data(names: tuple) -> list[pathlib.Path]:
  """The files of these names below $RM_DATA, in this order.

  Raises:
    UserError: RM_DATA is not set, or a file is not there.
  """
  root = os.environ.get(FOLDER)
  if not root:
    raise UserError(
      f"{FOLDER} is not set: this experiment reads {len(names)} published "
      f"files such as {names[0]}. Set it to the folder that holds them: "
      f"{FOLDER}=path rm-jax experiment ..."
    )
  paths = [pathlib.Path(root) / name for name in names]
  absent = [n for n, p in zip(names, paths, strict=True) if not p.is_file()]
  if absent:
    raise UserError(
      f"{FOLDER}={root}: {len(absent)} of {len(names)} files are not there, "
      f"first {absent[0]}. Set it to the folder that holds all of them."
    )
  return paths


def read_data(name: str) -> list[dict]:
  """The rows of one of the files, as they were published.

  Raises:
    UserError: as of `find_data`; a row that cannot be read.
  """
  from rm_jax.data.fields import BadRow
  from rm_jax.data.sources import read_rows

  (path,) = find_data((name,))
  rows = []
  for line, row in read_rows(path):
    if isinstance(row, BadRow):
      raise UserError(f"{path}:{line}: {row}")
    rows.append(row)
  return rows


def describe_data(names: tuple) -> list[dict]:
  """Name, rows, bytes and sha256 of each file, for results.json.

  Raises:
    UserError: as of `read_data`.
  """
  found = []
  for name, path in zip(names, find_data(names), strict=True):
    held = path.read_bytes()
    found.append(
      {
        "name": name,
        "rows": len(read_data(name)),
        "bytes": len(held),
        "sha256": hashlib.sha256(held).hexdigest(),
      }
    )
  return found
