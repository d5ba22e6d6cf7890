"""Results of jobs to one results.json: means, effects, verdicts."""

import numpy as np

from rm_jax.ablation.design import Check, Design, Outcome
from rm_jax.ablation.pool import SCHEMA, Job
from rm_jax.evals.verdict import Effect, find_effect, holds, judge
from rm_jax.metrics import paired_interval
from rm_jax.types import UserError


def find_results(
  design: Design,
  jobs: dict[Job, dict],
  *,
  size: str,
  command: str,
  seconds: float,
) -> dict:
  """The content of results.json of an experiment.

  metrics: "ARM/METRIC" -> mean over seeds with its t-interval; per_seed has
  every number; outcomes: one verdict each; verdict: that of the primary one.

  Args:
    jobs: every job of the design, with its result.
    size: its name; only "whole" gives a result that is kept.
    seconds: of this command; those of all jobs are added up beside it.

  Raises:
    UserError: jobs that read other files than the rest; an outcome or a check
      of a metric that the jobs of its arm do not give.
  """
  table = table_of(jobs)
  _check_names(design, table)
  seeds = sorted({job.seed for job in jobs})
  checks = {c.name: _bounded(table, c, seeds) for c in design.checks}
  conditions = {c.name: _bounded(table, c, seeds) for c in design.conditions}
  judged = [
    _outcome(table, o, seeds, checks, conditions if not n else {})
    for n, o in enumerate(design.outcomes)
  ]
  results = list(jobs.values())
  # Of jobs that --vmap-seeds ran, how many runs trained as one.
  together = sorted({n for r in results for n in r.get("vmapped", ())})
  # Jobs that were done before a design could name files have none.
  files = results[0].get("data", [])
  other = next((j for j, r in jobs.items() if r.get("data", []) != files), None)
  if other is not None:
    raise UserError(
      f"{other.name} read other files below RM_DATA than "
      f"{next(iter(jobs)).name}: their sha256 differ. Remove one of the two "
      "from the folder of jobs and run the command again."
    )
  return {
    "schema": SCHEMA,
    "size": size,
    "preset": design.preset,
    "digest": results[0]["digest"],
    "commit": sorted({r["commit"] for r in results}),
    "device": sorted({r["device"] for r in results}),
    "versions": results[0]["versions"],
    "seconds": round(seconds, 1),
    "job_seconds": round(sum(r["seconds"] for r in results), 1),
    "jobs": len(jobs),
    **({"vmapped": together} if together else {}),
    "command": command,
    "data": files,
    "seeds": seeds,
    "metrics": {
      f"{arm}/{metric}": _mean(by_seed, seeds)
      for (arm, metric), by_seed in table.items()
    },
    "per_seed": {
      str(seed): {
        f"{arm}/{metric}": by_seed[seed]
        for (arm, metric), by_seed in table.items()
      }
      for seed in seeds
    },
    "curves": _curves(jobs),
    "checks": checks | conditions,
    "outcomes": judged,
    "verdict": judged[0]["verdict"],
    "why": judged[0]["why"],
  }


def table_of(jobs: dict[Job, dict]) -> dict:
  """{(arm, metric): {seed: value}} in the order of the jobs."""
  table = {}
  for job, result in jobs.items():
    for metric, value in result["metrics"].items():
      table.setdefault((job.arm, metric), {})[job.seed] = value
  return table


def _check_names(design: Design, table: dict) -> None:
  for each in (*design.outcomes, *design.checks, *design.conditions):
    for arm in (each.arm, each.less, *getattr(each, "minus", ())):
      if arm and (arm, each.metric) not in table:
        known = sorted({m for a, m in table if a == arm})
        raise UserError(
          f"{design.path}: {each.name!r} reads metric {each.metric!r} of arm "
          f"{arm!r}, whose jobs give {', '.join(known)}. Correct the file, "
          "and try it with --quick: a changed design runs all its jobs again."
        )


def _values(table, arm, metric, seeds) -> np.ndarray:
  return np.asarray([table[arm, metric][seed] for seed in seeds])


def _bounded(table, check: Check, seeds) -> bool:
  values = _values(table, check.arm, check.metric, seeds)
  if check.less:
    values = values - _values(table, check.less, check.metric, seeds)
  return holds(values, above=check.above, below=check.below)


def _outcome(table, outcome: Outcome, seeds, checks, conditions) -> dict:
  treated, control = (
    _values(table, arm, outcome.metric, seeds)
    for arm in (outcome.arm, outcome.less)
  )
  if outcome.minus:
    other, less = (
      _values(table, arm, outcome.metric, seeds) for arm in outcome.minus
    )
    treated, control = treated - control, other - less
  effect: Effect = find_effect(treated, control, expected=outcome.expected)
  verdict = judge(
    effect,
    expected=outcome.expected,
    checks=checks,
    conditions=conditions,
  )
  numbers = {k: _real(v) for k, v in effect._asdict().items()}
  return {
    "name": outcome.name,
    "verdict": verdict.word,
    "why": verdict.why,
    **numbers,
  }


def told_of(design: Design, results: dict) -> list[tuple[Outcome, dict | None]]:
  """Every outcome of a design with what results.json says of it, by name.

  None: the results are of an earlier design, which did not have it.
  """
  told = {each["name"]: each for each in results["outcomes"]}
  return [(outcome, told.get(outcome.name)) for outcome in design.outcomes]


def interval(told: dict) -> str:
  """The mean and the 95 % interval of an outcome of results.json, in words."""
  text = f"{told['mean']:+z.4f}"
  if told["low"] is not None:
    text += f" [{told['low']:+z.4f}, {told['high']:+z.4f}]"
  return text


def _mean(by_seed: dict, seeds) -> dict:
  values = np.asarray([by_seed[seed] for seed in seeds])
  mean, low, high, _ = paired_interval(values, np.zeros(len(values)))
  return {
    "value": mean,
    "low": _real(low),
    "high": _real(high),
    "n": len(values),
    "seeds": list(seeds),
  }


def _real(x):
  """NaN, which JSON has no word for, as null."""
  return None if x != x else x


def _curves(jobs) -> dict:
  """{arm: rows of step and metrics, means over the seeds}."""
  out = {}
  for arm in dict.fromkeys(job.arm for job in jobs):
    own = [r["curve"] for job, r in jobs.items() if job.arm == arm]
    if not all(own):
      continue
    out[arm] = [
      {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
      for rows in zip(*own, strict=True)
    ]
  return out
