"""Writes the text world: prompts, sampled completions, gold and labels.

  python -m rm_jax.data.text_world.make --out=FOLDER    makes it, an hour
  python -m rm_jax.data.text_world.make --check         the table of the card

`FOLDER/sampled.jsonl` grows by a family at a time; call again after a break and
what lies there is not sampled again. Everything after sampling is a function of
that text: gold, split and labels are the same on every machine. The sampled
text is not: another CPU rounds a logit otherwise and one token differs, then
all that follow it. So the committed files are the truth, and what is made anew
agrees with them in its statistics.
"""

import argparse
import gzip
import hashlib
import io
import itertools
import json
import pathlib
import zlib

import numpy as np

from rm_jax.data.text_world import labellers
from rm_jax.data.text_world.gold import gold_rewards

FOLDER = pathlib.Path(__file__).parent
SEED = 20_261_122
SPLITS = ("train", "test")
HELD_OUT = 5  # prompts of each family
PAIRS = 4  # of each prompt
RATER = labellers.ANNOTATORS[0]  # of `ratings` and `ranks`


def split_of(prompts: list[dict]) -> dict[str, str]:
  """{id: "train" or "test"}: of each family HELD_OUT prompts are held out.

  Those whose text has the smallest SHA-256: no seed, and a prompt that is
  added moves one other prompt at most.
  """
  sides = {}
  for _, members in itertools.groupby(prompts, lambda row: row["family"]):
    order = sorted(
      members,
      key=lambda row: hashlib.sha256(row["prompt"].encode("utf-8")).digest(),
    )
    for place, row in enumerate(order):
      sides[row["id"]] = "test" if place < HELD_OUT else "train"
  return sides


def group_line(sampled: dict, side: str) -> dict:
  """One line of train.jsonl or test.jsonl, from a line of sampled.jsonl."""
  prompt, completions = sampled["prompt"], sampled["completions"]
  gold = gold_rewards(completions, prompt).tolist()
  rng = generator(sampled["id"], "group")
  return {
    "id": sampled["id"],
    "family": sampled["family"],
    "split": side,
    "prompt": prompt,
    "completions": completions,
    "tokens": sampled["tokens"],
    "drawn": len(completions) + sum(sampled["dropped"].values()),
    "gold": gold,
    "ratings": labellers.annotated_ratings(rng, gold, RATER).tolist(),
    "ranks": labellers.ranking(
      rng, gold, temperature=RATER.temperature
    ).tolist(),
  }


def pair_lines(line: dict) -> list[dict]:
  """PAIRS different pairs of a line, each as one annotator judged it.

  A tie has no strength, and its sides are in the order they were drawn.
  """
  rng = generator(line["id"], "pairs")
  every = list(itertools.combinations(range(len(line["gold"])), 2))
  lines = []
  for choice in np.argsort(rng.random(len(every)), kind="stable")[:PAIRS]:
    first, second = every[choice][:: 1 if rng.random() < 0.5 else -1]
    who = labellers.ANNOTATORS[int(rng.random() * len(labellers.ANNOTATORS))]
    gold = np.array([line["gold"][first], line["gold"][second]])
    verdict = int(labellers.annotated_verdicts(rng, gold[0] - gold[1], who))
    rated = labellers.annotated_ratings(rng, gold, who).tolist()
    turn = -1 if verdict < 0 else 1
    chosen, rejected = (first, second)[::turn]
    ratings, golds = rated[::turn], gold[::turn].tolist()
    row = {
      "id": f"{line['id']}-{first}{second}",
      "prompt": line["prompt"],
      "chosen": line["completions"][chosen],
      "rejected": line["completions"][rejected],
      "chosen_rating": ratings[0],
      "rejected_rating": ratings[1],
      "gold": golds,
      "annotator": who.name,
    }
    lines.append(row | judged(verdict))
  return lines


