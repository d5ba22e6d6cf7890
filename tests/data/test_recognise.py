import collections

import pytest

from rm_jax.data.catalogue import FORMATS, UNUSABLE
from rm_jax.data.recognise import matches, recognise, row_items
from tests.data.reading import count, raw, read, refusal

PAIR = dict(prompt="Q", chosen="good", rejected="bad")
K2 = dict(prompt="Q", completions=["a", "b"])


# Where two formats match the first is meant: every other pair is a mistake.
MEANT = {
  # chosen and rejected are lists of answers: as a pair they are no messages.
  ("rm_bench", "pair"),
}


def test_every_format_has_a_name_of_its_fields_and_a_shape():
  for name, known in FORMATS.items():
    assert all(field in known.shape for field in known.fields), name


def test_unrecognised_names_keys_and_the_nearest_shape():
  reason = refusal(dict(foo=1, bar=2))
  assert "keys {bar, foo}" in reason
  assert FORMATS["pair"].shape in reason  # nothing is near: the commonest
  reason = refusal(dict(prompt="Q", completions=["a"], rank=[1], foo=1))
  assert "field 'rank' would be lost in an unlabelled row" in reason
  reason = refusal(dict(instruction="Q", output_1="a", output_2="b"))
  assert FORMATS["alpaca_eval"].shape in reason
  reason = refusal(dict(prompt="Q", chosen="a"))
  assert FORMATS["pair"].shape in reason  # not RM-Bench, which has these too


def test_reasons_are_a_line_to_read():
  # Catches: the whole table of formats, or the row, in every reject.
  wide = {f"a field of number {n}": n for n in range(99)}
  assert "99 in all" in refusal(wide)
  for name, known in FORMATS.items():
    rows = [wide | dict.fromkeys(known.fields[:1], 1)]
    rows += [dict.fromkeys(known.fields, "x" * 999)]
    for row in rows:
      for kind in ("auto", name):
        for item in row_items(row, kind):
          assert not isinstance(item, Exception) or len(str(item)) < 400, item


def test_missing_field_of_a_stated_kind():
  got = read(dict(prompt="Q"), kind="ranking")
  assert str(got).startswith("missing field 'completions'")


@pytest.mark.parametrize(
  "row, reason",
  [
    (7, "expected a JSON object, got int"),
    ({}, "unrecognised record: keys {}; nearest shape: {[prompt,]"),
    (dict(question={}, label=dict(steps=[3])), "malformed, expected {question"),
  ],
)
def test_what_is_no_row_says_so(row, reason):
  assert refusal(row).startswith(reason)


@pytest.mark.parametrize(
  "label",
  [
    dict(label=1),
    dict(rating=3),
    dict(preference=1),
    dict(votes=[1, 2]),
    dict(values=[1]),
    dict(ranks=[1]),
    dict(labels=[1]),
  ],
)
def test_a_labelled_row_is_never_read_as_unlabelled(label):
  # Catches: {prompt, completion, rating} scored as if nobody had rated it.
  row = dict(prompt="Q", completion="a")
  assert recognise(row) == "unlabelled"
  (item,) = row_items(row | label, "auto")
  if isinstance(item, Exception):
    (name,) = label
    assert str(item).startswith(f"field '{name}' would be lost in an unlabel")
  else:
    assert item.kind == "outcome" and "label" in label
  # Asked for by name it is read.
  assert read(row | label, kind="unlabelled").kind == "unlabelled"


@pytest.mark.parametrize(
  "more, said",
  [
    (dict(ranks=[1, 2], comparisons=[[0, 1, 1]]), "ranking and comparisons"),
    (
      dict(ranks=[1, 2], comparisons=[[0, 1, 1]], ratings=[3, 1]),
      "ranking and comparisons and ratings",
    ),
    (dict(labels=[1, 1], values=[1, 1]), "values and steps"),
    (dict(ranks=[1, 2], labels=[1, 1]), "ranking and steps"),
    (dict(first_error=0, labels=[1, 0]), "first_error and steps"),
  ],
)
def test_two_annotations_ask_which_is_meant(more, said):
  # Catches: the first format taken and the other field ignored in silence.
  reason = refusal(K2 | more)
  assert reason == (
    f"the row is {said} at once: say with kind= which of them to read"
  )
  kind = said.split()[0]
  assert read(K2 | more, kind=kind).kind in (kind, "steps")


def test_a_ranking_reads_the_ratings_beside_it():
  got = read(K2 | dict(ranks=[0, 1], ratings=[2, 1]))
  assert (got.kind, got.ratings) == ("ranking", (2.0, 1.0))


# ----------------------------------------------------------------- provenance

ROWS = {
  "pair": PAIR,
  "ranking": dict(K2, ranks=[0, 1]),
  "ratings": dict(K2, ratings=[0, 1]),
  "comparisons": dict(K2, comparisons=[[0, 1, 0]]),
  "first_error": dict(K2, first_error=-1),
  "values": dict(K2, values=[0, 1]),
  "steps": dict(K2, labels=[0, 1]),
  "outcome": dict(prompt="Q", completion="a", label=1),
  "unlabelled": K2,
  "answer_label": dict(question="Q", answer="a", label=1),
}


