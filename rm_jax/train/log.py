"""What a run says: metrics.jsonl, TensorBoard, one progress line."""

import contextlib
import json
import os
import pathlib
import time

from tqdm import tqdm


class Log:
  """Writes each row once, also when a run is killed and goes on.

  Rows past the restored step are cut from metrics.jsonl at the start, since
  those train steps will be made again.

  Args:
    step: of the restored checkpoint; None: there is none, every row goes.
    total: train steps of the run.
  """

  def __init__(self, workdir: pathlib.Path, *, step: int | None, total: int):
    self.path = workdir / "metrics.jsonl"
    # Imported here: it sets an environment variable.
    from tensorboardX import SummaryWriter

    _cut(self.path, -1 if step is None else step)
    self.file = self.path.open("a")
    self.board = SummaryWriter(
      str(workdir / "tensorboard"), purge_step=step and step + 1
    )
    self.bar = tqdm(
      total=total,
      initial=step or 0,
      disable=None,
      unit="step",
      dynamic_ncols=True,
    )
    self.clock = time.perf_counter()

  def write(self, row: dict) -> None:
    """One JSON object a line; numbers also go to TensorBoard."""
    self.file.write(json.dumps(row) + "\n")
    self.file.flush()
    for key, value in row.items():
      if key != "step" and isinstance(value, int | float):
        self.board.add_scalar(key, value, row["step"])

  def seconds(self) -> float:
    """Since the last call."""
    now = time.perf_counter()
    taken, self.clock = now - self.clock, now
    return taken

  def progress(self, text: str) -> None:
    """Moves the bar on by one train step."""
    self.bar.set_postfix_str(text, refresh=False)
    self.bar.update(1)

  def say(self, text: str) -> None:
    """A line for people that does not break the bar."""
    tqdm.write(text)

  def sync(self) -> None:
    """Rows on disk: called before a checkpoint that implies them."""
    self.file.flush()
    os.fsync(self.file.fileno())
    self.board.flush()

  def close(self) -> None:
    """Closes everything, also where a full disk refuses the last rows."""
    self.bar.close()
    with contextlib.closing(self.board), contextlib.closing(self.file):
      self.sync()


class Silent:
  """In place of `Log` on every host but the first: keeps the time only."""

  def __init__(self):
    self.clock = time.perf_counter()

  seconds = Log.seconds

  def write(self, row: dict) -> None:
    """The first host has the same row."""

  def progress(self, text: str) -> None:
    """The first host's bar moves."""

  def say(self, text: str) -> None:
    """The first host says it."""

  def sync(self) -> None:
    """Nothing is on its way to a disk."""

  def close(self) -> None:
    """Nothing is open."""


def _cut(path: pathlib.Path, step: int) -> None:
  """Drops rows after `step` and a half-written last line."""
  if not path.exists():
    return
  kept = []
  for line in path.read_text().splitlines():
    try:
      row = json.loads(line)
    except json.JSONDecodeError:
      continue  # the line that the kill cut off: its step comes again
    if row["step"] <= step:
      kept.append(line)
  beside = path.with_name("metrics.jsonl.tmp")
  beside.write_text("".join(line + "\n" for line in kept))
  os.replace(beside, path)


def read_rows(path: pathlib.Path) -> list[dict]:
  """The rows of a metrics.jsonl."""
  return [json.loads(line) for line in path.read_text().splitlines()]
