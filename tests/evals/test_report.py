"""The report of a run: drawn from its files, its numbers those of results."""

import json
import re
import shutil

import numpy as np
import pytest

from rm_jax.data.tokenizers import load_tokenizer
from rm_jax.evals import examples, score_sections
from rm_jax.evals.arms import arms_of, paired_differences
from rm_jax.evals.comparison import names_of
from rm_jax.evals.examples import example_groups, short_row
from rm_jax.evals.report import headline, in_words, report, write_report
from rm_jax.evals.runs import curve_rows, read_run
from rm_jax.evals.sections import loss_references
from rm_jax.types import UserError
from tests import tiny_run, trained
from tests.evals.test_page import check_alone

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
  return trained.run(tmp_path_factory.getbasetemp(), "all")


@pytest.fixture
def copy(workdir, tmp_path):
  return shutil.copytree(workdir, tmp_path / "workdir")


def read_results(workdir) -> dict:
  return json.loads((workdir / "results.json").read_text())


def change_results(workdir, **metrics) -> None:
  """Writes results.json with other metrics."""
  found = read_results(workdir) | {"metrics": metrics}
  (workdir / "results.json").write_text(json.dumps(found))


def change_scores(workdir, **arrays) -> None:
  with np.load(workdir / "scores.npz") as saved:
    every = dict(saved)
  np.savez(workdir / "scores.npz", **every | arrays)


def entry(value, low=None, high=None, n=8) -> dict:
  return dict(value=value, low=low, high=high, n=n)


def pictures(text: str) -> list[str]:
  """The pictures that `write_report` says it drew."""
  return text.split("report.html, with ")[1].splitlines()[0].split(", ")


