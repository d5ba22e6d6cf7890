"""Arms: runs that differ in nothing but their seed, and what parts two arms."""

import json
from typing import NamedTuple

import numpy as np

from rm_jax.evals import breakdown
from rm_jax.evals.runs import Run, Scores
from rm_jax.evals.seeds import merge
from rm_jax.metrics import bootstrap_interval
from rm_jax.train.evaluate import value
from rm_jax.train.labels import sigmoid

SEED = 0  # of the bootstraps
SAME = ("prompt", "group", "chosen", "rejected")  # of the evaluation sets
# Keys that say where a run keeps things, not what it computes.
PLACES = (("train", "cache_hidden"), ("data", "cache"))


class Arm(NamedTuple):
  """One way to train, as often as it was tried."""

  runs: dict  # name -> Run, a seed each
  results: dict  # as results.json: values are means over the seeds

  @property
  def first(self) -> Run:
    return next(iter(self.runs.values()))

  @property
  def scores(self) -> list[Scores]:
    return [run.scores for run in self.runs.values()]


class Difference(NamedTuple):
  """The mean of an arm's metric less that of the first arm, paired."""

  value: float
  low: float
  high: float

  @property
  def excludes_zero(self) -> bool:
    return self.low > 0 or self.high < 0


def arms_of(runs: dict[str, Run]) -> dict[str, Arm]:
  """The arms of these runs by name, in their order.

  Runs of one config but for the seed, evaluated on one set, are an arm. The
  second run of a seed is an arm of its own: a mean over seeds counts each once.
  """
  found: list[dict[str, Run]] = []
  for name, run in runs.items():
    for members in found:
      other = next(iter(members.values()))
      seeds = {member.config.seed for member in members.values()}
      if (
        _without_seed(other) == _without_seed(run)
        and run.config.seed not in seeds
        and another_set(other, run) == ""
      ):
        members[name] = run
        break
    else:
      found.append({name: run})
  arms: dict[str, Arm] = {}
  for members in found:
    run = next(iter(members.values()))
    merged = run.results
    if len(members) > 1:
      merged = merge([m.workdir for m in members.values()])
    name = _name(list(members))
    if name in arms or (name in runs and len(members) > 1):
      name = " and ".join(members)
    arms[name] = Arm(members, merged)
  return arms


def _without_seed(run: Run) -> str:
  config = run.config.to_dict()
  config.pop("seed")
  for part, key in PLACES:
    config.get(part, {}).pop(key, None)
  return json.dumps(config, sort_keys=True, default=str)


def _name(names: list[str]) -> str:
  """What the names begin with alike, without what leads to the number."""
  if len(names) == 1:
    return names[0]
  alike = ""
  for letters in zip(*names, strict=False):
    if len(set(letters)) > 1:
      break
    alike += letters[0]
  return alike.rstrip("-_./ ") or " and ".join(names)


def another_set(a: Run, b: Run) -> str:
  """Why comparisons of two runs cannot be paired; "" if they can."""
  if not len(a.scores.chosen) or not len(b.scores.chosen):
    return "an evaluation set has no comparisons"
  names = [
    name
    for name in SAME
    if not np.array_equal(getattr(a.scores, name), getattr(b.scores, name))
  ]
  # Other tokenizers count other lengths of the same text.
  if not names and _tokenizer(a) == _tokenizer(b):
    if not np.array_equal(a.scores.length, b.scores.length):
      names = ["length"]
  if names:
    return f"their evaluation sets differ ({', '.join(names)})"
  return ""


def _tokenizer(run: Run) -> str:
  return run.config.init.tokenizer or run.config.init["from"]


def paired_differences(a: Arm, b: Arm) -> dict[str, Difference]:
  """{metric: b less a} with 95 % intervals: bootstrap over prompts.

  What both find hard cancels: each comparison is set against itself, after the
  mean over seeds. The interval says how much another choice of prompts would
  change; what another choice of seeds would change is not in it.
  """
  found = {}
  for name, of in {
    "accuracy": _credit,
    "brier": _squared_error,
    "gold_accuracy": breakdown.gold_credit_of,
  }.items():
    (before, prompts), (after, _) = of(*a.scores), of(*b.scores)
    if len(prompts):
      values = after - before
      low, high = bootstrap_interval(values, groups=prompts, seed=SEED)
      found[name] = Difference(float(values.mean()), low, high)
  return found


