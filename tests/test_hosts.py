"""Several processes are one run: the numbers, the data and the end of one.

Two processes of four CPU devices over gloo against one of eight. Catches: a
host that lays the wrong blocks or steps on its own gradient, a log row written
twice, a checkpoint of one host's half, a run that waits for ever for a host
that is gone, hosts that train on while they disagree.
"""

import json
import os
import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny_run

from rm_jax.models.sharding import make_mesh, own_blocks, put_blocks
from rm_jax.train import checkpoint, hosts, loop, mirror
from rm_jax.train.log import read_rows
from rm_jax.types import UserError

STEPS = 9
CHANGES = dict(
  num_train_steps=STEPS,
  data__blocks=8,
  data__row_len=128,
  data__groups_per_batch=24,  # three a row
  train__checkpoint_every=2,
  # Adam divides by the gradient's own size: where a gradient is rounding noise
  # the step would be noise of size lr.
  optim__eps=1e-3,
)
HANGS = 600  # seconds after which a process is not slow but stuck
CUT = "--config.mesh.fsdp=2"  # parameters are cut as well

# In a host that is not the first, which logs nothing: after the row of a step.
AT_ROW = """
import os, signal, time
from rm_jax.train import log
def stop(self, row):
  if row["step"] == {step}:
    print("at", time.time(), flush=True)
    os.kill(os.getpid(), signal.{signal})
    time.sleep({sleep})
log.Silent.write = stop
"""
# A look at all hosts every third step, and a line where one is slower at all.
LOOK = """
from rm_jax.train import loop, stragglers
stragglers.EVERY, stragglers.RATIO, stragglers.PATIENCE = 3, 1.0, 2
"""
# A host that takes longer to read its batches.
SLOW = """
import time
opened = loop.open_loader
class Slow:
  def __init__(self, *args, **how):
    self.inside = opened(*args, **how)
    self.get_state = self.inside.get_state
  def __next__(self):
    time.sleep(0.3)
    return next(self.inside)
loop.open_loader = Slow
"""
# What Python prints, apart from gloo's own threads, which write to the same
# descriptor at the same time and into each other's lines.
ASIDE = "import sys; sys.stdout = open({path!r}, 'w', buffering=1)"
AT_ROW_ALONE = AT_ROW.replace("log.Silent", "write = log.Log.write\nlog.Log")
AT_ROW_ALONE = AT_ROW_ALONE.replace("  if row", "  write(self, row)\n  if row")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp("hosts")
  os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "xla")
  yield (
    tiny_run.write_rows(folder / "pairs.jsonl", tiny_run.pairs(60)),
    tiny_run.write_tokenizer(folder / "tokenizer"),
  )
  del os.environ["JAX_COMPILATION_CACHE_DIR"]


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory):
  """The run of one process and eight devices."""
  workdir = tmp_path_factory.mktemp("whole") / "run"
  config = tiny_run.config(*files, **CHANGES, mesh__fsdp=2)
  assert loop.train(config, workdir, command="") == 0
  return workdir


def finish(processes):
  """[(exit code, stdout, stderr)], in the order of the hosts."""
  try:
    said = [process.communicate(timeout=HANGS) for process in processes]
  finally:
    for process in processes:
      process.kill()  # nothing, where it has ended
  return [(p.returncode, *x) for p, x in zip(processes, said, strict=True)]


def checkpoint_of(workdir, step):
  """Leaves of a checkpoint by name, and its position."""
  folder = (workdir / "checkpoints" / str(step)).absolute()
  with ocp.StandardCheckpointer() as reader:
    found = reader.metadata(folder / "state").item_metadata.tree
    tree = reader.restore(
      folder / "state",
      jax.tree.map(lambda x: np.empty(x.shape, x.dtype), found),
    )
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  position = json.loads((folder / "position" / "metadata").read_text())
  return {jax.tree_util.keystr(k): v for k, v in leaves}, position


def steps_of(workdir):
  names = [p.name for p in (workdir / "checkpoints").iterdir()]
  return sorted(int(name) for name in names if name.isdecimal())


