"""Records as a tfds data set and back; TensorFlow stays out of it."""

import json
import math
import subprocess
import sys

import fsspec
import numpy as np
import pytest
import tensorflow_datasets as tfds

from rm_jax.data import builder
from rm_jax.data.builder import (
  record_from_json,
  record_to_json,
  write_dataset,
)
from rm_jax.data.fields import BadRow
from rm_jax.data.rejects import Reject
from rm_jax.data.sources import find_files, read_records, read_rows
from rm_jax.types import Comparison, Record, UserError

TURNS = ({"role": "user", "content": "é\u2028\n"},)

# Every field of a Record at least once, nested as deep as it goes.
RECORDS = (
  Record("pair", "Q", ("a", "b"), ranks=(0, 1), strength=2.0, margin=-0.5,
         preference=0.75, source="x.jsonl", line=3, origin="hh", weight=0.25),
  Record("ranking", TURNS, ("a", TURNS, "c"), ranks=(2, 0, 0), annotator="w7",
         problem="p"),
  Record("ratings", TURNS, ("a", "b"), ratings=(1.0, 5.0),
         attributes=("help", "safe"), attribute_ratings=((1.0, 2.0),
                                                         (3.0, 4.5))),
  Record("comparisons", "Q", ("a", "b", "c"),
         comparisons=(Comparison(0, 1), Comparison(2, 1, 0.5, 0.0))),
  Record("outcome", "Q", ("a",), labels=(0.1 + 0.2,)),
  Record("steps", "Q", ("a\nb", "a\nc"), step_ends=((1, 3), (1, 3)),
         step_labels=((1.0, 0.0), (1.0, 0.5)), trunk=0),
  Record("values", "Q", ("a\nb",), step_ends=((1, 3),),
         step_values=((-2.5, 1e-30),), gold=(0.25,)),
)  # fmt: skip


def made(tmp_path, features, rows, **kwargs):
  """A data set that tfds itself wrote, as published ones are."""

  class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = "published"
    VERSION = tfds.core.Version("1.2.3")
    code_path = None  # of a class in a package it needs importlib_resources

    def _info(self):
      return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, manager):
      return {
        split: ((i, row) for i, row in enumerate(part))
        for split, part in rows.items()
      }

    def _generate_examples(self):
      raise NotImplementedError

  tfds.disable_progress_bar()
  Builder(
    data_dir=tmp_path, file_format="array_record", **kwargs
  ).download_and_prepare()
  return tmp_path / "published" / "1.2.3"


# ---------------------------------------------------------------- ours


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.kind)
def test_a_record_survives_json(record):
  # Catches: lists for tuples, a Comparison that comes back as a tuple, floats
  # of fewer digits, a field that is left out.
  back = record_from_json(record_to_json(record))
  assert back == record
  assert repr(back) == repr(record)  # 1 is not 1.0, a list not a tuple


def test_every_field_of_a_record_is_in_the_round_trip():
  # Catches: a field added to Record that no record above has.
  for name, default in Record._field_defaults.items():
    assert any(getattr(r, name) != default for r in RECORDS), name


def test_what_nobody_rated_survives():
  record = RECORDS[2]._replace(attribute_ratings=((math.nan, 2.0),) * 2)
  back = record_from_json(record_to_json(record))
  assert math.isnan(back.attribute_ratings[0][0])
  assert back.attribute_ratings[1][1] == 2.0


