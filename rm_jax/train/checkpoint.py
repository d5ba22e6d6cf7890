"""Checkpoints: the state of what trains, and where the data stand.

workdir/
  run.json            config, fingerprint, base model: written once
  checkpoints/N/      state and position after train step N
  best/N/             parameters only, best value of the named metric
  best.json           that metric, its value and step
"""

import contextlib
import json
import os
import pathlib
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from rm_jax.places import scheme
from rm_jax.types import UserError


def write_json(path: pathlib.Path, value) -> None:
  """Writes a whole file or none: first beside it, then renamed.

  Raises:
    ValueError: a number is NaN or infinite.
  """
  try:
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
  except ValueError as error:
    raise ValueError(
      f"{path}: expected finite numbers, JSON has no other ({error}): give "
      "null for a number that is not known."
    ) from error
  beside = path.with_name(path.name + ".tmp")
  beside.write_text(text + "\n")
  os.replace(beside, path)


def _manager(place: str | pathlib.Path, keep: int) -> ocp.CheckpointManager:
  options = ocp.CheckpointManagerOptions(
    max_to_keep=keep, create=True, cleanup_tmp_directories=True
  )
  # Named here: a manager that has not saved anything yet could not read them.
  handlers = {
    "state": ocp.StandardCheckpointHandler(),
    "position": ocp.JsonCheckpointHandler(),
    "params": ocp.StandardCheckpointHandler(),
  }
  return ocp.CheckpointManager(place, options=options, item_handlers=handlers)


def _inside(place: str | pathlib.Path, name: str) -> epath.Path:
  """A folder of a workdir, or of a bucket, whose URL stays what it is.

  pathlib would make gs:/bucket of gs://bucket, a folder of this machine.
  """
  return epath.Path(place if scheme(place) else place.absolute()) / name


def open_checkpoints(place: str | pathlib.Path, *, keep: int):
  """The manager of resumable checkpoints; close it when done.

  Args:
    place: the workdir; with several hosts one they all see, a folder or a URL.
  """
  return _manager(_inside(place, "checkpoints"), keep)


def nbytes(tree) -> int:
  """Bytes of all leaves, over all devices where they are cut."""
  return sum(x.nbytes for x in jax.tree.leaves(tree))


def save(manager, step: int, state, position: dict) -> None:
  """Saves and waits: what returns is on disk.

  Raises:
    UserError: the disk has no room. Earlier checkpoints stay whole, because
      a new one counts only once it is complete and renamed.
  """
  _write(
    manager,
    step,
    nbytes(state),
    state=ocp.args.StandardSave(state._asdict()),
    position=ocp.args.JsonSave(position),
  )


def _write(manager, step, need, **items):
  folder = manager.directory
  if not scheme(folder):  # a bucket has no end
    free = shutil.disk_usage(folder).free
    if need > free:
      sizes = f"{need:,} bytes needed, {free:,} free"
      raise UserError(_no_room(folder, step, sizes))
  try:
    manager.save(step, args=ocp.args.Composite(**items), force=True)
    manager.wait_until_finished()
  except Exception as error:
    if not is_disk_full(error):
      raise
    reason = str(error).splitlines()[0][:200]
    raise UserError(_no_room(folder, step, reason)) from error


# As the system words ENOSPC, EDQUOT and EFBIG.
FULL = ("No space left", "Disk quota exceeded", "File too large")


def is_disk_full(error: Exception) -> bool:
  """Whether a write failed for want of room."""
  # tensorstore has error types of its own: the text is what they share.
  return any(text in str(error) for text in FULL)


def _no_room(folder, step, reason):
  return (
    f"{folder}: no room for the checkpoint of step {step} ({reason}). Earlier "
    "checkpoints are whole: free space or lower config.train.keep, then run "
    "the same command again to go on from the last one."
  )


def restore(manager, state):
  """(state, position) of the latest checkpoint, or None if there is none.

  Whatever mesh and number of hosts wrote it, every host reads its own shards.

  Args:
    state: a TrainState of shapes, what is expected: leaves that have a sharding
      come as arrays laid out so, the others in numpy.

  Raises:
    UserError: the checkpoint holds other shapes or types (another config).
  """
  step = manager.latest_step()
  if step is None:
    return None
  folder = manager.directory / str(step)
  target = jax.tree.map(_target, state._asdict())
  _same_shapes(manager, step, target, folder)
  out = manager.restore(
    step,
    args=ocp.args.Composite(
      state=ocp.args.StandardRestore(target),
      position=ocp.args.JsonRestore(),
    ),
  )
  return type(state)(**out.state), out.position


def _target(x):
  """What orbax is to make of a leaf: an array with a sharding, or numpy.

  Numpy by name: else it asks for the devices that wrote the leaf.
  """
  if getattr(x, "sharding", None) is not None:
    return x
  return np.empty(x.shape, x.dtype)


def _same_shapes(manager, step, target, folder):
  """Compares shapes and types first: orbax would cast types silently."""
  found = manager.item_metadata(step).state

  def listed(tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
      _name(path): (tuple(leaf.shape), str(np.dtype(leaf.dtype)))
      for path, leaf in leaves
    }

  stored, wanted = listed(found), listed(target)
  if stored == wanted:
    return
  differ = sorted(
    k for k in stored.keys() | wanted.keys() if stored.get(k) != wanted.get(k)
  )
  first = differ[0]
  raise UserError(
    f"{folder}: the checkpoint does not fit this config: {len(differ)} leaves "
    f"differ, first {first}: stored {stored.get(first)}, expected "
    f"{wanted.get(first)}. Use the config in run.json or another --workdir."
  )


def _name(path) -> str:
  """One spelling for dict keys, tuple indices and field names."""
  return "/".join(
    str(getattr(p, "key", getattr(p, "idx", getattr(p, "name", p))))
    for p in path
  )


def save_best(place: str | pathlib.Path, step: int, params: dict) -> None:
  """Replaces the best parameters of the run; the old ones go last."""
  with contextlib.closing(_manager(_inside(place, "best"), 1)) as manager:
    if step not in manager.all_steps():
      saved = ocp.args.StandardSave(params)
      _write(manager, step, nbytes(params), params=saved)


def load_params(
  workdir: pathlib.Path, which: str, step: int | None
) -> tuple[dict, int]:
  """(parameters that trained, step) of a run.

  Args:
    which: best or last.
    step: of the checkpoint; None takes the newest.
  """
  folder = workdir / ("best" if which == "best" else "checkpoints")
  steps = [int(p.name) for p in folder.glob("*") if p.name.isdecimal()]
  if not steps or step not in (None, *steps):
    raise UserError(
      f"{folder}: no checkpoint{'' if step is None else f' {step}'}, found "
      f"{sorted(steps)}. Train first: rm-jax train --config=... "
      f"--workdir={workdir}"
    )
  step = max(steps) if step is None else step
  name = "params" if which == "best" else "state"
  path = epath.Path((folder / str(step) / name).absolute())
  shapes = ocp.StandardCheckpointHandler().metadata(path).tree
  with ocp.StandardCheckpointer() as reader:
    # Numpy by name: else orbax asks for the devices that wrote it.
    whole = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), shapes)
    tree = reader.restore(path, whole)
  return (tree if which == "best" else tree["params"]), step
