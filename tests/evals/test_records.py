"""`eval`: the numbers of training again, and never on its own prompts."""

import json
import shutil

import numpy as np
import pytest

from rm_jax import RewardModel
from rm_jax.evals.records import evaluate_records, table
from rm_jax.types import UserError
from tests import tiny_run, trained


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
  return trained.run(tmp_path_factory.getbasetemp(), "all")


@pytest.fixture
def test_rows(workdir, tmp_path):
  """The file of the pairs that the run was evaluated on."""
  held_out = {r.prompt for r in trained.held_out(workdir)}
  rows = [r for r in tiny_run.pairs(24) if r["prompt"] in held_out]
  assert 2 < len(rows) < 20
  return tiny_run.write_rows(tmp_path / "test.jsonl", rows)


def evaluate(model, data, out, **changes):
  settings = dict(
    kind="auto",
    max_groups=0,
    allow_overlap=False,
    dtype="float32",
    command="rm-jax eval",
  )
  return evaluate_records(str(model), data, out, **settings | changes)


def read(path):
  return json.loads(path.read_text())


def edited(workdir, folder, change):
  """A copy of the run whose config went through `change`."""
  shutil.copytree(workdir, folder)
  run = read(folder / "run.json")
  change(run["config"])
  (folder / "run.json").write_text(json.dumps(run))
  return folder


def test_gives_the_numbers_of_the_training_run(workdir, test_rows, tmp_path):
  # Catches another loss or supervision than the run's, mean of batch means, a
  # length rule turned round. The loop computed these over eight devices.
  text = evaluate(workdir / "checkpoints" / "2", test_rows, tmp_path / "out")
  ours = read(tmp_path / "out" / "results.json")
  theirs = read(workdir / "results.json")
  assert ours["metrics"].keys() == theirs["metrics"].keys()
  for name, want in theirs["metrics"].items():
    got = ours["metrics"][name]
    assert got["n"] == want["n"] and got["seeds"] == want["seeds"], name
    for key in ("value", "low", "high"):
      assert got[key] == pytest.approx(want[key], abs=1e-5), (name, key)
  assert ours["schema"] == theirs["schema"]
  assert ours["command"] == "rm-jax eval" and ours["num_train_steps"] == 2
  n = theirs["metrics"]["accuracy"]["n"]
  assert ours["counts"] == {
    "groups": n,
    "rejected": 0,
    "overlong": 0,
    "trained_on": 0,
  }
  assert f"{n} groups evaluated, 0 rejected, 0 overlong" in text
  assert "loss: bradley_terry" in text and "0 of them trained on" in text
  lines = table(ours["metrics"]).splitlines()
  assert len(lines) > 8 and set(lines) <= set(text.splitlines())
  assert (tmp_path / "out" / "results.rejects.jsonl").read_text() == ""


def test_refuses_prompts_it_was_trained_on(workdir, test_rows, tmp_path):
  # Trap 22. Catches a comparison of whole records: the answers differ here,
  # the spaces and capitals of the prompt too.
  held_out = {r.prompt for r in trained.held_out(workdir)}
  old = next(r for r in tiny_run.pairs(24) if r["prompt"] not in held_out)
  seen = {
    "prompt": f"  {old['prompt'].upper()} ",
    "chosen": "Be kind .",
    "rejected": "Be brief .",
  }
  rows = [json.loads(line) for line in test_rows.read_text().splitlines()]
  tiny_run.write_rows(test_rows, [*rows, seen])
  with pytest.raises(UserError) as error:
    evaluate(workdir, test_rows, tmp_path / "r.json")
  assert f"1 of {len(rows) + 1} records of {test_rows}" in str(error.value)
  assert "--allow_overlap" in str(error.value)
  assert not (tmp_path / "r.json").exists()
  text = evaluate(workdir, test_rows, tmp_path / "r.json", allow_overlap=True)
  assert read(tmp_path / "r.json")["counts"]["trained_on"] == 1
  assert "1 of them trained on" in text


def test_says_when_the_prompts_could_not_be_checked(
  workdir, test_rows, tmp_path
):
  # Catches "0 trained on" where nobody looked.
  model = edited(workdir, tmp_path / "run", lambda config: None)
  (model / "trained_on.json").unlink()
  text = evaluate(model, test_rows, tmp_path / "r.json")
  assert "not checked (" in text and "trained_on.json is not there" in text
  assert read(tmp_path / "r.json")["counts"]["trained_on"] is None


@pytest.mark.parametrize("chosen_is_longer", [True, False])
def test_the_length_rule_is_that_of_the_training_data(
  workdir, test_rows, tmp_path, chosen_is_longer
):
  # Catches a baseline fitted to the test data, or one that always says longer.
  model = edited(workdir, tmp_path / "run", lambda config: None)
  told = read(model / "trained_on.json")
  told["longer_is_better"] = chosen_is_longer
  (model / "trained_on.json").write_text(json.dumps(told))
  text = evaluate(model, test_rows, tmp_path / "r.json")
  rule = "longer" if chosen_is_longer else "shorter"
  assert f"length_only_accuracy: the {rule} completion" in text
  tokenizer = RewardModel.load(workdir).tokenizer
  credit = []
  for line in test_rows.read_text().splitlines():
    row = json.loads(line)
    a, b = (len(tokenizer(row[k])["input_ids"]) for k in ("chosen", "rejected"))
    credit.append(0.5 if a == b else float((a > b) == chosen_is_longer))
  got = read(tmp_path / "r.json")["metrics"]["length_only_accuracy"]["value"]
  assert got == pytest.approx(sum(credit) / len(credit))


