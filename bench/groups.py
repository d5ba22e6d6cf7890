"""Token groups to measure with: real files where RM_DATA is set.

Without RM_DATA pairs and rankings come from the embedded text world.
"""

import json
import os
import pathlib

import numpy as np

import rm_jax
from rm_jax.data.loader import COMPARISONS, Reading, token_groups
from rm_jax.data.pack import grow
from rm_jax.data.sources import read_records
from rm_jax.data.tokenizers import load_tokenizer
from rm_jax.data.trees import read_prm800k
from rm_jax.types import Record, TokenizedGroup

TEXT_WORLD = pathlib.Path(rm_jax.__file__).parent / "data" / "text_world"
# InstructGPT's ranking per prompt: 4 to 9 completions. K=9: one group.
RANKINGS = {4: "oasst_trees", 8: "", 9: "oasst_trees"}  # "": text world
STEPS = COMPARISONS._replace(loss="step_cross_entropy", kind="process")


def reading(layout: str, row_len: int, pooling: str = "last_token") -> Reading:
  """How text is read in every measurement: the run's own defaults."""
  return Reading(
    template="auto",
    read_at="end_of_turn",
    row_len=row_len,
    overlong="drop",
    layout=layout,
    align=1,
    pooling=pooling,
  )


def source(folder: str, embedded: str) -> tuple[str, pathlib.Path]:
  """(what it is called, where it is) of RM_DATA/folder, or of the embedded."""
  if folder and os.environ.get("RM_DATA"):
    return folder, pathlib.Path(os.environ["RM_DATA"]) / folder
  return f"text_world/{embedded}", TEXT_WORLD / embedded


def tokenize(records, *, row_len: int, supervision) -> list[TokenizedGroup]:
  """Every usable group of these records that fits `row_len` tokens."""
  pooling = "step_ends" if supervision.kind == "process" else "last_token"
  how = reading("shared", row_len, pooling)
  tokenizer = load_tokenizer("smollm2")
  return list(token_groups(records, tokenizer, how, supervision, [], {}, []))


def read(path: pathlib.Path, row_len: int) -> list[TokenizedGroup]:
  """Every group of a place that can be compared and fits `row_len` tokens."""
  records = (x for x in read_records(path) if isinstance(x, Record))
  return tokenize(records, row_len=row_len, supervision=COMPARISONS)


def pairs(row_len: int) -> tuple[str, list[TokenizedGroup]]:
  """(name, groups of K=2): hh-rlhf, or the text world's pairs."""
  name, path = source("hh_rlhf", "train_pairs.jsonl.gz")
  return name, read(path, row_len)


def rankings(k: int, row_len: int) -> tuple[str, list[TokenizedGroup]]:
  """(name, groups of K completions): people's rankings, or the text world's."""
  name, path = source(RANKINGS[k], "train.jsonl")
  found = read(path, row_len)
  return name, [g for g in found if len(g.tokens) == k]


def prm800k(row_len: int) -> tuple[str, list[TokenizedGroup]]:
  """(name, step trees): the six PRM800K samples; none without RM_DATA.

  One of the six tested its labeller, and training leaves it out; its tokens
  cost what any others do.
  """
  name, path = source("openr_samples", "")
  file = path / "samples_prm800k.jsonl"
  if not file.exists():
    return name, []
  records = []
  for line in file.read_text(encoding="utf-8").splitlines():
    row = json.loads(line)
    records.append(read_prm800k(row | {"is_initial_screening_question": False}))
  return name, tokenize(records, row_len=row_len, supervision=STEPS)


def shared_tokens(group: TokenizedGroup) -> int:
  """Tokens of the group's tree: what the shared layout computes."""
  length = sum(map(len, group.tokens))
  pieces = grow(group, layout="shared", row_len=length, align=1)
  return sum(p.useful() for p in pieces)


def prefix_tokens(group: TokenizedGroup) -> int:
  """Tokens of the prefix up to each scored place, one row for each of them."""
  return sum(int(slots.sum()) + len(slots) for slots in group.slots)


def padded_tokens(groups: list[TokenizedGroup]) -> int:
  """Tokens of one batch of all completions, padded to the longest."""
  longest = max(len(t) for g in groups for t in g.tokens)
  return longest * sum(len(g.tokens) for g in groups)


def typical_step(groups: list[TokenizedGroup], size: int, seed: int) -> list:
  """`size` groups: of all steps of one epoch the one of median padding.

  So that a lucky draw makes neither side look better than it is: padding to
  the longest of a step depends on that one completion.
  """
  order = np.random.default_rng(seed).permutation(len(groups))
  steps = [
    [groups[i] for i in order[at : at + size]]
    for at in range(0, len(order) - size + 1, size)
  ]
  ratios = [padded_tokens(s) / sum(map(shared_tokens, s)) for s in steps]
  return steps[int(np.argsort(ratios, kind="stable")[len(ratios) // 2])]


def split_comparisons(group: TokenizedGroup) -> list[TokenizedGroup]:
  """A group of K=2 for every comparison of a group, weights kept.

  Their Bradley-Terry loss is the group's own; every completion is encoded once
  for each comparison it is in.
  """
  out = []
  for n, sides in enumerate(group.comparisons):

    def pick(arrays, sides=sides):
      return tuple(arrays[k] for k in sides)

    out.append(
      group._replace(
        tokens=pick(group.tokens),
        slots=pick(group.slots),
        outputs=pick(group.outputs),
        labels=pick(group.labels),
        weights=pick(group.weights),
        language_weights=pick(group.language_weights),
        reads=pick(group.reads),
        comparisons=np.asarray([[0, 1]], np.int32),
        margins=group.margins[n : n + 1],
        preferences=group.preferences[n : n + 1],
        comparison_weights=group.comparison_weights[n : n + 1],
        ranks=group.ranks[sides],
        strengths=group.strengths[n : n + 1],
        gold=np.zeros(0, np.float32),
      )
    )
  return out
