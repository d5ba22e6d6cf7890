"""A run's own data to look at: a short packed row, groups as trees."""

import itertools
import math
from typing import NamedTuple

import numpy as np

from rm_jax.data.loader import Dataset, lay_step, tokenize_records
from rm_jax.data.pack import grow
from rm_jax.data.plan import demand, make_eval_plan
from rm_jax.data.sources import read_records
from rm_jax.data.split import prompt_key
from rm_jax.evals.runs import Scores
from rm_jax.train.tasks import read_tasks
from rm_jax.types import Record, UserError

READABLE_COLUMNS = 80  # of a packed row: token texts still fit
SAMPLE = 256  # records looked at for a short row
SCANNED = 20_000  # records of a place looked at for an example
ROW = ("tokens", "group_ids", "branch_ids", "positions", "fork_positions")


class Branch(NamedTuple):
  """One completion of a tree: what it does not share, and its score."""

  text: str
  fork: int  # trunk tokens that it sees
  tokens: int  # of its own
  score: float
  gold: float  # NaN: unknown
  said: str  # what the data say of it; "": nothing


class Example(NamedTuple):
  """One group of the evaluation set as a tree."""

  trunk: str
  tokens: int  # of the trunk
  branches: tuple  # of Branch, the highest score first
  right: float  # comparisons in the right order, a tie counts 1/2
  compared: int


def example_groups(
  config, tokenizer, scores: Scores, *, count: int
) -> list[Example]:
  """The first `count` groups of the evaluation set, as trees with scores.

  Their records are read again. One stands for a group if its prompt has the
  same key and its completions as many tokens as when they were scored, so data
  that changed since give fewer examples, not wrong ones.

  Raises:
    UserError: the data are not where they were.
  """
  task = read_tasks(config)[0]
  waiting: dict[str, list] = {}
  for n in np.unique(scores.group)[:count]:
    waiting.setdefault(str(scores.prompt[n]), []).append(int(n))
  found = {}
  places = [place for place, _ in task.sources]
  for place in [task.eval_source] if task.eval_source else places:
    records = read_records(place, kind=task.kind)
    for record in itertools.islice(records, SCANNED):
      if not any(waiting.values()):
        break
      if not isinstance(record, Record):
        continue
      numbers = waiting.get(prompt_key(record))
      if not numbers:
        continue
      how = (tokenizer, task.reading, task.supervision)
      for group in tokenize_records([record], *how).groups:
        lengths = [len(tokens) for tokens in group.tokens]
        for n in numbers:
          if scores.length[scores.group == n].tolist() == lengths:
            found[n] = _example(group, tokenizer, scores, n)
            numbers.remove(n)
            break
  return [found[n] for n in sorted(found)]


def _example(group, tokenizer, scores: Scores, n: int) -> Example:
  """The tree of a group, whatever the layout it was scored in."""
  longest = sum(len(tokens) for tokens in group.tokens)
  (tree,) = grow(group, layout="shared", row_len=longest, align=1)
  mine = np.flatnonzero(scores.group == n)
  branches = {b.completion: (b.fork, b.length) for b in tree.branches}
  if tree.holds >= 0:
    branches[tree.holds] = (tree.trunk, 0)
  made = [
    Branch(
      tokenizer.decode(group.tokens[k][fork:]),
      fork,
      length,
      float(scores.scores[mine[k]]),
      float(scores.gold[mine[k]]),
      _said(group, k),
    )
    for k, (fork, length) in branches.items()
  ]
  own = np.isin(scores.chosen, mine)
  chosen = scores.scores[scores.chosen[own]]
  rejected = scores.scores[scores.rejected[own]]
  return Example(
    tokenizer.decode(group.tokens[tree.source][: tree.trunk]),
    tree.trunk,
    tuple(sorted(made, key=lambda b: -b.score)),
    float(np.sum(chosen > rejected) + np.sum(chosen == rejected) / 2),
    int(own.sum()),
  )


def _said(group, k: int) -> str:
  """What the data say of completion k."""
  if len(group.tokens) == 2 and len(group.comparisons) == 1:
    if group.preferences[0] == 0.5:
      return "tied"
    return "chosen" if group.comparisons[0, 0] == k else "rejected"
  if len(set(np.asarray(group.ranks).tolist())) > 1:
    return f"rank {group.ranks[k]}"
  labels = group.labels[k][group.weights[k] > 0]
  if len(labels) == 1 and math.isfinite(labels[0]):
    return f"label {labels[0]:g}"
  return ""


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
  row = {key: getattr(batch, key)[0, 0] for key in ROW}
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
