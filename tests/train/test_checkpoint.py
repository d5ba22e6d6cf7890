"""Checkpoints: whole or not there, what is expected, room on the disk."""

import collections
import errno
import json
import math
import pathlib
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from rm_jax.train import checkpoint
from rm_jax.train.checkpoint import (
  is_disk_full,
  load_params,
  nbytes,
  open_checkpoints,
  restore,
  save,
  save_best,
  write_json,
)
from rm_jax.train.step import TrainState
from rm_jax.types import UserError

Moments = collections.namedtuple("Moments", "count mu")


def state(step, size=3):
  params = {"head": {"kernel": np.arange(size, dtype=np.float32) + step}}
  moments = (Moments(np.int32(step), params), ())
  return TrainState(np.int32(step), np.int32(0), params, moments)


@pytest.fixture
def manager(tmp_path):
  with_room = open_checkpoints(tmp_path, keep=2)
  yield with_room
  with_room.close()


def assert_equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert np.asarray(x).dtype == np.asarray(y).dtype
    np.testing.assert_array_equal(x, y)


def test_nothing_saved_is_nothing_restored(manager):
  assert restore(manager, state(0)) is None


def test_the_latest_comes_back_with_its_position_and_the_oldest_goes(
  manager, tmp_path
):
  for step in (2, 4, 6):
    save(manager, step, state(step), {"next_index": step})
  found, position = restore(manager, state(0))
  assert_equal(found, state(6))
  assert position == {"next_index": 6}
  kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
  assert kept == ["4", "6"]


def test_params_of_any_kept_step(manager, tmp_path):
  save(manager, 2, state(2), {})
  save(manager, 4, state(4), {})
  params, step = load_params(tmp_path, "last", None)
  assert step == 4
  assert_equal(params, state(4).params)
  assert_equal(load_params(tmp_path, "last", 2)[0], state(2).params)
  with pytest.raises(
    UserError, match=r"no checkpoint 3, found \[2, 4\]\. Train"
  ):
    load_params(tmp_path, "last", 3)
  with pytest.raises(UserError, match=r"best: no checkpoint, found \[\]"):
    load_params(tmp_path, "best", None)


@pytest.mark.parametrize(
  "other",
  [
    state(0, size=5),
    state(0)._replace(opt_state=()),
    state(0)._replace(params={"head": {"kernel": np.arange(3)}}),
  ],
  ids=["shape", "structure", "type"],
)
def test_another_config_is_one_clear_line(manager, other):
  # Wrong: orbax's own words, or values cast in silence.
  save(manager, 2, state(2), {})
  with pytest.raises(
    UserError, match=r"does not fit this config.*run\.json"
  ) as e:
    restore(manager, other)
  assert "\n" not in str(e.value)


def test_too_little_room_is_known_before_writing(manager, monkeypatch):
  save(manager, 2, state(2), {"next_index": 2})
  usage = shutil.disk_usage("/")._replace(free=10)
  monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage)
  need = nbytes(state(4))
  assert need == 4 + 4 + 12 + 4 + 12
  with pytest.raises(
    UserError, match=rf"no room .* step 4 \({need} bytes needed, 10 free\)"
  ) as e:
    save(manager, 4, state(4), {})
  assert "\n" not in str(e.value)
  assert restore(manager, state(0))[1] == {"next_index": 2}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_that_fills_up_while_writing(manager, monkeypatch, code):
  save(manager, 2, state(2), {"next_index": 2})

  def full(*_, **__):
    raise OSError(code, __import__("os").strerror(code))

  with monkeypatch.context() as m:
    m.setattr(ocp.CheckpointManager, "save", full)
    with pytest.raises(
      UserError, match="step 4 .*Earlier checkpoints are whole"
    ):
      save(manager, 4, state(4), {})
    with pytest.raises(UserError, match="best: no room"):
      save_best(pathlib.Path(manager.directory).parent, 4, state(4).params)
  assert restore(manager, state(0))[1] == {"next_index": 2}


def test_other_failures_are_not_called_a_full_disk(manager, monkeypatch):
  def broken(*_, **__):
    raise OSError(errno.EIO, "Input/output error")

  monkeypatch.setattr(ocp.CheckpointManager, "save", broken)
  with pytest.raises(OSError, match="Input/output"):
    save(manager, 2, state(2), {})
  assert not is_disk_full(ValueError("shape"))


def test_a_half_written_checkpoint_does_not_count(manager, tmp_path):
  # What a kill leaves: a temporary folder, never a plain number.
  save(manager, 2, state(2), {"next_index": 2})
  folder = tmp_path / "checkpoints"
  half = folder / "4.orbax-checkpoint-tmp-7"
  shutil.copytree(folder / "2", half)
  with_rest = open_checkpoints(tmp_path, keep=2)
  found, position = restore(with_rest, state(0))
  assert position == {"next_index": 2}
  assert_equal(found, state(2))
  assert load_params(tmp_path, "last", None)[1] == 2
  save(with_rest, 4, state(4), {"next_index": 4})
  assert restore(with_rest, state(0))[1] == {"next_index": 4}
  with_rest.close()


def test_best_is_one_and_the_newest(tmp_path):
  save_best(tmp_path, 2, state(2).params)
  save_best(tmp_path, 6, state(6).params)
  save_best(tmp_path, 6, state(6).params)  # after a restart: is there already
  assert [p.name for p in (tmp_path / "best").iterdir()] == ["6"]
  params, step = load_params(tmp_path, "best", None)
  assert step == 6
  assert_equal(params, state(6).params)


def test_json_is_whole_or_as_before(tmp_path, monkeypatch):
  path = tmp_path / "best.json"
  write_json(path, {"value": 1})
  with pytest.raises(TypeError):
    write_json(path, {"value": object()})
  for number in (math.nan, math.inf):
    with pytest.raises(ValueError, match=r"best\.json: expected finite.*null"):
      write_json(path, {"value": number})
  assert json.loads(path.read_text()) == {"value": 1}