def comparison_line(line: dict, pairs: list[dict], *, every: bool) -> dict:
  """A prompt with all that was said of its pairs: one tree, each text once.

  Args:
    pairs: of `pair_lines`; their annotators and ratings are left out.
    every: also the completions that no pair holds.
  """
  texts = line["completions"]
  sides = [
    [texts.index(p[key]) for key in ("chosen", "rejected")] for p in pairs
  ]
  kept = [k for k in range(len(texts)) if every or any(k in s for s in sides)]
  said = []
  for pair, (chosen, rejected) in zip(pairs, sides, strict=True):
    entry = [kept.index(chosen), kept.index(rejected)]
    said.append(entry + ([0.5] if "tie" in pair else [1, pair["strength"]]))
  return {
    "id": line["id"],
    "family": line["family"],
    "prompt": line["prompt"],
    "completions": [texts[k] for k in kept],
    "comparisons": said,
    "gold": [line["gold"][k] for k in kept],
  }


def judged(verdict: int) -> dict:
  """The fields that tell a verdict: its strength, or that it is a tie."""
  return {"strength": abs(verdict) - 1} if verdict else {"tie": True}


def generator(name: str, purpose: str) -> np.random.Generator:
  """Random numbers of one prompt: those of another do not depend on them."""
  return np.random.default_rng(
    [SEED, zlib.crc32(f"{purpose} {name}".encode("ascii"))]
  )


def read_lines(path: pathlib.Path) -> list[dict]:
  """The objects of a .jsonl or .jsonl.gz file."""
  data = path.read_bytes()
  data = gzip.decompress(data) if path.suffix == ".gz" else data
  return [json.loads(line) for line in data.decode("utf-8").splitlines()]


def write_lines(path: pathlib.Path, lines: list[dict]) -> None:
  """Writes a .jsonl or .jsonl.gz file without a date, ASCII only.

  ASCII: sampled text holds characters that some readers take for a line end.
  """
  data = "".join(json.dumps(line) + "\n" for line in lines).encode("ascii")
  if path.suffix == ".gz":
    stream = io.BytesIO()
    with gzip.GzipFile("", "wb", 9, stream, mtime=0) as file:
      file.write(data)
    data = stream.getvalue()
  part = path.with_name(f"{path.name}.part")
  part.write_bytes(data)
  part.replace(path)  # a break leaves the old file or the new one, whole


def sample_all(prompts: list[dict], path: pathlib.Path) -> list[dict]:
  """The lines of sampled.jsonl, after sampling the families it lacks."""
  from rm_jax.data.text_world.sampling import sample_completions

  families = itertools.groupby(prompts, lambda row: row["family"])
  for number, (family, members) in enumerate(families):
    done = read_lines(path) if path.exists() else []
    if any(row["family"] == family for row in done):
      continue
    members = list(members)
    found = sample_completions(
      [row["prompt"] for row in members], seed=SEED + 100 * number
    )
    new = [
      row | sampled._asdict()
      for row, sampled in zip(members, found, strict=True)
    ]
    write_lines(path, done + new)
  return read_lines(path)


def build(sampled: list[dict]) -> dict[str, list[dict]]:
  """{name of file: its lines}, from the lines of sampled.jsonl."""
  sides = split_of(sampled)
  files: dict[str, list[dict]] = {}
  for side in SPLITS:
    groups = [
      group_line(row, side) for row in sampled if sides[row["id"]] == side
    ]
    files[f"{side}.jsonl"] = groups
    pairs = [pair_lines(line) for line in groups]
    files[f"{side}_pairs.jsonl.gz"] = [row for rows in pairs for row in rows]
    # All texts where models are measured: the best of eight needs eight.
    files[f"{side}_comparisons.jsonl.gz"] = [
      comparison_line(line, rows, every=side == "test")
      for line, rows in zip(groups, pairs, strict=True)
    ]
  return files


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument("--out", type=pathlib.Path, help="folder to write into")
  what.add_argument(
    "--check", action="store_true", help="print the checks on the files here"
  )
  flags = parser.parse_args()
  if flags.check:
    from rm_jax.data.text_world.checks import report

    groups, pairs = (
      {side: read_lines(FOLDER / f"{side}{end}") for side in SPLITS}
      for end in (".jsonl", "_pairs.jsonl.gz")
    )
    print(report(groups, pairs))
    return
  flags.out.mkdir(parents=True, exist_ok=True)
  prompts = read_lines(FOLDER / "prompts.jsonl")
  sampled = sample_all(prompts, flags.out / "sampled.jsonl")
  for name, lines in build(sampled).items():
    write_lines(flags.out / name, lines)


if __name__ == "__main__":
  main()
