"""Tensors of a checkpoint that are not read yet: shapes first, then slices.

A file is opened again for every read and closed behind it, so that its mapped
pages do not stay in memory until all of it has been read.
"""

import dataclasses
import functools
import math
import mmap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rm_jax.places import PICKLES, read_json
from rm_jax.types import UserError

# dtypes as safetensors writes them, those that are numbers to compute with
FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}

CHUNK_BYTES = 4 << 20  # of float32, read and cast at once


@dataclasses.dataclass(frozen=True)
class Stored:
  """One tensor in a file; `read` opens it for a list of slices."""

  name: str
  shape: tuple
  dtype: str
  read: Callable[[list[tuple]], Iterable[np.ndarray]]
  where: Any  # named in errors

  def check(self) -> None:
    """Raises UserError unless the numbers can be read as they are."""
    if self.dtype not in FLOATS.values():
      raise UserError(
        f"{self.where}: {self.name}: expected a dtype of "
        f"{tuple(FLOATS.values())}, got {self.dtype}; load unquantised weights"
      )

  def __call__(self) -> np.ndarray:
    """All of it, float32."""
    return self.part(tuple(slice(0, n) for n in self.shape))

  def part(
    self,
    index: tuple[slice, ...],
    *,
    rows: np.ndarray | None = None,
    axis: int = 0,
    transposed: bool = False,
  ) -> np.ndarray:
    """A part, float32 and contiguous, read and cast a chunk at a time.

    Args:
      index: with a start and a stop for each axis. With `rows`, that of `axis`
        counts entries of `rows`.
      rows: which entries of `axis` make the tensor that `index` cuts.
      transposed: the transpose of the part.
    """
    self.check()
    shape = tuple(part.stop - part.start for part in index)
    result = _empty(shape[::-1] if transposed else shape)
    out = result.T if transposed else result
    pieces = list(_pieces(index, rows, axis))
    asked = [source for _, source in pieces]
    for (target, _), value in zip(pieces, self.read(asked), strict=True):
      out[target] = value
    return result


def _empty(shape: tuple) -> np.ndarray:
  """Pages of its own: freed they go back to the system at once.

  malloc would keep pieces of this size, and fragments of them add up.
  """
  count = math.prod(shape)
  if not count:
    return np.empty(shape, np.float32)
  pages = mmap.mmap(-1, 4 * count)
  return np.frombuffer(pages, np.float32).reshape(shape)


def _pieces(index, rows, axis):
  """(where in the result, where in the source) of runs and chunks."""
  start = [part.start for part in index]
  wide = [part.stop - part.start for part in index]
  runs = [(0, index[axis].start, wide[axis])] if index else []
  if rows is not None:
    runs = list(_runs(rows[index[axis]]))
  others = math.prod(n for i, n in enumerate(wide) if i != axis)
  most = max(1, CHUNK_BYTES // max(1, 4 * others))
  for target, source, count in runs:
    for done in range(0, count, most):
      size = min(most, count - done)
      here = [slice(0, n) for n in wide]
      there = [slice(a, a + n) for a, n in zip(start, wide, strict=True)]
      here[axis] = slice(target + done, target + done + size)
      there[axis] = slice(source + done, source + done + size)
      yield tuple(here), tuple(there)


def _runs(rows: np.ndarray):
  """(first place, first row, how many) of neighbours in `rows`."""
  breaks = np.flatnonzero(np.diff(rows) != 1) + 1
  begins = [0, *breaks.tolist()]
  ends = [*breaks.tolist(), len(rows)]
  for begin, end in zip(begins, ends, strict=True):
    if end > begin:
      yield begin, int(rows[begin]), end - begin


def in_memory(name: str, array: np.ndarray, *, where: Any) -> Stored:
  """An array as if it lay in a file."""

  def read(indexes):
    return (array[index] for index in indexes)

  return Stored(name, array.shape, array.dtype.name, read, where)


def open_shard(path: Path) -> dict[str, Stored]:
  """{name: tensor} of one safetensors file."""
  from safetensors import SafetensorError, safe_open

  try:
    with safe_open(path, framework="np") as file:
      slices = {name: file.get_slice(name) for name in file.keys()}
      listed = {
        name: (tuple(found.get_shape()), found.get_dtype())
        for name, found in slices.items()
      }
  except SafetensorError as error:
    raise UserError(
      f"{path}: expected a complete safetensors file, got one that does "
      f"not parse ({error}); download it again"
    ) from None

  def read(name, indexes):
    with safe_open(path, framework="np") as file:
      tensor = file.get_slice(name)
      for index in indexes:
        # A tensor of no axes has no slices.
        yield tensor[index] if index else file.get_tensor(name)

  return {
    name: Stored(
      name,
      shape,
      FLOATS.get(kind, kind),
      functools.partial(read, name),
      path,
    )
    for name, (shape, kind) in listed.items()
  }


def open_safetensors(folder: Path) -> dict[str, Stored]:
  """{name: tensor} of model.safetensors, or of the shards its index lists."""
  single = folder / "model.safetensors"
  index = folder / "model.safetensors.index.json"
  if single.is_file():
    return open_shard(single)
  if not index.is_file():
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
    if pickles:
      raise UserError(
        f"{folder}: expected {single.name} or {index.name}, got the pickle "
        f"{pickles[0]}: to load a pickle runs any code it holds, so it is not "
        f"read; save the model again with safetensors"
      )
    raise UserError(
      f"{folder}: expected {single.name} or {index.name}, got neither; save "
      f"the weights with safetensors"
    )
  weight_map = read_json(index)["weight_map"]
  tensors, held_by = {}, {}
  for shard in (folder / name for name in sorted(set(weight_map.values()))):
    if not shard.is_file():
      raise UserError(
        f"{index}: expected the shard {shard.name}, got no such file; "
        f"download it again"
      )
    opened = open_shard(shard)
    tensors |= opened
    held_by |= dict.fromkeys(opened, shard.name)
  if held_by != weight_map:
    differ = sorted(
      name
      for name in {*held_by, *weight_map}
      if held_by.get(name) != weight_map.get(name)
    )
    raise UserError(
      f"{index}: expected the tensors of the shards, got a different list for "
      f"{differ}; index and shards belong to different downloads"
    )
  return tensors