@pytest.mark.parametrize("name", ROWS)
def test_every_format_carries_weight_annotator_and_source(name):
  # Catches: a reader that makes its Record without them.
  assert recognise(ROWS[name]) == name
  plain = read(ROWS[name])
  assert (plain.weight, plain.annotator, plain.origin) == (1.0, "", "")
  got = read(dict(ROWS[name], weight=2.5, annotator=17, source="made"))
  assert (got.weight, got.annotator, got.origin) == (2.5, "17", "made")
  unknown = dict(ROWS[name], weight=None, annotator=None, source=None)
  assert read(unknown) == plain


@pytest.mark.parametrize(
  "fields, reason",
  [
    (dict(weight=0), "field 'weight' must be above 0, got 0"),
    (dict(weight=-1), "field 'weight' must be above 0, got -1"),
    (dict(weight=float("inf")), "field 'weight' must be finite, got inf"),
    (dict(weight=True), "field 'weight' must be a number, got true"),
    (dict(annotator=1.5), "field 'annotator' must be a string, got float"),
    (dict(annotator=True), "field 'annotator' must be a string, got bool"),
    (dict(source=3), "field 'source' must be a string, got int"),
  ],
)
def test_bad_provenance_says_what_is_wrong(fields, reason):
  # Catches: weight 0 kept, which is padding to everything that follows.
  assert refusal(dict(PAIR, **fields)) == reason


# --------------------------------------------------------------- no data at all


@pytest.mark.parametrize("fields", UNUSABLE)
def test_results_say_what_they_lack(fields):
  assert refusal(dict.fromkeys(fields, 1)) == UNUSABLE[fields]
  assert "\n" not in UNUSABLE[fields]


def test_a_judged_pair_of_llmbar_is_not_the_pair_again():
  # Catches: 38 runs of judges read as 38 copies of the data set.
  row = dict(input="Q", output_1="a", output_2="b", label=1)
  assert recognise(row) == "llmbar"
  reason = refusal(dict(row, results=[]))
  assert reason.startswith("verdicts of a judge on the pairs of LLMBar")


# ------------------------------------------------------------------ real files


def files(rm_data):
  return [
    path
    for path in sorted(rm_data.rglob("*"))
    if path.name.endswith((".json", ".jsonl", ".json.gz", ".jsonl.gz"))
  ]


def test_no_row_of_any_file_is_two_things(rm_data):
  # Catches: an order of FORMATS that decides what nobody meant, a format so
  # wide that it takes the rows of another, and a row that nobody knows.
  found = collections.Counter()
  for path in files(rm_data):
    for row in raw(path):
      names = tuple(matches(row))
      found[names] += 1
      assert len(names) < 2 or names in MEANT, (path.name, names)
      if not names:
        assert any(set(fields) <= row.keys() for fields in UNUSABLE), path.name
  assert "unlabelled" not in {name for names in found for name in names}
  # Each foreign format is there for rows that are.
  seen = {name for names in found for name in names}
  general = set(ROWS) - {"answer_label"}
  assert set(FORMATS) - general - seen == set()


@pytest.mark.parametrize(
  "folder, n, reason",
  [
    ("wildbench_scores", 3_067, "WildBench scores without prompts"),
    ("rewardmath/results", 10 * 483 + 485 + 3 * 447, "scores by name"),
  ],
)
def test_score_files_say_what_is_missing(rm_data, folder, n, reason):
  records, reasons = count(rm_data / folder)
  assert not records
  ((said, times),) = reasons.items()
  assert times == n and said.startswith(reason)


def test_judge_files_say_what_is_missing(rm_data):
  for name in ("gpt-3.5-turbo", "pandalm-7b"):
    records, reasons = count(rm_data / f"pandalm/{name}-testset-v1.json.gz")
    assert not records and sum(reasons.values()) == 999
  judges = list((rm_data / "llmbar").rglob("evaluators/**/result.json.gz"))
  assert len(judges) == 38
  rows = [row for path in judges for row in raw(path)]
  assert {refusal(row).split(":")[0] for row in rows} == {
    "verdicts of a judge on the pairs of LLMBar"
  }
  for path in (rm_data / "llmbar").rglob("statistics.json"):
    (row,) = raw(path)
    assert refusal(row).startswith("statistics of a judge (LLMBar)")


def test_gsm8k_problems_have_no_label(rm_data):
  records, reasons = count(rm_data / "gsm8k/train.jsonl.gz")
  assert not records
  assert reasons == {UNUSABLE["question", "answer"]: 7_473}


def test_the_truth_of_a_world_stays_with_its_completions():
  # Catches gold of a turned pair on the wrong sides, and of a foreign format.
  row = dict(prompt="Q", completions=["a", "b"], ranks=[0, 1], gold=[0.5, -2])
  assert read(row).gold == (0.5, -2.0)
  assert refusal(row | {"gold": [1]}) == (
    "field 'gold' has 1 values for 2 completions"
  )
  pair = dict(prompt="Q", chosen="a", rejected="b", gold=[1, 2])
  assert read(pair).gold == (1.0, 2.0)
  turned = read(pair | {"preference": 0.25})
  assert (turned.completions, turned.gold) == (("b", "a"), (2.0, 1.0))
