"""Manipulation checks of the text world: what its data card promises, measured.

A world in which length, or one feature, tells who is better would reward a
model for the wrong reason. `report` prints the table of the card.
"""

import numpy as np
from jaxtyping import Float

from rm_jax.data.text_world.gold import FEATURES, features, words_of
from rm_jax.data.text_world.labellers import ANNOTATORS
from rm_jax.data.text_world.sampling import MAX_TOKENS
from rm_jax.types import ArrayLike

LEAST = 5  # completions of the training side that a word of the baseline is in
RIDGE = 100.0


def spearman(x: Float[ArrayLike, " N"], y: Float[ArrayLike, " N"]) -> float:
  """Spearman's rank correlation, ties by mean ranks; nan for a constant.

  rho = Pearson correlation of the ranks of x and the ranks of y
  """
  from scipy import stats  # here: half a second that a reader need not pay

  x, y = (stats.rankdata(values) for values in (x, y))
  if np.ptp(x) == 0 or np.ptp(y) == 0:
    return float("nan")
  return float(np.corrcoef(x, y)[0, 1])


def pair_accuracy(
  scores: Float[ArrayLike, "G K"], gold: Float[ArrayLike, "G K"]
) -> float:
  """How often the completion of more gold has the higher score; ties a half.

  Over all pairs of one prompt whose gold differs.
  """
  scores, gold = np.asarray(scores), np.asarray(gold)
  better = gold[:, :, None] > gold[:, None, :]
  higher = (scores[:, :, None] > scores[:, None, :]).astype(np.float64)
  same = scores[:, :, None] == scores[:, None, :]
  return float((higher + 0.5 * same)[better].mean())


def within_share(gold: Float[ArrayLike, "G K"]) -> float:
  """Share of the variance of gold that lies within prompts."""
  gold = np.asarray(gold, np.float64)
  return float(gold.var(axis=1).mean() / gold.var())


def surfaces(lines: list[dict]) -> dict[str, np.ndarray]:
  """{name: [G, K]}: features of gold, tokens and characters of each text."""
  measured = np.array(
    [features(line["completions"], line["prompt"]) for line in lines]
  )
  found = {name: measured[..., i] for i, name in enumerate(FEATURES)}
  found["tokens"] = column(lines, "tokens")
  found["characters"] = np.array(
    [[len(text) for text in line["completions"]] for line in lines]
  )
  return found


def column(lines: list[dict], field: str) -> np.ndarray:
  """[G, K] of a field that has one value per completion."""
  return np.array([line[field] for line in lines])


def length_by_family(lines: list[dict]) -> float:
  """Median over families of |Spearman's correlation of gold with tokens|."""
  found = []
  for family in sorted({line["family"] for line in lines}):
    own = [line for line in lines if line["family"] == family]
    gold, tokens = column(own, "gold").ravel(), column(own, "tokens").ravel()
    found.append(abs(spearman(gold, tokens)))
  return float(np.median(np.nan_to_num(found)))


def bag_of_words(train: list[dict], test: list[dict]) -> np.ndarray:
  """Scores [G, K] of the test side by a ridge regression on words.

      w = argmin |X w - y|^2 + RIDGE |w|^2

  y is gold and X says which words are in a completion, both less the mean of
  their prompt; words of LEAST training completions or more. It does not see the
  prompt: what a model learns beyond it takes more than a list of words.
  """
  counts: dict[str, int] = {}
  for line in train:
    for text in line["completions"]:
      for word in set(words_of(text)):
        counts[word] = counts.get(word, 0) + 1
  known = sorted(word for word, count in counts.items() if count >= LEAST)
  place = {word: i for i, word in enumerate(known)}

  def presence(lines):
    found = np.zeros((len(lines), len(lines[0]["completions"]), len(known)))
    for i, line in enumerate(lines):
      for k, text in enumerate(line["completions"]):
        found[i, k, [place[w] for w in set(words_of(text)) if w in place]] = 1
    return found - found.mean(axis=1, keepdims=True)

  gold = column(train, "gold")
  y = (gold - gold.mean(axis=1, keepdims=True)).ravel()
  x = presence(train).reshape(y.size, -1)
  weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(len(known)), x.T @ y)
  return presence(test) @ weights


