"""Every line of the input scored or set aside, also after a kill."""

import dataclasses
import gzip
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from rm_jax import RewardModel
from rm_jax.data.fields import join_steps
from rm_jax.evals import score
from rm_jax.evals.score import model_digest, score_file
from rm_jax.evals.shards import score_shards
from rm_jax.types import UserError
from tests import tiny_run, trained

PROMPT = "What is two plus two ?"
FOUR, FIVE = "It is four .", "It is five ."
STEPS = ["First add two .", "Then add one ."]
LONG = " ".join(["two"] * 100)  # a row holds 64 tokens


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
  return trained.run(tmp_path_factory.getbasetemp(), "all")


@pytest.fixture(scope="session")
def model(workdir):
  return RewardModel.load(workdir)


@pytest.fixture
def loaded(model, monkeypatch):
  """score_file without reading the checkpoint every time."""
  monkeypatch.setattr(RewardModel, "load", lambda x, **how: model)


def run(tmp_path, rows, *, kind="auto", name="in.jsonl", output="out.jsonl"):
  """(summary, rows out, rejects) of one file; strings are lines as they are."""
  lines = [r if isinstance(r, str) else json.dumps(r) for r in rows]
  (tmp_path / name).write_text("".join(line + "\n" for line in lines))
  out = tmp_path / output
  text = score_file("m", tmp_path / name, out, kind=kind, dtype="float32")
  return text, read(out), read(tmp_path / f"{output}.rejects.jsonl")


