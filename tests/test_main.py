"""The command line: help without jax, one line for every mistake."""

import json
import os
import re
import resource
import subprocess
import sys

import pytest

from rm_jax.data.catalogue import FORMATS
from rm_jax.verbs import VERBS
from tests import tiny_run, trained

ROOT = tiny_run.ROOT


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
  return trained.run(tmp_path_factory.getbasetemp(), "all")


def rm_jax(*arguments):
  """(exit code, stdout, stderr) of the command."""
  done = subprocess.run(
    [sys.executable, "-m", "rm_jax", *map(str, arguments)],
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )
  return done.returncode, done.stdout, done.stderr


def mistake(*arguments):
  """The one line that a user's mistake is answered with."""
  code, out, err = rm_jax(*arguments)
  lines = [x for x in err.splitlines() if not x.startswith("[transformers]")]
  assert code == 2 and out == "" and len(lines) == 1, (code, out, err)
  assert lines[0].startswith("rm-jax: error: ")
  return lines[0].removeprefix("rm-jax: error: ")


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"]])
def test_help_is_quick(words):
  # Half a second of work; jax alone takes more than one. CPU seconds, because
  # the machine may be busy.
  before = resource.getrusage(resource.RUSAGE_CHILDREN)
  done = subprocess.run(
    [sys.executable, "-m", "rm_jax", *words], cwd=ROOT, capture_output=True
  )
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  assert done.returncode == 0
  spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
  assert spent < 1.5


