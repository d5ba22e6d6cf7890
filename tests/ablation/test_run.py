"""The verb `experiment`: jobs in processes, resumed, failed, judged."""

import contextlib
import json
import math
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

import pytest
from ablation_designs import write_toy

from rm_jax.ablation.design import digest, load_design
from rm_jax.ablation.pool import Job, run_job
from rm_jax.ablation.report import filled, in_words, summary, table
from rm_jax.ablation.run import run_all, run_experiment
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


def in_process(folder, **changes):
  """The verb without new processes: every job run here first."""
  how = dict(
    folder=folder,
    preset="mini",
    quick=False,
    tune=False,
    workers=1,
    vmap_seeds=False,
    workdir=str(folder / "jobs"),
    command="rm-jax experiment toy",
  )
  return run_experiment("toy", **how | changes)


def do_jobs(folder, jobs, **made_by):
  """Every job, in this process."""
  design = load_design(folder, "toy", "mini")
  size = design.sizes["whole"]
  (folder / "jobs").mkdir(exist_ok=True)
  made = {"digest": digest(design, size), "commit": "abc", "data": []} | made_by
  for job in jobs:
    run_job(design, job, size=size, made_by=made, workdir=folder / "jobs")


EVERY = [Job(arm, seed) for seed in range(8) for arm in ("more", "less")]


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


def test_a_readme_says_how_many_trained_side_by_side(tmp_path):
  folder = write_toy(tmp_path)
  do_jobs(folder, EVERY)
  for job in EVERY[:2]:  # as if seed 0 had been alone
    path = folder / f"jobs/{job.name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vmapped": []}))
  for job in EVERY[2:]:
    path = folder / f"jobs/{job.name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vmapped": [7]}))
  assert in_process(folder) == 0
  text = (folder / "toy/README.md").read_text()
  assert "trained 7 side by side, seconds are shares" in text
  results = json.loads((folder / "toy/results.json").read_text())
  assert results["vmapped"] == [7]


def test_the_whole_size_writes_results_and_readme(tmp_path, capsys):
  folder = write_toy(tmp_path)
  do_jobs(folder, EVERY)
  assert in_process(folder) == 0
  results = json.loads((folder / "toy/results.json").read_text())
  assert results["verdict"] == "reproduced" and results["commit"] == ["abc"]
  assert results["metrics"]["more/size"]["n"] == 8
  assert set(results["per_seed"]) == set(map(str, range(8)))
  more = [v["more/size"] for v in results["per_seed"].values()]
  less = [v["less/size"] for v in results["per_seed"].values()]
  mean = sum(a - b for a, b in zip(more, less, strict=True)) / 8
  assert results["outcomes"][0]["mean"] == pytest.approx(mean)
  assert results["curves"]["more"][1]["size"] == pytest.approx(
    2 * sum(more) / 8
  )
  readme = (folder / "toy/README.md").read_text()
  assert f"{mean:+.4f}" in readme and "**reproduced**" in readme
  assert "12,000" in readme and "commit abc" in readme
  assert (folder / "toy/plot.png").stat().st_size > 5_000
  assert "| reproduced |" in (folder / "README.md").read_text()
  assert "reproduced" in capsys.readouterr().out


def test_the_summary_says_what_all_of_them_found_and_take(tmp_path):
  # Wrong: the seconds of the last one for those of all; one that did not run
  # counted as one of no seconds; verdicts in the order in which they came; a
  # mean of -0.00001 as -0.0000.
  folder = write_toy(tmp_path)
  for name, seconds, verdict in (
    ("first", 1_500.4, "invalid"),
    ("second", 9_300.0, "null"),
  ):
    (tmp_path / "toy").rename(tmp_path / name)
    write_toy(folder)
    do_jobs(folder, EVERY)
    assert in_process(folder) == 0
    path = folder / "toy/results.json"
    own = {"job_seconds": seconds, "verdict": verdict}
    results = json.loads(path.read_text()) | own
    results["outcomes"][0]["mean"] = -1e-5
    (folder / name / "results.json").write_text(json.dumps(results))
    path.unlink()
  lines = summary(folder).splitlines()
  assert ": +0.0000 [" in lines[2] and ": +0.0000 [" in lines[3]
  assert [line.split(" | ")[-1] for line in lines[:5]] == [
    "seconds of jobs |",
    "|---|---|---|---|---|---|",
    "1,500 |",
    "9,300 |",
    "|",
  ]
  assert lines[5:] == [
    "",
    "2 of mini have run (1 null, 1 invalid): 10,800 seconds of jobs, 3.0 hours "
    "of one worker.",
  ]


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


def rewrite(folder, *change):
  """The toy's file with one place of it changed."""
  path = folder / "toy/mini.py"
  text = path.read_text().replace(*change)
  assert text != path.read_text()
  path.write_text(text)


FOUR = (
  'arms=dict(more="one more", less="one less")',
  'arms=dict(more="1", less="2", best="3", worst="4")',
)


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


def test_an_interaction_is_a_difference_of_differences(tmp_path):
  # (more - less) - (best - worst), seed by seed: wrong signs, the spread of
  # means instead of the differences'.
  folder = write_toy(tmp_path)
  rewrite(folder, *FOUR)
  rewrite(folder, 'published="+2"', 'minus=("best", "worst"), published="+2"')
  arms = ("more", "less", "best", "worst")
  do_jobs(folder, [Job(a, seed) for seed in range(8) for a in arms])
  assert in_process(folder) == 0
  results = json.loads((folder / "toy/results.json").read_text())
  each = [
    v["more/size"] - v["less/size"] - v["best/size"] + v["worst/size"]
    for v in results["per_seed"].values()
  ]
  told = results["outcomes"][0]
  assert told["mean"] == pytest.approx(sum(each) / 8)
  spread = statistics.stdev(each) / math.sqrt(8)
  assert told["high"] - told["mean"] == pytest.approx(2.364624 * spread)


