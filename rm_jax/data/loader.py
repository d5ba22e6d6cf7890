"""Records to batches: tokenise, grow trees, and read along the plan."""

import bisect
import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import grain
import numpy as np

from rm_jax.data.dropout import dropout_ids
from rm_jax.data.pack import Owners, find_owners, grow, lay
from rm_jax.data.plan import Plan, demand
from rm_jax.data.rejects import RecordError, Reject
from rm_jax.data.split import prompt_key
from rm_jax.data.state_rows import batch_rows, read_states
from rm_jax.data.supervise import supervise, supervise_for_scoring
from rm_jax.data.tokenize import encode_to_fit
from rm_jax.types import Batch, Record


class Reading(NamedTuple):
  """How text becomes tokens: stored with a model, the same for every use."""

  template: str
  read_at: str
  row_len: int
  overlong: str
  layout: str
  align: int
  pooling: str
  # What published models have otherwise, see `encode`.
  steps: str = "as_written"
  append: int = -1


def policy(reading: Reading) -> dict:
  """The part of a reading that changes scores: stored as fingerprint."""
  stored = {
    "template": reading.template,
    "read_at": reading.read_at,
    "pooling": reading.pooling,
  }
  # Nothing that a run of ours could have otherwise.
  if reading.steps != "as_written":
    stored["steps"] = reading.steps
  if reading.append >= 0:
    stored["append"] = reading.append
  return stored


class Supervision(NamedTuple):
  """What a loss needs from the data; None in place of it: scores only."""

  loss: str
  kind: str
  per: str
  margin: str
  ties: bool  # tied completions are comparisons too
  attributes: tuple  # names of the ratings to predict; (): one number
  language: float
  task: int  # its number in a run with several


# Which of two completions is better: what every model can be asked.
COMPARISONS = Supervision(
  loss="bradley_terry",
  kind="pairwise",
  per="group",
  margin="none",
  ties=False,
  attributes=(),
  language=0.0,
  task=0,
)


class Dataset(NamedTuple):
  """Tokenised groups with what the planner needs, and what was left out."""

  groups: Any  # sequence of TokenizedGroup; `record` counts the records read
  demands: list  # of Demand, with the pieces of each group's tree
  prompts: list  # of str, the prompt key of each group
  rejects: list  # of Reject
  overlong: dict  # index of a record longer than a row -> its Reject
  tokens_unshared: int
  tokens_shared: int
  longer: tuple  # (comparisons whose longer side was chosen, all of them)
  states: Any = None  # States of the frozen layers; None: to be computed


def tokenize_records(
  records: Iterable[Record],
  tokenizer,
  reading: Reading,
  supervision: Supervision | None,
) -> Dataset:
  """Every usable record as a TokenizedGroup; the others counted by reason."""
  rejects, overlong, prompts = [], {}, []
  groups = list(
    token_groups(
      records, tokenizer, reading, supervision, rejects, overlong, prompts
    )
  )
  return with_demands(groups, reading, rejects, overlong, prompts)


def token_groups(
  records, tokenizer, reading, supervision, rejects, overlong, prompts
):
  """Yields a TokenizedGroup per usable record, one record at a time.

  Args:
    rejects: list that takes the Reject of each record that cannot be used.
    overlong: dict that takes, by record number, those longer than a row.
    prompts: list that takes the prompt key of each group.
  """
  r = reading
  for index, record in enumerate(records):
    try:
      encoded = encode_to_fit(
        record,
        tokenizer,
        read_at=r.read_at,
        template=r.template,
        row_len=r.row_len,
        policy=r.overlong,
        steps=r.steps,
        append=r.append,
        asks=r.pooling == "prompt_and_last",
      )
      if encoded is None:
        overlong[index] = overlong_reject(record, r.row_len)
        continue
      if supervision is None:
        group = supervise_for_scoring(
          encoded, record, index=index, pooling=r.pooling
        )
      else:
        group = supervise(
          encoded,
          record,
          index=index,
          pooling=r.pooling,
          **supervision._asdict(),
        )
    except RecordError as error:
      rejects.append(error.reject)
      continue
    prompts.append(prompt_key(record))
    yield group


def with_demands(groups, reading, rejects, overlong, prompts) -> Dataset:
  """The Dataset of these groups: their trees grown, their tokens counted."""
  demands, unshared, longer, compared = [], 0, 0.0, 0
  for i in range(len(groups)):
    group = groups[i]
    pieces = grow(
      group,
      layout=reading.layout,
      row_len=reading.row_len,
      align=reading.align,
    )
    demands.append(demand(group, pieces))
    lengths = np.asarray([len(t) for t in group.tokens])
    unshared += int(lengths.sum())
    sides = lengths[group.comparisons[group.preferences > 0.5]]
    compared += len(sides)
    # Equal lengths count one half.
    longer += float((np.sign(sides[:, 0] - sides[:, 1]) + 1).sum() / 2)
  return Dataset(
    groups=groups,
    demands=demands,
    prompts=prompts,
    rejects=rejects,
    overlong=overlong,
    tokens_unshared=unshared,
    tokens_shared=sum(p.useful() for d in demands for p in d.pieces),
    longer=(longer, compared),
  )


