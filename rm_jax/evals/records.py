"""A trained model on a file of records: results.json and a table."""

import json
import pathlib
import time

from ml_collections import ConfigDict

from rm_jax.data.loader import COMPARISONS, Dataset, tokenize_records
from rm_jax.data.rejects import write_rejects
from rm_jax.data.sources import read_records
from rm_jax.data.split import prompt_key
from rm_jax.heads import PUBLISHED
from rm_jax.inference import RewardModel
from rm_jax.objectives import LossSpec
from rm_jax.train.checkpoint import write_json
from rm_jax.train.evaluate import measure
from rm_jax.train.results import results
from rm_jax.train.sets import TRAINED_ON
from rm_jax.train.tasks import Task, read_tasks
from rm_jax.types import Record, UserError


def evaluate_records(
  model: str,
  data: str | pathlib.Path,
  out: str | pathlib.Path,
  *,
  kind: str,
  max_groups: int,
  allow_overlap: bool,
  dtype: str,
  command: str,
  **how,
) -> str:
  """Measures a model on records, writes results.json, returns a table.

  The metrics are those of training (`rm_jax.train.evaluate.measure`) under the
  run's own loss; a published model, and one whose loss needs labels that no
  record has, is asked for comparisons (Bradley-Terry). Records longer than a
  row are left out and counted, or cut, as the run did. Next to results.json
  lies `<name>.rejects.jsonl`: every record left out, with its reason.

  Args:
    model: what `RewardModel.load` takes.
    data: file or folder of records.
    out: a .json file, or a folder for results.json.
    kind: record format; "auto" recognises it by the fields.
    max_groups: evaluate the first so many; 0: all.
    allow_overlap: evaluate although prompts were trained on.
    dtype: of the matrix products.
    command: for results.json.
    how: what else `RewardModel.load` takes.

  Raises:
    UserError: nothing usable, prompts that were trained on, `out` holds the
      results of a training run.
  """
  started = time.perf_counter()
  path = _results_path(pathlib.Path(out))
  items = list(read_records(data, kind=kind))
  records = [x for x in items if isinstance(x, Record)]
  rejects = [x for x in items if not isinstance(x, Record)]
  if max_groups:
    records = records[:max_groups]
  reward_model = RewardModel.load(model, dtype=dtype, **how)
  reward_model.check_readable(reward_model.reading.pooling)
  run = reward_model.run
  config = run.config if run else ConfigDict({"seed": 0})

  trained, longer_is_better, note = _training_prompts(run)
  prompts = [prompt_key(r) for r in records]
  seen = sum(p in trained for p in prompts)
  if seen and not allow_overlap:
    raise UserError(
      f"{seen} of {len(records)} records of {data} have prompts that the model "
      f"was trained on ({note}): its accuracy there says nothing about new "
      "prompts. Take them out, or pass --allow_overlap."
    )

  dataset, task = _tokenize(reward_model, records, rejects, data)
  loss = task.loss if task else _asked(reward_model)
  scored = reward_model.score_tokenized(
    dataset, pooling=reward_model.reading.pooling, loss=loss, progress="eval"
  )
  metrics = measure(
    dataset,
    scored,
    prompts=dataset.prompts,
    longer_is_better=longer_is_better,
    attributes=task.supervision.attributes if task else (),
    seed=config.seed,
  )
  left_out = rejects + dataset.rejects + list(dataset.overlong.values())
  counts = {
    "groups": len(dataset.groups),
    "rejected": len(rejects) + len(dataset.rejects),
    "overlong": len(dataset.overlong),
    "trained_on": seen if trained else None,  # null: could not be checked
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  rejected = path.with_name(path.stem + ".rejects.jsonl")
  write_rejects(left_out, rejected)
  seconds = time.perf_counter() - started
  step = run.step if run else 0
  write_json(path, results(config, metrics, counts, command, seconds, step))

  checked = f"{seen} of them trained on" if trained else "not checked"
  lines = [
    f"{counts['groups']:,} groups evaluated, {counts['rejected']} rejected, "
    f"{counts['overlong']} overlong; loss: {loss.name if loss else 'none'}",
    f"prompts: {checked} ({note})",
    "",
    table(metrics),
    "",
    "Intervals: 95 %, bootstrap over prompts. Equal scores count 1/2; chance "
    "is 0.5.",
    f"length_only_accuracy: the {'longer' if longer_is_better else 'shorter'} "
    "completion is called better.",
    f"Written: {path}" + (f", {rejected}" if left_out else ""),
  ]
  if "accuracy" not in metrics:
    del lines[-2]
  return "\n".join(lines)


def table(metrics: dict[str, dict]) -> str:
  """One aligned line per metric: name, value, 95 % interval, n."""
  rows = [("metric", "value", "95 % interval", "n")]
  for name, entry in metrics.items():
    interval = ""
    if entry["low"] is not None:
      interval = f"[{entry['low']:.4f}, {entry['high']:.4f}]"
    number = "-" if entry["value"] is None else f"{entry['value']:.4f}"
    rows.append((name, number, interval, f"{entry['n']:,}"))
  wide = [max(len(row[i]) for row in rows) for i in range(4)]
  return "\n".join(
    f"{a:{wide[0]}}  {b:>{wide[1]}}  {c:{wide[2]}}  {d:>{wide[3]}}"
    for a, b, c, d in rows
  )


def _results_path(out: pathlib.Path) -> pathlib.Path:
  path = out if out.suffix == ".json" else out / "results.json"
  if path.name == "results.json" and (path.parent / "run.json").exists():
    raise UserError(
      f"--out={out}: {path} is where the training run of that folder keeps its "
      "results: choose another folder, or a name such as "
      f"{path.with_name('eval.json')}."
    )
  return path


def _training_prompts(run) -> tuple[set, bool, str]:
  """(keys of the prompts trained on, whether longer wins there, a note).

  As the run wrote them down. No keys: the note says why.
  """
  if run is None:
    return set(), True, "this model was not trained here"
  path = run.workdir / TRAINED_ON
  if not path.exists():
    return set(), True, f"{path} is not there"
  told = json.loads(path.read_text())
  keys = set(told["prompts"])
  return keys, told["longer_is_better"], f"{len(keys):,} training prompts"


def _asked(model) -> LossSpec | None:
  """Bradley-Terry; None for heads whose raw outputs are not their score."""
  if model.spec.head.kind in PUBLISHED:
    return None
  return LossSpec(COMPARISONS.loss, 0.0)


def _tokenize(model, records, rejects, data) -> tuple[Dataset, Task | None]:
  """The records as the run's main task reads them, else as comparisons."""
  tried, reading = [(None, COMPARISONS)], model.reading
  if model.run:
    task = read_tasks(model.run.config)[0]
    tried.insert(0, (task, task.supervision))
    reading = reading._replace(overlong=model.run.config.data.overlong)
  for task, supervision in tried:
    dataset = tokenize_records(records, model.tokenizer, reading, supervision)
    if dataset.groups:
      return dataset, task
  why = [r.reason for r in [*rejects, *dataset.rejects]]
  why += ["longer than a row"] * bool(dataset.overlong)
  raise UserError(
    f"{data}: none of {len(records) + len(rejects)} records can be evaluated. "
    f"First: {why[0] if why else 'there is none'}."
  )
