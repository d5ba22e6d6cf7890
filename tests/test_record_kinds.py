"""Every record kind, from a real file: two train steps, three equal layouts.

Catches: a record kind that reads but does not train, labels that belong to
another slot once rows are packed, a tree whose forks see what they must not.
"""

import dataclasses
import functools
import itertools
import json
import os
import pathlib

import jax
import numpy as np
import pytest
import tiny_run

from rm_jax.data.loader import tokenize_records
from rm_jax.data.sources import read_records
from rm_jax.inference import RewardModel
from rm_jax.models.sharding import make_mesh
from rm_jax.train import loop
from rm_jax.train.tasks import read_tasks
from rm_jax.types import Record

DATA = os.environ.get("RM_DATA")
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(not DATA, reason="RM_DATA is not set"),
]

MOST = 12  # completions of a group that is laid three ways
STEP = dict(model__pooling="step_ends", loss__name="step_binary_cross_entropy")
RATED = dict(loss__name="squared_error", model__head="biased_scalar")
ASPECTS = ("helpfulness", "clarity", "factuality", "depth", "engagement")

# what -> (file, kind of the records, changes of the config)
KINDS = {
  "pairs": ("hh_rlhf/helpful-base/test.jsonl.gz", "pair", {}),
  "pairs with ratings as margins": (
    "ultrafeedback_sample/train_clean.jsonl.gz",
    "pair",
    dict(loss__name="bradley_terry_margin", loss__margin="rating_difference"),
  ),
  "soft labels": (
    "alpaca_eval/weighted_alpaca_eval_gpt4_turbo/phi-2.annotations.json.gz",
    "pair",
    dict(loss__name="bradley_terry_soft", data__row_len=1024),
  ),
  "votes with ties": (
    "pandalm/testset-v1.json.gz",
    "pair",
    dict(loss__name="rao_kupper"),
  ),
  "rankings with ties": (
    "llmzoo_rankings/review_output/en/general.review.jsonl.gz",
    "ranking",
    dict(loss__name="plackett_luce"),
  ),
  "human rankings, K to 9": (
    "oasst_trees/en_100_tree.part_000-059.jsonl.gz",
    "ranking",
    dict(loss__name="all_pairs"),
  ),
  "comparison lists with ties and cycles": (
    "fine_grained_rlhf/dev_feedback.json.gz",
    "comparisons",
    dict(loss__name="davidson"),
  ),
  "ratings": (
    "just_eval/safety/Yi-6B-Chat.score_safety.chatgpt.json.gz",
    "ratings",
    RATED,
  ),
  "ratings of several attributes": (
    "just_eval/general_multi_aspect/gpt-3.5-turbo-0301.general.0-100.json.gz",
    "ratings",
    dict(
      loss__name="squared_error",
      model__head="attributes",
      model__attributes=ASPECTS,
    ),
  ),
  "categorical values of ratings": (
    "prometheus_eval/mt_bench_eval.json.gz",
    "ratings",
    dict(
      loss__name="hl_gauss",
      model__head="bins",
      loss__low=1.0,
      loss__high=5.0,
      loss__bins=9,
      loss__sigma=0.4,
    ),
  ),
  "outcomes": (
    "gsm8k/example_model_solutions.part_0319-1318.jsonl.gz",
    "outcome",
    dict(
      loss__name="squared_error",
      model__pooling="every_token",
      loss__language_coefficient=0.1,
    ),
  ),
  "outcomes as values of every token": (
    "themis_tara/truthful_qa/agent_truthful_qa_test_0-500.json",
    "outcome",
    dict(
      loss__name="outcome_cross_entropy",
      model__pooling="every_token",
      loss__discount=0.99,
      loss__trace=0.9,
    ),
  ),
  "binary feedback": (
    "llama_factory_demo/kto_en_demo.json.gz",
    "outcome",
    dict(loss__name="outcome_cross_entropy", model__pooling="mean"),
  ),
  "steps, all labelled": (
    "prmbench/prm800k_train_p1_first400_4o_circular.jsonl.gz",
    "steps",
    STEP,
  ),
  "steps to the first error": ("processbench/gsm8k.json.gz", "steps", STEP),
  "steps of a tree": (
    "openr_samples/samples_prm800k.jsonl",
    "steps",
    dict(
      model__pooling="step_ends",
      model__head="steps",
      loss__name="step_cross_entropy",
    ),
  ),
  "steps of rollouts": (
    "openr_samples/samples_math-shepherd.jsonl",
    "steps",
    STEP,
  ),
  "values of a tree": (
    "openr_samples/samples_math-aps-tree.jsonl.gz",
    "values",
    dict(
      loss__name="squared_error",
      model__pooling="step_ends",
      data__eval_share=0.3,
      data__row_len=1280,
      # 85 leaves: attention is dense within a row, its probabilities are kept.
      data__groups_per_batch=1,
      compute__remat=True,
    ),
  ),
}


