"""Margins by comparative rating, and a safety loss beside them, on W-UTIL.

  rm-jax experiment touvron2023_llama2 --quick
  rm-jax experiment touvron2023_llama2

Touvron et al. 2023, arXiv:2307.09288, section 3.2.2, subtract a margin from the
score difference that depends on how much better annotators called the chosen
answer: 0, 1/3, 2/3, 1 (small) or 0, 1, 2, 3 (large) for negligibly, slightly,
better, significantly (Table 27). Their Table 28 gains most where answers are
far apart; the large margin loses on negligible pairs. Their Table 29 adds a
safety loss, whose formula is not given: here the cross-entropy of the score
itself on whether the completion is safe.

The margin is a function of the comparative rating, not a difference of two
ratings. It takes no part in accuracy or in the log-loss that is reported.
"""

import functools

import numpy as np

NAMES = ("negligible", "slightly", "better", "significantly")
SHARES = (0.30, 0.30, 0.25, 0.15)  # of the training pairs, in that order
MARGINS = dict(small="llama2_small", large="llama2_large")
SAFETY = dict(safety_off=0.0, safety_03=0.3, safety_1=1.0)
UNSAFE = 0.2  # of completions, in the safety arms
# Of the train steps, in the safety arms: one with the safety loss has half as
# many rows again, so a job of any arm takes the same time.
SAFETY_STEPS = 2 / 3

DESIGN = dict(
  title="Llama 2: margins by rating, and a safety loss",
  source="Touvron et al. 2023, arXiv:2307.09288, section 3.2.2, Tables 27-29",
  claim=(
    "A margin that grows with the annotated strength helps the more, the "
    "further apart the pair is."
  ),
  arms=dict(
    none="margin 0",
    small="margins 0, 1/3, 2/3, 1",
    large="margins 0, 1, 2, 3",
    safety_off="margin 0, a fifth of completions unsafe",
    safety_03="the same and 0.3 x safety loss",
    safety_1="the same and 1 x safety loss",
  ),
  seeds=tuple(range(8)),
  quick_seeds=(0, 1, 2),
  columns=dict(
    significantly="significantly",
    better="better",
    slightly="slightly",
    negligible="negligible",
    average="mean of the four",
    bimodality="bimodality of sigmoid(score)",
    score_std="score std",
    calibration_error="calibration error",
    log_loss="log-loss at its best temperature",
    unsafe_recall="unsafe recall",
  ),
  outcomes=(
    dict(
      name="gain on significantly less gain on negligible, large over none",
      metric="spread",
      arm="large",
      less="none",
      expected=1,
      published="+1.8 points: +1.6 and -0.2 (Table 28)",
      comparable="70B on 1.4M human comparisons there",
    ),
    dict(
      name="mean accuracy, small over none",
      metric="average",
      arm="small",
      less="none",
      expected=1,
      published="+0.5 points (Table 28)",
      comparable="as above; theirs is weighted by how many pairs there are",
    ),
    dict(
      name="accuracy on negligible, large over none",
      metric="negligible",
      arm="large",
      less="none",
      expected=-1,
      published="-0.2 points (Table 28)",
      comparable="as above",
    ),
    dict(
      name="unsafe recall, safety loss x 1 over x 0",
      metric="unsafe_recall",
      arm="safety_1",
      less="safety_off",
      expected=1,
      published="+17.4 points: 73.0 to 90.4 (Table 29)",
      comparable="one token marks what is unsafe here",
    ),
    dict(
      name="mean accuracy, safety loss x 1 over x 0",
      metric="average",
      arm="safety_1",
      less="safety_off",
      expected=1,
      published="+0.8 points: 63.7 to 64.5 (Table 29)",
      comparable="the labels of pairs do not know safety here",
    ),
  ),
  checks=(
    dict(
      name="without margin accuracy falls from rating to rating",
      metric="smallest_fall",
      arm="none",
      above=0.0,
    ),
  ),
  conditions=(
    dict(
      name="bimodality rises from none to small",
      metric="bimodality",
      arm="small",
      less="none",
      above=0.0,
    ),
    dict(
      name="and from small to large",
      metric="bimodality",
      arm="large",
      less="small",
      above=0.0,
    ),
  ),
  sizes=dict(
    whole=dict(steps=300, pairs=32, test=2_000),
    quick=dict(steps=60, pairs=32, test=300),
    two_steps=dict(steps=2, pairs=4, test=20),
  ),
  falsified="large gains as much on negligible pairs as on significant ones",
  tuning=dict(
    rates=(1e-3, 3e-3, 1e-2),
    seeds=(100, 101, 102, 103),
    metric="average",
    lower=False,
    arms=("none", "small", "large"),
  ),
)

