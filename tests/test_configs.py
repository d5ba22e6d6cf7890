"""Every config that ships: loads, is valid, and its names are known."""

import functools
import importlib.util
import math
import pathlib

import jax
import pytest
import tiny_run

from rm_jax.config import base, validate
from rm_jax.models.sharding import make_mesh
from rm_jax.models.sizes import SIZES
from rm_jax.train import loop
from rm_jax.train.optim import make_optimizer, make_schedule, segments_for
from rm_jax.train.tasks import read_tasks

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))


def load(path):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_config_describes_a_run(path):
  # Wrong: a key that moved, a loss that does not fit its head, a warm-up
  # longer than the run.
  module = load(path)
  assert "rm-jax" in module.__doc__ or "make" in module.__doc__  # how to run
  c = module.get_config()
  c.data.source = c.data.source or "pairs.jsonl"
  validate(c)
  (task,) = read_tasks(c)
  assert task.reading.row_len == c.data.row_len
  assert task.supervision.loss == c.loss.name
  make_optimizer(c.optim, make_schedule(c.optim, c.num_train_steps))
  if c.init["from"] == "smollm2":
    segments_for(c.train.trainable, SIZES["smollm2_135m"].layers)


def test_there_are_configs_and_none_adds_keys():
  assert len(CONFIGS) >= 2
  keys = base().keys()
  for path in CONFIGS:
    assert load(path).get_config().keys() == keys


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_config_takes_two_train_steps(path, tmp_path, request, monkeypatch):
  """With the data it names, on a tiny random model and one device."""
  one = functools.partial(make_mesh, devices=jax.devices()[:1])
  monkeypatch.setattr(loop, "make_mesh", one)
  c = load(path).get_config()
  if not c.data.source:
    c.data.source = str(request.getfixturevalue("rm_data") / "hh_rlhf")
  tokenizer = tiny_run.write_tokenizer(tmp_path / "tokenizer")
  c.init.tokenizer, c.init["from"] = str(tokenizer), "random:tiny"
  if c.train.trainable.startswith("last:"):
    c.train.trainable = "last:1"
  c.init.layers = 0
  if c.train.cache_hidden:
    c.train.cache_hidden = str(tmp_path / "hidden")
  c.num_train_steps, c.optim.warmup_steps = 2, 1
  c.data.row_len = 1_024  # a tokenizer of few words cuts text into letters
  c.data.blocks, c.evals.rows = c.train.accumulate, 1
  c.compute.dtype, c.compute.remat = "float32", False
  c.data.groups_per_batch, c.evals.max_groups = 4, 8
  c.evals.at_start = True
  assert loop.train(c, tmp_path / "run", command="") == 0
  rows = tiny_run.rows_without_times(tmp_path / "run")
  assert [r["step"] for r in rows] == [0, 1, 2]
  assert rows[1]["loss"] == pytest.approx(math.log(2), rel=1e-5)
  assert 0 < rows[2]["loss"] < 5
