"""Several processes that are one run: they start, agree and stop together."""

import contextlib
import hashlib
import json
import os
import signal
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils

from rm_jax.types import UserError

# A host that says nothing for so long is gone. Threads of their own say it:
# a busy interpreter is not silent.
HEARTBEAT_SECONDS = 15

SAID = 3  # differences between two hosts that are named

# How jax and gloo say that another process is gone.
LOST = (
  "Connection closed by peer",
  "Connection reset by peer",
  "heartbeat",
  "coordination service",
  "Gloo",
  "Broken pipe",
)


def start(distributed: str) -> None:
  """Joins this process to the others of its run; "" leaves it alone.

  Args:
    distributed: "auto" on TPU VMs, GKE and Slurm, where jax finds the others by
      itself; else COORDINATOR:PORT,PROCESSES,INDEX.

  Raises:
    UserError: the flag is not of this form, or nothing was found.
  """
  if not distributed:
    return
  known = {}
  if distributed != "auto":
    try:
      address, count, index = distributed.split(",")
      known = dict(
        coordinator_address=address,
        num_processes=int(count),
        process_id=int(index),
      )
    except ValueError:
      known = None
    if known is None or ":" not in address or not 0 <= int(index) < int(count):
      raise UserError(
        f"--distributed={distributed} is neither auto nor "
        "COORDINATOR:PORT,PROCESSES,INDEX with INDEX from 0, such as "
        "10.0.0.2:8476,2,0 on the first of two hosts."
      )
  try:
    jax.distributed.initialize(
      **known, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
    )
  except ValueError as error:
    raise UserError(
      f"--distributed={distributed}: jax does not find the other hosts "
      f"({error}). Name them: --distributed=COORDINATOR:PORT,PROCESSES,INDEX."
    ) from error


def is_first() -> bool:
  """Whether this process writes what a run has once: logs, results, reports."""
  return jax.process_index() == 0


def agree(value: bool) -> bool:
  """The first host's answer, on every host: what decides a collective."""
  if jax.process_count() == 1:
    return value
  return bool(multihost_utils.broadcast_one_to_all(np.int32(value)))


def gather(values: np.ndarray) -> np.ndarray:
  """The values of every host, on every host: [hosts, ...]."""
  return np.asarray(multihost_utils.process_allgather(values))


def which(value: bool) -> list[int]:
  """The hosts for which it is true, on every host."""
  return np.flatnonzero(np.ravel(gather(np.int32(value)))).tolist()


def wait(name: str) -> None:
  """Returns once every host has come here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def check_same(values: dict) -> None:
  """Refuses, on every host, a run whose hosts differ in what they are to do.

  Args:
    values: {name: JSON value}, dicts within dicts by dotted names.

  Raises:
    UserError: names a host, keys that differ and both values.
  """
  if jax.process_count() == 1:
    return
  text = json.dumps(values, sort_keys=True, default=str).encode()
  digest = np.frombuffer(hashlib.sha256(text).digest(), np.uint8)
  digests = multihost_utils.process_allgather(digest)
  other = next((n for n, d in enumerate(digests) if (d != digests[0]).any()), 0)
  if not other:
    return
  sizes = multihost_utils.process_allgather(np.int32(len(text)))
  padded = np.zeros(int(sizes.max()), np.uint8)
  padded[: len(text)] = np.frombuffer(text, np.uint8)
  texts = multihost_utils.process_allgather(padded)
  first, second = (
    flatten(json.loads(texts[n][: sizes[n]].tobytes())) for n in (0, other)
  )
  keys = sorted(
    k for k in first.keys() | second.keys() if first.get(k) != second.get(k)
  )
  said = [
    f"{key} is {first.get(key)!r} on host 0, {second.get(key)!r} on {other}"
    for key in keys[:SAID]
  ]
  more = f" and {len(keys) - SAID} more" if len(keys) > SAID else ""
  raise UserError(
    f"host {other} is not to do what host 0 does: {'; '.join(said)}{more}. "
    "Start the same command, commit and data on every host."
  )


def digest(texts: list[str]) -> str:
  """sha256 of many texts, in their order."""
  found = hashlib.sha256()
  for text in texts:
    found.update(f"{len(text)} {text}".encode("utf-8", "surrogatepass"))
  return found.hexdigest()


def flatten(tree, prefix: str = "") -> dict:
  """Dicts within dicts as one, by dotted names."""
  if not isinstance(tree, dict):
    return {prefix: tree}
  out = {}
  for key, value in tree.items():
    out |= flatten(value, f"{prefix}.{key}" if prefix else key)
  return out


@contextlib.contextmanager
def stop_signal():
  """A function step -> whether to save after it and stop.

  SIGTERM to any host stops all of them after the same step. Ask after every
  step.
  """
  if jax.process_count() > 1:
    # jax took the signal when it started, and agrees on the step.
    yield multihost_utils.reached_preemption_sync_point
    return
  asked = []
  before = signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
  try:
    yield lambda step: bool(asked)
  finally:
    signal.signal(signal.SIGTERM, before)


def is_lost(error: BaseException) -> bool:
  """Whether a step failed because another host is gone."""
  return jax.process_count() > 1 and any(text in str(error) for text in LOST)


def leave(code: int) -> None:
  """Ends a process that failed, without waiting for the others.

  They notice, instead of waiting in a collective for it.
  """
  if jax.distributed.is_initialized():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
