"""Which host is called slow, by seconds; tests/test_hosts.py has two hosts."""

import numpy as np
import pytest

from rm_jax.train.stragglers import (
  PATIENCE,
  Streak,
  follow,
  host_seconds,
  warning,
)


def row(*alone, whole=2.0):
  return host_seconds(np.asarray(alone, np.float32), whole)


def test_a_step_is_what_a_host_does_alone_and_what_all_do():
  # 2 s a step, of which the slowest host took 1.5 alone: 0.5 are for all. The
  # others would take 0.5 + 0.25, 0.5 + 0.5, 0.5 + 0.75.
  got = row(0.25, 0.5, 1.5, 0.75)
  assert got == {
    "host_seconds_median": 1.0,  # the lower of 1.0 and 1.25
    "host_seconds_max": 2.0,
    "slowest_host": 2,
  }


def test_equal_hosts_take_the_step_whatever_they_do_alone():
  assert row(0.5, 0.5)["host_seconds_median"] == 2.0


def test_a_host_ten_times_slower_at_what_takes_no_time_is_not_late():
  # Wrong: a ratio of what each does alone: 10 ms against 1 ms of a step of 2 s.
  got = row(0.001, 0.010)
  assert got["host_seconds_max"] / got["host_seconds_median"] < 1.01
  assert follow(Streak(1, 2), got) == Streak()


def test_a_line_comes_once_a_streak():
  late, fine = row(0.1, 1.9), row(0.1, 0.1)
  assert late["host_seconds_max"] > 1.5 * late["host_seconds_median"]
  said, streak = [], Streak()
  for look in [late, late, fine, late, late, late, late, late, fine, late]:
    streak = follow(streak, look)
    said.append(warning(streak, look))
  assert PATIENCE == 3
  assert [bool(x) for x in said] == [n == 5 for n in range(10)]
  assert said[5].startswith("note: host 1 makes the others wait: 2 s a step")
  assert "would take 0.2, at 3 looks" in said[5] and "\n" not in said[5]


@pytest.mark.parametrize("host", [0, 1])
def test_another_host_is_another_streak(host):
  streak = follow(Streak(0, 2), row(*([0.1, 1.9] if host else [1.9, 0.1])))
  assert streak == Streak(host, 1 if host else 3)
