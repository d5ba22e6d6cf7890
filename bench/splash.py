"""What attention on TPU takes: compiled for slices, and blocks of real rows.

  python -m bench.splash compile
  RM_DATA=folder python -m bench.splash blocks

Prints what docs/tpu.md states, as tables.

compile: forward and backward of one layer of 32 query and 8 key heads of 128
(Llama-3-8B's) in bfloat16, one row a chip, compiled for four chips by libtpu
(`pip install -e '.[tpu-aot]'`): kernels in the program, and its temporary
memory a chip. Nothing runs on a TPU.

blocks: groups of K = 4 to 9 completions of LLMZoo and OpenAssistant, packed
into rows. Of the pairs of blocks, those that some token sees, counted token by
token; those the kernel computes; and those not above the diagonal, which it
would compute under the rule alone.
"""

import argparse
import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils, topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rm_jax.kernels.splash import block_of, least_align, see_codes
from rm_jax.models.attention import attend
from rm_jax.models.sharding import MESH_AXES
from rm_jax.models.sight import Forest, visible
from rm_jax.plan.compile import ENVIRONMENT
from rm_jax.types import Record

FOUR_CHIPS = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
ROW_LENS = (4_096, 8_192)
SOURCES = ("llmzoo_rankings", "oasst_trees")
MOST_ROWS = 16  # of each data set and length


def four_chips(version: str, *, data=1, fsdp=1, tensor=1) -> Mesh:
  """A mesh over four chips of a TPU version, for compiling only."""
  devices = topologies.get_topology_desc(
    platform="tpu", topology_name=FOUR_CHIPS[version]
  ).devices
  grid = mesh_utils.create_device_mesh((data, fsdp, tensor), list(devices))
  return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def compile_attention(
  mesh: Mesh,
  *,
  row_len: int,
  rows: int = 4,
  heads: int = 32,
  kv_heads: int = 8,
  size: int = 128,
  window: int = 0,
  soft_cap: float = 0.0,
) -> dict:
  """Compiles forward and backward of one layer's attention over a mesh."""
  line = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
  by_head = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, "tensor"))

  def ints():
    return jax.ShapeDtypeStruct((rows, row_len), jnp.int32, sharding=line)

  def vectors(count):
    shape = (rows, row_len, count, size)
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=by_head)

  def gradients(forest, q, k, v, g):
    sight = see_codes(forest, window=window, widest=window)

    def total(q, k, v):
      out = attend(q, k, v, sight, dtype="bfloat16", soft_cap=soft_cap)
      return (out.astype(jnp.bfloat16) * g).astype(jnp.float32).sum()

    return jax.value_and_grad(total, (0, 1, 2))(q, k, v)

  args = (
    Forest(*[ints()] * 4),
    vectors(heads),
    *[vectors(kv_heads)] * 2,
    vectors(heads),
  )
  with jax.set_mesh(mesh):
    traced = jax.jit(gradients).trace(*args)
    compiled = traced.lower(lowering_platforms=("tpu",)).compile()
  text = compiled.as_text()
  return {
    "kernels": text.count('custom_call_target="tpu_custom_call"'),
    "temp_gib": compiled.memory_analysis().temp_size_in_bytes / 2**30,
  }


def compile_line(version: str, row_len: int) -> str:
  """The line of docs/tpu.md on one row a chip."""
  made = compile_attention(four_chips(version, fsdp=4), row_len=row_len)
  return (
    f"| {version} | {row_len:,} | {made['kernels']} | {made['temp_gib']:.2f} |"
  )


def packed_rows(folder: pathlib.Path, row_len: int) -> Forest:
  """At most MOST_ROWS rows of the groups of K = 4 to 9 of a data set."""
  # Here: compiling needs neither grain nor a tokenizer.
  from rm_jax.data.loader import Reading, lay_step, tokenize_records
  from rm_jax.data.plan import make_eval_plan
  from rm_jax.data.sources import read_records
  from rm_jax.data.tokenizers import load_tokenizer

  laying = dict(row_len=row_len, align=least_align(row_len), layout="shared")
  reading = Reading(
    template="auto",
    read_at="end_of_turn",
    overlong="drop",
    pooling="last_token",
    **laying,
  )
  records = [
    record
    for record in read_records(folder)
    if isinstance(record, Record) and 4 <= len(record.completions) <= 9
  ]
  data = tokenize_records(records, load_tokenizer("smollm2"), reading, None)
  plan = make_eval_plan(data.demands, blocks=1, rows=1, **laying)
  batches = [lay_step(data, plan, n)[0] for n in range(len(plan.steps))]
  return Forest(
    *(
      np.concatenate([getattr(b, x)[0] for b in batches[:MOST_ROWS]])
      for x in Forest._fields
    )
  )


@functools.partial(jax.jit, static_argnames="block")
def _seen_by_tokens(row: Forest, *, block: int):
  """(pairs of blocks with a pair that sees, pairs of tokens) of one row."""
  pairs = visible(row, window=0)[0] & (row.group_ids[0] > 0)[:, None]
  length = len(pairs)
  grid = pairs.reshape(length // block, block, length // block, block)
  return grid.any(axis=(1, 3)), pairs.sum()


def count_blocks(rows: Forest) -> dict:
  """Blocks computed against blocks visible, over rows of one length.

  `seen` is the share of the pairs of tokens in computed blocks that see each
  other.
  """
  row_len = rows.positions.shape[1]
  block = block_of(row_len)
  blocks = row_len // block
  computed = np.asarray(
    see_codes(jax.tree.map(jnp.asarray, rows), window=0, widest=0).seen
  )
  visible_blocks = tokens = 0
  for n in range(len(computed)):
    row = jax.tree.map(lambda x, n=n: jnp.asarray(x[n : n + 1]), rows)
    seen, pairs = _seen_by_tokens(row, block=block)
    visible_blocks += int(seen.sum())
    tokens += int(pairs)
  run = int(computed.sum())
  causal = len(computed) * blocks * (blocks + 1) // 2
  return {
    "rows": len(computed),
    "groups": int(rows.group_ids.max(axis=1).sum()),
    "visible": visible_blocks,
    "computed": run,
    "rule_alone": causal,
    "seen": tokens / (run * block**2),
  }


def blocks_line(source: str, row_len: int, found: dict) -> str:
  """The line of docs/tpu.md on the rows of one data set."""
  cells = [f"{found[x]:,}" for x in ("rows", "groups", "visible", "computed")]
  cells += [f"{found['rule_alone']:,}", f"{found['seen']:.0%}"]
  return f"| {source} | {row_len:,} | {' | '.join(cells)} |"


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("what", choices=("compile", "blocks"))
  what = parser.parse_args().what
  if what == "compile":
    os.environ.update(ENVIRONMENT)
    print("| TPU | row | kernels | temporary GiB |\n|---|---|---|---|")
    for version in FOUR_CHIPS:
      for row_len in ROW_LENS:
        print(compile_line(version, row_len), flush=True)
  elif "RM_DATA" not in os.environ:
    parser.error("blocks: set RM_DATA to the folder of " + ", ".join(SOURCES))
  else:
    folder = pathlib.Path(os.environ["RM_DATA"])
    print(
      "| data | row | rows | groups | visible | computed | rule alone | seen |"
    )
    print("|---" * 8 + "|")
    for source in SOURCES:
      for row_len in ROW_LENS:
        found = count_blocks(packed_rows(folder / source, row_len))
        print(blocks_line(source, row_len, found), flush=True)


if __name__ == "__main__":
  main()