@functools.cache
def tokenizer_folder(base: pathlib.Path) -> pathlib.Path:
  from rm_jax.data.tokenizers import load_tokenizer

  folder = base / "smollm2_tokenizer"
  folder.mkdir()
  return tiny_run.write_tokenizer(folder, load_tokenizer("smollm2"))


def first_records(file) -> list:
  items = itertools.islice(read_records(pathlib.Path(DATA) / file), 60)
  return [item for item in items if isinstance(item, Record)]


def fewer(record: Record) -> Record:
  """The record with its first completions: a row each is what padding takes."""
  k = len(record.completions)
  if k <= MOST or record.trunk >= MOST:
    return record
  return record._replace(
    **{
      name: value[:MOST]
      for name, value in record._asdict().items()
      if isinstance(value, tuple)
      and len(value) == k
      and name not in ("prompt", "attributes")
    }
  )


@pytest.mark.parametrize("what", KINDS)
def test_two_train_steps_and_three_layouts(
  what, tmp_path, tmp_path_factory, monkeypatch
):
  file, kind, changes = KINDS[what]
  one = functools.partial(make_mesh, devices=jax.devices()[:1])
  monkeypatch.setattr(loop, "make_mesh", one)
  records = first_records(file)
  assert kind in {r.kind for r in records}
  few = len(records) < 10  # six trees: the split is between few prompts
  c = tiny_run.config(
    pathlib.Path(DATA) / file,
    tokenizer_folder(tmp_path_factory.getbasetemp()),
    num_train_steps=2,
    model__head_init="unit",  # scores of size 1 and above: differences show
    data__row_len=512,
    data__groups_per_batch=2 if few else 4,
    data__blocks=1,
    data__eval_share=0.5 if few else 0.2,
    data__max_reject_share=1.0,
    evals__max_groups=4,
    optim__lr=1e-4,
    optim__warmup_steps=0,
  )
  c.update_from_flattened_dict(
    {key.replace("__", "."): value for key, value in changes.items()}
  )
  workdir = tmp_path / "run"
  assert loop.train(c, workdir, command="rm-jax train") == 0
  rows = [json.loads(x) for x in (workdir / "metrics.jsonl").open()]
  steps = [row for row in rows if "grad_norm" in row]
  assert len(steps) == 2
  for row in steps:
    assert row["skipped"] == 0 and row["grad_norm"] > 0, row
    assert np.isfinite(row["loss"])

  model = RewardModel.load(workdir)
  task = read_tasks(c)[0]
  found, losses = {}, {}
  for layout in ("shared", "packed", "padded"):
    reading = model.reading._replace(layout=layout)
    data = tokenize_records(
      map(fewer, records[:8]), model.tokenizer, reading, task.supervision
    )
    assert len(data.groups) >= 2, data.rejects
    scored = dataclasses.replace(model, reading=reading).score_tokenized(
      data, pooling=reading.pooling, loss=task.loss
    )
    slots = [s for group in scored.slots for s in group]
    found[layout] = np.concatenate([*scored.completions, *slots])
    losses[layout] = {k: s / w for k, (s, w) in scored.sums.items() if w}
  scale = np.abs(found["padded"]).max()
  assert scale > 0.1 and np.ptp(found["padded"]) > 1e-2
  assert losses["padded"]
  for layout in ("shared", "packed"):
    np.testing.assert_allclose(
      found[layout], found["padded"], rtol=0, atol=2e-5 * scale
    )
    for term, value in losses["padded"].items():
      assert losses[layout][term] == pytest.approx(value, rel=1e-4)