@pytest.mark.parametrize("shard_bytes", [1, 500, 1 << 28])
def test_a_data_set_comes_back_in_order(tmp_path, monkeypatch, shard_bytes):
  # Catches: the hash order of tfds, a record lost where a shard or a batch of
  # the reader ends, a name in the shards' order that sorts 10 before 2.
  monkeypatch.setattr(builder, "SHARD_BYTES", shard_bytes)
  monkeypatch.setattr(builder, "ROWS", 4)
  records = [r._replace(line=i) for i in range(3) for r in RECORDS]
  reject = Reject("x", 1, "bad")
  counts = write_dataset(
    [reject, *records, reject], tmp_path, name="mine", source="x.jsonl"
  )
  assert counts == {"records": 21, "rejects": 2}
  for url in ("", "/mine", "/mine/1.0.0", "/mine/1.0.0:train"):
    assert list(read_records(f"tfds://{tmp_path}{url}")) == records, url
  part = list(read_records(f"tfds://{tmp_path}/mine:train[5:12]"))
  assert part == records[5:12]
  (file,) = find_files(f"tfds://{tmp_path}")
  assert str(file) == f"tfds://{tmp_path}/mine/1.0.0:train"
  assert [line for line, _ in read_rows(file)] == list(range(1, 22))
  shards = list((tmp_path / "mine" / "1.0.0").glob("*.array_record-*"))
  assert len(shards) == {1: 21, 1 << 28: 1}.get(shard_bytes, len(shards))


def test_plain_tfds_opens_it(tmp_path, monkeypatch):
  # Catches: metadata that only our own reader understands.
  write_dataset(RECORDS, tmp_path, name="mine", source="a test")
  source = tfds.data_source("mine", data_dir=tmp_path, split="train")
  assert len(source) == len(RECORDS)
  assert json.loads(source[0]["rm_jax_record"])["margin"] == -0.5
  info = tfds.builder_from_directory(tmp_path / "mine" / "1.0.0").info
  assert "a test" in info.description
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  assert list(read_records("tfds://mine")) == list(RECORDS)


def test_a_bucket_holds_a_data_set(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  fs = fsspec.filesystem("memory")
  fs.store.clear()
  write_dataset(RECORDS, "memory://bucket", name="mine", source="a test")
  assert list(read_records("tfds://memory://bucket/mine")) == list(RECORDS)
  with pytest.raises(UserError, match="memory://bucket/mine/1.0.0 exists"):
    write_dataset(RECORDS, "memory://bucket", name="mine", source="a test")
  fs.store.clear()


def test_real_files_round_trip(tmp_path, rm_data):
  for name in ("hh_rlhf", "ultrafeedback_sample", "prmbench", "shepherd"):
    want = list(read_records(rm_data / name))
    write_dataset(want, tmp_path, name=name, source=name)
    got = list(read_records(f"tfds://{tmp_path}/{name}"))
    records = [r for r in want if isinstance(r, Record)]
    assert len(records) > 5
    # repr: NaN equals itself, and tuples are tuples.
    assert list(map(repr, got)) == list(map(repr, records)), name


def test_a_kind_comes_too_late(tmp_path):
  # Catches: a kind that is ignored in silence.
  write_dataset(RECORDS, tmp_path, name="mine", source="a test")
  with pytest.raises(UserError, match="kind='outcome' comes too late"):
    list(read_records(f"tfds://{tmp_path}", kind="outcome"))


def test_a_broken_writer_leaves_nothing(tmp_path):
  # Catches: a data set that looks complete and ends early.
  def broken():
    yield from RECORDS
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    write_dataset(broken(), tmp_path, name="mine", source="a test")
  assert list((tmp_path / "mine").iterdir()) == []
  with pytest.raises(UserError, match="expected a prepared data set"):
    find_files(f"tfds://{tmp_path}/mine")
  with pytest.raises(UserError, match="at least one record to write as mine"):
    write_dataset([], tmp_path, name="mine", source="a test")
  write_dataset(RECORDS, tmp_path, name="mine", source="a test")
  with pytest.raises(UserError, match="mine/1.0.0 exists: remove it"):
    write_dataset(RECORDS, tmp_path, name="mine", source="a test")
  with pytest.raises(UserError, match="name='My-Set': expected small letters"):
    write_dataset(RECORDS, tmp_path, name="My-Set", source="a test")


def test_tensorflow_is_never_imported(tmp_path):
  # Catches: a feature or a format that only TensorFlow writes or reads.
  code = f"""
import sys
from rm_jax.data.builder import write_dataset
from rm_jax.data.sources import read_records
from rm_jax.types import Record
write_dataset([Record("pair", "Q", ("a", "b"))], {str(tmp_path)!r},
              name="mine", source="a test")
assert len(list(read_records("tfds://{tmp_path}"))) == 1
print([m for m in ("tensorflow", "torch") if m in sys.modules])
"""
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True
  )
  assert done.stdout.strip() == "[]", done.stderr[-2_000:]


