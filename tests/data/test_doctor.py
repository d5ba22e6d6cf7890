"""Every finding of the doctor: planted once and counted exactly."""

import gzip
import itertools
import json
import math
import random

import pytest

from rm_jax.data.doctor.findings import share, text_findings, wilson
from rm_jax.data.doctor.graph import cyclic_prompts
from rm_jax.data.doctor.overlap import GRAM, index_prompts
from rm_jax.data.doctor.survey import reason_pattern, survey
from rm_jax.data.doctor.text import is_cut
from rm_jax.data.sources import read_records
from rm_jax.types import Comparison, Record

# Six pairs without fault: other prompts, full sentences, sides of equal rank in
# length, so that nothing is to be said but what they are.
CLEAN = [
  {
    "prompt": f"What is {n} plus {n} ?",
    "chosen": f"It is {2 * n} ." + " Be kind ." * (n % 2),
    "rejected": "Nobody knows ." + " Be brief ." * (1 - n % 2),
  }
  for n in range(6)
]


def write(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def examine(path, rows, *, kind="auto", against=None) -> dict:
  """{name: findings of that name} of rows written to a file."""
  write(path, rows)
  found = survey(read_records(path, kind=kind), root=path, against=against)
  named = {}
  for finding in text_findings(found):
    named.setdefault(finding.name, []).append(finding)
  return named


def alarms(named) -> set:
  return {n for n, fs in named.items() for f in fs if f.severity != "note"}


def ranking(prompt, completions, ranks):
  return {"prompt": prompt, "completions": completions, "ranks": ranks}


def steps(prompt, pieces, labels):
  return {"prompt": prompt, "completions": pieces, "labels": labels}


def outcome(n, label, text="It is four ."):
  return {"prompt": f"What is {n} ?", "completion": text, "label": label}


def test_a_clean_file_raises_no_alarm(tmp_path):
  # Catches a check that finds what is not there.
  named = examine(tmp_path / "clean.jsonl", CLEAN)
  assert alarms(named) == set()
  assert set(named) == {"kinds", "group_size", "chosen_longer"}
  skew = named["chosen_longer"][0]
  assert (skew.count, skew.total) == (3, 6)


PAIR = CLEAN[0]
LONG = "This answer goes on for more than forty characters and then it st"
MOJIBAKE = "don\u2019t".encode().decode("cp1252")

# name -> (rows added to CLEAN, count, unit's total, is it an alarm)
PLANTED = {
  "duplicate_records": ([PAIR], 1, 7, True),
  "repeated_prompts": (
    [{**PAIR, "prompt": "what  IS 0 plus 0 ?", "chosen": "It is none ."}],
    1,
    7,
    False,
  ),
  "contradictions": (
    [{**PAIR, "chosen": PAIR["rejected"], "rejected": PAIR["chosen"]}],
    1,
    6,  # judged pairs
    True,
  ),
  "conflicting_labels": (
    [{**CLEAN[1], "strength": s} for s in (3, 1)],
    1,
    8,
    True,
  ),
  "tied_comparisons": (
    [ranking("Which ?", ["One .", "Two .", "Six ."], [1, 2, 2])],
    1,
    9,
    False,
  ),
  "all_tied_groups": (
    [ranking("Which ?", ["One .", "Two .", "Six ."], [1, 1, 1])],
    1,
    7,
    True,
  ),
  "equal_ratings": (
    [{**CLEAN[1], "chosen_rating": 4, "rejected_rating": 4}],
    1,
    7,
    True,
  ),
  "rating_against_order": (
    [{**CLEAN[1], "chosen_rating": 2, "rejected_rating": 4}],
    1,
    7,
    True,
  ),
  "short_completion": (
    [{"prompt": "Which ?", "chosen": "B", "rejected": " C\n"}],
    2,
    14,
    True,
  ),
  "empty_prompt": (
    [{"prompt": " ", "chosen": "One .", "rejected": "Two ."}],
    1,
    7,
    False,
  ),
  "identical_completions": (
    [ranking("Which ?", ["One .", "Two .", "One ."], [1, 2, 3])],
    1,
    15,
    True,
  ),
  "white_space_pair": (
    [{"prompt": "Which ?", "chosen": "One two .", "rejected": "One  two ."}],
    1,
    14,
    True,
  ),
  "leading_space": (
    [{"prompt": "Which ?", "chosen": " One .", "rejected": "Two ."}],
    1,
    7,
    False,
  ),
  "repeats_prompt": (
    [
      {
        "prompt": "Name one  thing that is red.",
        "chosen": "name one thing that is red. A rose.",
        "rejected": "A rose.",
      }
    ],
    1,
    14,
    False,
  ),
  "replacement_character": (
    [{"prompt": "A caf\ufffd ?", "chosen": "One .", "rejected": "Two ."}],
    1,
    7,
    True,
  ),
  "control_character": (
    [{"prompt": "Which ?", "chosen": "One\x85 .", "rejected": "Two\x00 ."}],
    1,
    7,
    True,
  ),
  "mojibake": (
    [{"prompt": "Which ?", "chosen": MOJIBAKE, "rejected": "Two ."}],
    1,
    7,
    True,
  ),
  "zero_width": (
    [{"prompt": "Which ?", "chosen": "One\u200b .", "rejected": "Two ."}],
    1,
    7,
    False,
  ),
  "lone_cr": (
    [{"prompt": "Which ?", "chosen": "One\rTwo .", "rejected": "Two\r\n."}],
    1,
    7,
    False,
  ),
  "cut_off": (
    [{"prompt": "Which ?", "chosen": LONG, "rejected": LONG[:39]}],
    1,  # the other has 39 characters
    14,
    False,
  ),
  "cycles": (
    [
      {
        "prompt": "Which ?",
        "completions": ["One .", "Two .", "Six ."],
        "comparisons": [[0, 1, 1], [1, 2, 1], [2, 0, 1]],
      }
    ],
    1,
    7,
    True,
  ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_defect_is_counted_once(tmp_path, name):
  # Catches a count by file instead of by place, a total of another unit, a
  # place that is off by one.
  rows, count, total, alarm = PLANTED[name]
  named = examine(tmp_path / "bad.jsonl", CLEAN + rows)
  (finding,) = named[name]
  assert (finding.count, finding.total) == (count, total)
  assert share(finding) == count / total
  assert (finding.severity != "note") == alarm
  # Nothing else is blamed: identical is not "white space only", and so on.
  # An equal text above and below a third contradicts itself, rightly.
  also = {"identical_completions": {"contradictions"}}.get(name, set())
  assert alarms(named) - also == ({name} if alarm else set())
  assert finding.advice
  if finding.examples:
    last = len(CLEAN) + len(rows)
    assert finding.examples[0].startswith(f"bad.jsonl:{last}")


def test_emoji_and_persian_keep_their_joiners(tmp_path):
  # Catches a warning for every family emoji.
  rows = [
    {
      "prompt": "Which ?",
      "chosen": "\U0001f468\u200d\U0001f469 .",
      "rejected": "\u0645\u06cc\u200c\u062e .",
    }
  ]
  assert "zero_width" not in examine(tmp_path / "a.jsonl", rows)


def test_rejects_of_one_reason_are_one_finding(tmp_path):
  # Catches a finding for every row: digits in a reason say which row.
  rows = [*CLEAN * 20]
  path = write(tmp_path / "a.jsonl", rows)
  with open(path, "a", encoding="utf-8") as out:
    out.write('{"a" 1}\n{"abcd" 1}\n')
    out.write(json.dumps({**PAIR, "chosen": " "}) + "\n")
  found = survey(read_records(path), root=path)
  rejects = [f for f in text_findings(found) if f.name == "rejects"]
  assert [(f.count, f.total) for f in rejects] == [(2, 123), (1, 123)]
  assert rejects[0].examples == ("a.jsonl:121", "a.jsonl:122")
  assert "column 6:" in rejects[0].what  # the first one's own words
  assert {f.severity for f in rejects} == {"error"}  # 3 of 123 is above 2 %


def test_an_id_in_a_reason_is_no_reason_of_its_own():
  assert reason_pattern("reply 1a-2b-c3: rank 7") == "reply N: rank N"


def test_annotators_agree_as_counted_by_hand(tmp_path):
  # Catches agreement over records instead of over pairs of annotators, and a
  # second vote of the same annotator. Pair 0: votes A, A, B: 1 of 3 pairs of
  # annotators agree; pair 1: A, A: 1 of 1.
  turned = {**PAIR, "chosen": PAIR["rejected"], "rejected": PAIR["chosen"]}
  rows = [
    {**PAIR, "annotator": "a"},
    {**PAIR, "annotator": "a"},
    {**PAIR, "annotator": "b"},
    {**turned, "annotator": "c"},
    {**CLEAN[1], "annotator": "a"},
    {**CLEAN[1], "annotator": "b"},
  ]
  named = examine(tmp_path / "a.jsonl", rows)
  (finding,) = named["agreement"]
  assert (finding.count, finding.total) == (2, 4)
  assert finding.numbers["judged_by_several"] == 2
  assert named["duplicate_records"][0].count == 1  # the same annotator twice
  assert named["contradictions"][0].severity == "note"  # people differ
  assert dict(named["annotators"][0].table) == {"a": 3, "b": 2, "c": 1}


def test_the_same_record_in_another_order_is_a_duplicate(tmp_path):
  # Catches a hash of the list as it is written.
  one = ranking("Which ?", ["One .", "Two .", "Six ."], [2, 1, 3])
  two = ranking("Which ?", ["Six .", "One .", "Two ."], [3, 2, 1])
  other = ranking("Which ?", ["Six .", "One .", "Two ."], [1, 2, 3])
  assert "duplicate_records" in examine(tmp_path / "a.jsonl", [one, two])
  assert "duplicate_records" not in examine(tmp_path / "b.jsonl", [one, other])


# ---------------------------------------------------------------- labels


def test_outcome_labels_balance_and_length(tmp_path):
  # The probability that a right answer is longer, by a double loop.
  right = ["a" * n + "." for n in (3, 8, 8, 20)]
  wrong = ["b" * n + "." for n in (1, 8, 30)]
  rows = [outcome(n, True, t) for n, t in enumerate(right)]
  rows += [outcome(n + 9, False, t) for n, t in enumerate(wrong)]
  named = examine(tmp_path / "a.jsonl", rows)
  (balance,) = named["outcome_balance"]
  assert (balance.count, balance.total, balance.severity) == (4, 7, "note")
  wins = sum(
    (len(a) > len(b)) + (len(a) == len(b)) / 2
    for a, b in itertools.product(right, wrong)
  )
  numbers = named["outcome_length"][0].numbers
  assert numbers["length_only_auc"] == pytest.approx(wins / 12)
  assert numbers["mean_characters_wrong"] == pytest.approx((2 + 9 + 31) / 3)


@pytest.mark.parametrize(
  ("labels", "severity"),
  [([1] * 30, "error"), ([1] * 29 + [0], "warning"), ([1, 0] * 15, "note")],
)
def test_constant_and_rare_labels(tmp_path, labels, severity):
  rows = [outcome(n, label) for n, label in enumerate(labels)]
  (finding,) = examine(tmp_path / "a.jsonl", rows)["outcome_balance"]
  assert (finding.count, finding.total) == (sum(labels), 30)
  assert finding.severity == severity


def test_groups_of_one_label_are_told(tmp_path):
  rows = [
    {"prompt": "One ?", "completions": ["a.", "b."], "labels": [1, 1]},
    {"prompt": "Two ?", "completions": ["a.", "b."], "labels": [1, 0]},
  ]
  named = examine(tmp_path / "a.jsonl", rows, kind="outcome")
  (finding,) = named["groups_of_one_label"]
  assert (finding.count, finding.total) == (1, 2)


def test_step_labels_and_the_length_of_steps(tmp_path):
  # Catches lengths counted from the start of the completion: the second step
  # of the first row has 3 characters and the separator before it.
  rows = [
    steps("One ?", ["aaaa", "bb."], [True, False]),
    steps("Two ?", ["cccccc."], [True]),
  ]
  named = examine(tmp_path / "a.jsonl", rows)
  (balance,) = named["steps_balance"]
  assert (balance.count, balance.total) == (2, 3)
  numbers = named["steps_length"][0].numbers
  assert numbers["mean_characters_right"] == (4 + 7) / 2
  assert numbers["mean_characters_wrong"] == 1 + 3


def test_length_skew_and_the_rule_longer_wins(tmp_path):
  # 40 pairs: 36 longer, 2 equal, 2 shorter; half credit for the equal ones.
  sizes = [(9, 5)] * 36 + [(5, 5)] * 2 + [(3, 5)] * 2
  rows = [
    {"prompt": f"{n} ?", "chosen": "a" * i + ".", "rejected": "b" * j + "."}
    for n, (i, j) in enumerate(sizes)
  ]
  (finding,) = examine(tmp_path / "a.jsonl", rows)["chosen_longer"]
  assert (finding.count, finding.total) == (36, 40)
  assert finding.numbers["length_only_accuracy"] == 37 / 40
  assert finding.numbers["mean_characters_chosen"] == 1 + (324 + 10 + 6) / 40
  assert finding.severity == "warning"


def test_position_bias_of_explicit_comparisons(tmp_path):
  # Catches pairs counted in: their chosen side is listed first by definition.
  rows = [
    {
      "prompt": f"{n} ?",
      "completions": ["aa.", "bb.", "cc."],
      "comparisons": [[0, 1, 1], [1, 2, 1], [2, 0, 0.5]],
    }
    for n in range(20)
  ]
  named = examine(tmp_path / "a.jsonl", rows + CLEAN)
  (finding,) = named["first_listed_wins"]
  assert (finding.count, finding.total) == (40, 40)
  assert finding.severity == "warning"


def test_cuts_on_one_side_alone_are_a_warning(tmp_path):
  rows = [
    {"prompt": f"{n} ?", "chosen": LONG + "op.", "rejected": LONG}
    for n in range(40)
  ]
  (finding,) = examine(tmp_path / "a.jsonl", rows)["cut_off"]
  assert (finding.count, finding.total, finding.severity) == (40, 80, "warning")
  assert finding.numbers == {"chosen_share": 0.0, "rejected_share": 1.0}


@pytest.mark.parametrize(
  ("end", "cut"),
  [("st", True), (" and,", True), ("\u8bed", True), (" -\n", True)]
  + [(end, False) for end in (".", "!", " 42", ")", '"', "```", "\u3002")],
)
def test_what_looks_cut_off(end, cut):
  # Catches code, numbers, quotations and other scripts' full stops taken for a
  # text that breaks off.
  assert is_cut("x" * 40 + end) == cut
  assert not is_cut("x" * 39)


@pytest.mark.parametrize(("hits", "n"), [(3, 10), (0, 7), (50, 50), (1, 2)])
def test_wilson_solves_its_equation(hits, n):
  # The ends are where |p - q| = z sqrt(q (1 - q) / n): the definition, not the
  # closed form.
  z = 1.959964
  for q in wilson(hits, n):
    want = z * math.sqrt(q * (1 - q) / n)
    assert abs(hits / n - q) == pytest.approx(want, abs=1e-7)
  assert wilson(0, 0) == (0.0, 1.0)


# ---------------------------------------------------------------- cycles


def consistent(verdicts) -> bool:
  """Whether some order of 4 with ties agrees with {(i, j): 1, 0, -1}."""
  return any(
    all(
      verdict == (ranks[i] < ranks[j]) - (ranks[i] > ranks[j])
      for (i, j), verdict in verdicts.items()
    )
    for ranks in itertools.product(range(4), repeat=4)
  )


def test_cycles_against_every_order():
  # Catches ties left out, ties counted as cycles, a search that stops early.
  rng = random.Random(0)
  names = [bytes([k]) * 8 for k in range(4)]
  seen = set()
  for trial in range(400):
    pairs = list(itertools.combinations(range(4), 2))
    chosen = rng.sample(pairs, rng.randint(3, 6))
    verdicts = {pair: rng.choice([1, 1, 0, -1]) for pair in chosen}
    judged = {}
    for (i, j), verdict in verdicts.items():
      votes = [int(verdict > 0), int(verdict < 0), int(verdict == 0)]
      judged[b"p" * 8 + names[i] + names[j]] = [*votes, trial]
    cyclic = bool(cyclic_prompts(judged))
    assert cyclic == (not consistent(verdicts)), verdicts
    seen.add(cyclic)
  assert seen == {True, False}


def test_the_majority_of_repeated_verdicts_counts(tmp_path):
  # Two say a > b, one b > a: no cycle by itself, and none with b > c, a > c.
  texts = {"a": "One .", "b": "Two .", "c": "Six ."}
  said = ["ab", "ab", "ba", "bc", "ac"]
  rows = [
    {"prompt": "Which ?", "chosen": texts[i], "rejected": texts[j]}
    for i, j in said
  ]
  named = examine(tmp_path / "a.jsonl", rows)
  assert "cycles" not in named and named["contradictions"][0].count == 1
  # c > a against one a > c is no edge; two of them close a -> b -> c -> a.
  turned = {"prompt": "Which ?", "chosen": texts["c"], "rejected": texts["a"]}
  named = examine(tmp_path / "b.jsonl", rows + [turned])
  assert "cycles" not in named and named["contradictions"][0].count == 2
  named = examine(tmp_path / "c.jsonl", rows + [turned, turned])
  assert named["cycles"][0].count == 1


# ---------------------------------------------------------------- overlap


def worded(rng, count):
  return " ".join(f"w{rng.randrange(10**6)}" for _ in range(count))


def test_ten_planted_prompts_are_found(tmp_path):
  # Catches a comparison by text (case and white space differ), 8-grams that
  # run from turn to turn, boilerplate that makes every prompt a near one.
  rng = random.Random(0)
  frame = "Answer the question below in one short and simple sentence please: "
  # Of 14 words 4 of 7 runs are boilerplate: it alone would make them near.
  here = [frame + worded(rng, 3) for _ in range(30)]
  there = [frame + worded(rng, 12) for _ in range(30)]
  planted = [p.upper().replace(" ", "  ") for p in there[:10]]
  # 23 words have 16 runs of 8, 12 without the boilerplate's. With 20 words kept
  # 9 of 12 are known, with 13 words kept 2 of 12.
  near = [" ".join([*there[11].split()[:20], *worded(rng, 3).split()])]
  far = [" ".join([*there[12].split()[:13], *worded(rng, 10).split()])]
  rows = [
    {"prompt": p, "chosen": f"Answer {n} is this .", "rejected": f"No {n} ."}
    for n, p in enumerate(here + planted + near + far)
  ]
  rows[3]["chosen"] = "ANSWER that is known  there ."
  others = [
    {"prompt": p, "chosen": f"Known {n} .", "rejected": "Yes ."}
    for n, p in enumerate(there)
  ]
  others[5]["rejected"] = "Answer that is known there ."
  others += [others[11]] * 12  # one prompt often is no boilerplate
  index = index_prompts(read_records(write(tmp_path / "b.jsonl", others)))
  named = examine(tmp_path / "a.jsonl", rows, against=index)
  assert named["shared_prompt"][0].count == 10
  assert named["shared_prompt"][0].severity == "error"
  assert named["shared_prompt"][0].examples[0] == "a.jsonl:31"
  assert named["near_prompt"][0].count == 1
  assert named["near_prompt"][0].examples == ("a.jsonl:41",)
  assert named["shared_completion"][0].examples == ("a.jsonl:4",)
  assert len(frame.split()) >= GRAM  # the boilerplate has runs of its own
  clean = examine(tmp_path / "c.jsonl", rows[10:30], against=index)
  assert alarms(clean) <= {"chosen_longer"}


# ---------------------------------------------------------------- real data

# Folder or file -> {finding: (count, total)}: the defects its authors left in,
# as counted when the samples were collected.
REAL = {
  "hh_rlhf/harmless-base": {"repeated_prompts": (2, 2303)},
  "llama_factory_demo/dpo_en_demo.json.gz": {"duplicate_records": (5, 300)},
  "llama_factory_demo/dpo_zh_demo.json.gz": {
    "duplicate_records": (11, 300),
    "replacement_character": (6, 300),
  },
  "llama_factory_demo/kto_en_demo.json.gz": {
    "repeated_prompts": (3, 300),
    "outcome_balance": (150, 300),
  },
  "fine_grained_rlhf": {
    "cycles": (22, 500),
    "all_tied_groups": (12, 500),
    "tied_comparisons": (384, 3000),
    "first_listed_wins": (1577, 2616),
  },
  "gsm8k/example_model_solutions.part_0319-1318.jsonl.gz": {
    "outcome_balance": (1500, 4000),
    "groups_of_one_label": (435, 1000),
    "identical_completions": (7, 4000),
  },
  "llmzoo_rankings": {"all_tied_groups": (203, 870)},
}


def real(rm_data, name):
  path = rm_data / name
  found = survey(read_records(path), root=path)
  return text_findings(found)


@pytest.mark.parametrize("name", REAL)
def test_real_defects_have_their_known_numbers(rm_data, name):
  named = {f.name: f for f in real(rm_data, name)}
  got = {k: (named[k].count, named[k].total) for k in REAL[name]}
  assert got == REAL[name]


def test_real_rejects_have_their_known_numbers(rm_data):
  # 4 + 4 empty, 2 identical, 5 + 9 of other dialogues.
  total = {}
  for side in ("harmless-base", "helpful-base"):
    for f in real(rm_data, f"hh_rlhf/{side}"):
      if f.name == "rejects":
        total[f.what] = total.get(f.what, 0) + f.count
  counts = sorted(total.items(), key=lambda item: item[1])
  assert [n for _, n in counts] == [2, 4, 4, 14]
  assert "identical" in counts[0][0] and "earlier turns" in counts[3][0]


def test_real_equal_ratings(rm_data):
  # An own reading of the rows: equal scores among those that are records.
  folder = rm_data / "ultrafeedback_sample"
  with gzip.open(folder / "train_clean.jsonl.gz", "rt", encoding="utf-8") as f:
    rows = [json.loads(line) for line in f]
  usable = [
    r
    for r in rows
    if r["chosen"] != r["rejected"]
    and r["chosen"].strip()
    and r["rejected"].strip()
  ]
  equal = [
    r
    for r in usable
    if r["metadata"]["score_chosen"] == r["metadata"]["score_rejected"]
  ]
  named = {f.name: f for f in real(rm_data, "ultrafeedback_sample")}
  finding = named["equal_ratings"]
  assert (finding.count, finding.total) == (len(equal), len(usable))
  longer = sum(len(r["chosen"]) > len(r["rejected"]) for r in usable)
  assert named["chosen_longer"].count == longer


def test_comparison_without_a_strict_verdict_is_tied():
  # Catches a soft preference of 1/2 taken for a win.
  record = Record(
    "comparisons",
    "Which ?",
    ("One .", "Two ."),
    comparisons=(Comparison(0, 1, 0.5),),
  )
  named = {f.name: f for f in text_findings(survey([record]))}
  assert named["all_tied_groups"].count == 1
  assert "chosen_longer" not in named
