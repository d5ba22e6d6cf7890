"""Records to batches: tokenise, grow trees, and read along the plan."""

from typing import NamedTuple

import grain
import numpy as np

from rm_jax.data.pack import Owners, grow, lay
from rm_jax.data.plan import Plan, demand
from rm_jax.data.rejects import RecordError, Reject
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


def policy(reading: Reading) -> dict:
  """The part of a reading that changes scores: stored as fingerprint."""
  return {
    "template": reading.template,
    "read_at": reading.read_at,
    "pooling": reading.pooling,
  }


class Supervision(NamedTuple):
  """What a loss needs from the data; None in place of it: scores only."""

  loss: str
  kind: str
  per: str
  margin: str
  language: float


class Dataset(NamedTuple):
  """Tokenised groups with their trees, and what was left out and why."""

  groups: list  # of TokenizedGroup; `record` is the index into the records
  pieces: list  # of tuples of Piece
  demands: list  # of Demand
  rejects: list  # of Reject
  overlong: list  # indices of records longer than a row
  tokens_unshared: int
  tokens_shared: int


def tokenize_records(
  records: list[Record],
  tokenizer,
  reading: Reading,
  supervision: Supervision | None,
) -> Dataset:
  """Every usable record as a TokenizedGroup; the others counted by reason."""
  groups, pieces, rejects, overlong = [], [], [], []
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
      )
      if encoded is None:
        overlong.append(index)
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
    groups.append(group)
    pieces.append(
      grow(group, layout=r.layout, row_len=r.row_len, align=r.align)
    )
  return Dataset(
    groups=groups,
    pieces=pieces,
    demands=[demand(g, p) for g, p in zip(groups, pieces, strict=True)],
    rejects=rejects,
    overlong=overlong,
    tokens_unshared=sum(len(t) for g in groups for t in g.tokens),
    tokens_shared=sum(p.useful() for parts in pieces for p in parts),
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
  data: Dataset, plan: Plan, step: int
) -> tuple[Batch, Owners, dict]:
  """One batch of the plan, whose scores stand where, and its token counts."""
  s = plan.steps[step]
  ids = [p.group for p in s.places]
  batch, owners = lay(
    [data.groups[i] for i in ids],
    [data.pieces[i] for i in ids],
    list(s.places),
    rows=s.rows,
    geometry=plan.geometry,
  )
  useful = int(np.count_nonzero(batch.group_ids))
  counts = {
    "groups": len(ids),
    "useful_tokens": useful,
    "computed_tokens": int(batch.group_ids.size),
  }
  return batch, owners, counts


def host_blocks(batch: Batch, *, host: int, hosts: int) -> Batch:
  """The blocks of one host: a contiguous run of them, every host as many."""
  count = batch.tokens.shape[0] // hosts
  part = slice(host * count, (host + 1) * count)
  return Batch(*(x[part] for x in batch))


def open_loader(
  data: Dataset, plan: Plan, *, host: int, hosts: int, position: dict | None
):
  """An iterator of (batch of this host, owners, counts) along the plan.

  Args:
    position: of `iterator.get_state()`, a JSON object that does not depend on
      the number of hosts; None starts at the first train step.
  """

  def read(step):
    batch, owners, counts = lay_step(data, plan, int(step))
    return host_blocks(batch, host=host, hosts=hosts), owners, counts

  dataset = grain.MapDataset.range(len(plan.steps)).map(read)
  options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
  iterator = iter(dataset.to_iter_dataset(options))
  if position is not None:
    iterator.set_state(position)
  return iterator
