"""docs/from_trl_openrlhf.md is true: its keys exist, its commands run."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
from absl import flags

from rm_jax import RewardModel
from rm_jax.config import base, get
from rm_jax.losses import LOSSES
from rm_jax.verbs import export
from tests import tiny_run, trained

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "from_trl_openrlhf.md").read_text()
COMMANDS = re.search(r"```sh\n(.*?)```", TEXT, re.DOTALL)[1].splitlines()

# A run of seconds; everything else is as the page says.
SMALL = (
  "--config.num_train_steps=2",
  "--config.optim.warmup_steps=1",
  "--config.data.row_len=64",
  "--config.compute.dtype=float32",
)


def test_every_key_is_one():
  # Catches a key that was renamed: the page would send people into an error.
  keys = set(re.findall(r"config\.([a-z_0-9]+(?:\.[a-z_0-9]+)*)", TEXT))
  keys.remove("json")  # the file config.json
  assert len(keys) > 35
  for key in sorted(keys):
    get(base(), key)  # KeyError names it


def test_every_loss_and_link_is_one():
  for name in re.findall(r"config\.loss\.name=(\w+)", TEXT):
    assert name in LOSSES
  for link in re.findall(r"\]\(([^)#]+)\)", TEXT):
    assert (ROOT / "docs" / link).exists(), link
  for path in re.findall(r"`(tests/[\w/]+\.py)`", TEXT):
    assert (ROOT / path).exists(), path


def test_the_flags_of_export_are_those():
  known = set(flags.FLAGS)
  export.define_flags()
  try:
    for flag in ("dtype", "max_shard_gb", "architecture", "average", "out"):
      assert f"--{flag}" in TEXT and flag in flags.FLAGS
  finally:
    for name in set(flags.FLAGS) - known:
      delattr(flags.FLAGS, name)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """A folder in which the commands of the page find what they name."""
  folder = tmp_path_factory.mktemp("from_trl")
  (folder / "path" / "to").mkdir(parents=True)
  model = trained.published(tmp_path_factory.getbasetemp(), 0)
  (folder / "path" / "to" / "model").symlink_to(model)
  (folder / "configs").symlink_to(ROOT / "configs")
  tiny_run.write_rows(folder / "pairs.jsonl", tiny_run.pairs(60))
  return folder


@pytest.mark.slow
def test_the_commands_run_one_after_the_other(place, monkeypatch):
  assert [shlex.split(c)[1] for c in COMMANDS] == ["doctor", "train", "export"]
  for command in COMMANDS:
    _, verb, *rest = shlex.split(command)
    more = SMALL if verb == "train" else ()
    done = subprocess.run(
      [sys.executable, "-m", "rm_jax", verb, *rest, *more],
      cwd=place,
      env=os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)},
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr
  monkeypatch.chdir(place)  # the run names its base model from there
  before = RewardModel.load("runs/mine")
  after = RewardModel.load(place / "hf" / "mine")
  for model in (before, after):
    assert model.spec.head.kind == "scalar"
  asked = ("Who wrote this ?", ["A poet .", "Nobody knows ."])
  assert before.score(*asked).tolist() == after.score(*asked).tolist()
