"""Seeds side by side: the numbers of separate runs, and who waits for whom."""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest

from rm_jax.ablation import chain_runs, lanes, token_runs
from rm_jax.ablation.design import load_design
from rm_jax.ablation.lanes import Lane, run_lanes
from rm_jax.ablation.pool import Job, run_job
from rm_jax.data.worlds import chain
from rm_jax.data.worlds.utility import VOCABULARY, draw_texts, draw_world
from rm_jax.reward_model import init_params
from rm_jax.train import fit
from rm_jax.train.fit import Run, fit_together, program, spec_of
from rm_jax.train.sets import train_plan

FOLDER = pathlib.Path(__file__).parents[2] / "experiments"
SEEDS = (0, 1, 2)
# Experiments' arms compare means over seeds to about 1e-3.
NEAR = dict(rtol=0, atol=1e-5)


def token_world(seed: int, **changes) -> Run:
  """Rankings, one completion a row; dropout; a rate of its own."""
  how = dict(loss="all_pairs", rate=(seed + 1) * 1e-3)
  c = token_runs.token_config(seed=seed, steps=4, groups=4, **how)
  c.model.dropout, c.evals.rows = 0.2, 12
  c.update_from_flattened_dict(changes)

  def data(number, prompts):
    rng = np.random.default_rng(number)
    texts = draw_texts(rng, draw_world(rng), prompts=prompts, completions=3)
    ranks = np.argsort(np.argsort(-texts.gold, axis=1), axis=1)
    return token_runs.groups_of(c, texts, token_runs.whole(texts), ranks=ranks)

  how = dict(more={"same": data(9, 5)}, curve=data(8, 4), every=3)
  return Run(c, data(seed, 20), data(7, 4 + seed), VOCABULARY, **how)


def shared_world(seed: int) -> Run:
  """The same in shared rows; how many they are depends on the seed."""
  how = {"data.layout": "shared", "data.row_len": 100, "evals.rows": 2}
  return token_world(seed, **how)


def chain_world(seed: int) -> Run:
  """Steps of solutions whose longest depends on the seed."""
  how = dict(loss="step_binary_cross_entropy", pooling="step_ends")
  c = chain_runs.chain_config(seed=seed, steps=4, batch=2, rate=1e-3, **how)
  rng = np.random.default_rng(seed)
  problems = chain.draw_problems(rng, count=8, modulus=5)
  often = chain.Generator(0.5, 0.5, neutral=0.1)
  solutions = chain.draw_solutions(rng, problems, often, count=1)
  labels = chain.prefix_right(solutions).astype(float)
  data = chain_runs.to_learn(c, problems, solutions, steps=labels)
  return Run(c, data, None, chain.vocabulary(5))


def with_head(run: Run) -> Run:
  """From parameters whose head is not 0: else a first step moves it alone."""
  params = init_params(spec_of(run.config, run.vocabulary), jax.random.key(5))
  keys = jax.random.key(run.config.seed)
  head = jax.tree.map(
    lambda x: x + 0.1 * jax.random.normal(keys, x.shape), params["head"]
  )
  return run._replace(start=params | {"head": head})


def near(a, b):
  jax.tree.map(functools.partial(np.testing.assert_allclose, **NEAR), a, b)


LATER = (shared_world, chain_world)  # two compilations more each


def plans(world):
  runs = map(world, SEEDS)
  return [train_plan(r.config, r.train.demands, r.parts) for r in runs]


@pytest.mark.parametrize(
  "world",
  [token_world] + [pytest.param(w, marks=pytest.mark.slow) for w in LATER],
)
def test_seeds_side_by_side_are_the_runs_one_by_one(world):
  # Wrong: a batch, masks, a rate or moments of another seed; a step count that
  # one seed's data decides; padding with a weight.
  runs = [with_head(world(seed)) for seed in SEEDS]
  together = fit_together(runs)
  for got, run in zip(together, runs, strict=True):
    (want,) = fit_together([run])
    assert len(got.losses) == 4
    near(got.losses, want.losses)
    near(got.params, want.params)
    assert got.tokens == want.tokens and got.completions == want.completions
    near(got.more, want.more)
    near(got.curve, want.curve)
    near(got.scored, want.scored)
  first = [fitted.losses[0] for fitted in together]
  assert min(np.diff(sorted(first))) > 1e-3  # else the above proves little
  moved = jax.tree.map(lambda a, b: abs(a - b).max(), got.params, run.start)
  assert min(jax.tree.leaves(moved)) > 1e-4  # no parameter is left out


def test_the_worlds_of_later_differ_in_shape():
  # Else the test above says nothing of padding.
  rows = [plan.row_counts for plan in plans(shared_world)]
  assert len(set(rows)) > 1
  slots = [plan.geometry.slots for plan in plans(chain_world)]
  assert len(set(slots)) > 1


def test_one_compilation_serves_all_seeds_and_any_others():
  # Wrong: a seed or a rate that is a constant of the compiled step.
  compiled = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda name, _, **how: (
      compiled.append(how["fun_name"]) if "backend_compile" in name else None
    )
  )
  fit._steps.cache_clear()
  nothing = dict(test=None, more=None, curve=None)  # to score
  worlds = [
    with_head(token_world(seed))._replace(**nothing)
    for seed in (*SEEDS, 5, 6, 7)
  ]
  compiled.clear()
  fit_together(worlds[:3])
  assert compiled.count("jit(body)") == 1  # the train step
  count = len(compiled)
  fit_together(worlds[3:])
  assert len(compiled) == count


