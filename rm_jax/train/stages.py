"""Where the time of a run goes, from the command on."""

import functools
import time

import jax


class Stages:
  """Seconds of each stage of a run, in the order they were first finished.

  Args:
    started: time.perf_counter() where the command began.
  """

  def __init__(self, started: float):
    self.seconds: dict[str, float] = {}
    self.clock = started
    self.compiling = _compiling()
    self.compiled = self.compiling[0]

  def done(self, name: str) -> None:
    """What was done since the last call was this stage, or more of it.

    Compiling is a stage of its own, wherever it took place.
    """
    now, compiled = time.perf_counter(), self.compiling[0]
    compiling = compiled - self.compiled
    own = max(now - self.clock - compiling, 0.0)
    self.seconds[name] = self.seconds.get(name, 0.0) + own
    self.seconds["compile"] = self.seconds.get("compile", 0.0) + compiling
    self.clock, self.compiled = now, compiled

  def text(self) -> str:
    """One line: the sum and its parts."""
    parts = [f"{name} {s:.1f}" for name, s in self.seconds.items()]
    total = sum(self.seconds.values())
    return f"start-up {total:.1f} s: {', '.join(parts)}"


@functools.cache
def _compiling() -> list:
  """[seconds this process has traced, lowered and compiled so far].

  jax takes listeners and gives none back, so there is one per process.
  """
  total = [0.0]

  def heard(event: str, seconds: float, **_) -> None:
    if event in COMPILING:
      total[0] += seconds

  jax.monitoring.register_event_duration_secs_listener(heard)
  return total


COMPILING = (
  "/jax/core/compile/jaxpr_trace_duration",
  "/jax/core/compile/jaxpr_to_mlir_module_duration",
  "/jax/core/compile/backend_compile_duration",
)
