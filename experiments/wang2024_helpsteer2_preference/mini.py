"""Strength as a margin, as a weight, or not at all, on W-UTIL.

  rm-jax experiment wang2024_helpsteer2_preference --quick
  rm-jax experiment wang2024_helpsteer2_preference

Wang et al. 2024 (HelpSteer2-Preference), arXiv:2410.01257, compare
Bradley-Terry, with the strength (1, 2 or 3) as margin, and times the strength
(scaled), from scratch and from a model that regressed ratings of helpfulness;
then extrapolate from that model through the scaled one (ExPO).

A weight whose mean is not 1 changes the step as well as what is learnt. The
primary arm divides it by its mean over the training pairs; `scaled_raw` does
not, as published. Pairs of strength 0, which have no side, are left out. The
factor of the extrapolation is not known: 1.5 here.
"""

import functools

import numpy as np

FACTOR = 1.5
K = 8  # completions of an evaluation prompt
LOSSES = dict(
  regular="bradley_terry",
  margin="bradley_terry_margin",
  scaled="bradley_terry_scaled",
  raw="bradley_terry_scaled",
)


def _outcome(arm, less, expected, published="none", comparable="ours"):
  return dict(
    name=f"accuracy of {arm} less {less}",
    metric="gold_accuracy",
    arm=arm,
    less=less,
    expected=expected,
    published=published,
    comparable=comparable,
  )


THEIRS = "RewardBench, Llama-3.1-70B there"
DESIGN = dict(
  title="HelpSteer2-Preference: strength as margin or as weight",
  source="Wang et al. 2024, arXiv:2410.01257, table of nine reward models",
  claim=(
    "Bradley-Terry times the strength beats Bradley-Terry; starting from a "
    "regression of ratings helps all forms."
  ),
  arms=dict(
    regular="Bradley-Terry",
    margin="strength as margin",
    scaled="strength as weight, mean 1",
    scaled_raw="strength as weight, as it is",
    regression="ratings 1 to 5 regressed",
    from_regular="regression, then Bradley-Terry",
    from_margin="regression, then margin",
    from_scaled="regression, then weight of mean 1",
    expo="1.5 times the way from regression to from_scaled",
  ),
  seeds=tuple(range(8)),
  quick_seeds=(0, 1, 2),
  columns=dict(
    gold_accuracy="accuracy against gold",
    accuracy="accuracy",
    calibration_error="calibration error",
    fitted_log_loss="log-loss at its best temperature",
    score_std="score std",
    best_of_8="gold of best of 8",
    mean_weight="mean weight of a pair",
  ),
  outcomes=(
    _outcome("scaled", "regular", 1, "+1.2 points, 91.5 to 92.7", THEIRS),
    _outcome("margin", "regular", 1, "0.0 points, both 91.5", THEIRS),
    _outcome("scaled_raw", "scaled", 1, "none: what the mean of 2 does"),
    _outcome("from_regular", "regular", 1, "+1.2 points, to 92.7", THEIRS),
    _outcome("from_margin", "margin", 1, "+1.5 points, to 93.0", THEIRS),
    _outcome("from_scaled", "scaled", 1, "+1.0 points, to 93.7", THEIRS),
    _outcome("regression", "regular", 1, "+1.5 points, to 93.0", THEIRS),
    _outcome("expo", "from_scaled", 1, "+0.4 points, to 94.1", THEIRS),
  ),
  checks=(
    dict(
      name="strengths have their closed form",
      metric="strength_gap",
      arm="regular",
      below=0.02,
    ),
    dict(name="labels too", metric="label_gap", arm="regular", below=0.02),
    dict(name="ratings too", metric="rating_gap", arm="regular", below=0.02),
    dict(
      name="regular learns: its accuracy against gold is above 0.6",
      metric="gold_accuracy",
      arm="regular",
      above=0.6,
    ),
    dict(
      name="the weights of scaled have mean 1: not above",
      metric="mean_weight",
      arm="scaled",
      below=1.0001,
    ),
    dict(name="nor below", metric="mean_weight", arm="scaled", above=0.9999),
  ),
  conditions=(
    dict(
      name="starting from the regression helps Bradley-Terry",
      metric="gold_accuracy",
      arm="from_regular",
      less="regular",
      above=0.0,
    ),
  ),
  sizes=dict(
    whole=dict(steps=200, pairs=32, test=1_000),
    quick=dict(steps=30, pairs=32, test=100),
    two_steps=dict(steps=2, pairs=8, test=10),
  ),
  falsified="a weight of mean 1 lowers accuracy",
  tuning=dict(
    rates=(1e-3, 3e-3, 9e-3),
    seeds=(100, 101, 102, 103),
    metric="gold_accuracy",
    lower=False,
    arms=(
      "regular",
      "margin",
      "scaled",
      "scaled_raw",
      "regression",
      "from_regular",
      "from_margin",
      "from_scaled",
    ),
  ),
)

