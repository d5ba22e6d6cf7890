import collections
import itertools

import pytest

from rm_jax.data.recognise import row_items
from rm_jax.types import Comparison
from tests.data.reading import assistant, count, raw, read, refusal, user

# ----------------------------------------------------------------- rows by hand

FINE = {f"prediction {k}": f"answer {k}" for k in (1, 2, 3, 4)}


def test_fine_grained_lists_its_pairs_in_order():
  # Catches: the sides of 2 not turned; 0 read as "the second is better"; pairs
  # in another order than 12 13 14 23 24 34; the cycle 0 > 1 > 2 > 0 broken.
  row = dict(FINE, question="Q", preference=[1, 2, 0, 1, 2, 1])
  got = read(row)
  assert (got.kind, got.prompt, got.ranks) == ("comparisons", "Q", None)
  assert got.completions == ("answer 1", "answer 2", "answer 3", "answer 4")
  assert [tuple(c)[:3] for c in got.comparisons] == [
    (0, 1, 1.0),
    (2, 0, 1.0),
    (0, 3, 0.5),
    (1, 2, 1.0),
    (3, 1, 1.0),
    (2, 3, 1.0),
  ]


@pytest.mark.parametrize(
  "preference, reason",
  [
    ([1] * 5, "field 'preference' has 5 values, expected 6"),
    ([1] * 5 + [3], "preference 5 must be 0, 1 or 2, got 3"),
    ([1] * 5 + [True], "preference 5 must be 0, 1 or 2, got true"),
    (None, "field 'preference' must be a list, got NoneType"),
  ],
)
def test_fine_grained_refuses(preference, reason):
  row = dict(FINE, question="Q", preference=preference)
  assert refusal(row) == reason


ALPACA = dict(instruction="Q", output_1="base", output_2="model")


@pytest.mark.parametrize(
  "preference, chosen, share",
  [
    (1, "base", 1.0),
    (2, "model", 1.0),
    (2.0, "model", 1.0),
    (1.25, "base", 0.75),
    (1.75, "model", 0.75),
  ],
)
def test_alpaca_eval_preference_is_a_share(preference, chosen, share):
  # Catches: preference - 1 given to output_1; a probability rounded.
  got = read(dict(ALPACA, preference=preference, annotator="gpt"))
  assert (got.kind, got.completions[0]) == ("pair", chosen)
  assert (got.preference, got.annotator) == (share, "gpt")


@pytest.mark.parametrize("preference", [0, 0.0, 1.5])
def test_alpaca_eval_draws_are_ties(preference):
  # Catches: 0 as the probability of output_2, a win for the baseline.
  got = read(dict(ALPACA, preference=preference))
  assert got.kind == "comparisons"
  assert got.comparisons == (Comparison(0, 1, 0.5),)


@pytest.mark.parametrize(
  "change, reason",
  [
    (dict(preference=None), "field 'preference' is null: the judge gave no"),
    (dict(preference=0.5), "field 'preference' must be 0 or in [1, 2], got"),
    (
      dict(preference=0, output_2="base"),
      "output_1 and output_2 are identical",
    ),
    (dict(output_2=""), "the output_2 completion is empty"),
  ],
)
def test_alpaca_eval_refuses(change, reason):
  assert refusal(dict(ALPACA, preference=1) | change).startswith(reason)


PANDA = dict(instruction="Do", input="", response1="one", response2="two")


@pytest.mark.parametrize(
  "votes, chosen, share",
  [
    ((1, 1, 1), "one", 1),
    ((2, 2, 2), "two", 1),
    ((1, 2, 2), "two", 2 / 3),
    ((0, 1, 1), "one", 5 / 6),  # the tied vote is half for each
    ((0, 1, 2), None, 1 / 2),
    ((0, 0, 2), None, 1 / 2),  # most votes are ties
    ((0, 0, 0), None, 1 / 2),
  ],
)
def test_pandalm_votes(votes, chosen, share):
  # Catches: 0 as a vote for the second; two ties and one vote as a win.
  row = dict(PANDA, **{f"annotator{i + 1}": v for i, v in enumerate(votes)})
  got = read(row)
  if chosen is None:
    assert got.comparisons == (Comparison(0, 1, 0.5),)
  else:
    assert (got.kind, got.completions[0]) == ("pair", chosen)
    assert got.preference == pytest.approx(share)


def test_pandalm_input_is_part_of_the_prompt_and_true_is_no_text():
  votes = dict(annotator1=1, annotator2=1, annotator3=1)
  assert read(dict(PANDA, **votes)).prompt == "Do"
  assert read(dict(PANDA, **votes, input="this")).prompt == "Do\n\nthis"
  # Catches: str(True) as a response.
  got = refusal(dict(PANDA, **votes, response2=True))
  assert got == "the response2 completion must be a string, got bool"


