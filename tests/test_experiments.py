"""Every experiment that ships: its design, its jobs, its README, its config."""

import functools
import itertools
import json
import os
import pathlib

import jax
import numpy as np
import pytest
import tiny_run
from ml_collections import ConfigDict

from rm_jax.ablation import lm_runs
from rm_jax.ablation.design import find_experiments, load_design, load_file
from rm_jax.ablation.report import filled, read_results
from rm_jax.config import validate
from rm_jax.data.loader import lay_step
from rm_jax.data.tokenizers import load_tokenizer
from rm_jax.models.sharding import make_mesh
from rm_jax.train import loop
from rm_jax.train.optim import make_optimizer, make_schedule
from rm_jax.train.sets import load_sets, train_plan
from rm_jax.train.tasks import read_tasks
from rm_jax.types import UserError

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / "experiments"
KEYS = find_experiments(FOLDER)
DESIGNS = {key: load_design(FOLDER, key, "mini") for key in KEYS}
LM = {
  key: load_design(FOLDER, key, "lm")
  for key in KEYS
  if (FOLDER / key / "lm.py").exists()
}
FULL = sorted(p.parent.name for p in FOLDER.glob("*/full.py"))
# One of each world; the others take their steps in make slow.
QUICK = ("touvron2023_llama2", "wang2023_math_shepherd", "zhu2023_principled")
# Arms of minis for which nothing is trained.
BASELINES = ("majority", "earlier", "chance", "constant", "place")
# Of lm designs on published data: what a model is held against.
UNTRAINED = {
  "cobbe2021_verifiers": ("chance", "length", "system", "vote", "oracle"),
  "lightman2023_prm": ("chance", "earlier", "length", "none"),
}
SLICES = {  # that the config's own words name, with its chips
  "cobbe2021_verifiers": ("v5e-64", 64),
  "lightman2023_prm": ("v5p-512", 256),
  "margins": ("v5e-16", 16),
  "ouyang2022_instructgpt": ("v5e-64", 64),
  "touvron2023_llama2": ("v5p-512", 256),
  "zhu2024_starling": ("v5e-64", 64),
}
# What an arm may change of the config that it stands on.
ARM_KEYS = {
  "num_train_steps",
  "data.kind",
  "loss.language_coefficient",
  "loss.margin",
  "loss.name",
  "model.dropout",
  "model.head",
  "model.pooling",
}


def check_job(design, arm):
  """Two train steps, and every metric that the design reads of the arm."""
  metrics, curve = design.job(arm, 100, **design.sizes["two_steps"])
  assert all(np.isfinite(value) for value in metrics.values())
  for each in (*design.outcomes, *design.checks, *design.conditions):
    if arm in (each.arm, each.less):
      assert each.metric in metrics, (arm, each.name)
  tuning = design.tuning
  if tuning is not None and arm in (tuning.arms or design.arms):
    assert tuning.metric in metrics, (arm, "tuning")
  for row in curve:
    assert design.outcomes[0].metric in row and "step" in row
  return metrics


@pytest.mark.parametrize(
  "key",
  [k if k in QUICK else pytest.param(k, marks=pytest.mark.slow) for k in KEYS],
)
def test_a_job_takes_two_train_steps(key):
  design = DESIGNS[key]
  check_job(design, next(iter(design.arms)))


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_the_last_arms_take_two_train_steps(key):
  # All that train would take an hour; of those that do not, each.
  arms = list(DESIGNS[key].arms)
  trained = [arm for arm in arms if arm not in BASELINES]
  for arm in (trained[-1], *(arm for arm in arms if arm in BASELINES)):
    check_job(DESIGNS[key], arm)


@pytest.mark.parametrize("key", KEYS)
def test_a_design_keeps_to_the_protocol(key):
  design = DESIGNS[key]
  assert design.seeds == tuple(range(8))
  if design.tuning is not None:
    assert not set(design.tuning.seeds) & set(design.seeds)
  assert set(design.quick_seeds) < set(design.seeds)
  assert f"rm-jax experiment {key}" in load_file(design.path).__doc__
  assert design.checks and design.falsified


