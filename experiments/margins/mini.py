"""When does a margin help, and does it survive scale? On W-UTIL.

  rm-jax experiment margins --quick
  rm-jax experiment margins

Llama 2 (Touvron et al. 2023, arXiv:2307.09288, Table 28) gains 0.5 points with
a small margin and 0.4 with a large one, most where the answers are far apart.
Llama 3 (2024, arXiv:2407.21783, section 4.1.2) drops the margin: improvements
diminish with more data.

Ten margins of rm_jax.margins at one base cell: Bradley-Terry labels, 7,680
pairs in one pass, the strengths of the Llama 2 experiment. Then four lines
(none, Llama 2's two, and the best of the other seven) where one thing at a time
is another: label noise, data, strengths, learning rate, and centring.

Accuracy is against gold, by the strength that an annotator would tell: one
ruler for all cells. A margin takes no part in it. `labelled_average` is against
labels with the annotators' noise, as published numbers are.
"""

import functools

import numpy as np

NAMES = ("negligible", "slightly", "better", "significantly")
BASE = dict(
  temperature=0.5,  # of the labeller, in units of gold
  flips=0.0,  # share of labels turned round, whatever the strength
  shares=(0.30, 0.30, 0.25, 0.15),  # of the training pairs, by strength
  distinct=1.0,  # pairs, as a share of those that are seen; else more passes
  longer=1,  # times the train steps, and the pairs
  faster=1.0,  # times the tuned learning rate
  centring=0.0,
)
CELLS = dict(
  slow=dict(faster=1 / 3),
  fast=dict(faster=3.0),
  centred=dict(centring=0.01),
  sharp=dict(temperature=0.1),
  flips=dict(flips=0.2),
  little=dict(distinct=1 / 8),
  much=dict(longer=2),
  close=dict(shares=(0.45, 0.35, 0.15, 0.05)),
  clear=dict(shares=(0.0, 0.0, 0.6, 0.4)),  # what Llama 3 keeps
)
SAID = dict(
  slow="a third of the learning rate",
  fast="three times the learning rate",
  centred="centring x 0.01",
  sharp="labels nearly those of gold",
  flips="a fifth of the labels turned",
  little="960 pairs, 8 passes",
  much="15,360 pairs, one pass",
  close="80 % negligible or slightly",
  clear="better and significantly only",
)
MARGIN = dict(
  none="none",
  small="llama2_small",
  large="llama2_large",
  constant="constant_one",
  squared="strength_squared",
  step="strength_step",
  log_odds="strength_log_odds",
  difference="rating_difference",
  log1p="rating_log1p",
  tanh="rating_tanh",
)
TOLD = dict(
  none="margin 0",
  small="strength / 3",
  large="strength",
  constant="1",
  squared="strength^2 / 3",
  step="1 from better on",
  log_odds="log-odds of 1/2 + strength / 8",
  difference="difference of ratings",
  log1p="its logarithm",
  tanh="its tanh",
)
# The winners of --tune, on seeds 100 to 103: the rate of each margin, and the
# first of its list that is none of the other three.
RATES = dict(
  none=3e-3,
  small=3e-3,
  large=3e-3,
  constant=3e-3,
  squared=3e-3,
  step=3e-3,
  log_odds=3e-3,
  difference=3e-3,
  log1p=3e-3,
  tanh=3e-3,
)
BEST = "log1p"
LINES = ("none", "small", "large", BEST)


def _lines(cell):
  return ("none", "large", BEST) if cell == "centred" else LINES


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


def _changes(name, cell, line, expected, *, other="", **more):
  """The gain of a line in a cell less its gain in another, or at the base."""
  less = f"{other}_" if other else ""
  return _accuracy(
    f"gain of {name}",
    f"{cell}_{line}",
    f"{cell}_none",
    expected,
    minus=(f"{less}{line}", f"{less}none"),
    **more,
  )


def _measured(name, metric, arm, published="none"):
  return dict(
    name=name,
    metric=metric,
    arm=arm,
    less="none",
    expected=1,
    published=published,
    comparable="as above" if published != "none" else "ours",
  )


def _gap(name, metric, arm):
  return dict(name=name, metric=metric, arm=arm, below=0.02)