def assert_same_run(workdir, whole):
  (got, position), (want, other) = (
    checkpoint_of(w, STEPS) for w in (workdir, whole)
  )
  assert got.keys() == want.keys()
  assert position == other
  for name in want:
    np.testing.assert_allclose(
      got[name], want[name], rtol=0, atol=1e-6, err_msg=name
    )
  mine, rows = (tiny_run.rows_without_times(w) for w in (workdir, whole))
  assert [r["step"] for r in mine] == list(range(STEPS + 1))
  for a, b in zip(mine, rows, strict=True):
    assert a.keys() == b.keys()
    for key in b:
      if b[key] is None:  # an evaluation that a set of this size does not allow
        assert a[key] is None
        continue
      np.testing.assert_allclose(
        a[key], b[key], rtol=1e-4, atol=1e-6, err_msg=f"{a['step']} {key}"
      )
  scores = [np.load(w / "scores.npz")["scores"] for w in (workdir, whole)]
  np.testing.assert_allclose(*scores, atol=1e-6)


@pytest.mark.slow
def test_two_hosts_are_one_run(files, whole, tmp_path):
  workdir = tmp_path / "run"
  go = tiny_run.command(*files, workdir, **CHANGES)
  quiet = ASIDE.format(path=str(tmp_path / "quiet.txt"))
  (code, out, err), (other, _, _) = finish(
    tiny_run.start_hosts(
      [*go, CUT, "--trace_steps=5:6"],
      before=(LOOK, f"{quiet}\n{LOOK}{SLOW}"),
    )
  )
  assert (code, other) == (0, 0), err
  # What is compared has something to go wrong: a head that is not zero, several
  # groups in a row, and it learned.
  rows = tiny_run.rows_without_times(whole)[1:]
  assert all(r["groups"] * 128 == 3 * r["computed_tokens"] for r in rows)
  params = checkpoint.load_params(whole, "last", None)[0]
  assert np.abs(params["head"]["kernel"]).max() > 1e-3
  assert_same_run(workdir, whole)
  # The first host speaks and writes, the other does not.
  assert "on 2 hosts" in out and "report.html" in out
  assert (tmp_path / "quiet.txt").read_text() == ""
  names = {p.name for p in workdir.iterdir() if p.suffix != ".png"}
  assert names == {p.name for p in whole.iterdir()} | {"report.html", "trace"}
  for host in ("host-0", "host-1"):
    assert len([*(workdir / "trace" / host).rglob("*.xplane.pb")]) == 1
  # Whom the others wait for, at steps 3, 6 and 9, said once.
  logged = read_rows(workdir / "metrics.jsonl")
  slowest = [
    (r["step"], r["slowest_host"]) for r in logged if "slowest_host" in r
  ]
  assert slowest == [(3, 1), (6, 1), (9, 1)]
  assert [x for x in out.splitlines() if "makes the others wait" in x] == [
    x for x in out.splitlines() if x.startswith("step 6: note: host 1 makes")
  ]
  assert out.count("makes the others wait") == 1
  # One process reads what two wrote.
  best = json.loads((workdir / "best.json").read_text())
  assert checkpoint.load_params(workdir, "best", None)[1] == best["step"]


@pytest.mark.slow
def test_a_run_goes_on_with_other_hosts_and_devices(files, whole, tmp_path):
  # 2 x 4, killed; 2 x 4, asked to stop; 1 x 4, asked to stop; 1 x 1.
  workdir = tmp_path / "run"
  go = tiny_run.command(*files, workdir, **CHANGES)

  # 1. Host 1 is killed after step 3: host 0 says so, checkpoint 2 is whole.
  first, second = tiny_run.start_hosts(
    [*go, CUT], before=("", AT_ROW.format(step=3, signal="SIGKILL", sleep=0))
  )
  at = float(second.communicate(timeout=HANGS)[0].split("at ")[1])
  _, err = first.communicate(timeout=HANGS)
  assert time.time() - at < 20
  assert second.returncode == -signal.SIGKILL
  assert first.returncode != 0
  assert "gone" in err or "another task died" in err, err
  assert steps_of(workdir) == [2]

  # 2. Host 1 is asked to stop after step 4: both save the same step.
  processes = tiny_run.start_hosts(
    [*go, CUT], before=("", AT_ROW.format(step=4, signal="SIGTERM", sleep=3))
  )
  (code, out, err), (other, _, _) = finish(processes)
  assert (code, other) == (75, 75), err
  assert "going on after step 2" in out
  last = steps_of(workdir)[-1]
  assert 4 < last < STEPS - 1 and f"saved step {last}" in out

  # 3. One process and four devices take it up.
  before = AT_ROW_ALONE.format(step=last + 1, signal="SIGTERM", sleep=0)
  code, out, err = finish(
    [tiny_run.start([*go, CUT], devices=4, before=before)]
  )[0]
  assert code == 75, err
  assert f"going on after step {last}" in out

  # 4. One device, to the end.
  code, out, err = finish([tiny_run.start(go, devices=1)])[0]
  assert code == 0, err
  assert f"going on after step {last + 1}" in out
  assert "config.mesh.fsdp was 2, is 1" in out
  assert_same_run(workdir, whole)


