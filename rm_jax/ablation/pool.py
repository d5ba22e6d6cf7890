"""Jobs in worker processes: one file per finished job, so a kill loses little.

Workers are spawned, begin with one thread each, share imports and compilations
among their jobs, and end with their parent. With `vmap_seeds` there is one, of
as many threads as it wants, whose jobs train side by side (lanes.py).
"""

import contextlib
import json
import multiprocessing
import os
import pathlib
import sys
import threading
import time
import traceback
from typing import NamedTuple

from tqdm import tqdm

from rm_jax.ablation.design import Design, load_design
from rm_jax.places import user_cache
from rm_jax.types import UserError

SCHEMA = 1
# Small matrices: a second thread costs more than it gives, and jobs run beside
# each other.
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
LOOK = 0.2  # seconds between looks at what is finished


class Job(NamedTuple):
  """One arm at one seed; at another learning rate, in a tuning."""

  arm: str
  seed: int
  rate: float | None = None

  @property
  def name(self) -> str:
    rate = "" if self.rate is None else f"@{self.rate:g}"
    return f"{self.arm}{rate}-{self.seed}"


class Failed(NamedTuple):
  """A job without a result, and where it says why."""

  job: Job
  log: pathlib.Path
  reason: str


def run_jobs(
  design: Design,
  jobs: list[Job],
  *,
  size: dict,
  made_by: dict,
  workdir: pathlib.Path,
  workers: int,
  vmap_seeds: bool,
) -> list[Failed]:
  """Runs every job that has no result in `workdir`; those that failed.

  Leaves ARM-SEED.json per finished job, ARM-SEED.log per job that failed or
  was killed.

  Args:
    size: arguments of the job function beside arm and seed.
    made_by: digest, commit and files read, kept with each result.
    vmap_seeds: one worker instead, in which all seeds train side by side.

  Raises:
    UserError: a result in `workdir` is of another design.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  done = read_jobs(workdir, jobs, digest=made_by["digest"])
  left = [job for job in jobs if job not in done]
  if not left:
    return []
  context = multiprocessing.get_context("spawn")
  queue = context.SimpleQueue()
  chunks = [left] if vmap_seeds else _chunks(left, workers)
  for chunk in chunks:
    queue.put(chunk)
  count = min(workers, len(chunks))
  for _ in range(count):
    queue.put(None)
  work = (design.path, design.key, design.preset, size, made_by, workdir)
  target = _work_in_lanes if vmap_seeds else _work
  processes = [
    # Daemons: they end when this process does.
    context.Process(target=target, args=(queue, *work), daemon=True)
    for _ in range(count)
  ]
  with _environment("" if vmap_seeds else ONE_THREAD):
    for process in processes:
      process.start()
  bar = tqdm(
    total=len(jobs),
    initial=len(done),
    disable=None,
    unit="job",
    desc=design.key,
    dynamic_ncols=True,
  )
  try:
    while any(process.is_alive() for process in processes):
      time.sleep(LOOK)
      _show(bar, workdir, jobs)
  finally:
    for process in processes:
      process.terminate()
      process.join()
    _show(bar, workdir, jobs)
    bar.close()
  return _failed(workdir, left)


def read_jobs(
  workdir: pathlib.Path, jobs: list[Job], *, digest: str
) -> dict[Job, dict]:
  """The results that are there.

  Raises:
    UserError: one is of another design.
  """
  found = {}
  for job in jobs:
    path = workdir / f"{job.name}.json"
    if not path.exists():
      continue
    result = json.loads(path.read_text())
    if result["digest"] != digest:
      raise UserError(
        f"{path}: was made by another version of this experiment's file or "
        f"another size (digest {result['digest'][:12]}, now {digest[:12]}). "
        "Results of two designs do not mix: remove the folder, or give "
        "another --workdir."
      )
    found[job] = result
  return found


def _chunks(jobs: list[Job], workers: int) -> list[list[Job]]:
  """Jobs that a worker does in turn: those of a seed share their data."""
  seeds = list(dict.fromkeys(job.seed for job in jobs))
  if len(seeds) < workers:
    return [[job] for job in jobs]
  return [[job for job in jobs if job.seed == seed] for seed in seeds]


def _show(bar, workdir, jobs) -> None:
  done = sum((workdir / f"{job.name}.json").exists() for job in jobs)
  bar.update(done - bar.n)


def _failed(workdir, jobs) -> list[Failed]:
  out = []
  for job in jobs:
    log = workdir / f"{job.name}.log"
    if (workdir / f"{job.name}.json").exists():
      continue
    reason = "not begun: its worker ended before"
    if log.exists():
      reason = log.read_text().strip().splitlines()[-1]
    out.append(Failed(job, log, reason))
  return out


@contextlib.contextmanager
def _environment(threads: str):
  """What workers inherit: XLA's threads, and compilations kept between runs."""
  before = dict(os.environ)
  if threads:
    every = f"{before.get('XLA_FLAGS', '')} {threads}".strip()
    os.environ |= {"XLA_FLAGS": every, "OMP_NUM_THREADS": "1"}
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(user_cache("xla")))
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
  os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
  try:
    yield
  finally:
    os.environ.clear()
    os.environ.update(before)


