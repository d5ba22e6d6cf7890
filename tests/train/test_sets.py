"""Training and evaluation sets: no shared prompt, no silent drop."""

import json

import numpy as np
import pytest
import tiny_run

from rm_jax.config import task
from rm_jax.data import loader
from rm_jax.data.plan import Part, sampler
from rm_jax.data.split import prompt_key
from rm_jax.train.sets import load_sets
from rm_jax.train.tasks import read_tasks
from rm_jax.types import Record, UserError
from tests.data.fixtures import make_tokenizer


def load(tmp_path, rows, test_rows=None, **changes):
  data = tiny_run.write_rows(tmp_path / "train.jsonl", rows)
  if test_rows is not None:
    changes["data__eval_source"] = str(
      tiny_run.write_rows(tmp_path / "test.jsonl", test_rows)
    )
  c = tiny_run.config(data, "", **changes)
  workdir = tmp_path / "run"
  workdir.mkdir(exist_ok=True)
  return load_sets(c, make_tokenizer(), read_tasks(c), workdir), workdir


def test_a_split_by_prompt_shares_none(tmp_path):
  rows = tiny_run.pairs(60)
  rows += [row | {"chosen": "Nobody knows ."} for row in rows]  # asked twice
  sets, _ = load(tmp_path, rows)
  test = set(sets.test.prompts)
  assert not test & set(sets.train.prompts)
  assert 0 < len(test) < 60
  assert len(sets.train.groups) + len(sets.test.groups) == 120
  assert len(sets.test.groups) == 2 * len(test)


def test_a_share_of_the_training_data(tmp_path):
  # Wrong: the evaluation set shrinks as well, what is left out is not counted.
  rows = tiny_run.pairs(80)
  whole, _ = load(tmp_path, rows)
  part, _ = load(tmp_path, rows, data__train_share=0.4)
  assert part.test.prompts == whole.test.prompts
  assert set(part.train.prompts) < set(whole.train.prompts)
  assert part.counts["unused"] == len(whole.train.groups) - len(
    part.train.groups
  )
  assert 0.15 < len(part.train.groups) / len(whole.train.groups) < 0.65
  sets, _ = load(
    tmp_path, rows, tiny_run.pairs(9, seed=1), data__train_share=0.4
  )
  assert (len(sets.test.groups), sets.counts["unused"]) == (
    9,
    80 - len(sets.train.groups),
  )


def test_an_evaluation_prompt_that_is_in_training_is_refused(tmp_path):
  # Spelled otherwise: case and white space do not make another question.
  rows = tiny_run.pairs(5)
  leak = tiny_run.pairs(3, seed=1)
  leak[1]["prompt"] = "  " + rows[2]["prompt"].upper()
  with pytest.raises(
    UserError, match=r"^1 prompts of config\.data\.eval_source=.*Remove them"
  ):
    load(tmp_path, rows, leak)
  sets, _ = load(tmp_path, rows, tiny_run.pairs(3, seed=1))
  assert (len(sets.train.groups), len(sets.test.groups)) == (5, 3)


def test_training_data_do_not_evaluate_themselves(tmp_path):
  # Wrong: a file that is compared with itself only once.
  data = tiny_run.write_rows(tmp_path / "train.jsonl", tiny_run.pairs(5))
  c = tiny_run.config(data, "", data__eval_source=str(data))
  with pytest.raises(UserError, match=r"^5 prompts of config\.data\.eval_sou"):
    load_sets(c, make_tokenizer(), read_tasks(c), tmp_path)


def test_no_task_trains_on_what_another_evaluates(tmp_path):
  # Wrong: each task looked at alone. The held-out file of one is the training
  # file of the other.
  rows = [tiny_run.pairs(6, seed=n) for n in range(3)]
  a, b, held = (
    tiny_run.write_rows(tmp_path / f"{n}.jsonl", r) for n, r in enumerate(rows)
  )
  c = tiny_run.config(a, "", data__eval_source=str(held))
  c.tasks.more = task()
  c.tasks.more.source, c.tasks.more.eval_source = str(held), str(b)
  with pytest.raises(
    UserError,
    match=r"^6 prompts of config\.data\.eval_source=.*2\.jsonl are in",
  ):
    load_sets(c, make_tokenizer(), read_tasks(c), tmp_path)
  c.tasks.more.source, c.tasks.more.eval_source = str(b), str(a)
  with pytest.raises(
    UserError, match=r"^6 prompts of config\.tasks\.more\.eva"
  ):
    load_sets(c, make_tokenizer(), read_tasks(c), tmp_path)


def test_rejects_of_all_sources_are_counted_and_listed(tmp_path):
  rows, test = tiny_run.pairs(6), tiny_run.pairs(4, seed=1)
  rows[1] = {"prompt": "no completions"}
  rows[2]["chosen"] = rows[2]["rejected"] + " "  # trimmed: the same tokens
  test[0] = {"nothing": 1}
  test[3]["prompt"] = "Be kind . " * 40
  sets, workdir = load(tmp_path, rows, test, data__max_reject_share=0.5)
  counts = sets.counts
  assert counts["unreadable"] == 2
  assert (counts["train_rejected"], counts["test_rejected"]) == (1, 0)
  assert (counts["train_overlong"], counts["test_overlong"]) == (0, 1)
  assert (counts["train_groups"], counts["test_groups"]) == (4, 2)
  lines = [json.loads(x) for x in (workdir / "rejects.jsonl").open()]
  assert [(x["file"].rpartition("/")[2], x["line"]) for x in lines] == [
    ("train.jsonl", 2),
    ("test.jsonl", 1),
    ("train.jsonl", 3),
    ("test.jsonl", 4),
  ]