SECOND = """
    dict(name="less over more", metric="size", arm="less", less="more",
         expected=0, published="0", comparable="a toy"),
  ),
  checks="""


def test_a_difference_without_a_claimed_sign_is_told_as_such(tmp_path):
  # Wrong: "reversed" for a row that claims nothing, a dot at 0 in the picture.
  folder = write_toy(tmp_path)
  rewrite(folder, "\n  ),\n  checks=", SECOND)
  do_jobs(folder, EVERY)
  assert in_process(folder) == 0
  results = json.loads((folder / "toy/results.json").read_text())
  first, second = results["outcomes"]
  assert first["verdict"] == results["verdict"] == "reproduced"
  assert second["verdict"] == "no claim: lower"
  assert second["mean"] == -first["mean"] and second["agree"] == 8
  readme = (folder / "toy/README.md").read_text()
  assert "| no claim: lower (8 of 8 seeds) | 0 | a toy |" in readme


PANELS = """
  panels=(
    dict(title="here", metrics=dict(size="S", tokens="T"),
         gains=dict(gain=("more", "less"))),
    dict(title="there", metrics=dict(size="S"),
         gains=dict(loss=("less", "more"))),
  ),
  tuning="""


def test_panels_are_drawn_and_their_table_is_paired_over_seeds(tmp_path):
  folder = write_toy(tmp_path)
  rewrite(folder, "\n  tuning=", PANELS)
  readme = folder / "toy/README.md"
  readme.write_text(readme.read_text() + "\n<!-- panels -->\n<!-- end -->\n")
  do_jobs(folder, EVERY)
  assert in_process(folder) == 0
  told = json.loads((folder / "toy/results.json").read_text())["outcomes"][0]
  text = readme.read_text()
  whole = f"{told['mean']:+.4f} [{told['low']:+.4f}, {told['high']:+.4f}]"
  assert f"| here | gain | {whole} | +0.0000 [+0.0000, +0.0000] |" in text
  back = f"{-told['mean']:+.4f} [{-told['high']:+.4f}, {-told['low']:+.4f}]"
  assert f"| there | loss | {back} |  |" in text
  assert "![Toy: here; there](panels.png)" in text
  assert (folder / "toy/panels.png").stat().st_size > 5_000


@pytest.mark.parametrize(
  "change, message",
  [
    (
      ('metric="size", arm="more", less', 'metric="size", arm="most", less'),
      "'more than less' names arm 'most'. Known: more, less",
    ),
    (("above=0.0", "above=0.0, below=1.0"), "needs one of above and below"),
    (
      ("\n  tuning=", PANELS.replace('"less", "more"', '"less", "moer"')),
      "'there, loss' names arm 'moer'",
    ),
    (('published="+2"', 'minus=("most", "less")'), "names arm 'most'"),
    (("lower=False)", 'lower=False, arms=("most",))'), "'tuning' names arm"),
    (
      ("expected=1", "expected=0"),
      "is the primary endpoint and has expected=0",
    ),
    (("expected=1", "expected=2"), "'more than less' has expected=2: give 1"),
    (('falsified="less is more",', ""), r"lacks \['falsified'\]"),
    (("import time", "import tim"), r"mini.py:5: ModuleNotFoundError"),
  ],
)
def test_a_design_that_is_not_whole_is_named(tmp_path, change, message):
  folder = write_toy(tmp_path)
  rewrite(folder, *change)
  with pytest.raises(UserError, match=message):
    load_design(folder, "toy", "mini")


def test_unknown_names_list_the_known_ones(tmp_path):
  folder = write_toy(tmp_path)
  with pytest.raises(UserError, match="'tow' is not known.*: toy"):
    load_design(folder, "tow", "mini")
  with pytest.raises(UserError, match="no preset 'lm'. It has: mini"):
    load_design(folder, "toy", "lm")
  with pytest.raises(UserError, match="rm-jax train --config="):
    load_design(folder, "toy", "full")
  with pytest.raises(UserError, match="expected folders with a mini.py"):
    load_design(tmp_path / "nowhere", "toy", "mini")


def test_a_readme_of_an_experiment_not_run_says_so(tmp_path):
  folder = write_toy(tmp_path)
  text = filled((folder / "toy/README.md").read_text(), folder / "toy", "toy")
  assert "Not run yet: `rm-jax experiment toy`." in text
  assert filled(text, folder / "toy", "toy") == text


def test_a_metric_that_is_no_number_fails_its_job(tmp_path):
  folder = write_toy(tmp_path)
  path = folder / "toy/mini.py"
  path.write_text(path.read_text().replace("12_000", "float('nan')"))
  do_jobs(folder, EVERY[:1])
  log = (folder / "jobs/more-0.log").read_text()
  assert "metric tokens is not a number" in log


def test_the_table_has_what_was_published(tmp_path, capsys):
  folder = write_toy(tmp_path)
  do_jobs(folder, EVERY)
  in_process(folder)
  design = load_design(folder, "toy", "mini")
  results = json.loads((folder / "toy/results.json").read_text())
  lines = table(design, results).splitlines()
  assert lines[0] == "| arm | size | tokens |"
  # Wrong: the order of the keys in the file for that of the design.
  assert lines[-1] == (
    "Checks: sizes are there: holds; more is large: holds; few: holds."
  )
  assert "\n".join(lines) in capsys.readouterr().out
  assert "\n".join(lines) in (folder / "toy/README.md").read_text()
  assert "| reproduced (8 of 8 seeds) | +2 | a toy |" in lines[-3]
