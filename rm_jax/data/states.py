"""Hidden states on disk: computed once, read at random by every run.

DIRECTORY/
  states.json     key, rows and width; written last
  states.float32  one row of D numbers a token, little-endian, group after group

While it is filled all lies in a folder of another name, with a byte for each
group that says whether its rows are on disk; a killed filler goes on from it.
"""

import errno
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rm_jax.data.cache import check_key, locked
from rm_jax.places import local_path
from rm_jax.types import UserError

# Raise it when the rows of a tree come in another order or mean other states.
VERSION = 1

INDEX = "states.json"
STATES = "states.float32"
FILLED = "filled.uint8"
BEGUN = "key.json"
WHAT = "hidden states"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Part(NamedTuple):
  """Some groups whose states have just been computed."""

  rows: np.ndarray  # int64 [n], any order
  states: np.ndarray  # float32 [n, D]
  groups: np.ndarray  # of which all rows are in this part


def open_states(directory: str | Path, key: dict) -> np.ndarray | None:
  """The file mapped into memory, float32 [T, D]; None where nothing is.

  Raises:
    UserError: it is of another key (the message shows each difference), cut
      short, behind a URL, or the directory holds something else.
  """
  folder = local_path(directory)
  if folder is None:
    raise UserError(
      f"config.train.cache_hidden={directory}: expected a folder of this "
      "machine, a file behind a URL cannot be mapped into memory"
    )
  if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
    return None
  if not (folder / INDEX).is_file():
    raise UserError(
      f"{directory}: expected {WHAT} or nothing, got something without "
      f"{INDEX}; name another directory or remove it"
    )
  index = json.loads((folder / INDEX).read_text("utf-8"))
  check_key(directory, WHAT, index["key"], _as_read(key))
  shape = tuple(index["shape"])
  path, want = folder / STATES, 4 * shape[0] * shape[1]
  got = path.stat().st_size if path.is_file() else 0
  if got != want:
    raise UserError(
      f"{path}: expected {want} bytes, got {got}: the {WHAT} are damaged; "
      f"remove {directory}, they will be computed again"
    )
  return np.memmap(path, "<f4", mode="r", shape=shape)


def fill_states(
  directory: str | Path,
  key: dict,
  shape: tuple[int, int],
  groups: int,
  compute: Callable,
) -> np.ndarray:
  """As `open_states`, after the states that are missing have been computed.

  A second process of this machine waits and then finds them.

  Args:
    shape: (T, D).
    groups: how many there are.
    compute: int array of groups to do -> iterator of Part; called only where
      something is missing.

  Raises:
    UserError: no room on the disk; and what `open_states` raises.
  """
  done = open_states(directory, key)
  if done is not None:
    return done
  folder = local_path(directory)
  folder.parent.mkdir(parents=True, exist_ok=True)
  with locked(folder):
    done = open_states(directory, key)
    if done is not None:
      return done
    partial = folder.with_name(f".{folder.name}.partial-{socket.gethostname()}")
    try:
      filled = _begin(partial, key, shape, groups)
      _fill(partial, filled, compute)
      index = {"key": key, "shape": shape}
      (partial / INDEX).write_text(json.dumps(index, indent=1) + "\n", "utf-8")
      partial.rename(folder)
      for name in (FILLED, BEGUN):
        (folder / name).unlink()
    except OSError as error:
      if error.errno not in FULL:
        raise
      raise UserError(_no_room(folder, shape, str(error))) from error
  return open_states(directory, key)


def _as_read(key: dict) -> dict:
  return json.loads(json.dumps(key))


def _begin(partial: Path, key: dict, shape, groups: int) -> np.ndarray:
  """Which groups an earlier filler of the same key has done, bool [groups]."""
  begun = partial / BEGUN
  same = begun.is_file() and (partial / FILLED).is_file()
  if same:
    same = json.loads(begun.read_text("utf-8")) == _as_read(key)
  if not same:
    shutil.rmtree(partial, ignore_errors=True)
    need, free = 4 * shape[0] * shape[1], shutil.disk_usage(partial.parent).free
    if need > free:
      sizes = f"{need:,} bytes needed, {free:,} free"
      raise UserError(_no_room(partial.parent, shape, sizes))
    partial.mkdir()
    (partial / FILLED).write_bytes(bytes(groups))
    with (partial / STATES).open("wb") as out:
      out.truncate(need)
    begun.write_text(json.dumps(key), "utf-8")  # last: now it may be gone on
  return np.frombuffer((partial / FILLED).read_bytes(), bool)


def _fill(partial: Path, filled: np.ndarray, compute) -> None:
  """Writes what is missing. No mapping: a full disk would kill the process."""
  missing = np.flatnonzero(~filled)
  if not len(missing):
    return
  with (
    (partial / STATES).open("r+b") as out,
    (partial / FILLED).open("r+b") as marks,
  ):
    for part in compute(missing):
      order = np.argsort(part.rows, kind="stable")
      rows, states = part.rows[order], part.states[order].astype("<f4")
      for run in np.split(
        np.arange(len(rows)), np.flatnonzero(np.diff(rows) != 1) + 1
      ):
        out.seek(int(rows[run[0]]) * states[0].nbytes)
        out.write(states[run].tobytes())
      out.flush()
      os.fsync(out.fileno())  # before the marks that vouch for it
      for group in part.groups:
        marks.seek(int(group))
        marks.write(b"\1")
      marks.flush()


def _no_room(folder: Path, shape, reason: str) -> str:
  size = 4 * shape[0] * shape[1]
  return (
    f"{folder}: no room for the {WHAT} of {shape[0]:,} tokens, {size:,} bytes "
    f"({reason}). Free space, name another config.train.cache_hidden or leave "
    "it empty"
  )
