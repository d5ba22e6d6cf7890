"""How a step's time grows: with its useful tokens, and with the row length.

  python -m bench.scaling --out=bench/results/scaling.json

The same model, loss and optimizer as bench/step.py, float32, pairs in the
shared layout; micro-batches of one block of rows; the first six layers, so that
a round takes minutes (layers are alike). First more and more pairs at rows of
1,024; then the same pairs in rows of 512 to 4,096. The steps of a round come in
turn. Prints one JSON object, also written to --out after every round.
"""

import argparse
import json
import shlex
import sys

import numpy as np

from bench import groups as data
from bench import machine, ours
from bench.step import repeat, write

ROW_LEN = 1_024
ROW_LENS = (512, 1_024, 2_048, 4_096)
MICRO_BATCH = 2_048  # tokens
LAYERS = 6
LONGEST = 256  # of a completion with its prompt: any row takes the tree whole


def take(groups: list, tokens: int) -> list:
  """Groups in a fixed random order, as many as have `tokens` together."""
  out, room = [], tokens
  for n in np.random.default_rng(0).permutation(len(groups)):
    size = data.shared_tokens(groups[n])
    if size <= room:
      out.append(groups[n])
      room -= size
  return out


def measure(asked) -> dict:
  """Both series; one run for each point."""
  words = [w for w in sys.argv[1:] if not w.startswith("--out")]
  command = shlex.join(["python", "-m", "bench.scaling", *words])
  source, groups = data.pairs(LONGEST)
  spec, params = ours.load_model(LAYERS)
  held = ours.hold(params)
  result = machine.facts(command) | {"source": source, "layers": LAYERS}
  points = [("tokens", int(n), ROW_LEN) for n in asked.tokens.split(",")] + [
    ("row_len", asked.at, n) for n in ROW_LENS
  ]
  variants = {}
  for series, tokens, row_len in points:
    # What rows have room for, so that a step is as full as a run's are.
    room = 0.95 * max(tokens, MICRO_BATCH, row_len)
    these = take(groups, int(room))
    rows = max(1, MICRO_BATCH // row_len)
    how = ours.Setting("shared", row_len, rows, "float32", asked.remat)
    run = ours.start(spec, held, these, how)
    variants[f"{series} {tokens} {row_len}"] = (
      how._asdict() | run.work.counts | {"series": series},
      lambda run=run: {"step": machine.timed(run.step)[1]},
    )
    run.step()  # compiles
  return repeat(asked, result, variants)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--tokens", default="2048,4096,8192,16384,32768")
  parser.add_argument("--at", type=int, default=4_096, help="of row lengths")
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--remat", action="store_true")
  parser.add_argument("--out", default="")
  asked = parser.parse_args()
  result = measure(asked)
  write(asked.out, result)
  print(json.dumps(result, indent=1))


if __name__ == "__main__":
  main()
