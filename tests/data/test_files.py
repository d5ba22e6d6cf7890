"""Places that data lies in: files, folders, Parquet, URLs, the Hub."""

import datetime
import decimal
import gzip
import json
import time

import fsspec
import pyarrow as pa
import pytest
from pyarrow import parquet

from rm_jax.data import sources
from rm_jax.data.fields import BadRow
from rm_jax.data.hub import hub_files, split_of
from rm_jax.data.rejects import Reject
from rm_jax.data.sources import find_files, read_records, read_rows
from rm_jax.places import Remote
from rm_jax.types import UserError

PAIR = dict(prompt="Q", chosen="good", rejected="bad")
SUFFIXES = sources.SUFFIXES


def rows_of(path):
  (file,) = find_files(path)
  return list(read_rows(file))


@pytest.fixture
def bucket():
  """An empty file system in memory: `memory://` is fsspec's stand-in."""
  fs = fsspec.filesystem("memory")
  fs.store.clear()
  fs.pseudo_dirs[:] = [""]
  yield fs
  fs.store.clear()


# ---------------------------------------------------------------- JSON


def test_one_object_over_many_lines_is_one_row(tmp_path):
  # Catches: a pretty-printed object read as lines, each a reject.
  row = {"id": [PAIR, PAIR]}
  path = tmp_path / "rows.json"
  for indent in (None, 2):
    path.write_text(json.dumps(row, indent=indent))
    assert rows_of(path) == [(1, row)], indent
  packed = tmp_path / "rows.json.gz"
  packed.write_bytes(gzip.compress(b"\xef\xbb\xbf\n" + path.read_bytes()))
  assert rows_of(packed) == [(2, row)]


@pytest.mark.parametrize("chunk", [1, 7, 1 << 16])
def test_objects_over_many_lines_know_their_first(tmp_path, monkeypatch, chunk):
  # Catches: an object cut where a buffer ends (in a word, in a string), lines
  # that are not counted through strings, records and blanks.
  monkeypatch.setattr(sources, "CHUNK", chunk)
  rows = [dict(PAIR, flag=True, note='a "}" \\ and\n' * k) for k in range(3)]
  rows[0]["note"] = "long " * 20
  text = "\n\n".join(json.dumps(row, indent=1) for row in rows)
  path = tmp_path / "rows.jsonl"
  path.write_text(text + "\n")
  for head in [*range(20, 200), 1 << 16]:
    monkeypatch.setattr(sources, "HEAD", head)
    # Each takes 7 lines, one is blank in between.
    assert rows_of(path) == [(1, rows[0]), (9, rows[1]), (17, rows[2])], head


def test_a_bad_first_line_stays_a_reject_of_lines(tmp_path):
  # Catches: a broken line among lines taken for an object over many.
  good = json.dumps(PAIR)
  path = tmp_path / "rows.jsonl"
  for bad in ('{"prompt": "x",', '{"prompt": "x', "{bad", "nonsense"):
    path.write_text(f"{bad}\n{good}\n{good}\n")
    first, *rest = read_records(path)
    assert isinstance(first, Reject) and first.line == 1, bad
    assert [r.line for r in rest] == [2, 3], bad


def test_an_object_that_breaks_off_stops_the_run(tmp_path):
  path = tmp_path / "rows.json"
  path.write_text(json.dumps(PAIR, indent=1)[:-9])
  with pytest.raises(UserError, match="rows.json: bad JSON in the object of"):
    rows_of(path)


def test_line_separators_of_unicode_do_not_end_a_line(tmp_path):
  # Catches: str.splitlines, which ends lines inside a string of JSON.
  path = tmp_path / "rows.jsonl"
  text = json.dumps(dict(PAIR, prompt="a\u2028b"), ensure_ascii=False)
  path.write_text(f"{text}\n{{bad\n", "utf-8")
  good, bad = read_records(path)
  assert good.prompt == "a\u2028b"
  assert bad.line == 2


def test_array_that_is_no_utf8_is_said_in_words(tmp_path):
  # Catches: a UnicodeDecodeError with a traceback.
  path = tmp_path / "rows.json"
  path.write_bytes(b'[{"a": "\xff"}]')
  with pytest.raises(UserError, match="rows.json is not UTF-8 text"):
    rows_of(path)