def _panel(title, cell):
  at = f"{cell}_" if cell else ""
  names = dict(small="small", large="large", best=BEST)
  return dict(
    title=title,
    metrics={name: name for name in NAMES},
    gains={
      f"{name} over none": (f"{at}{line}", f"{at}none")
      for name, line in names.items()
    },
  )


DESIGN = dict(
  title="Margins: accuracy gained over none, by strength",
  source=(
    "Touvron et al. 2023, arXiv:2307.09288, Table 28; Llama 3, "
    "arXiv:2407.21783, section 4.1.2"
  ),
  claim=(
    "A margin raises accuracy, most where the answers are far apart; the gain "
    "falls with more data."
  ),
  arms={line: f"{TOLD[line]}, base" for line in MARGIN}
  | {
    f"{cell}_{line}": f"{TOLD[line]}, {SAID[cell]}"
    for cell in CELLS
    for line in _lines(cell)
  },
  seeds=tuple(range(8)),
  quick_seeds=(0, 1),
  columns=dict(
    average="accuracy, mean of the four",
    significantly="significantly",
    better="better",
    slightly="slightly",
    negligible="negligible",
    labelled_average="against labels",
    calibration_error="calibration error",
    fitted_calibration_error="at its best temperature",
    fitted_log_loss="log-loss there",
    score_std="score std",
    best_of_4="gold of best of 4",
    best_of_16="of 16",
    label_error="training labels against gold",
  ),
  outcomes=(
    _accuracy(
      "best margin over none, base",
      BEST,
      "none",
      published="+0.5 points small, +0.4 large (Llama 2, Table 28)",
      comparable="70B on 1.4M human comparisons and their labels there",
    ),
    _accuracy(
      "small over none, base",
      "small",
      "none",
      published="+0.5 points (Table 28)",
      comparable="as above",
    ),
    _accuracy(
      "large over none, base",
      "large",
      "none",
      published="+0.4 points (Table 28)",
      comparable="as above",
    ),
    dict(
      _measured(
        "gain on significantly less gain on negligible, large",
        "spread",
        "large",
        "+1.8 points (Table 28)",
      )
    ),
    _changes(
      "large, an eighth of the pairs less twice the pairs",
      "little",
      "large",
      1,
      other="much",
      published="diminishing with data (Llama 3); no number",
      comparable="405B there; 960 to 15,360 pairs here",
    ),
    _changes(
      "best, an eighth of the pairs less twice the pairs",
      "little",
      BEST,
      1,
      other="much",
      published="as above",
      comparable="as above",
    ),
    _changes("large, turned labels less base", "flips", "large", -1),
    _changes("best, turned labels less base", "flips", BEST, -1),
    _changes("large, near-gold labels less base", "sharp", "large", 1),
    _changes("large, clear pairs less base", "clear", "large", -1),
    _changes("large, close pairs less base", "close", "large", 1),
    _changes("large, a third of the rate less base", "slow", "large", 1),
    _changes("large, three times the rate less base", "fast", "large", -1),
    _changes("best, centred less base", "centred", BEST, 1),
    _measured(
      "calibration error, large over none", "calibration_error", "large"
    ),
    _measured(
      "the same at its best temperature", "fitted_calibration_error", "large"
    ),
    _measured(
      "spread of scores, large over none",
      "score_std",
      "large",
      "scores split in two (Llama 2, Fig. 27); no number",
    ),
    _measured("gold of best of 16, best over none", "best_of_16", BEST),
    _measured("gold of best of 16, large over none", "best_of_16", "large"),
  ),
  checks=(
    dict(
      name="without margin accuracy falls from strength to strength",
      metric="smallest_fall",
      arm="none",
      above=0.0,
    ),
    dict(name="and is above 0.6", metric="average", arm="none", above=0.6),
    _gap("strengths have their closed form", "strength_gap", "none"),
    _gap("ratings too", "rating_gap", "none"),
    _gap("labels too, base", "label_gap", "none"),
    _gap("nearly those of gold", "label_gap", "sharp_none"),
    _gap("turned", "label_gap", "flips_none"),
  ),
  conditions=(
    dict(
      name="its gain is larger on significantly than on negligible",
      metric="spread",
      arm=BEST,
      less="none",
      above=0.0,
    ),
  ),
  sizes=dict(
    whole=dict(steps=240, pairs=32, test=625),
    quick=dict(steps=24, pairs=32, test=60),
    two_steps=dict(steps=2, pairs=8, test=20),
  ),
  falsified=(
    "the best margin does not beat none at the base, or what the large one "
    "gains does not fall from 960 pairs to 15,360"
  ),
  tuning=dict(
    rates=(1e-3, 3e-3, 9e-3),
    seeds=(100, 101, 102, 103),
    metric="average",
    lower=False,
    arms=tuple(MARGIN),
  ),
  panels=(
    _panel("labels nearly those of gold", "sharp"),
    _panel("Bradley-Terry labels (base)", ""),
    _panel("a fifth of the labels turned", "flips"),
  ),
)

