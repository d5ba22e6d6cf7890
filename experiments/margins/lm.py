"""When does a margin help on real text? With SmolLM2.

  RM_DATA=path rm-jax experiment margins --preset=lm

As mini.py: four lines, none, Llama 2's small and large margin, and the best one
there, the logarithm of the difference of two ratings. On two sets of text:

- the text world: completions that a language model wrote, of a known reward,
  judged anew for every seed by five simulated annotators; ratings of another
  one, who does not see the judgements. Once with all prompts, once with a
  quarter of them in four passes.
- UltraFeedback: completions of many models with ratings from 1 to 10 of GPT-4.
  The judgement is the order of the ratings, so a margin of ratings tells more
  of the same opinion, not a second one; the strength is their difference in
  four classes.

`agreed` has no margin, and leaves out the comparisons that the ratings
contradict: does the margin of ratings help as a margin, or by knowing which
labels are wrong?

One rate for all lines of a set of text, that of `none`.
"""

import functools
import pathlib

import numpy as np

FILE = "ultrafeedback_sample/train_clean.jsonl.gz"
NAMES = ("negligible", "slightly", "better", "significantly")
STRENGTHS = (1.0, 2.0, 4.0)  # differences of ratings between the four classes
LONGEST = (
  4_500  # characters of an UltraFeedback record, of a row's 2,048 tokens
)
MARGINS = dict(
  none="none",
  small="llama2_small",
  large="llama2_large",
  log1p="rating_log1p",
  agreed="none",
)
TOLD = dict(
  none="margin 0",
  small="strength / 3",
  large="strength",
  log1p="logarithm of the difference of ratings",
  agreed="margin 0, without comparisons that ratings contradict",
)
PAIRS = 4  # judged of each training prompt of the text world
STEP = 10  # prompts of it
PAIR_STEP = 5  # pairs of UltraFeedback
FEW = 4  # passes over a quarter of the prompts


def _accuracy(name, arm, less, expected=1, **more):
  told = dict(published="none", comparable="ours")
  return dict(
    name=f"mean accuracy, {name}",
    metric="average",
    arm=arm,
    less=less,
    expected=expected,
    **told | more,
  )


DESIGN = dict(
  title="Margins on real text: accuracy gained over none, SmolLM2",
  source=(
    "Touvron et al. 2023, arXiv:2307.09288, Table 28; Llama 3, "
    "arXiv:2407.21783, section 4.1.2"
  ),
  claim=(
    "A margin raises accuracy, most where the answers are far apart; the gain "
    "falls with more data."
  ),
  arms=dict(
    **{line: f"text world, {told}" for line, told in TOLD.items()},
    **{
      f"few_{line}": f"a quarter of its prompts, {TOLD[line]}"
      for line in ("none", "large", "log1p")
    },
    **{
      f"uf_{line}": f"UltraFeedback, {TOLD[line]}"
      for line in ("none", "large", "log1p")
    },
  ),
  seeds=(0, 1, 2, 3),
  quick_seeds=(0,),
  columns=dict(
    average="accuracy, mean of the four",
    significantly="significantly",
    better="better",
    slightly="slightly",
    negligible="negligible",
    labelled_average="against labels",
    calibration_error="calibration error",
    score_std="score std",
    length_only="length only, against labels",
    train_loss="training loss, last 3 steps",
    train_tokens="tokens",
  ),
  outcomes=(
    _accuracy(
      "best margin of mini over none, text world",
      "log1p",
      "none",
      published="+0.5 points small, +0.4 large (Llama 2, Table 28)",
      comparable="70B on 1.4M human comparisons and their labels there",
    ),
    _accuracy(
      "small over none, text world",
      "small",
      "none",
      published="+0.5 points (Table 28)",
      comparable="as above",
    ),
    _accuracy(
      "large over none, text world",
      "large",
      "none",
      published="+0.4 points (Table 28)",
      comparable="as above",
    ),
    dict(
      name="gain on significantly less gain on negligible, large, text world",
      metric="spread",
      arm="large",
      less="none",
      expected=1,
      published="+1.8 points (Table 28)",
      comparable="as above",
    ),
    _accuracy("best margin less agreed, text world", "log1p", "agreed", 0),
    _accuracy(
      "gain of large, a quarter of the prompts less all",
      "few_large",
      "few_none",
      minus=("large", "none"),
      published="diminishing with data (Llama 3); no number",
      comparable="405B there; 260 and 1,040 comparisons here",
    ),
    _accuracy(
      "gain of best, a quarter of the prompts less all",
      "few_log1p",
      "few_none",
      minus=("log1p", "none"),
      published="as above",
      comparable="as above",
    ),
    _accuracy("best margin over none, UltraFeedback", "uf_log1p", "uf_none"),
    _accuracy("large over none, UltraFeedback", "uf_large", "uf_none"),
    dict(
      name="spread of scores, large over none, text world",
      metric="score_std",
      arm="large",
      less="none",
      expected=1,
      published="scores split in two (Llama 2, Fig. 27); no number",
      comparable="as above",
    ),
  ),
  checks=(
    dict(
      name="without margin the text world is learnt: mean accuracy above 0.5",
      metric="average",
      arm="none",
      above=0.5,
    ),
    dict(
      name="and more on significantly than on negligible",
      metric="spread",
      arm="none",
      above=0.0,
    ),
  ),
  conditions=(),
  sizes=dict(
    whole=dict(prompts=260, test=80, pairs=150, held=180),
    quick=dict(prompts=40, test=8, pairs=20, held=40),
    two_steps=dict(prompts=20, test=2, pairs=10, held=24),
  ),
  falsified="the best margin does not beat none on the text world",
  tuning=dict(
    rates=(1e-4, 3e-4, 1e-3),
    seeds=(100, 101),
    metric="labelled_average",
    lower=False,
    arms=("none", "uf_none"),
  ),
  data=(FILE,),
)

