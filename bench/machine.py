"""The machine a number was measured on, and how fast it multiplies."""

import os
import pathlib
import platform
import re
import time
from importlib import metadata
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rm_jax.config import has_bfloat16
from rm_jax.models.dots import dot
from rm_jax.models.transformer import DecoderConfig
from rm_jax.train.results import commit

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
TOKENS = 2_048  # of the products that are timed
REPEATS = 5


class Spent(NamedTuple):
  """What a piece of work took."""

  wall_s: float
  cpu_s: float  # of all threads of this process: other work hardly moves it


def timed(run, *args):
  """(what `run` returns, once it is there, Spent)."""
  wall, cpu = time.perf_counter(), time.process_time()
  out = jax.block_until_ready(run(*args))
  return out, Spent(time.perf_counter() - wall, time.process_time() - cpu)


def processor() -> str:
  """The processor's name, as the system has it."""
  try:
    text = pathlib.Path("/proc/cpuinfo").read_text()
  except OSError:
    return platform.processor() or platform.machine()
  found = re.search(r"model name\s*: (.+)", text)
  return found[1] if found else platform.machine()


def facts(command: str) -> dict:
  """What stands beside every measured number."""
  return {
    "command": command,
    "commit": commit(),
    "processor": processor(),
    "cores": os.cpu_count(),
    "bfloat16_hardware": has_bfloat16(),
    "versions": {"python": platform.python_version()}
    | {name: metadata.version(name) for name in PACKAGES},
    "load_average": [round(x, 1) for x in os.getloadavg()],
  }


def matrices(c: DecoderConfig) -> dict[str, tuple[int, int, int]]:
  """{name: (inputs, outputs, how many a layer)} of a layer's products."""
  heads, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
  return {
    "q, o": (c.width, heads, 2),
    "k, v": (c.width, kv, 2),
    "gate, up": (c.width, c.mlp_width, 2),
    "down": (c.mlp_width, c.width, 1),
  }


def product_rates(c: DecoderConfig, dtype: str) -> dict:
  """GFLOP/s of the three products of each of a layer's matrices.

  `all` is the rate of a whole layer's products, each at its own rate: what a
  step would reach that did nothing else.
  """
  specs = {
    "forward": "bti,io->bto",
    "input_gradient": "bto,io->bti",
    "weight_gradient": "bti,bto->io",
  }
  rows, work, seconds = {}, 0.0, 0.0
  for name, (inputs, outputs, count) in matrices(c).items():
    x = jnp.ones((1, TOKENS, inputs))
    y = jnp.ones((1, TOKENS, outputs))
    w = jnp.ones((inputs, outputs))
    operands = {
      "forward": (x, w),
      "input_gradient": (y, w),
      "weight_gradient": (x, y),
    }
    flops = 2 * TOKENS * inputs * outputs
    rows[name] = {}
    for kind, spec in specs.items():
      run = jax.jit(lambda a, b, spec=spec: dot(spec, a, b, dtype=dtype))
      timed(run, *operands[kind])
      took = [timed(run, *operands[kind])[1].wall_s for _ in range(REPEATS)]
      rows[name][kind] = round(flops / min(took) / 1e9)
      work += count * flops
      seconds += count * min(took)
  return {"dtype": dtype, "tokens": TOKENS, "products": rows} | {
    "all": round(work / seconds / 1e9)
  }
