"""What streaming costs: records to a cache of tokens and back, per record.

  python bench/stream.py --records=100000 --against=10000

Prints one JSON object: records a second and peak memory of writing (read,
encode, supervise, store) and of reading (open, grow trees), for both sizes,
and by how many bytes a record the peaks differ. Each is measured in a process
of its own. The pairs are short turns of hh-rlhf where RM_DATA points to it,
else made-up ones; the tokenizer is SmolLM2's.
"""

import argparse
import gzip
import json
import multiprocessing
import os
import pathlib
import random
import re
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor

from rm_jax.data.cache import (
  cache_key,
  open_cache,
  source_digests,
  write_cache,
)
from rm_jax.data.loader import (
  COMPARISONS,
  Reading,
  token_groups,
  with_demands,
)
from rm_jax.data.rejects import Reject
from rm_jax.data.sources import read_records
from rm_jax.data.tokenizers import load_tokenizer

READING = Reading(
  template="auto",
  read_at="end_of_turn",
  row_len=512,
  overlong="drop",
  layout="shared",
  align=1,
  pooling="last_token",
)
CHARACTERS = 120  # of a turn, so that text costs less than what is measured
TURN = "\n\nAssistant:"
SAMPLED = 2_000  # groups read at random


def pairs() -> list[tuple]:
  """(prompt, chosen, rejected): last turns of hh-rlhf, or made-up ones."""
  if os.environ.get("RM_DATA"):
    folder = pathlib.Path(os.environ["RM_DATA"]) / "hh_rlhf"
    file = sorted(folder.rglob("*.jsonl*"))[0]
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt", encoding="utf-8") as lines:
      rows = [json.loads(line) for line in lines]
    found = []
    for row in rows:
      prompt, _, chosen = row["chosen"].rpartition(TURN)
      rejected = row["rejected"].rpartition(TURN)[2]
      prompt = prompt.rpartition("Human:")[2]
      turns = [x.strip()[:CHARACTERS] for x in (prompt, chosen, rejected)]
      if all(turns) and turns[1] != turns[2]:
        found.append(tuple(turns))
    return found
  draw = random.Random(0)
  words = "red green blue one two three four apples stones rivers".split()
  return [
    tuple(" ".join(draw.choices(words, k=12)) + f" {k}" for k in range(3))
    for _ in range(1_000)
  ]


def write_source(path: pathlib.Path, count: int) -> None:
  """Writes `count` pairs; their numbers make every prompt another one."""
  known = pairs()
  with path.open("w", encoding="utf-8") as out:
    for i in range(count):
      prompt, chosen, rejected = known[i % len(known)]
      row = {
        "prompt": f"{prompt} ({i})",
        "chosen": chosen,
        "rejected": rejected,
      }
      out.write(json.dumps(row) + "\n")


def write(source: pathlib.Path, directory: pathlib.Path, key: dict) -> dict:
  """Records to the cache: counts, seconds, peak bytes."""
  tokenizer = load_tokenizer("smollm2")
  start = time.perf_counter()
  rejects, overlong, prompts = [], {}, []

  def records():
    for item in read_records(source):
      if isinstance(item, Reject):
        rejects.append(item)
      else:
        yield item

  cache = write_cache(
    directory,
    key,
    token_groups(
      records(), tokenizer, READING, COMPARISONS, rejects, overlong, prompts
    ),
    rejects=rejects,
    overlong=overlong,
    prompts=prompts,
  )
  return cache.counts | spent(start)


def read(directory: pathlib.Path, key: dict) -> dict:
  """The cache to a Dataset that a plan can be made of, and groups at random."""
  start = time.perf_counter()
  cache = open_cache(directory, key)
  data = with_demands(
    cache.groups, READING, cache.rejects, cache.overlong, cache.prompts
  )
  out = spent(start)
  draw = random.Random(0)
  ids = [draw.randrange(len(data.groups)) for _ in range(SAMPLED)]
  start = time.perf_counter()
  total = sum(len(data.groups[i].tokens[0]) for i in ids)
  seconds = time.perf_counter() - start
  return out | {
    "shared_tokens": data.tokens_shared,
    "at_random_per_s": round(SAMPLED / seconds),
    "tokens_at_random": total,
  }


def spent(start: float) -> dict:
  """Seconds since the start, and the most memory this process ever had."""
  # Not getrusage: its ru_maxrss begins with the size of the parent process.
  status = pathlib.Path("/proc/self/status").read_text()
  peak = re.search(r"VmHWM:\s*(\d+) kB", status)[1]
  return {
    "seconds": round(time.perf_counter() - start, 2),
    "peak_bytes": int(peak) * 1024,
  }


def measure(count: int, folder: pathlib.Path) -> dict:
  """Both halves for `count` records, each in a fresh process."""
  source, directory = folder / f"{count}.jsonl", folder / f"{count}.cache"
  write_source(source, count)
  tokenizer = load_tokenizer("smollm2")
  key = cache_key(
    tokenizer,
    tokenizer.chat_template,
    READING,
    COMPARISONS,
    source_digests(source),
  )
  fresh = multiprocessing.get_context("spawn")
  out = {"records": count, "source_bytes": source.stat().st_size}
  for name, half, arguments in (
    ("write", write, (source, directory, key)),
    ("read", read, (directory, key)),
  ):
    with ProcessPoolExecutor(1, mp_context=fresh) as pool:
      out[name] = pool.submit(half, *arguments).result()
    out[name]["records_per_s"] = round(count / out[name]["seconds"])
  out["cache_bytes"] = sum(f.stat().st_size for f in directory.iterdir())
  return out


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--records", type=int, default=100_000)
  parser.add_argument("--against", type=int, default=10_000)
  asked = parser.parse_args()
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch)
    small, large = (measure(n, folder) for n in (asked.against, asked.records))
  more = asked.records - asked.against
  growth = {
    half: round((large[half]["peak_bytes"] - small[half]["peak_bytes"]) / more)
    for half in ("write", "read")
  }
  print(
    json.dumps(
      {"runs": [small, large], "peak_bytes_per_record": growth}, indent=1
    )
  )


if __name__ == "__main__":
  main()
