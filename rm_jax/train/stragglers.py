"""Which host makes the others wait: what each does alone, asked now and then.

The devices of a run wait for one another in every step, so that a step takes as
long on all hosts. What a host does alone is to read, lay and place its blocks.
A slow chip does not show here: a trace shows it.
"""

from typing import NamedTuple

import jax
import numpy as np

from rm_jax.train import hosts

EVERY = 10  # train steps from one look at all hosts to the next
RATIO = 1.5  # of the slowest host to the median one that is worth a line
PATIENCE = 3  # looks in a row


class Streak(NamedTuple):
  """A host that was the slowest, and too slow, at so many looks in a row."""

  host: int = -1
  looks: int = 0


def watch_hosts():
  """A function (step, alone, whole) -> (entries of a row, a line or "").

  Call it on every host after every step: at every EVERY-th it gathers two
  numbers from each. Of one host it says nothing.

  alone: seconds until the host had placed its batch; whole: of the step.
  """
  times, streak = [], Streak()

  def look(step, alone, whole):
    nonlocal streak
    if jax.process_count() == 1:
      return {}, ""
    times.append((alone, whole))
    if step % EVERY:
      return {}, ""
    found = hosts.gather(np.mean(times, axis=0, dtype=np.float32))
    times.clear()
    row = host_seconds(found[:, 0], float(found[:, 1].max()))
    streak = follow(streak, row)
    return row, warning(streak, row)

  return look


def host_seconds(alone: np.ndarray, whole: float) -> dict:
  """Entries of a row: seconds of a step by host, if it waited for nobody.

      whole - (the longest of alone - alone)

  What all do together takes what is left of the step once the last host has
  placed its batch. The median of an even number is the lower of the middle two:
  of two hosts the faster.

  Args:
    alone: [hosts] seconds, means since the last look.
    whole: seconds of the step.
  """
  seconds = whole - (alone.max() - alone)
  return {
    "host_seconds_median": float(np.sort(seconds)[(len(seconds) - 1) // 2]),
    "host_seconds_max": float(seconds.max()),
    "slowest_host": int(seconds.argmax()),
  }


def follow(streak: Streak, row: dict) -> Streak:
  """The streak after one more look; of `host_seconds`."""
  if row["host_seconds_max"] <= RATIO * row["host_seconds_median"]:
    return Streak()
  host = row["slowest_host"]
  return Streak(host, streak.looks + 1 if streak.host == host else 1)


def warning(streak: Streak, row: dict) -> str:
  """A line once a streak is long enough, once a streak; else ""."""
  if streak.looks != PATIENCE:
    return ""
  return (
    f"note: host {streak.host} makes the others wait: "
    f"{row['host_seconds_max']:.3g} s a step where the median host would take "
    f"{row['host_seconds_median']:.3g}, at {PATIENCE} looks in a row. Reading "
    "and placing its batch is slow: look at its disk, network and other work."
  )