def test_a_file_that_may_not_be_read_is_said_in_words(tmp_path, monkeypatch):
  # Catches: a PermissionError with a traceback. Root may read everything, so
  # the refusal is played.
  path = tmp_path / "rows.jsonl"
  path.write_text("{}")

  def refused(*args):
    raise PermissionError(13, "Permission denied")

  monkeypatch.setattr(type(path), "open", refused)
  with pytest.raises(UserError, match="rows.jsonl: .*got Permission denied"):
    rows_of(path)


def test_mr_ben_is_one_object_a_file(rm_data):
  # Real files of 3,037 and more lines that hold one object each.
  for file in sorted((rm_data / "mr_ben").glob("*.json.gz")):
    ((line, row),) = rows_of(file)
    assert line == 1 and len(row) > 1, file
    assert all(isinstance(x, list) for x in row.values()), file


# ---------------------------------------------------------------- Parquet


def test_parquet_rows_equal_the_json_they_were_made_of(tmp_path):
  # Catches: a row lost or doubled where a batch or a row group ends, line
  # numbers that begin again, structs and lists that stay Arrow's, a column of
  # nulls taken for a field.
  messages = [{"role": "user", "content": "Q"}]
  rows = [
    {"prompt": messages, "completions": ["a", "b"], "ranks": [0, 1], "n": i}
    for i in range(600)
  ]
  rows[7] = {"prompt": messages, "completions": ["a", "b"], "ratings": [1.5, 0]}
  path = tmp_path / "rows.parquet"
  parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=90)
  # from_pylist takes the columns of the first row only.
  full = rows[7] | {"n": None}
  table = pa.Table.from_pylist(
    [*rows, full],
    schema=pa.schema(
      [
        (
          "prompt",
          pa.list_(
            pa.struct([("role", pa.string()), ("content", pa.string())])
          ),
        ),
        ("completions", pa.list_(pa.string())),
        ("ranks", pa.list_(pa.int64())),
        ("ratings", pa.list_(pa.float64())),
        ("n", pa.int32()),
      ]
    ),
  )
  parquet.write_table(table, path, row_group_size=90)
  want = [*rows, rows[7]]
  assert rows_of(path) == list(enumerate(want, start=1))
  kinds = [r.kind for r in read_records(path)]
  assert kinds[6:9] == ["ranking", "ratings", "ranking"]
  assert [r.line for r in read_records(tmp_path)] == list(range(1, 602))


def test_parquet_values_that_json_has_no_word_for(tmp_path):
  # Catches: a row refused for the date beside its text (pandas writes
  # nanoseconds), numbers and bytes that a later json.dumps does not take.
  when = datetime.datetime(2024, 5, 6, 7, 8, 9)
  table = pa.table(
    {
      "text": ["a", "b"],
      "nano": pa.array([10**18 + 1, None], pa.timestamp("ns")),
      "zone": pa.array([when, None], pa.timestamp("us", "UTC")),
      "date": [when.date(), None],
      "took": pa.array([1500, None], pa.duration("ms")),
      "price": [decimal.Decimal("2.00"), decimal.Decimal("2.50")],
      "half": pa.array([0.5, None], pa.float16()),
      "bytes": [b"caf\xc3\xa9", None],
      "name": pa.array(["x", None]).dictionary_encode(),
      "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int8())),
    }
  )
  path = tmp_path / "rows.parquet"
  parquet.write_table(table, path)
  (_, first), (_, second) = rows_of(path)
  assert first == {
    "text": "a",
    "nano": "2001-09-09T01:46:40",
    "zone": "2024-05-06T07:08:09+00:00",
    "date": "2024-05-06",
    "took": 1.5,
    "price": 2,
    "half": 0.5,
    "bytes": "café",
    "name": "x",
    "map": [["k", 1]],
  }
  assert second == {"text": "b", "price": 2.5}
  assert json.loads(json.dumps(first)) == first
  assert type(first["half"]) is float and type(first["price"]) is int