def test_runs_of_one_program_differ_in_seed_rate_and_data_only():
  a, b = token_world(0), token_world(2)
  assert program(a) == program(b)
  for key, value in {
    "num_train_steps": 5,
    "optim.weight_decay": 0.5,
    "data.groups_per_batch": 2,
  }.items():
    other = a.config.copy_and_resolve_references()
    other.update_from_flattened_dict({key: value})
    assert program(a._replace(config=other)) != program(a)
  assert program(a._replace(curve=None)) != program(a)


def small_job(job, cached):
  """As designs do: arm v votes, a and b have one start, made once a seed.

  They are of two programs: `every` stands for what parts the losses of arms.
  """
  if job.arm == "v":
    return
  run = token_world(job.seed)._replace(test=None, more=None, curve=None)
  if "start" not in cached:
    cached["start"] = lanes.fit(**run._asdict()).params
  if job.arm == "a" and "data" in cached:
    run = run._replace(train=run.train._replace(groups=[]))
  if job.arm == "a" and "config" in cached:
    run.config.data.layout = "best"
  every = 1 + (job.arm == "b")
  lanes.fit(**run._replace(start=cached["start"], every=every)._asdict())


def lane(number: int, arms: str, *broken: str) -> Lane:
  return Lane(dict.fromkeys(broken), [Job(arm, number) for arm in arms])


def seen_of(*every: Lane) -> dict:
  """{job: (runs that trained together in each of its fits, why it failed)}."""
  seen = {}

  def do(lane, job):
    why = ""
    try:
      small_job(job, lane.design)
    except Exception as error:
      why = str(error)
    assert job.name not in seen and lane.others >= 0
    seen[job.name] = (lane.together, why)

  run_lanes(list(every), do)
  return seen


def test_arms_that_do_not_train_and_starts_that_are_kept():
  # Wrong: a vote that waits for ever, a start that is made for every arm.
  seen = seen_of(*(lane(n, "vab") for n in SEEDS))
  assert len(seen) == 9
  for n in SEEDS:
    assert seen[f"v-{n}"] == ([], "")
    assert seen[f"a-{n}"] == ([3, 3], "")
    assert seen[f"b-{n}"] == ([3], "")


def test_after_a_resumed_run_the_lanes_catch_up():
  # Wrong: lanes that go on because most wait with them.
  seen = seen_of(lane(0, "b"), lane(1, "b"), lane(2, "ab"))
  assert seen["b-0"] == seen["b-1"] == ([3, 3], "")
  assert seen["a-2"] == ([3, 1], "")
  assert seen["b-2"] == ([3], "")


def test_a_job_that_fails_is_not_waited_for():
  seen = seen_of(
    lane(0, "ab", "config"), lane(1, "ab", "config"), lane(2, "ab")
  )
  for n in (0, 1):
    together, why = seen[f"a-{n}"]
    assert together == [3]
    assert "config.data.layout='best' is not known" in why
  assert seen["a-2"] == ([3, 1], "")
  assert all(seen[f"b-{n}"] == ([3], "") for n in SEEDS)


def test_where_training_fails_it_says_whose_and_nobody_waits():
  seen = seen_of(lane(0, "ab"), lane(1, "ab", "data"), lane(2, "ab"))
  for n in SEEDS:
    together, why = seen[f"a-{n}"]
    assert together == [3, 3]
    assert why.startswith("training a-0, a-1, a-2 side by side: IndexError: ")
    assert seen[f"b-{n}"] == ([3], "")


@pytest.mark.slow
@pytest.mark.parametrize(
  "key, arms, size, together",
  [
    (
      "touvron2023_llama2",
      ("none", "large", "safety_1"),
      dict(steps=4, pairs=4, test=20),
      ([3], [3], [3]),
    ),
    (
      "lightman2023_prm",
      ("prm", "active"),
      dict(before=2, steps=4, problems=70, samples=2, few=10, test=4),
      ([3, 3], [3, 3]),  # the first backbone, a model that chooses
    ),
  ],
)
def test_the_results_of_an_experiment_are_those_of_the_pool(
  tmp_path, key, arms, size, together
):
  how = dict(size=size, made_by={"digest": "d", "commit": "c"})
  for name in ("lanes", "pool"):
    (tmp_path / name).mkdir()
  run_lanes(
    [
      Lane(load_design(FOLDER, key, "mini"), [Job(arm, n) for arm in arms])
      for n in SEEDS
    ],
    lambda lane, job: run_job(
      lane.design, job, lane=lane, workdir=tmp_path / "lanes", **how
    ),
  )
  design = load_design(FOLDER, key, "mini")
  for n in SEEDS:
    for arm, runs in zip(arms, together, strict=True):
      run_job(design, Job(arm, n), workdir=tmp_path / "pool", **how)
      got, want = (
        json.loads((tmp_path / name / f"{arm}-{n}.json").read_text())
        for name in ("lanes", "pool")
      )
      assert got.pop("vmapped") == runs
      assert 0 <= got.pop("seconds") and want.pop("seconds")
      assert got.pop("metrics") == pytest.approx(
        want.pop("metrics"), rel=1e-5, abs=1e-5
      )
      assert got == want
  assert not list(tmp_path.glob("*/*.log"))
