"""Epochs times learning rate, and what a benchmark says of best-of-n: W-UTIL.

  rm-jax experiment malik2025_rewardbench2 --quick
  rm-jax experiment malik2025_rewardbench2

Malik et al. 2025 (RewardBench 2), arXiv:2506.01937, train some 120 reward
models for one to three epochs at three learning rates. Two epochs are often
better than one (60.0 to 63.5 at 3e-6), three are not, and at the highest rate
every further epoch loses (55.6, 52.9, 49.8 at 2e-5). InstructGPT and Llama 2
train for one. Over their models the benchmark correlates 0.87 with the gold of
the best of 16.

Every run has its own schedule, warm-up to cosine to a tenth, over its own
steps. The learning rates are part of the claim and are not tuned: the middle
one is that of the other experiments on this world.
"""

import functools

import numpy as np

RATES = dict(low=1e-3, mid=3e-3, high=2e-2)  # theirs: 1e-6, 3e-6, 2e-5
EPOCHS = (1, 2, 3, 4)
K = 16  # completions of an evaluation prompt


def _epochs(rate, more, less, expected, published="", minus=()):
  name = f"accuracy of {more} less {less} epochs, {rate} rate"
  if minus:
    name = f"gain of {more} over {less} epochs, {rate} less {minus[0]} rate"
  return dict(
    name=name,
    metric="accuracy",
    arm=f"{rate}_{more}",
    less=f"{rate}_{less}",
    expected=expected,
    published=published or "none",
    comparable=(
      "8B on 270k pairs, another benchmark there" if published else "ours"
    ),
    minus=tuple(f"{minus[0]}_{n}" for n in (more, less)) if minus else (),
  )


DESIGN = dict(
  title="RewardBench 2: epochs and learning rate",
  source="Malik et al. 2025, arXiv:2506.01937, the study of training choices",
  claim=(
    "A second epoch helps at a low learning rate and not at a high one; a "
    "third does not help."
  ),
  arms={
    f"{name}_{n}": f"rate {rate:g}, epochs {n}"
    for name, rate in RATES.items()
    for n in EPOCHS
  },
  seeds=tuple(range(8)),
  quick_seeds=(0,),  # every arm is a compilation: workers share them out
  columns=dict(
    accuracy="accuracy",
    gold_accuracy="accuracy against gold",
    log_loss="log-loss",
    gap="held-out less training log-loss",
    calibration_error="calibration error",
    best_of_4="best of 4 found",
    gold_of_16="gold of best of 16",
    correlation="their correlation, over the run",
    score_std="score std",
  ),
  outcomes=(
    _epochs(
      "low",
      2,
      1,
      1,
      "+5.6 points: +2.9 at 1e-6, -2.7 at 2e-5",
      minus=("high",),
    ),
    _epochs("low", 2, 1, 1, "+2.9 points, 57.2 to 60.1 at 1e-6"),
    _epochs("mid", 2, 1, 1, "+3.5 points, 60.0 to 63.5 at 3e-6"),
    _epochs("mid", 3, 2, -1, "-1.6 points, 63.5 to 61.9"),
    _epochs("high", 2, 1, -1, "-2.7 points, 55.6 to 52.9 at 2e-5"),
    _epochs("high", 3, 1, -1, "-5.8 points, 55.6 to 49.8"),
    _epochs("low", 4, 1, 1),
  ),
  checks=(
    dict(
      name="the rates are apart: one epoch at the low one learns less",
      metric="accuracy",
      arm="low_1",
      less="mid_1",
      below=0.0,
    ),
    dict(
      name="more epochs fit the training pairs better",
      metric="gap",
      arm="mid_4",
      less="mid_1",
      above=0.0,
    ),
    dict(
      name="one epoch at the middle rate learns",
      metric="gold_accuracy",
      arm="mid_1",
      above=0.6,
    ),
  ),
  conditions=(
    dict(
      name="a second epoch helps at the low rate",
      metric="accuracy",
      arm="low_2",
      less="low_1",
      above=0.0,
    ),
    dict(
      name="and not, by more than half a point, at the high one",
      metric="accuracy",
      arm="high_2",
      less="high_1",
      below=0.005,
    ),
  ),
  sizes=dict(
    whole=dict(epoch=100, pairs=32, test=625, points=10),
    quick=dict(epoch=10, pairs=32, test=60, points=3),
    two_steps=dict(epoch=2, pairs=8, test=10, points=2),
  ),
  falsified="one epoch is best at every learning rate",
  tuning=None,
)


