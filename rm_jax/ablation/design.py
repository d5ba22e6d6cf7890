"""An experiment folder: what its mini.py says it will measure, and how."""

import hashlib
import importlib.util
import json
import pathlib
import traceback
from typing import Any, NamedTuple

from rm_jax.types import UserError

PRESETS = ("mini", "lm", "full")
RUNS = PRESETS[:2]  # have a DESIGN and a job; full has a config
SIZES = ("whole", "quick", "two_steps")


class Outcome(NamedTuple):
  """A difference between two arms that is judged; the first one is primary."""

  name: str
  metric: str
  arm: str
  less: str  # the arm it is compared with
  expected: int  # sign of the published difference; 0: none is claimed
  published: str = ""  # the paper's number
  comparable: str = ""  # what parts ours from it
  minus: tuple = ()  # (arm, less) of a difference taken off: an interaction


class Check(NamedTuple):
  """A bound that a metric of an arm must clear with its whole interval."""

  name: str
  metric: str
  arm: str
  less: str = ""  # an arm whose metric is taken off
  above: float | None = None
  below: float | None = None


class Tuning(NamedTuple):
  """How the learning rate of each arm was chosen, on seeds of its own."""

  rates: tuple
  seeds: tuple
  metric: str
  lower: bool  # is better
  arms: tuple = ()  # those that are tuned; (): all


class Panel(NamedTuple):
  """One panel of a picture of differences, and of the table below it."""

  title: str
  metrics: dict  # metric -> its name on the axis, in this order
  gains: dict  # name -> (arm, less): one line each


class Series(NamedTuple):
  """One panel of a picture of means over a number: of samples, of train steps.

  A line has an (arm, metric) for each number in `at`. Without `at` it has one,
  and the numbers are the train steps of that arm's curve.
  """

  title: str
  axis: str  # what the number is
  lines: dict  # name -> line
  at: tuple = ()


class Design(NamedTuple):
  """What stands in a preset's DESIGN, and the function that runs a job."""

  title: str
  source: str
  claim: str
  arms: dict  # name -> what it is
  seeds: tuple
  quick_seeds: tuple
  columns: dict  # metric -> head of its column in the table
  outcomes: tuple  # of Outcome; the first is the primary endpoint
  checks: tuple  # of Check; one that fails makes the verdict "invalid"
  conditions: tuple  # of Check; what "reproduced" asks for beside the effect
  sizes: dict  # of SIZES -> arguments of `job`
  falsified: str  # what would falsify the claim
  tuning: Tuning | None
  panels: tuple = ()  # of Panel; may be left out
  series: tuple = ()  # of Series; may be left out
  data: tuple = ()  # names of files below $RM_DATA; may be left out
  # Not in DESIGN:
  key: str = ""
  preset: str = ""
  path: pathlib.Path = pathlib.Path()
  job: Any = None  # (arm, seed, **size) -> (metrics, curve)


WRITTEN = tuple(f for f in Design._fields if f not in Design._field_defaults)
OPTIONAL = ("panels", "series", "data")


def find_experiments(folder: pathlib.Path) -> list[str]:
  """The keys of the experiments in a folder.

  Raises:
    UserError: no such folder, or none in it.
  """
  found = sorted(path.parent.name for path in folder.glob("*/mini.py"))
  if not found:
    raise UserError(
      f"{folder}: expected folders with a mini.py, found none. Run this in a "
      "checkout of rm_jax, or give --folder."
    )
  return found


def load_design(folder: pathlib.Path, key: str, preset: str) -> Design:
  """The design of an experiment, from its file.

  Raises:
    UserError: an unknown experiment or preset, a design that is not whole.
  """
  known = find_experiments(folder)
  if key not in known:
    raise UserError(
      f"experiment {key!r} is not known. Known in {folder}: {', '.join(known)}."
    )
  path = folder / key / f"{preset}.py"
  if preset == PRESETS[2] and path.exists():
    raise UserError(
      f"{path} is the config of a TPU slice, not of jobs. Train it there: "
      f"rm-jax train --config={path} --workdir=..."
    )
  if not path.exists():
    have = [p for p in RUNS if (folder / key / f"{p}.py").exists()]
    raise UserError(
      f"{key} has no preset {preset!r}. It has: {', '.join(have)}."
    )
  module = load_file(path)
  absent = [n for n in ("DESIGN", "job") if not hasattr(module, n)]
  if absent:
    raise UserError(f"{path}: expected DESIGN and job, got no {absent[0]}.")
  design = _read(path, module.DESIGN)
  return design._replace(key=key, preset=preset, path=path, job=module.job)


