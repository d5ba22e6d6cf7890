"""The training and evaluation sets of a run, from places to token groups."""

import itertools
import pathlib
from typing import NamedTuple

from rm_jax.data.cache import (
  auto_folder,
  cache_key,
  source_digests,
  tokenize_cached,
)
from rm_jax.data.loader import Dataset, join, tokenize_records
from rm_jax.data.plan import Part, Plan, make_eval_plan, make_plan
from rm_jax.data.rejects import Reject, check_share, write_rejects
from rm_jax.data.sources import read_records
from rm_jax.data.split import is_held_out, is_used, prompt_key
from rm_jax.places import local_path
from rm_jax.train.checkpoint import write_json
from rm_jax.train.tasks import Task
from rm_jax.types import UserError

SIDES = ("train", "test")
TRAINED_ON = "trained_on.json"


class Sets(NamedTuple):
  """The tokenised training and evaluation sets of a run, all tasks in one."""

  train: Dataset
  test: Dataset
  parts: list  # of Part: runs of training groups drawn with one weight
  longer_is_better: list  # per task: the longer completion is mostly chosen
  counts: dict  # what was left out, by reason, and what sharing saved


class Unread(NamedTuple):
  """What a place holds that is not read, and how many rows it has."""

  rejects: list
  total: int
  unused: int  # records beyond config.data.train_share


def load_sets(config, tokenizer, tasks: list[Task], workdir) -> Sets:
  """Reads, splits and tokenises the data; no prompt is on both sides.

  Raises:
    UserError: too many rejects, a shared prompt, nothing left on a side.
  """
  every, train, test, parts, unused = [], [], [], [], 0
  rejected = pathlib.Path(workdir) / "rejects.jsonl"
  for place, unread in _check_sides(config, tasks).items():
    every += unread.rejects
    unused += unread.unused
    write_rejects(every, rejected)
    if not unread.total:
      raise UserError(f"{place} holds no records, expected at least one row.")
    check_share(
      unread.rejects,
      unread.total,
      max_reject_share=config.data.max_reject_share,
    )
  counts = {"unreadable": len(every), "unused": unused}
  for task in tasks:
    for side, out in zip(SIDES, (train, test), strict=True):
      found = _side(config, tokenizer, task, side, parts)
      every += found.rejects + list(found.overlong.values())
      write_rejects(every, rejected)
      _check_side(config, task, side, found, rejected)
      prefix = f"{task.name}/" if task.name else ""
      counts |= {
        f"{prefix}{side}_groups": len(found.groups),
        f"{prefix}{side}_rejected": len(found.rejects),
        f"{prefix}{side}_overlong": len(found.overlong),
        f"{prefix}{side}_tokens_unshared": found.tokens_unshared,
        f"{prefix}{side}_tokens_shared": found.tokens_shared,
      }
      out.append(found)
  longer = [d.longer[0] >= d.longer[1] / 2 for d in train]
  return Sets(join(train), join(test), parts, longer, counts)


def train_plan(config, demands, parts) -> Plan:
  """Every batch of a run; demands and parts as of `make_plan`."""
  d = config.data
  return make_plan(
    demands,
    parts=parts,
    num_steps=config.num_train_steps,
    batch=d.batch,
    groups_per_batch=d.groups_per_batch,
    rows_per_batch=d.rows_per_batch,
    blocks=d.blocks,
    row_len=d.row_len,
    layout=d.layout,
    align=d.align,
    seed=config.seed,
    shuffle=d.shuffle,
  )


def dropout_seed(config) -> int | None:
  """What the train step's dropout masks are drawn from; None: no dropout."""
  return config.seed if config.model.dropout else None


def score_plan(config, demands) -> Plan:
  """Batches that hold every group once."""
  d = config.data
  return make_eval_plan(
    demands,
    blocks=d.blocks,
    rows=config.evals.rows,
    row_len=d.row_len,
    layout=d.layout,
    align=d.align,
  )


def write_trained_on(workdir, sets: Sets) -> None:
  """Writes trained_on.json: what an evaluation must not see again.

  The keys of all training prompts, and whether the longer completion of a
  comparison of the main task was mostly chosen.
  """
  write_json(
    pathlib.Path(workdir) / TRAINED_ON,
    {
      "longer_is_better": sets.longer_is_better[0],
      "prompts": sorted(set(sets.train.prompts)),
    },
  )


def _side_of(config, task: Task, record, evaluation: bool) -> str:
  """The side of a record; "" beyond the share of the data to train on.

  Args:
    evaluation: it is of the task's evaluation file, where it has one.
  """
  d, held = config.data, evaluation
  if not task.eval_source:
    held = is_held_out(record, share=d.eval_share, seed=0, by=d.split_by)
  if held or is_used(record, share=d.train_share, seed=0, by=d.split_by):
    return SIDES[held]
  return ""


