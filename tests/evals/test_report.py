"""Pictures of a run: drawn from its files, with the numbers of its results."""

import json
import shutil

import numpy as np
import pytest

from rm_jax.data.tokenizers import load_tokenizer
from rm_jax.evals import report
from rm_jax.evals.report import (
  curve_rows,
  headline,
  read_comparisons,
  short_row,
  write_pictures,
)
from rm_jax.types import UserError
from tests import tiny_run, trained

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
  return trained.run(tmp_path_factory.getbasetemp(), "all")


@pytest.fixture
def copy(workdir, tmp_path):
  return shutil.copytree(workdir, tmp_path / "workdir")


def test_draws_a_run_and_says_its_numbers(copy):
  text = write_pictures(copy)
  for name in (
    "learning_curve",
    "score_histograms",
    "reliability",
    "packed_row",
  ):
    assert (copy / f"{name}.png").read_bytes().startswith(PNG), name
    assert f"{name}.png" in text
  found = json.loads((copy / "results.json").read_text())
  m = found["metrics"]["accuracy"]
  assert f"after 2 train steps, on {m['n']} held-out comparisons" in text
  assert (
    f"accuracy (chance 0.5)   {m['value']:.4f} [{m['low']:.4f}, "
    f"{m['high']:.4f}]" in text
  )
  for name in ("length_only_accuracy", "calibration_error", "loss"):
    assert f"{found['metrics'][name]['value']:.4f}" in text


def test_the_reliability_picture_shows_the_calibration_error_of_the_results(
  copy, monkeypatch
):
  # Catches chosen and rejected swapped on the way to the pictures, and scores
  # of another group: two computations of one number.
  shown = []
  real = report.reliability
  monkeypatch.setattr(report, "reliability", lambda *a: shown.append(real(*a)))
  write_pictures(copy)
  metrics = json.loads((copy / "results.json").read_text())["metrics"]
  assert shown == pytest.approx([metrics["calibration_error"]["value"]])
  chosen, rejected = read_comparisons(copy / "scores.npz")
  credit = np.where(chosen == rejected, 0.5, chosen > rejected)
  assert np.mean(credit) == pytest.approx(metrics["accuracy"]["value"])
  assert np.mean(chosen.astype(float) - rejected) == pytest.approx(
    metrics["score_diff"]["value"]
  )


def test_comparisons_are_read_from_the_right_group(tmp_path):
  # Catches an index into the group taken for one into all scores.
  np.savez(
    tmp_path / "s.npz",
    scores=np.float32([1, 2, 3, 10, 20, 30]),
    group=[0, 0, 0, 1, 1, 2],
    comparisons=np.int32([[0, 2, 0], [1, 1, 0], [1, 0, 1]]),
  )
  chosen, rejected = read_comparisons(tmp_path / "s.npz")
  assert chosen.tolist() == [3, 20, 10] and rejected.tolist() == [1, 10, 20]


def test_rows_of_a_log_become_points_of_the_curve():
  # Catches evaluation rows that are not found, and null drawn as zero.
  rows = [
    {"step": 0, "eval/accuracy": 0.5, "eval/accuracy_low": 0.4, "eval/x": 1},
    {"step": 1, "loss": None, "lr": 1.0},
    {"step": 2, "loss": 0.6, "eval/accuracy": 0.0},
  ]
  assert curve_rows(rows) == [
    {"step": 0, "accuracy": 0.5, "accuracy_low": 0.4},
    {"step": 1},
    {"step": 2, "loss": 0.6, "accuracy": 0.0},
  ]


def test_without_comparisons_there_are_no_pictures_of_them(copy):
  with np.load(copy / "scores.npz") as saved:
    arrays = dict(saved) | {"comparisons": np.zeros((0, 3), np.int32)}
  np.savez(copy / "scores.npz", **arrays)
  found = json.loads((copy / "results.json").read_text())
  entry = dict(value=0.5, low=0.25, high=0.75, n=8)
  found["metrics"] = {"label_accuracy": entry}
  (copy / "results.json").write_text(json.dumps(found))
  text = write_pictures(copy)
  assert not (copy / "reliability.png").exists()
  assert not (copy / "score_histograms.png").exists()
  assert "on 8 held-out labels" in text
  assert "label accuracy          0.5000 [0.2500, 0.7500]" in text


