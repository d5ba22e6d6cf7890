"""Tokenised groups on disk: written once as they come, read at random.

DIRECTORY/
  cache.json                 key, counts and shards; written last
  groups-00000.array_record  one group a record, any may be read alone
  left_out.json              rejects, overlong records, prompt keys
"""

import bisect
import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rm_jax.data.binary import pack_group, unpack_group
from rm_jax.data.builder import Prepared
from rm_jax.data.loader import (
  Dataset,
  Reading,
  Supervision,
  token_groups,
  with_demands,
)
from rm_jax.data.rejects import Reject
from rm_jax.data.sources import find_files
from rm_jax.data.tokenizers import fingerprint
from rm_jax.places import (
  fetch,
  local_path,
  reached,
  remote,
  upload,
  user_cache,
)
from rm_jax.types import TokenizedGroup, UserError

# Raise it when a record becomes other tokens, slots or weights than before, or
# when `pack_group` changes: older caches are refused then.
VERSION = 2

INDEX = "cache.json"
LEFT_OUT = "left_out.json"
SHARD_BYTES = 1 << 28  # of a shard before compression
BLOCK = 1 << 20  # bytes hashed at a time
KEPT_DAYS = 30  # that nobody has opened, of an automatic cache

# How the groups of a text are laid out changes none of them.
LAYING = ("layout", "align")


class Cache(NamedTuple):
  """An open cache: what `token_groups` gave, from disk."""

  groups: Sequence  # of TokenizedGroup, random access
  prompts: list  # prompt key of each group
  rejects: list  # of Reject
  overlong: dict  # record number -> Reject
  counts: dict  # groups, rejects, overlong, completions, tokens
  key: dict


# ---------------------------------------------------------------- use


def tokenize_cached(
  directory: str | Path,
  key: dict,
  records: Iterable,
  tokenizer,
  reading: Reading,
  supervision: Supervision | None,
) -> Dataset:
  """What `tokenize_records` returns, its groups in a cache instead of memory.

  The records are read only where the cache has to be written.

  Raises:
    UserError: the directory holds a cache of another key, or other files.
  """
  cache = open_cache(directory, key)
  if cache is None:
    rejects, overlong, prompts = [], {}, []
    groups = token_groups(
      records, tokenizer, reading, supervision, rejects, overlong, prompts
    )
    cache = write_cache(
      directory,
      key,
      groups,
      rejects=rejects,
      overlong=overlong,
      prompts=prompts,
    )
  return with_demands(
    cache.groups, reading, cache.rejects, cache.overlong, cache.prompts
  )


def cache_key(
  tokenizer,
  template: str | None,
  reading: Reading,
  supervision: Supervision | None,
  sources: dict,
) -> dict:
  """Everything that decides which tokens a record becomes, as a JSON object.

  What only some callers have (a split, a seed, a record kind) is added with
  `|`. The layout is not in it: all layouts lay the same groups.

  Args:
    template: text of the chat template, None for plain text.
    sources: of `source_digests`.
  """
  read = {k: v for k, v in reading._asdict().items() if k not in LAYING}
  key = {
    "version": VERSION,
    "tokenizer": fingerprint(tokenizer, template, {}),
    "reading": read,
    "supervision": None if supervision is None else supervision._asdict(),
    "sources": sources,
  }
  return json.loads(json.dumps(key))  # as it comes back from a file


def auto_folder(key: dict) -> Path:
  """The folder of this user for a cache of this key; unused ones are removed.

  Its name is the digest of the key and of the code that makes tokens of text,
  so another tokenizer, file, config or version of rm_jax has another folder and
  nothing old is ever read. What no run has opened for KEPT_DAYS goes.
  """
  found = hashlib.sha256(json.dumps(key, sort_keys=True).encode())
  package = Path(__file__).parents[1]
  code = [*sorted((package / "data").glob("*.py")), package / "margins.py"]
  for file in code:
    found.update(file.read_bytes())
  root = user_cache("tokens")
  folder = root / found.hexdigest()[:32]
  if (folder / INDEX).is_file():
    os.utime(folder / INDEX)
  oldest = time.time() - KEPT_DAYS * 24 * 3600
  for index in root.glob(f"*/{INDEX}"):
    with contextlib.suppress(OSError):  # another process removes it as well
      if index.stat().st_mtime < oldest:
        shutil.rmtree(index.parent, ignore_errors=True)
  return folder


