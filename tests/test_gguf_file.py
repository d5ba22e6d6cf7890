"""GGUF files, held to the package's own reader, which is the slow path."""

import gguf
import numpy as np
import pytest

from rm_jax.gguf_file import dequantize, open_gguf
from rm_jax.places import locate
from rm_jax.types import UserError

Kind = gguf.GGMLQuantizationType


def write(path, *, alignment=None, more=()):
  """A file with every kind of metadata and plain and quantised tensors."""
  writer = gguf.GGUFWriter(path, "llama")
  if alignment:
    writer.add_custom_alignment(alignment)
  writer.add_bool("a.bool", True)
  writer.add_uint8("a.uint8", 200)
  writer.add_int8("a.int8", -3)
  writer.add_uint16("a.uint16", 60_000)
  writer.add_int16("a.int16", -300)
  writer.add_uint32("a.uint32", 4_000_000_000)
  writer.add_int32("a.int32", -70_000)
  writer.add_float32("a.float32", 1e-5)
  writer.add_uint64("a.uint64", 1 << 40)
  writer.add_int64("a.int64", -(1 << 40))
  writer.add_float64("a.float64", 0.1)
  writer.add_string("a.text", "café\n")
  writer.add_array("a.texts", ["", "東京", "x" * 300])
  writer.add_array("a.numbers", [3, 1, 2])
  writer.add_array("a.floats", [0.5, -1.0])
  draw = np.random.default_rng(0)
  for name, shape in (("w", (48, 64)), ("odd", (7, 96)), ("flat", (32,))):
    values = draw.normal(size=shape).astype(np.float32)
    writer.add_tensor(f"{name}.f32", values)
    writer.add_tensor(f"{name}.f16", values.astype(np.float16))
    for kind in (Kind.Q8_0, Kind.Q4_1, Kind.Q5_0):
      raw = gguf.quantize(values, kind)
      writer.add_tensor(f"{name}.{kind.name}", raw, raw_dtype=kind)
  for name, value in more:
    writer.add_tensor(name, value)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


def assert_same(path):
  ours, theirs = open_gguf(path), gguf.GGUFReader(path)
  fields = {
    name: field.contents()
    for name, field in theirs.fields.items()
    if not name.startswith("GGUF.")  # the header, by names it made up
  }
  assert ours.fields == fields
  assert [t.name for t in ours.tensors] == [t.name for t in theirs.tensors]
  for one, other in zip(ours.tensors, theirs.tensors, strict=True):
    assert one.kind == other.tensor_type
    np.testing.assert_array_equal(one.data, other.data)
    want = gguf.dequantize(other.data, other.tensor_type)
    got = dequantize(one)
    assert (got.dtype, got.shape) == (np.float32, want.shape), one.name
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("alignment", [None, 64])
def test_equals_the_reader_of_the_package(tmp_path, alignment):
  # Catches a wrong type code, a tensor off by the alignment, and rows merged
  # across a block.
  assert_same(write(tmp_path / "a.gguf", alignment=alignment))


@pytest.mark.slow  # the package's reader takes seconds
def test_equals_the_reader_of_the_package_on_smollm2():
  assert_same(locate("smollm2"))


def test_a_file_cut_anywhere_is_one_line(tmp_path):
  # Catches a text or tensor that a short file cuts without a word.
  whole = write(tmp_path / "a.gguf").read_bytes()
  end = len(whole) - 64  # what pads the last tensor may be missing
  for size in [*range(0, 900, 7), *range(900, end, 997), end]:
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[:size])
    with pytest.raises(UserError, match="cut.gguf: expected a complete GGUF"):
      open_gguf(path)


@pytest.mark.parametrize(
  "at, value, message",
  [(0, b"GGML", "not b'GGUF'"), (4, b"\1\0\0\0", r"version 1, not one of")],
)
def test_another_format_is_named(tmp_path, at, value, message):
  whole = bytearray(write(tmp_path / "a.gguf").read_bytes())
  whole[at : at + 4] = value
  (tmp_path / "a.gguf").write_bytes(whole)
  with pytest.raises(UserError, match=message):
    open_gguf(tmp_path / "a.gguf")
