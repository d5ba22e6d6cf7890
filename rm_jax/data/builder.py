"""Records as a data set of tensorflow-datasets, and such data sets as rows.

TensorFlow is never imported: the files are array_record, and a Record is one
text of JSON, since ragged fields inside ragged fields cannot be written
without TensorFlow.
"""

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from rm_jax.data.fields import BadRow
from rm_jax.data.parquet import plain
from rm_jax.data.rejects import Reject
from rm_jax.places import fetch, local_path, reached, remote, scheme, upload
from rm_jax.types import Comparison, Record, UserError

FEATURE = "rm_jax_record"  # the one feature of what write_dataset writes
VERSION = "1.0.0"
INFO = "dataset_info.json"
NAME = re.compile(r"[a-z][a-z0-9_]*")
ADDRESS = re.compile(r"tfds://(.+?)(?::([A-Za-z_]\w*(?:\[[^\]]*\])?))?")
SHARD_BYTES = 1 << 28  # of JSON
ROWS = 256  # decoded at a time


# ---------------------------------------------------------------- write


def write_dataset(
  records: Iterable, directory: str | Path, *, name: str, source: str
) -> dict:
  """Writes a tfds data set; returns {"records": n, "rejects": m}.

  It lies in DIRECTORY/NAME/1.0.0 with one split, "train", in the order of
  `records`; `tfds://DIRECTORY/NAME` and `tfds.data_source(NAME,
  data_dir=DIRECTORY)` open it. The shards are written as records come, so
  memory does not grow with them: tfds' own writer keeps a gigabyte of examples
  to shuffle, and all of them where their order is to stay. The folder gets its
  name when all is written. A directory may be a URL.

  Args:
    records: Records in an order that stays; Rejects among them are counted.
    directory: where data sets lie.
    name: of the data set: small letters, digits and _.
    source: where the records come from, for the data set's description.

  Raises:
    UserError: a bad name, nothing to write, the data set exists.
  """
  if not NAME.fullmatch(name):
    raise UserError(
      f"name={name!r}: expected small letters, digits and _, a letter first."
    )
  base = local_path(directory)
  url = f"{str(directory).rstrip('/')}/{name}/{VERSION}"
  if base is None:
    place = remote(url)
    with reached(url):
      taken = place.fs.exists(place.path)
  else:
    url = base / name / VERSION
    url.parent.mkdir(parents=True, exist_ok=True)
    taken = url.exists()
  if taken:
    raise UserError(
      f"{url} exists: remove it, or write under another name or directory."
    )
  # Beside its last place: a rename there is atomic.
  near = None if base is None else url.parent
  partial = Path(tempfile.mkdtemp(dir=near, prefix="incomplete."))
  try:
    counts = _write(records, partial, name, source)
    if base is None:
      upload(partial, url, last=INFO)
    else:
      partial.chmod(0o755)  # mkdtemp lets nobody else in
      partial.rename(url)
  finally:
    shutil.rmtree(partial, ignore_errors=True)
  return counts


def _write(records, folder: Path, name: str, source: str) -> dict:
  import tensorflow_datasets as tfds
  from array_record.python.array_record_module import ArrayRecordWriter
  from tqdm import tqdm

  features = tfds.features.FeaturesDict({FEATURE: tfds.features.Text()})
  serializer = tfds.core.example_serializer.ExampleSerializer(
    features.get_serialized_info()
  )
  lengths, written, rejects, room, writer = [], 0, 0, 0, None
  for item in tqdm(records, desc=f"write {name}", unit="record", disable=None):
    if isinstance(item, Reject):
      rejects += 1
      continue
    if room <= 0:
      if writer:
        writer.close()
      shard = folder / str(len(lengths))
      writer = ArrayRecordWriter(str(shard), "group_size:1")
      lengths.append(0)
      room = SHARD_BYTES
    text = record_to_json(item)
    writer.write(
      serializer.serialize_example(features.encode_example({FEATURE: text}))
    )
    lengths[-1] += 1
    room -= len(text)
    written += len(text)
  if not writer:
    raise UserError(
      f"{source}: expected at least one record to write as {name}, got none "
      f"and {rejects} rejects."
    )
  writer.close()
  template = tfds.core.ShardedFileTemplate(
    data_dir=folder,
    template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    dataset_name=name,
    split="train",
    filetype_suffix="array_record",
  )
  paths = template.sharded_filepaths(len(lengths))
  for i, path in enumerate(paths):
    (folder / str(i)).rename(path)
  info = tfds.core.SplitInfo(
    name="train",
    shard_lengths=lengths,
    num_bytes=written,
    filename_template=template,
  )
  tfds.folder_dataset.write_metadata(
    data_dir=folder,
    features=features,
    split_infos=[info],
    filename_template=template,
    version=VERSION,
    description=f"Records of rm_jax in the order of {source}.",
    check_data=False,
  )
  return {"records": sum(lengths), "rejects": rejects}