# The winners of --tune, on seeds 100 and 101.
RATES = dict(none=3e-4, uf_none=1e-4)


def judged(rng, line: dict, count: int | None = None) -> dict:
  """A record of judged pairs and ratings of its completions; ties are left out.

  Args:
    count: how many pairs, and only the completions that they hold; None: all.
  """
  from rm_jax.ablation import lm_runs as runs
  from rm_jax.data.text_world import labellers

  gold = np.asarray(line["gold"])
  first, second = np.triu_indices(len(gold), 1)
  who = rng.integers(len(labellers.ANNOTATORS), size=len(first))
  verdict = np.zeros(len(first), int)
  for n, annotator in enumerate(labellers.ANNOTATORS):
    at = who == n
    verdict[at] = labellers.annotated_verdicts(
      rng, (gold[first] - gold[second])[at], annotator
    )
  rated = labellers.annotated_ratings(rng, gold, labellers.ANNOTATORS[0])
  some = rng.permutation(np.flatnonzero(verdict))[:count]
  kept = list(range(len(gold)))
  if count is not None:
    kept = sorted({*first[some].tolist(), *second[some].tolist()})
  said = []
  for at in some:
    sides = [kept.index(first[at]), kept.index(second[at])]
    if verdict[at] < 0:
      sides.reverse()
    said.append([*sides, 1, abs(int(verdict[at])) - 1])
  return runs.group(line, kept, comparisons=said, ratings=rated[kept].tolist())


def not_contradicted(record: dict) -> dict:
  """The record without comparisons whose worse side has the higher rating.

  The completions stay, so that all arms read the same texts.
  """
  rated = record["ratings"]
  return record | {
    "comparisons": [
      said for said in record["comparisons"] if rated[said[0]] >= rated[said[1]]
    ]
  }


@functools.lru_cache(maxsize=1)
def ultrafeedback() -> list[dict]:
  """The published pairs that are not tied, empty, equal or too long."""
  from rm_jax.ablation.real_data import read_data

  records = []
  for row in read_data(FILE):
    texts = [row["chosen"], row["rejected"]]
    rated = [
      float(row["metadata"][f"score_{side}"]) for side in ("chosen", "rejected")
    ]
    long = len(row["prompt"]) + sum(map(len, texts)) > LONGEST
    if rated[0] <= rated[1] or long or not all(map(str.strip, texts)):
      continue
    strength = int(np.searchsorted(STRENGTHS, rated[0] - rated[1], "right"))
    records.append(
      {
        "prompt": row["prompt"],
        "completions": texts,
        "comparisons": [[0, 1, 1, strength]],
        "ratings": rated,
      }
    )
  return records


@functools.lru_cache(maxsize=1)
def states(seed: int) -> dict:
  """Where the states of the frozen layers lie, by set of text.

  All lines of a set read the same texts: what the layers below the trained ones
  give is computed once for each.
  """
  from rm_jax.ablation.real_runs import states_folder

  del seed
  return {cell: states_folder() for cell in ("", "few", "uf")}


