"""Shards of a file are the file: whoever scores them, after whatever kill."""

import dataclasses
import json
import os
import re

import jax
import numpy as np
import pytest

from rm_jax import RewardModel
from rm_jax.evals import score, shards
from rm_jax.evals.score import score_file
from rm_jax.evals.shards import cut_lines, score_shards
from rm_jax.models.sharding import local_mesh
from rm_jax.types import UserError
from tests import tiny_run, trained

HOW = dict(kind="auto", dtype="float32")
CHUNK = 8
FEWER = f"""
from rm_jax.evals import score, shards
score.CHUNK_ROWS = shards.CHUNK_ROWS = {CHUNK}
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return trained.run(tmp_path_factory.getbasetemp(), "all")


@pytest.fixture(scope="module")
def meshed(workdir):
  """The model over the eight devices of tests/conftest.py."""
  return RewardModel.load(workdir, mesh=local_mesh())


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
  monkeypatch.setattr(score, "CHUNK_ROWS", CHUNK)
  monkeypatch.setattr(shards, "CHUNK_ROWS", CHUNK)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """70 lines, some no rows, some blank, the last without its end."""
  lines = []
  for n, row in enumerate(tiny_run.pairs(70, seed=7)):
    lines.append({3: "{bad", 5: ""}.get(n % 10, json.dumps(row)))
  path = tmp_path_factory.mktemp("input") / "in.jsonl"
  path.write_text("\n".join(lines))
  return path


@pytest.fixture(scope="module")
def whole(workdir, data, tmp_path_factory):
  """(rows, rejects) of one device and one file."""
  output = tmp_path_factory.mktemp("whole") / "out.jsonl"
  assert score_file(workdir, data, output, **HOW).startswith("56 rows scored")
  return read(output), read(output.with_name("out.jsonl.rejects.jsonl"))


def read(*paths):
  text = "".join(path.read_text() for path in paths)
  return [json.loads(line) for line in text.splitlines()]


def assert_is(folder, whole, count):
  """The shards, in the order of their names, are the one file."""
  names = sorted(p.name for p in folder.iterdir())
  assert names == sorted(
    f"{what}-{n:05d}-of-{count:05d}.{end}"
    for n in range(count)
    for what, end in (
      ("scores", "jsonl"),
      ("rejects", "jsonl"),
      ("progress", "json"),
    )
  )
  rows, rejects = (
    read(*sorted(folder.glob(f"{what}-*"))) for what in ("scores", "rejects")
  )
  assert rejects == whole[1]
  assert len(rows) == len(whole[0])
  for got, want in zip(rows, whole[0], strict=True):
    assert list(got) == list(want)
    for key, value in want.items():
      if key.endswith("_score"):
        assert abs(got[key] - value) < 1e-5
      else:
        assert got[key] == value


def test_many_devices_and_shards_are_one_device_and_one_file(
  tmp_path, meshed, data, whole, monkeypatch
):
  # Wrong: a line in two shards or in none, the end of the file lost, rows in
  # the order of the devices, a row of padding that is written.
  kernel = meshed.params["backbone"]["layers_0"]["mlp"]["up"]["kernel"]
  assert len({str(s.index) for s in kernel.addressable_shards}) == 8  # cut
  monkeypatch.setattr(RewardModel, "load", lambda x, **how: meshed)
  text = score_shards("m", data, tmp_path / "out", shards=3, **HOW)
  assert text == (
    f"56 rows scored into 3 shards in {tmp_path / 'out'}, 7 rejected"
  )
  assert_is(tmp_path / "out", whole, 3)
  score_file("m", data, tmp_path / "one.jsonl", **HOW)
  values = [
    [[r["chosen_score"], r["rejected_score"]] for r in rows]
    for rows in (read(tmp_path / "one.jsonl"), whole[0])
  ]
  np.testing.assert_allclose(*values, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_published_model_is_cut_over_the_devices_as_well(tmp_path_factory):
  folder = trained.published(tmp_path_factory.getbasetemp(), 1)
  one = RewardModel.load(folder)
  groups = [
    dict(prompt=r["prompt"], completions=[r["chosen"], r["rejected"]])
    for r in tiny_run.pairs(5)
  ]
  got = RewardModel.load(folder, mesh=local_mesh()).score_groups(groups)
  np.testing.assert_allclose(got, one.score_groups(groups), rtol=0, atol=1e-5)


def test_what_is_complete_is_not_scored_again(
  tmp_path, workdir, data, whole, monkeypatch
):
  # Wrong: a shard that has its name before it is complete, rows twice, a second
  # run that scores what the first one did.
  model = RewardModel.load(workdir)
  monkeypatch.setattr(RewardModel, "load", lambda x, **how: model)
  rows_of, calls = score._score_rows, []

  def broken(model, chunk, kind, file):
    calls.append(chunk[0][0])
    if len(calls) == 5:  # of 3 chunks a shard the second of the second
      raise KeyboardInterrupt
    return rows_of(model, chunk, kind, file)

  out, again = tmp_path / "out", tmp_path / "again"
  with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
    m.setattr(score, "_score_rows", broken)
    score_shards("m", data, out, shards=3, **HOW)
  first = out / "scores-00000-of-00003.jsonl"
  assert sorted(p.name for p in out.glob("scores*")) == [
    first.name,
    "scores-00001-of-00003.jsonl.partial",
  ]
  before = os.stat(first)
  calls.clear()
  calls.extend([0] * 5)  # never again
  monkeypatch.setattr(score, "_score_rows", broken)
  score_shards("m", data, out, shards=3, **HOW)
  assert calls[5] == 34  # the second chunk of the lines from 25 on
  now = os.stat(first)
  assert (before.st_ino, before.st_mtime_ns) == (now.st_ino, now.st_mtime_ns)
  assert_is(out, whole, 3)
  score_shards("m", data, again, shards=3, **HOW)
  for path in again.iterdir():
    assert path.read_bytes() == (out / path.name).read_bytes(), path.name


def test_a_kill_before_a_complete_shard_gets_its_name(
  tmp_path, workdir, data, whole, monkeypatch
):
  model = RewardModel.load(workdir)
  monkeypatch.setattr(RewardModel, "load", lambda x, **how: model)
  with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
    m.setattr(
      shards.os, "replace", raises(KeyboardInterrupt, shards.os.replace)
    )
    score_shards("m", data, tmp_path, shards=1, **HOW)
  assert [p.name for p in tmp_path.glob("scores*")] == [
    "scores-00000-of-00001.jsonl.partial"
  ]
  score_shards("m", data, tmp_path, shards=1, **HOW)
  assert_is(tmp_path, whole, 1)


def raises(error, real):
  """os.replace that fails for a shard, not for a progress file."""

  def replace(source, target):
    if str(source).endswith(".partial"):
      raise error
    real(source, target)

  return replace


@pytest.mark.slow
def test_two_hosts_share_the_shards(tmp_path, workdir, data, whole):
  # Wrong: a host that loads or scores with devices of the other, shards of one
  # host only, a first host that leaves before the second is done.
  out = tmp_path / "out"
  go = ["score", f"--model={workdir}", f"--input={data}", f"--output={out}"]
  both = tiny_run.start_hosts([*go, "--shards=5"], before=(FEWER, FEWER))
  said = [(p, *p.communicate(timeout=600)) for p in both]
  for process, _, err in said:
    assert process.returncode == 0, err
  assert f"56 rows scored into 5 shards in {out}, 7 rejected" in said[0][1]
  assert "scored" not in said[1][1]
  assert_is(out, whole, 5)


# The second chunk of a host takes for ever.
HANGS = """
import time
rows_of, chunks = score._score_rows, []
def hang(*arguments):
  chunks.append(1)
  if len(chunks) == 2:
    time.sleep(600)
  return rows_of(*arguments)