def _work(queue, path, key, preset, size, made_by, workdir) -> None:
  """A worker: chunk after chunk until there is none."""
  threading.Thread(target=_end_with_parent, daemon=True).start()
  design = load_design(path.parents[1], key, preset)
  while (chunk := queue.get()) is not None:
    for job in chunk:
      run_job(design, job, size=size, made_by=made_by, workdir=workdir)


def _work_in_lanes(queue, path, key, preset, size, made_by, workdir) -> None:
  """The only worker: a lane for each seed, in a tuning for each rate of it."""
  from rm_jax.ablation.lanes import Lane, run_lanes

  threading.Thread(target=_end_with_parent, daemon=True).start()
  jobs, lanes = queue.get(), {}
  for job in jobs:
    lanes.setdefault((job.seed, job.rate), []).append(job)

  def do(lane, job):
    how = dict(size=size, made_by=made_by, workdir=workdir)
    run_job(lane.design, job, lane=lane, **how)

  folder = path.parents[1]
  run_lanes(
    [Lane(load_design(folder, key, preset), own) for own in lanes.values()], do
  )


def _end_with_parent() -> None:
  """Ends this process where its parent was killed and could not end it."""
  multiprocessing.parent_process().join()
  os._exit(1)


def run_job(
  design: Design,
  job: Job,
  *,
  size: dict,
  made_by: dict,
  workdir: pathlib.Path,
  lane=None,
) -> None:
  """One job in this process: its result, or a log that says why not.

  Args:
    lane: where it stands beside others: its seconds are then its own and its
      share of what they trained together; "vmapped" says how many they were,
      in each `fit` of the job.
  """
  from rm_jax.train.checkpoint import write_json
  from rm_jax.train.results import device, versions

  log = workdir / f"{job.name}.log"
  log.write_text("killed: begun, neither finished nor failed\n")
  started = time.perf_counter()
  tuned = {} if job.rate is None else {"rate": job.rate}
  try:
    metrics, curve = design.job(job.arm, job.seed, **size, **tuned)
    metrics = {name: float(value) for name, value in metrics.items()}
    broken = [n for n, v in metrics.items() if v != v]
    if broken:
      raise ValueError(f"metric {broken[0]} is not a number")
  except Exception:
    log.write_text(traceback.format_exc())
    print(f"{job.name} failed: see {log}", file=sys.stderr)
    return
  others, vmapped = 0.0, {}
  if lane is not None:
    others, vmapped = lane.others, {"vmapped": lane.together}
  write_json(
    workdir / f"{job.name}.json",
    {
      "schema": SCHEMA,
      "arm": job.arm,
      "seed": job.seed,
      "rate": job.rate,
      **made_by,
      "device": device(),
      "versions": versions(),
      "seconds": round(time.perf_counter() - started - others, 2),
      **vmapped,
      "metrics": metrics,
      "curve": curve,
    },
  )
  log.unlink()
