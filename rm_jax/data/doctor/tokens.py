"""What is wrong with a data set once a tokenizer and a loss read it."""

import collections
import itertools
from typing import NamedTuple

import numpy as np

from rm_jax.data.doctor.findings import STOPS_A_RUN, Finding
from rm_jax.data.doctor.survey import hit, hit_reason, place
from rm_jax.data.doctor.text import text_of
from rm_jax.data.loader import Reading, Supervision, tokenize_records
from rm_jax.data.plan import make_eval_plan
from rm_jax.data.rejects import RecordError
from rm_jax.data.templates import render_group, template_name
from rm_jax.data.tokenize import encode, end_ids, fit, kept_prefix, tokenize

CHUNK = 512  # records that are packed together: bounds the memory
ROWS = 8  # of a packed block
QUANTILES = (0.5, 0.9, 0.99, 1.0)
KEEP = 0.995  # share of records that the suggested row_len holds
LEAST_ROW = 128  # tokens


class Tokens(NamedTuple):
  """What one tokenised pass leaves: counters, no tokens."""

  root: str
  counts: collections.Counter
  hits: dict  # name -> [count, examples]
  tables: dict  # name -> Counter of lengths
  seen: dict  # "reasons": pattern of a reject -> the first such reason


# ---------------------------------------------------------------- the pass


def tokenized(
  records, tokenizer, reading: Reading, supervision, *, root, rejects
) -> Tokens:
  """Returns Tokens of a stream of records.

  Args:
    records: Records, in any order.
    tokenizer: a fast one.
    reading: how text becomes tokens; `overlong` is tried both ways.
    supervision: what the loss asks for; None: any record will do.
    root: as in `survey`.
    rejects: called with the Reject of each record that the loss refuses.
  """
  found = Tokens(
    str(root),
    collections.Counter(),
    {},
    collections.defaultdict(collections.Counter),
    collections.defaultdict(dict),
  )
  stream = iter(records)
  while chunk := list(itertools.islice(stream, CHUNK)):
    for record in chunk:
      add_lengths(found, record, tokenizer, reading)
    add_packed(found, chunk, tokenizer, reading, supervision, rejects)
  return found


def add_lengths(found, record, tokenizer, reading) -> None:
  where = place(found, record.source, record.line)
  found.counts["records"] += 1
  how = dict(read_at=reading.read_at, template=reading.template)
  try:
    encoded = encode(record, tokenizer, **how)
  except RecordError:
    return  # counted by add_packed, with all that the loss refuses
  lengths = [len(ids) for ids in encoded.tokens]
  found.counts["completions"] += len(lengths)
  found.tables["longest"][max(lengths)] += 1
  for start, length in zip(encoded.starts, lengths, strict=True):
    if start >= 0:
      found.tables["prompt"][start] += 1
      found.tables["completion"][length - start] += 1
  ends = end_ids(tokenizer)
  found.counts["encoded"] += 1
  for name, count in (
    ("no_end_token", sum(int(ids[-1]) not in ends for ids in encoded.tokens)),
    ("identical_tokens", identical_tokens(record, encoded)),
    ("first_token", first_token(record, encoded)),
    ("boundary_shift", shifted(record, encoded, tokenizer, reading)),
  ):
    if count:
      hit(found, name, where, count)
  excess = max(lengths) - reading.row_len
  if excess > 0:
    hit(found, "overlong", where)
    keep = kept_prefix(encoded, record, tokenizer, template=reading.template)
    fitted = fit(
      encoded, row_len=reading.row_len, policy="cut_prompt", keep=keep
    )
    if fitted is not None:
      found.tables["cut"][excess] += 1


def identical_tokens(record, encoded) -> int:
  """Counts completions of other text but the same tokens as another one."""
  texts = {repr(c) for c in record.completions}
  return len(texts) - len({ids.tobytes() for ids in encoded.tokens})