score._score_rows = hang
"""
IMPATIENT = "from rm_jax.train import board\nboard.SILENT_SECONDS = 4"


@pytest.mark.slow
def test_a_host_that_hangs_is_named_and_what_is_there_is_kept(
  tmp_path, workdir, data, whole
):
  # Wrong: a first host that waits for ever in a collective.
  out = tmp_path / "out"
  go = ["score", f"--model={workdir}", f"--input={data}", f"--output={out}"]
  go = [*go, "--shards=2"]
  first, second = tiny_run.start_hosts(
    go, before=(FEWER + IMPATIENT, FEWER + HANGS)
  )
  try:
    _, err = first.communicate(timeout=300)
    second.communicate(timeout=60)  # it does not outlive the first
  finally:
    second.kill()
  assert first.returncode == 1, err
  # A chunk of four devices is 32 rows: lines 33 to 68, four of them blank.
  assert err.splitlines()[-1] == (
    f"rm-jax: error: {out}: no sign of life for 0.0667 minutes from host 1 "
    "(last at shard 1 of 2, line 68); the other 1 of 2 hosts are done. Its "
    "log may say why it hangs. What is there is kept: end the command on all "
    "hosts, then start it again to go on."
  )
  both = tiny_run.start_hosts(go, before=(FEWER, FEWER))
  said = [(p, *p.communicate(timeout=300)) for p in both]
  assert all(process.returncode == 0 for process, *_ in said), said
  assert_is(out, whole, 2)


@pytest.mark.parametrize("lines", [0, 1, 7, 8, 9, 64, 70, 1000])
@pytest.mark.parametrize("count", [1, 3, 16])
def test_every_line_is_in_one_shard(lines, count):
  spans = cut_lines("no file is read", lines, count)
  assert len(spans) == count
  assert spans[0][0] == 0 and spans[-1][1] is None
  for (_, last), (before, _) in zip(spans[:-1], spans[1:], strict=True):
    assert last == before
  sizes = [(lines if last is None else last) - before for before, last in spans]
  assert sum(sizes) == lines and max(sizes) - min(sizes) <= 2 * CHUNK
  assert all(before % CHUNK == 0 for before, _ in spans)


def test_lines_that_have_to_be_counted_are(tmp_path):
  path = tmp_path / "in.json"
  path.write_text(json.dumps([{"n": n} for n in range(3 * CHUNK)]))
  assert cut_lines(path, None, 3) == [(0, 8), (8, 16), (16, None)]


def test_what_cannot_go_on_is_refused(tmp_path, workdir, data, monkeypatch):
  model = RewardModel.load(workdir)
  monkeypatch.setattr(RewardModel, "load", lambda x, **how: model)

  def call(folder, count=9, **how):
    score_shards("m", data, folder, shards=count, **HOW | how)

  (tmp_path / "file").write_text("")
  for path in (tmp_path / "file", tmp_path / "x.jsonl"):
    with pytest.raises(UserError, match="with --shards=9 it is a folder of"):
      call(path)
  call(tmp_path / "out")
  said = "out was begun in 9 shards, now they are 8: go on with --shards=9, or"
  with pytest.raises(UserError, match=said):
    call(tmp_path / "out", 8)
  other = dataclasses.replace(model, reading=model.reading._replace(align=2))
  monkeypatch.setattr(RewardModel, "load", lambda x, **how: other)
  with pytest.raises(UserError, match=r"00000-of-00009.json: .* another model"):
    call(tmp_path / "out")


@pytest.mark.parametrize(
  "flags, said",
  [
    (["--distributed=a:1,2,0"], "--distributed=a:1,2,0 without --shards: sev"),
    (
      ["--shards=2", "--fit_normaliser"],
      "--fit_normaliser reads one file of scores, --shards=2 writes several",
    ),
    (["--shards=-1"], "flag --shards=-1"),
  ],
)
def test_flags_that_do_not_go_together(flags, said):
  go = ["score", "--model=m", "--input=i", "--output=o", *flags]
  process = tiny_run.start(go)
  out, err = process.communicate(timeout=120)
  assert process.returncode == 2
  assert out == "" and len(err.strip().splitlines()) == 1
  assert re.match(rf"rm-jax: error: {said}", err)


def test_this_process_has_the_devices_that_the_tests_are_about():
  assert local_mesh().size == len(jax.local_devices()) == 8
