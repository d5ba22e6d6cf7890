"""The embedded data set: as its card says, and with no way around its truth."""

import itertools
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats

import rm_jax

FOLDER = pathlib.Path(rm_jax.__file__).parent / "data" / "arithmetic"
SIDES = ("train", "test")

ONES = (
  "zero one two three four five six seven eight nine ten eleven twelve thirteen"
  " fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60}
HEDGES = ("think", "maybe", "probably", "perhaps")


def numbers(text: str) -> list[int]:
  """Every number of a text, in digits or in words, in order."""
  found = []
  for word in re.findall(r"[a-z]+(?:-[a-z]+)?|\d+", text.lower()):
    tens, _, ones = word.partition("-")
    if word.isdigit():
      found.append(int(word))
    elif word in ONES:
      found.append(ONES.index(word))
    elif tens in TENS:
      found.append(TENS[tens] + (ONES.index(ones) if ones else 0))
  return found


def marks(text: str) -> int:
  return sum(not (c.isalnum() or c.isspace()) for c in text)


def shared_words(text: str, prompt: str) -> int:
  return len(set(text.lower().split()) & set(prompt.lower().split()))


FEATURES = {
  "characters": lambda text, _: len(text),
  "words": lambda text, _: len(text.split()),
  "digits": lambda text, _: sum(c.isdigit() for c in text),
  "marks": lambda text, _: marks(text),
  "capital first": lambda text, _: int(text[0].isupper()),
  "hedges": lambda text, _: sum(text.lower().count(w) for w in HEDGES),
  "words of the prompt": shared_words,
}


@pytest.fixture(scope="module")
def sides() -> dict[str, list[dict]]:
  return {
    side: [
      json.loads(line)
      for line in (FOLDER / f"{side}.jsonl").read_text("utf-8").splitlines()
    ]
    for side in SIDES
  }


@pytest.fixture(scope="module")
def rows(sides) -> list[dict]:
  return sides["train"] + sides["test"]


@pytest.fixture(scope="module")
def card() -> dict[str, list[str]]:
  """The table rows of the data card by their first cell."""
  text = (FOLDER / "README.md").read_text("utf-8")
  lines = [line.strip("|").split("|") for line in text.splitlines()]
  cells = [[cell.strip() for cell in line] for line in lines]
  return {line[0]: line[1:] for line in cells if len(line) > 1}


def ordered_pairs(gold: list[float]) -> list[tuple[int, int]]:
  """(better, worse) of every pair that is not a tie."""
  pairs = itertools.permutations(range(len(gold)), 2)
  return [(i, j) for i, j in pairs if gold[i] > gold[j]]


def pair_accuracy(rows: list[dict], feature) -> float:
  """How often the better completion has more of the feature; ties a half."""
  credit = []
  for row in rows:
    x = [feature(text, row["prompt"]) for text in row["completions"]]
    for i, j in ordered_pairs(row["gold"]):
      credit.append((x[i] > x[j]) + 0.5 * (x[i] == x[j]))
  return float(np.mean(credit))


def mean_spearman(rows: list[dict], feature) -> float:
  """Mean over groups in which both differ; 0 where there are none."""
  x = np.array(
    [[feature(t, row["prompt"]) for t in row["completions"]] for row in rows]
  )
  gold = np.array([row["gold"] for row in rows])
  # Spearman's: Pearson's of the ranks, ties at their mean rank. All groups at
  # once; scipy.stats.spearmanr takes a millisecond for each.
  a, b = (scipy.stats.rankdata(v, axis=1) for v in (x, gold))
  a, b = (v - v.mean(axis=1, keepdims=True) for v in (a, b))
  both = (a**2).sum(axis=1) * (b**2).sum(axis=1)
  found = (a * b).sum(axis=1)[both > 0] / np.sqrt(both[both > 0])
  return float(found.mean()) if found.size else 0.0


def test_the_files_are_what_the_script_writes(tmp_path):
  # Catches a generator that was edited without running it, one that depends
  # on hash order or on the run, and a file that was edited by hand.
  subprocess.run(
    [sys.executable, "-m", "rm_jax.data.arithmetic.make", f"--out={tmp_path}"],
    check=True,
    env={"PYTHONHASHSEED": "7", "PYTHONPATH": str(FOLDER.parents[2])},
  )
  for side in SIDES:
    name = f"{side}.jsonl"
    assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), name


def test_counts_and_sizes_are_those_of_the_card(sides, rows, card):
  # Catches a card that tells of an older version of the data.
  def texts(values):
    return [str(value) for value in values]

  assert card["prompts"] == texts(len(sides[s]) for s in SIDES)
  assert card["completions"] == texts(4 * len(sides[s]) for s in SIDES)
  assert card["how many"] == texts(
    np.bincount([r for row in rows for r in row["ratings"]])[1:]
  )
  assert card["comparisons that are not ties"] == texts(
    sum(len(ordered_pairs(row["gold"])) for row in sides[s]) for s in SIDES
  )
  size = sum((FOLDER / f"{s}.jsonl").stat().st_size for s in SIDES)
  assert size < 700_000


