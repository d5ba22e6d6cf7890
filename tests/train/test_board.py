"""Hosts that meet once: who is waited for, how long, and who is named."""

import pytest

from rm_jax.train import board
from rm_jax.train.board import Entry
from rm_jax.types import LostHost


def wait(look, count, silent):
  return board.wait_for_all(look, count, silent=silent, kept="scored")


def test_all_hosts_are_waited_for_and_come_back_in_order():
  # Wrong: an answer of 0 rows that is taken for none, the order of arrival.
  entries = {1: Entry("its end", 0), 0: Entry("its end", [[3, 1]])}
  assert wait(lambda: entries, 2, 60.0) == [[[3, 1]], 0]


def test_a_host_that_moves_is_waited_for():
  # Wrong: a limit on the whole wait, which a host with more to do would break.
  lines = iter(range(12))

  def look():
    line = next(lines)
    done = 1 if line == 11 else None
    return {0: Entry("its end", 7), 1: Entry(f"line {line}", done)}

  assert wait(look, 2, 0.08) == [7, 1]
  assert next(lines, None) is None


def test_a_host_that_hangs_is_named_with_its_place():
  # Wrong: to wait for ever, to name a host that is done.
  entries = {
    0: Entry("its end", [[3, 1]]),
    2: Entry("shard 2 of 8, line 4,096", None),
  }
  with pytest.raises(LostHost) as error:
    wait(lambda: entries, 4, 0.06)
  assert str(error.value) == (
    "scored: no sign of life for 0.001 minutes from host 1 (did not begin) and "
    "host 2 (last at shard 2 of 8, line 4,096) and host 3 (did not begin); the "
    "other 1 of 4 hosts are done. Its log may say why it hangs. What is there "
    "is kept: end the command on all hosts, then start it again to go on."
  )


def test_who_is_alone_writes_nowhere():
  assert board.post("score", "line 1") is None  # there is no store to write to
