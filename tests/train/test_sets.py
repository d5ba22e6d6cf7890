"""Training and evaluation sets: no shared prompt, no silent drop."""

import json

import pytest
import tiny_run

from rm_jax.train.sets import load_sets
from rm_jax.train.tasks import read_tasks
from rm_jax.types import UserError
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