def test_lines_are_whole(rows):
  # Catches a completion drawn twice, a lost field, a text that ran away.
  assert len({row["id"] for row in rows}) == len(rows)
  for row in rows:
    assert set(row) == {
      "id",
      "prompt",
      "completions",
      "ratings",
      "ranks",
      "gold",
    }
    assert len(set(row["completions"])) == 4, row["id"]
    for key in ("ratings", "ranks", "gold"):
      assert len(row[key]) == 4
    for text in row["completions"]:
      assert 5 <= len(text.split()) <= 40, text
      assert "{" not in text and "  " not in text, text


def test_ratings_and_ranks_follow_from_gold(rows):
  # Catches ranks that count up from the worst, ties with different ranks and
  # buckets that are off by one.
  gold = np.array([row["gold"] for row in rows])
  ranks = scipy.stats.rankdata(-gold, method="min", axis=1) - 1
  for row, want in zip(rows, ranks, strict=True):
    assert row["ranks"] == want.tolist(), row["id"]
    assert row["ratings"] == [1 + int(gold // 1) for gold in row["gold"]]
  assert {r for row in rows for r in row["ratings"]} == {1, 2, 3, 4, 5}


def expected_result(prompt: str) -> int | None:
  """The right number where the prompt is a sum or a difference."""
  found = numbers(prompt)
  if len(found) != 2 or re.search("larger|bigger|more, and|greater", prompt):
    return None
  sums = r"plus|Add|together|\+|sum|count up|finds|in all|bought"
  return sum(found) if re.search(sums, prompt) else abs(found[0] - found[1])


def test_gold_tells_the_truth_about_the_numbers(rows):
  # Catches a wrong sum, operands taken in the wrong order, near and far
  # swapped, and gold that was shuffled apart from its completions. The answer
  # is the last number of a completion without working.
  checked = 0
  for row in rows:
    right = expected_result(row["prompt"])
    if right is None:
      continue
    for text, gold in zip(row["completions"], row["gold"], strict=True):
      if gold not in (4.5, 4.0, 3.0, 2.0):
        continue
      checked += 1
      found = numbers(text)
      off = abs(found[-1] - right)
      if gold == 4.5:
        assert found.count(right) >= 2, (row["prompt"], text)
      elif gold == 4.0:
        assert off == 0, (row["prompt"], text)
      elif gold == 3.0:
        assert 1 <= off <= 2, (row["prompt"], text)
      else:
        assert off >= 7, (row["prompt"], text)
  assert checked > 900


def test_nothing_is_on_both_sides(sides):
  # Catches a split by line: the same two numbers under another phrasing.
  def keys(side):
    prompts = {row["prompt"] for row in sides[side]}
    pairs = {frozenset(numbers(p)) for p in prompts if len(numbers(p)) == 2}
    lists = {
      frozenset(re.split(", | and ", match[0].lower()))
      for p in prompts
      if (match := re.search(r"[A-Za-z]+(, [a-z]+)+ and [a-z]+", p))
      and not numbers(p)
    }
    assert len(pairs) > 30 and len(lists) > 80
    return prompts, pairs, lists

  for train, test in zip(keys("train"), keys("test"), strict=True):
    assert not train & test
  assert len(keys("train")[0]) == len(sides["train"])


@pytest.mark.parametrize("name", FEATURES)
def test_no_surface_feature_tells_the_quality(name, sides, rows, card):
  # Catches templates of one quality that are longer, or have more commas, than
  # the others: a model could then be right for the wrong reason.
  got = pair_accuracy(rows, FEATURES[name]), mean_spearman(rows, FEATURES[name])
  assert card[name] == [f"{value:.3f}" for value in got]
  for part in (rows, sides["train"], sides["test"]):
    accuracy = pair_accuracy(part, FEATURES[name])
    assert max(accuracy, 1 - accuracy) < 0.65
    if name == "characters":
      assert max(accuracy, 1 - accuracy) < 0.55
      assert abs(mean_spearman(part, FEATURES[name])) < 0.1


def test_half_of_the_comparisons_need_no_arithmetic(rows):
  # Catches a mixture that only exact sums decide: a small frozen language
  # model could not learn it. Gold up to 1 is no answer at all.
  easy = [
    gold[i] > 1 >= gold[j]
    for gold in (row["gold"] for row in rows)
    for i, j in ordered_pairs(gold)
  ]
  assert 0.4 < np.mean(easy) < 0.6
