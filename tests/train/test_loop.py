"""A whole run: its rows, rates, best checkpoint and what it leaves behind."""

import functools
import json
import math
import pathlib
import re

import jax
import numpy as np
import pytest
import tiny_run
from jax.profiler import ProfileData

from rm_jax.config import task
from rm_jax.models.sharding import make_mesh
from rm_jax.models.sizes import SIZES
from rm_jax.train import loop
from rm_jax.train.checkpoint import load_params
from rm_jax.train.log import read_rows
from rm_jax.train.step import check_cuts
from rm_jax.types import UserError

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "log.md"
TINY = SIZES["tiny"]


@pytest.fixture(scope="module", autouse=True)
def two_devices():
  # Compiles in half the time of eight; tests/test_devices.py compares them.
  with pytest.MonkeyPatch.context() as m:
    m.setattr(
      loop,
      "make_mesh",
      functools.partial(make_mesh, devices=jax.devices()[:2]),
    )
    yield


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp("loop")
  rows = tiny_run.pairs(40)
  # The template trims turns, so that these two are the same tokens.
  rows[3]["rejected"] = rows[3]["chosen"] + " "
  rows[5]["prompt"] = "Be kind . " * 30  # longer than a row
  path = tiny_run.write_rows(folder / "pairs.jsonl", rows)
  with path.open("a") as file:
    file.write('{"prompt": "half a li\n')  # line 41
  return path, tiny_run.write_tokenizer(folder / "tokenizer")


def config(files, **changes):
  settings = dict(
    num_train_steps=6,
    data__blocks=2,
    model__head_init="zeros",
    data__max_reject_share=0.1,
    evals__every=2,
    optim__warmup_steps=2,
    train__trainable="last:1",
  )
  return tiny_run.config(*files, **settings | changes)


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("run")
  how = dict(command="rm-jax train", trace_steps=(3, 4))
  assert loop.train(config(files), workdir, **how) == 0
  return workdir


def test_every_step_has_one_row_and_the_rate_of_the_formula(run):
  rows = tiny_run.rows_without_times(run)
  assert [r["step"] for r in rows] == list(range(7))
  # Update i: 1e-3 (i + 1) / 3 for i < 2, then a cosine over 3 more to a tenth.
  want = [1e-3 / 3, 2e-3 / 3] + [
    1e-3 * (0.1 + 0.9 * (1 + math.cos(math.pi * i / 3)) / 2) for i in range(4)
  ]
  np.testing.assert_allclose([r["lr"] for r in rows[1:]], want, rtol=1e-6)
  assert [r["step"] for r in rows if "eval/accuracy" in r] == [0, 2, 4, 6]
  assert all(r["groups"] == 4 and r["skipped"] == 0 for r in rows[1:])
  # Zeros head: every score 0, all tied.
  assert rows[1]["loss"] == pytest.approx(math.log(2), rel=1e-6)
  assert rows[0]["eval/loss"] == pytest.approx(math.log(2), rel=1e-6)
  assert (rows[0]["eval/accuracy"], rows[0]["eval/tie_rate"]) == (0.5, 1.0)


# Keys of docs/log.md that not every run has.
SOMETIMES = {
  "loss/TERM",
  "learned/TASK/NAME",
  "useful_utilisation",
  "computed_utilisation",
  "host_seconds_median",
  "host_seconds_max",
  "slowest_host",
  "eval/METRIC",
  "eval/METRIC_low",
  "eval/METRIC_high",
}


def test_the_page_about_the_log_has_every_key(run):
  table = re.findall(r"^\| (`.*?) \|", DOCS.read_text(), re.M)
  listed = set(re.findall(r"`(.*?)`", " ".join(table)))
  rows = read_rows(run / "metrics.jsonl")
  logged = {k for row in rows for k in row if not k.startswith("eval/")}
  assert listed == logged | SOMETIMES


def test_useful_flops_go_with_useful_tokens(run):
  # Wrong: FLOPs of one device, of a step in place of a second, of padding.
  for row in read_rows(run / "metrics.jsonl")[1:]:
    useful = row["useful_flops_per_second"] / row["useful_tokens_per_second"]
    # last:1 of two layers: 2 N and 6 N a token, and some for attention.
    layer = TINY.width * TINY.head_dim * (2 * TINY.heads + 2 * TINY.kv_heads)
    layer += 3 * TINY.width * TINY.mlp_width
    matrices = layer * (2 * (TINY.layers - 1) + 6)
    most = matrices + 64 * 2 * TINY.heads * TINY.head_dim * (
      2 * (TINY.layers - 1) + 6
    )
    assert matrices < useful < most
    assert row["computed_flops_per_second"] > row["useful_flops_per_second"]
    assert "useful_utilisation" not in row


