"""A workdir behind a URL: a folder of this machine and its copy there.

A run writes into a local folder; after every checkpoint what changed is copied
to the URL. A checkpoint counts there once mirror.json, written last, names it,
so a copy that broke off is never restored.

Of several hosts every one writes its part of a checkpoint, to a place that all
see: a shared folder, or the bucket itself. The rest is the first host's, and
only it writes there; the others have a copy of the small files for themselves.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import jax

from rm_jax.places import (
  fetch,
  local_path,
  reached,
  remote,
  scheme,
  user_cache,
)
from rm_jax.train import hosts
from rm_jax.types import UserError

INDEX = "mirror.json"
STEPS = "checkpoints"  # folder of a workdir, one folder a step
BEST = "best"
SMALL = ("run.json", "best.json")  # what a run that goes on reads
BUCKETS = ("gs", "s3")  # what orbax writes to by itself
BY_HOSTS = "written_by_hosts"  # of mirror.json: checkpoints were not copied


class Mirror(NamedTuple):
  """A workdir: where it is written and, behind a URL, where it is kept."""

  folder: Path
  url: str  # "": only the folder
  sent: dict  # {name: (size, time)} of what lies behind the URL
  place: Path | str  # where all hosts write checkpoints/ and best/


def open_mirror(workdir: str | Path) -> Mirror:
  """The workdir's local folder, filled with what lies behind its URL.

  Raises:
    UserError: no driver for the URL, or it cannot be read; several hosts do
      not see one workdir.
  """
  local = local_path(workdir)
  many = jax.process_count() > 1
  if local is not None and not many:
    return Mirror(local, "", {}, local)
  if local is not None:
    return _open_shared(local)
  url = str(workdir).rstrip("/")
  if many and scheme(url) not in BUCKETS:
    raise UserError(
      f"--workdir={url}: several hosts write checkpoints to a folder they all "
      f"see, or to {', '.join(f'{b}://' for b in BUCKETS)}."
    )
  folder = _own_folder(url)
  # As it is there: a file that only this machine has was never vouched for.
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  mirror = Mirror(folder, url, {}, url if many else folder)
  place = remote(url)
  done = _finished(place)
  if done is None:
    return mirror
  if many and done and not _index(place).get(BY_HOSTS):
    # Copied files lack the mark by which orbax knows a whole checkpoint of a
    # bucket: it would begin the run anew, in silence.
    raise UserError(
      f"--workdir={url} was begun by one process and goes on with one: start "
      "it without --distributed, or copy it to a folder that all hosts see."
    )
  with reached(url):
    root = place.path.rstrip("/") + "/"
    for path in place.fs.find(place.path):
      own = path.removeprefix(root)
      if own == INDEX or _step(own) not in done | {""}:
        continue
      if many and own.partition("/")[0] in (STEPS, BEST):
        continue  # read from there, by every host its part
      target = folder / own
      target.parent.mkdir(parents=True, exist_ok=True)
      place.fs.get_file(path, str(target))
      mirror.sent[own] = _stamp(target)
  return mirror


def _own_folder(name: str) -> Path:
  """A folder of this process for the workdir of this name."""
  index = f"-{jax.process_index()}" if jax.process_count() > 1 else ""
  digest = hashlib.sha256(name.encode()).hexdigest()[:16]
  return user_cache("workdirs") / f"{digest}{index}"


def _open_shared(workdir: Path) -> Mirror:
  """The workdir for the first host, a copy of its small files for another.

  Raises:
    UserError: another host does not see the folder of the first.
  """
  workdir = workdir.absolute()
  sign = workdir / "hosts.tmp"
  if hosts.is_first():
    workdir.mkdir(parents=True, exist_ok=True)
    sign.write_text("every host of the run sees this file\n")
  hosts.wait("workdir is made")
  unseen = hosts.which(not sign.is_file())
  if hosts.is_first():
    sign.unlink()
  if unseen:
    raise UserError(
      f"--workdir={workdir} of host 0 is not there on host {unseen[0]}: "
      "several hosts need a folder all of them see, or a bucket (gs://...)."
    )
  if hosts.is_first():
    return Mirror(workdir, "", {}, workdir)
  folder = _own_folder(str(workdir))
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  for name in SMALL:
    if (workdir / name).is_file():
      shutil.copyfile(workdir / name, folder / name)
  return Mirror(folder, "", {}, workdir)


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
  if not mirror.url or not hosts.is_first():
    return
  place = remote(mirror.url)
  files = {
    f.relative_to(mirror.folder).as_posix(): f
    for f in mirror.folder.rglob("*")
    if f.is_file()
  }
  by_hosts = mirror.place == mirror.url
  steps = {_step(name) for name in files} - {""}
  if by_hosts:  # they lie there already, and are whole
    steps = _steps_at(place)
  steps = sorted(steps)
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
    index = {STEPS: steps} | ({BY_HOSTS: True} if by_hosts else {})
    place.fs.pipe_file(_at(place, INDEX), json.dumps(index).encode())
    for name in sorted(mirror.sent.keys() - files.keys()):
      place.fs.rm_file(_at(place, name))
      del mirror.sent[name]


def _finished(place) -> set | None:
  """The steps of whole checkpoints; None where no workdir is."""
  with reached(place.url):
    place.fs.invalidate_cache()
    if not place.fs.exists(_at(place, INDEX)):
      return None
    return set(_index(place)[STEPS])


def _index(place) -> dict:
  return json.loads(place.fs.cat_file(_at(place, INDEX)))


def _steps_at(place) -> set:
  """The steps of the checkpoints that several hosts wrote behind a URL."""
  folder = _at(place, STEPS)
  if not place.fs.exists(folder):
    return set()
  names = {x.rstrip("/").rpartition("/")[2] for x in place.fs.ls(folder, False)}
  return {name for name in names if name.isdecimal()}


def _at(place, name: str) -> str:
  return f"{place.path.rstrip('/')}/{name}"


def _step(name: str) -> str:
  """The step of a file of a checkpoint, "" of any other file."""
  parts = name.split("/")
  return parts[1] if parts[0] == STEPS and len(parts) > 2 else ""


def _stamp(path: Path) -> tuple:
  found = path.stat()
  return found.st_size, found.st_mtime_ns
