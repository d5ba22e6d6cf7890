"""Every kind of reward model on real data: one command, resumable.

  python bench/real.py --data=$RM_DATA --out=runs/real
  python bench/real.py --page   # docs/real.md from bench/results/real.json

Each run is `rm-jax train` with a config of configs/: SmolLM2-135M, its last
six layers and the head, about 120k training tokens, two seeds. A run that has
its results.json is not made again. No prompt or problem is on both sides.

The learning rate is chosen on training data alone: for each of CHOSEN, runs of
another seed over the first steps, at each of RATES; the lowest mean training
loss of the second half wins. No group is seen twice there, so each loss is of
groups that the model has not learnt from. Nobody looks at what such a run
finds on the evaluation set.
"""

import argparse
import json
import pathlib
import platform
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np

from rm_jax.evals.seeds import merge
from rm_jax.train.checkpoint import write_json
from rm_jax.train.log import read_rows
from rm_jax.types import UserError

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "real.json"
PAGE = ROOT / "docs" / "real.md"
SEEDS = (0, 1)
RATES = (1e-4, 3e-4, 1e-3)
CHOICE_SEED, CHOICE_STEPS = 100, 12


class Arm(NamedTuple):
  """One kind of reward model on one data set."""

  title: str
  config: str  # of configs/, with its argument
  data: str  # below --data
  rate: str  # which of CHOSEN gives its learning rate
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
ARMS = {
  "hh": Arm("Bradley-Terry, hh-rlhf", "pairwise_hh.py", "hh_rlhf", "hh", HH),
  "gsm8k": Arm("outcome, GSM8K solutions", "outcome_gsm8k.py", GSM8K, "gsm8k"),
  "prmbench": Arm(
    "process, PRMBench", "process_prmbench.py", "prmbench", "prmbench"
  ),
  "llmzoo": Arm(
    "all pairs, LLMZoo rankings", "listwise_llmzoo.py", "llmzoo_rankings", "hh"
  ),
  "llmzoo_pl": Arm(
    "Plackett-Luce, LLMZoo rankings",
    "listwise_llmzoo.py:plackett_luce",
    "llmzoo_rankings",
    "hh",
  ),
  "oasst": Arm(
    "all pairs, OpenAssistant trees", "listwise_oasst.py", "oasst_trees", "hh"
  ),
  "ultrafeedback": Arm(
    "Bradley-Terry, UltraFeedback",
    "margin_ultrafeedback.py",
    "ultrafeedback_sample",
    "hh",
  ),
  "ultrafeedback_margin": Arm(
    "with a margin, UltraFeedback",
    "margin_ultrafeedback.py:margin",
    "ultrafeedback_sample",
    "hh",
  ),
  "ultrafeedback_ratings": Arm(
    "ratings as two-hot, UltraFeedback",
    "margin_ultrafeedback.py:ratings",
    "ultrafeedback_sample",
    "gsm8k",
  ),
  "just_eval": Arm(
    "five ratings, Just-Eval",
    "ratings_just_eval.py",
    "just_eval/general_multi_aspect",
    "gsm8k",
  ),
}
CHOSEN = ("hh", "gsm8k", "prmbench")


def train(arm: Arm, data, out, name, *, seed, rate, steps=0) -> pathlib.Path:
  """The workdir of one finished run; made unless it is there."""
  workdir = out / name
  if (workdir / "results.json").exists():
    return workdir
  states = arm.data.partition("/")[0]
  command = [
    sys.executable,
    "-m",
    "rm_jax",
    "train",
    f"--config={ROOT / 'configs' / arm.config}",
    f"--workdir={workdir}",
    f"--config.data.source={data / arm.data}",
    f"--config.seed={seed}",
    f"--config.optim.lr={rate}",
    f"--config.train.cache_hidden={out / 'states' / states}",
    *arm.flags,
  ]
  if steps:
    command.append(f"--config.num_train_steps={steps}")
  started = time.perf_counter()
  print(f"{name}: {' '.join(command[2:])}", flush=True)
  done = subprocess.run(command, cwd=ROOT)
  if done.returncode:
    raise UserError(
      f"{name}: rm-jax train ended with code {done.returncode}; correct what "
      "it says, then run the same command again to go on"
    )
  print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
  return workdir


