"""Comparisons of a prompt kept together or shuffled apart, on W-UTIL.

  rm-jax experiment ouyang2022_instructgpt --quick
  rm-jax experiment ouyang2022_instructgpt

Ouyang et al. 2022, arXiv:2203.02155, section 3.5, report that comparisons
shuffled into one data set overfit within a single pass, and that all K-choose-2
comparisons of a prompt as one element of a batch do not: in the shuffled data a
completion takes part in K - 1 updates (their footnote 5). They give no table.

Every arm of a seed starts from one model that was trained on a relative of the
world (its tables correlate by 0.5 with the ones that are learned), as the
paper's starts from a language model: else one pass is too short to learn from.
`shuffled` and `grouped_8` see every completion K - 1 = 8 times in as many steps
of as many rows; `grouped` and `one_pair` take as many steps with fewer rows.
"""

import functools

import numpy as np

K = 9
PAIRS = K * (K - 1) // 2
RELATED = 0.5  # correlation of the tables that the first model learned

DESIGN = dict(
  title="InstructGPT: grouped or shuffled comparisons",
  source="Ouyang et al. 2022, arXiv:2203.02155, section 3.5",
  claim=(
    "Comparisons shuffled apart overfit within one pass; all comparisons of a "
    "prompt in one element of the batch do not."
  ),
  arms=dict(
    grouped="all 36 comparisons of a prompt together, one pass",
    shuffled="all comparisons shuffled, one pass, as many per step",
    grouped_8="together, 8 passes: as many visits as shuffled",
    one_pair="one random comparison per prompt and pass, 8 passes",
  ),
  seeds=tuple(range(8)),
  quick_seeds=(0, 1, 2),
  columns=dict(
    log_loss="held-out log-loss",
    turn="its rise from its lowest",
    gap="held-out less training log-loss",
    accuracy="accuracy",
    gold_accuracy="accuracy against gold",
    calibration_error="calibration error",
    forward_passes="forward passes",
    train_tokens="tokens",
  ),
  outcomes=(
    dict(
      name="log-loss of shuffled less grouped",
      metric="log_loss",
      arm="shuffled",
      less="grouped",
      expected=1,
      published="shuffled is worse; no number",
      comparable="6B there, 29,000 weights here",
    ),
    dict(
      name="log-loss of grouped_8 less grouped",
      metric="log_loss",
      arm="grouped_8",
      less="grouped",
      expected=1,
      published="more epochs overfit quickly (App. C.2); no number",
      comparable="as above",
    ),
    dict(
      name="accuracy of shuffled less grouped",
      metric="accuracy",
      arm="shuffled",
      less="grouped",
      expected=-1,
      published="grouped is much better; no number",
      comparable="as above",
    ),
    dict(
      name="log-loss of shuffled less grouped_8: equal visits",
      metric="log_loss",
      arm="shuffled",
      less="grouped_8",
      expected=1,
      published="not reported",
      comparable="ours: does anything but the number of visits matter?",
    ),
  ),
  checks=(
    dict(
      name="8 passes of grouped overfit: their log-loss has risen by 0.005",
      metric="turn",
      arm="grouped_8",
      above=0.005,
    ),
  ),
  conditions=(
    dict(
      name="the log-loss of shuffled turns upward before its pass ends",
      metric="turn",
      arm="shuffled",
      above=0.005,
    ),
    dict(
      name="that of grouped does not",
      metric="turn",
      arm="grouped",
      below=0.005,
    ),
  ),
  sizes=dict(
    whole=dict(before=300, prompts=256, test=1_000, curve=150, points=8),
    quick=dict(before=60, prompts=96, test=200, curve=60, points=4),
    two_steps=dict(before=2, prompts=4, test=4, curve=4, points=1),
  ),
  falsified=(
    "shuffled has no higher log-loss than grouped although 8 passes of grouped "
    "overfit"
  ),
  tuning=dict(
    rates=(1e-3, 3e-3, 1e-2),
    seeds=(100, 101, 102, 103),
    metric="log_loss",
    lower=True,
  ),
)

# The winners of --tune, on seeds 100 to 103.
RATES = dict(
  grouped=3e-3,
  shuffled=1e-2,
  grouped_8=1e-3,
  one_pair=3e-3,
)
FIRST_RATE = 3e-3
STEP = 2  # prompts of a step of `grouped`


