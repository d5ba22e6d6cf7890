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
from rm_jax.types import UserError

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


TEXT_WORLD = "rm_jax/data/text_world"

# Config and its argument -> data below RM_DATA or in the package ("": what it
# names itself), and the first loss, where all scores are 0; None: it depends on
# the data.
RUNS = {
  "demo": ("", math.log(2)),
  "listwise_arithmetic": ("", math.log(2)),
  "pairwise_hh": ("hh_rlhf", math.log(2)),
  "outcome_gsm8k": ("gsm8k/example_model_solutions.*", math.log(2)),
  "process_prmbench": ("prmbench/*circular*", math.log(2)),
  "listwise_llmzoo": ("llmzoo_rankings", math.log(2)),
  "listwise_llmzoo:plackett_luce": ("llmzoo_rankings", None),
  "listwise_oasst": ("oasst_trees", math.log(2)),
  "margin_ultrafeedback": ("ultrafeedback_sample", math.log(2)),
  "margin_ultrafeedback:margin": ("ultrafeedback_sample", None),
  "margin_ultrafeedback:ratings": ("ultrafeedback_sample", math.log(19)),
  "ratings_just_eval": ("just_eval/general_multi_aspect", None),
  "llama3_8b_bt": ("hh_rlhf", math.log(2)),
  "instructgpt_6b": ("llmzoo_rankings", math.log(2)),
  "llama2_70b": (f"{TEXT_WORLD}/train_comparisons.jsonl.gz", None),
  "llama2_70b:v5e-256": (f"{TEXT_WORLD}/train_comparisons.jsonl.gz", None),
  "starling": ("llmzoo_rankings", None),
  "starling:34b": ("llmzoo_rankings", None),
  "cobbe_6b": ("gsm8k/example_model_solutions.*", None),
  "process_70b": ("prmbench/*circular*", None),
}
QUICK = ("demo", "llama2_70b", "ratings_just_eval")  # the others: make slow


def test_every_config_is_run():
  assert {run.partition(":")[0] for run in RUNS} == {p.stem for p in CONFIGS}


def test_an_unknown_arm_is_refused():
  with pytest.raises(UserError, match="expected one of plain, margin, ratings"):
    load(ROOT / "configs/margin_ultrafeedback.py").get_config("margins")


@pytest.mark.parametrize(
  "run",
  [r if r in QUICK else pytest.param(r, marks=pytest.mark.slow) for r in RUNS],
)
def test_a_config_takes_two_train_steps(run, tmp_path, request, monkeypatch):
  """With the data it names, on a tiny random model and one device."""
  one = functools.partial(make_mesh, devices=jax.devices()[:1])
  monkeypatch.setattr(loop, "make_mesh", one)
  name, _, arg = run.partition(":")
  place, first = RUNS[run]
  c = load(ROOT / f"configs/{name}.py").get_config(*[arg] * bool(arg))
  if place:
    below = ROOT
    if not place.startswith(TEXT_WORLD):
      below = request.getfixturevalue("rm_data")
    (source,) = below.glob(place)
    c.data.source = str(source)
    c.data.eval_share = max(0.1, c.data.eval_share)
  c.init.tokenizer, c.init["from"] = "smollm2", "random:tiny"
  if c.train.trainable.startswith("last:"):
    c.train.trainable = "last:1"
  c.init.layers = 0
  if c.train.cache_hidden:
    c.train.cache_hidden = str(tmp_path / "hidden")
  c.num_train_steps, c.optim.warmup_steps = 2, 1
  c.data.row_len = 1_024
  c.data.train_share = min(0.05, c.data.train_share)  # two steps need no more
  c.data.blocks, c.evals.rows = c.train.accumulate, 1
  c.compute.dtype, c.compute.remat = "float32", False
  c.compute.results, c.compute.attention = "float32", "blocks"
  c.mesh.data, c.mesh.fsdp, c.mesh.tensor = -1, 1, 1
  c.data.batch = "groups"
  c.data.groups_per_batch, c.evals.max_groups = 4, 8
  c.data.max_reject_share = 0.5  # of so few records
  c.evals.at_start = True
  assert loop.train(c, tmp_path / "run", command="") == 0
  rows = tiny_run.rows_without_times(tmp_path / "run")
  assert [r["step"] for r in rows] == [0, 1, 2]
  if first:
    assert rows[1]["loss"] == pytest.approx(first, rel=1e-5)
  assert 0 < rows[2]["loss"] < 30
