"""The file of states: whole or not there, and refused where it does not fit.

Catches: a file that looks whole after a kill, states of another model taken
for ours, rows written where they do not belong, a full disk that kills the
process or leaves half a file.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from rm_jax.data.states import Part, fill_states, open_states
from rm_jax.types import UserError

ROOT = pathlib.Path(__file__).parents[2]
KEY = {"frozen_sha256": "abc", "data": {"train": {"groups": 3}}}
FIRSTS = [0, 2, 5, 6]  # of three groups
WANT = np.arange(12, dtype=np.float32).reshape(6, 2) + 0.5


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  """Locks go to a folder of the test."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


def computing(asked, stop_at=None):
  """compute() that gives one group at a time, its rows backwards."""

  def compute(missing):
    asked.append(missing.tolist())
    for group in missing:
      if group == stop_at:
        raise KeyboardInterrupt
      rows = np.arange(FIRSTS[group], FIRSTS[group + 1])[::-1]
      yield Part(rows, WANT[rows], np.array([group]))

  return compute


def fill(folder, compute, key=KEY):
  return fill_states(folder, key, (6, 2), 3, compute)


def test_filled_once_then_found(tmp_path):
  folder, asked = tmp_path / "a" / "states", []
  assert open_states(folder, KEY) is None
  for _ in range(2):
    np.testing.assert_array_equal(fill(folder, computing(asked)), WANT)
  assert asked == [[0, 1, 2]]
  assert sorted(p.name for p in folder.parent.iterdir()) == ["states"]
  assert isinstance(open_states(folder, KEY), np.memmap)


def test_a_stopped_fill_goes_on_where_it_was(tmp_path):
  folder, asked = tmp_path / "states", []
  with pytest.raises(KeyboardInterrupt):
    fill(folder, computing(asked, stop_at=2))
  assert not folder.exists(), "looks whole"
  np.testing.assert_array_equal(fill(folder, computing(asked)), WANT)
  assert asked == [[0, 1, 2], [2]]


def test_what_another_key_began_is_not_gone_on_with(tmp_path):
  folder, asked = tmp_path / "states", []
  with pytest.raises(KeyboardInterrupt):
    fill(folder, computing([], stop_at=2), KEY | {"frozen_sha256": "old"})
  np.testing.assert_array_equal(fill(folder, computing(asked)), WANT)
  assert asked == [[0, 1, 2]]


def test_sigkill_while_rows_are_written_leaves_nothing_that_looks_whole(
  tmp_path,
):
  folder = tmp_path / "states"
  code = f"""
import os, signal
import numpy as np
from rm_jax.data import states
from tests.data import test_states as t
fsync, calls = os.fsync, []
def stop(fd):  # the second group's rows are written, its mark is not
  calls.append(fd)
  if len(calls) == 2:
    os.kill(os.getpid(), signal.SIGKILL)
  fsync(fd)
os.fsync = stop
t.fill({str(folder)!r}, t.computing([]))
"""
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
  assert done.returncode == -signal.SIGKILL
  assert not folder.exists() and open_states(folder, KEY) is None
  asked = []
  np.testing.assert_array_equal(fill(folder, computing(asked)), WANT)
  assert asked == [[1, 2]]


@pytest.mark.parametrize(
  "change, message",
  [
    ({"frozen_sha256": "xyz"}, "frozen_sha256: stored 'abc', ours 'xyz'"),
    (
      {"data": {"train": {"groups": 4}}},
      "data.train.groups: stored 3, ours 4",
    ),
  ],
)
def test_states_of_something_else_are_refused_by_name(
  tmp_path, change, message
):
  folder = tmp_path / "states"
  fill(folder, computing([]))
  with pytest.raises(UserError) as error:
    fill(folder, computing([]), KEY | change)
  assert message in str(error.value) and "\n" not in str(error.value)
  np.testing.assert_array_equal(open_states(folder, KEY), WANT)  # untouched


@pytest.mark.parametrize("size", [0, 44, 52])
def test_a_file_of_another_length_is_refused(tmp_path, size):
  folder = tmp_path / "states"
  fill(folder, computing([]))
  os.truncate(folder / "states.float32", size)
  with pytest.raises(
    UserError, match=f"expected 48 bytes, got {size}: .*damaged; remove"
  ):
    fill(folder, computing([]))


def test_a_folder_of_other_things_is_not_written_to(tmp_path):
  (tmp_path / "notes.txt").write_text("mine")
  with pytest.raises(UserError, match="got something without states.json"):
    fill(tmp_path, computing([]))
  assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_folder_is_taken(tmp_path):
  folder = tmp_path / "states"
  folder.mkdir()
  np.testing.assert_array_equal(fill(folder, computing([])), WANT)


def test_a_url_cannot_be_mapped():
  with pytest.raises(UserError, match=r"cache_hidden=gs://b/x: expected a fol"):
    open_states("gs://b/x", KEY)


def test_no_room_is_said_before_anything_is_computed(tmp_path):
  shape = (1 << 50, 1 << 6)
  with pytest.raises(
    UserError, match=r"no room for .*,\d{3} bytes needed, [\d,]+ free"
  ):
    fill_states(tmp_path / "states", KEY, shape, 3, computing([]))
  assert not list(tmp_path.glob("*states*"))


def test_a_disk_that_fills_up_on_the_way_is_named(tmp_path):
  # The system's own error: no file of this process may grow beyond 40 bytes.
  folder = tmp_path / "states"
  code = f"""
import resource, signal
from rm_jax.types import UserError
from tests.data import test_states as t
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from rm_jax.data import states
begin = states._begin
def limited(*args):
  filled = begin(*args)
  resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40))
  return filled
states._begin = limited
try:
  t.fill({str(folder)!r}, t.computing([]))
except UserError as error:
  print(error)
"""
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    check=True,
    capture_output=True,
    text=True,
  )
  assert "no room for the hidden states of 6 tokens, 48 bytes" in done.stdout
  assert "File too large" in done.stdout and not folder.exists()


def test_the_index_says_what_the_states_are_of(tmp_path):
  fill(tmp_path / "states", computing([]))
  names = sorted(p.name for p in (tmp_path / "states").iterdir())
  assert names == ["states.float32", "states.json"]
  index = json.loads((tmp_path / "states" / "states.json").read_text())
  assert index == {"key": KEY, "shape": [6, 2]}
