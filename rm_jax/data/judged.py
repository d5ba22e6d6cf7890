"""Published answers that people or judges compared or ranked.

One reader per data set, in the form its authors gave it.
"""

import itertools

from rm_jax.data.fields import (
  ROLES,
  BadRow,
  need_completion,
  need_list,
  need_number,
  need_object,
  need_prompt,
  need_text,
  shown,
)
from rm_jax.data.formats import compared, read_ranking
from rm_jax.data.pairs import by_preference, pair, read_pair
from rm_jax.types import Comparison, Record


def with_input(row):
  """Returns the prompt of an instruction and the input it may come with."""
  instruction = need_text(row["instruction"], "field 'instruction'")
  given = row.get("input") or ""
  return f"{instruction}\n\n{given}" if given else instruction


def read_fine_grained(row) -> Record:
  """Fine-grained RLHF: all six comparisons of four answers, ties and cycles.

  `preference` lists 1v2, 1v3, 1v4, 2v3, 2v4, 3v4: 1 the first, 2 the second
  is better, 0 neither.
  """
  names = [f"prediction {k}" for k in range(1, 5)]
  completions = tuple(need_completion(row[name], name) for name in names)
  sides = list(itertools.combinations(range(4), 2))
  verdicts = need_list(row["preference"], "field 'preference'")
  if len(verdicts) != len(sides):
    raise BadRow(f"field 'preference' has {len(verdicts)} values, expected 6")
  return Record(
    "comparisons",
    need_prompt(row["question"]),
    completions,
    comparisons=tuple(
      compared(i, j, first_share(verdict, f"preference {n}"))
      for n, ((i, j), verdict) in enumerate(zip(sides, verdicts, strict=True))
    ),
  )


def first_share(verdict, name: str) -> float:
  """Returns the share for the first side of a verdict 1, 2, or 0 for a tie."""
  shares = {1: 1.0, 2: 0.0, 0: 0.5}
  if isinstance(verdict, bool) or verdict not in shares:
    raise BadRow(f"{name} must be 0, 1 or 2, got {shown(verdict)}")
  return shares[verdict]


def read_alpaca_eval(row) -> Record:
  """AlpacaEval: the judge's preference, discrete or a probability.

      share for output_2 = preference - 1, preference in [1, 2]; 0 is a draw

  Null is a verdict that could not be parsed.
  """
  preference = row["preference"]
  if preference is None:
    raise BadRow("field 'preference' is null: the judge gave no verdict")
  preference = need_number(preference, "field 'preference'")
  if preference and not 1 <= preference <= 2:
    raise BadRow(
      f"field 'preference' must be 0 or in [1, 2], got {shown(preference)}"
    )
  share = 2 - preference if preference else 0.5  # for output_1
  record = pair(
    need_prompt(row["instruction"]),
    row["output_1"],
    row["output_2"],
    names=("output_1", "output_2"),
  )
  return by_preference(record._replace(preference=share))


def read_pandalm(row) -> Record:
  """PandaLM's test set: three votes, 0 for a tie.

  A tie where most votes are ties (the authors' label); else the preference is
  the share of the votes, a tied vote for both halves.
  """
  votes = [
    first_share(row[f"annotator{i}"], f"annotator{i}") for i in (1, 2, 3)
  ]
  share = sum(votes) / len(votes)
  if votes.count(0.5) > len(votes) / 2:
    share = 0.5
  record = pair(
    with_input(row),
    row["response1"],
    row["response2"],
    names=("response1", "response2"),
  )
  return by_preference(record._replace(preference=share))


def read_llmbar(row) -> Record:
  """LLMBar: label 1 or 2 says which output is better."""
  if isinstance(row["label"], bool) or row["label"] not in (1, 2):
    raise BadRow(f"field 'label' must be 1 or 2, got {shown(row['label'])}")
  sides = (
    ("output_1", "output_2") if row["label"] == 1 else ("output_2", "output_1")
  )
  return pair(
    need_prompt(row["input"]), row[sides[0]], row[sides[1]], names=sides
  )


def read_ifbench(row) -> Record:
  """IFBench: two conversations that begin alike."""
  return read_pair(
    {"chosen": row["text_chosen"], "rejected": row["text_rejected"]}
  )


def read_rm_bench(row) -> Record:
  """RM-Bench: every chosen answer against every rejected one, in one group.

  Completions: the chosen ones (concise, detailed, detailed with markdown), then
  the rejected ones. Equal answers on one side stay: each is one style of the
  matrix of three by three.
  """
  chosen = need_list(row["chosen"], "field 'chosen'")
  rejected = need_list(row["rejected"], "field 'rejected'")
  prompt = need_prompt(row["prompt"])
  completions = tuple(
    need_completion(text, f"{side} answer {k}")
    for side, texts in (("chosen", chosen), ("rejected", rejected))
    for k, text in enumerate(texts)
  )
  count = len(chosen)
  if set(completions[:count]) & set(completions[count:]):
    raise BadRow("a chosen and a rejected answer are identical")
  return Record(
    "comparisons",
    prompt,
    completions,
    comparisons=tuple(
      Comparison(i, count + j)
      for i, j in itertools.product(range(count), range(len(rejected)))
    ),
  )


def read_llmzoo(row) -> Record:
  """LLMZoo reviews: `order` has the rank of each answer, tied 1, 2, 2, 4."""
  data = need_object(row["metadata"], "field 'metadata'")
  return read_ranking(
    {
      "prompt": data["question"],
      "completions": data["answers"],
      "ranks": row["order"],
    }
  )


def read_oasst(row) -> list:
  """Every group of ranked sibling replies of a tree, as a ranking.

  A single reply is not a ranking and gives no record; a group in which a reply
  has no rank gives a BadRow. All groups of a tree are one problem.
  """
  items, root = [], need_text(row["prompt"]["text"], "the first prompt")

  def visit(node, before):
    role = ROLES.get(node["role"], node["role"])
    dialogue = (*before, {"role": role, "content": node["text"]})
    replies = node.get("replies") or []
    answers = [reply for reply in replies if reply["role"] == "assistant"]
    if len(answers) > 1:
      ranks = [answer.get("rank") for answer in answers]
      row = dict(
        prompt=list(dialogue),
        completions=[answer["text"] for answer in answers],
        ranks=ranks,
      )
      try:
        items.append(read_ranking(row)._replace(problem=root))
      except BadRow as error:
        items.append(BadRow(f"replies to {node['message_id']}: {error}"))
    for reply in replies:
      visit(reply, dialogue)

  visit(row["prompt"], ())
  return items
