"""The files of a scored output, and how far they are written.

OUTPUT                 every row that was scored, in order, with new keys
OUTPUT.rejects.jsonl   every other row: file, line, reason
OUTPUT.progress.json   how far both are written: what a restart goes on from
"""

import hashlib
import json
import pathlib
from typing import NamedTuple

from rm_jax.train.checkpoint import write_json
from rm_jax.types import UserError

BLOCK = 1 << 20  # bytes hashed at a time


class Paths(NamedTuple):
  """The three files that scoring writes."""

  output: pathlib.Path
  rejects: pathlib.Path
  progress: pathlib.Path


def paths_of(output: pathlib.Path) -> Paths:
  """The files of an output of this name."""
  return Paths(
    output,
    output.with_name(output.name + ".rejects.jsonl"),
    output.with_name(output.name + ".progress.json"),
  )


def digest_file(file: pathlib.Path) -> tuple[str, int | None]:
  """(sha256 of a file, its lines or None where they cannot be counted)."""
  digest, lines = hashlib.sha256(), 0
  with file.open("rb") as stream:
    while block := stream.read(BLOCK):
      digest.update(block)
      lines += block.count(b"\n")
  plain = file.suffix == ".jsonl"
  return digest.hexdigest(), max(lines, 1) if plain else None


def find_progress(paths: Paths, begun: dict) -> dict:
  """Where to go on; both files are cut to what the progress file vouches for.

  A new run writes its progress file first: a kill before the first chunk must
  not leave an output that nothing vouches for.
  """
  restart = (
    f"remove {paths.output.name}, {paths.rejects.name} and "
    f"{paths.progress.name} to start anew, or choose another --output"
  )
  if not paths.progress.exists():
    if paths.output.exists():
      raise UserError(
        f"{paths.output} exists and no {paths.progress.name} says that it is "
        "of this command: remove it or choose another --output."
      )
    done = {
      "begun": begun,
      "line": 0,
      "scored": 0,
      "rejected": 0,
      "output_bytes": 0,
      "rejects_bytes": 0,
      "complete": False,
    }
    write_json(paths.progress, done)
    paths.output.write_bytes(b"")
    paths.rejects.write_bytes(b"")
    return done
  done = json.loads(paths.progress.read_text())
  other = [k for k in begun if done["begun"].get(k) != begun[k]]
  if other:
    raise UserError(
      f"{paths.progress}: this output was begun with another "
      f"{' and '.join(other)} than now: {restart}."
    )
  for path, key in (
    (paths.output, "output_bytes"),
    (paths.rejects, "rejects_bytes"),
  ):
    size = path.stat().st_size if path.exists() else 0
    if size < done[key]:
      raise UserError(
        f"{path} holds {size} bytes, {paths.progress.name} counts "
        f"{done[key]}: it was changed or removed; {restart}."
      )
    if size > done[key]:
      with path.open("ab") as stream:
        stream.truncate(done[key])
  return done
