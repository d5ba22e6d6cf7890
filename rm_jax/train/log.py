"""What a run says: metrics.jsonl, TensorBoard, one progress line."""

import contextlib
import json
import math
import os
import pathlib
import time

import jax
from tqdm import tqdm

from rm_jax.train.utilisation import flop_rates


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

  def elapsed(self) -> float:
    """As `seconds`, of which the next call goes on from where it was."""
    return time.perf_counter() - self.clock

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

  seconds, elapsed = Log.seconds, Log.elapsed

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


def summary(config, spec, sets, plan, mesh, first) -> str:
  """What a run is about to do, in a few lines; `first`: steps already made."""
  c = sets.counts
  saved = 1 - c["train_tokens_shared"] / c["train_tokens_unshared"]
  shapes = [
    f"{plan.geometry.blocks}x{r}x{plan.geometry.row_len}"
    for r in plan.row_counts
  ]

  def side(name):
    return (
      f"{c[f'{name}_groups']:,} {name} groups ({c[f'{name}_rejected']} "
      f"rejected, {c[f'{name}_overlong']} overlong)"
    )

  resumed = f", going on after step {first}" if first else ""
  count = jax.process_count()
  on_hosts = f" on {count} hosts" if count > 1 else ""
  note = f"note: {config.note}\n" if config.note else ""
  unused = f", {c['unused']:,} unused" if c["unused"] else ""
  return (
    f"{note}{side('train')}, {side('test')}, "
    f"{c['unreadable']} records unreadable{unused}\n"
    f"{config.data.layout} layout: {c['train_tokens_shared']:,} tokens an "
    f"epoch (one row per completion would take "
    f"{c['train_tokens_unshared']:,}; sharing saves {saved:.0%})\n"
    f"{len(plan.steps):,} train steps in {len(plan.row_counts)} compiled "
    f"shapes (blocks x rows x columns): {', '.join(shapes)}\n"
    f"{config.loss.name}, {config.train.trainable} trainable, "
    f"{config.optim.name}, {spec.dtype}, {config.parallel} over "
    f"{dict(mesh.shape)}{on_hosts}{resumed}"
  )


def train_row(step, out, counts, flops, seconds, mesh) -> dict:
  """The entries of metrics.jsonl of one train step; docs/log.md explains them.

  A loss that is not finite is null.

  Args:
    out: metrics of the step.
    counts: of `lay_step`.
    flops: of `flop_counter`.
    seconds: that the step took.
  """
  row = {
    "step": step,
    "loss": _number(out["loss"]),
    "grad_norm": _number(out["grad_norm"]),
    "lr": float(out["lr"]),
    "skipped": int(out["skipped"]),
  }
  for task, names in out["learned"].items():
    row |= {f"learned/{task}/{name}": float(x) for name, x in names.items()}
  for term, (total, weight) in out["terms"].items():
    if len(out["terms"]) > 1 and weight:
      row[f"loss/{term}"] = _number(total / weight)
  return row | {
    "groups": counts["groups"],
    "useful_tokens": counts["useful_tokens"],
    "computed_tokens": counts["computed_tokens"],
    "seconds": round(seconds, 4),
    "useful_tokens_per_second": counts["useful_tokens"] / seconds,
    "computed_tokens_per_second": counts["computed_tokens"] / seconds,
    **flop_rates(
      flops,
      seconds,
      kind=mesh.devices.flat[0].device_kind,
      devices=mesh.size,
    ),
  }


def progress_text(row: dict) -> str:
  """What stands beside the bar, of the row of a train step."""
  loss = "not finite" if row["loss"] is None else f"{row['loss']:.4f}"
  text = (
    f"loss {loss}  {row['useful_tokens_per_second']:,.0f} useful tok/s "
    f"({row['computed_tokens_per_second']:,.0f} computed)"
  )
  if "useful_utilisation" in row:
    text += f"  {row['useful_utilisation']:.0%} of peak"
  return text


def _number(x):
  x = float(x)
  return x if math.isfinite(x) else None


def eval_row(step, metrics) -> dict:
  """The entries of metrics.jsonl of an evaluation after a train step."""
  row = {"step": step}
  for key, entry in metrics.items():
    row[f"eval/{key}"] = entry["value"]
    if entry["low"] is not None:
      row[f"eval/{key}_low"] = entry["low"]
      row[f"eval/{key}_high"] = entry["high"]
  return row