@pytest.mark.parametrize("label, chosen", [(1, "one"), (2, "two")])
def test_llmbar_label_counts_from_one(label, chosen):
  row = dict(input="Q", output_1="one", output_2="two", label=label)
  got = read(row)
  assert (got.kind, got.completions[0]) == ("pair", chosen)
  assert refusal(dict(row, label=0)) == "field 'label' must be 1 or 2, got 0"


def test_ifbench_conversations_share_their_prompt():
  row = dict(
    text_chosen=[user("Q"), assistant("good")],
    text_rejected=[user("Q"), assistant("bad")],
  )
  got = read(row)
  assert (got.kind, got.prompt) == ("pair", (user("Q"),))
  assert got.completions == ("good", "bad")


def test_rm_bench_compares_every_style_with_every_style():
  # Catches: zip instead of a product; equal answers of one side merged, which
  # moves the columns of the three by three.
  row = dict(prompt="Q", chosen=["a", "b", "b"], rejected=["x", "y", "z"])
  got = read(row)
  assert (got.kind, got.completions) == ("comparisons", tuple("abbxyz"))
  assert [tuple(c)[:3] for c in got.comparisons] == [
    (i, j, 1.0) for i in (0, 1, 2) for j in (3, 4, 5)
  ]
  same = dict(row, rejected=["x", "b", "z"])
  assert refusal(same) == "a chosen and a rejected answer are identical"


def test_llmzoo_order_is_a_rank():
  # Catches: order read as the indices of the best, second, ... answer.
  data = dict(question="Q", answers=["a", "b", "c", "d"])
  got = read(dict(metadata=data, order=[4, 1, 2, 2]))
  assert (got.kind, got.prompt, got.ranks) == ("ranking", "Q", (4, 1, 2, 2))
  short = refusal(dict(metadata=data, order=[1, 2]))
  assert short == "field 'ranks' has 2 values for 4 completions"


def test_oasst_gives_every_ranked_group_of_the_tree():
  # Catches: a follow-up's group without the dialogue before it; prompters'
  # replies ranked as answers.
  def reply(text, rank, *replies, role="assistant"):
    return dict(
      message_id=text, text=text, role=role, rank=rank, replies=list(replies)
    )

  follow = reply("more?", None, reply("c", 1), reply("d", 0), role="prompter")
  tree = reply("hi", None, reply("a", 0, follow), reply("b", 1))
  tree["role"] = "prompter"
  first, second = row_items(dict(message_tree_id="x", prompt=tree), "auto")
  assert (first.prompt, first.completions) == ((user("hi"),), ("a", "b"))
  assert first.ranks == (0, 1)
  assert second.prompt == (user("hi"), assistant("a"), user("more?"))
  assert (second.completions, second.ranks) == (("c", "d"), (1, 0))
  assert first.problem == second.problem == "hi"


# ------------------------------------------------------------------- real files


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


def test_fine_grained_rlhf(rm_data):
  records, reasons = count(rm_data / "fine_grained_rlhf")
  assert (len(records), reasons) == (500, {})
  every = [c for record in records for c in record.comparisons]
  assert len(every) == 3_000
  assert sum(c.preference == 0.5 for c in every) == 384
  # Intransitive: no weak order gives these six. By trying all 75 of them.
  orders = {
    tuple(sorted(set(ranks)).index(r) for r in ranks)
    for ranks in itertools.product(range(4), repeat=4)
  }
  assert len(orders) == 75

  def agrees(order, c):
    if c.preference == 0.5:
      return order[c.chosen] == order[c.rejected]
    return order[c.chosen] < order[c.rejected]

  weak = [
    any(all(agrees(o, c) for c in r.comparisons) for o in orders)
    for r in records
  ]
  assert weak.count(False) == 22
  first_wins = sum(c.preference == 1 and c.chosen < c.rejected for c in every)
  assert first_wins == 1_577


@pytest.mark.parametrize(
  "model, same, null, empty, rate",
  [
    ("alpaca-7b", 16, 0, 0, 26.460),
    ("claude-2", 1, 1, 0, 91.356),
    ("falcon-7b-instruct", 4, 0, 0, 45.714),
    ("llama-2-7b-chat-hf", 1, 0, 0, 71.366),
    ("text_davinci_001", 20, 1, 2, 15.174),
    ("vicuna-13b", 2, 0, 0, 70.435),
  ],
)
def test_alpaca_eval_v1(rm_data, model, same, null, empty, rate):
  path = rm_data / f"alpaca_eval/alpaca_eval_gpt4/{model}.annotations.json.gz"
  records, reasons = count(path)
  wanted = {
    "output_1 and output_2 are identical": same,
    "field 'preference' is null: the judge gave no verdict": null,
    "the output_2 completion is empty": empty,
  }
  assert reasons == {reason: n for reason, n in wanted.items() if n}
  assert len(records) == 805 - same - null - empty
  if not empty:
    # The published win rate: draws, all of them identical outputs, are half.
    outputs = {r["instruction"]: r["output_2"] for r in raw(path)}
    wins = sum(r.completions[0] == outputs[r.prompt] for r in records)
    share = (wins + same / 2) / (805 - null)
    assert 100 * share == pytest.approx(rate, abs=5e-4)