def first_token(record, encoded) -> int:
  """Counts completions with the first word of another, not its first token.

  White space before the word is what makes the difference.
  """
  words = collections.defaultdict(set)
  for k, completion in enumerate(record.completions):
    word = text_of(completion).split(maxsplit=1)[:1]
    if word and encoded.starts[k] >= 0:
      words[word[0]].add(int(encoded.tokens[k][encoded.starts[k]]))
  return sum(len(tokens) - 1 for tokens in words.values())


def shifted(record, encoded, tokenizer, reading) -> int:
  """Counts completions before which the prompt's own tokens do not stand.

  A token then spans the boundary, or the prompt is tokenised otherwise when
  text follows: code that tokenises prompt and completion apart sees others.
  """
  prompt, _ = render_group(record, tokenizer, template=reading.template)
  plain = template_name(reading.template, tokenizer) == "plain"
  alone, _, _ = tokenize(prompt, tokenizer, plain=plain)
  return sum(
    start >= 0 and not np.array_equal(ids[:start], alone)
    for ids, start in zip(encoded.tokens, encoded.starts, strict=True)
  )


def add_packed(found, chunk, tokenizer, reading, supervision, rejects) -> None:
  """Counts what training would: rejects, trees, sharing, fill of the rows."""
  data = tokenize_records(
    chunk, tokenizer, reading._replace(overlong="drop"), supervision
  )
  counts = found.counts
  for reject in data.rejects:
    hit_reason(found, reject)
    counts["loss rejects"] += 1
    rejects(reject)
  counts["groups"] += len(data.groups)
  counts["unshared"] += data.tokens_unshared
  counts["shared"] += data.tokens_shared
  for group, needs in zip(data.groups, data.demands, strict=True):
    if len(needs.pieces) > 1:
      record = chunk[group.record]
      hit(found, "split_trees", place(found, record.source, record.line))
  if not data.groups:
    return
  plan = make_eval_plan(
    data.demands,
    blocks=1,
    rows=ROWS,
    row_len=reading.row_len,
    layout=reading.layout,
    align=reading.align,
  )
  counts["columns"] += sum(step.rows for step in plan.steps) * reading.row_len


# ---------------------------------------------------------------- findings


def token_findings(
  found: Tokens, reading: Reading, supervision: Supervision | None
) -> list[Finding]:
  """Returns every finding of the tokens, section "tokens" and "loss"."""
  counts = found.counts

  def counted(name, severity, unit, what, advice, **more):
    count, examples = found.hits.get(name, (0, ()))
    total = counts[unit]
    if not count:
      return []
    return [
      Finding(
        name,
        "tokens",
        severity,
        count,
        total,
        unit,
        what,
        advice,
        tuple(examples),
        **more,
      )
    ]

  cut = found.tables["cut"]
  overlong = found.hits.get("overlong", (0,))[0]
  many = overlong > STOPS_A_RUN * counts["records"]
  return [
    *lengths(found),
    *counted(
      "overlong",
      "warning" if many else "note",
      "records",
      f"records with prompt and one completion longer than row_len="
      f"{reading.row_len}: 'drop' leaves them out",
      "Raise config.data.row_len, or set config.data.overlong='cut_prompt'.",
      numbers={
        "cut_prompt_keeps": sum(cut.values()),
        "cut_prompt_drops": overlong - sum(cut.values()),
        "prompt_tokens_cut": sum(n * k for n, k in cut.items()),
        "prompt_tokens_cut_median": quantile(cut, 0.5),
        "prompt_tokens_cut_most": quantile(cut, 1.0),
      },
    ),
    *counted(
      "no_end_token",
      "warning",
      "completions",
      "completions whose last token is no EOS or EOT",
      "Set config.data.read_at='end_of_turn', or correct the template: the "
      "score is read at a token that says nothing of the end.",
    ),
    *counted(
      "identical_tokens",
      "warning",
      "completions",
      "completions of other text than another one of the group but the same "
      "tokens",
      "Remove them: the template or tokenizer takes away what differs.",
    ),
    *counted(
      "first_token",
      "warning",
      "completions",
      "completions that begin with the same word as another one but another "
      "token: white space before it differs",
      "Strip all completions: the first token would tell the sides apart.",
    ),
    *counted(
      "boundary_shift",
      "note",
      "completions",
      "completions before which the prompt is tokenised otherwise than alone",
      "Exact here: conversations are tokenised whole. Code that tokenises "
      "prompt and completion apart sees other tokens.",
    ),
    *counted(
      "split_trees",
      "note",
      "groups",
      f"groups whose tree is longer than a row of {reading.row_len} and is "
      "split over rows, each with a copy of the prompt (exact)",
      "A longer row shares more; scores and gradients are the same.",
    ),
    *costs(found, reading),
    *loss_rejects(found, supervision),
  ]


