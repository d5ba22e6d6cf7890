"""Published files that a design names: found, described, never mixed."""

import gzip
import hashlib
import json
import pathlib

import pytest
from ablation_designs import write_toy

from rm_jax.ablation.design import digest, load_design
from rm_jax.ablation.pool import Job, run_job
from rm_jax.ablation.real_data import describe_data, find_data, read_data
from rm_jax.ablation.run import run_experiment
from rm_jax.types import UserError

NAME = "somewhere/rows.jsonl.gz"
ROWS = [{"question": "1 + 1", "answer": 2}, {"question": "1 + 2", "answer": 3}]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> pathlib.Path:
  """A folder of data, which RM_DATA names."""
  path = tmp_path / "data" / NAME
  path.parent.mkdir(parents=True)
  path.write_bytes(
    gzip.compress(b"\n".join(json.dumps(r).encode() for r in ROWS))
  )
  monkeypatch.setenv("RM_DATA", str(tmp_path / "data"))
  return tmp_path / "data"


def toy(tmp_path):
  """The toy experiment, reading NAME."""
  home = write_toy(tmp_path / "experiments")
  mini = home / "toy/mini.py"
  text = mini.read_text().replace(
    '  claim="', f'  data=("{NAME}",),\n  claim="'
  )
  mini.write_text(text)
  return home


def run(home, **changes):
  how = dict(
    folder=home,
    preset="mini",
    quick=True,
    tune=False,
    workers=1,
    vmap_seeds=False,
    workdir=str(home / "jobs"),
    command="rm-jax experiment toy",
  )
  return run_experiment("toy", **how | changes)


def do_jobs(home, data, seeds):
  design = load_design(home, "toy", "mini")
  size = design.sizes["quick"]
  (home / "jobs").mkdir(exist_ok=True)
  made = {"digest": digest(design, size), "commit": "abc", "data": data}
  for seed in seeds:
    for arm in design.arms:
      run_job(
        design, Job(arm, seed), size=size, made_by=made, workdir=home / "jobs"
      )


def test_a_file_is_named_counted_and_hashed_without_its_folder(folder):
  held = (folder / NAME).read_bytes()
  assert describe_data((NAME,)) == [
    {
      "name": NAME,
      "rows": 2,
      "bytes": len(held),
      "sha256": hashlib.sha256(held).hexdigest(),
    }
  ]
  assert read_data(NAME) == ROWS


def test_a_row_that_cannot_be_read_is_named(folder):
  (folder / NAME).write_bytes(gzip.compress(b'{"question": 1}\n{"que'))
  with pytest.raises(UserError, match=r"rows.jsonl.gz:2: "):
    read_data(NAME)


def test_no_job_begins_without_the_files(folder, tmp_path, monkeypatch):
  # Wrong: workers that start, and each job that fails with a log of its own.
  home = toy(tmp_path)
  with pytest.raises(UserError) as error:
    find_data((NAME, "elsewhere/b.json"))
  assert str(error.value) == (
    f"RM_DATA={folder}: 1 of 2 files are not there, first elsewhere/b.json. "
    "Set it to the folder that holds all of them."
  )
  monkeypatch.delenv("RM_DATA")
  with pytest.raises(UserError) as error:
    run(home)
  assert str(error.value) == (
    "RM_DATA is not set: this experiment reads 1 published files such as "
    f"{NAME}. Set it to the folder that holds them: RM_DATA=path rm-jax "
    "experiment ..."
  )
  assert not (home / "jobs").exists()


def test_results_and_readme_say_what_was_read(folder, tmp_path):
  home = toy(tmp_path)
  files = describe_data((NAME,))
  do_jobs(home, files, (0, 1))
  assert run(home) == 0
  text = (home / "jobs/results.json").read_text()
  assert json.loads(text)["data"] == files and str(folder) not in text
  design = load_design(home, "toy", "mini")
  from rm_jax.ablation.report import how

  assert how(design, json.loads(text)).endswith(
    " Read: 1 files, 2 rows, sha256 in `results.json`."
  )


def test_jobs_that_read_other_files_are_not_one_result(folder, tmp_path):
  home = toy(tmp_path)
  files = describe_data((NAME,))
  do_jobs(home, files, (0,))
  do_jobs(home, [files[0] | {"sha256": "0"}], (1,))
  with pytest.raises(UserError, match="more-1 read other files below RM_DATA"):
    run(home)
