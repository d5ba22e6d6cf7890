"""Writes the data set `arithmetic`: train.jsonl and test.jsonl.

  python -m rm_jax.data.arithmetic.make [--out=FOLDER]

Each line is a prompt with K = 4 completions whose quality is known, because
the script wrote them:

    gold   = 2 * topic + correctness + 0.5 * working
    rating = 1 + floor(gold), 1 to 5

    topic        1 gives an answer, 0.5 evades, 0 talks of something else
    correctness  2 right, 1 near miss, 0 far off or no answer
    working      1 shown and it leads to the answer, 0 not shown,
                 -1 shown and it contradicts the answer

Length must not tell the quality. So every completion draws how long it should
be, how many digits and how many marks it should have *before* its quality is
known, forty renderings of its meaning are written, and the nearest is kept.
Only `random.Random.random` is used: its sequence is the same in every Python.
"""

import argparse
import json
import math
import pathlib
import random
from typing import NamedTuple

SEED = 20_240_229
COUNTS = {"train": 1_200, "test": 300}
TEST_SHARE = 0.2  # of the operand pairs and of the word lists
RENDERINGS = 40

TOPIC, CORRECTNESS, WORKING = 2.0, 1.0, 0.5  # the weights of gold

DIGIT_WORDS = (
  "zero one two three four five six seven eight nine ten eleven twelve thirteen"
  " fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
TENS_WORDS = "twenty thirty forty fifty sixty".split()

NAMES = "Ana Ben Chen Dina Eli Fay Gus Hana Ivo Jun Kira Leo".split()
THINGS = "apples pens coins cards books shells eggs stamps".split()
LISTS = {
  "animals": "cat dog hen cow pig fox owl bee goat duck".split(),
  "colours": "red blue green pink grey black white brown gold teal".split(),
  "fruits": "fig plum pear lime apple grape mango peach lemon kiwi".split(),
  "tools": "saw drill nail axe rake spade file hammer clamp chisel".split(),
}

# {a}, {b}: the operands. In a word problem {n} is a name and {t} a thing.
QUESTIONS = {
  "addition": (
    "What is {a} plus {b}?",
    "Add {a} and {b}.",
    "What do {a} and {b} make together?",
    "How much is {a} + {b}?",
    "Please give me the sum of {a} and {b}.",
    "If I start at {a} and count up {b} more, where do I end?",
  ),
  "subtraction": (
    "What is {a} minus {b}?",
    "Take {b} away from {a}.",
    "How much is {a} - {b}?",
    "What is left of {a} when {b} are gone?",
    "Please give me the difference between {a} and {b}.",
    "If I start at {a} and count down {b}, where do I end?",
  ),
  "comparison": (
    "Which number is larger, {a} or {b}, and by how much?",
    "Is {a} or {b} the bigger one, and by how many?",
    "Of {a} and {b}, which is more, and how much more?",
    "Compare {a} with {b}: which one is greater, and by what?",
  ),
  "problem": (
    "{n} has {a} {t} and finds {b} more. How many {t} does {n} have now?",
    "{n} had {a} {t} and gave {b} away. How many {t} are left?",
    "There are {a} {t} in a box and {b} {t} on the table. How many in all?",
    "{n} needs {a} {t} and has {b}. How many {t} are missing?",
    "{n} bought {a} {t} today and {b} yesterday. How many {t} is that?",
    "A shelf holds {a} {t}. {n} takes {b}. How many {t} stay there?",
  ),
  "counting": (
    "How many {t} are named here: {list}?",
    "Count the {t} in this list: {list}.",
    "{list}: how many {t} is that?",
    "I wrote down {list}. How many {t} did I write?",
  ),
  "ordering": (
    "Put these words in alphabetical order: {list}.",
    "Sort these {t} from A to Z: {list}.",
    "In what order does a dictionary list {list}?",
    "By the alphabet, how do these words go: {list}?",
  ),
}
PROBLEM_SUMS = (True, False, True, False, True, False)  # else a difference

BARE = (
  "The answer is {x}.",
  "It is {x}.",
  "That would be {x}.",
  "My answer here is {x}.",
  "You asked about {s}, and the answer is {x}.",
  "For {s} the answer is {x}.",
  "So you want to know about {s}: it is {x}.",
)
SHOWN = (
  "{w}, so the answer is {x}.",
  "{w}, so it is {x}.",
  "{w} and so it is {x}.",
  "{w}. It is {x}.",
  "{w}. The answer is {x}.",
  "It is {x} because {v}.",
  "The answer is {x} since {v}.",
)
EVADES = (
  "I would rather not say anything about {s}.",
  "Someone else should tell you about {s}.",
  "I have no answer on {s}, sorry.",
  "A question such as {s} is hard to settle.",
  "About {s} there is a lot one could say.",
  "Perhaps ask me about {s} some other time.",
  "Well, {s} can be whatever you like.",
  "It depends: {s}, who could tell?",
)
OFF_TOPIC = (
  "Buses leave the station at {p} and at {q}.",
  "My sister has {p} cats and {q} old hats.",
  "The museum in town opens at {p}.",
  "Rain is due for {p} days, with {q} degrees at noon.",
  "The blue whale sleeps in the deep sea.",
  "Bread tastes best when it is fresh and warm.",
  "A good violin has {p} strings; mine lost {q}.",
  "Our team won {p} to {q} last week.",
  "Water the roses every {p} days, and cut them in spring.",
  "The train to the coast takes {p} hours, so bring a book.",
  "He painted the door green, then the fence, then the gate.",
)
# Said by all kinds of completions alike: they move length, marks and hedges.
OPENERS = (
  "",
  "",
  "",
  "Sure. ",
  "Sure, here it comes. ",
  "Good question! ",
  "Thanks for asking. ",
  "I think I can say this. ",
  "Maybe this helps. ",
  "Let me see, one moment. ",
)
CLOSERS = (
  "",
  "",
  "",
  " Hope that helps!",
  " That is all.",
  " Ask me again, if you like.",
  " Perhaps that will do.",
  " Probably more than you need, sorry.",
  " Have a nice day, and see you soon.",
  " Well, yes, that is it, I think.",
)
HEDGES = ("think", "maybe", "probably", "perhaps")

# (topic, correctness, working) by tier; a group draws one of each tier, and
# in one group of four one tier is drawn twice in the place of another.
TIERS = (
  ((1, 2, 1), (1, 2, 0), (1, 2, -1)),
  ((1, 1, 1), (1, 1, 0), (1, 1, -1)),
  ((1, 0, 1), (1, 0, 0), (1, 0, -1)),
  ((0.5, 0, 0), (0, 0, 0)),
)


class Task(NamedTuple):
  """A question with what its completions are made of."""

  prompt: str
  once: frozenset  # the prompt and the words of a list: used one time only
  subject: str  # {s}: what the question is about
  lead: str  # the working up to its result
  right: str  # the answer, as are the next two
  near: tuple
  far: tuple


def pick(rng: random.Random, items):
  """One of `items`, all equally likely."""
  return items[int(rng.random() * len(items))]


def shuffled(rng: random.Random, items) -> list:
  """The items in random order."""
  return [item for _, item in sorted((rng.random(), item) for item in items)]


def in_words(number: int) -> str:
  """The English words of 0 to 69."""
  if number < 20:
    return DIGIT_WORDS[number]
  tens, ones = divmod(number, 10)
  return TENS_WORDS[tens - 2] + (f"-{DIGIT_WORDS[ones]}" if ones else "")


def gold_of(topic: float, correctness: int, working: int) -> float:
  """The weighted sum of the module's docstring."""
  return TOPIC * topic + CORRECTNESS * correctness + WORKING * working


def rating_of(gold: float) -> int:
  """The bucket of a gold value, 1 to 5."""
  return 1 + math.floor(gold)


def ranks_of(golds: list[float]) -> list[int]:
  """0 for the best; equal golds share a rank: [4, 2, 4] -> [0, 2, 0]."""
  return [sum(other > gold for other in golds) for gold in golds]


def capital(text: str) -> str:
  """The text with a capital first letter."""
  return text[0].upper() + text[1:]


def misses(right: int) -> tuple[list[str], list[str]]:
  """Wrong numbers one or two off, and wrong numbers at least seven off."""
  near = [right + d for d in (-2, -1, 1, 2) if right + d >= 0]
  far = [right + d for d in (-12, -9, -7, 7, 9, 12, 15) if right + d >= 0]
  return list(map(str, near)), list(map(str, far))


def number_task(rng, family: str, pair: tuple[int, int]) -> Task:
  """A task over two numbers."""
  index = int(rng.random() * len(QUESTIONS[family]))
  sums = family == "addition" or family == "problem" and PROBLEM_SUMS[index]
  high, low = max(pair), min(pair)
  a, b = pair if rng.random() < 0.5 else pair[::-1]
  if not sums and family != "comparison":
    a, b = high, low
  spoken = in_words if rng.random() < 0.3 else str
  thing = pick(rng, THINGS)
  prompt = QUESTIONS[family][index].format(
    a=spoken(a), b=spoken(b), n=pick(rng, NAMES), t=thing
  )
  right = str(a + b if sums else high - low)
  near, far = misses(int(right))
  if family == "comparison":
    subject, lead = f"{a} or {b}", f"from {low} to {high} is a step of"
    right = f"{high}, by {right}"
    near = [f"{high}, by {x}" for x in near if x != "0"]
    far = [f"{low}, by {x}" for x in far]
  elif sums:
    subject, lead = f"{a} and {b}", f"adding {a} and {b} gives"
  else:
    subject, lead = f"{b} out of {a}", f"taking {b} from {a} leaves"
  if family == "problem":
    subject = f"the {thing}"
  return Task(
    prompt=capital(prompt),
    once=frozenset({capital(prompt)}),
    subject=subject,
    lead=lead,
    right=right,
    near=tuple(near),
    far=tuple(far),
  )


def list_task(rng, family: str, thing: str, words: list[str]) -> Task:
  """A task over a list of words: how many, or in what order."""
  text = ", ".join(words[:-1]) + " and " + words[-1]
  prompt = capital(pick(rng, QUESTIONS[family]).format(t=thing, list=text))
  if family == "counting":
    lead = f"from {words[0]} to {words[-1]} I count"
    right = str(len(words))
    near, far = misses(len(words))
  else:
    lead = "by letter they go"
    x, y, z = sorted(words)
    right = f"{x}, {y}, {z}"
    near = [f"{y}, {x}, {z}", f"{x}, {z}, {y}"]  # one swap of neighbours
    far = [f"{z}, {y}, {x}", f"{z}, {x}, {y}", f"{y}, {z}, {x}"]
  return Task(
    prompt=prompt,
    once=frozenset({prompt, frozenset(words)}),
    subject=f"the {thing}",
    lead=lead,
    right=right,
    near=tuple(near),
    far=tuple(far),
  )


def result_of(answer: str) -> str:
  """What the working of an answer ends in: `9, by 4` is worked out to `4`."""
  return answer.rsplit("by ", 1)[-1]


def rendering(rng, task: Task, kind: tuple) -> str:
  """One wording of a completion of that kind."""
  topic, correctness, working = kind
  fill = {"s": task.subject}
  if topic == 0:
    fill = {key: str(2 + int(rng.random() * 18)) for key in "pq"}
    body = pick(rng, OFF_TOPIC)
  elif topic == 0.5:
    body = pick(rng, EVADES)
  else:
    answers = {2: (task.right,), 1: task.near, 0: task.far}
    answer = pick(rng, answers[correctness])
    fill["x"] = answer
    body = pick(rng, SHOWN if working else BARE)
    result = result_of(answer)
    if working < 0:  # any result but the one the answer states
      every = (task.right, *task.near, *task.far)
      result = pick(rng, [r for r in map(result_of, every) if r != result])
    fill["v"] = f"{task.lead} {result}"
    fill["w"] = capital(fill["v"])
  body = body.format(**fill)
  if rng.random() < 0.5:
    body = " ".join(map(number_words, body.split(" ")))
  return pick(rng, OPENERS) + capital(body) + pick(rng, CLOSERS)


def number_words(word: str) -> str:
  """The word, in letters where it is a number, its marks kept."""
  bare = word.rstrip(".,;:!?")
  if not bare.isdigit():
    return word
  return in_words(int(bare)) + word[len(bare) :]


def surface(text: str) -> tuple[int, int, int, int]:
  """Characters, digits, marks and hedges of a text."""
  marks = sum(not (c.isalnum() or c.isspace()) for c in text)
  hedges = sum(text.lower().count(word) for word in HEDGES)
  return len(text), sum(c.isdigit() for c in text), marks, hedges


def completion(rng, task: Task, kind: tuple) -> str:
  """Of many renderings the one nearest to a surface drawn beforehand."""
  want = (
    46 + rng.random() * 32,
    pick(rng, (0, 0, 0, 2, 3, 4)),
    pick(rng, (2, 3, 3, 4, 4, 5)),
    pick(rng, (0, 0, 1)),
  )
  scale = (4.0, 1.0, 0.6, 0.5)

  def distance(text: str) -> float:
    have = surface(text)
    return sum(
      ((h - w) / s) ** 2 for h, w, s in zip(have, want, scale, strict=True)
    )

  texts = [rendering(rng, task, kind) for _ in range(RENDERINGS)]
  return min(texts, key=distance)  # the first of equals: deterministic


def group(rng, task: Task, name: str) -> dict:
  """One line of the data set."""
  tiers = list(TIERS)
  if rng.random() < 0.25:
    tiers[int(rng.random() * 4)] = pick(rng, TIERS)
  kinds = shuffled(rng, [pick(rng, tier) for tier in tiers])
  golds = [gold_of(*kind) for kind in kinds]
  return {
    "id": name,
    "prompt": task.prompt,
    "completions": [completion(rng, task, kind) for kind in kinds],
    "ratings": [rating_of(gold) for gold in golds],
    "ranks": ranks_of(golds),
    "gold": golds,
  }


def operand_pairs(rng) -> dict[str, list[tuple[int, int]]]:
  """The pairs of different numbers 1 to 20, split over the two sides."""
  pairs = [(a, b) for a in range(1, 21) for b in range(a + 1, 21)]
  pairs = shuffled(rng, pairs)
  cut = round(TEST_SHARE * len(pairs))
  return {"test": pairs[:cut], "train": pairs[cut:]}


def tasks(rng, count: int, pairs: list, taken: set) -> list[Task]:
  """`count` tasks with different prompts, the families in turn.

  Args:
    pairs: the operand pairs of this side.
    taken: prompts and word lists that are used up; grows.
  """
  families = list(QUESTIONS)
  found: list[Task] = []
  while len(found) < count:
    family = families[len(found) % len(families)]
    if family in ("counting", "ordering"):
      thing = pick(rng, list(LISTS))
      size = 3 if family == "ordering" else 3 + int(rng.random() * 5)
      words = shuffled(rng, LISTS[thing])[:size]
      task = list_task(rng, family, thing, words)
    else:
      pair = pick(rng, pairs)
      if family == "problem" and min(pair) == 1:
        continue  # "1 apples"
      task = number_task(rng, family, pair)
    if task.once.isdisjoint(taken):
      taken |= task.once
      found.append(task)
  return found


def make() -> dict[str, list[dict]]:
  """The lines of both files: {"train": [...], "test": [...]}."""
  rng = random.Random(SEED)
  pairs = operand_pairs(rng)
  taken: set = set()
  return {
    side: [
      group(rng, task, f"{side}-{number:04d}")
      for number, task in enumerate(tasks(rng, count, pairs[side], taken))
    ]
    for side, count in COUNTS.items()
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument(
    "--out", type=pathlib.Path, default=pathlib.Path(__file__).parent
  )
  out = parser.parse_args().out
  for side, lines in make().items():
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (out / f"{side}.jsonl").write_bytes(text.encode("utf-8"))


if __name__ == "__main__":
  main()
