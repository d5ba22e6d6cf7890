"""Slices of checkpoints: right, no more than asked for, in little memory."""

import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from rm_jax.models import stored
from rm_jax.models.convert import open_pretrained, place_tree, read_tree
from rm_jax.models.sharding import make_mesh, shard_tree
from rm_jax.models.stored import in_memory
from rm_jax.reward_model import HeadSpec, ModelSpec, abstract_params
from rm_jax.train.optim import join_layers

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "tests/golden/families"


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("chunk", [1, 60, 1 << 20])
def test_parts_are_what_numpy_cuts(axis, chunk, monkeypatch):
  # Catches a chunk that is lost or laid down twice, runs of rows in the wrong
  # order, an index that counts rows of the source instead of chosen ones.
  monkeypatch.setattr(stored, "CHUNK_BYTES", chunk)
  array = np.random.default_rng(0).normal(size=(12, 10)).astype(np.float16)
  tensor = in_memory("x", array, where="test")
  index = slice(2, 7), slice(1, 6)
  np.testing.assert_array_equal(tensor.part(index), array[index])
  rows = np.array([8, 9, 3, 4, 5, 0, 2])
  chosen = array.take(rows, axis=axis)
  how = dict(rows=rows, axis=axis)
  np.testing.assert_array_equal(tensor.part(index, **how), chosen[index])
  turned = tensor.part(index, **how, transposed=True)
  np.testing.assert_array_equal(turned, chosen[index].T)
  assert turned.flags["C_CONTIGUOUS"]
  assert tensor().dtype == np.float32
  np.testing.assert_array_equal(tensor(), array)


def place(opened, *, segments, **mesh):
  head = HeadSpec("scalar", "zeros", "last_token")
  spec = ModelSpec(opened.config, head, "float32", False, segments)
  shards = shard_tree(abstract_params(spec), make_mesh(**mesh))["backbone"]
  return place_tree(
    opened.tensors, opened.config, segments=segments, shards=shards
  )


@pytest.mark.parametrize("name", ["gpt2", "pythia", "gemma3", "internlm2"])
def test_placed_on_a_mesh_is_what_numpy_reads(name):
  # Catches slices of [out, in] taken as [in, out], fused rows of another shard,
  # a layer that lands in another place or stack.
  opened = open_pretrained(FOLDER / name)
  want = read_tree(opened.tensors, opened.config)
  got = place(opened, segments=(1, 2), data=2, fsdp=2, tensor=2)
  kernel = got["layers_1"]["mlp"]["up"]["kernel"]
  assert {s.data.shape for s in kernel.addressable_shards} == {(2, 16, 20)}
  joined = join_layers(got)
  assert jax.tree.structure(joined) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(joined), jax.tree.leaves(want), strict=True):
    np.testing.assert_array_equal(a, b)


def counted(opened, counts):
  """The same tensors; what is read of each is counted, by elements."""

  def watch(tensor):
    def read(indexes):
      for index, part in zip(indexes, tensor.read(indexes), strict=True):
        assert part.shape == tuple(i.stop - i.start for i in index)
        counts.setdefault(tensor.name, []).append(part.size)
        yield part

    return dataclasses.replace(tensor, read=read)

  tensors = {name: watch(x) for name, x in opened.tensors.items()}
  return opened._replace(tensors=tensors)


