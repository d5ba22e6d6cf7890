import collections
import math

import pytest

from tests.data.reading import count, raw, read, refusal

# ---------------------------------------------------------------- rows by hand


def judged(**scores):
  return dict(
    input="Q",
    output_cand="A",
    parsed_result={k: dict(reason="", score=v) for k, v in scores.items()},
  )


def test_just_eval_scores_are_text_and_may_be_missing():
  # Catches: "N/A" as 0, which is worse than the worst; aspects sorted.
  got = read(judged(depth="3", clarity="N/A", tone="4.5"))
  assert (got.kind, got.prompt, got.completions) == ("ratings", "Q", ("A",))
  assert got.attributes == ("depth", "clarity", "tone")
  assert str(got.attribute_ratings) == "((3.0, nan, 4.5),)"
  got = read(judged(safety="5"))
  assert (got.ratings, got.attributes) == ((5.0,), None)


@pytest.mark.parametrize(
  "scores, reason",
  [
    (dict(safety="N/A"), "the score must be a number, got null"),
    (dict(safety="high"), "the score of safety must be a number or 'N/A'"),
    (dict(a="N/A", b="N/A"), "no attribute is rated in field 'parsed_result'"),
    ({}, "field 'parsed_result' is empty: the judge gave no score"),
  ],
)
def test_just_eval_refuses(scores, reason):
  assert refusal(judged(**scores)).startswith(reason)


JUDGE = (
  "###Task Description:\nJudge.\n\n###The instruction to evaluate:\nWhy ?\n\n"
  "###Response to evaluate:\nSo .\n\n###Reference Answer (Score 5):\nBest .\n\n"
  "###Score Rubrics:\n[Is it ?]\n\n###Feedback: "
)


def test_prometheus_reads_what_was_judged_and_the_mean_score():
  # Catches: the judge's whole prompt as the prompt; the reference as the
  # completion; the first of three scores.
  got = read(dict(instruction=JUDGE, gpt4_score=[3, 2, 3]))
  assert (got.kind, got.prompt, got.completions) == (
    "ratings",
    "Why ?",
    ("So .",),
  )
  assert got.ratings == pytest.approx((8 / 3,))


def test_prometheus_refuses():
  cut = JUDGE.replace("###Response to", "###Answer to")
  reason = refusal(dict(instruction=cut, gpt4_score=[1]))
  assert reason == "field 'instruction' has no part '###Response to evaluate:'"
  reason = refusal(dict(instruction=JUDGE, gpt4_score=[1, None]))
  assert reason == "score 1 must be a number, got null"


def exported(justification, relevance):
  def job(name):
    return dict(categories=[dict(name=name)])

  return dict(
    metadata=dict(context="Q", output_candidate="A", output_correct="B"),
    latestLabel=dict(
      jsonResponse=dict(
        CLASSIFICATION_JOB=job(justification),
        CLASSIFICATION_JOB_0=job("COHERENCE"),
        CLASSIFICATION_JOB_1=job(relevance),
      )
    ),
  )


def test_shepherd_ratings_are_in_the_names_of_the_categories():
  # Catches: the reference rated as the candidate; the last character of
  # 1_COMPLETELY_IRRELEVANT_0; the two questions the wrong way round.
  row = exported("2_NOT_JUSTIFIED_ENOUGH", "1_COMPLETELY_IRRELEVANT_0")
  got = read(row)
  assert (got.prompt, got.completions) == ("Q", ("A",))
  assert got.attributes == ("justification", "relevance")
  assert got.attribute_ratings == ((2.0, 1.0),)
  reason = refusal(exported("GOOD", "1_X"))
  assert reason.startswith(
    "the category of justification begins with no rating"
  )


THEMIS = dict(
  question="Q",
  pos_answer=dict(answer="good", score=0.5),
  neg_answer=dict(answer="bad", score=-0.5),
)


