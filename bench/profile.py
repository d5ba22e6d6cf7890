"""Where a step's time goes, beside what the processor could reach.

  python -m bench.profile --out=bench/results/profile.json

The gradient of the step of `bench.step pairs`, traced by jax's profiler; every
operation XLA ran is put down to the part of the model that its name in the
compiled program tells. The optimizer is timed alone. Beside it: GFLOP/s of the
products of a layer's matrices alone, in both dtypes, and which share of the
faster one the step reaches. Prints one JSON object, also written to --out.
"""

import argparse
import collections
import json
import pathlib
import re
import shlex
import sys
import tempfile

import jax
from jax.profiler import ProfileData

from bench import groups as data
from bench import layouts, machine, ours
from bench.step import LONGEST, PAIRS, ROW_LEN, ROWS, write

NAMES = re.compile(
  r'^\s*(?:ROOT )?%?([\w.\-]+) = .*?op_name="([^"]*)"', re.MULTILINE
)
# A thunk that runs others; their time is counted there.
CONTAINERS = ("while", "call", "conditional")
# The first pattern that an operation's name in the model matches is its part.
PARTS = (
  ("matrices of the MLP", r"/mlp/(gate|up|down)/"),
  ("matrices of attention", r"/attn/[qkvo]/"),
  ("attention between tokens", r"/attn/"),
  ("activation", r"/mlp/"),
  ("norms", r"norm/"),
  ("embedding, pooling, head, loss", r"/embed/|gather|scatter|head|loss"),
)
OTHER = "stacks, sums of gradients, the rest"


def part_of(name: str) -> str:
  """The part of the model that an operation belongs to, by its name."""
  for part, pattern in PARTS:
    if re.search(pattern, name):
      return part
  return OTHER


def pass_of(name: str) -> str:
  """forward, again (a rematerialised forward) or backward."""
  if "rematted_computation" in name:
    return "again"
  return "backward" if "transpose(jvp" in name else "forward"


def trace(compiled, arguments) -> dict[str, float]:
  """{operation of the compiled program: seconds}, containers left out."""
  known = dict(NAMES.findall(compiled.as_text()))
  with tempfile.TemporaryDirectory() as scratch:
    with jax.profiler.trace(scratch):
      jax.block_until_ready(compiled(*arguments))
    (path,) = pathlib.Path(scratch).rglob("*.xplane.pb")
    planes = ProfileData.from_file(str(path)).planes
    spent = collections.Counter()
    for plane in planes:
      for line in plane.lines:
        for event in line.events:
          if event.name in known and not event.name.startswith(CONTAINERS):
            spent[event.name] += event.duration_ns / 1e9
  return {f"{known[name]} {name}": took for name, took in spent.items()}


def by_part(spent: dict[str, float]) -> dict[str, dict[str, float]]:
  """{part: {pass: seconds}}, the largest part first."""
  table = collections.defaultdict(collections.Counter)
  for name, took in spent.items():
    table[part_of(name)][pass_of(name)] += took
  order = sorted(table, key=lambda part: -sum(table[part].values()))
  return {
    part: {kind: round(took, 3) for kind, took in table[part].items()}
    for part in order
  }


def measure(asked) -> dict:
  """The profile of one gradient, the optimizer, and the limit."""
  words = [w for w in sys.argv[1:] if not w.startswith("--out")]
  command = shlex.join(["python", "-m", "bench.profile", *words])
  source, found = data.pairs(LONGEST)
  groups = data.typical_step(found, asked.groups or PAIRS, seed=0)
  spec, params = ours.load_model()
  held = ours.hold(params)
  how = ours.Setting(
    "shared", ROW_LEN, ROWS, asked.dtype, asked.remat, asked.unrolled
  )
  run = ours.start(spec, held, groups, how)
  compiled, arguments = run.compiled()
  machine.timed(compiled, *arguments)  # to warm up
  _, gradient = machine.timed(compiled, *arguments)
  traced = by_part(trace(compiled, arguments))
  # Last: it takes the parameters that the gradient was called with.
  run.parts["optimizer"]()
  _, optimizer = machine.timed(run.parts["optimizer"])
  rates = [
    machine.product_rates(spec.decoder, dtype)
    for dtype in ("float32", "bfloat16")
  ]
  work = layouts.teraflops(run.work.batch, remat=asked.remat)
  return (
    machine.facts(command)
    | {"source": source, "setting": how._asdict()}
    | run.work.counts
    | {
      "gradient": gradient,
      "optimizer": optimizer,
      "traced": traced,
      "teraflops": work,
      "limit": rates,
    }
  )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--groups", type=int, default=0, help="0: as documented")
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--remat", action="store_true")
  parser.add_argument("--unrolled", type=int, default=2)
  parser.add_argument("--out", default="")
  asked = parser.parse_args()
  result = measure(asked)
  write(asked.out, result)
  print(json.dumps(result, indent=1))


if __name__ == "__main__":
  main()