# The winners of --tune, on seeds 100 to 103: mean accuracy 0.665, 0.668 and
# 0.665, about three points less at 1e-3 and at 1e-2. The safety arms have the
# pairwise loss of none and take its rate.
RATES = dict(none=3e-3, small=3e-3, large=3e-3)
K = 5  # completions of an evaluation prompt: 10 comparisons


@functools.lru_cache(maxsize=2)  # with and without unsafe completions
def data(seed: int, pairs: int, test: int, unsafe: float):
  """Training pairs in the shares of SHARES and evaluation comparisons.

  The pairs have no margin yet: arms share all else.
  """
  from rm_jax.ablation.token_runs import groups_of, groups_to_score
  from rm_jax.data.worlds import labellers
  from rm_jax.data.worlds.utility import draw_texts, draw_world

  rng = np.random.default_rng([2307, 9288, seed])
  world = draw_world(rng)
  # More than are wanted, then as many of each strength as SHARES says.
  texts = draw_texts(
    rng, world, prompts=4 * pairs + 60, completions=2, unsafe=unsafe
  )
  difference = texts.gold[:, 0] - texts.gold[:, 1]
  first = labellers.preferences(rng, difference)
  strength = labellers.strengths(rng, difference)
  counts = np.floor(np.asarray(SHARES) * pairs).astype(int)
  counts[0] += pairs - counts.sum()
  kept = np.concatenate(
    [np.flatnonzero(strength == s)[:n] for s, n in enumerate(counts)]
  )
  if len(kept) != pairs:
    raise ValueError(f"{len(kept)} of {pairs} pairs: draw more to choose from")
  picks = [(int(g), (0, 1) if first[g] else (1, 0)) for g in kept]
  held = draw_texts(rng, world, prompts=test, completions=K, unsafe=unsafe)
  i, j = np.triu_indices(K, 1)
  difference = held.gold[:, i] - held.gold[:, j]
  ahead = labellers.preferences(rng, difference)
  group = np.arange(test)[:, None] * K
  chosen = group + np.where(ahead, i, j)
  rejected = group + np.where(ahead, j, i)
  told = labellers.strengths(rng, difference)
  groups = groups_of(config(seed, 2, 1, 0.0), texts, picks)
  return (texts, picks, strength[kept], groups), (
    held,
    groups_to_score(held),
    chosen.ravel(),
    rejected.ravel(),
    told.ravel(),
  )


def config(seed: int, steps: int, pairs: int, rate: float):
  """The run of every arm, but for its safety loss."""
  from rm_jax.ablation.token_runs import token_config

  c = token_config(
    seed=seed,
    steps=steps,
    groups=pairs,
    loss="bradley_terry_margin",
    rate=rate,
  )
  c.model.head = "biased_scalar"  # the safety loss needs a base rate
  return c


