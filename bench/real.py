"""Every kind of reward model on real data: one command, resumable.

  python bench/real.py --data=$RM_DATA --out=runs/real
  python bench/real.py --page   # docs/real.md from bench/results/real.json

Each run is `rm-jax train` with a config of configs/: SmolLM2-135M, its last
six layers and the head, about 120k training tokens, two seeds. A run that has
its results.json is not made again. No prompt or problem is on both sides.

No learning rate was tuned: every arm trains at the one that pairwise_hh.py had
before. --jobs data sets are worked on at a time, one thread each, which on two
cores is faster than one after the other with two. OUT/real.json is written anew
after each run, to be read at any time; the page and its results at the end, so
that a commit named in them is of a clean tree.
"""

import argparse
import concurrent.futures
import itertools
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import threading
import time
from typing import NamedTuple

from rm_jax.ablation.pool import ONE_THREAD
from rm_jax.config import has_bfloat16
from rm_jax.evals.seeds import merge
from rm_jax.train.checkpoint import write_json
from rm_jax.train.log import read_rows
from rm_jax.types import UserError

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "real.json"
PAGE = ROOT / "docs" / "real.md"
SEEDS = (0, 1)
# bfloat16 that the processor does not have is a quarter slower (docs/speed.md).
DTYPE = "bfloat16" if has_bfloat16() else "float32"


class Arm(NamedTuple):
  """One kind of reward model on one data set."""

  title: str
  config: str  # of configs/, with its argument
  data: str  # below --data
  flags: tuple = ()


GSM8K = "gsm8k/example_model_solutions.part_0319-1318.jsonl.gz"
# The config of the README's run, with less padding and no second pass.
HH = (
  "--config.data.train_share=0.14",  # about 540 of 3,900 pairs: one epoch
  "--config.data.eval_share=0.13",
  "--config.data.blocks=1",
  "--config.train.accumulate=1",
  "--config.evals.at_start=False",
  "--config.compute.remat=False",
)
# Arms of one data set share the states of the layers that do not train.
ARMS = {
  "gsm8k": Arm("outcome, GSM8K solutions", "outcome_gsm8k.py", GSM8K),
  "ultrafeedback": Arm(
    "Bradley-Terry, UltraFeedback",
    "margin_ultrafeedback.py",
    "ultrafeedback_sample",
  ),
  "ultrafeedback_margin": Arm(
    "with a margin, UltraFeedback",
    "margin_ultrafeedback.py:margin",
    "ultrafeedback_sample",
  ),
  "ultrafeedback_ratings": Arm(
    "ratings as two-hot, UltraFeedback",
    "margin_ultrafeedback.py:ratings",
    "ultrafeedback_sample",
  ),
  "prmbench": Arm("process, PRMBench", "process_prmbench.py", "prmbench"),
  "oasst": Arm(
    "all pairs, OpenAssistant trees", "listwise_oasst.py", "oasst_trees"
  ),
  "just_eval": Arm(
    "five ratings, Just-Eval",
    "ratings_just_eval.py",
    "just_eval/general_multi_aspect",
  ),
  "hh": Arm("Bradley-Terry, hh-rlhf", "pairwise_hh.py", "hh_rlhf", HH),
  "llmzoo": Arm(
    "all pairs, LLMZoo rankings", "listwise_llmzoo.py", "llmzoo_rankings"
  ),
  "llmzoo_pl": Arm(
    "Plackett-Luce, LLMZoo rankings",
    "listwise_llmzoo.py:plackett_luce",
    "llmzoo_rankings",
  ),
}


def work(data: pathlib.Path, out: pathlib.Path, jobs: int) -> None:
  """Every run that is missing; data sets side by side, their arms in turn.

  Raises:
    UserError: a run ended before its end.
  """
  writing = threading.Lock()

  def run(arms: list[str]) -> None:
    for name, seed in itertools.product(arms, SEEDS):
      train(name, seed, data, out, one_thread=jobs > 1)
      with writing:
        write_json(out / RESULTS.name, gather(out))

  sets: dict[str, list[str]] = {}
  for name, arm in ARMS.items():
    sets.setdefault(arm.data, []).append(name)
  with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
    for done in [pool.submit(run, arms) for arms in sets.values()]:
      done.result()
  RESULTS.parent.mkdir(parents=True, exist_ok=True)
  write_json(RESULTS, gather(out))