K = 16  # completions of an evaluation prompt
STEPS_APART = (1, 2)  # in the circle of them: 32 comparisons, 4 of each


@functools.lru_cache(maxsize=1)
def held(seed: int, test: int):
  """The world of a seed, and its evaluation set.

  world, texts, groups to score, and flat places and strength of comparisons:
  chosen and rejected as a labeller at the base says, better and worse in gold.
  """
  from rm_jax.ablation.token_runs import groups_to_score
  from rm_jax.data.worlds import labellers
  from rm_jax.data.worlds.utility import draw_texts, draw_world

  rng = np.random.default_rng([2307, 2407, seed])
  world = draw_world(rng)
  texts = draw_texts(rng, world, prompts=test, completions=K)
  i = np.tile(np.arange(K), len(STEPS_APART))
  j = (i + np.repeat(STEPS_APART, K)) % K
  difference = texts.gold[:, i] - texts.gold[:, j]
  group = np.arange(test)[:, None] * K

  def places(ahead):
    high, low = np.where(ahead, i, j), np.where(ahead, j, i)
    return (group + high).ravel(), (group + low).ravel()

  said = places(labellers.preferences(rng, difference))
  told = labellers.strengths(rng, difference).ravel()
  return (
    world,
    texts,
    groups_to_score(texts),
    said,
    places(difference > 0),
    told,
  )


@functools.lru_cache(maxsize=1)
def training(world_of, pairs: int, temperature, flips, shares):
  """Pairs of the strengths that are wanted, and what was drawn to get them.

  The pairs without margin; of each its strength and the ratings of its chosen
  and rejected side; gaps to the closed forms and the share of labels that
  contradict gold.

  Args:
    world_of: (seed, test) of `held`.
  """
  from rm_jax.ablation import token_runs as runs
  from rm_jax.data.worlds import labellers
  from rm_jax.data.worlds.utility import draw_texts

  world = held(*world_of)[0]
  rng = np.random.default_rng([27, world_of[0]])
  # More than are wanted, then as many of each strength as `shares` says.
  texts = draw_texts(rng, world, prompts=4 * pairs + 60, completions=2)
  difference = texts.gold[:, 0] - texts.gold[:, 1]
  chance = labellers.preference_probability(difference, temperature=temperature)
  first = rng.random(len(chance)) < chance
  strength = labellers.strengths(rng, difference)
  ratings = labellers.ratings(rng, texts.gold)
  first = first ^ (rng.random(len(first)) < flips)
  right = first == (difference > 0)
  surer = np.maximum(chance, 1 - chance)
  wanted = (1 - flips) * surer + flips * (1 - surer)
  levels = labellers.strength_probabilities(difference).mean(0)
  rated = labellers.rating_probabilities(texts.gold).mean((0, 1))
  counts = np.floor(np.asarray(shares) * pairs).astype(int)
  counts[-1] += pairs - counts.sum()
  kept = np.concatenate(
    [np.flatnonzero(strength == s)[:n] for s, n in enumerate(counts)]
  )
  if len(kept) != pairs:
    raise ValueError(f"{len(kept)} of {pairs} pairs: draw more to choose from")
  picks = [(int(g), (0, 1) if first[g] else (1, 0)) for g in kept]
  facts = {
    "label_gap": abs(right.mean() - wanted.mean()),
    "strength_gap": np.abs(_shares(strength, range(4)) - levels).max(),
    "rating_gap": np.abs(_shares(ratings, range(1, 6)) - rated).max(),
    "label_error": 1 - right[kept].mean(),
  }
  c = config(world_of[0], 2, 1, 0.0)
  told = {
    "strength": strength[kept],
    "chosen_rating": ratings[kept, np.where(first[kept], 0, 1)],
    "rejected_rating": ratings[kept, np.where(first[kept], 1, 0)],
  }
  return runs.groups_of(c, texts, picks), told, facts