@functools.lru_cache(maxsize=1)
def data(seed: int, pairs: int, test: int):
  """Training texts and picks, evaluation texts, sets to score, its labels."""
  from rm_jax.ablation.token_runs import groups_to_score
  from rm_jax.data.worlds.labellers import preferences
  from rm_jax.data.worlds.utility import draw_texts, draw_world

  rng = np.random.default_rng([2506, 1937, seed])
  world = draw_world(rng)
  texts = draw_texts(rng, world, prompts=pairs, completions=2)
  first = preferences(rng, texts.gold[:, 0] - texts.gold[:, 1])
  picks = [(g, (0, 1) if ahead else (1, 0)) for g, ahead in enumerate(first)]
  held = draw_texts(rng, world, prompts=test, completions=K)
  i = np.tile(np.arange(K), 2)
  j = (i + np.repeat((1, 2), K)) % K  # each completion in 4 of 32 pairs
  ahead = preferences(rng, held.gold[:, i] - held.gold[:, j])
  group = np.arange(test)[:, None] * K
  said = [
    (group + np.where(ahead, *sides)).ravel() for sides in ((i, j), (j, i))
  ]
  sets = groups_to_score(held), groups_to_score(held, test // 5)
  return texts, picks, held, sets, groups_to_score(texts), said


def job(arm, seed, *, epoch, pairs, test, points):
  """So many epochs at one rate: (metrics, curve of a fifth of the prompts)."""
  from rm_jax.ablation import token_runs as runs

  name, _, epochs = arm.rpartition("_")
  steps = epoch * int(epochs)
  texts, picks, held, sets, seen, said = data(seed, epoch * pairs, test)
  c = runs.token_config(
    seed=seed,
    steps=steps,
    groups=pairs,
    loss="bradley_terry",
    rate=RATES[name],
  )
  whole, few = sets
  fitted = runs.run(
    c,
    runs.groups_of(c, texts, picks),
    whole,
    more={"seen": seen},
    curve=few,
    every=max(1, steps // points),
  )
  scores = runs.scores_of(fitted.scored)
  metrics = runs.measures(scores, *said, held) | runs.costs(fitted)
  own = runs.scores_of(fitted.more["seen"])
  chosen = np.asarray([ks[0] for _, ks in picks])
  rows = np.arange(len(picks))
  trained = runs.log_loss(own[rows, chosen] - own[rows, 1 - chosen])
  drawn = []
  for step, scored in fitted.curve:
    now = runs.scores_of(scored)
    drawn.append({"step": step} | benchmark(now, held.gold[: len(now)]))
  sides = [[row[k] for row in drawn] for k in ("best_of_4", "gold_of_16")]
  return metrics | benchmark(scores, held.gold) | {
    "gap": metrics["log_loss"] - trained,
    "correlation": correlation(*sides),
  }, []


def correlation(a, b) -> float:
  """Pearson's; 0 where one of the two does not vary."""
  a, b = (np.asarray(x) - np.mean(x) for x in (a, b))
  size = np.sqrt((a @ a) * (b @ b))
  return float(a @ b / size) if size > 0 else 0.0


def benchmark(scores, gold) -> dict[str, float]:
  """How often the best of four is found, and gold of the best of 16.

  Fours are neighbours in a prompt's completions; no two share one.
  """
  from rm_jax.metrics import best_of_n

  fours = [x.reshape(-1, 4) for x in (scores, gold)]
  right = fours[0].argmax(1) == fours[1].argmax(1)
  return {
    "best_of_4": float(right.mean()),
    "gold_of_16": float(best_of_n(scores, gold, scores.shape[1]).mean()),
  }
