"""Bad records by the thousand: good rows of every format, broken.

By a seeded generator and by exhaustion. What may come of a row is little: a
Reject or a Record that an independent reading finds sound.
"""

import copy
import gzip
import json
import math
import random

import pytest

from rm_jax.data.recognise import FORMATS
from rm_jax.data.rejects import Reject
from rm_jax.data.sources import read_records
from rm_jax.types import Record, UserError
from tests.data.soundness import sound

GENERAL = ("rm_jax.data.formats", "rm_jax.data.pairs", "rm_jax.data.steps")
MESSAGES = [
  {"role": "system", "content": "Be kind."},
  {"role": "user", "content": "Who wrote this?"},
]
STEPS = {
  "prompt": "Add one to two.",
  "completions": [["Two and one.", "It is three."], ["It is four."]],
}
ANSWERS = {"prompt": "Who?", "completions": ["A poet.", "Nobody.", "I."]}

# name of a general format -> rows of it as they should be
GOOD = {
  "pair": [
    {"prompt": "Who?", "chosen": "A poet.", "rejected": "No.", "strength": 2},
    {
      "prompt": MESSAGES,
      "chosen": [{"role": "assistant", "content": "A poet."}],
      "rejected": [{"role": "assistant", "content": "No."}],
      "chosen_ratings": {"clear": 4, "kind": None},
      "rejected_ratings": {"clear": 1, "kind": 2},
      "margin": 1.5,
      "preference": 0.75,
    },
    {
      "chosen": "\n\nHuman: a\n\nAssistant: b",
      "rejected": "\n\nHuman: a\n\nAssistant: c",
      "votes": [3, 1],
      "weight": 2.0,
      "annotator": "7",
    },
  ],
  "ranking": [ANSWERS | {"ranks": [0, 2, 1], "ratings": [5, 1, 2]}],
  "ratings": [
    ANSWERS | {"ratings": [5, 1.5, 2]},
    ANSWERS | {"ratings": [{"kind": 1}, {"kind": None}, {"kind": 3.5}]},
  ],
  "comparisons": [ANSWERS | {"comparisons": [[0, 1, 1], [1, 2, 0.5, 3]]}],
  "first_error": [STEPS | {"first_error": [-1, 0]}],
  "values": [STEPS | {"values": [[0.5, -2.0], [7]]}],
  "steps": [STEPS | {"labels": [[1, -1], [True]]}],
  "outcome": [
    {"prompt": "Who?", "completion": "A poet.", "label": True},
    {
      "messages": [*MESSAGES, {"role": "assistant", "content": "I."}],
      "label": 0.25,
    },
  ],
  "unlabelled": [ANSWERS, {"prompt": MESSAGES, "completion": "A poet."}],
}

ODD = (
  None,
  True,
  False,
  0,
  -1,
  2.5,
  1e308,
  10**400,
  math.nan,
  math.inf,
  -math.inf,
  "",
  " \n",
  "\ud800",
  "a\udfffb",
  "\x00",
  "\u2028",
  "1",
  "text " * 300,
  [],
  {},
  [[]],
  [None],
  [[[[1]]]],
  {"role": 1},
  {"role": "user", "content": None},
  {"nonsense": {"deep": [1, {"er": None}]}},
  [1, "2", [3]],
  [0, 0, math.nan],
)


def places(value, path=()):
  """Yields the path of every value inside, the outermost first."""
  if path:
    yield path
  items = ()
  if isinstance(value, dict):
    items = value.items()
  elif isinstance(value, list):
    items = enumerate(value)
  for key, inner in items:
    yield from places(inner, (*path, key))