def report(sides: dict[str, list[dict]], pairs: dict[str, list[dict]]) -> str:
  """The tables of the card, Markdown: of the groups, the pairs, the features.

  Args:
    sides: the lines of train.jsonl and test.jsonl by "train" and "test".
    pairs: the same of their pairs.
  """
  parts = (*sides.values(), [row for rows in sides.values() for row in rows])
  golds = [column(lines, "gold") for lines in parts]
  measured = [surfaces(lines) for lines in parts]
  features = []
  for name in measured[0]:
    found = [
      pair_accuracy(surface[name], gold)
      for surface, gold in zip(measured, golds, strict=True)
    ]
    features.append((name, *(f"{value:.3f}" for value in found)))
  scores = bag_of_words(sides["train"], sides["test"])
  learned = pair_accuracy(scores, golds[1])
  features.append(("ridge regression on words", "", f"{learned:.3f}", ""))
  judged = (*pairs.values(), [row for rows in pairs.values() for row in rows])
  head = (*sides, "both")
  return "\n\n".join(
    [
      table([("groups", *head), *measures(GROUP_CHECKS, parts)]),
      table([("pairs", *head), *measures(PAIR_CHECKS, judged)]),
      table([("pair accuracy of", *head), *features]),
    ]
  )


def measures(checks: dict, parts: tuple) -> list[tuple]:
  """Rows of a table: the name of a check and its value on each part."""
  rows = []
  for name, (form, measure) in checks.items():
    rows.append((name, *(format(measure(lines), form) for lines in parts)))
  return rows


def length_correlation(lines: list[dict]) -> float:
  """Spearman's correlation of gold with tokens over all completions."""
  return spearman(
    column(lines, "gold").ravel(), column(lines, "tokens").ravel()
  )


def rating_share(rating: int):
  return lambda lines: (column(lines, "ratings") == rating).mean()


def strength_share(strength: int):
  return lambda pairs: np.mean([p.get("strength") == strength for p in pairs])


def agreement(annotator: str | None = None):
  """Share of pairs, ties left out, whose chosen side has the higher gold."""

  def measure(pairs):
    return np.mean(
      [
        pair["gold"][0] > pair["gold"][1]
        for pair in pairs
        if "tie" not in pair and annotator in (None, pair["annotator"])
      ]
    )

  return measure


GROUP_CHECKS = {
  "prompts": ("d", len),
  "completions": ("d", lambda lines: column(lines, "gold").size),
  "drawn and not taken": (
    "d",
    lambda lines: sum(r["drawn"] - len(r["completions"]) for r in lines),
  ),
  "tokens, mean": (".1f", lambda lines: column(lines, "tokens").mean()),
  "cut, share": (
    ".3f",
    lambda lines: (column(lines, "tokens") == MAX_TOKENS).mean(),
  ),
  "gold, mean": (".3f", lambda lines: column(lines, "gold").mean()),
  "gold, deviation": (".3f", lambda lines: column(lines, "gold").std()),
  "gold, share of variance within prompts": (
    ".3f",
    lambda lines: within_share(column(lines, "gold")),
  ),
  "Spearman of gold and tokens": (".3f", length_correlation),
  "its size in the median family": (".3f", length_by_family),
} | {f"rating {r}, share": (".3f", rating_share(r)) for r in range(1, 6)}

PAIR_CHECKS = (
  {
    "pairs": ("d", len),
    "tie, share": (".3f", lambda pairs: np.mean(["tie" in p for p in pairs])),
  }
  | {f"strength {s}, share": (".3f", strength_share(s)) for s in range(4)}
  | {"chosen has the higher gold": (".3f", agreement())}
  | {f"by {a.name}": (".3f", agreement(a.name)) for a in ANNOTATORS}
)


def table(rows: list[tuple]) -> str:
  """Markdown of the rows, the first one its head."""
  lines = [f"| {' | '.join(row)} |" for row in rows]
  return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