def test_help_of_every_verb_without_jax():
  # Catches a verb's imports at the top of a file: help would take seconds; and
  # verbs that are imported though another was called.
  code = """
import contextlib, io, sys
from absl import flags
from rm_jax import main, verbs
asked = [["--help"], ["help"], ["-h"], *([v, "--help"] for v in verbs.VERBS)]
loaded = set()
for argv in asked:
  out = io.StringIO()
  with contextlib.redirect_stdout(out):
    try:
      main.main(["rm-jax", *argv])
    except SystemExit as stop:
      assert stop.code == 0, argv
  print(out.getvalue())
  loaded |= {argv[0]} & set(verbs.VERBS)
  found = {v for v in verbs.VERBS if f"rm_jax.verbs.{v}" in sys.modules}
  assert found == loaded, (argv, found)
  for name in list(flags.FLAGS):
    delattr(flags.FLAGS, name)
heavy = {"jax", "matplotlib", "transformers", "orbax", "grain"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
  )
  assert done.returncode == 0, done.stderr
  for name, summary in VERBS.items():
    assert f"  {name:12}{summary}" in done.stdout
    assert f"rm-jax {name}: {summary}" in done.stdout
    assert f"  rm-jax {name} " in done.stdout  # an example to copy
  # Catches: a list of --kind that is typed by hand and lacks what came later.
  kinds = set(re.findall(r"(\w+)[,;]", done.stdout))
  assert set(FORMATS) <= kinds, set(FORMATS) - kinds
  for text in (
    "--config.optim.lr=1e-05",
    "--dtype=float32",
    "--allow_overlap",
    "--vmap-seeds",
    "OUTPUT.rejects.jsonl",
    "75 preempted and saved",
  ):
    assert text in done.stdout


@pytest.mark.parametrize("verb", ["eval", "score"])
def test_scores_are_of_float32_unless_it_is_asked_otherwise(verb):
  # Catches: scores that hang on the batch they were computed in.
  code, out, _ = rm_jax(verb, "--help")
  assert code == 0 and "--dtype=float32" in out


def test_no_verb_is_a_mistake_that_shows_the_verbs():
  code, out, _ = rm_jax()
  assert code == 2 and "usage: rm-jax VERB" in out


@pytest.mark.parametrize(
  ("arguments", "want"),
  [
    (["trian"], "unknown verb 'trian'. Known: train, "),
    (["train"], "--config is missing: see rm-jax train --help"),
    (
      ["train", "--config=configs/demo.py"],
      "--workdir is missing: see rm-jax train --help",
    ),
    (
      ["train", "--config=configs/demo.py", "--config.optim.lrr=1"],
      "unknown config key in --config.optim.lrr=1. Nearest there: lr. ",
    ),
    (
      ["train", "--config=configs/demo.py", "--config.seed=one"],
      "flag --config.seed=one: invalid literal for int()",
    ),
    (
      ["train", "--config=configs/none.py:big", "--workdir=x"],
      "--config=configs/none.py:big: no such file. Name a config file, such as",
    ),
    (
      ["train", "--config=configs/demo.py", "--config.seed=-1", "--workdir=x"],
      "config.seed=-1 must be 0 or more.",
    ),
    (["score", "--modle=x"], "Unknown command line flag 'modle'"),
    (["score", "model=x"], "unexpected argument 'model=x': flags are --key="),
    (["score", "--model=x", "--input=y"], "--output is missing"),
    (["eval", "--dtype=int8"], "flag --dtype=int8: value should be one of"),
    (
      ["experiment"],
      "KEY is missing: rm-jax experiment KEY. Known: ",
    ),
    (
      ["experiment", "ouyang"],
      "experiment 'ouyang' is not known. Known in experiments: ",
    ),
    (["experiment", "a", "b"], "unexpected argument 'b': flags are --key="),
    (
      ["experiment", "ouyang2022_instructgpt", "--preset=full"],
      "experiments/ouyang2022_instructgpt/full.py is the config of a TPU",
    ),
    (
      ["experiment", "ouyang2022_instructgpt", "--vmap-seeds", "--jobs=2"],
      "--jobs=2 with --vmap-seeds: the seeds train side by side in one process",
    ),
    (
      ["experiment", "ouyang2022_instructgpt", "--vmap-seeds", "--preset=lm"],
      "--vmap-seeds with --preset=lm: its jobs train as rm-jax train does, ",
    ),
    (
      ["train", "--config=configs/demo.py", "--dry_run", "--trace_steps=x"],
      "--trace_steps=x is not read with --dry_run, which stops before the",
    ),
    (
      ["report", "experiments", "--run=/nope"],
      "--run is not read by report experiments, which writes into --folder=exp",
    ),
    (
      ["report", "experiments", "--out=page"],
      "--out is not read by report experiments, which writes into --folder=exp",
    ),
    (["report", "runs"], "report 'runs' is not known: give --run=WORKDIR"),
    (
      ["report", "experiments", "--folder=docs"],
      "docs: expected folders with a mini.py, found none.",
    ),
  ],
)
def test_a_mistake_in_the_flags_is_one_line(arguments, want):
  assert mistake(*arguments).startswith(want)


@pytest.mark.parametrize(
  ("body", "want"),
  [
    ("def get_config(:", "SyntaxError: invalid syntax"),
    ("def get_config():\n  return 1 / 0", ":2: ZeroDivisionError: division"),
    ("def get_config():\n  int('x')", "ValueError: invalid literal for int()"),
    ("import nothing_of_this_name", ":1: ModuleNotFoundError: No module"),
  ],
)
def test_a_mistake_in_the_config_file_is_one_line(tmp_path, body, want):
  # Catches a traceback through absl for a typo in the user's own file.
  path = tmp_path / "mine.py"
  path.write_text(body + "\n")
  assert want in mistake("train", f"--config={path}", "--workdir=x")


def test_a_config_file_that_returns_nothing(tmp_path):
  # Catches: "--config is missing", of a flag that was given.
  path = tmp_path / "mine.py"
  path.write_text("def get_config():\n  pass\n")
  code, _, err = rm_jax("train", f"--config={path}", "--workdir=x")
  assert code == 2  # ml_collections has a line of its own, before ours
  assert err.splitlines()[-1].startswith(
    f"rm-jax: error: {path}: expected get_config to return a config, got None"
  )


def test_a_bad_value_is_found_before_the_data_are_read(tmp_path):
  text = mistake(
    "train",
    "--config=configs/demo.py",
    f"--workdir={tmp_path / 'w'}",
    "--config.data.layout=sorted",
  )
  assert text.startswith("config.data.layout='sorted' is not known. Known: ")


def test_the_base_model_can_be_set_like_any_key(tmp_path):
  # `from` is a word of Python: ml_collections alone refuses this spelling.
  text = mistake(
    "train",
    "--config=configs/demo.py",
    f"--workdir={tmp_path / 'w'}",
    f"--config.init.from={tmp_path / 'nowhere'}",
    "--config.data.blocks=32",  # of 8 devices
  )
  assert str(tmp_path / "nowhere") in text and "from" not in text.split()[:1]


def test_score_and_eval_end_to_end(tmp_path, workdir):
  # Catches flags that do not reach the work; a bad line is not a failure.
  rows = tiny_run.pairs(4, seed=9)
  data = tiny_run.write_rows(tmp_path / "in.jsonl", rows)
  data.write_text(data.read_text() + "{bad\n")
  code, out, err = rm_jax(
    "score",
    f"--model={workdir}",
    f"--input={data}",
    f"--output={tmp_path / 'out.jsonl'}",
  )
  assert code == 0, err
  assert out.startswith("4 rows scored into ") and ", 1 rejected, see " in out
  assert "row/s" not in err  # no bar where nobody looks
  found = (tmp_path / "out.jsonl").read_text().splitlines()
  for line, row in zip(found, rows, strict=True):
    scored = json.loads(line)
    assert {k: scored[k] for k in row} == row
    assert scored.keys() - row.keys() == {"chosen_score", "rejected_score"}
  rejects = (tmp_path / "out.jsonl.rejects.jsonl").read_text()
  assert json.loads(rejects)["line"] == 5

  code, out, err = rm_jax(
    "eval",
    f"--model={workdir}",
    f"--data={data}",
    f"--out={tmp_path / 'r.json'}",
    "--max_groups=3",
  )
  assert code == 0, err
  assert "3 groups evaluated, 1 rejected" in out
  results = json.loads((tmp_path / "r.json").read_text())
  assert results["command"].startswith(f"rm-jax eval --model={workdir}")
  assert results["metrics"]["accuracy"]["n"] == 3


def test_a_mistake_in_the_work_is_one_line(tmp_path, workdir):
  data = tiny_run.write_rows(tmp_path / "in.jsonl", tiny_run.pairs(1))
  arguments = [f"--input={data}", f"--output={tmp_path / 'out.jsonl'}"]
  text = mistake("score", f"--model={tmp_path / 'none'}", *arguments)
  assert "expected a run's workdir" in text
  text = mistake(
    "eval",
    f"--model={workdir}",
    f"--data={tmp_path / 'inn.jsonl'}",
    f"--out={tmp_path / 'r.json'}",
  )
  assert "does not exist (nearest there: in.jsonl" in text
  # A folder in the way of the file: the system's own words, no traceback.
  (tmp_path / "out.jsonl.rejects.jsonl").mkdir()
  text = mistake("score", f"--model={workdir}", *arguments)
  assert text == f"{tmp_path / 'out.jsonl.rejects.jsonl'}: Is a directory"