def broken(rng: random.Random, row: dict) -> dict:
  """Returns the row with one to three things wrong with it, perhaps."""
  row = copy.deepcopy(row)
  for _ in range(rng.choice((1, 1, 1, 2, 3))):
    found = list(places(row))
    if not found:
      break
    *way, last = rng.choice(found)
    parent = row
    for key in way:
      parent = parent[key]
    change = rng.choice(("odd", "odd", "odd", "gone", "twice", "sibling"))
    if change == "odd":
      parent[last] = copy.deepcopy(rng.choice(ODD))
    elif change == "gone":
      del parent[last]
    elif change == "twice" and isinstance(parent, list):
      parent.insert(last, copy.deepcopy(parent[last]))
    elif change == "sibling":
      other = row
      for key in rng.choice(found):
        other = other[key]
      parent[last] = copy.deepcopy(other)
  return row


def garbled(rng: random.Random, row: dict) -> bytes:
  """Returns the line of a row with its bytes broken, never its newline."""
  line = json.dumps(row).encode()
  at = rng.randrange(1, len(line))
  return rng.choice(
    (
      line[:at],
      line[:at] + b"\xff\xc3" + line[at:],
      line[:at] + b'"' + line[at:],
      line + b"}",
      line + b" " + line,
      b'{"prompt": ' + b"[" * 100_000,
      b'{"prompt": "a", "chosen": ' + b"9" * 5_000 + b', "rejected": "c"}',
      b"\x00" * 9,
      b"null",
      b'"text"',
    )
  )


def wrong_with(item, path, lines) -> str:
  """Returns what is wrong with what `read_records` yielded, or ""."""
  if isinstance(item, Record):
    placed = item.source == str(path) and 1 <= item.line <= lines
    return sound(item) or ("" if placed else "source or line")
  if not isinstance(item, Reject):
    return f"a {type(item).__name__}"
  if item.file != str(path) or not 1 <= item.line <= lines:
    return f"a reject of {item.file}:{item.line}"
  reason = item.reason
  if not reason.strip() or "\n" in reason or "Traceback" in reason:
    return f"the reason {reason!r}"
  return ""


LAST = GOOD["pair"][0]


def read_bad(path, content: bytes, lines: int, kind: str) -> list:
  """Reads a file of `lines` lines, all but the last bad; returns complaints.

  Whatever the bad ones are, the last one is a good pair and must arrive.
  """
  opener = gzip.open if path.name.endswith(".gz") else open
  with opener(path, "wb") as file:
    file.write(content)
  try:
    items = list(read_records(path, kind=kind))
  except Exception as error:
    return [f"{type(error).__name__}: {str(error)[:200]}"]
  complaints = [wrong_with(item, path, lines) for item in items]
  if {item.line for item in items} != set(range(1, lines + 1)):
    complaints.append(f"lines {[item.line for item in items]} of {lines}")
  if kind in ("auto", "pair"):
    last = items[-1]
    if not isinstance(last, Record) or last.completions != ("A poet.", "No."):
      complaints.append("the good row is lost")
  return [c for c in complaints if c]


def general_formats() -> list:
  return [name for name, f in FORMATS.items() if f.read.__module__ in GENERAL]


def test_there_are_good_rows_of_every_general_format(tmp_path):
  # Catches a new format that nothing here breaks, and a good row that is none.
  assert sorted(GOOD) == sorted(general_formats())
  for name, rows in GOOD.items():
    for row in rows:
      path = tmp_path / "rows.jsonl"
      path.write_text(json.dumps(row) + "\n")
      for kind in (name, "auto"):
        (item,) = read_records(path, kind=kind)
        assert isinstance(item, Record), item
        assert wrong_with(item, path, 1) == "", row


def check_rows(folder, rows, name) -> None:
  """Asserts that each row, before a good one, comes to a sound end.

  By turns: as lines, as lines of a .gz, as an array; recognised, named.
  """
  failed = []
  for case, row in enumerate(rows):
    lines = [json.dumps(row), json.dumps(LAST)]
    content, path = "\n".join(lines) + "\n", folder / "rows.jsonl"
    if case % 8 == 3:
      path = folder / "rows.jsonl.gz"
    elif case % 8 == 6:
      content, path = f"[{', '.join(lines)}]", folder / "rows.json"
    kind = name if case % 2 else "auto"
    wrong = read_bad(path, content.encode(), 2, kind)
    if wrong:
      shown = lines[0].replace("0" * 99, "0..")
      failed.append(f"{'; '.join(wrong)}: kind={kind!r} {shown[:300]}")
  assert not failed, "\n".join([f"{len(failed)} rows", *failed[:5]])