def read(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def same(got, want):
  """Packed beside others: equal to 1e-5."""
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


# ---------------------------------------------------------------- the keys


def test_every_kind_gains_its_keys(tmp_path, loaded, model):
  # Catches chosen and rejected swapped, a score of another row, K=1 written as
  # a number where the row has a list, and steps joined differently.
  two = model.score(PROMPT, [FOUR, FIVE])
  steps = model.score_steps(PROMPT, STEPS)
  other = model.score_steps(PROMPT, [FIVE])
  many = dict(prompt=PROMPT, completions=[FOUR, FIVE])
  turns = [
    {"role": "user", "content": PROMPT},
    {"role": "assistant", "content": FOUR},
  ]
  cases = [
    (dict(prompt=PROMPT, chosen=FIVE, rejected=FOUR), None),
    (many | dict(ranks=[1, 0]), {"scores": two}),
    (many | dict(ratings=[1, 5]), {"scores": two}),
    (many, {"scores": two}),
    (dict(prompt=PROMPT, completions=[FOUR]), {"scores": two[:1]}),
    (dict(prompt=PROMPT, completion=FOUR), {"score": two[0]}),
    (dict(prompt=PROMPT, completion=FIVE, label=True), {"score": two[1]}),
    (dict(messages=turns, label=False), {"score": two[0]}),
    (
      dict(prompt=PROMPT, completions=STEPS, labels=[True, False]),
      {"step_scores": steps},
    ),
    (
      dict(prompt=PROMPT, completions=[STEPS, [FIVE]], labels=[[1, 0], [1]]),
      {"step_scores": [steps, other]},
    ),
    (
      dict(
        question=PROMPT,
        a=dict(solution=FOUR, is_correct=True),
        b=dict(solution=FIVE, is_correct=False),
      ),
      {"scores": two},
    ),
  ]
  rows = [
    dict(row, id=i, extra={"é": None}) for i, (row, _) in enumerate(cases)
  ]
  text, out, rejects = run(tmp_path, rows)
  assert rejects == [] and text.startswith("11 rows scored into ")
  (tmp_path / "out.jsonl.progress.json").unlink()
  for row, got, (_, want) in zip(rows, out, cases, strict=True):
    if want is None:
      want = {"chosen_score": two[1], "rejected_score": two[0]}
    assert {k: v for k, v in got.items() if k not in want} == row
    assert list(got)[: len(row)] == list(row)  # new keys come last
    for key, value in want.items():
      if key == "step_scores" and isinstance(value, list):
        for a, b in zip(got[key], value, strict=True):
          same(a, b)
      else:
        assert np.shape(got[key]) == np.shape(value)
        same(got[key], value)


def test_outcome_lists_are_scored_when_the_kind_says_so(
  tmp_path, loaded, model
):
  # {prompt, completions, labels} means steps unless --kind=outcome.
  row = dict(prompt=PROMPT, completions=[FOUR, FIVE], labels=[True, False])
  _, (got,), _ = run(tmp_path, [row], kind="outcome")
  same(got["scores"], model.score(PROMPT, [FOUR, FIVE]))


def test_alternatives_of_a_step_tree(tmp_path, loaded, model):
  # Catches an alternative scored after the step it replaces, and a step
  # without a rating that is counted.
  def step(*texts, chosen=0, ratings):
    completions = [
      dict(text=t, rating=r) for t, r in zip(texts, ratings, strict=True)
    ]
    return dict(completions=completions, chosen_completion=chosen)

  row = dict(
    question=dict(problem=PROMPT),
    label=dict(
      steps=[
        step(STEPS[0], ratings=[1]),
        step(STEPS[1], "Yes .", ratings=[1, -1]),
      ]
    ),
  )
  _, (got,), _ = run(tmp_path, [row])
  path = model.score_steps(PROMPT, STEPS)
  fork = model.score_steps(PROMPT, [STEPS[0], "Yes ."])
  assert [len(s) for s in got["step_scores"]] == [2, 1]
  same(got["step_scores"][0], path)
  same(got["step_scores"][1], fork[1:])


def test_a_step_without_a_rating_has_a_score(tmp_path, loaded, model):
  # Catches steps that are left out because nobody labelled them.
  text, (end,) = join_steps((FOUR,))
  assert end == len(text)
  steps = [
    dict(completions=[dict(text=FOUR, rating=None)], chosen_completion=0)
  ]
  row = dict(question=dict(problem=PROMPT), label=dict(steps=steps))
  _, (got,), _ = run(tmp_path, [row])
  ((score,),) = got["step_scores"]
  same([score], model.score_steps(PROMPT, [FOUR]))


def test_every_step_has_a_score_also_after_the_first_error(
  tmp_path, loaded, model
):
  row = dict(problem=PROMPT, steps=STEPS, label=0, final_answer_correct=False)
  _, (got,), _ = run(tmp_path, [row])
  same(got["step_scores"], model.score_steps(PROMPT, STEPS))


def test_a_row_of_several_questions_has_a_list_for_each(tmp_path, loaded):
  # MR-Ben: one JSON object holds a file. Wrong: one record per row assumed.
  def solution(steps, error):
    return {
      "Question": PROMPT,
      "Options": "",
      "Model_Solution_Steps": [
        f"Step {n}: {s}" for n, s in enumerate(steps, 1)
      ],
      "Model_Solution_Correctness": "correct" if error == "N/A" else "wrong",
      "Model_Solution_First_Error_Step": error,
    }

  row = {"a": [solution(STEPS, "N/A")], "b": [solution(STEPS[:1], "N/A")]}
  _, (got,), _ = run(tmp_path, [row])
  assert [[len(s) for s in group] for group in got["step_scores"]] == [
    [len(STEPS)],
    [1],
  ]


def test_scores_stay_with_the_sides_of_the_row(tmp_path, loaded):
  # A vote against the chosen one turns the record, not the row's names.
  row = dict(prompt=PROMPT, chosen=FOUR, rejected="Yes .")
  rows = [row, row | {"preference": 0.2}, row | {"tie": True}]
  _, got, _ = run(tmp_path, rows)
  for other in got[1:]:
    for key in ("chosen_score", "rejected_score"):
      same([other[key]], [got[0][key]])


def reply(text, rank=None, *replies, role="assistant"):
  return dict(
    message_id=text, text=text, role=role, rank=rank, replies=list(replies)
  )


def tree(*replies):
  return dict(
    message_tree_id="t", prompt=reply(PROMPT, None, *replies, role="prompter")
  )


def test_a_tree_gains_a_list_per_group_of_replies(tmp_path, loaded, model):
  # One row, several groups: depth first, the dialogue before each as prompt.
  asked = reply(
    "Who wrote this ?",
    None,
    reply("A poet .", 0),
    reply("Yes .", 1),
    role="prompter",
  )
  rows = [
    tree(reply(FOUR, 0, asked), reply(FIVE, 1)),
    tree(reply(FOUR, 0), reply(FIVE, 1)),
    tree(reply(FOUR, 0)),
    tree(reply(FOUR, 0, asked), reply(LONG, 1)),
  ]
  _, out, rejects = run(tmp_path, rows)
  first = model.score(PROMPT, [FOUR, FIVE])
  dialogue = [
    {"role": "user", "content": PROMPT},
    {"role": "assistant", "content": FOUR},
    {"role": "user", "content": "Who wrote this ?"},
  ]
  second = model.score(dialogue, ["A poet .", "Yes ."])
  same(out[0]["scores"][0], first)
  same(out[0]["scores"][1], second)
  same(out[1]["scores"], [first])  # a list of lists all the same
  assert out[2]["scores"][0] is None and "unscored" not in out[0]
  same(out[2]["scores"][1], second)
  assert len(out[2]["unscored"]) == 1
  assert out[2]["unscored"][0].startswith("group 0: prompt and completion 1")
  assert [r["line"] for r in rejects] == [3]
  assert (
    rejects[0]["reason"] == "the row holds no group of completions to score"
  )


def test_scores_read_back_bit_equal(tmp_path, loaded, model):
  # Catches rounding (trap 28: two decimals make ties) and float32 text that
  # reads back as another float32.
  rows = [dict(prompt=PROMPT, completions=[FOUR, FIVE, *STEPS])]
  _, (got,), _ = run(tmp_path, rows)
  want = model.score(PROMPT, rows[0]["completions"])  # the same batch
  np.testing.assert_array_equal(np.asarray(got["scores"], np.float32), want)
  assert got["scores"] == [float(s) for s in want]


# ---------------------------------------------------------------- the lines


def test_every_line_is_scored_or_rejected(tmp_path, loaded):
  # Catches a line that is dropped, a batch that fails with one of its rows,
  # and lines counted without the blank ones.
  rows = [
    dict(prompt=PROMPT, completion=FOUR, n=1),
    "{bad",
    "",
    dict(prompt=PROMPT, completion=LONG),
    dict(prompt=PROMPT, completion=" "),
    dict(prompt=PROMPT, chosen=FOUR, rejected=FOUR),
    dict(prompt=PROMPT, completion="half \ud83d"),
    "[" * 200_000,
    '{"prompt": "x", "n": ' + "1" * 5_000 + "}",
    dict(prompt=PROMPT, completion=FIVE, score=1),
    dict(prompt=PROMPT, completion=FIVE, scores=2, n=11),
    dict(query=PROMPT),
    "7",
    dict(prompt=PROMPT, completion="两 🙂 \u2028", n=14),
  ]
  text, out, rejects = run(tmp_path, rows)
  assert [row["n"] for row in out] == [1, 11, 14]
  assert out[1]["scores"] == 2  # another key than ours is left alone
  assert out[2]["completion"] == "两 🙂 \u2028"
  found = {r["line"]: r["reason"] for r in rejects}
  want = {
    2: "bad JSON at column 2",
    4: "prompt and completion 0 take ",
    5: "completion 0 is empty",
    6: "chosen and rejected are identical",
    7: "half a surrogate pair, '\\ud83d', is not text",
    8: "bad JSON: ",
    9: "bad JSON: ",
    10: "the row has a field 'score' already: rename it",
    12: "unrecognised record: keys {query}",
    13: "expected a JSON object, got int",
  }
  assert list(found) == list(want)
  for line, reason in want.items():
    assert found[line].startswith(reason), found[line]
  assert {r["file"] for r in rejects} == {str(tmp_path / "in.jsonl")}
  assert text == (
    f"3 rows scored into {tmp_path / 'out.jsonl'}, 10 rejected, see "
    f"{tmp_path / 'out.jsonl.rejects.jsonl'}"
  )


def test_a_score_that_is_not_finite_is_rejected(tmp_path, model, monkeypatch):
  # Catches NaN written into a file that no JSON reader takes.
  head = {"kernel": model.params["head"]["kernel"] * np.nan}
  broken = dataclasses.replace(model, params=model.params | {"head": head})
  monkeypatch.setattr(RewardModel, "load", lambda x, dtype: broken)
  with pytest.raises(UserError, match="First: the score is not finite"):
    run(tmp_path, [dict(prompt=PROMPT, completion=FOUR)])
  assert read(tmp_path / "out.jsonl") == []
  (reject,) = read(tmp_path / "out.jsonl.rejects.jsonl")
  assert reject["reason"] == "the score is not finite"


@pytest.mark.parametrize(
  "rows, said",
  [
    (["{", '{"query": 1}'], "none of 2 rows can be scored. First: bad JSON at"),
    ([], "none of 0 rows can be scored. First: there is none"),
  ],
)
def test_nothing_scored_is_a_mistake(tmp_path, loaded, rows, said):
  # Catches: exit code 0 of a file of another format; eval says 2.
  for _ in range(2):  # the second time it was complete already
    with pytest.raises(UserError, match=said):
      run(tmp_path, rows)
  assert len(read(tmp_path / "out.jsonl.rejects.jsonl")) == len(rows)
  data, out = tmp_path / "in.jsonl", tmp_path / "shards"
  with pytest.raises(UserError, match=rf"{said}.*See \S+shards\."):
    score_shards("m", data, out, shards=2, kind="auto", dtype="float32")


def test_arrays_and_gz_give_the_same_bytes(tmp_path, loaded):
  rows = [dict(prompt=PROMPT, completion=c) for c in (FOUR, FIVE)]
  run(tmp_path, rows)
  (tmp_path / "in.json").write_text(json.dumps(rows))
  packed = gzip.compress((tmp_path / "in.jsonl").read_bytes())
  (tmp_path / "in.jsonl.gz").write_bytes(packed)
  for name in ("in.json", "in.jsonl.gz"):
    out = tmp_path / f"{name}.out"
    score_file("m", tmp_path / name, out, kind="auto", dtype="float32")
    assert out.read_bytes() == (tmp_path / "out.jsonl").read_bytes()


def test_memory_is_a_chunk(tmp_path, loaded, monkeypatch):
  # Catches a reader that takes the file whole before it scores.
  monkeypatch.setattr(score, "CHUNK_ROWS", 4)
  sizes, whole = [], score._score_rows

  def spy(model, chunk, kind, file):
    sizes.append(len(chunk))
    return whole(model, chunk, kind, file)

  monkeypatch.setattr(score, "_score_rows", spy)
  rows = [dict(prompt=PROMPT, completion=FOUR)] * 10
  run(tmp_path, rows)
  assert sizes == [4, 4, 2]


# ---------------------------------------------------------------- going on

# Dies where it hurts most: rows of the third chunk are in the output, the
# rejects of it are not, the progress file knows of neither.
KILLED = """
import os, signal, sys
from rm_jax.evals import score
score.CHUNK_ROWS = 8
calls = []
def sync(number, real=os.fsync):
  real(number)
  calls.append(number)
  if len(calls) == 5:
    os.kill(os.getpid(), signal.SIGKILL)
os.fsync = sync
score.score_file(*sys.argv[1:], kind="auto", dtype="float32")
"""


def test_a_kill_changes_nothing(tmp_path, workdir, monkeypatch):
  # Catches rows that are doubled or lost, and chunks cut elsewhere after the
  # restart: the bytes are those of a run without a break.
  rows = []
  for n, row in enumerate(tiny_run.pairs(40, seed=5)):
    rows.append("{bad" if n % 5 == 2 else json.dumps(row))
  data = tmp_path / "in.jsonl"
  data.write_text("".join(row + "\n" for row in rows))
  killed, whole = tmp_path / "killed.jsonl", tmp_path / "whole.jsonl"
  done = subprocess.run(
    [sys.executable, "-c", KILLED, workdir, data, killed],
    cwd=tiny_run.ROOT,
    env=os.environ | {"PYTHONPATH": str(tiny_run.ROOT)},
    capture_output=True,
  )
  assert done.returncode == -signal.SIGKILL, done.stderr
  progress = json.loads((tmp_path / "killed.jsonl.progress.json").read_text())
  assert progress["line"] == 16 and not progress["complete"]
  assert killed.stat().st_size > progress["output_bytes"]  # rows too many
  monkeypatch.setattr(score, "CHUNK_ROWS", 8)
  for out in (killed, whole):
    text = score_file(workdir, data, out, kind="auto", dtype="float32")
    assert text.startswith("32 rows scored")
  for end in ("", ".rejects.jsonl"):
    one, other = (p.with_name(p.name + end) for p in (killed, whole))
    assert one.read_bytes() == other.read_bytes()
  assert [
    r["line"] for r in read(killed.with_name("killed.jsonl.rejects.jsonl"))
  ] == list(range(3, 41, 5))
  assert len(read(killed)) == 32


def test_the_same_command_again_is_complete(tmp_path, loaded):
  rows = [dict(prompt=PROMPT, completion=FOUR)]
  first, *_ = run(tmp_path, rows)
  before = (tmp_path / "out.jsonl").read_bytes()
  again, *_ = run(tmp_path, rows)
  assert again == f"complete already: {first}"
  assert (tmp_path / "out.jsonl").read_bytes() == before


def test_another_input_model_or_kind_is_refused(tmp_path, model, monkeypatch):
  # Catches scores of two models in one file.
  rows = [dict(prompt=PROMPT, completion=FOUR)]
  monkeypatch.setattr(RewardModel, "load", lambda x, **how: model)
  run(tmp_path, rows)
  with pytest.raises(UserError, match="begun with another input than now: rem"):
    run(tmp_path, rows * 2)
  with pytest.raises(UserError, match="begun with another kind than now"):
    run(tmp_path, rows, kind="unlabelled")
  head = {"kernel": model.params["head"]["kernel"] + np.float32(1e-6)}
  other = dataclasses.replace(model, params=model.params | {"head": head})
  monkeypatch.setattr(RewardModel, "load", lambda x, dtype: other)
  with pytest.raises(UserError, match="begun with another model than now"):
    run(tmp_path, rows)
  monkeypatch.setattr(RewardModel, "load", lambda x, **how: model)
  (tmp_path / "out.jsonl").write_text("")
  with pytest.raises(UserError, match="holds 0 bytes, out.jsonl.progress.json"):
    run(tmp_path, rows)


def test_the_digest_is_of_all_that_scores_depend_on(model):
  # Catches a digest of the path, or of the head alone.
  embed = model.params["backbone"]["embed"]["embedding"]
  backbone = model.params["backbone"] | {"embed": {"embedding": embed * 2}}
  others = [
    dataclasses.replace(model, params=model.params | {"backbone": backbone}),
    dataclasses.replace(model, reading=model.reading._replace(row_len=63)),
    dataclasses.replace(
      model, spec=dataclasses.replace(model.spec, dtype="bfloat16")
    ),
  ]
  digests = {model_digest(m) for m in [model, *others]}
  assert len(digests) == 4 and model_digest(model) in digests


def test_an_output_of_something_else_is_not_touched(tmp_path, loaded):
  (tmp_path / "out.jsonl").write_text("precious\n")
  with pytest.raises(UserError, match="exists and no out.jsonl.progress.json"):
    run(tmp_path, [dict(prompt=PROMPT, completion=FOUR)])
  assert (tmp_path / "out.jsonl").read_text() == "precious\n"


def test_paths_that_cannot_be(tmp_path, loaded):
  (tmp_path / "in.jsonl").write_text("{}\n")

  def call(input, output, kind="auto"):
    score_file("m", input, output, kind=kind, dtype="float32")

  with pytest.raises(UserError, match="is a folder: give one file"):
    call(tmp_path, tmp_path / "out.jsonl")
  for output in (tmp_path / "in.jsonl", tmp_path, tmp_path / "out.jsonl.gz"):
    with pytest.raises(UserError, match="expected the name of a .jsonl file"):
      call(tmp_path / "in.jsonl", output)
  with pytest.raises(UserError, match="kind='pairs' is unknown"):
    call(tmp_path / "in.jsonl", tmp_path / "out.jsonl", kind="pairs")
  with pytest.raises(UserError, match="nearest there: in.jsonl"):
    call(tmp_path / "inn.jsonl", tmp_path / "out.jsonl")


@pytest.mark.parametrize("source", ["oasst_trees", "gsm8k", "prmbench"])
def test_real_files(rm_data, tmp_path, model, monkeypatch, source):
  # Every line of published files in one of the two outputs, in order; what is
  # longer than 700 tokens is rejected.
  wide = model.reading._replace(row_len=700)
  long = dataclasses.replace(model, reading=wide)
  monkeypatch.setattr(RewardModel, "load", lambda x, **how: long)
  file = next(p for p in sorted((rm_data / source).rglob("*.jsonl*")))
  opener = gzip.open if file.suffix == ".gz" else open
  with opener(file, "rt") as stream:
    lines = [line for _, line in zip(range(12), stream, strict=False)]
  _, out, rejects = run(tmp_path, [line.rstrip("\n") for line in lines])
  assert len(out) + len(rejects) == len(lines) and out
  rejected = {r["line"] for r in rejects}
  kept = [json.loads(x) for i, x in enumerate(lines, 1) if i not in rejected]
  new = ("scores", "unscored", "step_scores")
  assert [{k: v for k, v in row.items() if k not in new} for row in out] == kept