def source_digests(path) -> dict:
  """{name: {"size": bytes, "sha256": hex}} of the files that a place holds.

  Names are relative to the place, so a folder may be moved.
  """
  found = find_files(path)
  if isinstance(found[0], Prepared):
    split, files = found[0].split, found[0].files()
    names = [
      f"{f.relative_to(found[0].folder).as_posix()}:{split}" for f in files
    ]
  else:
    files = found
    root = str(local_path(path) or path).rstrip("/") + "/"
    names = [
      str(f).removeprefix(root) if str(f).startswith(root) else f.name
      for f in files
    ]
  digests = {}
  for name, file in zip(names, files, strict=True):
    digest, size = hashlib.sha256(), 0
    with reached(str(file)), file.open("rb") as stream:
      while block := stream.read(BLOCK):
        digest.update(block)
        size += len(block)
    digests[name] = {"size": size, "sha256": digest.hexdigest()}
  return digests


# ---------------------------------------------------------------- read


@dataclasses.dataclass(frozen=True)
class CachedGroups(Sequence):
  """The groups of a cache in place of a list: decoded when asked for.

  Threads may share it; a pickle holds the paths and opens the files again.
  """

  paths: tuple  # of the shards
  readers: tuple  # one per shard
  ends: tuple  # groups up to the end of each shard

  def __len__(self) -> int:
    return self.ends[-1] if self.ends else 0

  def __getitem__(self, index: int) -> TokenizedGroup:
    at = int(index) + (len(self) if index < 0 else 0)
    if not 0 <= at < len(self):
      raise IndexError(f"group {index} of a cache of {len(self)}")
    shard = bisect.bisect_right(self.ends, at)
    at -= self.ends[shard - 1] if shard else 0
    # A range: for a list of indices the library walks over all chunks, 100
    # times slower in a shard of 100,000.
    return unpack_group(self.readers[shard].read(at, at + 1)[0])

  def __reduce__(self):
    return open_groups, (self.paths,)


def open_groups(paths: tuple) -> CachedGroups:
  """The groups of these shards, one after another."""
  from array_record.python.array_record_module import ArrayRecordReader

  readers = tuple(ArrayRecordReader(str(path)) for path in paths)
  ends = itertools.accumulate(reader.num_records() for reader in readers)
  return CachedGroups(tuple(paths), readers, tuple(ends))


def open_cache(directory: str | Path, key: dict) -> Cache | None:
  """The cache in a directory, None where nothing is; copies one behind a URL.

  Raises:
    UserError: it is of another key (the message shows each difference), it is
      damaged, or the directory holds something else.
  """
  folder = local_path(directory)
  if folder is None:
    place = remote(str(directory))
    with reached(str(directory)):
      place.fs.invalidate_cache()
      if not place.fs.exists(f"{place.path.rstrip('/')}/{INDEX}"):
        return None
    folder = fetch(place, wanted=lambda name: "/" not in name)
  if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
    return None
  if not (folder / INDEX).is_file():
    raise UserError(
      f"{directory}: expected a cache of tokens or nothing, got something "
      f"without {INDEX}; name another directory or remove it"
    )
  index = json.loads((folder / INDEX).read_text("utf-8"))
  check_key(directory, "a cache", index["key"], json.loads(json.dumps(key)))
  for name, size in index["shards"].items():
    path = folder / name
    got = path.stat().st_size if path.is_file() else 0
    if got != size:
      raise UserError(
        f"{path}: expected {size} bytes, got {got}: the cache is damaged; "
        f"remove {directory}, it will be written again"
      )
  left_out = json.loads((folder / LEFT_OUT).read_text("utf-8"))
  return Cache(
    groups=open_groups(tuple(folder / name for name in index["shards"])),
    prompts=left_out["prompts"],
    rejects=[Reject(*r) for r in left_out["rejects"]],
    overlong={int(i): Reject(*r) for i, r in left_out["overlong"].items()},
    counts=index["counts"],
    key=index["key"],
  )


def check_key(directory, what: str, stored: dict, ours: dict) -> None:
  """Raises UserError that shows each entry in which two keys differ."""
  before, now = dict(_flat(stored)), dict(_flat(ours))
  differ = [
    f"{name}: stored {_shown(before.get(name))}, ours {_shown(now.get(name))}"
    for name in sorted({*before, *now})
    if before.get(name, "") != now.get(name, "")
  ]
  if differ:
    raise UserError(
      f"{directory}: expected {what} of this tokenizer, config and data, got "
      f"one of others: {'; '.join(differ)}; name another directory or remove "
      "this one"
    )