def test_parquet_picture_costs_its_row_only(tmp_path):
  # Catches: a batch lost with one bad row.
  table = pa.table({"prompt": ["Q"] * 3, "image": [b"\xff\xd8", None, b"ok"]})
  path = tmp_path / "rows.parquet"
  parquet.write_table(table, path)
  (_, bad), second, third = rows_of(path)
  assert isinstance(bad, BadRow)
  assert str(bad) == "column 'image': bytes that are no UTF-8 text at 0"
  assert (second, third) == (
    (2, {"prompt": "Q"}),
    (3, {"prompt": "Q", "image": "ok"}),
  )
  first = next(iter(read_records(path)))
  assert first == Reject(str(path), 1, str(bad))


def test_parquet_is_streamed_and_named_where_it_breaks(tmp_path):
  # Catches: a reader that holds the whole file before the first row.
  path = tmp_path / "rows.parquet"
  texts = [f"{i} " + "x" * 200 for i in range(2_000)]
  parquet.write_table(
    pa.table({"prompt": texts}),
    path,
    row_group_size=100,
    compression="NONE",
    use_dictionary=False,
  )
  raw = bytearray(path.read_bytes())
  at = raw.index(b"1700 x")
  raw[at - 300 : at + 300] = b"\0" * 600  # a page header and some text
  at = raw.index(b"1500 x") - 60
  raw[at : at + 50] = b"\xff" * 50
  path.write_bytes(raw)
  rows = iter(read_rows(path))
  assert next(rows) == (1, {"prompt": texts[0]})
  with pytest.raises(UserError, match=r"row \d+ of .*expected a whole Parquet"):
    list(rows)
  path.write_bytes(raw[:-10])
  with pytest.raises(UserError, match="expected a whole Parquet file, got one"):
    rows_of(path)


# ---------------------------------------------------------------- URLs


def test_a_bucket_reads_as_a_folder_does(tmp_path, bucket):
  # Catches: files of a bucket in another order, gz or Parquet that only a path
  # opens, sources that do not name the place, other files read as data.
  lines = (json.dumps(PAIR) + "\n").encode()
  local = {
    "b.jsonl": lines * 2,
    "a/x.json.gz": gzip.compress(json.dumps([PAIR]).encode()),
    "a/y.json": json.dumps(PAIR, indent=1).encode(),
  }
  for name, raw in local.items():
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(raw)
  parquet.write_table(pa.Table.from_pylist([PAIR]), tmp_path / "c.parquet")
  local["c.parquet"] = (tmp_path / "c.parquet").read_bytes()
  for name, raw in {**local, "notes.txt": b"none"}.items():
    bucket.pipe(f"/data/{name}", raw)
  want = list(read_records(tmp_path))
  got = list(read_records("memory://data"))
  assert [r.source for r in got] == [
    "memory://data/a/x.json.gz",
    "memory://data/a/y.json",
    "memory://data/b.jsonl",
    "memory://data/b.jsonl",
    "memory://data/c.parquet",
  ]
  names = [r.source.replace("memory://data", str(tmp_path)) for r in got]
  assert [r._replace(source=n) for r, n in zip(got, names, strict=True)] == want
  assert list(read_records(f"file://{tmp_path}")) == want
  (one,) = read_records("memory://data/a/y.json")
  assert one == got[1]
  (file,) = find_files("memory://data/a/y.json")
  assert (str(file), file.name) == ("memory://data/a/y.json", "y.json")


def test_a_bucket_without_data_says_what_is_there(bucket):
  bucket.pipe("/data/notes.txt", b"none")
  with pytest.raises(UserError, match="holds no data file.*got notes.txt"):
    find_files("memory://data")
  with pytest.raises(UserError, match="memory://nowhere holds no data file"):
    find_files("memory://nowhere")


def test_what_a_driver_raises_is_one_line(bucket, monkeypatch):
  # Catches: a traceback of somebody's HTTP library while rows are read.
  bucket.pipe("/data/rows.jsonl", json.dumps(PAIR).encode())
  (file,) = find_files("memory://data")

  def broken(*args, **kwargs):
    raise ConnectionResetError("peer\nis gone")

  monkeypatch.setattr(type(bucket), "open", broken)
  with pytest.raises(UserError, match=r"rows.jsonl: .*Reset.*\(peer is gone\)"):
    list(read_rows(file))


# ---------------------------------------------------------------- the Hub


