"""Which steps are traced, and where a trace goes that stays not here."""

import fsspec
import pytest

from rm_jax.train.trace import read_range, tracing
from rm_jax.types import UserError


@pytest.mark.parametrize(
  "text", ["3", "3-4", "a:b", "-1:2", "2:", ":2", "1:2:3"]
)
def test_what_is_no_range_is_refused(text):
  with pytest.raises(UserError) as error:
    read_range(text, 9)
  assert str(error.value) == (
    f"--trace_steps={text}: expected FIRST:LAST, both traced, such as 10:12 "
    "for three steps."
  )


@pytest.mark.parametrize("text", ["0:1", "4:3", "8:10"])
def test_steps_that_the_run_does_not_have_are_refused(text):
  with pytest.raises(UserError, match=rf"={text}: .* 1 <= FIRST <= LAST <= 9 "):
    read_range(text, 9)


def test_a_range_is_its_first_and_last_step():
  assert read_range("", 9) is None
  assert read_range("3:3", 9) == (3, 3)
  assert read_range("1:9", 9) == (1, 9)


def test_a_run_that_stops_within_its_range_leaves_a_trace_behind_its_url():
  # Wrong: a trace in a folder called memory:, or one that only the last step
  # of the range writes.
  with (
    pytest.raises(KeyboardInterrupt),
    tracing((2, 4), "memory://traced") as trace,
  ):
    for step in range(1, 4):
      with trace(step):
        if step == 3:
          raise KeyboardInterrupt
  files = fsspec.filesystem("memory").find("/traced/trace")
  assert [f for f in files if f.endswith(".xplane.pb")]