def test_a_trace_holds_the_steps_of_its_range_and_no_other(run):
  # Wrong: a trace that nobody stopped, which is never written.
  (path,) = (run / "trace").rglob("*.xplane.pb")
  trace = ProfileData.from_serialized_xspace(path.read_bytes())
  events = [e for x in trace.planes for line in x.lines for e in line.events]
  marks = [dict(e.stats)["step_num"] for e in events if e.name == "train"]
  assert sorted(marks) == [3, 4]


def test_results_say_what_was_left_out_and_why(run):
  results = json.loads((run / "results.json").read_text())
  counts = results["counts"]
  assert counts["unreadable"] == 1
  assert counts["train_rejected"] + counts["test_rejected"] == 1
  assert counts["train_overlong"] + counts["test_overlong"] == 1
  assert counts["train_groups"] + counts["test_groups"] == 38
  lines = (run / "rejects.jsonl").read_text().splitlines()
  reasons = {r["line"]: r["reason"] for r in map(json.loads, lines)}
  assert sorted(reasons) == [4, 6, 41]
  assert "identical after tokenisation" in reasons[4]
  assert "longer than a row of 64 tokens" in reasons[6]
  assert "bad JSON" in reasons[41]
  assert results["num_train_steps"] == 6 and results["ties"] == "half"
  assert results["metrics"]["accuracy"]["seeds"] == [0]
  assert results["command"] == "rm-jax train"


def test_best_is_the_best_of_all_evaluations(run):
  rows = [r for r in tiny_run.rows_without_times(run)[1:] if "eval/loss" in r]
  best = json.loads((run / "best.json").read_text())
  values = [r["eval/accuracy"] for r in rows]
  assert best["metric"] == "accuracy" and best["value"] == max(values)
  assert best["step"] == rows[values.index(max(values))]["step"]
  assert load_params(run, "best", None)[1] == best["step"]


def test_checkpoints_hold_what_trains_only(run):
  params, step = load_params(run, "last", None)
  assert step == 6
  assert sorted(params) == ["backbone", "head"]
  assert sorted(params["backbone"]) == ["final_norm", "layers_1"]
  assert params["backbone"]["layers_1"]["mlp"]["up"]["kernel"].shape[0] == 1
  assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["4", "6"]


def test_scores_are_those_of_the_results(run):
  found = np.load(run / "scores.npz")
  results = json.loads((run / "results.json").read_text())["metrics"]
  group, i, j = found["comparisons"].T
  first = np.searchsorted(found["group"], group)
  diff = found["scores"][first + i] - found["scores"][first + j]
  right = np.where(diff == 0, 0.5, diff > 0)
  assert right.mean() == results["accuracy"]["value"]
  # Read at its last token alone, a completion has one slot: its score.
  np.testing.assert_array_equal(found["slot_counts"], 1)
  np.testing.assert_array_equal(found["slots"], found["scores"])


def test_a_finished_run_started_again_is_evaluated_again(files, run):
  before = (run / "metrics.jsonl").read_text(), (run / "best.json").read_text()
  results = json.loads((run / "results.json").read_text())["metrics"]
  assert loop.train(config(files), run, command="rm-jax train") == 0
  assert before == (
    (run / "metrics.jsonl").read_text(),
    (run / "best.json").read_text(),
  )
  assert json.loads((run / "results.json").read_text())["metrics"] == results


