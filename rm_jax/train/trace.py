"""What the devices and the host do in some train steps: jax's profiler."""

import contextlib
import pathlib
import tempfile

import jax

from rm_jax.places import scheme, upload
from rm_jax.types import UserError

FOLDER = "trace"  # of a workdir


def read_range(text: str, num_train_steps: int) -> tuple[int, int] | None:
  """(first, last) step of --trace_steps=FIRST:LAST; None of "".

  Raises:
    UserError: no range, or one that the run does not have.
  """
  if not text:
    return None
  first, colon, last = text.partition(":")
  if not (colon and first.isdecimal() and last.isdecimal()):
    raise UserError(
      f"--trace_steps={text}: expected FIRST:LAST, both traced, such as 10:12 "
      "for three steps."
    )
  first, last = int(first), int(last)
  if not 1 <= first <= last <= num_train_steps:
    raise UserError(
      f"--trace_steps={text}: expected 1 <= FIRST <= LAST <= {num_train_steps} "
      "(config.num_train_steps), the steps of this run."
    )
  return first, last


@contextlib.contextmanager
def tracing(steps: tuple[int, int] | None, place: str | pathlib.Path):
  """A context per step, `with trace(step):`, that traces those of a range.

  The trace is in PLACE/trace, of several hosts each in its own host-N; it is
  written when the last step of the range, or the run, ends.

  Args:
    steps: (first, last), both traced; None: nothing is.
    place: a folder, or a URL that a trace is copied to.
  """
  with contextlib.ExitStack() as running:
    active = False

    @contextlib.contextmanager
    def trace(step):
      nonlocal active
      wanted = steps is not None and steps[0] <= step <= steps[1]
      if not wanted:
        yield
        return
      if not active:
        active = True
        running.enter_context(_profiler(place))
      with jax.profiler.StepTraceAnnotation("train", step_num=step):
        yield
      if step == steps[1]:
        running.close()

    yield trace


@contextlib.contextmanager
def _profiler(place):
  """The profiler runs; at the end its files are at `place`."""
  name = FOLDER
  if jax.process_count() > 1:
    name = f"{FOLDER}/host-{jax.process_index()}"
  if not scheme(place):
    with jax.profiler.trace(str(pathlib.Path(place) / name)):
      yield
    return
  with (
    tempfile.TemporaryDirectory() as folder,
    contextlib.ExitStack() as after,
  ):
    # Also of a run that an error ends: that is what one wants to see.
    after.callback(upload, pathlib.Path(folder), f"{place}/{name}", last="")
    with jax.profiler.trace(folder):
      yield
