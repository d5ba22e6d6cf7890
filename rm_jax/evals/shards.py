"""Many records scored in shards: by one host after another, or by several.

  FOLDER/scores-00003-of-00016.jsonl   its rows, once it is complete
  FOLDER/rejects-00003-of-00016.jsonl  what could not be scored
  FOLDER/progress-00003-of-00016.json  how far it is

A shard is a stretch of the input, so that all of them, in the order of their
names, are the output in one file. Which lines it has depends on the input and
the number of shards alone: any number of hosts and devices goes on with them.
"""

import os
import pathlib
import re

import jax
import numpy as np

from rm_jax.data.sources import read_rows
from rm_jax.evals.output import Paths, digest_file, find_progress
from rm_jax.evals.score import (
  CHUNK_ROWS,
  begin,
  find_input,
  none_scored,
  score_lines,
)
from rm_jax.inference import RewardModel
from rm_jax.train import board, hosts
from rm_jax.train.results import commit, versions
from rm_jax.types import UserError

BOARD = "score"
NAME = re.compile(r"(scores|progress)-\d{5}-of-(\d{5})\.json")


def score_shards(
  model: str,
  input: str | pathlib.Path,
  folder: str | pathlib.Path,
  *,
  shards: int,
  kind: str,
  dtype: str,
  **how,
) -> str:
  """Scores a file in shards, as `score_file` does; a line that counts rows.

  Of several hosts, host h of H scores the shards h, h + H, ... Each needs the
  input and the model; the folder may be one that all see or one of its own. A
  shard gets its name when it is complete and is not scored again; one that was
  broken off goes on where it was.

  Args:
    shards: their number; a multiple of the hosts keeps all of them busy.
    how: what else `RewardModel.load` takes.

  Raises:
    UserError: as of `score_file`; the folder was begun in another number of
      shards, or is a file; hosts that differ in what they are to do.
    LostHost: another host hangs.
  """
  folder = pathlib.Path(folder)
  file = find_input(pathlib.Path(input), kind)
  if folder.is_file() or folder.suffix == ".jsonl":
    raise UserError(
      f"--output={folder}: with --shards={shards} it is a folder of files. "
      "Name a folder."
    )
  _check_count(folder, shards)
  reward_model = RewardModel.load(model, dtype=dtype, **how)
  content, lines = digest_file(file)
  begun = begin(reward_model, content, kind, dtype)
  hosts.check_same(
    begun | {"shards": shards, "commit": commit(), "versions": versions()}
  )
  folder.mkdir(parents=True, exist_ok=True)
  spans = cut_lines(file, lines, shards)
  own = [
    _score_shard(reward_model, file, folder, begun, spans, index=index)
    for index in range(jax.process_index(), shards, jax.process_count())
  ]
  scored, rejected = np.sum(_of_all(own, folder), axis=0)
  if not scored:
    every = sorted(folder.glob("rejects-*.jsonl"))
    raise UserError(none_scored(file, rejected, every))
  return (
    f"{scored} rows scored into {shards} shards in {folder}, {rejected} "
    "rejected"
  )


def cut_lines(
  file, lines: int | None, shards: int
) -> list[tuple[int, int | None]]:
  """(lines before, the last one) of each shard; some may have none.

  They begin at whole chunks. The last has no last line: it goes to the end.

  Args:
    lines: of the file, about; None: they are counted.
  """
  if lines is None:
    lines = max((line for line, _ in read_rows(file)), default=0)
  chunks = -(-lines // CHUNK_ROWS)
  ends = [chunks * n // shards * CHUNK_ROWS for n in range(shards)]
  return list(zip(ends, [*ends[1:], None], strict=True))


def shard_name(what: str, index: int, shards: int) -> str:
  """Of a file of a shard, without its ending."""
  return f"{what}-{index:05d}-of-{shards:05d}"


def _of_all(own: list, folder) -> list:
  """[rows scored, rejected] of every shard, on every host.

  Also so that no host ends, and with it the run, before the last is done.
  """
  if jax.process_count() == 1:
    return own
  board.post(BOARD, "its end", own)
  lists = board.wait_for_all(
    lambda: board.read(BOARD),
    jax.process_count(),
    silent=board.SILENT_SECONDS,
    kept=str(folder),
  )
  return [counts for of_host in lists for counts in of_host]


def _score_shard(model, file, folder, begun, spans, *, index) -> list[int]:
  """[rows scored, rejected] of a shard, which is complete then."""
  named = folder / f"{shard_name('scores', index, len(spans))}.jsonl"
  partial = named.with_name(f"{named.name}.partial")
  paths = Paths(
    named if named.exists() else partial,
    folder / f"{shard_name('rejects', index, len(spans))}.jsonl",
    folder / f"{shard_name('progress', index, len(spans))}.json",
  )
  before, last = spans[index]

  def tell(done):
    line = max(before, done["line"])
    board.post(BOARD, f"shard {index} of {len(spans)}, line {line:,}")

  done = find_progress(paths, begun | {"lines": [before, last]})
  tell(done)
  done = score_lines(
    model,
    file,
    paths,
    done,
    before=before,
    last=last,
    total=None if last is None else last - before,
    saved=tell,
  )
  if paths.output == partial:
    os.replace(partial, named)
  return [done["scored"], done["rejected"]]


def _check_count(folder: pathlib.Path, shards: int) -> None:
  """Raises UserError where the folder was begun in another number of shards."""
  names = [p.name for p in folder.glob("*-of-*")] if folder.is_dir() else []
  found = {int(m[2]) for name in names if (m := NAME.match(name))} - {shards}
  if found:
    raise UserError(
      f"--output={folder} was begun in {min(found)} shards, now they are "
      f"{shards}: go on with --shards={min(found)}, or name another folder."
    )
