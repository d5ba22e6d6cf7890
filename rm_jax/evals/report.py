"""Pictures of a run and its headline numbers, from the files it left."""

import itertools
import json
import pathlib

import numpy as np
from ml_collections import ConfigDict

from rm_jax.data.loader import Dataset, lay_step, tokenize_records
from rm_jax.data.pack import grow
from rm_jax.data.plan import demand, make_eval_plan
from rm_jax.data.sources import read_records
from rm_jax.data.tokenizers import load_tokenizer
from rm_jax.evals.plots import (
  learning_curve,
  packed_row,
  reliability,
  score_histograms,
)
from rm_jax.train.log import read_rows
from rm_jax.train.tasks import read_tasks
from rm_jax.types import Record, UserError

READABLE_COLUMNS = 80  # of a packed row: token texts still fit
SAMPLE = 256  # records looked at for a short row
EVAL = "eval/"  # prefix of evaluation keys in metrics.jsonl


def write_pictures(workdir: pathlib.Path) -> str:
  """Draws what a run left and returns its headline numbers as text.

  Writes learning_curve.png, packed_row.png (a short row of the run's own data,
  with who sees whom), and where the evaluation set has comparisons
  score_histograms.png and reliability.png.

  Raises:
    UserError: the folder holds no finished run.
  """
  workdir = pathlib.Path(workdir)
  needed = ("run.json", "metrics.jsonl", "scores.npz", "results.json")
  absent = [name for name in needed if not (workdir / name).exists()]
  if absent:
    raise UserError(
      f"{workdir}: expected a finished run, got a folder without "
      f"{', '.join(absent)}: train it to the end first."
    )
  run = json.loads((workdir / "run.json").read_text())
  found = json.loads((workdir / "results.json").read_text())
  drawn = ["learning_curve.png"]
  learning_curve(
    curve_rows(read_rows(workdir / "metrics.jsonl")), workdir / drawn[0]
  )
  chosen, rejected = read_comparisons(workdir / "scores.npz")
  if len(chosen):
    score_histograms(chosen, rejected, workdir / "score_histograms.png")
    reliability(chosen - rejected, workdir / "reliability.png")
    drawn += ["score_histograms.png", "reliability.png"]
  problem = _draw_row(ConfigDict(run["config"]), workdir / "packed_row.png")
  if problem:
    problem = f"\nno packed_row.png: {problem}"
  else:
    drawn.append("packed_row.png")
  return (
    f"{headline(found)}\n{workdir}: results.json, {', '.join(drawn)}{problem}"
  )


def headline(found: dict) -> str:
  """The few lines of a results.json that one reads first.

  Args:
    found: the content of results.json.
  """
  metrics = found["metrics"]

  def entry(name, text):
    if name not in metrics or metrics[name]["value"] is None:
      return []
    m = metrics[name]
    low = m["low"]
    interval = "" if low is None else f" [{low:.4f}, {m['high']:.4f}]"
    return [f"{text:24}{m['value']:.4f}{interval}"]

  n = next(
    metrics[k]["n"]
    for k in ("accuracy", "label_accuracy", "squared_error", "score_mean")
    if k in metrics
  )
  what = "comparisons" if "accuracy" in metrics else "labels"
  return "\n".join(
    [
      f"after {found['num_train_steps']} train steps, on {n:,} held-out "
      f"{what}, 95 % intervals over prompts:",
      *entry("accuracy", "accuracy (chance 0.5)"),
      *entry("length_only_accuracy", "length-only baseline"),
      *entry("accuracy_over_length", "accuracy over length"),
      *entry("calibration_error", "calibration error"),
      *entry("label_accuracy", "label accuracy"),
      *entry("majority_accuracy", "larger-class baseline"),
      *entry("label_calibration_error", "label calibration error"),
      *entry("squared_error", "squared error"),
      *entry("constant_squared_error", "constant baseline"),
      *entry("loss", "loss"),
    ]
  )