# The winners of --tune, on seeds 100 to 103. expo has
# no step of its own.
RATES = dict(
  regular=9e-3,
  margin=3e-3,
  scaled=3e-3,
  scaled_raw=3e-3,
  regression=3e-3,
  from_regular=3e-3,
  from_margin=3e-3,
  from_scaled=3e-3,
)


@functools.lru_cache(maxsize=1)
def data(seed: int, pairs: int, test: int):
  """What a seed's arms share.

  Texts, picks, strengths and ratings of training; evaluation texts, groups to
  score, labels; gaps to the closed forms.
  """
  from rm_jax.ablation.token_runs import groups_to_score
  from rm_jax.data.worlds import labellers
  from rm_jax.data.worlds.utility import draw_texts, draw_world

  rng = np.random.default_rng([2410, 1257, seed])
  world = draw_world(rng)
  # A fifth of the pairs have strength 0: more are drawn than are wanted.
  texts = draw_texts(rng, world, prompts=2 * pairs + 60, completions=2)
  difference = texts.gold[:, 0] - texts.gold[:, 1]
  chance = labellers.preference_probability(difference)
  first = rng.random(len(chance)) < chance
  strength = labellers.strengths(rng, difference)
  ratings = labellers.ratings(rng, texts.gold)
  kept = np.flatnonzero(strength > 0)[:pairs]
  if len(kept) != pairs:
    raise ValueError(f"{len(kept)} of {pairs} pairs: draw more to choose from")
  told = labellers.strength_probabilities(difference).mean(0)
  rated = labellers.rating_probabilities(texts.gold).mean((0, 1))
  seen = [np.mean(strength == s) for s in range(4)]
  given = [np.mean(ratings == r) for r in range(1, 6)]
  right = np.mean(first == (difference > 0))
  facts = {
    "strength_gap": float(np.abs(seen - told).max()),
    "rating_gap": float(np.abs(given - rated).max()),
    "label_gap": float(abs(right - np.maximum(chance, 1 - chance).mean())),
  }
  held = draw_texts(rng, world, prompts=test, completions=K)
  i, j = np.triu_indices(K, 1)
  ahead = labellers.preferences(rng, held.gold[:, i] - held.gold[:, j])
  group = np.arange(test)[:, None] * K
  said = [
    (group + np.where(ahead, *sides)).ravel() for sides in ((i, j), (j, i))
  ]
  picks = [(int(g), (0, 1) if first[g] else (1, 0)) for g in kept]
  training = texts, picks, strength[kept].astype(float), ratings
  return training, (held, groups_to_score(held), said), facts


def config(seed, steps, pairs, loss, rate):
  """The run of a loss; every other key is the same for all arms."""
  from rm_jax.ablation import token_runs as runs

  c = runs.token_config(
    seed=seed, steps=steps, groups=pairs, loss=loss, rate=rate
  )
  c.model.head = "biased_scalar"  # a rating needs a base
  return c