class Joined(NamedTuple):
  """Several sequences of groups as one; records numbered through."""

  parts: tuple  # of sequences of TokenizedGroup
  firsts: tuple  # where each begins; the last entry is the total
  records: tuple  # record number that each part's 0 becomes

  def __len__(self) -> int:
    return self.firsts[-1]

  def __getitem__(self, index: int):
    if not 0 <= index < len(self):
      raise IndexError(index)
    part = bisect.bisect_right(self.firsts, index) - 1
    group = self.parts[part][index - self.firsts[part]]
    return group._replace(record=group.record + self.records[part])

  def __iter__(self):
    return map(self.__getitem__, range(len(self)))


def join(parts: list[Dataset]) -> Dataset:
  """One Dataset of several, in order; groups stay where they are stored."""
  if len(parts) == 1:
    return parts[0]
  counts = [len(p.groups) for p in parts]
  records = [
    len(p.groups) + len(p.rejects) + len(p.overlong) for p in parts[:-1]
  ]
  starts = tuple(itertools.accumulate(records, initial=0))
  return Dataset(
    groups=Joined(
      tuple(p.groups for p in parts),
      tuple(itertools.accumulate(counts, initial=0)),
      starts,
    ),
    demands=[d for p in parts for d in p.demands],
    prompts=[key for p in parts for key in p.prompts],
    rejects=[r for p in parts for r in p.rejects],
    overlong={
      start + index: reject
      for start, p in zip(starts, parts, strict=True)
      for index, reject in p.overlong.items()
    },
    tokens_unshared=sum(p.tokens_unshared for p in parts),
    tokens_shared=sum(p.tokens_shared for p in parts),
    longer=tuple(map(sum, zip(*(p.longer for p in parts), strict=True))),
  )


def overlong_reject(record: Record, row_len: int) -> Reject:
  """The reject of a record whose prompt and completion outgrow a row."""
  return Reject(
    record.source or "record",
    record.line,
    f"prompt and one completion are longer than a row of {row_len} tokens: "
    "raise config.data.row_len or set config.data.overlong='cut_prompt'",
  )


def lay_step(
  data: Dataset,
  plan: Plan,
  step: int,
  *,
  blocks: list[int] | None = None,
  dropout: int | None = None,
) -> tuple[Batch, Owners, dict]:
  """One batch of the plan, whose scores stand where, and its token counts.

  Owners and counts are of the whole batch.

  Args:
    blocks: lay only these, in this order, as one of several hosts does; no
      group of another block is read. None: all.
    dropout: seed of the dropout masks. None: nothing is dropped.
  """
  s, g = plan.steps[step], plan.geometry
  demands = [data.demands[p.group] for p in s.places]
  counts = {
    "groups": len(s.places),
    "useful_tokens": sum(p.useful() for d in demands for p in d.pieces),
    "computed_tokens": g.blocks * s.rows * g.row_len,
  }
  owners = find_owners([d.completions for d in demands], s.places, g)
  own = range(g.blocks) if blocks is None else blocks
  at = {block: n for n, block in enumerate(own)}
  places = [p._replace(block=at[p.block]) for p in s.places if p.block in at]
  groups = [data.groups[p.group] for p in places]
  pieces = [data.demands[p.group].pieces for p in places]
  shape = dict(rows=s.rows, geometry=g._replace(blocks=len(own)))
  batch, _ = lay(groups, pieces, places, **shape)
  if data.states is not None:
    states, firsts = data.states
    rows = batch_rows(groups, pieces, places, firsts, **shape)
    batch = batch._replace(hidden=read_states(states, rows))
  if dropout is not None:
    ids = dropout_ids(groups, pieces, places, seed=dropout, step=step, **shape)
    batch = batch._replace(dropout_ids=ids)
  return batch, owners, counts


def open_loader(
  data: Dataset,
  plan: Plan,
  *,
  blocks: list[int] | None,
  position: dict | None,
  dropout: int | None = None,
):
  """An iterator of (batch of this host, owners, counts) along the plan.

  Args:
    blocks: those of this host; None: all, see `lay_step`.
    position: of `iterator.get_state()`, a JSON object that does not depend on
      the number of hosts; None starts at the first train step.
    dropout: seed of the dropout masks; None: nothing is dropped.
  """

  def read(step):
    return lay_step(data, plan, int(step), blocks=blocks, dropout=dropout)

  dataset = grain.MapDataset.range(len(plan.steps)).map(read)
  options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
  iterator = iter(dataset.to_iter_dataset(options))
  if position is not None:
    iterator.set_state(position)
  return iterator
