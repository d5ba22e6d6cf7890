"""One train step compiled for a described slice, in a process of its own.

The process gives its memory back, and the environment that the TPU compiler
reads is set before jax is imported.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from typing import NamedTuple

from ml_collections import ConfigDict

from rm_jax.plan.slices import Slice, find_slice
from rm_jax.types import UserError

ENVIRONMENT = {
  "TPU_SKIP_MDS_QUERY": "1",  # no metadata server is asked
  "TPU_ACCELERATOR_TYPE": "v5litepod-16",  # any: silences a warning
  "TPU_WORKER_HOSTNAMES": "localhost",  # silences another
  "TPU_LOG_DIR": "disabled",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several may compile at one time
  "JAX_PLATFORMS": "cpu",
}
NEEDED = re.compile(r"\(([\d.]+)([GM])\) exceeds available HBM")


class Compiled(NamedTuple):
  """What the compiler and the trace say of one step, for one chip.

  Bytes and FLOPs; what is not known of a program that does not fit is None.
  """

  fits: bool
  peak: float | None  # HBM at the worst moment
  sum: float | None  # arguments, results that are not arguments, temporaries
  needed: float | None  # the compiler's estimate where it does not fit
  parts: dict  # what fills HBM: name -> bytes
  collectives: dict | None  # kind -> bytes
  kernels: int | None  # calls of Mosaic kernels in the program's text
  reused: float | None  # of the arguments, what results take the place of
  model_flops: float
  hardware_flops: float
  mesh: dict
  parameters: int
  chip_rows: int  # of a micro-batch and chip, or group of tensor chips
  micro_batches: int
  row_len: int
  seconds: float  # from import to the end of the compiler


def compile_step(
  config: ConfigDict,
  where: Slice,
  *,
  num_slices: int = 1,
  rows: int,
  geometry=None,
) -> Compiled:
  """Compiles the train step of a config for a slice.

  Args:
    num_slices: so many of them, joined by the slower network.
    rows: of a block.
    geometry: capacities of its batches; None: usual ones.

  Raises:
    UserError: the config does not make a step on this mesh, or libtpu, the
      compiler, is not installed.
  """
  if importlib.util.find_spec("libtpu") is None:
    raise UserError(
      "the TPU compiler (libtpu) is not installed: pip install -e '.[tpu]'"
    )
  job = {
    "config": config.to_dict(),
    "slice": where.name,
    "num_slices": num_slices,
    "rows": rows,
    "geometry": geometry,
  }
  done = subprocess.run(
    [sys.executable, "-m", "rm_jax.plan.child"],
    input=json.dumps(job),
    env={**os.environ, **ENVIRONMENT},
    capture_output=True,
    text=True,
  )
  if done.returncode:
    raise RuntimeError(
      f"compiling for {where.name} ended with code {done.returncode}:\n"
      f"{done.stderr[-4_000:]}"
    )
  answer = json.loads(done.stdout.splitlines()[-1])
  if "error" in answer:
    raise UserError(answer["error"])
  return Compiled(**answer)


def run_job(job: dict) -> Compiled:
  """The work of the child process: `Compiled` of a job of `compile_step`."""
  started = time.perf_counter()
  import jax

  from rm_jax.data.pack import Geometry
  from rm_jax.plan.collectives import collective_bytes
  from rm_jax.plan.memory import state_parts
  from rm_jax.plan.shapes import step_shapes
  from rm_jax.train.flops import matrix_sizes, step_flops
  from rm_jax.train.optim import merge

  # Formats of lists and tuples differ after JSON; equality of configs does not.
  config = ConfigDict(job["config"])
  where = find_slice(job["slice"])
  geometry = job["geometry"] and Geometry(*job["geometry"])
  devices = describe_devices(where, job["num_slices"])
  shapes = step_shapes(config, devices, geometry, job["rows"])
  traced = shapes.steps.trace(shapes.state, shapes.frozen, shapes.batch)
  model, hardware = step_flops(
    shapes.spec,
    matrix_sizes(shapes.spec, merge(shapes.state.params, shapes.frozen)),
    traced.jaxpr,
    rows=shapes.tokens // shapes.row_len,
    row_len=shapes.row_len,
    devices=len(devices),
  )
  chips = where.chips * job["num_slices"]
  each = len(devices) // chips  # devices of a chip
  known = dict(
    parts={k: v * each for k, v in state_parts(shapes).items()},
    model_flops=model / chips,
    hardware_flops=hardware / chips,
    mesh=dict(shapes.mesh.shape),
    parameters=sum(x.size for x in jax.tree.leaves(shapes.state.params)),
    chip_rows=shapes.chip_rows,
    micro_batches=shapes.micro_batches,
    row_len=config.data.row_len,
  )
  lowered = traced.lower(lowering_platforms=("tpu",))
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    found = NEEDED.search(str(error))
    if found is None:
      raise
    size = float(found[1]) * {"G": 2**30, "M": 2**20}[found[2]]
    return Compiled(
      fits=False,
      peak=None,
      sum=None,
      needed=size * each,
      collectives=None,
      kernels=None,
      reused=None,
      seconds=time.perf_counter() - started,
      **known,
    )
  memory, text = compiled.memory_analysis(), compiled.as_text()
  total = (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes
  )
  sent = collective_bytes(text)
  return Compiled(
    fits=True,
    peak=memory.peak_memory_in_bytes * each,
    sum=total * each,
    needed=None,
    collectives={k: v * each for k, v in sent.items()},
    kernels=text.count('custom_call_target="tpu_custom_call"'),
    reused=memory.alias_size_in_bytes * each,
    seconds=time.perf_counter() - started,
    **known,
  )


def describe_devices(where: Slice, num_slices: int = 1) -> list:
  """Devices of a slice that nobody has, for the compiler alone."""
  from jax.experimental import topologies

  options = {"num_slices": num_slices} if num_slices > 1 else {}
  if where.wrap is not None:
    options["wrap"] = where.wrap
  if where.chip.config:
    options["chip_config_name"] = where.chip.config
  if where.host is not None:
    options["chips_per_host_bounds"] = where.host
  topology = topologies.get_topology_desc(
    platform="tpu", topology_name=where.topology, **options
  )
  return list(topology.devices)
