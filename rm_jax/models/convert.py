"""Published weights <-> our parameter tree.

In our tree a kernel is [in, out] and the layers are stacked on a first axis;
how a family names and lays out its tensors stands in models/names.py. Every
tensor of a source is accounted for before the first one is read. Then a layer
of a parameter is read at a time, and of that the slices that are asked for.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

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
from rm_jax.models.stored import Stored, open_safetensors, open_shard
from rm_jax.models.transformer import DecoderConfig
from rm_jax.places import locate, read_json
from rm_jax.types import UserError

TIED_ROWS = 8192  # of two tables compared at once


class Opened(NamedTuple):
  """What a source holds, its backbone not read yet but checked by shapes."""

  config: DecoderConfig
  tensors: dict[str, Stored]  # of the backbone, by the family's names
  head: HeldHead | None
  where: Any


class Pretrained(NamedTuple):
  """What a source holds: the decoder, and the reward head where it has one."""

  config: DecoderConfig
  params: dict  # canonical tree of float32 arrays
  head: HeldHead | None


def load_pretrained(source: str | Path) -> Pretrained:
  """Decoder config, parameters and reward head, read whole into numpy."""
  opened = open_pretrained(source)
  params = read_tree(opened.tensors, opened.config)
  return Pretrained(opened.config, params, opened.head)


def place_pretrained(source: str | Path) -> Pretrained:
  """The same on the first device of this process: a layer at a time."""
  opened = open_pretrained(source)
  devices = np.array(jax.local_devices()[:1])
  whole = NamedSharding(Mesh(devices, ("one",)), PartitionSpec())
  shards: dict = {}
  for path in _places(opened.config):
    _put(shards, path, whole)
  params = place_tree(
    opened.tensors,
    opened.config,
    segments=(opened.config.layers,),
    shards=shards,
  )
  return Pretrained(opened.config, params, opened.head)


def open_pretrained(source: str | Path) -> Opened:
  """Decoder config, tensors and reward head of a GGUF file or HF folder.

  Every tensor of the source has a place, or is skipped by name (rotary
  buffers, an lm_head equal to the table it is tied to), else UserError. A
  reward model without lm_head comes back with `tied=True`: our tree then has
  no unembedding of its own, as the source has none.
  """
  path = locate(source)
  if path.is_file():
    config, tensors = read_gguf(path)
    return Opened(config, account(tensors, config, where=path), None, path)

  raw = read_json(path / "config.json")
  config = read_config(raw, where=path / "config.json")
  tensors = open_safetensors(path)
  tensors |= _open_value_head(path)
  head = take_head(
    tensors,
    raw,
    width=config.width,
    where=path,
    read=lambda name: tensors[name](),
  )
  bare = not any(x.startswith(NAMES[config.family].prefix) for x in tensors)
  tensors = {canonical(k, config, bare=bare): v for k, v in tensors.items()}
  own = NAMES[config.family].head
  if (head is not None or bare) and own not in tensors:
    config = dataclasses.replace(config, tied=True)
  return Opened(config, account(tensors, config, where=path), head, path)


def account(
  tensors: dict[str, Stored], config: DecoderConfig, *, where: Any
) -> dict[str, Stored]:
  """The tensors that have a place in our tree, once all are accounted for.

  Reads nothing but a copy of a tied table, which has to be equal.

  Args:
    where: names the source in errors.

  Raises:
    UserError: lists every name that is missing or has no place; a shape that
      is not the config's; numbers of another kind.
  """
  places = _places(config)
  wanted = {x.name for each in places.values() for x in each}
  skip = {name for name in tensors if skipped(name, config)}
  head = NAMES[config.family].head
  if config.tied:
    skip |= {head} & set(tensors)
  missing = sorted(wanted - set(tensors))
  unmapped = sorted(set(tensors) - wanted - skip)
  if missing == [head] and not unmapped:
    raise UserError(
      f"{where}: expected {head}, because config.json does not tie it to the "
      f"embedding table, got no such tensor; set tie_word_embeddings to true "
      f"in config.json if the model shares the two"
    )
  if missing or unmapped:
    raise UserError(
      f"{where}: expected the {len(wanted)} tensors of this config, got "
      f"missing {missing}, unmapped {unmapped}; the config belongs to other "
      f"weights or this kind of model is not supported"
    )
  for path, each in places.items():
    for place in each:
      tensors[place.name].check()
      full = _source_shape(path, place, config)
      got = tensors[place.name].shape
      if got != full:
        raise UserError(
          f"{where}: {place.name}: expected shape {full}, got {got}; the "
          f"config belongs to other weights"
        )
  if head in skip:
    table = places["embed", "embedding"][0].name
    _check_tied(tensors[head], tensors[table], where=where)
  return {name: tensors[name] for name in wanted}


def read_tree(tensors: dict[str, Stored], config: DecoderConfig) -> dict:
  """Our canonical tree of numpy arrays, from what `account` gave."""
  params: dict = {}
  for path, places in _places(config).items():
    shape = shapes(config)[path]
    whole = tuple(slice(0, n) for n in shape)
    if path[0] == "layers_0":
      value = np.empty((config.layers, *shape), np.float32)
      for layer, place in enumerate(places):
        value[layer] = _read(tensors, place, whole)
    else:
      value = _read(tensors, places[0], whole)
    _put(params, path, value)
  return params


def place_tree(
  tensors: dict[str, Stored],
  config: DecoderConfig,
  *,
  segments: tuple[int, ...],
  shards: dict,
) -> dict:
  """The tree of jax arrays, each process reading only the slices it owns.

  A layer at a time goes into a stack that already lies on the devices, so the
  host holds no more than a parameter of one layer beside them. All processes
  call this together.

  Args:
    segments: lengths of the stacks `layers_0`, `layers_1`, ...
    shards: the tree of their NamedShardings, with those stacks.
  """
  params: dict = {}

  def arrange(place, sharding, shape):
    seen: dict = {}  # devices may hold copies of one slice

    def callback(index):
      index = tuple(
        slice(*x.indices(n)[:2]) for x, n in zip(index, shape, strict=True)
      )
      key = tuple((x.start, x.stop) for x in index)
      if key not in seen:
        seen[key] = _read(tensors, place, index)
      return seen[key]

    return jax.make_array_from_callback(shape, sharding, callback)

  for path, places in _places(config).items():
    shape = shapes(config)[path]
    if path[0] != "layers_0":
      sharding = functools.reduce(dict.__getitem__, path, shards)
      _put(params, path, arrange(places[0], sharding, shape))
      continue
    for number, length in enumerate(segments):
      own = (f"layers_{number}", *path[1:])
      sharding = functools.reduce(dict.__getitem__, own, shards)
      one = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
      stack = _zeros((length, *shape), sharding)
      first = sum(segments[:number])
      for layer, place in enumerate(places[first : first + length]):
        part = arrange(place, one, shape)
        stack = _set_layer(sharding)(stack, part, layer)
        # Else the host runs ahead and holds several layers.
        stack.block_until_ready()
        del part
      _put(params, own, stack)
  return params


def _zeros(shape, sharding):
  make = functools.partial(jnp.zeros, shape, jnp.float32)
  return jax.jit(make, out_shardings=sharding)()


@functools.lru_cache
def _set_layer(sharding):
  """(stack, layer, number) -> the stack with that layer, in its own memory."""
  put = functools.partial(jax.lax.dynamic_update_index_in_dim, axis=0)
  return jax.jit(put, donate_argnums=0, out_shardings=sharding)


def _read(tensors, place: Part, index: tuple[slice, ...]) -> np.ndarray:
  """The part `index` of a parameter of ours, of one layer; float32."""
  return tensors[place.name].part(
    index[::-1] if place.transposed else index,
    rows=place.rows,
    axis=place.axis,
    transposed=place.transposed,
  )


def to_hf(params: dict, config: DecoderConfig) -> dict[str, np.ndarray]:
  """{Hugging Face name: contiguous array, as published} of a canonical tree.

  The inverse of `read_tree`, bit for bit. Contiguous, because safetensors
  writes a transposed view in its memory order without a word.
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


def _check_tied(head: Stored, table: Stored, *, where: Any) -> None:
  """Raises UserError unless the two are equal; reads some rows at a time."""
  equal = head.shape == table.shape
  for row in range(0, table.shape[0] if equal else 0, TIED_ROWS):
    rows = slice(row, min(row + TIED_ROWS, table.shape[0]))
    part = (rows, slice(0, table.shape[1]))
    equal = equal and np.array_equal(head.part(part), table.part(part))
  if not equal:
    raise UserError(
      f"{where}: expected an unembedding equal to the embedding table, because "
      f"the config ties them, got different values; set tie_word_embeddings "
      f"to false in config.json"
    )


def _open_value_head(folder: Path) -> dict[str, Stored]:
  """The tensors of the file that LLaMA-Factory keeps a value head in."""
  single, pickled = (folder / f"value_head.{x}" for x in ("safetensors", "bin"))
  if single.is_file():
    return open_shard(single)
  if pickled.is_file():
    raise UserError(
      f"{pickled}: a pickle can run any code and is not read; save the value "
      f"head as {single.name}"
    )
  return {}
