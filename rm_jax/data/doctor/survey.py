"""One pass over a stream of records: counters, hashes and a few places.

No text is kept, so a million records take some hundred megabytes, whatever
their length. `doctor` turns the counts into findings.
"""

import collections
import hashlib
import pathlib
import re
from typing import NamedTuple

from rm_jax.data.doctor.graph import cyclic_prompts
from rm_jax.data.doctor.overlap import OVERLAPS
from rm_jax.data.doctor.text import CHECKS, compared, is_cut, text_of
from rm_jax.data.rejects import Reject
from rm_jax.data.split import prompt_key
from rm_jax.data.templates import prompt_messages
from rm_jax.types import Record

MOST_EXAMPLES = 3


class Survey(NamedTuple):
  """What one pass over the records leaves: all containers, no text."""

  root: str  # folder that places are told from
  counts: collections.Counter  # totals by unit and by name
  hits: dict  # name -> [count, examples]
  tables: dict  # name -> Counter
  seen: dict  # name -> {hash: value}


def survey(items, *, root="", against=None) -> Survey:
  """Returns what the findings need of a stream of Records and Rejects.

  Args:
    items: what `read_records` yields.
    root: the file or folder they come from: places are told from there.
    against: `index_prompts` of another data set; None: none.
  """
  found = Survey(
    str(root),
    collections.Counter(),
    {},
    collections.defaultdict(collections.Counter),
    collections.defaultdict(dict),
  )
  for item in items:
    if isinstance(item, Reject):
      add_reject(found, item)
    else:
      add_record(found, item)
      if against is not None:
        where = place(found, item.source, item.line)
        for name, overlaps in OVERLAPS.items():
          if overlaps.find(item, against):
            hit(found, name, where)
  for where in cyclic_prompts(found.seen["judged"]):
    hit(found, "cycles", where)
  found.counts["judged pairs"] = len(found.seen["judged"])
  found.counts["prompts"] = len(found.seen["prompts"])
  return found


def place(found: Survey, file: str, line: int) -> str:
  """Returns file:line, the file as seen from the data set's own folder."""
  name, root = pathlib.PurePath(file), pathlib.PurePath(found.root)
  if name == root:
    return f"{name.name}:{line}"
  return (
    f"{name.relative_to(root) if name.is_relative_to(root) else name}:{line}"
  )


def hit(found: Survey, name: str, where: str, count: int = 1) -> None:
  entry = found.hits.setdefault(name, [0, []])
  entry[0] += count
  if len(entry[1]) < MOST_EXAMPLES:
    entry[1].append(where)


def hit_reason(found, reject: Reject) -> None:
  """Counts a reject with those of its pattern; the first one speaks for all."""
  pattern = f"reject: {reason_pattern(reject.reason)}"
  found.seen["reasons"].setdefault(pattern, reject.reason)
  hit(found, pattern, place(found, reject.file, reject.line))


def reason_pattern(reason: str) -> str:
  """Returns the reason with N for numbers and ids: rows 17 and 18 are one."""
  # Numbers and ids, not the digits of a name (GSM8K).
  ids, numbers = r"\b[0-9a-f]+(?:-[0-9a-f]+)+\b", r"\b\d+\b"
  return re.sub(f"{ids}|{numbers}", "N", reason)


def add_reject(found: Survey, reject: Reject) -> None:
  found.counts["rejects"] += 1
  hit_reason(found, reject)


def add_record(found: Survey, record: Record) -> None:
  where = place(found, record.source, record.line)
  texts = [text_of(c) for c in record.completions]
  strict, tied = compared(record)
  counts, tables = found.counts, found.tables
  counts["records"] += 1
  counts["completions"] += len(texts)
  counts["comparisons"] += len(strict) + len(tied)
  counts["ordered records"] += bool(strict or tied)
  tables["kinds"][record.kind] += 1
  tables["group_size"][len(texts)] += 1
  if record.origin:
    tables["origins"][record.origin] += 1
  if record.annotator:
    tables["annotators"][record.annotator] += 1
  for field in ("margin", "ratings"):
    counts[f"with {field}"] += getattr(record, field) is not None
  strong = [c.strength is not None for c in strict]
  counts["with strength"] += bool(strong) and all(strong)
  counts["with soft preference"] += any(c.preference < 1 for c in strict)
  if record.attributes:
    tables["attributes"][record.attributes] += 1
  for name, check in CHECKS.items():
    count = int(check.find(record, texts))
    if count:
      hit(found, name, where, count)
  if tied:
    hit(found, "tied_comparisons", where, len(tied))
  add_lengths(found, texts, strict)
  add_positions(found, record, strict)
  add_labels(found, record, texts)
  add_repeats(found, record, texts, strict, tied, where)