def quantile(table, q: float) -> int:
  """Returns the smallest value that at least q of the counts do not exceed."""
  need, below = q * sum(table.values()), 0
  for value in sorted(table):
    below += table[value]
    if below >= need:
      return value
  return 0


def lengths(found) -> list[Finding]:
  out = []
  for name, what in (
    ("longest", "tokens of a record's longest conversation"),
    ("prompt", "tokens of a prompt, per completion"),
    ("completion", "tokens of a completion, end token included"),
  ):
    table = found.tables[name]
    if not table:
      continue
    numbers = {
      ("largest" if q == 1 else f"quantile_{q:g}"): quantile(table, q)
      for q in QUANTILES
    }
    sizes = collections.Counter()
    for length, count in table.items():
      sizes[1 << max(length - 1, 0).bit_length()] += count
    out.append(
      Finding(
        name=f"tokens_{name}",
        section="tokens",
        severity="note",
        count=sum(table.values()),
        total=sum(table.values()),
        unit="records" if name == "longest" else "completions",
        what=what,
        numbers=numbers,
        table=tuple((f"up to {size}", sizes[size]) for size in sorted(sizes)),
      )
    )
  return out


def costs(found, reading) -> list[Finding]:
  """What sharing saves and how full the rows are."""
  c = found.counts
  if not c["unshared"]:
    return []
  return [
    Finding(
      name="sharing",
      section="tokens",
      severity="note",
      count=c["unshared"] - c["shared"],
      total=c["unshared"],
      unit="tokens",
      what=f"tokens that layout={reading.layout!r} does not compute again",
      numbers={"unshared": c["unshared"], "shared": c["shared"]},
    ),
    Finding(
      name="row_fill",
      section="tokens",
      severity="note",
      count=c["shared"],
      total=c["columns"],
      unit="columns",
      what=f"columns of rows of {reading.row_len} that hold a token, packed "
      f"{ROWS} rows at a time in the order of the file",
    ),
  ]


def loss_rejects(found, supervision) -> list[Finding]:
  total = found.counts["groups"] + found.counts["loss rejects"]
  stops = found.counts["loss rejects"] > STOPS_A_RUN * total
  name = "scoring" if supervision is None else f"loss {supervision.loss!r}"
  return [
    Finding(
      name="loss_rejects",
      section="loss",
      severity="error" if stops else "warning",
      count=count,
      total=total,
      unit="records that fit a row",
      what=f"{name} rejects: {found.seen['reasons'][reason]}",
      advice="Correct or remove the records, or try another --loss or "
      "--template.",
      examples=tuple(examples),
    )
    for reason, (count, examples) in sorted(
      found.hits.items(), key=lambda item: -item[1][0]
    )
    if reason.startswith("reject: ")
  ]


def fitting_row_len(found: Tokens) -> int:
  """Returns the smallest power of two that holds KEEP of the records."""
  longest = max(quantile(found.tables["longest"], KEEP), LEAST_ROW)
  return 1 << (longest - 1).bit_length()