def train(
  name: str,
  seed: int,
  data: pathlib.Path,
  out: pathlib.Path,
  *,
  one_thread: bool,
) -> None:
  """One run into `out`/NAME-SEED, unless it is finished there."""
  workdir, arm = out / f"{name}-{seed}", ARMS[name]
  if (workdir / "results.json").exists():
    return
  states = out / "states" / arm.data.partition("/")[0]
  command = [
    *(sys.executable, "-m", "rm_jax", "train"),
    f"--config={ROOT / 'configs' / arm.config}",
    f"--workdir={workdir}",
    f"--config.data.source={data / arm.data}",
    f"--config.seed={seed}",
    f"--config.train.cache_hidden={states}",
    f"--config.compute.dtype={DTYPE}",
    *arm.flags,
  ]
  print(f"{name}-{seed}: {shlex.join(command[2:])}", flush=True)
  started = time.perf_counter()
  env = dict(os.environ)
  if one_thread:
    env |= {
      "XLA_FLAGS": f"{env.get('XLA_FLAGS', '')} {ONE_THREAD}".strip(),
      "OMP_NUM_THREADS": "1",
    }
  done = subprocess.run(command, cwd=ROOT, env=env)
  if done.returncode:
    raise UserError(
      f"{name}-{seed}: rm-jax train ended with code {done.returncode}: correct "
      "what it says, then run the same command again to go on"
    )
  print(f"{name}-{seed}: {time.perf_counter() - started:.0f} s", flush=True)


def gather(out: pathlib.Path) -> dict:
  """The content of real.json: every arm of which a run is finished."""
  arms, first = {}, {}
  for name, arm in ARMS.items():
    workdirs = [
      w
      for seed in SEEDS
      if (w := out / f"{name}-{seed}") and (w / "results.json").exists()
    ]
    if not workdirs:
      continue
    merged = merge(workdirs)
    first = first or merged
    run = json.loads((workdirs[0] / "run.json").read_text())["config"]
    kept = ("commit", "seconds", "metrics", "per_seed", "counts")
    arms[name] = {k: merged[k] for k in kept} | {
      "title": arm.title,
      "config": arm.config,
      "learning_rate": run["optim"]["lr"],
      "dtype": run["compute"]["dtype"],
      "num_train_steps": merged["num_train_steps"],
      "train_tokens": [
        sum(r.get("useful_tokens", 0) for r in read_rows(w / "metrics.jsonl"))
        for w in workdirs
      ],
    }
  return {
    "schema": first["schema"],
    # As others would type it: no folder of this machine.
    "command": "python bench/real.py --data=$RM_DATA --out=runs/real",
    "device": first["device"],
    "versions": first["versions"] | {"platform": platform.platform()},
    "commit": sorted({c for arm in arms.values() for c in arm["commit"]}),
    "seconds": round(sum(sum(arm["seconds"]) for arm in arms.values()), 1),
    "arms": arms,
  }


# ---------------------------------------------------------------- page


def _cell(arm: dict, name: str) -> str:
  entry = arm["metrics"][name]
  text = f"{entry['value']:.3f}"
  if entry["low"] is not None:
    text += f" [{entry['low']:.3f}, {entry['high']:.3f}]"
  return text


def _seeds(arm: dict, name: str) -> str:
  return ", ".join(f"{v[name]:.3f}" for v in arm["per_seed"].values())