class TestPage:
  def test_every_number_is_that_of_the_results(self, copy):
    # Catches a metric left out, rounded on the way, or shown under the name of
    # another; the page, its text and the file are three readings of one number.
    text = write_report(copy)
    page = (copy / "report.html").read_text()
    metrics = read_results(copy)["metrics"]
    found = check_alone(page, pictures=len(pictures(text)))
    want = []
    for name, m in metrics.items():
      if m["value"] is not None:
        want.append((name, m["value"]))
      if m["low"] is not None:
        want += [("low", m["low"]), ("high", m["high"])]
    assert found.data == want
    m = metrics["accuracy"]
    assert (
      f"accuracy (chance 0.5)   {m['value']:.4f} [{m['low']:.4f}, "
      f"{m['high']:.4f}]" in text
    )
    assert f"after 2 train steps, on {m['n']} held-out comparisons" in text
    said = "".join(found.text)
    value, low, high = (f"{100 * m[k]:.1f} %" for k in ("value", "low", "high"))
    assert f"{value} of {m['n']} held-out comparisons" in said
    assert f"(95 % interval over prompts {low} to {high})" in said

  def test_every_picture_is_a_file_too(self, copy, tmp_path):
    # Catches a picture that is on the page only, and a page written beside.
    text = write_report(copy, tmp_path / "out")
    names = pictures(text)
    assert set(names) >= {
      "learning_curve.png",
      "score_histograms.png",
      "length_baseline.png",
      "score_by_length.png",
      "reliability.png",
      "tokens.png",
      "packed_row.png",
    }
    for name in names:
      assert (tmp_path / "out" / name).read_bytes().startswith(PNG), name
    assert not (copy / "report.html").exists()

  def test_reliability_shows_the_calibration_error_of_the_results(
    self, copy, monkeypatch
  ):
    # Catches chosen and rejected swapped on the way to the pictures, and scores
    # of another group: two computations of one number.
    shown = []
    real = score_sections.reliability
    monkeypatch.setattr(
      score_sections,
      "reliability",
      lambda *a: shown.append(real(*a)) or shown[0],
    )
    write_report(copy)
    metrics = read_results(copy)["metrics"]
    assert shown == pytest.approx([metrics["calibration_error"]["value"]])
    s = read_run(copy).scores
    chosen, rejected = s.scores[s.chosen], s.scores[s.rejected]
    credit = np.where(chosen == rejected, 0.5, chosen > rejected)
    assert np.mean(credit) == pytest.approx(metrics["accuracy"]["value"])
    assert np.mean(chosen - rejected) == pytest.approx(
      metrics["score_diff"]["value"]
    )

  def test_what_a_run_has_not_is_named_in_one_line(self, copy):
    # Pairs of tiny_run have neither gold nor strengths.
    text = write_report(copy)
    page = (copy / "report.html").read_text()
    for line in (
      "Accuracy by strength: no comparison of the evaluation set has a "
      "strength, and no completion a gold reward.",
      "Gold against score: no completion has a gold reward.",
      "Best of n: it needs groups of three completions or more whose gold "
      "rewards are known and differ.",
    ):
      assert line in text and line in page
    assert not (copy / "gold.png").exists()

  def test_gold_and_strengths_bring_their_pictures(self, copy):
    s = read_run(copy).scores
    change_scores(
      copy, gold=s.scores, strength=np.arange(len(s.chosen)) % 2 * 3.0
    )
    names = pictures(write_report(copy))
    assert {"gold.png", "accuracy_by_strength.png"} <= set(names)
    page = (copy / "report.html").read_text()
    found = check_alone(page, pictures=len(names))
    # Gold is the score: the order agrees in every group.
    assert "tau-b of 1.000" in "".join(found.text)
    assert "3 significantly: " in page and "0 unsure: " in page

  def test_a_regression_without_comparisons(self, copy):
    # Catches a page that needs comparisons, and an error called an accuracy.
    change_scores(
      copy,
      comparisons=np.zeros((0, 3), np.int32),
      preference=np.zeros(0, np.float32),
      strength=np.zeros(0, np.float32),
    )
    change_results(
      copy,
      squared_error=entry(0.5, 0.25, 0.75),
      constant_squared_error=entry(1.0, 0.5, 1.5),
    )
    text = write_report(copy)
    found = check_alone((copy / "report.html").read_text(), pictures=3)
    said = "".join(found.text)
    assert "the squared error on 8 held-out labels is 0.5000" in said
    assert "errs by 1.0000: the interval excludes it" in said
    assert "comparisons of" not in said and "chance" not in said
    assert "Calibration: the evaluation set has no comparisons" in text
    assert not (copy / "reliability.png").exists()

  def test_a_run_of_one_evaluation(self, copy):
    rows = (copy / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in rows if json.loads(row)["step"] > 0]
    (copy / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    write_report(copy)
    page = (copy / "report.html").read_text()
    assert "2 train steps, 1 evaluation;" in page

  def test_data_that_moved_leave_the_rest(self, copy):
    run = json.loads((copy / "run.json").read_text())
    run["config"]["data"]["source"] = str(copy / "gone.jsonl")
    (copy / "run.json").write_text(json.dumps(run))
    text = write_report(copy)
    for name in ("Example groups", "A packed row"):
      assert f"not on it: {name}: " in text
    assert "gone.jsonl does not exist" in text
    assert (copy / "learning_curve.png").exists()
    assert not (copy / "packed_row.png").exists()

  def test_a_missing_or_unfinished_run_is_refused(self, copy, tmp_path):
    with pytest.raises(UserError, match="got no such folder"):
      report([str(tmp_path / "none")], "")
    (copy / "results.json").unlink()
    with pytest.raises(UserError, match="a folder without results.json: train"):
      report([str(copy)], "")


class TestWords:
  """The first paragraph says what was found, and what was not."""

  def said(self, copy, gain, accuracy=(0.75, 0.7, 0.8)):
    change_results(
      copy,
      accuracy=entry(*accuracy),
      length_only_accuracy=entry(0.5, 0.4, 0.6),
      accuracy_over_length=entry(*gain),
    )
    return in_words(read_run(copy))

  def test_beats_length(self, copy):
    said = self.said(copy, (0.25, 0.1, 0.4))
    assert "beats this length baseline by 25.0 points" in said

  @pytest.mark.parametrize(
    "gain, words",
    [
      ((0.05, 0.0, 0.1), "does not beat this length baseline: .* holds 0"),
      ((0.05, -0.01, 0.1), "does not beat this length baseline: .* holds 0"),
      ((-0.2, -0.3, -0.1), "does not beat this length baseline, it is worse"),
      ((0.25, None, None), "not shown to beat this length .* no interval"),
    ],
  )
  def test_does_not_beat_length(self, copy, gain, words):
    # Catches an interval that touches 0 called a win, and silence.
    said = self.said(copy, gain)
    assert re.search(words, said) and "beats" not in said

  def test_chance_inside_the_interval_is_said(self, copy):
    said = self.said(copy, (0.05, 0.01, 0.1), accuracy=(0.52, 0.49, 0.55))
    assert "The interval holds chance" in said

  def test_the_side_of_the_baseline_is_that_of_training(self, copy):
    trained_on = json.loads((copy / "trained_on.json").read_text())
    for longer, word in ((True, "longer"), (False, "shorter")):
      trained_on["longer_is_better"] = longer
      (copy / "trained_on.json").write_text(json.dumps(trained_on))
      said = self.said(copy, (0.25, 0.1, 0.4))
      assert f"Always calling the {word} completion better" in said

  @pytest.mark.parametrize(
    "low, words", [(0.6, "excludes it"), (0.55, "not shown to beat")]
  )
  def test_labels_against_the_larger_class(self, copy, low, words):
    # An interval from 0.55 holds the 0.55 of the larger class.
    change_results(
      copy,
      label_accuracy=entry(0.7, low, 0.8),
      majority_accuracy=entry(0.55),
    )
    said = in_words(read_run(copy))
    assert "the model tells 70.0 % of 8 held-out labels" in said
    assert words in said

  def test_log_two_is_drawn_only_where_it_is_true(self, workdir):
    # Plackett-Luce over K starts at log K!, a margin moves the start.
    config = read_run(workdir).config
    assert list(loss_references(config).values()) == [np.log(2)]
    config.loss.margin = "llama2_large"
    assert loss_references(config) == {}
    config.loss.margin, config.loss.name = "none", "plackett_luce"
    assert loss_references(config) == {}


def test_rows_of_a_log_become_points_of_the_curve():
  # Catches evaluation rows that are not found, and null drawn as zero.
  rows = [
    {"step": 0, "eval/accuracy": 0.5, "eval/accuracy_low": 0.4, "eval/x": 1},
    {"step": 1, "loss": None, "lr": 1.0},
    {"step": 2, "loss": 0.6, "eval/accuracy": 0.0},
  ]
  assert curve_rows(rows, "accuracy") == [
    {"step": 0, "value": 0.5, "low": 0.4},
    {"step": 1},
    {"step": 2, "loss": 0.6, "value": 0.0},
  ]
  assert curve_rows(rows, "x")[0] == {"step": 0, "value": 1}


class TestExamples:
  def test_trees_are_the_first_groups_with_their_scores(self, workdir):
    # Catches scores of another group, and text of training records.
    run = read_run(workdir)
    tokenizer = load_tokenizer(workdir.parent / "tokenizer")
    found = example_groups(run.config, tokenizer, run.scores, count=3)
    held = trained.held_out(workdir)
    assert len(found) == 3
    for n, (example, record) in enumerate(zip(found, held, strict=False)):
      mine = run.scores.scores[run.scores.group == n]
      by_side = {b.said: b for b in example.branches}
      for k, side in enumerate(("chosen", "rejected")):
        branch = by_side[side]
        assert branch.score == mine[k]
        assert branch.fork == example.tokens
        whole = example.trunk + branch.text
        assert record.prompt in whole and record.completions[k] in whole
      order = [b.score for b in example.branches]
      assert order == sorted(order, reverse=True)
      assert (example.right, example.compared) == (float(mine[0] > mine[1]), 1)

  def test_a_record_that_changed_is_no_example(self, workdir):
    # Catches a match by prompt alone: another text under an old score.
    run = read_run(workdir)
    scores = run.scores._replace(length=run.scores.length + 1)
    tokenizer = load_tokenizer(workdir.parent / "tokenizer")
    assert example_groups(run.config, tokenizer, scores, count=2) == []


class TestComparison:
  def test_the_difference_is_paired_by_comparison(self, copy, tmp_path):
    # Catches the sign of the difference, and an interval of unpaired runs.
    other = shutil.copytree(copy, tmp_path / "other")
    s = read_run(copy).scores
    change_scores(other, scores=-s.scores.astype(np.float32))
    arms = arms_of({"a": read_run(copy), "b": read_run(other)})
    a, b = arms.values()
    found = paired_differences(a, b)
    right = s.scores[s.chosen] > s.scores[s.rejected]
    want = np.where(right, -1.0, 1.0)  # every comparison turns round
    assert found["accuracy"].value == pytest.approx(want.mean())
    d = s.scores[s.chosen] - s.scores[s.rejected]
    # (1 - sigmoid(-d))^2 less (1 - sigmoid(d))^2
    brier = 1 / (1 + np.exp(-d)) ** 2 - 1 / (1 + np.exp(d)) ** 2
    assert found["brier"].value == pytest.approx(brier.mean())
    same = paired_differences(a, a)["accuracy"]
    assert (same.value, same.low, same.high) == (0, 0, 0)

  def test_page_of_two_runs(self, copy, tmp_path):
    other = shutil.copytree(copy, tmp_path / "other")
    with pytest.raises(UserError, match="--out is missing: .* 2 runs"):
      report([str(copy), str(other)], "")
    text = report([str(copy), str(other)], str(tmp_path / "out"))
    assert "no difference was shown" in text
    page = (tmp_path / "out" / "report.html").read_text()
    pictures = list((tmp_path / "out").glob("*.png"))
    found = check_alone(page, pictures=len(pictures))
    metrics = read_results(copy)["metrics"]
    for name, m in metrics.items():
      # Side by side, and once more of the first run in detail.
      assert [v for key, v in found.data if key == name] == [m["value"]] * 3
    assert [v for key, v in found.data if key == "difference"] == [0.0, 0.0]

  def test_other_evaluation_sets_are_not_paired(self, copy, tmp_path):
    # Catches differences of scores that belong to other texts.
    other = shutil.copytree(copy, tmp_path / "other")
    s = read_run(copy).scores
    change_scores(other, length=s.length + 1)
    text = report([str(copy), str(other)], str(tmp_path / "out"))
    assert "their evaluation sets differ (length)" in text
    page = (tmp_path / "out" / "report.html").read_text()
    assert 'class="difference"' not in page

  def test_a_run_twice_is_refused(self, copy, tmp_path):
    with pytest.raises(UserError, match="got this one twice"):
      report([str(copy), f"{copy}/"], str(tmp_path / "out"))

  def test_names_tell_runs_apart(self, tmp_path):
    paths = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    assert names_of(paths) == ["a/run", "b/run"]
    assert names_of([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]


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
  assert width == len(pieces) <= examples.READABLE_COLUMNS
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
  assert 2 <= branches < 8 and len(row["tokens"]) <= examples.READABLE_COLUMNS
  assert (row["group_ids"] == 1).all()
