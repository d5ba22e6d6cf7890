"""What each layout computes on real files, and what a step of it takes.

  python -m bench.layouts --repeats=3

For pairs, rankings of K completions and the step trees of PRM800K: tokens that
the padded, packed and shared layouts compute, how many of them are useful,
floating-point operations of a train step (closed form below), and seconds of
the step, the layouts in turn, of the first six layers (a round then takes
minutes). For whole files in both batch modes: computed per useful token.
Nothing but the seconds depends on the machine. Prints one JSON object, also
written to --out.

    matrices: 2 x (weights of the layers) x computed tokens, forward; twice that
              backward, once again with remat
    attention: 4 x 64 x 64 x heads x head_dim for a pair of blocks that some
               query sees, forward; 5/2 of that backward
"""

import argparse
import json
import shlex
import sys

import jax
import numpy as np

from bench import groups as data
from bench import machine, ours
from bench.step import repeat, write
from rm_jax.data.loader import lay_step, with_demands
from rm_jax.data.pack import LAYOUTS
from rm_jax.data.plan import make_plan
from rm_jax.models.sight import BLOCK, Forest, see
from rm_jax.models.sizes import SIZES

MODEL = SIZES["smollm2_135m"]
LAYERS = 6  # that are timed; tokens and operations are those of all
ROW_LEN = 2_048  # of whole files
ROW_LENS = (512, 1_024, 2_048)  # of one step
MICRO_BATCH = 1_024  # tokens, at least
STEPS = {"pairs": 16, "K=4": 4, "K=8": 4, "K=9": 1, "trees": 6}  # groups
EPOCH = 200  # steps at most that a file's fill is taken over


def layer_weights() -> int:
  """Weights of all layers' matrices."""
  each = machine.matrices(MODEL).values()
  return MODEL.layers * sum(a * b * count for a, b, count in each)


def block_pairs(batch) -> int:
  """Pairs of blocks that attention computes for one layer and head."""
  lines = (
    getattr(batch, name).reshape(-1, batch.tokens.shape[-1])
    for name in Forest._fields
  )
  sight = jax.jit(lambda f: see(f, window=0, block=BLOCK))(Forest(*lines))
  if sight.counts is None:  # rows of one block
    return len(batch.tokens.reshape(-1, batch.tokens.shape[-1]))
  return int(sight.counts.sum())


def teraflops(batch, *, remat: bool) -> dict[str, float]:
  """Floating-point operations of a train step, by the closed form above."""
  passes = 4 if remat else 3
  products = 2 * layer_weights() * batch.tokens.size * passes
  seen = 4 * BLOCK * BLOCK * MODEL.heads * MODEL.head_dim * MODEL.layers
  attention = seen * block_pairs(batch) * (3.5 + remat)
  return {
    "products": round(products / 1e12, 4),
    "attention": round(float(attention) / 1e12, 4),
  }