def job(arm, seed, *, steps, pairs, test, rate=None):
  """One arm at one seed: (metrics, no curve)."""
  from rm_jax.ablation import token_runs as runs
  from rm_jax.data.worlds.groups import with_margins
  from rm_jax.margins import MARGINS as FUNCTIONS

  unsafe, all_pairs = 0.0, steps * pairs
  if arm in SAFETY:
    unsafe, steps = UNSAFE, max(2, round(steps * SAFETY_STEPS))
  train, held = data(seed, all_pairs, test, unsafe)
  *_, strength, groups = train
  c, parts = (
    config(seed, steps, pairs, rate or RATES.get(arm, RATES["none"])),
    None,
  )
  if arm in MARGINS:
    groups = with_margins(groups, FUNCTIONS[MARGINS[arm]](strength))
  if SAFETY.get(arm):
    add_safety(c, SAFETY[arm])
    groups, parts = with_outcomes(seed, all_pairs, test)
    c.data.groups_per_batch = 2 * pairs
  test_texts, evaluated, chosen, rejected, told = held
  fitted = runs.run(c, groups, evaluated, parts=parts)
  scores = runs.scores_of(fitted.scored)
  metrics = runs.measures(scores, chosen, rejected, test_texts)
  metrics |= runs.costs(fitted)
  metrics |= by_rating(scores.ravel(), chosen, rejected, told)
  return metrics | safety(scores, test_texts), []


def add_safety(c, coefficient: float) -> None:
  """A second task on the same head: whether a completion is safe."""
  from rm_jax.config import task

  c.tasks.safety = task()
  c.tasks.safety.source = "world:utility"
  c.tasks.safety.share_head = True
  c.tasks.safety.coefficient = coefficient
  c.tasks.safety.loss.name = "outcome_cross_entropy"


@functools.lru_cache(maxsize=1)
def with_outcomes(seed: int, pairs: int, test: int):
  """The pairs, behind them whether each completion is safe, and their parts."""
  from rm_jax.ablation.token_runs import groups_of
  from rm_jax.data.loader import join
  from rm_jax.data.plan import Part
  from rm_jax.data.worlds.utility import is_unsafe

  texts, picks, _, groups = data(seed, pairs, test, UNSAFE)[0]
  c = config(seed, 2, 1, 0.0)
  add_safety(c, 1.0)  # not read here
  safe = 1.0 - is_unsafe(texts.completions)
  alone = [(group, (k,)) for group, both in picks for k in both]
  outcomes = groups_of(c, texts, alone, task=1, labels=safe)
  parts = [Part(0, len(picks), 1.0), Part(len(picks), len(alone), 1.0)]
  return join([groups, outcomes]), parts


def by_rating(flat, chosen, rejected, told) -> dict[str, float]:
  """Accuracy by rating, and what the claims are made of."""
  from rm_jax.ablation import token_runs as runs
  from rm_jax.metrics import accuracy, fit_temperature
  from rm_jax.train.labels import sigmoid

  right = accuracy(flat[chosen], flat[rejected], ties="half")
  by = [float(right[told == s].mean()) for s in range(len(NAMES))]
  # The scale of scores grows with the margin: compared at the temperature that
  # is best on the first half of the prompts.
  difference = flat[chosen] - flat[rejected]
  half = len(difference) // 2
  temperature = fit_temperature(difference[:half], np.ones(half))
  return dict(zip(NAMES, by, strict=True)) | {
    "average": float(np.mean(by)),
    "spread": by[3] - by[0],
    "smallest_fall": min(b - a for a, b in zip(by, by[1:], strict=False)),
    "bimodality": bimodality(sigmoid(flat)),
    "log_loss": runs.log_loss(difference[half:] / temperature),
  }


def bimodality(x) -> float:
  """Sarle's coefficient: (skewness^2 + 1) / kurtosis; 5/9 if uniform.

  Source: Pearson 1916; for large samples, without the correction for small.
  """
  z = (x - x.mean()) / x.std()
  return float(((z**3).mean() ** 2 + 1) / (z**4).mean())


def safety(scores, texts) -> dict[str, float]:
  """Recall of unsafe completions at score 0; 0 where there are none."""
  from rm_jax.data.worlds.utility import is_unsafe

  unsafe = is_unsafe(texts.completions)
  low = scores < 0
  return {
    "unsafe_recall": float(low[unsafe].mean()) if unsafe.any() else 0.0,
    "safe_called_unsafe": float(low[~unsafe].mean()),
  }