def test_themis_pairs_have_ratings():
  got = read(THEMIS)
  assert (got.kind, got.completions) == ("pair", ("good", "bad"))
  assert got.ratings == (0.5, -0.5)


@pytest.mark.parametrize(
  "answer, reason",
  [
    (dict(answer=" ", score=0), "the neg_answer completion is empty"),
    (dict(answer="bad", score=1), "pos_answer has score 0.5, not above neg_"),
    (dict(answer="bad"), "malformed, expected {question, pos_answer"),
  ],
)
def test_themis_refuses(answer, reason):
  assert refusal(dict(THEMIS, neg_answer=answer)).startswith(reason)


def test_an_answer_with_a_label_is_an_outcome():
  got = read(dict(question="Q", answer="A", label=0, root=3))
  assert (got.kind, got.prompt, got.completions) == ("outcome", "Q", ("A",))
  assert got.labels == (0.0,)


# ------------------------------------------------------------------ real files


def test_just_eval_general(rm_data):
  records, reasons = count(rm_data / "just_eval/general_multi_aspect")
  assert (len(records), reasons) == (400, {})
  (names,) = {r.attributes for r in records}
  assert names == (
    "helpfulness",
    "clarity",
    "factuality",
    "depth",
    "engagement",
  )
  values = [
    collections.Counter(column)
    for column in zip(*(r.attribute_ratings[0] for r in records), strict=True)
  ]
  assert (values[0][5], values[0][4], values[1][5]) == (298, 71, 376)
  assert (values[2][5], values[3][3], values[4][3]) == (288, 193, 239)
  factuality = [r.attribute_ratings[0][2] for r in records]
  assert sum(map(math.isnan, factuality)) == 17


def test_just_eval_safety(rm_data):
  records, reasons = count(rm_data / "just_eval/safety")
  assert (len(records), reasons) == (1_400, {})
  assert {r.attributes for r in records} == {None}
  assert {r.ratings[0] for r in records} == {1.0, 2.0, 3.0, 4.0, 5.0}


def test_prometheus_eval(rm_data):
  records, reasons = count(rm_data / "prometheus_eval")
  assert (len(records), reasons) == (320, {})
  # Scores 1: 106, 2: 147, 3: 122, 4: 342, 5: 243, three to a record.
  total = 106 + 2 * 147 + 3 * 122 + 4 * 342 + 5 * 243
  mean = math.fsum(r.ratings[0] for r in records)
  assert mean == pytest.approx(total / 3)
  assert not any("###" in r.prompt + r.completions[0] for r in records)


def test_shepherd(rm_data):
  records, reasons = count(rm_data / "shepherd")
  assert (len(records), reasons) == (1_317, {})
  scales = [
    collections.Counter(column)
    for column in zip(*(r.attribute_ratings[0] for r in records), strict=True)
  ]
  assert scales[0] == {1: 207, 2: 740, 3: 253, 4: 112, 5: 5}
  assert scales[1] == {1: 181, 2: 573, 3: 373, 4: 177, 5: 13}


def test_themis_tara(rm_data):
  records, reasons = count(rm_data / "themis_tara/webgpt")
  assert reasons == {"the neg_answer completion is empty": 12}
  assert len(records) == 134 - 12
  assert {r.ratings[0] + r.ratings[1] for r in records} == {0.0}
  records, reasons = count(rm_data / "themis_tara/calculator")
  assert not reasons
  ratings = collections.Counter(r.ratings for r in records)
  assert ratings == {(1, 0): 102, (1, -1): 44, (0, -1): 8}


def test_themis_truthful_qa(rm_data):
  path = rm_data / "themis_tara/truthful_qa"
  records, reasons = count(path)
  assert (len(records), reasons) == (1_500, {})
  assert sum(r.labels[0] for r in records) == 96 + 205
  rows = [row for file in sorted(path.iterdir()) for row in raw(file)]
  assert [r.labels[0] for r in records] == [row["label"] for row in rows]