def add_lengths(found, texts, strict) -> None:
  counts = found.counts
  counts["cut"] += sum(map(is_cut, texts))
  for c in strict:
    chosen, rejected = texts[c.chosen], texts[c.rejected]
    counts["strict"] += 1
    counts["longer"] += len(chosen) > len(rejected)
    counts["same length"] += len(chosen) == len(rejected)
    counts["chosen characters"] += len(chosen)
    counts["rejected characters"] += len(rejected)
    counts["chosen cut"] += is_cut(chosen)
    counts["rejected cut"] += is_cut(rejected)


def add_positions(found, record, strict) -> None:
  """Only where the order of the completions says nothing by itself."""
  if record.kind == "pair":
    return  # chosen is first by definition
  for c in strict:
    found.counts["placed"] += 1
    found.counts["first listed wins"] += c.chosen < c.rejected


def add_labels(found, record, texts) -> None:
  if record.labels is not None:
    for label, text in zip(record.labels, texts, strict=True):
      found.tables["outcome"][round(label, 3)] += 1
      if label != 0.5:
        side = "right" if label > 0.5 else "wrong"
        found.tables[f"outcome {side}"][len(text)] += 1
    if len(texts) > 1 and len(set(record.labels)) == 1:
      found.counts["groups of one label"] += 1
  if record.step_labels is None:
    return
  for labels, ends in zip(record.step_labels, record.step_ends, strict=True):
    before = 0
    for label, end in zip(labels, ends, strict=True):
      found.tables["steps"][round(label, 3)] += 1
      # In a tree a fork has its last end only: how long it is is unknown.
      if label != 0.5 and record.trunk < 0:
        side = "right" if label > 0.5 else "wrong"
        found.tables[f"steps {side}"][end - before] += 1
      before = end


def digest(*parts) -> bytes:
  """Returns 8 bytes: a collision among 10 million has probability 3e-6."""
  text = "\0".join(map(str, parts)).encode("utf-8", "surrogatepass")
  return hashlib.blake2b(text, digest_size=8).digest()


def add_repeats(found, record, texts, strict, tied, where) -> None:
  """Duplicates, prompts again, verdicts on the same pair, labels again."""
  messages = prompt_messages(record.prompt)
  prompt = bytes.fromhex(prompt_key(record))[:8]
  own = [digest(repr(c)) for c in record.completions]
  once = found.seen["records"].setdefault(
    digest(record.kind, record.annotator, messages, judgement(record, own)),
    where,
  )
  if once is not where:
    hit(found, "duplicate_records", f"{where} = {once}")
  if not messages:
    return  # without a question nothing else can be the same
  first = found.seen["prompts"].setdefault(prompt, where)
  if first is not where:
    hit(found, "repeated_prompts", f"{where} = {first}")
  for key, value in stated(record, prompt, own, strict):
    other, at = found.seen["stated"].setdefault(key, (value, where))
    if other != value:
      hit(found, "conflicting_labels", f"{where} <> {at}")
      break  # one per record
  for c in (*strict, *tied):
    a, b = own[c.chosen], own[c.rejected]
    if a == b:
      continue
    tie = c.preference <= 0.5
    key = prompt + min(a, b) + max(a, b)
    votes = found.seen["judged"].setdefault(key, [0, 0, 0, where])
    verdict = 2 if tie else int(b < a)  # 0: the smaller hash is the better
    votes[verdict] += 1
    if not tie and votes[verdict] == 1 and votes[1 - verdict]:
      hit(found, "contradictions", f"{where} <> {votes[3]}")
    if record.annotator:
      voters = found.seen["voters"].setdefault(key, {})
      voters[digest(record.annotator)] = verdict


def judgement(record, own) -> str:
  """Returns the completions and what was said of them, in no order."""
  if record.comparisons is not None:
    said = sorted(
      repr((own[c.chosen], own[c.rejected], c[2:])) for c in record.comparisons
    )
    return repr((sorted(own), said))
  fields = (
    record.ranks,
    record.ratings,
    record.attribute_ratings,
    record.labels,
    record.step_labels,
    record.step_values,
  )
  columns = [f if f is not None else (None,) * len(own) for f in fields]
  said = map(repr, zip(*columns, strict=True))
  rest = (record.strength, record.preference, record.margin, record.trunk)
  return repr((sorted(zip(own, said, strict=True)), rest))


def stated(record, prompt, own, strict):
  """Yields (key, value) of what must be the same wherever it is said again."""
  who = digest(record.annotator)
  for c in strict:
    said = (c.strength, c.preference, record.margin)
    if said != (None, 1.0, None):
      yield prompt + own[c.chosen] + own[c.rejected] + who, digest(said)
  for k, completion in enumerate(own):
    for field in ("ratings", "labels", "step_labels"):
      values = getattr(record, field)
      if values is None:
        continue
      ends = record.step_ends[k] if field == "step_labels" else ()
      yield prompt + completion + who + digest(field, ends), digest(values[k])