def load_designs(folder: pathlib.Path, key: str) -> list[Design]:
  """The designs that an experiment has, of the presets that run here."""
  have = [p for p in RUNS if (folder / key / f"{p}.py").exists()]
  return [load_design(folder, key, preset) for preset in have]


def load_file(path: pathlib.Path):
  """The module at a path, which need not be importable by name.

  Raises:
    UserError: running it raises, with the line.
  """
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except Exception as error:
    frames = traceback.extract_tb(error.__traceback__)
    own = [f.lineno for f in frames if f.filename == str(path)]
    line = own[-1] if own else getattr(error, "lineno", 0)
    raise UserError(
      f"{path}:{line}: {type(error).__name__}: {error}"
    ) from error
  return module


def _read(path, written: dict) -> Design:
  extra = sorted(set(written) - set(WRITTEN) - set(OPTIONAL))
  missing = sorted(set(WRITTEN) - set(written))
  if extra or missing:
    raise UserError(
      f"{path}: DESIGN has unknown keys {extra}, lacks {missing}. Known: "
      f"{', '.join(WRITTEN + OPTIONAL)}."
    )
  tuning = written["tuning"]
  design = Design(
    **written
    | dict(
      outcomes=tuple(Outcome(**o) for o in written["outcomes"]),
      checks=tuple(Check(**c) for c in written["checks"]),
      conditions=tuple(Check(**c) for c in written["conditions"]),
      tuning=None if tuning is None else Tuning(**tuning),
      panels=tuple(Panel(**p) for p in written.get("panels", ())),
      series=tuple(Series(**s) for s in written.get("series", ())),
    )
  )
  for name, arms in _named(design):
    for arm in arms:
      if arm not in design.arms:
        raise UserError(
          f"{path}: {name!r} names arm {arm!r}. Known: "
          f"{', '.join(design.arms)}."
        )
  for each in design.series:
    for name, line in each.lines.items():
      if each.at and len(line) != len(each.at):
        raise UserError(
          f"{path}: {each.title!r}, {name!r} has {len(line)} points for "
          f"{len(each.at)} numbers in at={each.at}."
        )
  for each in (*design.checks, *design.conditions):
    if (each.above is None) == (each.below is None):
      raise UserError(
        f"{path}: check {each.name!r} needs one of above and below, got "
        f"above={each.above}, below={each.below}."
      )
  for outcome in design.outcomes:
    if outcome.expected not in (1, -1, 0):
      raise UserError(
        f"{path}: {outcome.name!r} has expected={outcome.expected!r}: give 1 "
        "or -1, the sign of the published difference, or 0 where none is "
        "claimed."
      )
  if design.outcomes and not design.outcomes[0].expected:
    raise UserError(
      f"{path}: {design.outcomes[0].name!r} is the primary endpoint and has "
      "expected=0: it has to claim a sign, 1 or -1."
    )
  if not design.outcomes or set(design.sizes) != set(SIZES):
    raise UserError(
      f"{path}: expected at least one outcome and the sizes {SIZES}, got "
      f"{len(design.outcomes)} outcomes and {tuple(design.sizes)}."
    )
  return design


def _named(design: Design):
  """(name, arms) of whatever names arms."""
  for outcome in design.outcomes:
    yield outcome.name, (outcome.arm, outcome.less, *outcome.minus)
  for check in (*design.checks, *design.conditions):
    yield check.name, filter(None, (check.arm, check.less))
  for panel in design.panels:
    for name, pair in panel.gains.items():
      yield f"{panel.title}, {name}", pair
  for series in design.series:
    for name, line in series.lines.items():
      points = line if series.at else (line,)
      yield f"{series.title}, {name}", [arm for arm, _ in points]
  if design.tuning is not None:
    yield "tuning", design.tuning.arms


def result_name(preset: str) -> str:
  """The file of an experiment's results, in its folder."""
  return "results.json" if preset == "mini" else f"results_{preset}.json"


def digest(design: Design, size: dict) -> str:
  """Changes with anything that the file of the preset says."""
  found = hashlib.sha256(design.path.read_bytes())
  found.update(json.dumps(size, sort_keys=True).encode())
  return found.hexdigest()