@functools.lru_cache(maxsize=1)
def data(seed: int, before: int, prompts: int, test: int, curve: int):
  """What the arms of a seed share.

  Training and test (texts, ranks), three sets to score, and the parameters that
  all start from, after `before` train steps.
  """
  from rm_jax.ablation.token_runs import groups_to_score
  from rm_jax.data.worlds.labellers import rankings
  from rm_jax.data.worlds.utility import (
    draw_relative,
    draw_texts,
    draw_world,
  )

  rng = np.random.default_rng([2203, 2155, seed])
  world = draw_world(rng)
  sides = []
  for count in (prompts, test):
    texts = draw_texts(rng, world, prompts=count, completions=K)
    sides.append((texts, rankings(rng, texts.gold, noise="plackett_luce")))
  relative = draw_relative(rng, world, correlation=RELATED)
  (texts, _), (held, _) = sides
  scored = (
    groups_to_score(held),
    groups_to_score(held, curve),
    groups_to_score(texts, curve),
  )
  return *sides, scored, first_model(seed, before, relative)


def first_model(seed: int, steps: int, world) -> dict:
  """Parameters after `steps` train steps of 32 pairs of the relative."""
  from rm_jax.ablation import token_runs as runs
  from rm_jax.data.worlds.labellers import preferences
  from rm_jax.data.worlds.utility import draw_texts

  rng = np.random.default_rng([2, seed])
  texts = draw_texts(rng, world, prompts=32 * steps, completions=2)
  first = preferences(rng, texts.gold[:, 0] - texts.gold[:, 1])
  picks = [(g, (0, 1) if ahead else (1, 0)) for g, ahead in enumerate(first)]
  c = runs.token_config(
    seed=seed, steps=steps, groups=32, loss="bradley_terry", rate=FIRST_RATE
  )
  train = runs.groups_of(c, texts, picks)
  return runs.run(c, train, runs.groups_to_score(texts, 1)).params


def training_groups(arm: str, ranks, seed: int):
  """The picks of an arm in order, and how many make a step."""
  count = len(ranks)
  rng = np.random.default_rng([1, seed])
  if arm in ("grouped", "grouped_8"):
    picks = [(group, tuple(range(K))) for group in range(count)]
    return picks, STEP * (K - 1 if arm == "grouped_8" else 1)
  order = np.argsort(ranks, axis=1)  # completions from best to worst
  high, low = np.triu_indices(K, 1)
  if arm == "shuffled":
    picks = [
      (group, (int(order[group, i]), int(order[group, j])))
      for group in range(count)
      for i, j in zip(high, low, strict=True)
    ]
    return picks, STEP * PAIRS
  picks = []
  for _ in range(K - 1):  # fresh comparisons in every pass
    for group in range(count):
      at = rng.integers(PAIRS)
      i, j = high[at], low[at]
      picks.append((group, (int(order[group, i]), int(order[group, j]))))
  return picks, STEP * (K - 1)


def job(arm, seed, *, before, prompts, test, curve, points, rate=None):
  """One arm at one seed: (metrics, curve of held-out log-loss)."""
  from rm_jax.ablation import token_runs as runs

  own, (test_texts, test_ranks), scored, start = data(
    seed, before, prompts, test, curve
  )
  texts, ranks = own
  held, few, seen = scored
  picks, per_step = training_groups(arm, ranks, seed)
  rankings = arm.startswith("grouped")
  steps = prompts // STEP
  c = runs.token_config(
    seed=seed,
    steps=steps,
    groups=per_step,
    loss="all_pairs" if rankings else "bradley_terry",
    rate=rate or RATES[arm],
  )
  train = runs.groups_of(
    c, texts, picks, **(dict(ranks=ranks) if rankings else {})
  )
  every = max(1, steps // points)
  fitted = runs.run(
    c, train, held, more={"seen": seen}, start=start, curve=few, every=every
  )

  def loss(scored, ranks):
    scores = runs.scores_of(scored)
    better, worse = runs.ranked_pairs(ranks[: len(scores)])
    return runs.log_loss(scores.ravel()[better] - scores.ravel()[worse])

  drawn = [
    {"step": step, "log_loss": loss(scored, test_ranks)}
    for step, scored in fitted.curve
  ]
  scores = runs.scores_of(fitted.scored)
  better, worse = runs.ranked_pairs(test_ranks)
  metrics = runs.measures(scores, better, worse, test_texts)
  lowest = min(row["log_loss"] for row in drawn)
  return metrics | runs.costs(fitted) | {
    "turn": drawn[-1]["log_loss"] - lowest,
    "gap": drawn[-1]["log_loss"] - loss(fitted.more["seen"], ranks),
  }, drawn