def config(seed: int, steps: int, pairs: int, rate: float):
  """The run of every arm, but for its centring."""
  from rm_jax.ablation import token_runs as runs

  return runs.token_config(
    seed=seed,
    steps=steps,
    groups=pairs,
    loss="bradley_terry_margin",
    rate=rate,
  )


def _shares(values, levels) -> np.ndarray:
  return np.asarray([np.mean(values == level) for level in levels])


def job(arm, seed, *, steps, pairs, test, rate=None):
  """One margin in one cell at one seed: (metrics, no curve)."""
  from rm_jax.ablation import token_runs as runs
  from rm_jax.data.worlds.groups import with_margins
  from rm_jax.margins import MARGINS, NEEDS

  cell, line = _split(arm)
  how = BASE | CELLS.get(cell, {})
  steps = steps * how["longer"]
  distinct = max(pairs, round(steps * pairs * how["distinct"]))
  pairs_of, told_of, facts = training(
    (seed, test), distinct, how["temperature"], how["flips"], how["shares"]
  )
  _, test_texts, evaluated, said, better, told = held(seed, test)
  c = config(seed, steps, pairs, (rate or RATES[line]) * how["faster"])
  c.loss.centering = how["centring"]
  name = MARGIN[line]
  margins = MARGINS[name](**{need: told_of[need] for need in NEEDS[name]})
  fitted = runs.run(c, with_margins(pairs_of, margins), evaluated)
  scores = runs.scores_of(fitted.scored)
  metrics = (
    runs.measures(scores, *said, test_texts) | runs.costs(fitted) | facts
  )
  metrics |= by_strength(scores.ravel(), *said, *better, told)
  return metrics | best_of(scores, test_texts.gold), []


def _split(arm) -> tuple[str, str]:
  """(cell, line) of an arm; "" is the base."""
  for cell in CELLS:
    if arm.startswith(f"{cell}_"):
      return cell, arm.removeprefix(f"{cell}_")
  return "", arm


def by_strength(flat, chosen, rejected, better, worse, told) -> dict:
  """Accuracy by strength, and calibration at the best temperature.

  Scores grow with margins: log-losses compare at the temperature that is best
  on the first half of the prompts, over the second half.
  """
  from rm_jax.ablation import token_runs as runs
  from rm_jax.metrics import accuracy, calibration_error, fit_temperature
  from rm_jax.train.labels import sigmoid

  right = accuracy(flat[better], flat[worse], ties="half")
  agreed = accuracy(flat[chosen], flat[rejected], ties="half")
  by = [float(right[told == s].mean()) for s in range(len(NAMES))]
  difference = flat[chosen] - flat[rejected]
  half = len(difference) // 2
  temperature = fit_temperature(difference[:half], np.ones(half))
  rest = difference[half:] / temperature
  both = sigmoid(np.concatenate([rest, -rest]))
  return dict(zip(NAMES, by, strict=True)) | {
    "average": float(np.mean(by)),
    "spread": by[3] - by[0],
    "smallest_fall": min(b - a for a, b in zip(by, by[1:], strict=False)),
    "labelled_average": float(
      np.mean([agreed[told == s].mean() for s in range(len(NAMES))])
    ),
    "fitted_log_loss": runs.log_loss(rest),
    "fitted_calibration_error": calibration_error(
      both, np.repeat([1.0, 0.0], len(rest))
    ),
  }


def best_of(scores, gold) -> dict[str, float]:
  """Gold reward of the best of n by score, over all subsets of the K."""
  from rm_jax.metrics import best_of_n

  return {
    f"best_of_{n}": float(best_of_n(scores, gold, n).mean()) for n in (4, K)
  }
