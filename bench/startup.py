"""From the command to the first train step: whole processes, cold and warm.

  git worktree add runs/before 5d67ceb
  python bench/startup.py --data=$RM_DATA/hh_rlhf --before=runs/before \
    --out=bench/results/startup.json

Runs `rm-jax train` on configs/pairwise_hh.py with one train step of four pairs
and an evaluation of four, each time as a process of its own, until
metrics.jsonl has its first step. Cold: no caches of the user; warm: those that
the run before left. An older tree is measured in turn with this one. One run of
each is thrown away first, so that the files of the packages are in memory. CPU
seconds, of all threads, say what a busy machine does to the others.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from rm_jax.train.checkpoint import write_json
from rm_jax.train.results import commit, device, versions

ROOT = pathlib.Path(__file__).parents[1]
GROUPS = 4  # of the evaluation, and pairs of the train step
POLL = 0.02  # seconds between two looks at metrics.jsonl


def environment(tree: pathlib.Path, home: pathlib.Path) -> dict:
  """One device, this tree's code, these caches."""
  env = os.environ | {
    "PYTHONPATH": str(tree),
    "XDG_CACHE_HOME": str(home),
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "",
  }
  env.pop("JAX_COMPILATION_CACHE_DIR", None)
  return env


def stepped(workdir: pathlib.Path) -> bool:
  """Whether the first train step is in metrics.jsonl."""
  path = workdir / "metrics.jsonl"
  return path.exists() and '"step": 1,' in path.read_text()


def start(tree: pathlib.Path, home: pathlib.Path, data: pathlib.Path) -> dict:
  """Seconds to the first train step, CPU seconds of the run, its stages."""
  with tempfile.TemporaryDirectory() as scratch:
    workdir = pathlib.Path(scratch) / "run"
    command = [
      *(sys.executable, "-m", "rm_jax", "train"),
      "--config=configs/pairwise_hh.py",
      f"--workdir={workdir}",
      f"--config.data.source={data}",
      "--config.num_train_steps=1",
      "--config.optim.warmup_steps=0",
      f"--config.evals.max_groups={GROUPS}",
      f"--config.data.groups_per_batch={GROUPS}",
      "--config.evals.rows=1",
    ]
    began = time.perf_counter()
    process = subprocess.Popen(
      command,
      cwd=tree,
      env=environment(tree, home),
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
    )
    while not stepped(workdir) and process.poll() is None:
      time.sleep(POLL)
    seconds = time.perf_counter() - began
    said = process.stdout.read().decode()
    _, status, used = os.wait4(process.pid, 0)
    if status:
      raise SystemExit(f"{tree}: rm-jax train failed\n{said}")
    results = json.loads((workdir / "results.json").read_text())
  return {
    "seconds": seconds,
    "cpu_seconds": used.ru_utime + used.ru_stime,
    "stages": results.get("stages"),
  }


def ask_help(tree: pathlib.Path, home: pathlib.Path, *words) -> dict:
  """Seconds of a command that only prints help."""
  began = time.perf_counter()
  process = subprocess.Popen(
    [sys.executable, "-m", "rm_jax", *words],
    cwd=tree,
    env=environment(tree, home),
    stdout=subprocess.DEVNULL,
  )
  _, status, used = os.wait4(process.pid, 0)
  assert not status, words
  return {
    "seconds": time.perf_counter() - began,
    "cpu_seconds": used.ru_utime + used.ru_stime,
  }


def middle(found: list[dict]) -> dict:
  """Medians of what was measured, with every measurement beside them."""
  out = {}
  for name in ("seconds", "cpu_seconds"):
    values = [round(one[name], 2) for one in found]
    out[name] = {"median": statistics.median(values), "all": values}
  stages = [one["stages"] for one in found if one.get("stages")]
  if stages:
    out["stages"] = {
      name: round(statistics.median(s[name] for s in stages), 2)
      for name in stages[0]
    }
  return out


def measure(
  trees: dict[str, pathlib.Path], repeats: int, data: pathlib.Path
) -> dict:
  """{tree: {cold, warm, help, train help}}, the trees in turn."""
  found = {
    name: {k: [] for k in ("cold", "warm", "help", "train_help")}
    for name in trees
  }
  for repeat in range(repeats + 1):
    for name, tree in trees.items():
      home = pathlib.Path(tempfile.mkdtemp())
      try:
        one = {
          "cold": start(tree, home, data),
          "warm": start(tree, home, data),
          "help": ask_help(tree, home, "--help"),
          "train_help": ask_help(tree, home, "train", "--help"),
        }
      finally:
        shutil.rmtree(home)
      print(f"{name} {repeat}: {json.dumps(one)}", flush=True)
      if repeat:  # the first is the warm-up
        for what, value in one.items():
          found[name][what].append(value)
  return {
    name: {what: middle(values) for what, values in each.items()}
    for name, each in found.items()
  }


def main() -> None:
  """Measures, writes and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--before", type=pathlib.Path)
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  args = parser.parse_args()
  trees = {"before": args.before.resolve()} if args.before else {}
  trees["after"] = ROOT
  results = {
    "device": device(),
    "versions": versions(),
    "commit": {
      name: subprocess.run(
        ["git", "-C", str(tree), "rev-parse", "--short=12", "HEAD"],
        capture_output=True,
        text=True,
      ).stdout.strip()
      for name, tree in trees.items()
    },
    "command": "python bench/startup.py --data=$RM_DATA/hh_rlhf --before=...",
    "changed": commit().endswith("+"),
    "config": f"pairwise_hh.py, 1 step of {GROUPS} pairs, {GROUPS} evaluated",
    "repeats": args.repeats,
    "load": os.getloadavg(),  # of the machine, before
    "measured": measure(trees, args.repeats, args.data.resolve()),
  }
  args.out.parent.mkdir(parents=True, exist_ok=True)
  write_json(args.out, results)
  print(json.dumps(results["measured"], indent=1))


if __name__ == "__main__":
  main()