def regress(seed, steps, pairs, test, rate):
  """The run on the ratings of both completions of every pair."""
  from rm_jax.ablation import token_runs as runs

  (texts, picks, _, ratings), (_, evaluated, _), _ = data(
    seed, steps * pairs, test
  )
  c = config(seed, steps, pairs, "squared_error", rate)
  train = runs.groups_of(c, texts, picks, labels=ratings - 3.0)
  return runs.run(c, train, evaluated)


@functools.lru_cache(maxsize=2)
def regressed(seed, steps, pairs, test) -> dict:
  """Parameters that the arms from the regression start from."""
  return regress(seed, steps, pairs, test, RATES["regression"]).params


def weights(line, strength) -> np.ndarray:
  """What the loss of a line reads of each pair."""
  return strength / strength.mean() if line == "scaled" else strength


def prefer(arm, seed, steps, pairs, test, rate):
  """The run of one form of Bradley-Terry."""
  from rm_jax.ablation import token_runs as runs

  (texts, picks, strength, _), (_, evaluated, _), _ = data(
    seed, steps * pairs, test
  )
  line = arm.rpartition("_")[2]
  c = config(seed, steps, pairs, LOSSES[line], rate or RATES[arm])
  how = {}
  if line != "regular":
    c.loss.margin, how = "record", dict(margins=weights(line, strength))
  start = None
  if arm.startswith("from_"):
    start = regressed(seed, steps, pairs, test)
  train = runs.groups_of(c, texts, picks, **how)
  return runs.run(c, train, evaluated, start=start)


def extrapolate(seed, steps, pairs, test):
  """Scores of what lies beyond from_scaled, seen from the regression."""
  import jax

  from rm_jax.ablation import token_runs as runs

  (texts, picks, _, _), (_, evaluated, _), _ = data(seed, steps * pairs, test)
  first = regressed(seed, steps, pairs, test)
  last = prefer("from_scaled", seed, steps, pairs, test, None).params
  beyond = jax.tree.map(lambda a, b: a + FACTOR * (b - a), first, last)
  # Two steps of rate 0: nothing moves.
  c = config(seed, 2, pairs, "bradley_terry", 0.0)
  train = runs.groups_of(c, texts, picks[: 2 * pairs])
  return runs.run(c, train, evaluated, start=beyond)


def job(arm, seed, *, steps, pairs, test, rate=None):
  """One reward model at one seed: (metrics, no curve)."""
  from rm_jax.ablation import token_runs as runs
  from rm_jax.metrics import best_of_n

  at = (seed, steps, pairs, test)
  if arm == "regression":
    fitted = regress(*at, rate or RATES[arm])
  elif arm == "expo":
    fitted = extrapolate(*at)
  else:
    fitted = prefer(arm, *at, rate)
  training, (held, _, said), facts = data(seed, steps * pairs, test)
  scores = runs.scores_of(fitted.scored)
  metrics = runs.measures(scores, *said, held) | runs.costs(fitted) | facts
  flat, (chosen, rejected) = scores.ravel(), said
  line = arm.rpartition("_")[2]
  scaled = LOSSES.get(line) == "bradley_terry_scaled"
  return metrics | {
    "fitted_log_loss": fitted_log_loss(flat[chosen] - flat[rejected]),
    "best_of_8": float(best_of_n(scores, held.gold, K).mean()),
    "mean_weight": float(weights(line, training[2]).mean()) if scaled else 1.0,
  }, []


def fitted_log_loss(difference) -> float:
  """Over the second half, at the temperature that is best on the first."""
  from rm_jax.ablation import token_runs as runs
  from rm_jax.metrics import fit_temperature

  half = len(difference) // 2
  temperature = fit_temperature(difference[:half], np.ones(half))
  return runs.log_loss(difference[half:] / temperature)
