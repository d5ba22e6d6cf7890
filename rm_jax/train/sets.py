"""The training and evaluation sets of a run, from files to token groups."""

from typing import NamedTuple

from rm_jax.data.loader import (
  Dataset,
  Reading,
  Supervision,
  overlong_reject,
  tokenize_records,
)
from rm_jax.data.rejects import check_share, write_rejects
from rm_jax.data.sources import read_records
from rm_jax.data.split import overlap, split_by_prompt
from rm_jax.losses import KIND
from rm_jax.objectives import LossSpec, check_fit
from rm_jax.types import Record, UserError


class Sets(NamedTuple):
  """The tokenised training and evaluation sets of a run."""

  train: Dataset
  test: Dataset
  test_records: list
  counts: dict  # what was left out, by reason, and what sharing saved


def read_spec(config) -> tuple[Reading, Supervision]:
  """How this config reads text, and what its loss asks of a record."""
  reading = Reading(
    template=config.data.template,
    read_at=config.data.read_at,
    row_len=config.data.row_len,
    overlong=config.data.overlong,
    layout=config.data.layout,
    align=config.data.align,
    pooling=config.model.pooling,
  )
  # Checks the name before KIND is asked for it.
  loss = LossSpec(config.loss.name, config.loss.language_coefficient)
  check_fit(loss, head=config.model.head, pooling=config.model.pooling)
  name = loss.name
  supervision = Supervision(
    loss=name,
    kind=KIND[name],
    per=config.loss.per,
    margin=config.loss.margin,
    language=config.loss.language_coefficient,
  )
  return reading, supervision


def load_sets(config, tokenizer, reading, supervision, workdir) -> Sets:
  """Reads, splits and tokenises the data; no prompt is on both sides.

  Raises:
    UserError: too many rejects, a shared prompt, nothing left on a side.
  """
  d = config.data
  rejected = workdir / "rejects.jsonl"

  def read(path):
    items = list(read_records(path, kind=d.kind))
    records = [x for x in items if isinstance(x, Record)]
    unread = [x for x in items if not isinstance(x, Record)]
    every.extend(unread)
    write_rejects(every, rejected)
    if not items:
      raise UserError(f"{path} holds no records, expected at least one row.")
    check_share(unread, len(items), max_reject_share=d.max_reject_share)
    return records

  every = []
  records = read(d.source)
  if d.eval_source:
    test = read(d.eval_source)
    shared = overlap(records, test)
    if shared:
      raise UserError(
        f"{shared} prompts of config.data.eval_source={d.eval_source} are in "
        f"config.data.source={d.source} too: a model would be evaluated on its "
        "training prompts. Remove them, or leave eval_source empty to split "
        "one file by prompt."
      )
  else:
    records, test = split_by_prompt(records, share=d.eval_share, seed=0)
  if config.evals.max_groups:
    test = test[: config.evals.max_groups]
  counts, out = {"unreadable": len(every)}, []
  for name, rows in (("train", records), ("test", test)):
    data = tokenize_records(rows, tokenizer, reading, supervision)
    rejects = data.rejects + [
      overlong_reject(rows[i], d.row_len) for i in data.overlong
    ]
    every += rejects
    write_rejects(every, rejected)
    check_share(data.rejects, len(rows), max_reject_share=d.max_reject_share)
    if not data.groups:
      first = f" First: {rejects[0].reason}." if rejects else ""
      raise UserError(
        f"the {name} side of {d.source} has no usable record of {len(rows)}."
        f"{first} See {rejected}, or change config.data.eval_share."
      )
    counts |= {
      f"{name}_groups": len(data.groups),
      f"{name}_rejected": len(data.rejects),
      f"{name}_overlong": len(data.overlong),
      f"{name}_tokens_unshared": data.tokens_unshared,
      f"{name}_tokens_shared": data.tokens_shared,
    }
    out.append(data)
  return Sets(*out, test, counts)