def test_what_is_left_out_is_counted_and_written(workdir, tmp_path):
  # Catches an overlong record that is dropped in silence (trap 33).
  good = dict(prompt="Who wrote this ?", chosen="A poet .", rejected="Yes .")
  rows = [
    good,
    good | dict(chosen="Yes ."),
    good | dict(chosen="two " * 90),
    good | dict(prompt="Nobody knows"),
  ]
  data = tiny_run.write_rows(tmp_path / "test.jsonl", rows)
  text = evaluate(workdir, data, tmp_path / "some.json")
  counts = read(tmp_path / "some.json")["counts"]
  assert counts == dict(groups=2, rejected=1, overlong=1, trained_on=0)
  lines = (tmp_path / "some.rejects.jsonl").read_text().splitlines()
  rejects = [json.loads(line) for line in lines]
  assert [r["line"] for r in rejects] == [2, 3]
  assert "identical" in rejects[0]["reason"]
  assert "longer than a row of 64 tokens" in rejects[1]["reason"]
  assert "2 groups evaluated, 1 rejected, 1 overlong" in text
  evaluate(workdir, data, tmp_path / "some.json", max_groups=1)
  assert read(tmp_path / "some.json")["counts"]["groups"] == 1


def test_a_prompt_is_cut_if_the_run_cut_it(workdir, tmp_path):
  # Catches an evaluation that leaves out what training kept.
  def cut(config):
    config["data"]["overlong"] = "cut_prompt"

  model = edited(workdir, tmp_path / "run", cut)
  row = dict(prompt="two " * 90, chosen="A poet .", rejected="Yes .")
  data = tiny_run.write_rows(tmp_path / "test.jsonl", [row])
  evaluate(model, data, tmp_path / "r.json")
  assert read(tmp_path / "r.json")["counts"]["groups"] == 1


def test_a_published_model_is_asked_for_comparisons(
  test_rows, tmp_path, tmp_path_factory
):
  # By the formulas, from scores asked for one by one.
  folder = trained.published(tmp_path_factory.getbasetemp(), 1)
  text = evaluate(folder, test_rows, tmp_path / "r.json")
  assert "not checked (this model was not trained here)" in text
  model = RewardModel.load(folder)
  diffs = []
  for line in test_rows.read_text().splitlines():
    row = json.loads(line)
    a, b = model.score(row["prompt"], [row["chosen"], row["rejected"]])
    diffs.append(float(a) - float(b))
  diffs = np.array(diffs)
  metrics = read(tmp_path / "r.json")["metrics"]
  assert metrics["accuracy"]["value"] == pytest.approx(np.mean(diffs > 0))
  assert metrics["loss"]["value"] == pytest.approx(
    np.mean(np.log1p(np.exp(-diffs))), abs=1e-5
  )
  assert metrics["score_diff"]["value"] == pytest.approx(diffs.mean(), abs=1e-5)


def test_a_loss_that_the_data_cannot_answer_gives_way(
  workdir, test_rows, tmp_path
):
  # An outcome model on pairs: comparisons, and the loss is named.
  def outcome(config):
    config["loss"]["name"] = "outcome_cross_entropy"

  model = edited(workdir, tmp_path / "run", outcome)
  text = evaluate(model, test_rows, tmp_path / "r.json")
  assert "loss: bradley_terry" in text
  assert "accuracy" in read(tmp_path / "r.json")["metrics"]
  rows = [
    dict(prompt=f"two plus {n} ?", completion="It is four .", label=n % 2 == 0)
    for n in range(4)
  ]
  data = tiny_run.write_rows(tmp_path / "labels.jsonl", rows)
  text = evaluate(model, data, tmp_path / "r.json")
  metrics = read(tmp_path / "r.json")["metrics"]
  assert "loss: outcome_cross_entropy" in text and "accuracy" not in metrics
  assert metrics["majority_accuracy"]["value"] == 0.5
  assert "length_only_accuracy" not in text


def test_nothing_to_evaluate_says_why(workdir, tmp_path):
  rows = [dict(prompt="Who ?", completions=["A poet ."])]
  data = tiny_run.write_rows(tmp_path / "test.jsonl", rows)
  with pytest.raises(UserError, match="none of 1 records .* no ordered pair"):
    evaluate(workdir, data, tmp_path / "r.json")
  data = tiny_run.write_rows(tmp_path / "test.jsonl", [{"query": 1}])
  with pytest.raises(UserError, match="none of 1 records .* unrecognised"):
    evaluate(workdir, data, tmp_path / "r.json")


def test_results_of_training_are_not_overwritten(workdir, test_rows):
  before = (workdir / "results.json").read_bytes()
  for out in (workdir, workdir / "results.json"):
    with pytest.raises(UserError, match="choose another folder, or a name"):
      evaluate(workdir, test_rows, out)
  assert (workdir / "results.json").read_bytes() == before


def test_the_table_is_aligned_and_whole():
  metrics = {
    "accuracy": dict(value=0.75, low=0.5, high=1.0, n=1234),
    "length_correlation": dict(value=None, low=None, high=None, n=2),
  }
  assert table(metrics).splitlines() == [
    "metric               value  95 % interval         n",
    "accuracy            0.7500  [0.5000, 1.0000]  1,234",
    "length_correlation       -                        2",
  ]