def curve_rows(rows: list[dict]) -> list[dict]:
  """Rows of metrics.jsonl under the names `learning_curve` reads.

  One row may hold a train step and an evaluation. A loss that was not finite
  is null there and has no place on a curve.
  """
  keys = ("accuracy", "accuracy_low", "accuracy_high")
  renamed = []
  for row in rows:
    values = {"step": row["step"], "loss": row.get("loss")}
    values |= {key: row.get(EVAL + key) for key in keys}
    renamed.append({k: v for k, v in values.items() if v is not None})
  return renamed


def read_comparisons(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
  """(chosen scores [C], rejected scores [C]) of a scores.npz."""
  with np.load(path) as saved:
    scores, group = saved["scores"], saved["group"]
    comparisons = saved["comparisons"]  # [C, 3]: group, chosen, rejected
  first = np.searchsorted(group, comparisons[:, 0])
  return scores[first + comparisons[:, 1]], scores[first + comparisons[:, 2]]


def short_row(config, tokenizer):
  """(row, pieces) of a short packed row of a run's data, for `packed_row`.

  The shortest groups among the first records, as many as stay readable, laid
  out as the run lays them. Of a group that is too wide alone, as many of its
  completions as stay readable, but two at least.

  Raises:
    UserError: no record of the data fits a row.
  """
  reading = read_tasks(config)[0].reading
  place = config.data.source.split(",")[0]
  records = [
    x
    for x in itertools.islice(
      read_records(place, kind=config.data.kind), SAMPLE
    )
    if isinstance(x, Record)
  ]
  groups = tokenize_records(
    records, tokenizer, reading._replace(overlong="drop"), None
  ).groups
  if not groups:
    raise UserError(
      f"none of the first {len(records)} records of {place} fits "
      f"a row of config.data.row_len={config.data.row_len}"
    )
  how = dict(
    layout=reading.layout, row_len=reading.row_len, align=reading.align
  )

  def width(group):
    pieces = grow(group, **how)
    return sum(piece.columns(reading.align) for piece in pieces)

  limit = min(READABLE_COLUMNS, reading.row_len)
  groups = [_narrow(group, width, limit) for group in groups]
  widths = [width(group) for group in groups]
  # A tree says more than a single completion.
  order = sorted(
    range(len(groups)),
    key=lambda i: (
      widths[i] > limit,
      -len(groups[i].tokens),
      widths[i],
    ),
  )
  taken, used = [], 0
  for i in order:
    if not taken or used + widths[i] <= limit:
      taken.append(groups[i])
      used += widths[i]
  pieces = [grow(group, **how) for group in taken]
  demands = [demand(*pair) for pair in zip(taken, pieces, strict=True)]
  plan = make_eval_plan(
    demands, blocks=1, rows=1, **how | {"row_len": min(used, reading.row_len)}
  )
  data = Dataset(taken, demands, [], [], {}, used, used, (0, 0))
  batch, _, _ = lay_step(data, plan, 0)
  keys = ("tokens", "group_ids", "branch_ids", "positions", "fork_positions")
  row = {key: getattr(batch, key)[0, 0] for key in keys}
  return row, [tokenizer.decode([token]) for token in row["tokens"]]


def _narrow(group, width, limit: int):
  """The group with its last completions left out until it is readable."""
  while len(group.tokens) > 2 and width(group) > limit:
    group = group._replace(
      tokens=group.tokens[:-1],
      slots=group.slots[:-1],
      outputs=group.outputs[:-1],
      labels=group.labels[:-1],
      weights=group.weights[:-1],
      language_weights=group.language_weights[:-1],
      reads=group.reads[:-1],
      ranks=group.ranks[:-1],
    )
  return group


def _draw_row(config, path: pathlib.Path) -> str:
  """Why there is no picture of a row; "" if it was drawn."""
  try:
    tokenizer = load_tokenizer(config.init.tokenizer or config.init["from"])
    row, pieces = short_row(config, tokenizer)
  except UserError as error:  # data or tokenizer moved since: the rest stands
    return str(error)
  packed_row(row, pieces, path)
  return ""