def test_a_step_that_is_not_finite_is_said_and_the_run_goes_on(
  files, tmp_path, monkeypatch, capsys
):
  # Wrong: a NaN formatted as a number, or written as NaN, which is not JSON.
  opened = loop.open_loader

  def poisoned(*args, **kwargs):
    for n, (batch, owners, counts) in enumerate(opened(*args, **kwargs), 1):
      if n == 2:
        batch.comparison_weight[batch.comparison_weight > 0] = np.nan
      yield batch, owners, counts

  monkeypatch.setattr(loop, "open_loader", poisoned)
  c = config(
    files,
    num_train_steps=3,
    train__checkpoint_every=100,
    optim__warmup_steps=1,
    evals__every=100,
  )
  with pytest.raises(AttributeError, match="get_state"):  # saving: no position
    loop.train(c, tmp_path, command="")
  rows = tiny_run.rows_without_times(tmp_path)
  assert [r["skipped"] for r in rows[1:]] == [0, 1, 1]
  assert rows[2]["loss"] is None and rows[3]["loss"] > 0
  assert rows[3]["lr"] == rows[2]["lr"]  # the update that was skipped
  assert "step 2: loss or gradient not finite" in capsys.readouterr().out


@pytest.mark.parametrize(
  "name, values, best",
  [
    ("accuracy", [0.5, 0.7, 0.7, 0.6], 0.7),
    ("loss", [0.7, 0.5, 0.6, 0.5], 0.5),
    ("squared_error", [3.0, 2.0, 2.5, 2.0], 2.0),
    ("accuracy", [None, 0.4, None, 0.3], 0.4),
  ],
)
def test_best_by_a_named_metric(files, tmp_path, name, values, best):
  # Wrong: the largest loss is the best one; a later tie replaces the first.
  c = config(files, evals__metric=name)
  params = {"head": {"kernel": np.zeros(2, np.float32)}}
  for step, value in enumerate(values):
    metrics = {name: {"value": value}}
    if loop._is_best(tmp_path, c, metrics):
      loop._keep_best(tmp_path, tmp_path, c, step, metrics, params)
  found = json.loads((tmp_path / "best.json").read_text())
  assert found == {"metric": name, "value": best, "step": values.index(best)}
  # Another metric starts anew: its values cannot be compared with these.
  other = config(files, evals__metric="brier")
  assert loop._is_best(tmp_path, other, {"brier": {"value": 9.0}})


@pytest.mark.parametrize(
  "name, lower",
  [
    ("accuracy", False),
    ("glossary/accuracy", False),  # a task's name is not a metric's
    ("glossary/loss", True),
    ("glossary/loss/centering", True),
    ("score_mean", False),
    ("loss/likelihood", True),
    ("squared_error/terror", True),
    ("label_brier", True),
    ("label_calibration_error", True),
  ],
)
def test_lower_is_better_is_told_by_the_metric_alone(name, lower):
  # Catches: "loss" in "glossary/accuracy" keeps the worst checkpoint as best.
  assert loop._lower_is_better(name, ("glossary",)) is lower


def test_the_best_of_a_task_with_a_telling_name(files, tmp_path):
  c = config(files, evals__metric="glossary/accuracy")
  c.tasks.glossary = task()
  (tmp_path / "best.json").write_text(
    json.dumps({"metric": "glossary/accuracy", "value": 0.6})
  )
  for value, best in ((0.5, False), (0.7, True)):
    metrics = {"glossary/accuracy": {"value": value}}
    assert loop._is_best(tmp_path, c, metrics) is best


def test_a_metric_that_is_not_measured_is_refused_before_the_first_step(
  files, tmp_path
):
  with pytest.raises(UserError, match=r"metric='f1' is not measured.*accuracy"):
    loop.train(config(files, evals__metric="f1"), tmp_path, command="")
  assert tiny_run.rows_without_times(tmp_path) == []


def test_a_full_disk_while_logging_is_one_line(files, tmp_path, monkeypatch):
  def full(self, row):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(loop.Log, "write", full)
  with pytest.raises(UserError, match="no room on its disk.*Saved checkpoints"):
    loop.train(config(files), tmp_path, command="")


def test_other_failures_stay_what_they_are(files, tmp_path, monkeypatch):
  def broken(self, row):
    raise OSError(5, "Input/output error")

  monkeypatch.setattr(loop.Log, "write", broken)
  with pytest.raises(OSError, match="Input/output"):
    loop.train(config(files), tmp_path, command="")


def test_blocks_that_do_not_split_name_the_nearest():
  with pytest.raises(
    UserError,
    match=r"blocks=12 .* 8 devices .*=2 .*remainder 12.*above: 16",
  ):
    c = config(("data", "tokenizer"), data__blocks=12, train__accumulate=2)
    check_cuts(c, make_mesh(data=8, fsdp=1, tensor=1))