def need_data(design):
  """Skips a design whose published files are not here."""
  if design.data and not os.environ.get("RM_DATA"):
    pytest.skip("RM_DATA is not set: real data tests")


def untrained(design) -> list:
  """The arms that stand beside the models: nothing is trained for them."""
  return sorted(set(design.arms) & set(UNTRAINED.get(design.key, ())))


def trained(design) -> list:
  return [arm for arm in design.arms if arm not in untrained(design)]


@pytest.mark.slow
@pytest.mark.parametrize(
  "key, arm",
  [
    (key, arm)
    for key, design in LM.items()
    # A minute for each that trains: the others are followed to their fit below.
    for arm in [*untrained(design), trained(design)[0]]
  ],
)
def test_an_lm_job_takes_two_train_steps(key, arm, monkeypatch, optimised):
  need_data(LM[key])
  one = functools.partial(make_mesh, devices=jax.devices()[:1])
  monkeypatch.setattr(loop, "make_mesh", one)
  check_job(LM[key], arm)


class Begun(Exception):
  """A job has come to where it would train."""


def most_tokens(design) -> int:
  """What a job of an lm design may train on."""
  return 120_000 if design.data else 100_000


@pytest.mark.parametrize("key", LM)
def test_an_lm_job_trains_on_few_tokens(key, tmp_path, monkeypatch):
  design, asked = LM[key], {}
  need_data(design)

  def begin(*job):
    asked[arm] = job
    raise Begun

  monkeypatch.setattr(lm_runs, "fit_records", begin)
  # One text for all arms of a seed: any arm has the tokens of all.
  for arm in trained(design)[: 1 if untrained(design) else None]:
    with pytest.raises(Begun):
      design.job(arm, 100, **design.sizes["whole"])
  tokenizer = load_tokenizer("smollm2")
  for n, (arm, (c, *sides)) in enumerate(asked.items()):
    c.data.source, c.data.eval_source = (
      str(tiny_run.write_rows(tmp_path / f"{n}-{name}.jsonl", rows))
      for name, rows in zip(("train", "test"), sides, strict=True)
    )
    sets = load_sets(c, tokenizer, read_tasks(c), tmp_path)
    plan = train_plan(c, sets.train.demands, sets.parts)
    tokens = sum(
      lay_step(sets.train, plan, step)[2]["useful_tokens"]
      for step in range(c.num_train_steps)
    )
    assert 10_000 < tokens <= most_tokens(design), (arm, tokens)


@pytest.mark.parametrize("key", UNTRAINED)
def test_arms_of_a_seed_read_the_same_texts_of_other_problems(key, monkeypatch):
  # Catches: a problem on both sides; arms that would not share the states of
  # the frozen layers; seeds that train on the same problems.
  design, asked = LM[key], []
  need_data(design)

  def begin(*job):
    asked.append(job)
    raise Begun

  monkeypatch.setattr(lm_runs, "fit_records", begin)
  for seed, arm in itertools.product((0, 1), trained(design)):
    with pytest.raises(Begun):
      design.job(arm, seed, **design.sizes["quick"])

  def texts(rows):
    return [(row["prompt"], row["completions"]) for row in rows]

  first, again, other, last = [
    [texts(rows) for rows in job[1:]] for job in asked
  ]
  for train, test in (first, other):
    assert not {p for p, _ in train} & {p for p, _ in test}
  assert again == first and last == other and first != other


@pytest.mark.parametrize("key", LM)
def test_an_lm_design_keeps_to_its_bounds(key):
  design = LM[key]
  assert design.seeds == tuple(range(4))
  assert len(design.arms) * len(design.seeds) <= 48
  assert not set(design.tuning.seeds) & set(design.seeds)
  assert f"{key} --preset=lm" in load_file(design.path).__doc__
  if design.data:
    assert "RM_DATA=path rm-jax" in load_file(design.path).__doc__
  results = read_results(design)
  if results is None:
    pytest.skip("not run yet")
  tokens = [
    entry["value"]
    for name, entry in results["metrics"].items()
    if name.endswith("/train_tokens")
  ]
  assert len(tokens) == len(design.arms) - len(untrained(design))
  assert max(tokens) <= most_tokens(design)
  read = results.get("data", [])  # none before designs could name files
  assert [file["name"] for file in read] == list(design.data)
  assert results["job_seconds"] < 150 * 60