def test_a_slice_is_read_once_and_no_more_than_it():
  # Catches a whole tensor read for every shard, and copies over the data axis
  # read one by one.
  counts = {}
  opened = open_pretrained(FOLDER / "llama")
  place(counted(opened, counts), segments=(3,), data=2, fsdp=2, tensor=2)
  assert set(counts) == set(opened.tensors)
  for name, sizes in counts.items():
    size = np.prod(opened.tensors[name].shape)
    assert sum(sizes) == size, name
    if len(opened.tensors[name].shape) == 2:
      assert set(sizes) == {size // 4}, name


TWO = """
import json, sys
import jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from tests.models.test_stored import FOLDER, counted, place
from rm_jax.models.convert import open_pretrained
counts = {}
opened = open_pretrained(FOLDER / "pythia")
params = place(counted(opened, counts), segments=(3,), data=1, fsdp=2, tensor=1)
kernel = params["layers_0"]["attn"]["q"]["kernel"]
shapes = [x.data.shape for x in kernel.addressable_shards]
total = {k: sum(v) for k, v in counts.items()}
print("RESULT", json.dumps([shapes, total]))
"""


def test_each_of_two_processes_reads_its_half():
  # The real thing: two processes of one device each, over one file.
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  env = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(ROOT),
    "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
  }
  started = [
    subprocess.Popen(
      [sys.executable, "-c", TWO, address, str(n)],
      cwd=ROOT,
      env=env,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for n in range(2)
  ]
  sizes = {
    k: t.shape for k, t in open_pretrained(FOLDER / "pythia").tensors.items()
  }
  for process in started:
    out, err = process.communicate(timeout=240)
    line = [x for x in out.splitlines() if x.startswith("RESULT ")]
    assert line, err
    shapes, total = json.loads(line[0].removeprefix("RESULT "))
    assert shapes == [[3, 16, 32]]
    for name, shape in sizes.items():
      # Norms and biases lie on every device.
      share = 2 if len(shape) == 2 else 1
      assert total[name] == np.prod(shape) // share, name


MEMORY = """
import json, re, sys
import jax, numpy as np
from rm_jax.models.convert import open_pretrained, place_pretrained
from tests.models.test_stored import FOLDER, place

def status(key):
  text = open("/proc/self/status").read()
  return 1024 * int(re.search(key + r":\\s+(\\d+) kB", text)[1])

def load(source):
  if sys.argv[2] == "scoring":
    return place_pretrained(source).params
  opened = open_pretrained(source)
  mesh = dict(data=1, fsdp=1, tensor=1)
  return place(opened, segments=(opened.config.layers,), **mesh)

load(FOLDER / "llama")  # what compiling needs is not the checkpoint's
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak starts here
params = load(sys.argv[1])
peak = status("VmHWM")
jax.block_until_ready(params)
total = sum(x.nbytes for x in jax.tree.leaves(params))
print("RESULT", json.dumps([before, peak, total]))
"""


def write_large(folder):
  """A model whose layers are large beside what compiling needs; its layer's
  bytes in float32.
  """
  from tests.models import fixtures

  layers, width, mlp, vocab = 6, 1024, 4096, 2048
  raw = fixtures.CONFIG | {
    "hidden_size": width,
    "intermediate_size": mlp,
    "num_hidden_layers": layers,
    "vocab_size": vocab,
    "tie_word_embeddings": True,
    "head_dim": 128,
  }
  shapes = {"model.embed_tokens.weight": (vocab, width)}
  for n in range(layers):
    shapes |= {
      f"model.layers.{n}.{name}.weight": shape
      for name, shape in {
        "input_layernorm": (width,),
        "self_attn.q_proj": (512, width),
        "self_attn.k_proj": (256, width),
        "self_attn.v_proj": (256, width),
        "self_attn.o_proj": (width, 512),
        "post_attention_layernorm": (width,),
        "mlp.gate_proj": (mlp, width),
        "mlp.up_proj": (mlp, width),
        "mlp.down_proj": (width, mlp),
      }.items()
    }
  shapes["model.norm.weight"] = (width,)
  tensors = {k: np.full(s, 0.5, np.float32) for k, s in shapes.items()}
  layer = 4 * sum(
    int(np.prod(s)) for k, s in shapes.items() if ".layers.0." in k
  )
  fixtures.write_folder(folder, raw, tensors, dtype="bfloat16", shards=2)
  return layer


@pytest.mark.parametrize("what", ["training", "scoring"])
def test_loading_needs_little_memory_beside_the_model(what, tmp_path):
  # Catches a checkpoint that is read whole, or a stack of layers that is built
  # on the host and copied.
  layer = write_large(tmp_path / "model")
  env = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(ROOT),
    "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
  }
  done = subprocess.run(
    [sys.executable, "-c", MEMORY, str(tmp_path / "model"), what],
    cwd=ROOT,
    env=env,
    capture_output=True,
    text=True,
    timeout=240,
  )
  line = [x for x in done.stdout.splitlines() if x.startswith("RESULT ")]
  assert line, done.stderr
  before, peak, total = json.loads(line[0].removeprefix("RESULT "))
  assert total > 6 * layer
  over = peak - before - total
  assert over <= 2 * layer, (over, layer, total)
