"""What attention costs: by blocks that some query sees, and over every pair.

  python bench/attention.py
  python bench/attention.py --row_lens=512,4096 --blocks=64,128 --dtype=bfloat16

One layer of SmolLM2's heads over rows packed with groups of the embedded text
world (K=8 completions that share a prompt), about 4,096 tokens whatever the
length of a row; forward, and forward with backward. Prints one JSON object:
for each row length the pairs of blocks computed of all there are, milliseconds
(each repeat, after one to warm up) for each size of block and, up to 2,048
tokens, for every pair computed; beside it the products of the layer's
matrices, which every layout pays. Other work on the machine makes all of it
slower: the load average is in the output.
"""

import argparse
import json
import os
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

import rm_jax
from rm_jax.config import has_bfloat16
from rm_jax.data.loader import Reading, lay_step, tokenize_records
from rm_jax.data.plan import make_eval_plan
from rm_jax.data.sources import read_records
from rm_jax.data.tokenizers import load_tokenizer
from rm_jax.models.attention import attend
from rm_jax.models.dots import dot
from rm_jax.models.sight import EVERYTHING, Forest, Sight, see, visible
from rm_jax.models.sizes import SIZES

DATA = pathlib.Path(rm_jax.__file__).parent / "data" / "text_world"
TOKENS = 4_096
LONGEST_DENSE = 2_048
REPEATS = 3


def groups(row_len: int) -> Forest:
  """Rows of `row_len`, TOKENS in all, packed with groups of the text world."""
  reading = Reading(
    template="auto",
    read_at="end_of_turn",
    row_len=row_len,
    overlong="drop",
    layout="shared",
    align=1,
    pooling="last_token",
  )
  records = list(read_records(DATA / "test.jsonl"))
  data = tokenize_records(records, load_tokenizer("smollm2"), reading, None)
  rows = TOKENS // row_len
  plan = make_eval_plan(
    data.demands, blocks=1, rows=rows, row_len=row_len, layout="shared", align=1
  )
  batch, _, _ = lay_step(data, plan, 0)
  return Forest(*(jnp.asarray(getattr(batch, x)[0]) for x in Forest._fields))


def repeated(run, *args) -> list[float]:
  """Milliseconds of every repeat, after one to warm up."""
  times = []
  for _ in range(REPEATS + 1):
    start = time.perf_counter()
    jax.block_until_ready(run(*args))
    times.append(round((time.perf_counter() - start) * 1e3, 1))
  return times[1:]


def measure(forest: Forest, sight: Sight, dtype: str) -> dict:
  """Milliseconds of one layer's attention."""
  c = SIZES["smollm2_135m"]
  rng = np.random.default_rng(0)
  line = forest.positions.shape
  q, g = rng.normal(size=(2, *line, c.heads, c.head_dim)).astype(np.float32)
  k, v = rng.normal(size=(2, *line, c.kv_heads, c.head_dim)).astype(np.float32)

  def total(q, k, v, sight):
    return (attend(q, k, v, sight, dtype=dtype) * g).sum()

  args = (q, k, v, sight)
  return {
    "forward_ms": repeated(jax.jit(total), *args),
    "with_backward_ms": repeated(jax.jit(jax.grad(total, (0, 1, 2))), *args),
  }


def matrices(dtype: str) -> dict:
  """Milliseconds of the products of one layer for TOKENS tokens, forward."""
  c = SIZES["smollm2_135m"]
  shapes = [
    (c.width, (c.heads + 2 * c.kv_heads) * c.head_dim),
    (c.heads * c.head_dim, c.width),
    (c.width, 2 * c.mlp_width),
    (c.mlp_width, c.width),
  ]
  weights = [jnp.ones(shape) for shape in shapes]
  inputs = [jnp.ones((1, TOKENS, shape[0])) for shape in shapes]

  @jax.jit
  def run(inputs, weights):
    return [
      dot("bti,io->bto", x, w, dtype=dtype)
      for x, w in zip(inputs, weights, strict=True)
    ]

  times = repeated(run, inputs, weights)
  products = 2 * TOKENS * sum(a * b for a, b in shapes)
  return {"forward_ms": times, "gflops": round(products / min(times) / 1e6)}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--row_lens", default="512,1024,2048,4096")
  parser.add_argument("--blocks", default="64,128,256")
  parser.add_argument("--dtype", default="float32")
  asked = parser.parse_args()
  out = []
  for row_len in map(int, asked.row_lens.split(",")):
    forest = groups(row_len)
    entry = {
      "row_len": row_len,
      "rows": len(forest.positions),
      "useful_tokens": int((forest.group_ids > 0).sum()),
      "blocks": {},
    }
    for block in map(int, asked.blocks.split(",")):
      sight = see(forest, window=0, block=block)
      entry["blocks"][block] = {
        "computed": int(sight.counts.sum()),
        "all": int(np.prod(sight.order.shape)),
      } | measure(forest, sight, asked.dtype)
    if row_len <= LONGEST_DENSE:
      mask = visible(forest, window=0)
      dense = Sight(forest, jnp.int32(EVERYTHING), mask, None, None)
      entry["every_pair"] = measure(forest, dense, asked.dtype)
    out.append(entry)
  print(
    json.dumps(
      {
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "bfloat16_hardware": has_bfloat16(),
        "dtype": asked.dtype,
        "load_average": [round(x, 1) for x in os.getloadavg()],
        "tokens": TOKENS,
        "matrices": matrices(asked.dtype),
        "rows": out,
      },
      indent=1,
    )
  )


if __name__ == "__main__":
  main()