def _records(config, task: Task, place: str, side: str):
  """Yields the records of one side, one at a time."""
  for item in read_records(place, kind=task.kind):
    if isinstance(item, Reject):
      continue
    if _side_of(config, task, item, side == SIDES[1]) == side:
      yield item


def _check_sides(config, tasks: list[Task]) -> dict[str, Unread]:
  """{place: Unread}; a first pass that keeps no text.

  Raises:
    UserError: a prompt that one task evaluates on trains it or another.
  """
  d, train, test, out = config.data, set(), {}, {}
  for task in tasks:
    name = f"config.tasks.{task.name}" if task.name else "config.data"
    places = [(place, False) for place, _ in task.sources]
    places += [(task.eval_source, True)] if task.eval_source else []
    for place, evaluation in places:
      key = f"{name}.{'eval_source' if evaluation else 'source'}={place}"
      rejects, total, unused = [], 0, 0
      for item in read_records(place, kind=task.kind):
        total += 1
        if isinstance(item, Reject):
          rejects.append(item)
          continue
        side = _side_of(config, task, item, evaluation)
        unused += not side
        if side == "train":
          train.add(prompt_key(item))
        elif side == "test" and (task.eval_source or d.split_by == "prompt"):
          # A split by annotator shares prompts, that is what was asked for.
          test.setdefault(prompt_key(item), key)
      out[place] = Unread(rejects, total, unused)
  shared = train & test.keys()
  if shared:
    raise UserError(
      f"{len(shared)} prompts of {test[min(shared)]} are in training too: a "
      "model would be evaluated on its training prompts. Remove them, or leave "
      "eval_source empty to split by prompt."
    )
  return out


def _side(config, tokenizer, task: Task, side: str, parts: list) -> Dataset:
  """One side of one task; training sources add to `parts`."""
  places = task.sources
  if side == "test":
    places = [(place, None) for place, _ in task.sources]
    if task.eval_source:
      places = [(task.eval_source, None)]
  found = []
  first = sum(part.count for part in parts)
  weights = [weight for _, weight in places if weight is not None]
  for place, weight in places:
    records, left = _records(config, task, place, side), None
    if side == "test" and config.evals.max_groups:
      left = max(config.evals.max_groups - sum(map(_size, found)), 0)
      records = itertools.islice(records, left)
    data = _tokenize(config, tokenizer, task, side, place, records, left)
    found.append(data)
    if side == "train" and weight is not None and data.groups:
      share = task.weight * weight / sum(weights)
      parts.append(Part(first, len(data.groups), share))
      first += len(data.groups)
  whole = join(found)
  if side == "train" and not weights and len(whole.groups):
    parts.append(Part(first, len(whole.groups), task.weight))
  return whole


def _tokenize(config, tokenizer, task, side, place, records, left) -> Dataset:
  """The token groups of one place, in memory or in a cache of config.data."""
  how = (tokenizer, task.reading, task.supervision)
  d = config.data
  # A bucket or the Hub would be copied for its digest alone.
  if not d.cache or (d.cache == "auto" and local_path(place) is None):
    return tokenize_records(records, *how)
  key = cache_key(
    tokenizer,
    tokenizer.chat_template,
    task.reading,
    task.supervision,
    source_digests(place),
  )
  # What decides which records of the place are on this side.
  key["records"] = {
    "kind": task.kind,
    "side": side,
    "split": None if task.eval_source else [d.split_by, d.eval_share],
    "share": d.train_share if side == "train" else 1.0,
    "first": left,
  }
  if d.cache == "auto":
    # Rejects name their file: a copy of it elsewhere is tokenised anew.
    here = {"place": str(local_path(place).resolve())}
    return tokenize_cached(auto_folder(key | here), key, records, *how)
  name = f"{task.name or 'main'}-{side}"
  if len(task.sources) > 1 and place != task.eval_source:
    name += f"-{[own for own, _ in task.sources].index(place)}"
  return tokenize_cached(f"{d.cache.rstrip('/')}/{name}", key, records, *how)


def _size(data: Dataset) -> int:
  """How many records were read."""
  return len(data.groups) + len(data.rejects) + len(data.overlong)


def _check_side(config, task, side, data: Dataset, rejected) -> None:
  check_share(
    data.rejects, _size(data), max_reject_share=config.data.max_reject_share
  )
  if not len(data.groups):
    left_out = data.rejects + list(data.overlong.values())
    first = f" First: {left_out[0].reason}." if left_out else ""
    places = ",".join(place for place, _ in task.sources)
    raise UserError(
      f"the {side} side of {places} has no usable record of {_size(data)}."
      f"{first} See {rejected}, or change config.data.eval_share."
    )
