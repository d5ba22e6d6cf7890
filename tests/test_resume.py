"""A run that is stopped and started again is the run that was not.

Catches: data that start over, a position ahead of the state, moments that are
not saved, rows of metrics.jsonl twice or missing, a checkpoint that a kill
leaves half written and that counts.
"""

import json
import signal

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny_run

from rm_jax.models.sharding import make_mesh
from rm_jax.train import checkpoint, loop

# In the process of the run: a signal to itself at a known place. No race with
# a clock, and SIGKILL is SIGKILL whoever sends it.
AT_ROW = """
import os, signal
from rm_jax.train import log
write = log.Log.write
def stop(self, row):
  write(self, row)
  if row["step"] == {step}:
    os.kill(os.getpid(), signal.{signal})
log.Log.write = stop
"""
AT_SAVE = """
import os, signal
import orbax.checkpoint as ocp
wait = ocp.CheckpointManager.wait_until_finished
def stop(self):
  if str(self.directory).endswith("checkpoints"):
    os.kill(os.getpid(), signal.SIGKILL)  # its writers have just begun
  wait(self)
ocp.CheckpointManager.wait_until_finished = stop
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp("resume")
  return (
    tiny_run.write_rows(folder / "pairs.jsonl", tiny_run.pairs(40)),
    tiny_run.write_tokenizer(folder / "tokenizer"),
  )


def finish(process):
  out, err = process.communicate(timeout=120)
  return process.returncode, out, err


def last_state(workdir):
  """Leaves of the last checkpoint, by name; and its position."""
  names = [p.name for p in (workdir / "checkpoints").iterdir()]
  step = max(int(name) for name in names if name.isdecimal())
  folder = (workdir / "checkpoints" / str(step)).absolute()
  with ocp.StandardCheckpointer() as reader:
    tree = jax.device_get(reader.restore(folder / "state"))
  position = json.loads((folder / "position" / "metadata").read_text())
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {jax.tree_util.keystr(k): np.asarray(v) for k, v in leaves}, position


def test_four_steps_are_two_and_a_kill_and_two(files, tmp_path):
  data, tokenizer = files
  whole, broken = tmp_path / "whole", tmp_path / "broken"
  go = {
    w: tiny_run.command(data, tokenizer, w, evals__every=2, model__dropout=0.1)
    for w in (whole, broken)
  }
  assert finish(tiny_run.start(go[whole]))[0] == 0

  # 1. Killed after the row of step 3: checkpoint 2 is the last.
  before = AT_ROW.format(step=3, signal="SIGKILL")
  code, _, _ = finish(tiny_run.start(go[broken], before=before))
  assert code == -signal.SIGKILL
  path = broken / "metrics.jsonl"
  assert [r["step"] for r in tiny_run.rows_without_times(broken)] == [
    0,
    1,
    2,
    3,
  ]
  with path.open("a") as file:
    file.write('{"step": 4, "loss": 0.6')  # as a kill within a write leaves it

  # 2. Asked to stop at step 3: saved there, exit code 75.
  before = AT_ROW.format(step=3, signal="SIGTERM")
  code, out, err = finish(tiny_run.start(go[broken], before=before))
  assert code == 75, err
  assert "going on after step 2" in out and "saved step 3" in out
  assert "not as before" not in out
  assert [r["step"] for r in tiny_run.rows_without_times(broken)] == [
    0,
    1,
    2,
    3,
  ]

  # 3. Killed while the checkpoint of step 4 is written: 3 stays the last.
  code, _, _ = finish(tiny_run.start(go[broken], before=AT_SAVE))
  assert code == -signal.SIGKILL
  assert int(last_state(broken)[0]["['step']"]) == 3

  # 4. To the end.
  code, out, err = finish(tiny_run.start(go[broken]))
  assert code == 0, err
  assert "going on after step 3" in out
  names = sorted(p.name for p in (broken / "checkpoints").iterdir())
  assert names == ["3", "4"]  # keep=2, and nothing half written is left

  assert tiny_run.rows_without_times(broken) == tiny_run.rows_without_times(
    whole
  )
  (got, position), (want, position_of_whole) = map(last_state, (broken, whole))
  assert got.keys() == want.keys()
  for name in want:
    np.testing.assert_array_equal(got[name], want[name], err_msg=name)
  assert position == position_of_whole
  assert (broken / "best.json").read_text() == (whole / "best.json").read_text()
  ours, theirs = (
    json.loads((w / "results.json").read_text())["metrics"]
    for w in (broken, whole)
  )
  assert ours == theirs


@pytest.mark.slow
def test_a_run_goes_on_under_other_meshes(files, tmp_path, monkeypatch):
  # pjit on 8, then pmap on 8, then pjit on 1. In float32, sums in another
  # order differ in the last bits: 1e-5.
  data, tokenizer = files
  whole, moved = tmp_path / "whole", tmp_path / "moved"

  def go(workdir, *, count, parallel, stop):
    config = tiny_run.config(
      data, tokenizer, parallel=parallel, data__blocks=8, optim__eps=1e-3
    )

    def write_and_stop(self, row, write=loop.Log.write):
      write(self, row)
      if row["step"] == stop:
        signal.raise_signal(signal.SIGTERM)

    def mesh(**shape):
      return make_mesh(**shape, devices=jax.devices()[:count])

    with monkeypatch.context() as m:
      m.setattr(loop.Log, "write", write_and_stop)
      m.setattr(loop, "make_mesh", mesh)
      return loop.train(config, workdir, command="")

  assert go(whole, count=8, parallel="pjit", stop=None) == 0
  assert go(moved, count=8, parallel="pjit", stop=1) == 75
  assert go(moved, count=8, parallel="pmap", stop=3) == 75
  assert go(moved, count=1, parallel="pjit", stop=None) == 0
  (got, position), (want, position_of_whole) = map(last_state, (moved, whole))
  for name in want:
    limit = 1e-5 * np.abs(want[name]).max()
    np.testing.assert_allclose(
      got[name], want[name], rtol=0, atol=limit, err_msg=name
    )
  assert position == position_of_whole
  losses = [
    [r["loss"] for r in tiny_run.rows_without_times(w)[1:]]
    for w in (moved, whole)
  ]
  np.testing.assert_allclose(*losses, rtol=1e-5)


def test_another_config_is_refused_and_changes_nothing(files, tmp_path, capsys):
  data, tokenizer = files
  go = dict(data__blocks=8, num_train_steps=2)
  workdir = tmp_path / "run"
  assert (
    loop.train(tiny_run.config(data, tokenizer, **go), workdir, command="") == 0
  )
  before = (workdir / "run.json").read_text()
  rows = (workdir / "metrics.jsonl").read_text()
  for change, message in (
    (
      dict(train__trainable="head"),
      "does not fit this config: .* leaves differ",
    ),
    (dict(model__pooling="mean"), r"policy\.pooling: stored 'last_token'"),
  ):
    with pytest.raises(ValueError, match=message) as error:
      loop.train(
        tiny_run.config(data, tokenizer, **go | change), workdir, command=""
      )
    assert "\n" not in str(error.value)
    # Wrong: run.json replaced first, so that it no longer says what was run.
    assert (workdir / "run.json").read_text() == before
    assert (workdir / "metrics.jsonl").read_text() == rows
  # What may change is said, not hidden.
  capsys.readouterr()
  more = tiny_run.config(data, tokenizer, **go | dict(num_train_steps=3))
  assert loop.train(more, workdir, command="") == 0
  assert (
    "not as before the restart: config.num_train_steps was 2, is 3"
    in capsys.readouterr().out
  )
  assert checkpoint.load_params(workdir, "last", None)[1] == 3
