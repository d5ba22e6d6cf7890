"""Jobs of all seeds in one process: where they train, they train side by side.

A lane is a thread that does the jobs of one seed, arm after arm. One lane works
at a time, until it calls `fit` and waits. When all wait, the runs of one
program take their train steps as one vmapped step, each lane gets what its own
run gave and goes on. They are threads only so that a job may call `fit` where
it likes, in its data, twice or never: no two of them ever run at once.
"""

import contextvars
import dataclasses
import threading
import time
from queue import SimpleQueue
from typing import Any, NamedTuple

from rm_jax.ablation.design import Design
from rm_jax.config import validate
from rm_jax.train.fit import Fitted, Run, fit_together, program


class Answer(NamedTuple):
  """What the runs that trained side by side gave, to one of their lanes."""

  fitted: Fitted | None
  error: Exception | None  # why there is none
  runs: int
  seconds: float  # of training them all


@dataclasses.dataclass
class Lane:
  """The jobs of a seed, and how far they are."""

  # Of its own: what a design caches for one seed is there for the next arm, as
  # in a worker of the pool, and no other seed drives it out.
  design: Design
  jobs: list  # of Job, those that are left; the first is under way
  asks: Any = dataclasses.field(default_factory=SimpleQueue)
  answers: Any = dataclasses.field(default_factory=SimpleQueue)
  # Of the job under way:
  together: list = dataclasses.field(default_factory=list)  # runs per `fit`
  others: float = 0.0  # seconds that went into jobs of other lanes


_LANE = contextvars.ContextVar("lane", default=None)


def fit(config, train, test, **how) -> Fitted:
  """`train.fit.fit`; in a lane, side by side with the others'."""
  run, lane = Run(config, train, test, **how), _LANE.get()
  if lane is None:
    return fit_together([run])[0]
  validate(config)  # here, so that it is the mistake of this job only
  begun = time.perf_counter()
  lane.asks.put(run)
  answer = lane.answers.get()
  waited = time.perf_counter() - begun
  lane.others += waited - answer.seconds / answer.runs
  lane.together.append(answer.runs)
  if answer.error is not None:
    raise answer.error
  return answer.fitted


def run_lanes(lanes: list[Lane], do) -> None:
  """Does every job of every lane.

  A lane that ends, or whose job fails, is not waited for. Whoever is farthest
  behind trains first: after a resumed run one lane may have jobs to do that
  the others have done, and they catch up with each other.

  Args:
    do: (lane, job), does a job; what it raises is its own to report.
  """
  for lane in lanes:
    threading.Thread(target=_work, args=(lane, do), daemon=True).start()
  waiting = {n: _go_on(lane, None) for n, lane in enumerate(lanes)}
  while waiting := {n: run for n, run in waiting.items() if run is not None}:
    behind = max(waiting, key=lambda n: len(lanes[n].jobs))
    same = program(waiting[behind])
    own = [n for n, run in waiting.items() if program(run) == same]
    names = [lanes[n].jobs[0].name for n in own]
    answers = _train(names, [waiting[n] for n in own])
    for n, answer in zip(own, answers, strict=True):
      waiting[n] = _go_on(lanes[n], answer)


def _go_on(lane: Lane, answer: Answer | None) -> Run | None:
  """The next run that a lane waits for; None: it has ended."""
  lane.answers.put(answer)
  return lane.asks.get()


def _work(lane: Lane, do) -> None:
  """A lane's thread."""
  _LANE.set(lane)
  lane.answers.get()  # its turn to begin
  try:
    while lane.jobs:
      lane.together, lane.others = [], 0.0
      do(lane, lane.jobs[0])
      lane.jobs = lane.jobs[1:]
  finally:
    lane.asks.put(None)  # whatever happened: nobody waits for it


def _train(names: list[str], runs: list[Run]) -> list[Answer]:
  """One answer per run; where training fails, it fails for all of them."""
  begun = time.perf_counter()
  try:
    fitted, errors = fit_together(runs), [None for _ in runs]
  except Exception as error:
    fitted = [None for _ in runs]
    # One each: what is raised in two threads has a traceback of both.
    errors = [_failed(names, error) for _ in runs]
  seconds = time.perf_counter() - begun
  return [
    Answer(one, error, len(runs), seconds)
    for one, error in zip(fitted, errors, strict=True)
  ]


def _failed(names: list[str], cause: Exception) -> Exception:
  error = RuntimeError(
    f"training {', '.join(names)} side by side: {type(cause).__name__}: {cause}"
  )
  error.__cause__ = cause
  return error
