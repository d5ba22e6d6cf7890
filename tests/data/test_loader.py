"""Records to batches along a plan: order, position, hosts, what is left out."""

import numpy as np

from rm_jax.data.loader import (
  COMPARISONS,
  Reading,
  lay_step,
  open_loader,
  policy,
  tokenize_records,
)
from rm_jax.data.plan import make_plan
from rm_jax.types import Record
from tests.data.fixtures import SENTENCES, make_tokenizer

READING = Reading("auto", "end_of_turn", 64, "drop", "shared", 1, "last_token")


def records(count):
  return [
    Record(
      "pair",
      f"Who wrote {'this ' * (i % 3)}?",
      (f"{'A poet ' * (i % 4 + 1)}.", "Nobody ."),
      ranks=(0, 1),
      source="rows.jsonl",
      line=i + 1,
    )
    for i in range(count)
  ]


def open_eight(position=None, blocks=None):
  data = tokenize_records(records(10), make_tokenizer(), READING, COMPARISONS)
  plan = make_plan(
    data.demands,
    num_steps=8,
    batch="groups",
    groups_per_batch=3,
    rows_per_batch=0,
    blocks=2,
    row_len=64,
    layout="shared",
    align=1,
    seed=0,
    shuffle=True,
  )
  loader = open_loader(data, plan, blocks=blocks, position=position)
  return loader, data, plan


def test_a_position_is_where_the_next_batch_comes_from():
  # Wrong: the position of the prefetcher, which is ahead; a resumed run would
  # skip batches.
  loader, data, plan = open_eight()
  batches = [next(loader) for _ in range(3)]
  position = loader.get_state()
  rest = [batch for batch, _, _ in loader]
  assert len(batches) + len(rest) == 8
  again = [batch for batch, _, _ in open_eight(position)[0]]
  assert len(again) == 5
  for a, b in zip(rest, again, strict=True):
    for x, y in zip(a, b, strict=True):
      np.testing.assert_array_equal(x, y)
  want, _, _ = lay_step(data, plan, 3)
  np.testing.assert_array_equal(again[0].tokens, want.tokens)


def test_a_position_does_not_know_the_number_of_hosts():
  one = open_eight()[0]
  two = [open_eight(blocks=[h])[0] for h in (0, 1)]
  for _ in range(2):
    next(one), next(two[0]), next(two[1])
  assert one.get_state() == two[0].get_state() == two[1].get_state()
  halves = [next(open_eight(one.get_state(), [h])[0])[0] for h in (0, 1)]
  tokens = np.concatenate([h.tokens for h in halves])
  np.testing.assert_array_equal(tokens, next(one)[0].tokens)


class Guarded(list):
  """Groups of which only some may be read."""

  allowed = frozenset()

  def __getitem__(self, index):
    assert index in self.allowed, f"group {index} is of another host"
    return super().__getitem__(index)


def test_a_host_lays_its_own_blocks_and_reads_no_other_group():
  # Wrong: a plan per host; blocks by the number of the process, where the mesh
  # deals them otherwise; every host reads everything.
  _, data, plan = open_eight()
  whole, owners, counts = lay_step(data, plan, 2)
  groups = Guarded(data.groups)
  guarded = data._replace(groups=groups)
  for blocks in ([0], [1], [1, 0]):
    groups.allowed = {
      p.group for p in plan.steps[2].places if p.block in blocks
    }
    assert blocks == [1, 0] or len(groups.allowed) < counts["groups"]
    mine, same, total = lay_step(guarded, plan, 2, blocks=blocks)
    assert total == counts
    np.testing.assert_array_equal(same, owners)
    for name, array in whole._asdict().items():
      if array is not None:  # states of the frozen layers: none here
        np.testing.assert_array_equal(getattr(mine, name), array[blocks])


def test_counts_of_a_step():
  _, data, plan = open_eight()
  batch, owners, counts = lay_step(data, plan, 0)
  groups = [p.group for p in plan.steps[0].places]
  assert counts == {
    "groups": 3,
    "useful_tokens": sum(
      p.useful() for g in groups for p in data.demands[g].pieces
    ),
    "computed_tokens": batch.tokens.size,
  }
  assert set(owners.group[owners.group >= 0]) == set(groups)


def test_what_cannot_be_used_is_named_and_counted():
  rows = records(4)
  rows[1] = rows[1]._replace(completions=("Nobody .", "Nobody ."))
  rows[2] = rows[2]._replace(prompt=" ".join(SENTENCES))
  data = tokenize_records(rows, make_tokenizer(), READING, COMPARISONS)
  assert [g.record for g in data.groups] == [0, 3]
  assert [(r.line, r.reason) for r in data.rejects] == [
    (2, "chosen and rejected are identical after tokenisation")
  ]
  assert list(data.overlong) == [2]
  reject = data.overlong[2]
  assert (reject.file, reject.line) == ("rows.jsonl", 3)
  assert "longer than a row of 64 tokens" in reject.reason
  assert data.tokens_unshared == sum(
    len(t) for g in data.groups for t in g.tokens
  )
  assert data.tokens_shared < data.tokens_unshared


def test_the_fingerprint_holds_what_changes_scores_and_no_more():
  # row_len, layout and align must not: a score does not depend on packing.
  assert policy(READING) == {
    "template": "auto",
    "read_at": "end_of_turn",
    "pooling": "last_token",
  }


def test_scoring_reads_the_same_tokens_as_training():
  # Wrong: a second way from text to tokens.
  rows, tokenizer = records(5), make_tokenizer()
  trained = tokenize_records(rows, tokenizer, READING, COMPARISONS)
  scored = tokenize_records(rows, tokenizer, READING, None)
  for a, b in zip(trained.groups, scored.groups, strict=True):
    assert [t.tolist() for t in a.tokens] == [t.tolist() for t in b.tokens]
    assert [s.tolist() for s in a.slots] == [s.tolist() for s in b.slots]
    assert not any(w.any() for w in b.weights) and b.weight == 0