@pytest.mark.parametrize("name", sorted(GOOD))
def test_every_value_replaced_by_every_odd_one(tmp_path, name):
  # Catches a traceback out of one row, a NaN or half a character that reaches
  # training, lists of other lengths, a row that is lost without a word.
  rows = []
  for row in GOOD[name]:
    for *way, last in places(row):
      for odd in ODD:
        bad = copy.deepcopy(row)
        parent = bad
        for key in way:
          parent = parent[key]
        parent[last] = odd
        rows.append(bad)
  check_rows(tmp_path, rows, name)


@pytest.mark.parametrize("name", sorted(GOOD))
def test_rows_broken_in_several_places(tmp_path, name):
  # Catches the same where two mistakes meet: fields gone, twice, exchanged.
  rng = random.Random(name)
  rows = [broken(rng, rng.choice(GOOD[name])) for _ in range(60)]
  check_rows(tmp_path, rows, name)


@pytest.mark.parametrize("chunk", range(4))
def test_garbled_lines(tmp_path, chunk):
  # Catches one bad line that ends the reading, or takes its neighbours along.
  rng = random.Random(chunk)
  failed = []
  for _ in range(15):
    bad = [garbled(rng, rng.choice(GOOD["pair"])) for _ in range(2)]
    content = b"\n".join([json.dumps(LAST).encode(), *bad])
    content += b"\n" + json.dumps(LAST).encode() + b"\n"
    wrong = read_bad(tmp_path / "rows.jsonl", content, 4, "auto")
    if wrong:
      failed.append((wrong, [b[:200] for b in bad]))
  assert not failed, failed


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_nonsense_in_the_fields_of_every_format(tmp_path, name):
  # Catches a reader of a published format that trusts what it finds: it is
  # given all its fields, with anything in them.
  rng = random.Random(name)
  fields = FORMATS[name].fields or ("messages", "label")
  rows = [{field: copy.deepcopy(odd) for field in fields} for odd in ODD]
  rows += [
    {field: copy.deepcopy(rng.choice(ODD)) for field in fields}
    for _ in range(10)
  ]
  check_rows(tmp_path, rows, name)


@pytest.mark.parametrize("seed", range(8))
def test_a_file_that_breaks_off_is_one_line(tmp_path, seed):
  # Catches zlib's and json's own exceptions, and a rest that is left out.
  rng = random.Random(seed)
  rows = [rng.choice(GOOD["pair"]) for _ in range(50)]
  if seed % 2:
    path = tmp_path / "rows.jsonl.gz"
    text = "\n".join(map(json.dumps, rows))
    whole = gzip.compress(text.encode())
  else:
    path = tmp_path / "rows.json"
    whole = json.dumps(rows).encode()
  path.write_bytes(whole[: rng.randrange(20, len(whole) - 1)])
  with pytest.raises(UserError, match="rows.json") as caught:
    list(read_records(path))
  assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_reasons_are_short(tmp_path):
  # Catches a reason that prints the row, or half of the documentation: a file
  # of rejects is read by people.
  rng = random.Random(0)
  long = set()
  for name in general_formats():
    for _ in range(30):
      row = broken(rng, rng.choice(GOOD[name]))
      row |= {f"field number {n}": n for n in range(rng.choice((0, 99)))}
      path = tmp_path / "rows.jsonl"
      path.write_text(json.dumps(row) + "\n")
      try:
        items = list(read_records(path))
      except Exception:
        continue  # the test above has it
      long |= {
        (len(item.reason), item.reason[:60])
        for item in items
        if isinstance(item, Reject) and len(item.reason) >= 400
      }
  assert not long, sorted(long)[:3]
