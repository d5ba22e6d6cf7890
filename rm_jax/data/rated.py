"""Published answers that people or judges rated, one number or several.

One reader per data set, in the form its authors gave it.
"""

import math

from rm_jax.data.fields import (
  BadRow,
  need_attributes,
  need_completion,
  need_each,
  need_label,
  need_list,
  need_number,
  need_object,
  need_prompt,
  need_text,
  shown,
)
from rm_jax.data.pairs import pair
from rm_jax.types import Record

# Shepherd's export calls its questions by number.
SHEPHERD_JOBS = {
  "justification": "CLASSIFICATION_JOB",
  "relevance": "CLASSIFICATION_JOB_1",
}

# What stands before each part of a Prometheus judge prompt.
PROMETHEUS_PARTS = (
  "###The instruction to evaluate:\n",
  "\n###Response to evaluate:\n",
  "\n###Reference Answer (Score 5):\n",
)


def read_just_eval(row) -> Record:
  """just-eval: 1-5 on one aspect (a rating) or several (attribute ratings).

  Scores are strings; "N/A" is not rated.
  """
  aspects = need_object(row["parsed_result"], "field 'parsed_result'")
  if not aspects:
    raise BadRow("field 'parsed_result' is empty: the judge gave no score")
  scores = {
    name: just_eval_score(aspect["score"], f"the score of {name}")
    for name, aspect in aspects.items()
  }
  prompt = need_prompt(row["input"])
  completions = (need_completion(row["output_cand"], "field 'output_cand'"),)
  record = Record("ratings", prompt, completions)
  if len(scores) == 1:
    (score,) = scores.values()
    return record._replace(ratings=(need_number(score, "the score"),))
  attributes, ratings = need_attributes([scores], ["field 'parsed_result'"])
  return record._replace(attributes=attributes, attribute_ratings=ratings)


def just_eval_score(score, name: str) -> float | None:
  if score == "N/A":
    return None
  try:
    return need_number(float(score), name)
  except (TypeError, ValueError, OverflowError) as error:
    raise BadRow(
      f"{name} must be a number or 'N/A', got {shown(score)}"
    ) from error


def read_prometheus(row) -> Record:
  """Prometheus: the mean of the judge's scores, out of its whole prompt.

  The rubric and the reference answer are for the judge: a reward model reads
  the instruction and the response.
  """
  rest, texts = need_text(row["instruction"], "field 'instruction'"), []
  for part in PROMETHEUS_PARTS:
    before, found, rest = rest.partition(part)
    if not found:
      raise BadRow(f"field 'instruction' has no part {part.strip()!r}")
    texts.append(before)
  scores = [
    need_number(score, f"score {i}")
    for i, score in enumerate(
      need_list(row["gpt4_score"], "field 'gpt4_score'")
    )
  ]
  return Record(
    "ratings",
    need_prompt(texts[1].strip()),
    (need_completion(texts[2].strip(), "the response"),),
    ratings=(math.fsum(scores) / len(scores),),
  )


def read_shepherd(row) -> Record:
  """Shepherd: two ordinal answers of one person, 1 worst to 5 best.

  The number is the first character of the category's name, as in
  2_NOT_JUSTIFIED_ENOUGH.
  """
  answers = row["latestLabel"]["jsonResponse"]
  ratings = {}
  for name, job in SHEPHERD_JOBS.items():
    (category,) = need_each(answers[job], "categories", 1)
    rating = need_text(category["name"], f"the category of {name}")
    if rating[:2] not in ("1_", "2_", "3_", "4_", "5_"):
      raise BadRow(f"the category of {name} begins with no rating: {rating!r}")
    ratings[name] = int(rating[0])
  attributes, values = need_attributes([ratings], ["field 'latestLabel'"])
  metadata = row["metadata"]
  return Record(
    "ratings",
    need_prompt(metadata["context"]),
    (need_completion(metadata["output_candidate"], "the candidate"),),
    attributes=attributes,
    attribute_ratings=values,
  )


def read_themis(row) -> Record:
  """Themis: a pair with the score of either side as its rating."""
  sides = ("pos_answer", "neg_answer")
  scores = tuple(
    need_number(row[side]["score"], f"the score of {side}") for side in sides
  )
  if scores[0] <= scores[1]:
    raise BadRow(
      f"pos_answer has score {scores[0]:g}, not above neg_answer's "
      f"{scores[1]:g}"
    )
  answers = [row[side]["answer"] for side in sides]
  record = pair(need_prompt(row["question"]), *answers, names=sides)
  return record._replace(ratings=scores)


def read_answer_label(row) -> Record:
  """One answer that is true (1) or not (0), as in Themis's TruthfulQA."""
  return Record(
    "outcome",
    need_prompt(row["question"]),
    (need_completion(row["answer"], "the answer"),),
    labels=(need_label(row["label"], "field 'label'"),),
  )