def text_records(seed: int, prompts: int, test: int, few: bool) -> tuple:
  """(training, held-out) records of the text world."""
  from rm_jax.ablation import lm_runs as runs

  rng = np.random.default_rng([2307, 2407, seed])
  lines = runs.lines("train")
  train = [
    judged(rng, lines[i], PAIRS)
    for i in rng.choice(len(lines), prompts, replace=False)
  ]
  held = [judged(rng, line) for line in runs.lines("test")[:test]]
  return train[:: FEW if few else 1], held


def pair_records(seed: int, pairs: int, held: int) -> tuple:
  """(training, held-out) records of UltraFeedback, of different prompts."""
  records = ultrafeedback()
  order = np.random.default_rng([2310, 1377, seed]).permutation(len(records))
  drawn, seen = [], set()
  for at in order:
    if records[at]["prompt"] not in seen:
      seen.add(records[at]["prompt"])
      drawn.append(records[at])
  return drawn[:pairs], drawn[pairs : pairs + held]


def job(arm, seed, *, prompts, test, pairs, held, rate=None):
  """One line on one set of text at one seed: (metrics, no curve)."""
  from rm_jax.ablation import lm_runs as runs

  cell, _, line = arm.rpartition("_")
  of_pairs = cell == "uf"
  if of_pairs:
    train, rest = pair_records(seed, pairs, held)
  else:
    train, rest = text_records(seed, prompts, test, cell == "few")
  if line == "agreed":
    train = [not_contradicted(record) for record in train]
  c = runs.text_config(
    seed=seed,
    steps=pairs // PAIR_STEP if of_pairs else prompts // STEP,
    groups=PAIR_STEP if of_pairs else STEP,
    loss="bradley_terry_margin",
    rate=rate or RATES["uf_none" if of_pairs else "none"],
  )
  c.loss.margin = MARGINS[line]
  c.train.cache_hidden = str(pathlib.Path(states(seed)[cell].name) / "states")
  if of_pairs:
    c.data.row_len = 2_048
  arrays, costs = runs.fit_records(c, train, rest)
  found = measures(arrays, gold=not of_pairs, longer=longer_wins(train))
  return found | costs, []


def longer_wins(records: list[dict]) -> bool:
  """Whether the chosen side of most comparisons is the longer one."""
  apart = [
    len(record["completions"][i]) - len(record["completions"][j])
    for record in records
    for i, j, *_ in record["comparisons"]
  ]
  return float(np.sign(apart).sum()) >= 0


def measures(arrays: dict, *, gold: bool, longer: bool) -> dict[str, float]:
  """Accuracy by strength of what scores.npz holds.

  Args:
    gold: whether the truth is known and `average` is against it; else labels
      are all there is.
    longer: what length alone says, learnt from the training comparisons.
  """
  from rm_jax.ablation.token_runs import log_loss
  from rm_jax.metrics import accuracy, calibration_error
  from rm_jax.train.labels import sigmoid

  chosen, rejected = places(arrays)
  flat = arrays["scores"].astype(np.float64)
  difference = flat[chosen] - flat[rejected]
  agreed = accuracy(flat[chosen], flat[rejected], ties="half")
  right = agreed
  if gold:
    true = arrays["gold"][chosen] > arrays["gold"][rejected]
    right = np.where(true, agreed, 1 - agreed)
  strength = arrays["strength"]
  by, said = (
    [float(x[strength == s].mean()) for s in range(len(NAMES))]
    for x in (right, agreed)
  )
  length = arrays["length"].astype(np.float64) * (1.0 if longer else -1.0)
  by_length = accuracy(length[chosen], length[rejected], ties="half")
  chance = sigmoid(difference)
  return dict(zip(NAMES, by, strict=True)) | {
    "average": float(np.mean(by)),
    "spread": by[3] - by[0],
    "labelled_average": float(np.mean(said)),
    "log_loss": log_loss(difference),
    "calibration_error": calibration_error(
      np.concatenate([chance, 1 - chance]),
      np.repeat([1.0, 0.0], len(chance)),
    ),
    "score_std": float(flat.std()),
    "length_only": float(by_length.mean()),
  }


def places(arrays: dict) -> tuple[np.ndarray, np.ndarray]:
  """Flat places of the chosen and the rejected side of each comparison."""
  group, i, j = arrays["comparisons"].T
  starts = np.flatnonzero(np.diff(arrays["record"], prepend=-1))
  swap = arrays["preference"] < 0.5
  return (
    starts[group] + np.where(swap, j, i),
    starts[group] + np.where(swap, i, j),
  )