def test_data_that_moved_leave_the_other_pictures(copy):
  run = json.loads((copy / "run.json").read_text())
  run["config"]["data"]["source"] = str(copy / "gone.jsonl")
  (copy / "run.json").write_text(json.dumps(run))
  text = write_pictures(copy)
  assert "no packed_row.png: " in text and "gone.jsonl does not exist" in text
  assert (copy / "learning_curve.png").exists()
  assert not (copy / "packed_row.png").exists()


def test_an_unfinished_run_is_refused(copy):
  (copy / "scores.npz").unlink()
  with pytest.raises(UserError, match="a folder without scores.npz"):
    write_pictures(copy)


def test_headline_leaves_out_what_was_not_measured():
  entry = dict(value=1.5, low=None, high=None, n=3)
  nothing = dict(value=None, low=None, high=None, n=3)
  found = dict(
    num_train_steps=7,
    metrics=dict(squared_error=entry, loss=nothing),
  )
  assert headline(found).splitlines() == [
    "after 7 train steps, on 3 held-out labels, 95 % intervals over prompts:",
    "squared error           1.5000",
  ]


@pytest.mark.parametrize("layout", ["shared", "packed", "padded"])
def test_the_row_is_real_readable_and_whole(workdir, layout):
  # Catches a row of another data set, branches cut, a row too wide to read.
  config = tiny_run.config(
    workdir.parent / "pairs.jsonl",
    workdir.parent / "tokenizer",
    data__layout=layout,
  )
  tokenizer = load_tokenizer(workdir.parent / "tokenizer")
  row, pieces = short_row(config, tokenizer)
  width = len(row["tokens"])
  assert width == len(pieces) <= report.READABLE_COLUMNS
  known = {}
  for pair in tiny_run.pairs(24):
    for side in ("chosen", "rejected"):
      text = tokenizer.apply_chat_template(
        [
          {"role": "user", "content": pair["prompt"]},
          {"role": "assistant", "content": pair[side]},
        ],
        tokenize=False,
      )
      known[text.removesuffix("\n")] = side
  texts = []
  for group in range(1, row["group_ids"].max() + 1):
    mine = row["group_ids"] == group
    for branch in range(1, row["branch_ids"][mine].max() + 1):
      own = mine & (row["branch_ids"] == branch)
      fork = row["fork_positions"][own][0]
      trunk = mine & (row["branch_ids"] == 0) & (row["positions"] < fork)
      texts.append("".join(np.array(pieces)[trunk | own]))
    if not row["branch_ids"][mine].any():
      texts.append("".join(np.array(pieces)[mine]))
  assert texts and set(texts) <= set(known)
  assert (row["branch_ids"].max() > 0) == (layout == "shared")
  assert (len(texts) == 1) == (layout == "padded")
  if layout == "shared":
    assert {known[t] for t in texts} == {"chosen", "rejected"}


def test_a_wide_group_loses_completions_until_it_can_be_read(workdir, tmp_path):
  # 8 answers do not fit 80 columns: as many as do, two at least.
  rng = np.random.default_rng(0)
  answers = [tiny_run.sentence(rng, 9) for _ in range(8)]
  rows = [dict(prompt="Who ?", completions=answers, ranks=list(range(8)))]
  data = tiny_run.write_rows(tmp_path / "rows.jsonl", rows)
  tokenizer = workdir.parent / "tokenizer"
  row, _ = short_row(
    tiny_run.config(data, tokenizer), load_tokenizer(tokenizer)
  )
  branches = row["branch_ids"].max()
  assert 2 <= branches < 8 and len(row["tokens"]) <= report.READABLE_COLUMNS
  assert (row["group_ids"] == 1).all()
