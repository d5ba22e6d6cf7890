"""The verb `experiment`: jobs in processes, resumed, failed, judged."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from ablation_designs import (
  EVERY,
  FOUR,
  do_jobs,
  in_process,
  rewrite,
  write_toy,
)

from rm_jax.ablation.design import load_design
from rm_jax.ablation.pool import Job, _failed
from rm_jax.ablation.report import (
  in_words,
)
from rm_jax.ablation.run import run_all
from rm_jax.train import results as train_results
from rm_jax.types import UserError

ROOT = pathlib.Path(__file__).parents[2]


def command(folder, *flags):
  return [
    sys.executable,
    "-m",
    "rm_jax",
    "experiment",
    "toy",
    f"--folder={folder}",
    f"--workdir={folder / 'jobs'}",
    *flags,
  ]


def start(folder, *flags):
  return subprocess.Popen(
    command(folder, *flags),
    cwd=ROOT,
    env=os.environ | {"XLA_FLAGS": ""},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def calls(folder):
  path = folder / "toy/calls"
  return [x.split() for x in path.read_text().splitlines()]


def finished(folder, count):
  """Waits until so many jobs have their file."""
  for _ in range(600):
    if len(list((folder / "jobs").glob("*.json"))) >= count:
      return
    time.sleep(0.2)
  raise AssertionError("no job finished in 2 minutes")


def worker_of(process):
  """The process that a command has just started for its jobs."""
  children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
  for _ in range(12_000):
    for child in children.read_text().split():
      with contextlib.suppress(OSError):  # git has come and gone
        if "spawn_main" in pathlib.Path(f"/proc/{child}/cmdline").read_text():
          return int(child)
    time.sleep(0.01)
  raise AssertionError("no worker in 2 minutes")


def assert_ends(worker):
  for _ in range(300):
    if not pathlib.Path(f"/proc/{worker}").exists():
      return
    time.sleep(0.2)
  os.kill(worker, signal.SIGKILL)
  raise AssertionError("the worker outlives its parent")


def test_a_kill_loses_the_jobs_in_flight_and_the_command_goes_on(tmp_path):
  # Wrong: results kept until the end, jobs run twice, workers that live on.
  folder = write_toy(tmp_path)
  wait = folder / "toy/wait-more-1"
  wait.touch()
  process = start(folder, "--jobs=1", "--quick")
  try:
    finished(folder, 2)  # seed 0; seed 1 waits
  finally:
    process.send_signal(signal.SIGKILL)
    process.wait()
  assert_ends(int(calls(folder)[0][1]))
  wait.unlink()
  (folder / "toy/break-less-1").touch()
  process = start(folder, "--jobs=1", "--quick")
  _, said = process.communicate(timeout=300)
  assert process.returncode == 1
  assert "arm less, seed 1: ValueError: it broke. See" in said
  assert "1 of 4 jobs have no result" in said
  assert [name for name, _ in calls(folder)] == ["more-0", "less-0", "more-1"]
  assert "Traceback" in (folder / "jobs/less-1.log").read_text()
  assert not (folder / "toy/results.json").exists()


def test_a_worker_that_still_begins_ends_with_its_parent(tmp_path):
  # Wrong: who asks for its parent when that is gone takes another one for it.
  folder = write_toy(tmp_path)
  (folder / "toy/wait-more-0").touch()
  process = start(folder, "--jobs=1", "--quick")
  try:
    worker = worker_of(process)
    time.sleep(0.05)  # what to do is sent right after the start
    os.kill(worker, signal.SIGSTOP)
  finally:
    process.send_signal(signal.SIGKILL)
    process.wait()
  os.kill(worker, signal.SIGCONT)
  assert_ends(worker)


def test_seeds_of_one_process_resume_and_fail_like_workers(tmp_path):
  # Wrong: jobs done twice, a failure that takes the other seeds along.
  folder = write_toy(tmp_path)
  do_jobs(folder, EVERY[:1])
  (folder / "toy/break-less-0").touch()
  process = start(folder, "--vmap-seeds", "--quick")
  _, said = process.communicate(timeout=300)
  assert process.returncode == 1
  assert "arm less, seed 0: ValueError: it broke. See" in said
  assert "1 of 4 jobs have no result" in said
  names, processes = zip(*calls(folder)[1:], strict=True)
  assert names == ("more-1", "less-1") and len(set(processes)) == 1
  assert str(os.getpid()) not in processes
  found = json.loads((folder / "jobs/less-1.json").read_text())
  assert found["vmapped"] == []  # a toy trains nothing
  assert (
    found.keys() - {"vmapped"}
    == json.loads((folder / "jobs/more-0.json").read_text()).keys()
  )


def test_all_runs_every_experiment_past_one_that_fails(
  tmp_path, capsys, monkeypatch
):
  # Wrong: an end at the first failure, results that name a tree changed by the
  # results before them, jobs of two experiments in one folder.
  folder = tmp_path / "experiments"
  for name in ("bad", "good", "late"):
    write_toy(tmp_path / name)
    (tmp_path / name / "toy").rename(tmp_path / name / name)
    (folder / name).parent.mkdir(exist_ok=True)
    (tmp_path / name / name).rename(folder / name)
  (folder / "bad/break-less-1").touch()
  later = folder / "late/mini.py"
  later.write_text(later.read_text().replace("seeds=tuple", "seed=tuple"))
  commits = iter(["abc", "abc+", "abc+", "abc+"])
  monkeypatch.setattr(train_results, "commit", lambda: next(commits))
  how = dict(quick=True, tune=False, workers=1, vmap_seeds=False)
  code = run_all(
    folder=folder,
    preset="mini",
    workdir=str(tmp_path / "jobs"),
    command="rm-jax experiment all --quick",
    **how,
  )
  out, err = capsys.readouterr()
  assert code == 2
  assert [x for x in out.splitlines() if " of 3)" in x] == [
    "bad (1 of 3)",
    "good (2 of 3)",
    "late (3 of 3)",
  ]
  assert "arm less, seed 1: ValueError: it broke. See" in err
  assert "late/mini.py: " in err and "'seed'" in err
  assert err.strip().splitlines()[-1] == (
    "rm-jax: error: 2 of 3 experiments have no result: bad, late. The same "
    "command runs only what is left."
  )
  jobs = [
    json.loads(path.read_text())
    for key in ("bad", "good")
    for path in (tmp_path / "jobs" / key).glob("*-?.json")
  ]
  assert [job["commit"] for job in jobs] == ["abc"] * 7
  results = json.loads((tmp_path / "jobs/good/results.json").read_text())
  assert results["command"] == "rm-jax experiment good --quick"
  with pytest.raises(UserError, match="no experiment has the preset 'lm'"):
    run_all(folder=folder, preset="lm", workdir="", command="", **how)


def test_a_quick_run_is_no_result(tmp_path, capsys):
  folder = write_toy(tmp_path, expected=-1)
  do_jobs(folder, EVERY[:4])
  assert in_process(folder, quick=True) == 0
  out = capsys.readouterr().out
  assert "A quick run: a check of the machinery, not a result." in out
  assert not (folder / "toy/results.json").exists()
  quick = json.loads((folder / "jobs/results.json").read_text())
  assert quick["size"] == "quick" and quick["verdict"] in ("reversed", "null")


def test_results_of_another_design_are_refused_or_marked(tmp_path):
  folder = write_toy(tmp_path)
  do_jobs(folder, EVERY)
  assert in_process(folder) == 0
  mini = folder / "toy/mini.py"
  mini.write_text(mini.read_text().replace("More is more.", "Less is more."))
  with pytest.raises(UserError, match="another version of this experiment's"):
    in_process(folder)
  design = load_design(folder, "toy", "mini")
  results = json.loads((folder / "toy/results.json").read_text())
  assert "mini.py has changed since" in in_words(design, results)


def test_results_of_two_commits_are_named(tmp_path):
  folder = write_toy(tmp_path)
  do_jobs(folder, EVERY[:8])
  do_jobs(folder, EVERY[8:], commit="def")
  assert in_process(folder) == 0
  assert "commit abc and def" in (folder / "toy/README.md").read_text()


def test_tuning_names_the_best_rate_of_each_arm(tmp_path, capsys):
  folder = write_toy(tmp_path)
  jobs = [Job(a, 100, r) for a in ("more", "less") for r in (0.1, 1.0)]
  do_jobs(folder, jobs)
  assert in_process(folder, tune=True) == 0
  out = capsys.readouterr().out
  assert "| size, seeds (100,) | 0.1 | 1 |" in out
  assert out.count("**") == 4 and not (folder / "toy/results.json").exists()


def test_tuning_of_some_arms_runs_those_and_puts_them_in_order(
  tmp_path, capsys
):
  folder = write_toy(tmp_path)
  rewrite(folder, *FOUR)
  rewrite(folder, "lower=False)", 'lower=False, arms=("less", "more"))')
  jobs = [Job(a, 100, r) for a in ("more", "less") for r in (0.1, 1.0)]
  do_jobs(folder, jobs)
  assert in_process(folder, tune=True) == 0  # no job of the others is missing
  assert capsys.readouterr().out.endswith("From the best down: more, less.\n")


@pytest.mark.parametrize("said", ["nan", "inf"])
def test_a_metric_that_is_no_number_fails_its_job(tmp_path, said):
  folder = write_toy(tmp_path)
  path = folder / "toy/mini.py"
  path.write_text(path.read_text().replace("12_000", f"float('{said}')"))
  do_jobs(folder, EVERY[:1])
  log = (folder / "jobs/more-0.log").read_text()
  assert f"metric tokens is {said}" in log


def test_a_curve_that_holds_no_number_fails_its_job(tmp_path):
  folder = write_toy(tmp_path)
  rewrite(folder, '"size": size * s', '"size": s * float("nan")')
  do_jobs(folder, EVERY[:1])
  log = (folder / "jobs/more-0.log").read_text()
  assert "metric size is nan" in log


def test_files_that_a_kill_left_half_written_are_told(tmp_path):
  # Wrong: a traceback that names no file, a log without a last line.
  folder = write_toy(tmp_path)
  do_jobs(folder, EVERY)
  path = folder / "jobs/more-3.json"
  path.write_text(path.read_text()[:40])
  with pytest.raises(UserError, match="more-3.json: expected the result of a"):
    in_process(folder)
  (failed,) = _failed(folder / "jobs", [Job("less", 9)])
  assert failed.reason == "not begun: its worker ended before"
  (folder / "jobs/less-9.log").write_text("")
  assert _failed(folder / "jobs", [Job("less", 9)]) == [failed]