def record_to_json(record: Record) -> str:
  """The fields of a record that differ from their defaults, as JSON."""
  defaults = Record._field_defaults
  fields = {
    name: value
    for name, value in record._asdict().items()
    if name not in defaults or value != defaults[name]
  }
  return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def record_from_json(text: str) -> Record:
  """The record that `record_to_json` wrote, equal field for field."""
  fields = {name: _tuples(v) for name, v in json.loads(text).items()}
  if "comparisons" in fields:
    fields["comparisons"] = tuple(Comparison(*c) for c in fields["comparisons"])
  return Record(**fields)


def _tuples(value):
  """A record holds tuples; JSON has lists for them."""
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


# ---------------------------------------------------------------- read


class Prepared(NamedTuple):
  """One split of a prepared data set; prints as its address."""

  folder: Path  # with a dataset_info.json
  split: str  # or a slice of one, "train[:10%]"

  @property
  def name(self) -> str:
    return self.folder.name

  def files(self) -> list[Path]:
    """All files of the data set, by name."""
    return sorted(f for f in self.folder.rglob("*") if f.is_file())

  def __str__(self) -> str:
    return f"tfds://{self.folder}:{self.split}"


def find_split(url: str) -> Prepared:
  """The split that tfds://NAME[:SPLIT] or tfds://FOLDER[:SPLIT] names.

  NAME (or NAME/CONFIG, NAME/VERSION) is one that lies prepared in
  $TFDS_DATA_DIR, by default ~/tensorflow_datasets; nothing is downloaded.
  FOLDER holds a dataset_info.json, or one data set below it, and may be behind
  a URL. SPLIT may be a slice (train[:10%]); it may be left out where there is
  only one.

  Raises:
    UserError: no such data set or split, or more than one to choose from.
  """
  import tensorflow_datasets as tfds

  found = ADDRESS.fullmatch(url)
  if not found:
    raise UserError(
      f"{url}: expected tfds://NAME[:SPLIT] or tfds://FOLDER[:SPLIT]. Correct "
      "the address."
    )
  where, split = found.groups()
  folder = _find_folder(url, where)
  with _opened(folder):
    splits = list(tfds.builder_from_directory(folder).info.splits)
  if split is None and len(splits) == 1:
    split = splits[0]
  if split is None or re.match(r"\w+", split)[0] not in splits:
    got = "none" if split is None else repr(split)
    offered = ", ".join(f"tfds://{where}:{s}" for s in splits) or "nothing"
    raise UserError(
      f"{url}: expected the name of one split, got {got}; write one of "
      f"{offered}"
    )
  return Prepared(folder, split)


def read_split(prepared: Prepared):
  """Yields (row number from 1, row): a Record of ours, or a dict, or a BadRow.

  What `write_dataset` wrote comes back Record for Record. Other data sets give
  their features as a dict: bytes become text, arrays lists, numpy's numbers
  Python's; the order is that of the files, which tfds shuffles by a hash.
  """
  import tensorflow_datasets as tfds

  with _opened(prepared.folder):
    builder = tfds.builder_from_directory(prepared.folder)
    source = builder.as_data_source(prepared.split)
  ours = list(builder.info.features) == [FEATURE]
  for first in range(0, len(source), ROWS):
    ids = range(first, min(first + ROWS, len(source)))
    with _opened(prepared.folder):
      rows = source.__getitems__(ids)
    for i, row in zip(ids, rows, strict=True):
      yield i + 1, _row(row, ours)


def _row(row: dict, ours: bool):
  try:
    if ours:
      return record_from_json(row[FEATURE].decode("utf-8"))
    return {name: plain(value) for name, value in row.items()}
  except BadRow as error:
    return error
  except (TypeError, ValueError) as error:
    return BadRow(f"no record that this version reads: {error}")


def _find_folder(url: str, where: str) -> Path:
  if scheme(where) not in ("", "file"):
    path = fetch(remote(where), wanted=lambda name: True)
    tried = [path]
  else:
    data = (
      os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets"
    )
    tried = [local_path(where), Path(data) / where]
  for path in tried:
    # Its own folder, or above it: data_dir / name / config / version.
    for below in ("", "*", "*/*", "*/*/*"):
      found = sorted(path.glob(f"{below}/{INFO}" if below else INFO))
      if len(found) == 1:
        return found[0].parent
      if found:
        names = ", ".join(f"tfds://{f.parent}" for f in found[:5])
        raise UserError(
          f"{url}: expected one data set, got {len(found)} there; write one of "
          f"{names}"
        )
  raise UserError(
    f"{url}: expected a prepared data set (a folder with {INFO}), got none in "
    f"{' or '.join(map(str, tried))}; prepare it with tfds in the format "
    "array_record, or correct the name"
  )


@contextlib.contextmanager
def _opened(folder: Path):
  """Turns what tfds raises about a data set into a UserError of one line."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:  # tfds raises whatever it met, also ImportError
    text = " ".join(str(error).split())[:200]
    raise UserError(
      f"tfds://{folder}: expected a data set in the format array_record, got "
      f"{type(error).__name__} ({text}); prepare it again with "
      "file_format='array_record'"
    ) from error