@pytest.fixture
def hub(bucket, monkeypatch):
  """A repository in memory, found where huggingface_hub's would be."""
  for name in (
    "README.md",
    "data/train_prefs-00000-of-00002.parquet",
    "data/train_prefs-00001-of-00002.parquet",
    "data/test_prefs-00000-of-00001.parquet",
    "easy/my-dev-rows.jsonl",
    "easy/testfile.jsonl",
    "eval/rows.jsonl.gz",
  ):
    bucket.pipe(f"/datasets/owner/name/{name}", b"")

  def stand_in(url):
    return Remote(bucket, "/" + url.removeprefix("hf://"), url)

  monkeypatch.setattr("rm_jax.data.hub.remote", stand_in)
  return bucket


@pytest.mark.parametrize(
  "url, names",
  [
    (
      ":train_prefs",
      [
        "data/train_prefs-00000-of-00002.parquet",
        "data/train_prefs-00001-of-00002.parquet",
      ],
    ),
    ("/data:test_prefs", ["data/test_prefs-00000-of-00001.parquet"]),
    ("/:validation", ["easy/my-dev-rows.jsonl"]),
    (":train", ["easy/testfile.jsonl"]),
    (":test", ["eval/rows.jsonl.gz"]),
    ("/eval", ["eval/rows.jsonl.gz"]),
    ("/eval/rows.jsonl.gz", ["eval/rows.jsonl.gz"]),
    ("/eval/rows.jsonl.gz:test", ["eval/rows.jsonl.gz"]),
  ],
)
def test_hub_address_to_files(hub, url, names):
  # Catches: a split that swallows another (train in train_prefs), a word inside
  # a word (testfile), a path that is left out of what messages say.
  for start in ("hf://owner/name", "hf://datasets/owner/name"):
    got = hub_files(start + url, suffixes=SUFFIXES)
    assert [str(f) for f in got] == [f"hf://owner/name/{n}" for n in names]
    assert [f.path for f in got] == [f"/datasets/owner/name/{n}" for n in names]


def test_hub_files_are_read(hub):
  hub.pipe(
    "/datasets/owner/name/easy/testfile.jsonl", json.dumps(PAIR).encode()
  )
  (got,) = read_records("hf://owner/name:train")
  assert got.completions == ("good", "bad")
  assert (got.source, got.line) == ("hf://owner/name/easy/testfile.jsonl", 1)


@pytest.mark.parametrize(
  "url, words",
  [
    (
      "hf://owner/name",
      "one split, got none; write one of .*hf://owner/name:train_prefs",
    ),
    ("hf://owner/name:tain", "one split, got 'tain'; write one of .*:train,"),
    ("hf://owner/nme", "holds no data file.*got nothing"),
    ("hf://owner/name/README.md", "holds no data file.*got README.md"),
    ("hf://name", r"expected hf://OWNER/NAME\[/PATH\]\[:SPLIT\]"),
    ("hf://", "expected hf://OWNER/NAME"),
  ],
)
def test_hub_addresses_that_lead_nowhere(hub, url, words):
  # Catches: a test split trained on because no split was named.
  with pytest.raises(UserError, match=words):
    hub_files(url, suffixes=SUFFIXES)


@pytest.mark.parametrize(
  "name, split",
  [
    ("rows.jsonl", "train"),
    ("Test.jsonl", "test"),
    ("latest.jsonl", "train"),
    ("test1.jsonl", "test"),
    ("harmless-base/test.jsonl.gz", "test"),
    ("training/a.json", "train"),
    ("test/train/a.json", "train"),
    ("data/val-00000-of-00003.parquet", "validation"),
    ("data/raw-00000-of-00001.parquet", "raw"),
  ],
)
def test_split_of_a_file(name, split):
  assert split_of(name) == split


def test_hub_out_of_reach_is_said_at_once(monkeypatch):
  # Catches: retries for half a minute; a traceback. conftest.py sets
  # HF_HUB_OFFLINE.
  pytest.importorskip("huggingface_hub")
  start = time.perf_counter()
  with pytest.raises(UserError, match="^hf://datasets/owner/name.*offline"):
    find_files("hf://owner/name:train")
  assert time.perf_counter() - start < 10


def test_without_the_hub_package(monkeypatch):
  def missing(url):
    raise ImportError("no huggingface_hub")

  monkeypatch.setattr(fsspec, "url_to_fs", missing)
  with pytest.raises(UserError, match=r"pip install 'rm-jax\[hub\]'$"):
    find_files("hf://owner/name:train")