def setting(layout: str, groups: list) -> ours.Setting:
  """Rows of the length, of a few, that computes fewest tokens for these groups.

  Padded rows are as long as the longest completion.
  """
  longest = max(len(t) for g in groups for t in g.tokens)
  lengths = [-(-longest // BLOCK) * BLOCK]
  if layout != "padded":
    lengths = [n for n in ROW_LENS if n >= longest]
  return ours.fit(groups, layout, lengths, tokens=MICRO_BATCH)


def one_step(groups: list) -> dict[str, dict]:
  """Tokens, fill and operations of one step of these groups, by layout."""
  out = {}
  for layout in LAYOUTS:
    how = setting(layout, groups)
    work = ours.lay_groups(groups, how)
    counts = work.counts
    out[layout] = {
      "row_len": how.row_len,
      "rows": int(np.prod(work.batch.tokens.shape[:2])),
      "useful_tokens": counts["useful_tokens"],
      "computed_tokens": counts["computed_tokens"],
      "teraflops": teraflops(work.batch, remat=how.remat),
    }
  return out


def epoch(groups: list, *, layout: str, batch: str) -> dict:
  """Useful and computed tokens of a file's steps, as a run would lay them."""
  how = data.reading(layout, ROW_LEN)
  dataset = with_demands(groups, how, [], {}, [])
  size = min(64, len(groups))
  rows = {"padded": 64, "packed": 16, "shared": 16}[layout]
  per_step = size
  if batch == "rows":
    columns = sum(p.columns(1) for d in dataset.demands for p in d.pieces)
    per_step = max(1, int(len(groups) * rows * ROW_LEN / columns))
  plan = make_plan(
    dataset.demands,
    num_steps=min(EPOCH, max(1, len(groups) // per_step)),
    batch=batch,
    groups_per_batch=size,
    rows_per_batch=rows,
    blocks=4,
    row_len=ROW_LEN,
    layout=layout,
    align=1,
    seed=0,
    shuffle=True,
  )
  useful = computed = placed = 0
  for step in range(len(plan.steps)):
    counts = lay_step(dataset, plan, step)[2]
    useful += counts["useful_tokens"]
    computed += counts["computed_tokens"]
    placed += counts["groups"]
  return {
    "steps": len(plan.steps),
    "row_counts": list(plan.row_counts),
    "groups": placed,
    "useful_tokens": useful,
    "computed_tokens": computed,
  }


def file_tokens(groups: list) -> dict[str, int]:
  """Tokens of all groups of a file: padded by the 16, alone, shared."""
  order = np.random.default_rng(0).permutation(len(groups))
  steps = [
    [groups[i] for i in order[at : at + 16]] for at in range(0, len(order), 16)
  ]
  return {
    "groups": len(groups),
    "padded": sum(map(data.padded_tokens, steps)),
    "unshared": sum(len(t) for g in groups for t in g.tokens),
    "shared": sum(map(data.shared_tokens, groups)),
  }


def measure(asked) -> dict:
  """Every kind of group in every layout."""
  words = [w for w in sys.argv[1:] if not w.startswith("--out")]
  command = shlex.join(["python", "-m", "bench.layouts", *words])
  result = machine.facts(command) | {
    "row_len": ROW_LEN,
    "layers": LAYERS,
    "kinds": {},
  }
  kinds = {"pairs": data.pairs(1_024)}
  for k in data.RANKINGS:
    kinds[f"K={k}"] = data.rankings(k, ROW_LEN)
  kinds["trees"] = data.prm800k(ROW_LEN)
  if asked.repeats:
    spec, params = ours.load_model(LAYERS)
    held = ours.hold(params)
  variants = {}
  for name, (source, groups) in kinds.items():
    if not groups:
      continue
    step = data.typical_step(groups, STEPS[name], seed=0)
    entry = {
      "source": source,
      "file": file_tokens(groups),
      "step": {"groups": len(step)} | one_step(step),
    }
    if name == "trees":
      entry["file"]["prefixes"] = sum(map(data.prefix_tokens, groups))
    if name == "pairs":
      entry["epoch"] = {
        mode: {
          layout: epoch(groups, layout=layout, batch=mode)
          for layout in ("packed", "shared")
        }
        for mode in ("groups", "rows")
      }
    result["kinds"][name] = entry
    if not asked.repeats or name == "trees":
      continue
    for layout in LAYOUTS:
      how = setting(layout, step)
      run = ours.start(spec, held, step, how)
      run.step()  # compiles
      variants[f"{name} {layout}"] = (
        how._asdict() | run.work.counts,
        lambda run=run: {"step": machine.timed(run.step)[1]},
      )
  return repeat(asked, result, variants)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--repeats", type=int, default=0, help="0: no seconds")
  parser.add_argument("--out", default="")
  asked = parser.parse_args()
  result = measure(asked)
  write(asked.out, result)
  print(json.dumps(result, indent=1))


if __name__ == "__main__":
  main()
