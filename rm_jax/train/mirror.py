"""A workdir behind a URL: a folder of this machine and its copy there.

A run writes into a local folder; after every checkpoint what changed is copied
to the URL. A checkpoint counts there once mirror.json, written last, names it,
so a copy that broke off is never restored.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import NamedTuple

from rm_jax.places import fetch, local_path, reached, remote, user_cache

INDEX = "mirror.json"
STEPS = "checkpoints"  # folder of a workdir, one folder a step


class Mirror(NamedTuple):
  """A workdir: where it is written and, behind a URL, where it is kept."""

  folder: Path
  url: str  # "": only the folder
  sent: dict  # {name: (size, time)} of what lies behind the URL


def open_mirror(workdir: str | Path) -> Mirror:
  """The workdir's local folder, filled with what lies behind its URL.

  Raises:
    UserError: no driver for the URL, or it cannot be read.
  """
  local = local_path(workdir)
  if local is not None:
    return Mirror(local, "", {})
  url = str(workdir).rstrip("/")
  name = hashlib.sha256(url.encode()).hexdigest()[:16]
  folder = user_cache("workdirs") / name
  # As it is there: a file that only this machine has was never vouched for.
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  mirror = Mirror(folder, url, {})
  place = remote(url)
  done = _finished(place)
  if done is None:
    return mirror
  with reached(url):
    root = place.path.rstrip("/") + "/"
    for path in place.fs.find(place.path):
      own = path.removeprefix(root)
      if own == INDEX or _step(own) not in done | {""}:
        continue
      target = folder / own
      target.parent.mkdir(parents=True, exist_ok=True)
      place.fs.get_file(path, str(target))
      mirror.sent[own] = _stamp(target)
  return mirror


def fetch_mirror(url: str) -> Path | None:
  """A local copy of the workdir behind a URL, to read; None if it is none.

  Never the folder that a run of this machine writes into.
  """
  place = remote(url)
  done = _finished(place)
  if done is None:
    return None
  return fetch(place, wanted=lambda name: _step(name) in done | {""})


def push(mirror: Mirror) -> None:
  """Copies what changed to the URL, if there is one.

  New files before the small ones that name them, mirror.json last, and only
  then is removed what the folder no longer has.

  Raises:
    UserError: the URL cannot be written.
  """
  if not mirror.url:
    return
  place = remote(mirror.url)
  files = {
    f.relative_to(mirror.folder).as_posix(): f
    for f in mirror.folder.rglob("*")
    if f.is_file()
  }
  steps = sorted({_step(name) for name in files} - {""})
  # Depth first: best/ before best.json, which says what to read there.
  order = sorted(files, key=lambda name: (-name.count("/"), name))
  with reached(mirror.url):
    for name in order:
      stamp = _stamp(files[name])
      if mirror.sent.get(name) != stamp:
        path = _at(place, name)
        place.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        place.fs.put_file(str(files[name]), path)
        mirror.sent[name] = stamp
    index = json.dumps({STEPS: steps}).encode()
    place.fs.pipe_file(_at(place, INDEX), index)
    for name in sorted(mirror.sent.keys() - files.keys()):
      place.fs.rm_file(_at(place, name))
      del mirror.sent[name]


def _finished(place) -> set | None:
  """The steps of whole checkpoints; None where no workdir is."""
  with reached(place.url):
    place.fs.invalidate_cache()
    if not place.fs.exists(_at(place, INDEX)):
      return None
    return set(json.loads(place.fs.cat_file(_at(place, INDEX)))[STEPS])


def _at(place, name: str) -> str:
  return f"{place.path.rstrip('/')}/{name}"


def _step(name: str) -> str:
  """The step of a file of a checkpoint, "" of any other file."""
  parts = name.split("/")
  return parts[1] if parts[0] == STEPS and len(parts) > 2 else ""


def _stamp(path: Path) -> tuple:
  found = path.stat()
  return found.st_size, found.st_mtime_ns
