"""A workdir behind a URL: a run goes on where only the URL is left."""

import functools
import json
import pathlib
import shutil

import fsspec
import jax
import numpy as np
import pytest
import tiny_run

from rm_jax.inference import RewardModel
from rm_jax.models.sharding import make_mesh
from rm_jax.train import loop
from rm_jax.train import mirror as module
from rm_jax.train.checkpoint import load_params
from rm_jax.train.mirror import fetch_mirror, open_mirror, push
from rm_jax.types import UserError
from tests.data.fixtures import make_tokenizer


@pytest.fixture
def place(tmp_path, monkeypatch):
  """An empty URL, and caches of this test only."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
  one = functools.partial(make_mesh, devices=jax.devices()[:1])
  monkeypatch.setattr(loop, "make_mesh", one)
  fs = fsspec.filesystem("memory")
  fs.store.clear()
  fs.pseudo_dirs[:] = [""]
  yield "memory://bucket/run"
  fs.store.clear()
  fs.pseudo_dirs[:] = [""]


def start(tmp_path, place, steps, **changes):
  folder = tmp_path / "tokenizer"
  if not folder.exists():
    folder.mkdir()
    tiny_run.write_tokenizer(folder, make_tokenizer())
    tiny_run.write_rows(tmp_path / "pairs.jsonl", tiny_run.pairs(24))
  c = tiny_run.config(
    tmp_path / "pairs.jsonl", folder, num_train_steps=4, **changes
  )
  mirror = open_mirror(place)
  calls = []

  def saved():
    push(mirror)
    calls.append(1)
    if len(calls) == steps // 2:
      raise KeyboardInterrupt  # the machine is gone

  if steps == 4:
    assert (
      loop.train(
        c, mirror.folder, command="x", saved=functools.partial(push, mirror)
      )
      == 0
    )
    push(mirror)
  else:
    with pytest.raises(KeyboardInterrupt):
      loop.train(c, mirror.folder, command="x", saved=saved)
  return mirror.folder


@pytest.mark.slow
def test_four_steps_are_two_a_lost_machine_and_two(tmp_path, place):
  # Wrong: a checkpoint that is there in part, or none, so that the second
  # machine begins again.
  whole = start(tmp_path, str(tmp_path / "whole"), 4)
  gone = start(tmp_path, place, 2)
  assert sorted(p.name for p in (gone / "checkpoints").iterdir()) == ["2"]
  shutil.rmtree(tmp_path / "caches")
  again = start(tmp_path, place, 4)
  assert tiny_run.rows_without_times(again) == tiny_run.rows_without_times(
    whole
  )
  a, b = (load_params(w, "last", None)[0] for w in (whole, again))
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(x, y)
  # The model is there for whoever knows the URL.
  shutil.rmtree(tmp_path / "caches")
  ask = ("Who wrote this ?", ["A poet .", "Nobody ."])
  np.testing.assert_array_equal(
    RewardModel.load(place).score(*ask), RewardModel.load(whole).score(*ask)
  )


def test_a_checkpoint_that_was_never_vouched_for_is_left(place):
  mirror = open_mirror(place)
  for step in (2, 4):
    (mirror.folder / f"checkpoints/{step}").mkdir(parents=True)
    (mirror.folder / f"checkpoints/{step}/state").write_text(str(step))
  (mirror.folder / "metrics.jsonl").write_text("{}\n")
  push(mirror)
  fs = fsspec.filesystem("memory")
  # Step 6 breaks off: its files are there, the index does not name it.
  fs.pipe_file("/bucket/run/checkpoints/6/state", b"half")
  shutil.rmtree(mirror.folder / "checkpoints/2")  # as `keep` does
  push(mirror)
  names = {p.removeprefix("/bucket/run/") for p in fs.find("/bucket/run")}
  assert names == {
    "mirror.json",
    "metrics.jsonl",
    "checkpoints/4/state",
    "checkpoints/6/state",
  }
  assert json.loads(fs.cat_file("/bucket/run/mirror.json")) == {
    "checkpoints": ["4"]
  }
  found = open_mirror(place).folder
  assert {
    p.relative_to(found).as_posix() for p in found.rglob("*") if p.is_file()
  } == {"metrics.jsonl", "checkpoints/4/state"}


def test_reading_a_run_leaves_the_folder_of_the_one_that_writes(place):
  # Wrong: a model that is loaded from a URL empties the folder in which a run
  # of the same machine is at work.
  mirror = open_mirror(place)
  (mirror.folder / "run.json").write_text("{}")
  push(mirror)
  (mirror.folder / "new").write_text("not sent yet")
  copy = fetch_mirror(place)
  assert copy != mirror.folder and (mirror.folder / "new").exists()
  assert sorted(p.name for p in copy.iterdir()) == ["mirror.json", "run.json"]
  assert fetch_mirror(place + "/nothing") is None


def test_only_what_changed_is_sent(place, monkeypatch):
  mirror = open_mirror(place)
  (mirror.folder / "a").write_text("1")
  (mirror.folder / "b").write_text("1")
  push(mirror)
  sent = []
  fs = type(fsspec.filesystem("memory"))
  put = fs.put_file

  def count(self, local, path, **how):
    sent.append(path.rpartition("/")[2])
    return put(self, local, path, **how)

  monkeypatch.setattr(fs, "put_file", count)
  (mirror.folder / "b").write_text("22")
  push(mirror)
  assert sent == ["b"]


def test_checkpoints_of_several_hosts_stay_in_the_bucket(place, monkeypatch):
  # Wrong: copied down by every host; removed by the first, whose folder has
  # none; not named, so that a run of one process begins anew.
  url = str(place)
  fs = fsspec.filesystem("memory")
  with monkeypatch.context() as m:
    m.setattr(jax, "process_count", lambda: 2)
    m.setattr(module, "BUCKETS", ("memory",))
    ours = open_mirror(place)
    assert ours.place == url
    (ours.folder / "run.json").write_text("{}")
    fs.pipe_file("/bucket/run/checkpoints/2/state", b"2")  # as orbax does
    push(ours)
    again = open_mirror(place)
    assert [p.name for p in again.folder.iterdir()] == ["run.json"]
    m.setattr(jax, "process_index", lambda: 1)
    other = open_mirror(place)
    assert other.folder != again.folder
    (other.folder / "run.json").write_text("what the first host has")
    push(other)
    assert fs.cat_file("/bucket/run/run.json") == b"{}"
  alone = open_mirror(place)
  assert (alone.folder / "checkpoints/2/state").read_text() == "2"
  push(alone)
  with monkeypatch.context() as m:
    m.setattr(jax, "process_count", lambda: 2)
    m.setattr(module, "BUCKETS", ("memory",))
    with pytest.raises(UserError, match="begun by one process and goes on"):
      open_mirror(place)


def test_a_path_of_this_machine_stays_one(tmp_path):
  for workdir in (tmp_path, str(tmp_path), f"file://{tmp_path}"):
    mirror = open_mirror(workdir)
    assert (mirror.folder, mirror.url) == (pathlib.Path(tmp_path), "")
    push(mirror)
  assert not any(tmp_path.iterdir())


def test_an_address_without_driver_says_what_to_install():
  with pytest.raises(UserError, match=r"nosuch://x: nosuch:// is unknown"):
    open_mirror("nosuch://x")
