import gzip
import json

import pytest

from rm_jax.data import sources
from rm_jax.data.rejects import Reject, check_share, write_rejects
from rm_jax.data.sources import read_records
from rm_jax.types import UserError


def write(path, *rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
  return path


PAIR = dict(prompt="Q", chosen="good", rejected="bad")


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("chunk", [1, 7, 1 << 16])
def test_array_lines_and_gz_give_the_same_rows(tmp_path, monkeypatch, chunk):
  # Catches: a reader that cuts a row where its buffer ends; `.json` that holds
  # JSON Lines; rows counted from 0.
  monkeypatch.setattr(sources, "CHUNK", chunk)
  rows = [PAIR, dict(PAIR, prompt='braces ]}, and "quotes"'), dict(PAIR)]
  text = json.dumps(rows, indent=1)
  lines = "\n".join(map(json.dumps, rows))
  (tmp_path / "a.json").write_text(text)
  (tmp_path / "b.json").write_text(lines)
  (tmp_path / "c.json.gz").write_bytes(gzip.compress(text.encode()))
  (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
  for name in ("a.json", "b.json", "c.json.gz", "d.jsonl.gz"):
    records = list(read_records(tmp_path / name))
    assert [r.prompt for r in records] == [row["prompt"] for row in rows], name
    assert [r.line for r in records] == [1, 2, 3]
    assert {r.source for r in records} == {str(tmp_path / name)}
  assert len(list(read_records(tmp_path))) == 12  # a folder: all of its files


def test_lines_are_streamed(tmp_path):
  # Catches: a reader that parses the file before it yields.
  path = tmp_path / "rows.jsonl"
  path.write_text(json.dumps(PAIR) + "\n" + "{" * 50)
  assert next(read_records(path)).completions == ("good", "bad")


def test_missing_file_names_the_nearest(tmp_path):
  write(tmp_path / "train.jsonl", PAIR)
  with pytest.raises(
    UserError,
    match=r"trian.jsonl does not exist \(nearest "
    r"there: train.jsonl\)",
  ):
    list(read_records(tmp_path / "trian.jsonl"))


def test_bad_json_is_a_reject_with_its_line(tmp_path):
  # Catches: blank lines that are not counted; a reader that stops.
  path = tmp_path / "rows.jsonl"
  good = json.dumps(PAIR)
  path.write_text(f"{good}\n\n{{bad\n{good}\n")
  items = list(read_records(path))
  assert [item.line for item in items] == [1, 3, 4]
  assert items[1].file == str(path)
  assert items[1].reason.startswith("bad JSON at column 2")


def test_not_utf8_is_a_reject(tmp_path):
  path = tmp_path / "rows.jsonl"
  path.write_bytes(b'{"a": "\xff"}\n' + json.dumps(PAIR).encode())
  bad, good = read_records(path)
  assert bad == Reject(str(path), 1, "not UTF-8 at byte 7 of the line")
  assert good.line == 2


def test_broken_array_stops_the_run(tmp_path):
  # Catches: the rest of an array lost behind one bad row.
  path = tmp_path / "rows.json"
  path.write_text("[" + json.dumps(PAIR) + ", {bad}, " + json.dumps(PAIR) + "]")
  with pytest.raises(UserError, match="bad JSON in row 2 of the array"):
    list(read_records(path))
  path.write_text("[" + json.dumps(PAIR))
  with pytest.raises(UserError, match=r"row 1 of the array \(it breaks off\)"):
    list(read_records(path))


def test_cut_gz_stops_the_run(tmp_path):
  path = tmp_path / "rows.jsonl.gz"
  path.write_bytes(gzip.compress(json.dumps(PAIR).encode() * 99)[:40])
  with pytest.raises(UserError, match="not a whole gzip file"):
    list(read_records(path))


def load(path, *, max_reject_share, rejects_path):
  """The records, as a run reads them."""
  items = list(read_records(path))
  rejects = [x for x in items if isinstance(x, Reject)]
  write_rejects(rejects, rejects_path)
  check_share(rejects, len(items), max_reject_share=max_reject_share)
  return [x for x in items if not isinstance(x, Reject)]


@pytest.mark.parametrize("share, stops", [(0.25, False), (0.24, True)])
def test_rejects_are_written_and_stop_above_the_share(tmp_path, share, stops):
  # Catches: >= instead of >; a share of the good records instead of all.
  bad = dict(PAIR, chosen=" ")
  path = write(tmp_path / "rows.jsonl", PAIR, bad, PAIR, PAIR)
  out = tmp_path / "run" / "rejects.jsonl"
  if stops:
    with pytest.raises(
      UserError,
      match=(
        r"1 of 4 records are rejected \(25.0%\).*max_reject_share=0.24.*"
        r"rows.jsonl:2: the chosen completion is empty"
      ),
    ):
      load(path, max_reject_share=share, rejects_path=out)
  else:
    assert len(load(path, max_reject_share=share, rejects_path=out)) == 3
  assert [json.loads(line) for line in out.read_text().splitlines()] == [
    dict(file=str(path), line=2, reason="the chosen completion is empty")
  ]


def test_no_rejects_are_left_of_an_earlier_run(tmp_path):
  out = tmp_path / "rejects.jsonl"
  out.write_text("old")
  path = write(tmp_path / "rows.jsonl", PAIR)
  load(path, max_reject_share=0, rejects_path=out)
  assert out.read_text() == ""


def test_unknown_kind_lists_the_known(tmp_path):
  with pytest.raises(UserError, match="kind='pears' is unknown.*ranking"):
    list(read_records(tmp_path, kind="pears"))


def test_half_a_surrogate_pair_is_a_reject_and_can_be_written(tmp_path):
  # JSON can spell it, no tokenizer and no UTF-8 file can take it.
  path = tmp_path / "rows.jsonl"
  row = {"prompt": "Why ?", "chosen": "x\ud800", "rejected": "No ."}
  path.write_text(json.dumps(row) + "\n")
  with pytest.raises(UserError, match="half a surrogate pair"):
    load(path, max_reject_share=0.0, rejects_path=tmp_path / "rejects.jsonl")
  (line,) = (tmp_path / "rejects.jsonl").read_text().splitlines()
  assert json.loads(line)["line"] == 1
