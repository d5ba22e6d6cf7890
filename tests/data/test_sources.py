import collections
import gzip
import itertools
import json

import pytest

from rm_jax.data import sources
from rm_jax.data.rejects import Reject
from rm_jax.data.sources import load, read_records
from rm_jax.types import UserError


def write(path, *rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
  return path


def read_one(tmp_path, row, kind="auto"):
  (item,) = read_records(write(tmp_path / "rows.jsonl", row), kind=kind)
  return item


def user(text):
  return {"role": "user", "content": text}


def assistant(text):
  return {"role": "assistant", "content": text}


PAIR = dict(prompt="Q", chosen="good", rejected="bad")


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("chunk", [1, 7, 1 << 16])
def test_array_lines_and_gz_give_the_same_rows(tmp_path, monkeypatch, chunk):
  # Catches: a reader that cuts a row where its buffer ends; `.json` that holds
  # JSON Lines; rows counted from 0.
  monkeypatch.setattr(sources, "CHUNK", chunk)
  rows = [PAIR, dict(PAIR, prompt='braces ]}, and "quotes"'), dict(PAIR)]
  text = json.dumps(rows, indent=1)
  lines = "\n".join(map(json.dumps, rows))
  (tmp_path / "a.json").write_text(text)
  (tmp_path / "b.json").write_text(lines)
  (tmp_path / "c.json.gz").write_bytes(gzip.compress(text.encode()))
  (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
  for name in ("a.json", "b.json", "c.json.gz", "d.jsonl.gz"):
    records = list(read_records(tmp_path / name))
    assert [r.prompt for r in records] == [row["prompt"] for row in rows], name
    assert [r.line for r in records] == [1, 2, 3]
    assert {r.source for r in records} == {str(tmp_path / name)}
  assert len(list(read_records(tmp_path))) == 12  # a folder: all of its files


def test_lines_are_streamed(tmp_path):
  # Catches: a reader that parses the file before it yields.
  path = tmp_path / "rows.jsonl"
  path.write_text(json.dumps(PAIR) + "\n" + "{" * 50)
  assert next(read_records(path)).completions == ("good", "bad")


def test_missing_file_names_the_nearest(tmp_path):
  write(tmp_path / "train.jsonl", PAIR)
  with pytest.raises(
    UserError,
    match=r"trian.jsonl does not exist \(nearest "
    r"there: train.jsonl\)",
  ):
    list(read_records(tmp_path / "trian.jsonl"))


def test_bad_json_is_a_reject_with_its_line(tmp_path):
  # Catches: blank lines that are not counted; a reader that stops.
  path = tmp_path / "rows.jsonl"
  good = json.dumps(PAIR)
  path.write_text(f"{good}\n\n{{bad\n{good}\n")
  items = list(read_records(path))
  assert [item.line for item in items] == [1, 3, 4]
  assert items[1].file == str(path)
  assert items[1].reason.startswith("bad JSON at column 2")


def test_not_utf8_is_a_reject(tmp_path):
  path = tmp_path / "rows.jsonl"
  path.write_bytes(b'{"a": "\xff"}\n' + json.dumps(PAIR).encode())
  bad, good = read_records(path)
  assert bad == Reject(str(path), 1, "not UTF-8 at byte 7 of the line")
  assert good.line == 2


def test_broken_array_stops_the_run(tmp_path):
  # Catches: the rest of an array lost behind one bad row.
  path = tmp_path / "rows.json"
  path.write_text("[" + json.dumps(PAIR) + ", {bad}, " + json.dumps(PAIR) + "]")
  with pytest.raises(UserError, match="bad JSON in row 2 of the array"):
    list(read_records(path))
  path.write_text("[" + json.dumps(PAIR))
  with pytest.raises(UserError, match=r"row 1 of the array \(it breaks off\)"):
    list(read_records(path))


def test_cut_gz_stops_the_run(tmp_path):
  path = tmp_path / "rows.jsonl.gz"
  path.write_bytes(gzip.compress(json.dumps(PAIR).encode() * 99)[:40])
  with pytest.raises(UserError, match="not a whole gzip file"):
    list(read_records(path))


@pytest.mark.parametrize("share, stops", [(0.25, False), (0.24, True)])
def test_load_writes_rejects_and_stops_above_the_share(tmp_path, share, stops):
  # Catches: >= instead of >; a share of the good records instead of all.
  bad = dict(PAIR, chosen=" ")
  path = write(tmp_path / "rows.jsonl", PAIR, bad, PAIR, PAIR)
  out = tmp_path / "run" / "rejects.jsonl"
  if stops:
    with pytest.raises(
      UserError,
      match=(
        r"1 of 4 records are rejected \(25.0%\).*max_reject_share=0.24.*"
        r"rows.jsonl:2: the chosen completion is empty"
      ),
    ):
      load(path, max_reject_share=share, rejects_path=out)
  else:
    assert len(load(path, max_reject_share=share, rejects_path=out)) == 3
  assert [json.loads(line) for line in out.read_text().splitlines()] == [
    dict(file=str(path), line=2, reason="the chosen completion is empty")
  ]


def test_load_leaves_no_rejects_of_an_earlier_run(tmp_path):
  out = tmp_path / "rejects.jsonl"
  out.write_text("old")
  path = write(tmp_path / "rows.jsonl", PAIR)
  load(path, max_reject_share=0, rejects_path=out)
  assert out.read_text() == ""


def test_load_refuses_a_file_without_records(tmp_path):
  with pytest.raises(UserError, match="holds no records"):
    path = write(tmp_path / "rows.jsonl")
    load(path, max_reject_share=1, rejects_path=tmp_path / "rejects.jsonl")


def test_unknown_kind_lists_the_known(tmp_path):
  with pytest.raises(UserError, match="kind='pears' is unknown.*ranking"):
    list(read_records(tmp_path, kind="pears"))


# ---------------------------------------------------------------- pairs


def test_standard_pair(tmp_path):
  row = dict(PAIR, strength=2, chosen_rating=5, rejected_rating=2)
  got = read_one(tmp_path, row)
  assert (got.kind, got.prompt) == ("pair", "Q")
  assert got.completions == ("good", "bad")
  assert (got.ranks, got.ratings, got.strength) == ((0, 1), (5.0, 2.0), 2.0)


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("prompt", ["Q", [user("Q")]])
def test_conversational_pair_with_a_prompt(tmp_path, prompt, repeats):
  # Catches: a prompt that stands twice, when `chosen` repeats it.
  head = [user("Q")] if repeats else []
  row = dict(
    prompt=prompt,
    chosen=[*head, assistant("good")],
    rejected=[*head, assistant("bad")],
  )
  assert read_one(tmp_path, row).completions == ("good", "bad")


def test_implicit_prompt_of_messages_leaves_both_a_turn(tmp_path):
  # Catches: the shorter conversation taken whole as the prompt.
  short = [user("a"), assistant("b")]
  long = [*short, user("c"), assistant("d")]
  got = read_one(tmp_path, dict(chosen=long, rejected=short))
  assert got.prompt == (user("a"),)
  assert got.completions == (
    (assistant("b"), user("c"), assistant("d")),
    "b",
  )


def test_implicit_prompt_of_a_dialogue(tmp_path):
  head = "\n\nHuman: hi\n\nAssistant: yes?\n\nHuman: why\n\nAssistant:"
  row = dict(chosen=head + " It is so", rejected=head + " It is")
  got = read_one(tmp_path, row)
  # Catches: the common text "It is" counted to the prompt.
  assert got.prompt == (user("hi"), assistant("yes?"), user("why"))
  assert got.completions == ("It is so", "It is")


@pytest.mark.parametrize(
  "chosen, reason",
  [
    ("\n\nHuman: hi\n\nAssistant: ", "the chosen completion is empty"),
    ("\n\nHuman: ho\n\nAssistant: x", "earlier turns of chosen and rejected"),
    (
      "\n\nHuman: hi",
      "the chosen dialogue does not end with an Assistant turn",
    ),
    ("\n\nHuman: hi\n\nAssistant: no", "chosen and rejected are identical"),
    ("\n\nHuman: hi\n\nAssistant: no ", "chosen and rejected are identical"),
  ],
)
def test_bad_dialogues_are_rejected_by_name(tmp_path, chosen, reason):
  row = dict(chosen=chosen, rejected="\n\nHuman: hi\n\nAssistant: no")
  assert read_one(tmp_path, row).reason.startswith(reason)


@pytest.mark.parametrize(
  "chosen, rejected, prompt",
  [
    ("The cat sat", "The cap fell", "The "),  # not "The ca"
    ("The cat", "The cat sat", "The "),  # not the whole of one
    ("yes", "no", ""),
  ],
)
def test_implicit_prompt_of_strings_ends_at_a_word(
  tmp_path, chosen, rejected, prompt
):
  got = read_one(tmp_path, dict(chosen=chosen, rejected=rejected))
  assert got.prompt == prompt
  assert [prompt + c for c in got.completions] == [chosen, rejected]


# ---------------------------------------------------------------- other kinds


def test_ranking_ratings_outcome(tmp_path):
  texts = dict(prompt="Q", completions=["a", "b", "c"])
  assert read_one(tmp_path, dict(texts, ranks=[1, 2, 2])).ranks == (1, 2, 2)
  got = read_one(tmp_path, dict(texts, ratings=[1, 2.5, 3]))
  assert (got.kind, got.ratings) == ("ratings", (1.0, 2.5, 3.0))
  # Catches int(): a soft label 0.7 read as 0.
  row = dict(texts, labels=[True, 0.7, 0])
  got = read_one(tmp_path, row, kind="outcome")
  assert (got.kind, got.labels) == ("outcome", (1.0, 0.7, 0.0))
  got = read_one(tmp_path, dict(prompt="Q", completion="a", label=False))
  assert (got.kind, got.labels) == ("outcome", (0.0,))
  assert read_one(tmp_path, texts).kind == "unlabelled"


def test_steps_end_at_their_last_character(tmp_path):
  row = dict(prompt="Q", completions=["one", "two \n", "x"], labels=[1, 0, 0.5])
  got = read_one(tmp_path, row)
  assert got.completions == ("one\ntwo \n\nx",)
  # characters: one|\n|two| \n\n|x; white space does not end a step
  assert got.step_ends == ((3, 7, 11),)
  # Catches int() and bool() on soft labels.
  assert got.step_labels == ((1.0, 0.0, 0.5),)


def test_three_class_steps_keep_wrong_and_neutral_apart(tmp_path):
  # Catches: bool(-1) == True, and a neutral 0 read as wrong.
  row = dict(prompt="Q", completions=["a", "b", "c"], labels=[1, 0, -1])
  assert read_one(tmp_path, row).step_labels == ((1.0, 0.5, 0.0),)
  row = dict(prompt="Q", completions=["a", "b"], labels=[True, -100])
  assert "step label 2" in read_one(tmp_path, row).reason


def test_steps_of_several_completions(tmp_path):
  row = dict(prompt="Q", completions=[["a", "b"], ["c"]], labels=[[1, 0], [1]])
  got = read_one(tmp_path, row)
  assert got.completions == ("a\nb", "c")
  assert got.step_ends == ((1, 3), (1,))
  assert got.step_labels == ((1.0, 0.0), (1.0,))


def test_prm800k_alternatives_fork_and_never_follow_each_other(tmp_path):
  # Catches trap: alternatives of one step concatenated as consecutive steps.
  def rated(text, rating):
    return dict(text=text, rating=rating)

  steps = [
    dict(completions=[rated("A", 1)], chosen_completion=0),
    dict(
      completions=[rated("B1", -1), rated("B2", 0)],
      chosen_completion=None,
      human_completion=dict(text="BH", rating=None),
    ),
    dict(completions=[rated("C", 1), rated("D", 1)], chosen_completion=1),
    dict(completions=[rated("E", -1), rated("F", 1)], chosen_completion=None),
  ]
  row = dict(question=dict(problem="Q"), label=dict(steps=steps))
  got = read_one(tmp_path, row)
  assert got.trunk == 0
  assert got.completions == (
    "A\nBH\nD\nE",
    "A\nB1",
    "A\nB2",
    "A\nBH\nC",
    "A\nBH\nD\nF",
  )
  # BH has no rating: no label; a fork is labelled on its own step only.
  assert got.step_ends == ((1, 6, 8), (4,), (4,), (6,), (8,))
  assert got.step_labels == ((1.0, 1.0, 0.0), (0.0,), (0.5,), (1.0,), (1.0,))


@pytest.mark.parametrize("errors, labels", [([2], (1.0, 0.0)), ([3], None)])
def test_prmbench_counts_errors_from_one(tmp_path, errors, labels):
  row = dict(
    modified_question="Q", modified_process=["a", "b"], error_steps=errors
  )
  got = read_one(tmp_path, row)
  if labels:
    assert got.step_labels == (labels,)
  else:
    assert got.reason == "error step 3 is not one of the 2 steps"


K2 = dict(prompt="Q", completions=["a", "b"])


@pytest.mark.parametrize(
  "row, reason",
  [
    (dict(PAIR, chosen=3), "the chosen completion must be a string, got int"),
    (dict(PAIR, chosen=[3]), r"the chosen completion[0] must be a message"),
    (dict(PAIR, rejected=[assistant("")]), "the rejected completion is empty"),
    (dict(PAIR, prompt=None), "field 'prompt' must be a list"),
    (
      dict(PAIR, chosen_rating=float("nan"), rejected_rating=1),
      "the rating of the chosen completion must be finite, got nan",
    ),
    (
      dict(PAIR, chosen_rating=3),
      "the rating of the rejected completion must be a number, got null",
    ),
    (dict(PAIR, strength="much"), "field 'strength' must be a number"),
    (dict(K2, ranks=[1]), "field 'ranks' has 1 values for 2 completions"),
    (dict(K2, ranks=[1, 1.5]), "rank 1 must be an integer, got 1.5"),
    (dict(K2, ranks=[1, None]), "rank 1 must be an integer, got null"),
    (dict(K2, ranks=[1, float("inf")]), "rank 1 must be an integer"),
    (dict(K2, ratings=[1, float("inf")]), "rating 1 must be finite, got inf"),
    (dict(K2, completions=[], ratings=[]), "field 'completions' is empty"),
    (dict(K2, completions=["a", ""], ranks=[1, 2]), "completion 1 is empty"),
    (dict(K2, labels=[1]), "completion 0 has 2 steps but 1 labels"),
    (
      dict(K2, completions=["a", " "], labels=[1, 1]),
      "step 2 of completion 0 is empty",
    ),
    (
      dict(prompt="Q", completion="a", label=2),
      "label 0 must be a boolean or in [0, 1], got 2",
    ),
    (dict(question={}, label=dict(steps=[{}])), "the path is empty"),
    (dict(question={}, label=dict(steps=[3])), "malformed, expected {question"),
    (7, "expected a JSON object, got int"),
  ],
)
def test_bad_rows_say_what_is_wrong(tmp_path, row, reason):
  got = read_one(tmp_path, row)
  assert isinstance(got, Reject) and got.line == 1
  assert got.reason.startswith(reason)


def test_unrecognised_names_keys_and_shapes(tmp_path):
  reason = read_one(tmp_path, dict(foo=1, bar=2)).reason
  assert "keys {bar, foo}" in reason
  assert all(known.shape in reason for known in sources.FORMATS.values())


def test_missing_field_of_a_stated_kind(tmp_path):
  got = read_one(tmp_path, dict(prompt="Q"), kind="ranking")
  assert got.reason.startswith("missing field 'completions'")


# ---------------------------------------------------------------- real files


def count(path):
  records, reasons = [], collections.Counter()
  for item in read_records(path):
    if isinstance(item, Reject):
      reasons[item.reason] += 1
    else:
      records.append(item)
  return records, reasons


def test_hh_rlhf(rm_data):
  # Counts of the defects, found by splitting at the markers alone.
  differ = (
    "earlier turns of chosen and rejected differ: they answer different "
    "dialogues"
  )
  records, reasons = count(rm_data / "hh_rlhf/harmless-base")
  assert reasons == {"the chosen completion is empty": 4, differ: 5}
  assert len(records) == 2_312 - 4 - 5
  records, reasons = count(rm_data / "hh_rlhf/helpful-base")
  assert reasons == {
    "the rejected completion is empty": 4,
    differ: 9,
    "chosen and rejected are identical": 2,
  }
  assert len(records) == 2_354 - 4 - 9 - 2


def test_oasst_trees(rm_data):
  records, reasons = count(rm_data / "oasst_trees")
  sizes = collections.Counter(len(r.completions) for r in records)
  assert sizes == {2: 30, 3: 72, 4: 13, 5: 1, 6: 3, 8: 1, 9: 1}
  assert [r.split(": ")[1] for r in reasons] == [
    "rank 3 must be an integer, got null"
  ]
  for record in records:
    assert record.prompt[-1]["role"] == "user"
    assert sorted(record.ranks) == list(range(len(record.completions)))


def test_gsm8k_solutions(rm_data):
  path = rm_data / "gsm8k/example_model_solutions.part_0319-1318.jsonl.gz"
  records, reasons = count(path)
  assert (len(records), reasons) == (1_000, {})
  labels = list(itertools.chain.from_iterable(r.labels for r in records))
  assert len(labels) == 4_000
  assert round(sum(labels) / len(labels), 3) == 0.375


def test_prmbench(rm_data):
  records, reasons = count(rm_data / "prmbench")
  outside = sum(n for r, n in reasons.items() if r.startswith("error step"))
  assert outside == 57
  assert sum(reasons.values()) - outside == 1  # one empty step
  assert len(records) == 3_203 - 58
  assert all(0.0 in record.step_labels[0] for record in records)


def test_prm800k_samples(rm_data):
  records, reasons = count(rm_data / "openr_samples/samples_prm800k.jsonl")
  assert (len(records), reasons) == (6, {})
  labels = collections.Counter(
    y for r in records for marks in r.step_labels for y in marks
  )
  # every rated completion of the file once: 55 right, 3 neutral, 15 wrong
  assert labels == {1.0: 55, 0.5: 3, 0.0: 15}


def test_ultrafeedback_sample(rm_data):
  records, reasons = count(rm_data / "ultrafeedback_sample")
  assert reasons == {
    "chosen and rejected are identical": 4,
    "the chosen completion is empty": 1,
    "the rejected completion is empty": 1,
  }
  margins = [r.ratings[0] - r.ratings[1] for r in records]
  assert (min(margins), max(margins)) == (0.0, 8.0)


def test_llama_factory_demo(rm_data):
  records, reasons = count(rm_data / "llama_factory_demo")
  assert not reasons
  kinds = collections.Counter(r.kind for r in records)
  assert kinds == {"pair": 600, "outcome": 300}
  assert sum(r.labels[0] for r in records if r.kind == "outcome") == 150


@pytest.mark.parametrize(
  "kind, row, said",
  [
    ("outcome", {"prompt": "Why ?"}, "missing fields, expected {prompt, comp"),
    ("unlabelled", {"prompt": "Why ?"}, "missing field, expected {prompt, com"),
  ],
)
def test_a_kind_asked_for_says_which_fields_it_has(tmp_path, kind, row, said):
  path = tmp_path / "rows.jsonl"
  path.write_text(json.dumps(row) + "\n")
  (reject,) = read_records(path, kind=kind)
  assert reject.line == 1 and reject.reason.startswith(said)


def test_half_a_surrogate_pair_is_a_reject_and_can_be_written(tmp_path):
  # JSON can spell it, no tokenizer and no UTF-8 file can take it.
  path = tmp_path / "rows.jsonl"
  row = {"prompt": "Why ?", "chosen": "x\ud800", "rejected": "No ."}
  path.write_text(json.dumps(row) + "\n")
  with pytest.raises(UserError, match="half a surrogate pair"):
    load(path, max_reject_share=0.0, rejects_path=tmp_path / "rejects.jsonl")
  (line,) = (tmp_path / "rejects.jsonl").read_text().splitlines()
  assert json.loads(line)["line"] == 1