def _credit(*runs: Scores):
  prompts = breakdown.prompts_of_comparisons(runs[0])
  return breakdown.credit_of(*runs), prompts


def _squared_error(*runs: Scores):
  """Of each comparison, the same from both sides."""
  errors = [sigmoid(-breakdown.score_diff(run)) ** 2 for run in runs]
  return np.mean(errors, axis=0), breakdown.prompts_of_comparisons(runs[0])


def comparison_results(arms: dict[str, Arm], paired: dict) -> dict:
  """The content of results.json of a comparison.

  metrics: "ARM/metric" of every arm, "ARM less FIRST/metric" of what was
  paired; per_seed the same of every run; stages: seconds of each run's.
  """
  first = next(iter(arms.values())).first.results
  metrics, per_seed, stages, commands = {}, {}, {}, {}
  for name, arm in arms.items():
    for metric, entry in arm.results["metrics"].items():
      metrics[f"{name}/{metric}"] = entry
    for run_name, run in arm.runs.items():
      for seed, values in run.results["per_seed"].items():
        own = per_seed.setdefault(seed, {})
        own |= {f"{name}/{metric}": x for metric, x in values.items()}
      stages[run_name] = run.results.get("stages", {})
      commands[run_name] = run.results["command"]
  start = next(iter(arms))
  for name, differences in paired.items():
    seeds = sorted({s for e in arms[name].runs.values() for s in _seeds(e)})
    for metric, d in differences.items():
      n = arms[name].results["metrics"][metric]["n"]
      key = f"{name} less {start}/{metric}"
      metrics[key] = value(*d, n) | {"seeds": seeds}
  runs = [run for arm in arms.values() for run in arm.runs.values()]
  return {
    "schema": first["schema"],
    "commit": sorted({run.results["commit"] for run in runs}),
    "device": first["device"],
    "versions": first["versions"],
    "seconds": round(sum(run.results["seconds"] for run in runs), 1),
    "stages": stages,
    "command": commands,
    # A list: the first is what the others are held against.
    "arms": [[name, *arm.runs] for name, arm in arms.items()],
    "metrics": metrics,
    "per_seed": per_seed,
    "ties": "half",
  }


def _seeds(run: Run) -> list[int]:
  return [int(seed) for seed in run.results["per_seed"]]


def table(results: dict) -> str:
  """The arms of a comparison's results.json beside what needs no model.

  In Markdown: accuracy on the comparisons and, where gold is known, on it.
  """
  m = results["metrics"]
  first, *others = names = [arm[0] for arm in results["arms"]]
  gold = f"{first}/gold_accuracy" in m
  head = ["", "accuracy [95 % interval]", "per seed"]
  head += ["against gold"] if gold else []

  def cell(key: str) -> str:
    if key not in m:
      return ""
    low, high = m[key]["low"], m[key]["high"]
    interval = "" if low is None else f" [{low:.3f}, {high:.3f}]"
    return f"{m[key]['value']:.3f}{interval}"

  def each(key: str) -> str:
    values = [v[key] for v in results["per_seed"].values() if key in v]
    return ", ".join(f"{x:.3f}" for x in values)

  rows = [
    [name.replace("_", " "), cell(f"{name}/accuracy"), each(f"{name}/accuracy")]
    + [cell(f"{name}/gold_accuracy")]
    for name in names
  ]
  rows += [
    [f"{name} less {first}".replace("_", " ")]
    + [cell(f"{name} less {first}/accuracy"), ""]
    + [cell(f"{name} less {first}/gold_accuracy")]
    for name in others
  ]
  rows += [
    ["length only", cell(f"{first}/length_only_accuracy"), ""]
    + [cell(f"{first}/gold_length_only_accuracy")],
    ["chance", "0.500", "", "0.500"],
  ]
  if gold:
    agreement = cell(f"{first}/gold_agreement")
    rows.append(["gold itself: labels are noisy", agreement, "", "1.000"])
  lines = [head, ["---"] * len(head), *(row[: len(head)] for row in rows)]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines) + (
    f"\n\n{m[f'{first}/accuracy']['n']:,} held-out comparisons, ties left out"
    + (
      f"; {m[f'{first}/gold_accuracy']['n']:,} pairs against gold"
      if gold
      else ""
    )
    + f". Device {results['device']}, jax {results['versions']['jax']}, commit "
    f"{', '.join(results['commit'])}, {results['seconds']:.0f} seconds."
  )