# ---------------------------------------------------------------- published


def test_published_features_become_rows(tmp_path):
  # Catches: bytes and numpy's numbers in rows, which no reader takes.
  f = tfds.features
  features = f.FeaturesDict(
    {
      "prompt": f.Text(),
      "completions": f.Sequence(f.Text()),
      "ratings": f.Sequence(np.float32),
      "count": np.int64,
      "safe": np.bool_,
      "label": f.ClassLabel(names=["no", "yes"]),
    }
  )
  row = {
    "prompt": "é?",
    "completions": ["a", "b"],
    "ratings": [1.5, 2.0],
    "count": 7,
    "safe": True,
    "label": "yes",
  }
  path = made(tmp_path, features, {"train": [row], "test": [row, row]})
  (file,) = find_files(f"tfds://{path}:test")
  want = row | {"label": 1}
  rows = list(read_rows(file))
  assert rows == [(1, want), (2, want)]
  assert json.loads(json.dumps(rows[0][1])) == want
  assert type(rows[0][1]["safe"]) is bool


def test_published_pairs_are_records(tmp_path):
  f = tfds.features
  features = f.FeaturesDict({"chosen": f.Text(), "rejected": f.Text()})
  chosen, rejected = (f"\n\nHuman: Q\n\nAssistant: {x}" for x in ("yes", "no"))
  rows = [{"chosen": chosen, "rejected": rejected}]
  path = made(tmp_path, features, {"train": rows})
  (got,) = read_records(f"tfds://{path}")
  assert got.completions == ("yes", "no")
  assert (got.source, got.line) == (f"tfds://{path}:train", 1)


def test_bytes_that_are_no_text_are_a_reject(tmp_path):
  features = tfds.features.FeaturesDict({"prompt": tfds.features.Text()})
  path = made(tmp_path, features, {"train": [{"prompt": b"\xff"}]})
  (file,) = find_files(f"tfds://{path}")
  ((line, bad),) = read_rows(file)
  assert line == 1 and isinstance(bad, BadRow)
  assert "no UTF-8" in str(bad)


def test_addresses_that_lead_nowhere(tmp_path, monkeypatch):
  # Catches: a download begun, a split chosen for the user, a traceback.
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
  features = tfds.features.FeaturesDict({"prompt": tfds.features.Text()})
  part = [{"prompt": "Q"}]
  path = made(tmp_path, features, {"train": part, "test": part})
  for url, words in (
    ("tfds://mnist", "expected a prepared data set .*prepared/mnist"),
    (f"tfds://{path}", f"one split, got none; write one of tfds://{path}:"),
    (f"tfds://{path}:tain", "one split, got 'tain'"),
    (f"tfds://{path}:train[x:y]", "got ValueError"),
    ("tfds://", "expected tfds://NAME"),
  ):
    with pytest.raises(UserError, match=words):
      list(read_records(url))
  write_dataset(RECORDS, tmp_path, name="mine", source="a test")
  with pytest.raises(UserError, match="expected one data set, got 2 there"):
    find_files(f"tfds://{tmp_path}")


def test_a_data_set_in_another_format(tmp_path):
  # Catches: the ImportError of TensorFlow where a data set is tfrecord.
  path = tmp_path / "mine" / "1.0.0"
  write_dataset(RECORDS, tmp_path, name="mine", source="a test")
  info = path / "dataset_info.json"
  info.write_text(info.read_text().replace("array_record", "tfrecord"))
  with pytest.raises(UserError, match="data set in the format array_record"):
    list(read_records(f"tfds://{path}"))
