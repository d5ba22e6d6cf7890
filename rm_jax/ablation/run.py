"""The verb `experiment`: jobs, verdict, results.json."""

import pathlib
import sys
import time

from rm_jax.ablation.design import (
  PRESETS,
  Design,
  digest,
  find_experiments,
  load_design,
  result_name,
)
from rm_jax.ablation.pool import Failed, Job, read_jobs, run_jobs
from rm_jax.ablation.real_data import describe_data
from rm_jax.types import UserError

ALL = "all"  # the word that stands for every key
TUNING = "tuning"  # size of a tuning's jobs in the name of their folder


def run_all(
  *, folder: pathlib.Path, preset: str, workdir: str, command: str, **how
) -> int:
  """`run_experiment` of every one that has the preset; returns the exit code.

  One that fails does not keep the others from running. All results name the
  commit of the start: those of the first one change the tree.

  Args:
    workdir: jobs are in WORKDIR/KEY; "": in the folder that each has alone.
    command: of all; each result has that of its own.
    how: further arguments of `run_experiment`.

  Raises:
    UserError: none has the preset.
  """
  keys = [k for k in find_experiments(folder) if _runs(folder, k, preset, how)]
  if not keys:
    raise UserError(f"{folder}: no experiment has the preset {preset!r}.")
  from rm_jax.train.results import commit

  start, codes = commit(), {}
  for number, key in enumerate(keys, 1):
    print(f"\n{key} ({number} of {len(keys)})", flush=True)
    try:
      codes[key] = run_experiment(
        key,
        folder=folder,
        preset=preset,
        workdir=workdir and f"{workdir}/{key}",
        command=command.replace(f" {ALL}", f" {key}", 1),
        at=start,
        **how,
      )
    except UserError as error:
      print(f"rm-jax: error: {error}", file=sys.stderr)
      codes[key] = 2
  failed = [key for key, code in codes.items() if code]
  if failed:
    print(
      f"rm-jax: error: {len(failed)} of {len(keys)} experiments have no "
      f"result: {', '.join(failed)}. The same command runs only what is left.",
      file=sys.stderr,
    )
  return max(codes.values())


def _runs(folder, key: str, preset: str, how: dict) -> bool:
  """Whether there is something to run: the preset, or a tuning of it."""
  if not (folder / key / f"{preset}.py").exists():
    return False
  return not how["tune"] or load_design(folder, key, preset).tuning is not None


def run_experiment(
  key: str,
  *,
  folder: pathlib.Path,
  preset: str,
  quick: bool,
  tune: bool,
  workers: int,
  vmap_seeds: bool,
  workdir: str,
  command: str,
  at: str = "",
) -> int:
  """Runs what is not yet done of an experiment; returns the exit code.

  The whole size writes `results.json` into the experiment's folder and renders
  its README; a quick one leaves its results in the workdir.

  Args:
    folder: that of all experiments.
    tune: instead runs every arm at every rate of the design's tuning.
    vmap_seeds: all seeds of an arm, and rates of a tuning, train side by side.
    workdir: of the jobs' results; "": runs/experiments/KEY/PRESET-SIZE.
    at: the commit that results name; "": that of now.

  Raises:
    UserError: nothing of that name, published files that are not there,
      results of another design, or `vmap_seeds` where runs are not of
      train/fit.py.
  """
  design = load_design(folder, key, preset)
  if vmap_seeds and preset != PRESETS[0]:
    raise UserError(
      f"--vmap-seeds with --preset={preset}: its jobs train as rm-jax train "
      f"does, one run at a time; those of --preset={PRESETS[0]} can train side "
      "by side. Run this without --vmap-seeds."
    )
  files = describe_data(design.data) if design.data else []
  from rm_jax.train.results import commit  # jax: after what is refused

  name = "quick" if quick else "whole"
  size = design.sizes[name]
  jobs = _jobs(design, quick=quick, tune=tune)
  label = TUNING if tune else name
  out = pathlib.Path(workdir or f"runs/experiments/{key}/{preset}-{label}")
  made_by = {
    "digest": digest(design, size),
    "commit": at or commit(),
    "data": files,
  }
  started = time.perf_counter()
  failed = run_jobs(
    design,
    jobs,
    size=size,
    made_by=made_by,
    workdir=out,
    workers=workers,
    vmap_seeds=vmap_seeds,
  )
  if failed:
    _say_failed(failed, len(jobs), out)
    return 1
  found = read_jobs(out, jobs, digest=made_by["digest"])
  if tune:
    print(tuned(design, found))
    return 0
  return _write(
    design, found, name, out, command, time.perf_counter() - started
  )


def _write(design, found, name, out, command, seconds) -> int:
  from rm_jax.ablation.findings import find_results
  from rm_jax.ablation.report import in_words, render, table
  from rm_jax.train.checkpoint import write_json

  results = find_results(
    design, found, size=name, command=command, seconds=seconds
  )
  home = design.path.parent if name == "whole" else out
  target = home / result_name(design.preset)
  write_json(target, results)
  if name == "whole":
    render(design)
  print(table(design, results))
  print()
  print(in_words(design, results))
  print(target)
  return 0


def _jobs(design: Design, *, quick: bool, tune: bool) -> list[Job]:
  """Seed after seed, so that what is there early is whole seeds."""
  if not tune:
    seeds = design.quick_seeds if quick else design.seeds
    return [Job(arm, seed) for seed in seeds for arm in design.arms]
  if design.tuning is None:
    raise UserError(f"{design.path}: tuning is None, there is nothing to tune.")
  return [
    Job(arm, seed, rate)
    for seed in design.tuning.seeds
    for arm in design.tuning.arms or design.arms
    for rate in design.tuning.rates
  ]


def tuned(design: Design, found: dict[Job, dict]) -> str:
  """The tuning metric by arm and rate, the best of each arm marked.

  Below it the arms from the best down, each at its own best rate: what a
  design reads that carries the winner into further arms.
  """
  tuning, bests = design.tuning, {}
  rates = [f"{rate:g}" for rate in tuning.rates]
  lines = [
    f"| {tuning.metric}, seeds {tuning.seeds} | {' | '.join(rates)} |",
    f"|---|{'---|' * len(rates)}",
  ]
  for arm in tuning.arms or design.arms:
    means = []
    for rate in tuning.rates:
      own = [
        r["metrics"][tuning.metric]
        for job, r in found.items()
        if (job.arm, job.rate) == (arm, rate)
      ]
      means.append(sum(own) / len(own))
    best = bests[arm] = min(means) if tuning.lower else max(means)
    cells = [f"**{m:.4f}**" if m == best else f"{m:.4f}" for m in means]
    lines.append(f"| {arm} | {' | '.join(cells)} |")
  order = sorted(bests, key=bests.get, reverse=not tuning.lower)
  return "\n".join([*lines, "", f"From the best down: {', '.join(order)}."])


def _say_failed(failed: list[Failed], count: int, out: pathlib.Path) -> None:
  for one in failed:
    print(
      f"rm-jax: arm {one.job.arm}, seed {one.job.seed}: {one.reason}. See "
      f"{one.log}",
      file=sys.stderr,
    )
  print(
    f"rm-jax: error: {len(failed)} of {count} jobs have no result. Those that "
    f"have are kept in {out}: the same command runs only the others.",
    file=sys.stderr,
  )
