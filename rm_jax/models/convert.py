"""Published weights <-> our parameter tree.

In our tree a kernel is [in, out] and the layers are stacked on a first axis;
how a family names and lays out its tensors stands in models/names.py.
Tensors are read one at a time into the stacks, so the peak is the tree and one
tensor.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rm_jax.models.families import read_config
from rm_jax.models.gguf import read_gguf
from rm_jax.models.names import (
  NAMES,
  Part,
  canonical,
  part,
  shapes,
  skipped,
)
from rm_jax.models.published_heads import HeldHead, take_head
from rm_jax.models.transformer import DecoderConfig
from rm_jax.places import locate, read_json
from rm_jax.types import UserError

FLOATS = ("float32", "float16", "bfloat16")


class Pretrained(NamedTuple):
  """What a source holds: the decoder, and the reward head where it has one."""

  config: DecoderConfig
  params: dict  # canonical tree of float32 arrays
  head: HeldHead | None


def load_pretrained(source: str | Path) -> Pretrained:
  """Decoder config, parameters and reward head of a GGUF file or HF folder.

  Every tensor of the source is used, or skipped by name (rotary buffers, an
  lm_head equal to the table it is tied to), else UserError. A reward model
  without lm_head comes back with `tied=True`: our tree then has no unembedding
  of its own, as the source has none.
  """
  path = locate(source)
  if path.is_file():
    config, tensors = read_gguf(path)
    return Pretrained(config, from_hf(tensors, config, where=path), None)

  raw = read_json(path / "config.json")
  config = read_config(raw, where=path / "config.json")
  tensors = _open_safetensors(path)
  tensors |= _open_value_head(path)
  head = take_head(
    tensors,
    raw,
    width=config.width,
    where=path,
    read=lambda name: _floats(tensors[name](), name=name, where=path),
  )
  bare = not any(x.startswith(NAMES[config.family].prefix) for x in tensors)
  tensors = {canonical(k, config, bare=bare): v for k, v in tensors.items()}
  own = NAMES[config.family].head
  if (head is not None or bare) and own not in tensors:
    config = dataclasses.replace(config, tied=True)
  return Pretrained(config, from_hf(tensors, config, where=path), head)


def from_hf(
  tensors: dict[str, Callable[[], np.ndarray]],
  config: DecoderConfig,
  *,
  where: Any,
) -> dict:
  """Our canonical tree from {Hugging Face name: function that reads it}.

  Raises UserError that lists every name that is missing or has no place, and
  on a shape that is not the config's. `where` names the source in errors.
  """
  places = _places(config)
  wanted = {x.name for each in places.values() for x in each}
  skip = {name for name in tensors if skipped(name, config)}
  head = NAMES[config.family].head
  if config.tied:
    skip |= {head} & set(tensors)
  missing = sorted(wanted - set(tensors))
  unmapped = sorted(set(tensors) - wanted - skip)
  if missing or unmapped:
    raise UserError(
      f"{where}: expected the {len(wanted)} tensors of this config, got "
      f"missing {missing}, unmapped {unmapped}; the config belongs to other "
      f"weights or this kind of model is not supported"
    )

  def read(path, place):
    array = _floats(tensors[place.name](), name=place.name, where=where)
    full = _source_shape(path, place, config)
    if array.shape != full:
      raise UserError(
        f"{where}: {place.name}: expected shape {full}, got {array.shape}; "
        f"the config belongs to other weights"
      )
    if place.rows is not None:
      array = array.take(place.rows, axis=place.axis)
    return array.T if place.transposed else array

  params: dict = {}
  for path, shape in shapes(config).items():
    if path[0] == "layers_0":
      value = np.empty((config.layers, *shape), np.float32)
      for layer, place in enumerate(places[path]):
        value[layer] = read(path, place)
    else:
      # A copy: a float32 tensor of a GGUF file is a view of the mapped file.
      value = np.array(read(path, places[path][0]), order="C")
    _put(params, path, value)
  if head in skip:
    _check_tied(tensors[head](), params, where=where)
  return params


def to_hf(params: dict, config: DecoderConfig) -> dict[str, np.ndarray]:
  """{Hugging Face name: contiguous array, as published} of a canonical tree.

  The inverse of `from_hf`, bit for bit. Contiguous, because safetensors writes
  a transposed view in its memory order without a word.
  """
  named: dict = {}
  for path, places in _places(config).items():
    value = functools.reduce(dict.__getitem__, path, params)
    stacked = path[0] == "layers_0"
    shape = shapes(config)[path]
    expected = (config.layers, *shape) if stacked else shape
    assert value.shape == expected, (path, value.shape, expected)
    for place, array in zip(places, value if stacked else [value], strict=True):
      array = np.asarray(array)
      array = array.T if place.transposed else array
      if place.rows is None:
        named[place.name] = np.ascontiguousarray(array)
        continue
      if place.name not in named:
        whole = _source_shape(path, place, config)
        named[place.name] = np.empty(whole, array.dtype)
      index = [slice(None)] * array.ndim
      index[place.axis] = place.rows
      named[place.name][tuple(index)] = array
  return named


def _places(config: DecoderConfig) -> dict[tuple, list[Part]]:
  """{path in our tree: where each of its layers lies in a source}."""
  return {
    path: [
      part(path, layer, config)
      for layer in (range(config.layers) if path[0] == "layers_0" else [None])
    ]
    for path in shapes(config)
  }


def _source_shape(path: tuple, place: Part, config: DecoderConfig) -> tuple:
  """The shape of the tensor that holds a parameter, whole."""
  shape = shapes(config)[path]
  shape = list(shape[::-1] if place.transposed else shape)
  if place.rows is not None:
    shape[place.axis] = place.size
  return tuple(shape)


def _put(tree: dict, path: tuple, value: np.ndarray) -> None:
  for key in path[:-1]:
    tree = tree.setdefault(key, {})
  tree[path[-1]] = value


def _floats(array: np.ndarray, *, name: str, where: Any) -> np.ndarray:
  if array.dtype.name not in FLOATS:
    raise UserError(
      f"{where}: {name}: expected a dtype of {FLOATS}, got "
      f"{array.dtype.name}; load unquantised weights"
    )
  return array.astype(np.float32, copy=False)


def _check_tied(head: np.ndarray, params: dict, *, where: Any) -> None:
  if not np.array_equal(head.astype(np.float32), params["embed"]["embedding"]):
    raise UserError(
      f"{where}: expected an unembedding equal to the embedding table, because "
      f"the config ties them, got different values; set tie_word_embeddings "
      f"to false in config.json"
    )


def _open_safetensors(folder: Path) -> dict[str, Callable[[], np.ndarray]]:
  """{name: function that reads it} of model.safetensors or of its shards."""
  single = folder / "model.safetensors"
  index = folder / "model.safetensors.index.json"
  if single.is_file():
    shards, weight_map = [single], None
  elif index.is_file():
    weight_map = read_json(index)["weight_map"]
    shards = [folder / name for name in sorted(set(weight_map.values()))]
  else:
    raise UserError(
      f"{folder}: expected {single.name} or {index.name}, got neither; save "
      f"the weights with safetensors"
    )
  tensors, held_by = {}, {}
  for shard in shards:
    if not shard.is_file():
      raise UserError(
        f"{index}: expected the shard {shard.name}, got no such file; "
        f"download it again"
      )
    opened = _open_shard(shard)
    tensors |= opened
    held_by |= dict.fromkeys(opened, shard.name)
  if weight_map is not None and held_by != weight_map:
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


def _open_shard(shard: Path) -> dict[str, Callable[[], np.ndarray]]:
  from safetensors import SafetensorError, safe_open

  try:
    file = safe_open(shard, framework="np")
  except SafetensorError as error:
    raise UserError(
      f"{shard}: expected a complete safetensors file, got one that does "
      f"not parse ({error}); download it again"
    ) from None
  return {
    name: functools.partial(file.get_tensor, name) for name in file.keys()
  }


def _open_value_head(folder: Path) -> dict[str, Callable[[], np.ndarray]]:
  """The tensors of the file that LLaMA-Factory keeps a value head in."""
  single, pickled = (folder / f"value_head.{x}" for x in ("safetensors", "bin"))
  if single.is_file():
    return _open_shard(single)
  if pickled.is_file():
    raise UserError(
      f"{pickled}: a pickle can run any code and is not read; save the value "
      f"head as {single.name}"
    )
  return {}