@pytest.mark.slow
def test_hosts_that_differ_are_refused_before_they_train(files, tmp_path):
  workdir = tmp_path / "run"
  go = tiny_run.command(*files, workdir, **CHANGES)
  old = "from rm_jax.train import results\nresults.commit = lambda: 'old'"
  both = finish(
    tiny_run.start_hosts(
      go, before=("", old), more=((), ("--config.optim.lr=0.5",))
    )
  )
  for code, _, err in both:
    assert code == 2, err
    line = err.strip().splitlines()[-1]
    assert line.startswith("rm-jax: error: host 1 is not to do what host 0")
    assert "config.optim.lr is 0.001 on host 0, 0.5 on 1" in line
    assert "commit is " in line and "'old' on 1" in line
  assert not workdir.exists()

  # The same words, other data: a copy on every host, one of them older.
  rows, homes = tiny_run.pairs(60), []
  for host in ("first", "second"):
    (tmp_path / host).mkdir()
    tiny_run.write_rows(tmp_path / host / "pairs.jsonl", rows)
    homes.append(f"import os\nos.environ['HOME'] = {str(tmp_path / host)!r}")
    rows[7]["prompt"] += " indeed"
  go = tiny_run.command("~/pairs.jsonl", files[1], workdir, **CHANGES)
  for code, _, err in finish(tiny_run.start_hosts(go, before=homes)):
    assert code == 2, err
    assert "counts of the data.test_groups is" in err.strip().splitlines()[-1]
  assert not (workdir / "run.json").exists()


@pytest.mark.parametrize(
  "flag",
  ["here", "localhost:1", "localhost:1,2", "a:1,2,2", "a,2,0", "a:1,x,0"],
)
def test_a_flag_that_names_no_hosts_is_refused(flag):
  with pytest.raises(UserError, match=r"neither auto nor COORD.*8476,2,0"):
    hosts.start(flag)


def test_alone_is_what_it_was():
  assert hosts.start("") is None
  assert hosts.is_first() and hosts.agree(True) and not hosts.agree(False)
  hosts.check_same({"config": object()})  # nobody to differ from
  assert not hosts.is_lost(RuntimeError("Connection closed by peer"))


def test_a_bucket_stays_a_bucket(tmp_path):
  # Wrong: pathlib's gs:/bucket, a folder of the first host's machine.
  for name in ("checkpoints", "best"):
    found = checkpoint._inside("gs://bucket/runs/one", name)
    assert str(found) == f"gs://bucket/runs/one/{name}"
    assert str(checkpoint._inside(tmp_path, name)) == str(tmp_path / name)


def test_several_hosts_refuse_a_place_they_cannot_write_together(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  with pytest.raises(UserError, match=r"memory://x: several hosts .*gs://"):
    mirror.open_mirror("memory://x")


def test_one_process_holds_every_block():
  mesh = make_mesh(data=4, fsdp=2, tensor=1)
  assert own_blocks(mesh, 16) == list(range(16))
  batch = put_blocks({"tokens": np.arange(32).reshape(16, 2)}, mesh)
  assert len(batch["tokens"].sharding.device_set) == 8
