"""One plan from the command line's words to its figures.

Imports no jax: a plan that does not fit is refused in seconds, and the process
that compiles imports it anyway.
"""

import json
import pathlib

from rm_jax.config import validate
from rm_jax.plan.compile import compile_step
from rm_jax.plan.report import figures, table
from rm_jax.plan.slices import Slice, find_slice
from rm_jax.types import UserError


def plan(
  config,
  slice_name: str,
  *,
  num_slices: int,
  rows_per_chip: int | None,
  read_data: bool,
  searched: int,
  as_json: bool,
  out: str,
) -> str:
  """The plan of a config on a slice: one JSON object, or a table.

  Args:
    num_slices: so many slices.
    rows_per_chip: of a micro-batch, in place of what the config says.
    read_data: pack the config's data for its exact shapes.
    searched: compile so many meshes and settings and rank them; 0: the
      config's own.
    out: a file for the JSON object as well; "": none.

  Raises:
    UserError: an unknown slice, a config that makes no step on it, or no
      compiler.
  """
  where = find_slice(slice_name)
  if read_data and rows_per_chip is not None:
    raise UserError(
      f"--rows_per_chip={rows_per_chip} and --read_data: the data says how "
      "many rows a step takes. Leave one out."
    )
  config = config.copy_and_resolve_references()
  if not read_data and not config.data.source:
    config.data.source = "none"  # it is not read
  if rows_per_chip is not None:
    _set_rows(config, where, num_slices, rows_per_chip)
  validate(config)
  if searched:
    from rm_jax.plan.search import search

    return search(config, where, num_slices=num_slices, limit=searched)
  geometry = useful = None
  if read_data:
    from rm_jax.plan.data import pack_data

    packed = pack_data(config)
    geometry, rows = packed.plan.geometry, max(packed.plan.row_counts)
    useful = packed.useful_fraction
  else:
    rows = rows_of_block(config)
  found = compile_step(
    config, where, num_slices=num_slices, rows=rows, geometry=geometry
  )
  said = figures(found, where, num_slices=num_slices, useful_fraction=useful)
  text = json.dumps(said, indent=2)
  if out:
    pathlib.Path(out).write_text(text + "\n")
  return text if as_json else table(found, where, said)


def _set_rows(config, where: Slice, num_slices: int, rows_per_chip: int):
  """Sets blocks and rows of a batch: a block for each chip and micro-batch."""
  if rows_per_chip < 1:
    raise UserError(f"--rows_per_chip={rows_per_chip} must be 1 or more.")
  devices = where.chips * where.chip.devices * num_slices
  blocks = devices // max(config.mesh.tensor, 1) * config.train.accumulate
  config.data.blocks = max(blocks, 1)
  config.data.batch = "rows"
  config.data.rows_per_batch = config.data.blocks * rows_per_chip


def rows_of_block(config) -> int:
  """R of a config's batches, where it does not depend on the data.

  Raises:
    UserError: only the data knows.
  """
  if config.data.batch == "groups":
    raise UserError(
      "config.data.batch='groups': how many rows a step takes depends on the "
      "data. Say --rows_per_chip=N, or read the data with --read_data."
    )
  return config.data.rows_per_batch // config.data.blocks
