"""The model card says what the files of the run say, and nothing else."""

import json
import shutil
from types import SimpleNamespace

import pytest

from rm_jax.config import base
from rm_jax.export import card as cards
from rm_jax.export.card import place
from rm_jax.export.folder import export
from rm_jax.types import UserError
from tests import exporting, trained


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  folder = trained.run(tmp_path_factory.getbasetemp(), "all")
  copy = tmp_path_factory.mktemp("card") / "workdir"
  return shutil.copytree(folder, copy)


def card(place, out, results=()):
  export(
    str(place),
    str(out),
    average=[],
    architecture="auto",
    dtype="float32",
    max_shard_bytes=1 << 30,
    task="",
    results=list(results),
  )
  return (out / "README.md").read_text()


def test_numbers_are_those_of_results_json(workdir, tmp_path):
  # Numbers that no run gives: they can come from nowhere else.
  stored = json.loads((workdir / "results.json").read_text())
  stored["commit"] = "abcdef012345"
  stored["metrics"]["accuracy"] |= dict(value=0.7311, low=0.6122, high=0.8033)
  (workdir / "results.json").write_text(json.dumps(stored))
  text = card(workdir, tmp_path / "out")
  n = stored["metrics"]["accuracy"]["n"]
  assert f"| accuracy | 0.7311 | 0.6122 to 0.8033 | {n} |" in text
  assert "Commit of rm_jax: abcdef012345." in text
  assert "checkpoint of train step 2 of 2 on 18 groups" in text
  assert "the 30% of prompts that were held out. Ties count one half" in text
  assert "Loss `bradley_terry`" in text and "Data `pairs.jsonl`" in text
  assert "| `optim.lr` | `0.001` |" in text
  assert "at most 64 tokens" in text
  assert "## Intended use" in text and "## Limits" in text


def test_no_path_of_the_machine_that_trained(workdir, tmp_path):
  text = card(workdir, tmp_path / "out")
  assert str(tmp_path) not in text and str(workdir.parent) not in text
  assert place("/home/me/a.jsonl,gs://b/c.jsonl,smollm2") == (
    "a.jsonl, gs://b/c.jsonl, smollm2"
  )


def test_an_earlier_checkpoint_has_its_own_numbers(workdir, tmp_path):
  # Would catch the last numbers printed for the best, earlier checkpoint.
  path = workdir / "results.json"
  stored = json.loads(path.read_text())
  path.write_text(json.dumps(stored | {"num_train_steps": 9}))
  rows = (workdir / "metrics.jsonl").read_text().splitlines()
  row = json.loads(rows[-1]) | {
    "step": 2,
    "eval/loss": 0.123456,
    "eval/accuracy": 0.4242,
    "eval/accuracy_low": 0.4,
    "eval/accuracy_high": 0.5,
  }
  (workdir / "metrics.jsonl").write_text(json.dumps(row) + "\n")
  text = card(workdir, tmp_path / "out")
  assert "| accuracy | 0.4242 | 0.4 to 0.5 |  |" in text
  assert "at train step 2. Ties" in text
  (workdir / "metrics.jsonl").write_text("")
  text = card(workdir, tmp_path / "none")
  assert "The checkpoint of train step 2 was not evaluated." in text
  assert "| accuracy |" not in text


@pytest.mark.parametrize(
  "logged, found",
  [
    ({"loss": 0.9, "eval/loss": 0.625}, {"loss": 0.625}),
    (
      {"eval/loss/bradley_terry": 0.625, "eval/loss/centering": 0.125},
      {"loss/bradley_terry": 0.625, "loss/centering": 0.125},
    ),
    ({"eval/safety/loss": 0.5}, {"safety/loss": 0.5}),
    ({"loss": 0.9, "loss/centering": 0.125}, {}),
  ],
)
def test_whatever_was_evaluated_is_in_the_card(logged, found, tmp_path):
  # Catches: eval/loss is asked for, which a run of several terms does not log.
  rows = [{"step": 1, "eval/loss": 9.0}, {"step": 2} | logged]
  (tmp_path / "metrics.jsonl").write_text(
    "".join(json.dumps(row) + "\n" for row in rows)
  )
  run = SimpleNamespace(workdir=tmp_path, step=2, config=base())
  told = cards._of_run(run, "Evaluation")
  assert {name: m["value"] for name, m in told.metrics.items()} == found
  assert ("was not evaluated" in told.told) == (not found)


def test_results_of_eval_are_added(workdir, tmp_path):
  stored = {
    "command": "rm-jax eval --model=runs/hh --data=/data/rb.jsonl --out=x.json",
    "commit": "",
    "metrics": {"brier": {"value": 0.25, "low": None, "high": None, "n": 8}},
  }
  path = tmp_path / "x.json"
  path.write_text(json.dumps(stored))
  text = card(workdir, tmp_path / "out", [path])
  assert "## Evaluation on rb.jsonl" in text
  assert "| brier | 0.25 |  | 8 |" in text
  path.write_text("{}")
  with pytest.raises(UserError, match=r"x.json: expected a results.json of rm"):
    card(workdir, tmp_path / "again", [path])


@pytest.mark.parametrize(
  "kind, keys, said",
  [
    ("biased_scalar", {}, "The head has a bias, which this class"),
    ("biased_scalar", {"architecture": "token"}, "at the last token of the"),
    ("gain_bias", {}, "gain and a bias on the logit of token 5"),
    ("steps", {}, "softmax over the three labels, at `positive`"),
    ("bins", {}, "4 bins with centers evenly from -1 to 2"),
    (
      "attributes",
      {"attributes": ("help", "truth", "length")},
      "0.25 help + 0.5 truth + -1 length",
    ),
  ],
)
def test_what_transformers_does_not_say_is_said(kind, keys, said, tmp_path):
  out = exporting.write(exporting.tiny(kind), tmp_path / "out", **keys)
  text = (out / "README.md").read_text()
  assert said in text
  assert "Nothing was measured for this card." in text
  bias = json.loads((out / "rm_jax.json").read_text())["bias"]
  assert ("add" in text and "to its logits" in text) == (bias is not None)