def _flat(tree: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
  """("reading.row_len", 512) of {"reading": {"row_len": 512}}."""
  for name, value in tree.items():
    if isinstance(value, dict) and value:
      yield from _flat(value, f"{prefix}{name}.")
    else:
      yield prefix + name, value


def _shown(value) -> str:
  text = "nothing" if value is None else repr(value)
  return text if len(text) <= 80 else f"{text[:77]}..."


# ---------------------------------------------------------------- write


def write_cache(
  directory: str | Path,
  key: dict,
  groups: Iterable[TokenizedGroup],
  *,
  rejects: list,
  overlong: dict,
  prompts: list,
) -> Cache:
  """Writes a cache, unless another process has meanwhile, and opens it.

  Groups are written as they come. All lies in a folder of another name until
  it is complete, so a killed writer leaves no cache; the next one on the same
  machine removes what it left. A second writer on the machine waits and then
  opens what the first one wrote. Of two machines with one disk both write, and
  the first to be done wins.

  Args:
    directory: a path or a URL; behind a URL the index is written last.
    groups: asked for only if there is something to write.
    rejects, overlong, prompts: as `token_groups` fills them while it is read.

  Raises:
    UserError: the directory holds a cache of another key, or other files.
  """
  folder = local_path(directory)
  left_out = (rejects, overlong, prompts)
  if folder is None:
    done = open_cache(directory, key)
    if done is not None:
      return done
    with tempfile.TemporaryDirectory() as scratch:
      _write(Path(scratch), key, groups, left_out)
      upload(Path(scratch), str(directory), last=INDEX)
    return open_cache(directory, key)
  folder.parent.mkdir(parents=True, exist_ok=True)
  partials = f".{folder.name}.partial-{socket.gethostname()}-"
  with locked(folder):
    done = open_cache(folder, key)
    if done is not None:
      return done
    for dead in folder.parent.glob(f"{partials}*"):
      shutil.rmtree(dead, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=partials))
    try:
      _write(partial, key, groups, left_out)
      partial.chmod(0o755)  # mkdtemp lets nobody else in
      try:
        partial.rename(folder)
      except OSError:
        if not (folder / INDEX).is_file():
          raise
        # Another machine was faster; what it wrote is opened below.
    finally:
      shutil.rmtree(partial, ignore_errors=True)
    return open_cache(folder, key)


@contextlib.contextmanager
def locked(folder: Path):
  """Waits for other processes of this machine; a killed one holds nothing."""
  locks = user_cache("locks")
  locks.mkdir(parents=True, exist_ok=True)
  name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
  with (locks / name).open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield


def _write(folder: Path, key: dict, groups, left_out: tuple) -> None:
  from array_record.python.array_record_module import ArrayRecordWriter
  from tqdm import tqdm

  shards, room, writer = [], 0, None
  counts = dict.fromkeys(("groups", "completions", "tokens"), 0)
  try:
    for group in tqdm(groups, desc="tokenise", unit="group", disable=None):
      if room <= 0:
        if writer:
          writer.close()
        shards.append(f"groups-{len(shards):05d}.array_record")
        writer = ArrayRecordWriter(str(folder / shards[-1]), "group_size:1")
        room = SHARD_BYTES
      packed = pack_group(group)
      writer.write(packed)
      room -= len(packed)
      counts["groups"] += 1
      counts["completions"] += len(group.tokens)
      counts["tokens"] += sum(map(len, group.tokens))
  finally:
    if writer:
      writer.close()
  rejects, overlong, prompts = left_out
  if len(prompts) != counts["groups"]:
    raise ValueError(
      f"expected a prompt key per group, got {len(prompts)} for "
      f"{counts['groups']} groups"
    )
  counts |= {"rejects": len(rejects), "overlong": len(overlong)}
  with (folder / LEFT_OUT).open("w", encoding="utf-8") as out:
    json.dump(
      {"rejects": rejects, "overlong": overlong, "prompts": prompts}, out
    )
  index = {
    "key": key,
    "counts": counts,
    "shards": {name: (folder / name).stat().st_size for name in shards},
  }
  (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", "utf-8")
