"""A GGUF file, memory-mapped: its metadata as Python values, its tensors.

gguf.GGUFReader makes an array object of every string of the vocabulary, four
seconds for SmolLM2; here they are slices of the mapped bytes. What a type of
tensor means is left to gguf.

Source: the GGUF specification, docs/gguf.md of ggml-org/ggml.
"""

import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rm_jax.types import UserError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32  # of the tensor data, unless the file says another
STRING, ARRAY = 8, 9

# Metadata type -> struct format of a scalar.
SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}

# Tensors that are stored as numpy knows them.
PLAIN = {
  "F32": np.float32,
  "F16": np.float16,
  "F64": np.float64,
  "I8": np.int8,
  "I16": np.int16,
  "I32": np.int32,
  "I64": np.int64,
}

# Elements dequantised at a time: larger ones leave the CPU's caches.
PIECE = 1 << 18


class Tensor(NamedTuple):
  """One tensor as it is stored."""

  name: str
  kind: Any  # gguf.GGMLQuantizationType
  data: np.ndarray  # [..., elements], [..., bytes of a row] where quantised


class GgufFile(NamedTuple):
  """What a file holds."""

  fields: dict  # key -> number, bool, text or list of these
  tensors: list  # of Tensor


def open_gguf(path: Path) -> GgufFile:
  """The file's metadata and tensors; UserError if it is no whole GGUF."""
  try:
    with open(path, "rb") as file:
      mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return _read_file(mapped)
  except (ValueError, struct.error, IndexError, MemoryError) as error:
    raise UserError(
      f"{path}: expected a complete GGUF file, got one that does not parse "
      f"({error}); download it again"
    ) from None


def shape_of(tensor: Tensor) -> tuple[int, ...]:
  """The shape of the values, which quantised data do not have."""
  from gguf.quants import quant_shape_from_byte_shape

  if tensor.kind.name in PLAIN:
    return tensor.data.shape
  return tuple(quant_shape_from_byte_shape(tensor.data.shape, tensor.kind))


def dequantize(tensor: Tensor) -> np.ndarray:
  """The tensor's values, float32; raises NotImplementedError as gguf does."""
  import gguf

  data = tensor.data
  if tensor.kind.name in PLAIN:
    return gguf.dequantize(data, tensor.kind)
  # gguf works through 16 rows at a time. A block of quantised values never
  # crosses a row, so rows are put behind one another to make fewer of them.
  block, size = gguf.GGML_QUANT_SIZES[tensor.kind]
  rows = int(np.prod(data.shape[:-1]))
  elements = data.shape[-1] // size * block
  merged = max(PIECE // 16 // max(elements, 1), 1)
  while rows % merged:
    merged -= 1
  flat = data.reshape(rows // merged, merged * data.shape[-1])
  values = gguf.dequantize(flat, tensor.kind)
  return values.reshape(*data.shape[:-1], elements)


def _read_file(mapped) -> GgufFile:
  """Raises ValueError or struct.error where the bytes are no GGUF."""
  from gguf import GGMLQuantizationType

  if mapped[:4] != MAGIC:
    raise ValueError(f"begins with {mapped[:4]!r}, not {MAGIC!r}")
  version, at = _scalar(mapped, 4, "I")
  if version not in VERSIONS:
    raise ValueError(f"version {version}, not one of {VERSIONS}")
  tensors, at = _scalar(mapped, at, "Q")
  entries, at = _scalar(mapped, at, "Q")
  fields = {}
  for _ in range(entries):
    key, at = _text(mapped, at)
    kind, at = _scalar(mapped, at, "I")
    value, at = _value(mapped, at, kind)
    if key in fields:
      raise ValueError(f"{key} is there twice")
    fields[key] = value
  infos = {}
  for _ in range(tensors):
    name, at = _text(mapped, at)
    dims, at = _scalar(mapped, at, "I")
    shape = struct.unpack_from(f"<{dims}Q", mapped, at)
    at += 8 * dims
    kind, at = _scalar(mapped, at, "I")
    offset, at = _scalar(mapped, at, "Q")
    if name in infos:
      raise ValueError(f"tensor {name} is there twice")
    # Fastest first in the file, last in numpy.
    infos[name] = (GGMLQuantizationType(kind), shape[::-1], offset)
  alignment = fields.get("general.alignment", ALIGNMENT)
  if alignment < 1:
    raise ValueError(f"general.alignment {alignment}")
  start = -(-at // alignment) * alignment
  return GgufFile(
    fields,
    [
      Tensor(name, kind, _data(mapped, start + offset, kind, shape))
      for name, (kind, shape, offset) in infos.items()
    ],
  )


def _data(mapped, at, kind, shape) -> np.ndarray:
  from gguf.quants import quant_shape_to_byte_shape

  dtype = PLAIN.get(kind.name, np.uint8)
  if kind.name not in PLAIN:
    shape = quant_shape_to_byte_shape(shape, kind)
  count = int(np.prod(shape, dtype=object))
  return np.frombuffer(mapped, dtype, count, at).reshape(shape)


def _scalar(mapped, at: int, code: str):
  (value,) = struct.unpack_from(f"<{code}", mapped, at)
  return value, at + struct.calcsize(f"<{code}")


def _text(mapped, at: int) -> tuple[str, int]:
  (size,) = struct.unpack_from("<Q", mapped, at)
  end = at + 8 + size
  if end > len(mapped):
    raise ValueError(f"a text of {size} bytes reaches beyond its end")
  return mapped[at + 8 : end].decode("utf-8"), end


def _value(mapped, at: int, kind: int):
  """(value, where the next entry begins)."""
  if kind == STRING:
    return _text(mapped, at)
  if kind in SCALARS:
    return _scalar(mapped, at, SCALARS[kind])
  if kind != ARRAY:
    raise ValueError(f"metadata of type {kind}")
  inner, at = _scalar(mapped, at, "I")
  count, at = _scalar(mapped, at, "Q")
  if inner in SCALARS:
    code = f"<{count}{SCALARS[inner]}"
    values = struct.unpack_from(code, mapped, at)
    return list(values), at + struct.calcsize(code)
  values = []
  for _ in range(count):
    value, at = _value(mapped, at, inner)
    values.append(value)
  return values, at