@pytest.mark.parametrize("key", [*KEYS, ""])
def test_readmes_are_printed_from_their_results(key):
  # Catches a number edited by hand, results without their table, and a design
  # that was changed after its run and not marked.
  folder = FOLDER / key
  text = (folder / "README.md").read_text()
  assert filled(text, folder, key) == text, "run: rm-jax report experiments"


@pytest.mark.parametrize("key", KEYS)
def test_a_readme_has_all_marks_and_what_would_falsify(key):
  text = (FOLDER / key / "README.md").read_text()
  for preset in ("", " lm") if key in LM else ("",):
    for mark in ("verdict", "table", "run"):
      assert f"<!-- {mark}{preset} -->" in text
  assert "falsified" in text and f"rm-jax experiment {key}\n" in text


@pytest.mark.parametrize("key", KEYS)
def test_results_that_ship_are_whole_and_of_their_design(key):
  design = DESIGNS[key]
  results = read_results(design)
  if results is None:
    pytest.skip("not run yet")
  assert results["size"] == "whole"
  assert results["seeds"] == list(design.seeds)
  assert results["jobs"] == len(design.seeds) * len(design.arms)
  assert not any(commit.endswith("+") for commit in results["commit"])
  assert (FOLDER / key / "plot.png").exists()
  for entry in results["metrics"].values():
    assert entry["seeds"] == list(design.seeds)


def test_every_full_config_names_its_slice():
  assert sorted(SLICES) == FULL
  for key, (name, chips) in SLICES.items():
    told = " ".join(load_file(FOLDER / key / "full.py").__doc__.split())
    assert f"--slice={name} " in told and f"{chips} chips" in told


@pytest.mark.parametrize("key", FULL)
def test_a_plan_of_every_full_config_is_kept_and_fits(key):
  base = load_file(FOLDER / key / "full.py").BASE.stem
  size = {"starling": "starling_7b"}.get(base, base)
  plan = f"configs/plans/{size}.{SLICES[key][0]}"
  assert json.loads((ROOT / f"{plan}.json").read_text())["fits"] is True
  assert f"configs/{base}.py" in (ROOT / f"{plan}.txt").read_text()
  assert f"{plan}.txt" in (FOLDER / key / "README.md").read_text()


@pytest.mark.parametrize("key", FULL)
def test_a_full_config_is_that_of_configs_but_for_its_arm(key):
  # Catches a second config of the same model, which no plan was made of; an arm
  # that is another in name alone; a loss that does not fit its head.
  module = load_file(FOLDER / key / "full.py")
  plain = load_file(module.BASE).get_config()
  before, seen = dict(flat(plain)), []
  assert flat(module.get_config()) == flat(module.get_config([*module.ARMS][0]))
  for arm in module.ARMS:
    c = module.get_config(arm)
    changed = {k: v for k, v in flat(c) if before[k] != v}
    assert set(changed) <= ARM_KEYS and changed not in seen
    seen.append(changed)
    c.data.source = "records.jsonl"
    validate(c)
    read_tasks(c)
    make_optimizer(c.optim, make_schedule(c.optim, c.num_train_steps))
    assert c.mesh.data * c.mesh.fsdp * c.mesh.tensor == SLICES[key][1]
  with pytest.raises(UserError, match="full.py:margin: expected one of "):
    module.get_config("margin")


def flat(config, prefix="") -> list:
  """(dotted key, value) of every leaf."""
  found = []
  for key, value in config.items():
    if isinstance(value, ConfigDict):
      found += flat(value, f"{prefix}{key}.")
    else:
      found.append((f"{prefix}{key}", value))
  return found
