"""What a training run would do, up to its first step."""

import jax
import numpy as np

from rm_jax.plan.data import pack_data
from rm_jax.plan.memory import STREAMS, state_parts
from rm_jax.plan.shapes import step_shapes
from rm_jax.train.log import summary

MIB = 2**20


def dry_run(config) -> str:
  """The packing plan, shapes, steps and memory of a run that is not made.

  The data is read and packed, and the largest train step is compiled for the
  devices at hand: a run that follows finds both in its caches. No weight is
  read.

  Raises:
    UserError: whatever the run itself would say up to its first step.
  """
  packed = pack_data(config)
  plan = packed.plan
  largest = max(plan.row_counts)
  shapes = step_shapes(
    config,
    jax.devices(),
    plan.geometry,
    largest,
    vocab_size=len(packed.tokenizer),
  )
  traced = shapes.steps.trace(shapes.state, shapes.frozen, shapes.batch)
  memory = traced.lower().compile().memory_analysis()
  head = summary(config, shapes.spec, packed.sets, plan, shapes.mesh, first=0)
  return "\n".join(
    [
      head,
      *_plan_lines(packed),
      *_memory_lines(shapes, memory),
      "dry run: nothing was trained",
    ]
  )


def _plan_lines(packed) -> list[str]:
  plan, g = packed.plan, packed.plan.geometry
  groups = [len(step.places) for step in plan.steps]
  counts = [
    f"{sum(s.rows == rows for s in plan.steps):,} steps of "
    f"{rows * g.blocks:,} rows"
    for rows in plan.row_counts
  ]
  return [
    f"packing plan: {', '.join(counts)}; {min(groups):,} to {max(groups):,} "
    f"groups a step (mean {np.mean(groups):,.1f}); "
    f"{packed.useful_fraction:.1%} of the tokens computed are useful",
    f"a block holds at most {g.slots} slots a row, {g.comparisons} "
    f"comparisons, {g.groups} lists of {g.group_size}, {g.completions} "
    "completions",
  ]


def _memory_lines(shapes, memory) -> list[str]:
  sizes = state_parts(shapes)
  parts = [f"{name} {size / MIB:,.1f}" for name, size in sizes.items()]
  # Arguments that the program does not read (frozen layers whose states are
  # cached) are no arguments of it, but on the device all the same.
  held = sum(size for name, size in sizes.items() if name != STREAMS)
  total = (
    max(memory.argument_size_in_bytes, held)
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes
  )
  return [
    f"memory of one device, MiB: {', '.join(parts)}; with everything that the "
    f"largest train step allocates {total / MIB:,.1f}",
  ]