def choose(data, out) -> dict:
  """{arm: {rate: mean training loss}} and the rate that wins, per CHOSEN."""
  found = {}
  for name in CHOSEN:
    losses = {}
    for rate in RATES:
      workdir = train(
        ARMS[name],
        data,
        out,
        f"choice-{name}-{rate:g}",
        seed=CHOICE_SEED,
        rate=rate,
        steps=CHOICE_STEPS,
      )
      rows = read_rows(workdir / "metrics.jsonl")
      each = [r["loss"] for r in rows if r.get("loss") is not None]
      losses[f"{rate:g}"] = float(np.mean(each[CHOICE_STEPS // 2 :]))
    best = min(losses, key=losses.__getitem__)
    found[name] = {"training_loss": losses, "rate": float(best)}
  return found


def run(data: pathlib.Path, out: pathlib.Path, command: str) -> dict:
  """Everything; the content of real.json."""
  out.mkdir(parents=True, exist_ok=True)
  choice = choose(data, out)
  arms = {}
  for name, arm in ARMS.items():
    rate = choice[arm.rate]["rate"]
    workdirs = [
      train(arm, data, out, f"{name}-{seed}", seed=seed, rate=rate)
      for seed in SEEDS
    ]
    merged = merge(workdirs)
    tokens = [
      sum(row.get("useful_tokens", 0) for row in read_rows(w / "metrics.jsonl"))
      for w in workdirs
    ]
    kept = ("commit", "seconds", "metrics", "per_seed", "counts")
    arms[name] = {k: merged[k] for k in kept} | {
      "title": arm.title,
      "config": arm.config,
      "learning_rate": rate,
      "rate_of": arm.rate,
      "num_train_steps": merged["num_train_steps"],
      "train_tokens": tokens,
    }
  every = sorted(p.parent.name for p in out.glob("*/results.json"))
  seconds = {
    name: json.loads((out / name / "results.json").read_text())["seconds"]
    for name in every
  }
  return {
    "schema": merged["schema"],
    "command": command,
    "device": merged["device"],
    "versions": merged["versions"] | {"platform": platform.platform()},
    "commit": sorted({c for arm in arms.values() for c in arm["commit"]}),
    "seconds": round(sum(seconds.values()), 1),
    "seconds_of_runs": seconds,
    "choice": choice,
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
        f"{arm['learning_rate']:g} ({arm['rate_of']})",
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


def choices(results: dict) -> str:
  """Mean training losses of the choice of the learning rate."""
  rates = [f"{rate:g}" for rate in RATES]
  rows = [
    [
      ARMS[name].title,
      *(f"{found['training_loss'][rate]:.4f}" for rate in rates),
      f"{found['rate']:g}",
    ]
    for name, found in results["choice"].items()
  ]
  return _table(["training loss at", *rates, "chosen"], rows)


TABLES = {
  "comparisons": comparisons,
  "labels": labels,
  "steps": steps,
  "numbers": numbers,
  "settings": settings,
  "choices": choices,
}


def origin(results: dict) -> str:
  """Device, versions, commit and time in one line."""
  return (
    f"Device {results['device']}, jax {results['versions']['jax']}, commit "
    f"{', '.join(results['commit'])}, {results['seconds'] / 60:.0f} minutes "
    "for all runs."
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
  parser.add_argument("--page", action="store_true")
  args = parser.parse_args()
  if not args.page:
    if not args.data or not args.out:
      parser.error("--data and --out are missing (or --page)")
    # As others would type it: no folder of this machine.
    command = "python bench/real.py --data=$RM_DATA --out=runs/real"
    try:
      results = run(args.data.resolve(), args.out.resolve(), command)
    except UserError as error:
      parser.error(str(error))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    write_json(RESULTS, results)
  results = json.loads(RESULTS.read_text())
  PAGE.write_text(fill(PAGE.read_text(), results))
  print(PAGE.read_text())


if __name__ == "__main__":
  main()
