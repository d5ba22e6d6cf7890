"""A data set in, a report out: what is wrong with it, before step 0."""

import contextlib
import itertools
import json
import pathlib

from tqdm import tqdm

from rm_jax.data.doctor.findings import text_findings
from rm_jax.data.doctor.overlap import index_prompts
from rm_jax.data.doctor.report import Report, html_report, json_report
from rm_jax.data.doctor.report import text_report as text_of
from rm_jax.data.doctor.suggest import allowed, for_loss, suggest
from rm_jax.data.doctor.survey import survey
from rm_jax.data.rejects import Reject
from rm_jax.data.sources import read_records
from rm_jax.types import UserError


def diagnose(
  data: str,
  *,
  against: str,
  model: str,
  row_len: int,
  kind: str,
  template: str,
  read_at: str,
  loss: str,
  out: str,
  max_records: int,
  command: str,
) -> str:
  """Returns the report as text; writes it as HTML and JSON into `out`.

  Reads the data once for the text, and again with a tokenizer. Memory holds
  hashes and counters, never the texts.

  Args:
    data: what `read_records` reads.
    against: another data set, for contamination; "": none.
    model: where a tokenizer is, as `load_tokenizer`; "": text checks only.
    row_len, template, read_at: how training would read the text.
    kind: of `read_records`.
    loss: its rejects are counted; "": that of the suggestion.
    out: folder for doctor.html, doctor.json, rejects.jsonl; "": none.
    max_records: read the first so many; 0: all.
    command: for the report.

  Raises:
    UserError: no record at all, an unknown loss, a tokenizer that is missing.
  """
  if loss and not model:
    raise UserError(
      f"--loss={loss} is tried on tokens: add --model, such as --model=smollm2."
    )
  index = None
  if against:
    others = _read(against, kind, max_records, "other data set")
    index = index_prompts(x for x in others if not isinstance(x, Reject))
    if not index.completions | index.prompts:
      raise UserError(f"{against} holds no usable record to compare with.")
  folder = pathlib.Path(out) if out else None
  with _rejects_file(folder) as reject:
    items = _watch(_read(data, kind, max_records, "text"), reject)
    found = survey(items, root=data, against=index)
    _check_any(found, data)
    findings = text_findings(found)
    suggestion = suggest(found, source=data, kind=kind)
    if model:
      records = (
        x
        for x in _read(data, kind, max_records, "tokens")
        if not isinstance(x, Reject)
      )
      more, suggestion = _tokens(
        records,
        suggestion,
        reject,
        root=data,
        model=model,
        loss=loss,
        reading=dict(row_len=row_len, template=template, read_at=read_at),
      )
      findings += more
  report = Report(
    data=data,
    against=against,
    model=model,
    command=command,
    records=found.counts["records"],
    rejects=found.counts["rejects"],
    findings=tuple(findings),
    suggestion=suggestion,
  )
  if folder is not None:
    (folder / "doctor.html").write_text(html_report(report), "utf-8")
    text = json.dumps(json_report(report), indent=1, ensure_ascii=False)
    (folder / "doctor.json").write_text(text + "\n", "utf-8")
  return text_of(report)


def _read(place, kind, limit, name):
  """Yields what `read_records` does, behind a bar where somebody looks."""
  items = read_records(place, kind=kind)
  if limit:
    items = itertools.islice(items, limit)
  return tqdm(items, desc=name, unit=" records", disable=None)


def _watch(items, reject):
  for item in items:
    if isinstance(item, Reject):
      reject(item)
    yield item


@contextlib.contextmanager
def _rejects_file(folder):
  """A function that writes a Reject to rejects.jsonl, or drops it."""
  if folder is None:
    yield lambda item: None
    return
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / "rejects.jsonl", "w", encoding="utf-8") as file:
    yield lambda item: file.write(json.dumps(item._asdict()) + "\n")


def _check_any(found, data) -> None:
  if found.counts["records"]:
    return
  if not found.counts["rejects"]:
    raise UserError(f"{data} holds no records, expected at least one row.")
  name, (count, places) = max(found.hits.items(), key=lambda x: x[1][0])
  raise UserError(
    f"{data} holds no usable record, expected at least one: "
    f"{found.counts['rejects']} rows are rejected, {count} of them as "
    f"{places[0]}: {name.removeprefix('reject: ')}"
  )


def _tokens(records, suggestion, reject, *, root, model, loss, reading):
  """Returns the findings of the token level and the suggestion with row_len."""
  # Losses are jax: text checks alone answer without it.
  from rm_jax.config import base
  from rm_jax.data.doctor.template import template_findings
  from rm_jax.data.doctor.tokens import (
    fitting_row_len,
    token_findings,
    tokenized,
  )
  from rm_jax.data.tokenizers import load_tokenizer
  from rm_jax.losses import KIND, PARAMETERS
  from rm_jax.train.tasks import read_tasks

  if loss and loss not in KIND:
    raise UserError(f"--loss={loss} is not known. Known: {sorted(KIND)}.")
  if loss:
    suggestion = for_loss(loss, KIND[loss], PARAMETERS[loss], suggestion)
  tokenizer = load_tokenizer(model)
  config = base()
  keys = {f"data.{key}": value for key, value in reading.items()}
  with config.unlocked():
    for key, value in (suggestion | keys).items():
      config.update_from_flattened_dict({key: value})
  task = read_tasks(config)[0]
  supervision = task.supervision if suggestion else None
  found = tokenized(
    records, tokenizer, task.reading, supervision, root=root, rejects=reject
  )
  findings = template_findings(tokenizer, task.reading)
  findings += token_findings(found, task.reading, supervision)
  if suggestion and found.tables["longest"]:
    refused = found.counts["loss rejects"]
    refused /= max(refused + found.counts["groups"], 1)
    most = max(suggestion["data.max_reject_share"], allowed(refused))
    suggestion = suggestion | {
      "data.template": reading["template"],
      "data.read_at": reading["read_at"],
      "data.row_len": fitting_row_len(found),
      "data.overlong": "drop",
      "data.max_reject_share": most,
    }
  return findings, suggestion