@pytest.mark.parametrize(
  "model, n, same, ties, rate",
  [
    ("gpt-3.5-turbo-1106", 805, 4, 0, 9.178),
    ("gemma-7b-it", 805, 0, 1, 6.937),
    ("vicuna-7b", 805, 2, 0, 4.163),
    ("phi-2", 803, 3, 0, 2.350),
  ],
)
def test_alpaca_eval_v2(rm_data, model, n, same, ties, rate):
  name = f"weighted_alpaca_eval_gpt4_turbo/{model}.annotations.json.gz"
  records, reasons = count(rm_data / "alpaca_eval" / name)
  identical = {"output_1 and output_2 are identical": same} if same else {}
  assert reasons == identical
  kinds = collections.Counter(r.kind for r in records)
  assert (kinds["pair"], kinds["comparisons"]) == (n - same - ties, ties)
  outputs = {
    r["instruction"]: r["output_2"] for r in raw(rm_data / "alpaca_eval" / name)
  }
  for_model = (same + ties) / 2
  for record in records:
    if record.kind == "pair":
      won = record.completions[0] == outputs[record.prompt]
      for_model += record.preference if won else 1 - record.preference
  assert 100 * for_model / n == pytest.approx(rate, abs=1e-3)


def test_pandalm(rm_data):
  path = rm_data / "pandalm/testset-v1.json.gz"
  records, reasons = count(path)
  empty = sum(n for r, n in reasons.items() if r.endswith("is empty"))
  true = sum(n for r, n in reasons.items() if r.endswith("got bool"))
  assert (empty, true, sum(reasons.values())) == (54, 6, 60)
  assert len(records) == 999 - 60
  # 105 ties by majority; two of them are in rows that cannot be used.
  tied = [
    row
    for row in raw(path)
    if [row[f"annotator{i}"] for i in (1, 2, 3)].count(0) >= 2
  ]
  assert len(tied) == 105
  usable = sum(
    isinstance(row[k], str) and row[k].strip() != ""
    for row in tied
    for k in ("response1", "response2")
  )
  bad = 2 * len(tied) - usable
  assert sum(r.kind == "comparisons" for r in records) == 105 - bad == 103
  shares = collections.Counter(
    round(r.preference, 3) for r in records if r.kind == "pair"
  )
  assert set(shares) == {0.667, 0.833, 1.0}


@pytest.mark.parametrize(
  "name, first, second",
  [
    ("LLMBar/Natural/dataset.json", 42, 58),
    ("LLMBar/Adversarial/GPTInst/dataset.json.gz", 45, 47),
    ("Processed/FairEval/dataset.json.gz", 41, 25),
  ],
)
def test_llmbar(rm_data, name, first, second):
  path = rm_data / "llmbar" / name
  records, reasons = count(path)
  assert (len(records), reasons) == (first + second, {})
  firsts = [row["output_1"] for row in raw(path)]
  chosen = [record.completions[0] for record in records]
  assert sum(map(str.__eq__, firsts, chosen)) == first


def test_ifbench(rm_data):
  records, reasons = count(rm_data / "ifbench")
  assert (len(records), reasons) == (444, {})
  longer = sum(len(r.completions[0]) > len(r.completions[1]) for r in records)
  assert round(100 * longer / 444, 1) == 45.5


def test_rm_bench(rm_data):
  records, reasons = count(rm_data / "rm_bench")
  assert (len(records), reasons) == (129, {})
  assert {len(r.completions) for r in records} == {6}
  assert {len(r.comparisons) for r in records} == {9}
  assert sum(len(set(r.completions)) == 5 for r in records) == 12


def test_llmzoo_rankings(rm_data):
  records, reasons = count(rm_data / "llmzoo_rankings")
  assert (len(records), reasons) == (870, {})
  sizes = collections.Counter(len(r.completions) for r in records)
  assert sizes == {2: 290, 3: 290, 4: 290}
  assert sum(len(set(r.ranks)) < len(r.ranks) for r in records) == 582
  assert sum(len(set(r.ranks)) == 1 for r in records) == 203
