"""A board that all hosts read: how far each is, and what it is done with.

Where hosts work for hours on their own and meet once, a collective is the wrong
way to meet: it waits for ever for a host that hangs and does not say for whom.
The board is the key-value store of jax's coordination service.
"""

import json
import time
from typing import Any, NamedTuple

import jax
from jax._src import distributed  # the store has no public name

from rm_jax.types import LostHost

# Between two signs of life lies a chunk of rows, with its compilation minutes.
SILENT_SECONDS = 30 * 60
LOOK_SECONDS = 1.0


class Entry(NamedTuple):
  """What a host wrote last."""

  at: str  # where it is, in words
  done: Any  # what it gives to all, as JSON; None: not done yet


def post(board: str, at: str, done=None) -> None:
  """Writes this host's entry over its last one; nothing where it is alone."""
  if jax.process_count() > 1:
    distributed.global_state.client.key_value_set(
      f"{board}/{jax.process_index()}",
      json.dumps(Entry(at, done)),
      allow_overwrite=True,
    )


def read(board: str) -> dict[int, Entry]:
  """The entries by host."""
  found = distributed.global_state.client.key_value_dir_get(f"{board}/")
  return {
    int(key.rpartition("/")[2]): Entry(*json.loads(text)) for key, text in found
  }


def wait_for_all(look, count: int, *, silent: float, kept: str) -> list:
  """What every host is done with, in their order, once all are.

  As long as one that is not done writes, all wait: what it does is not lost.

  Args:
    look: () -> entries by host, such as `read` gives.
    count: of the hosts.
    silent: seconds in which none of those that are not done wrote anything.
    kept: for the error: where what is done lies.

  Raises:
    LostHost: names the hosts that are not done, and where they were.
  """
  before, since = None, time.monotonic()
  while True:
    entries = look()
    absent = [
      host
      for host in range(count)
      if host not in entries or entries[host].done is None
    ]
    if not absent:
      return [entries[host].done for host in range(count)]
    now = time.monotonic()
    if entries != before:
      before, since = entries, now
    elif now - since >= silent:
      raise LostHost(_told(absent, entries, count, silent, kept))
    time.sleep(min(LOOK_SECONDS, silent / 4))


def _told(absent, entries, count, silent, kept) -> str:
  last = {host: f"last at {entry.at}" for host, entry in entries.items()}
  named = [f"host {n} ({last.get(n, 'did not begin')})" for n in absent]
  return (
    f"{kept}: no sign of life for {silent / 60:.3g} minutes from "
    f"{' and '.join(named)}; the other {count - len(absent)} of {count} hosts "
    "are done. Its log may say why it hangs. What is there is kept: end the "
    "command on all hosts, then start it again to go on."
  )