def _table(header: list[str], rows: list[list[str]]) -> str:
  lines = [header, ["---"] * len(header), *rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def comparisons(results: dict) -> str:
  """Arms that compare completions, beside chance and the length of each."""
  header = ["", "accuracy", "per seed", "length only", "more than length"]
  header += ["ties", "calibration error", "Brier", "comparisons"]
  rows = []
  for arm in results["arms"].values():
    m = arm["metrics"]
    if "accuracy" in m:
      rows.append(
        [
          arm["title"],
          _cell(arm, "accuracy"),
          _seeds(arm, "accuracy"),
          _cell(arm, "length_only_accuracy"),
          _cell(arm, "accuracy_over_length"),
          _cell(arm, "tie_rate"),
          _cell(arm, "calibration_error"),
          _cell(arm, "brier"),
          f"{m['accuracy']['n']:,}",
        ]
      )
  return _table(header, rows)


def labels(results: dict) -> str:
  """Arms whose labels are right or wrong, beside the larger class."""
  header = ["", "label accuracy", "per seed", "larger class"]
  header += ["calibration error", "Brier", "labels"]
  rows = []
  for arm in results["arms"].values():
    m = arm["metrics"]
    if "label_accuracy" in m:
      rows.append(
        [
          arm["title"],
          _cell(arm, "label_accuracy"),
          _seeds(arm, "label_accuracy"),
          _cell(arm, "majority_accuracy"),
          _cell(arm, "label_calibration_error"),
          _cell(arm, "label_brier"),
          f"{m['label_accuracy']['n']:,}",
        ]
      )
  return _table(header, rows)


def steps(results: dict) -> str:
  """Right steps above wrong ones of the same solution."""
  header = ["", "right step higher", "per seed", "earlier step", "solutions"]
  rows = [
    [
      arm["title"],
      _cell(arm, "step_order_accuracy"),
      _seeds(arm, "step_order_accuracy"),
      _cell(arm, "earlier_step_accuracy"),
      f"{arm['metrics']['step_order_accuracy']['n']:,}",
    ]
    for arm in results["arms"].values()
    if "step_order_accuracy" in arm["metrics"]
  ]
  return _table(header, rows)


def numbers(results: dict) -> str:
  """Arms that predict ratings, beside always saying their mean."""
  header = ["", "squared error", "per seed", "the mean", "ratings"]
  rows = []
  for arm in results["arms"].values():
    for name in arm["metrics"]:
      if not name.startswith("squared_error"):
        continue
      attribute = name.partition("/")[2]
      rows.append(
        [
          f"{arm['title']}{attribute and f': {attribute}'}",
          _cell(arm, name),
          _seeds(arm, name),
          _cell(arm, f"constant_{name}"),
          f"{arm['metrics'][name]['n']:,}",
        ]
      )
  return _table(header, rows)


def settings(results: dict) -> str:
  """What each arm trained on and for how long."""
  header = ["", "config", "learning rate", "steps", "training tokens"]
  header += ["groups to train on", "held out", "overlong", "rejected", "s"]
  rows = []
  for arm in results["arms"].values():
    c = arm["counts"]
    rows.append(
      [
        arm["title"],
        f"`{arm['config']}`",
        f"{arm['learning_rate']:g}",
        str(arm["num_train_steps"]),
        " and ".join(f"{t:,}" for t in arm["train_tokens"]),
        f"{c['train_groups']:,}",
        f"{c['test_groups']:,}",
        f"{c['train_overlong']} and {c['test_overlong']}",
        f"{c['train_rejected']} and {c['test_rejected']}, "
        f"{c['unreadable']} unreadable",
        " and ".join(f"{s:.0f}" for s in arm["seconds"]),
      ]
    )
  return _table(header, rows)


TABLES = {
  "comparisons": comparisons,
  "labels": labels,
  "steps": steps,
  "numbers": numbers,
  "settings": settings,
}


def origin(results: dict) -> str:
  """Device, dtype, versions, commit and time in one line."""
  dtypes = sorted({arm["dtype"] for arm in results["arms"].values()})
  return (
    f"Device {results['device']}, {' and '.join(dtypes)}, jax "
    f"{results['versions']['jax']}, commit {', '.join(results['commit'])}, "
    f"{results['seconds'] / 60:.0f} minutes for all runs."
  )


def fill(text: str, results: dict) -> str:
  """The page with its tables printed anew."""
  for name, table in (TABLES | {"origin": origin}).items():
    begin, end = f"<!-- {name} -->\n", "\n<!-- end -->"
    if text.count(begin) != 1:
      raise UserError(
        f"{PAGE}: expected the mark {begin.strip()} once, got "
        f"{text.count(begin)}."
      )
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    text = before + begin + table(results) + end + after
  return text


def main() -> None:
  """Runs what is missing, writes the results, prints the page."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path)
  parser.add_argument("--out", type=pathlib.Path)
  parser.add_argument("--jobs", type=int, default=2)
  parser.add_argument("--page", action="store_true")
  args = parser.parse_args()
  if not args.page:
    if not args.data or not args.out:
      parser.error("--data and --out are missing (or --page)")
    out = args.out.resolve()
    try:
      work(args.data.resolve(), out, args.jobs)
    except UserError as error:
      parser.error(str(error))
  results = json.loads(RESULTS.read_text())
  PAGE.write_text(fill(PAGE.read_text(), results))
  print(PAGE.read_text())


if __name__ == "__main__":
  main()