def test_sharing_is_counted_in_tokens(tmp_path):
  sets, _ = load(tmp_path, tiny_run.pairs(20))
  g = sets.train.groups[0]
  shared = (
    len(g.tokens[0])
    + len(g.tokens[1])
    - sets.train.demands[0].pieces[0].useful()
  )
  assert shared == sets.train.demands[0].pieces[0].trunk > 4
  assert (
    sets.counts["train_tokens_unshared"] > sets.counts["train_tokens_shared"]
  )


def test_max_groups_takes_the_first(tmp_path):
  sets, _ = load(
    tmp_path, tiny_run.pairs(5), tiny_run.pairs(8, seed=1), evals__max_groups=3
  )
  assert len(sets.test.groups) == 3
  whole, _ = load(tmp_path, tiny_run.pairs(5), tiny_run.pairs(8, seed=1))
  assert sets.test.prompts == whole.test.prompts[:3]


def test_a_side_without_records_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"the test side .* of 0\..*eval_share"):
    load(tmp_path, tiny_run.pairs(5), data__eval_share=0.0)
  rows = [row | {"prompt": "Be kind . " * 40} for row in tiny_run.pairs(4)]
  with pytest.raises(UserError, match="longer than a row of 64.*rejects.jsonl"):
    load(tmp_path, rows, tiny_run.pairs(2, seed=1))


def test_a_cache_is_used_again_and_refused_when_something_differs(
  tmp_path, monkeypatch
):
  # Wrong: a second start that tokenises again, or that takes the tokens of
  # another reading or of a file that has changed.
  rows = tiny_run.pairs(12)
  how = dict(data__cache=str(tmp_path / "cache"))
  plain, _ = load(tmp_path, rows)
  first, _ = load(tmp_path, rows, **how)

  def refuse(*_, **__):
    raise AssertionError("tokenised again")

  with monkeypatch.context() as patch:
    patch.setattr(loader, "encode_to_fit", refuse)
    second, _ = load(tmp_path, rows, **how)
  for sets in (first, second):
    for side in ("train", "test"):
      ours, want = getattr(sets, side), getattr(plain, side)
      assert ours.prompts == want.prompts
      assert ours.demands == want.demands
      for a, b in zip(ours.groups, want.groups, strict=True):
        np.testing.assert_equal(a._asdict(), b._asdict())
    assert sets.counts == plain.counts and sets.parts == plain.parts
  with pytest.raises(UserError, match=r"reading\.row_len: stored 64, ours 32"):
    load(tmp_path, rows, data__row_len=32, **how)
  with pytest.raises(UserError, match=r"sha256: stored .*, ours .*remove"):
    load(tmp_path, [*rows, *tiny_run.pairs(1, seed=9)], **how)


def test_sources_are_drawn_by_their_weights(tmp_path):
  # Three of four draws come from the smaller file.
  a = tiny_run.write_rows(tmp_path / "a.jsonl", tiny_run.pairs(20))
  b = tiny_run.write_rows(tmp_path / "b.jsonl", tiny_run.pairs(8, seed=1))
  c = tiny_run.config(f"{a},{b}", "", data__weights=(1.0, 3.0))
  sets = load_sets(c, make_tokenizer(), read_tasks(c), tmp_path)
  sizes = [part.count for part in sets.parts]
  assert sum(sizes) == len(sets.train.groups) and len(sizes) == 2
  order = sampler(sets.parts, seed=0, shuffle=True)
  drawn = [order[i] for i in range(400)]
  assert sum(i >= sizes[0] for i in drawn) == 300
  records = {g.record for g in sets.train.groups}
  assert len(records) == len(sets.train.groups)  # numbered through
  c = tiny_run.config(f"{a},{b}", "")
  alike = load_sets(c, make_tokenizer(), read_tasks(c), tmp_path)
  assert alike.parts == [Part(0, len(alike.train.groups), 1.0)]


def test_a_split_by_annotator_shares_none(tmp_path):
  rows = [
    row | {"annotator": f"rater {n % 7}"}
    for n, row in enumerate(tiny_run.pairs(40))
  ]
  sets, _ = load(tmp_path, rows, data__split_by="annotator")
  where = {row["prompt"]: row["annotator"] for row in rows}
  keys = {
    prompt_key(Record("pair", prompt, ())): name
    for prompt, name in where.items()
  }
  train, test = (
    {keys[k] for k in side.prompts} for side in (sets.train, sets.test)
  )
  assert train and test and not train & test
  with pytest.raises(UserError, match=r"train\.jsonl:1 names no annotator"):
    load(tmp_path, tiny_run.pairs(4), data__split_by="annotator")


def test_a_split_by_annotator_does_not_train_what_a_task_evaluates(tmp_path):
  # Catches: training prompts of a split by annotator that are not looked at.
  rows = [row | {"annotator": row["prompt"]} for row in tiny_run.pairs(40)]
  other = [row | {"prompt": f"{row['prompt']} then"} for row in rows]
  main = tiny_run.write_rows(tmp_path / "main.jsonl", rows)
  c = tiny_run.config(main, "", data__split_by="annotator")
  c.tasks.safety = task()
  c.tasks.safety.source = str(
    tiny_run.write_rows(tmp_path / "other.jsonl", other)
  )
  c.tasks.safety.eval_source = str(main)
  trained = len(
    load(tmp_path, rows, data__split_by="annotator")[0].train.groups
  )
  with pytest.raises(
    UserError,
    match=rf"{trained} prompts of config\.tasks\.safety\.eval_source=\S+ are "
    "in training too",
  ):
    load_sets(c, make_tokenizer(), read_tasks(c), tmp_path)
