"""Which labels are wrong: a vote of ten reward models, on W-UTIL.

  rm-jax experiment wang2024_secrets --quick
  rm-jax experiment wang2024_secrets

Wang et al. 2024 (Secrets of RLHF II), arXiv:2401.06080, train ten reward models
on the same comparisons in other orders and call the mean of their score
differences the strength of a comparison. Trained alone, the weakest 20 % give a
model that is worse than chance and the next 20 % one that is near it; turning
the weakest round helps, and so do smoothed labels and the strength as a margin.

A quarter of the labels are wrong, the more often the closer the two sides are.
The members see every pair once, as the models of the arms do: a model that
has seen a pair often agrees with its label, whatever gold says.
The margin stands inside of the logarithm (their Eq. 6 prints it outside, where
it has no gradient).
"""

import functools

import numpy as np

TEMPERATURE = 0.85  # of the labeller: 25.0 % of the labels are against gold
MEMBERS = 10
SMOOTHING = 0.1
MIXED = 0.2  # of the mixture likelihood
WEAK, NEXT, TOP = (0.0, 0.2), (0.2, 0.4), (0.9, 1.0)  # by strength

DESIGN = dict(
  title="Secrets of RLHF II: which labels a vote calls wrong",
  source="Wang et al. 2024, Secrets of RLHF II, arXiv:2401.06080, Eq. 6",
  claim=(
    "The 20 % of the comparisons that ten models agree with least teach a "
    "model that is worse than chance; turned round, they help."
  ),
  arms=dict(
    plain="every pair as it is labelled",
    drop="without the weakest 20 %",
    flip="the weakest 20 % turned round",
    smooth="every pair, smoothing 0.1",
    margin="every pair, its strength as margin",
    mixture="every pair, Christiano's mixture 0.2",
    weakest="the weakest 20 % alone",
    next="the next 20 % alone",
    top="the strongest 10 % alone",
    top_smooth="the same, smoothing 0.1",
    top_margin="the same, its strength as margin",
    equal="equal scores: chance",
  ),
  seeds=tuple(range(8)),
  quick_seeds=(0, 1),
  columns=dict(
    gold_accuracy="accuracy against gold",
    accuracy="against labels",
    calibration_error="calibration error",
    log_loss="log-loss",
    score_std="score std",
    label_error="training labels against gold",
    train_loss="training loss",
  ),
  outcomes=(
    dict(
      name="accuracy of weakest less chance",
      metric="gold_accuracy",
      arm="weakest",
      less="equal",
      expected=-1,
      published="worse than chance; no number is compared",
      comparable="hh-rlhf and 7B there; gold is known here",
    ),
    dict(
      name="accuracy of flip less plain",
      metric="gold_accuracy",
      arm="flip",
      less="plain",
      expected=1,
      published="turning the weakest helps",
      comparable="as above",
    ),
    dict(
      name="accuracy of drop less plain",
      metric="gold_accuracy",
      arm="drop",
      less="plain",
      expected=1,
      published="the weakest hurt",
      comparable="as above",
    ),
    dict(
      name="accuracy of margin less plain",
      metric="gold_accuracy",
      arm="margin",
      less="plain",
      expected=1,
      published="nearly always helps",
      comparable="as above",
    ),
    dict(
      name="accuracy of smooth less plain",
      metric="gold_accuracy",
      arm="smooth",
      less="plain",
      expected=1,
      published="helps on the strongest",
      comparable="as above; here on all",
    ),
    dict(
      name="accuracy of top_smooth less top",
      metric="gold_accuracy",
      arm="top_smooth",
      less="top",
      expected=1,
      published="helps: the loss falls to 0 without",
      comparable="as above",
    ),
    dict(
      name="accuracy of top_margin less top",
      metric="gold_accuracy",
      arm="top_margin",
      less="top",
      expected=1,
      published="helps",
      comparable="as above",
    ),
    dict(
      name="accuracy of mixture less plain",
      metric="gold_accuracy",
      arm="mixture",
      less="plain",
      expected=1,
      published="none",
      comparable="ours; Christiano et al. 2017 mix 0.1",
    ),
  ),
  checks=(
    dict(
      name="labels have their closed form",
      metric="label_gap",
      arm="plain",
      below=0.02,
    ),
    dict(
      name="members disagree: standard deviation 0.1 of a pair's difference",
      metric="vote_std",
      arm="plain",
      above=0.1,
    ),
    dict(
      name="plain learns: its accuracy against gold is above 0.6",
      metric="gold_accuracy",
      arm="plain",
      above=0.6,
    ),
    dict(
      name="the vote finds wrong labels: more of them among the weakest",
      metric="label_error",
      arm="weakest",
      less="plain",
      above=0.05,
    ),
  ),
  conditions=(
    dict(
      name="the next 20 % are at chance: not below 0.47",
      metric="gold_accuracy",
      arm="next",
      above=0.47,
    ),
    dict(name="nor above 0.53", metric="gold_accuracy", arm="next", below=0.53),
    dict(
      name="flip is above plain",
      metric="gold_accuracy",
      arm="flip",
      less="plain",
      above=0.0,
    ),
  ),
  sizes=dict(
    whole=dict(steps=150, pairs=32, test=1_000),
    quick=dict(steps=30, pairs=32, test=100),
    two_steps=dict(steps=2, pairs=8, test=10),
  ),
  falsified="the model of the weakest 20 % is at chance or above",
  tuning=dict(
    rates=(1e-3, 3e-3, 9e-3),
    seeds=(100, 101, 102, 103),
    metric="gold_accuracy",
    lower=False,
    arms=("plain", "smooth", "margin", "mixture"),
  ),
)

# The winners of --tune, on seeds 100 to 103. The other
# arms differ from these in their data only and take the rate of their loss.
RATES = dict(
  plain=3e-3,
  smooth=3e-3,
  margin=3e-3,
  mixture=3e-3,
)
LOSSES = dict(
  plain="bradley_terry",
  smooth="bradley_terry_smoothed",
  margin="bradley_terry_margin",
  mixture="christiano_mixture",
)
KEPT = dict(weakest=WEAK, next=NEXT, top=TOP, drop=(WEAK[1], 1.0))
K = 8  # completions of an evaluation prompt


@functools.lru_cache(maxsize=1)
def data(seed: int, pairs: int, test: int):
  """Training texts with their picks and closed form; the evaluation set."""
  from rm_jax.ablation import token_runs as runs
  from rm_jax.data.worlds import labellers
  from rm_jax.data.worlds.utility import draw_texts, draw_world

  rng = np.random.default_rng([2401, 6080, seed])
  world = draw_world(rng)
  texts = draw_texts(rng, world, prompts=pairs, completions=2)
  difference = texts.gold[:, 0] - texts.gold[:, 1]
  first = labellers.preferences(rng, difference, temperature=TEMPERATURE)
  picks = [(g, (0, 1) if ahead else (1, 0)) for g, ahead in enumerate(first)]
  wrong = first != (difference > 0)
  chance = labellers.preference_probability(
    -np.abs(difference), temperature=TEMPERATURE
  )
  held = draw_texts(rng, world, prompts=test, completions=K)
  i, j = np.triu_indices(K, 1)
  ahead = labellers.preferences(
    rng, held.gold[:, i] - held.gold[:, j], temperature=TEMPERATURE
  )
  group = np.arange(test)[:, None] * K
  said = [
    (group + np.where(ahead, *sides)).ravel() for sides in ((i, j), (j, i))
  ]
  gap = float(abs(wrong.mean() - chance.mean()))
  return texts, picks, wrong, gap, (held, runs.groups_to_score(held), *said)


def config(seed, steps, pairs, line, rate=None):
  """The run of a loss; every other key is the same for all arms."""
  from rm_jax.ablation import token_runs as runs

  c = runs.token_config(
    seed=seed,
    steps=steps,
    groups=pairs,
    loss=LOSSES[line],
    rate=rate or RATES[line],
  )
  if line == "smooth":
    c.loss.smoothing = SMOOTHING
  elif line == "margin":
    c.loss.margin = "record"
  elif line == "mixture":
    c.loss.noise = MIXED
  return c


@functools.lru_cache(maxsize=1)
def votes(seed: int, steps: int, pairs: int, test: int) -> np.ndarray:
  """Score differences of every training pair by every member, [M, P].

  Members differ in initialisation and in the order of the pairs.
  """
  from rm_jax.ablation import token_runs as runs

  texts, picks, *_ = data(seed, steps * pairs, test)
  c, found = config(0, steps, pairs, "plain"), []
  train, seen = runs.groups_of(c, texts, picks), runs.groups_to_score(texts)
  chosen = np.asarray([ks[0] for _, ks in picks])
  rows = np.arange(len(picks))
  for member in range(MEMBERS):
    c = config(1_000 * (seed + 1) + member, steps, pairs, "plain")
    scores = runs.scores_of(runs.run(c, train, seen).scored)
    found.append(scores[rows, chosen] - scores[rows, 1 - chosen])
  return np.stack(found)


def training(arm, picks, strength):
  """(places of the pairs an arm keeps, their picks)."""
  order = np.argsort(strength)
  low, high = KEPT.get(arm.partition("_")[0], (0.0, 1.0))
  kept = np.sort(order[round(low * len(order)) : round(high * len(order))])
  turned = set(order[: round(WEAK[1] * len(order))]) if arm == "flip" else ()
  return kept, [
    (picks[n][0], picks[n][1][::-1] if n in turned else picks[n][1])
    for n in kept.tolist()
  ]


def job(arm, seed, *, steps, pairs, test, rate=None):
  """One arm at one seed: (metrics, no curve)."""
  from rm_jax.ablation import token_runs as runs

  texts, picks, wrong, gap, held = data(seed, steps * pairs, test)
  test_texts, evaluated, chosen, rejected = held
  if arm == "equal":
    half = 0.5  # ties count one half
    log_loss = runs.log_loss(np.zeros(1))
    return dict(gold_accuracy=half, accuracy=half, log_loss=log_loss), []
  vote = votes(seed, steps, pairs, test)
  strength = vote.mean(0)
  kept, own = training(arm, picks, strength)
  line = arm.rpartition("_")[2]
  line = line if line in LOSSES else "plain"
  c = config(seed, steps, pairs, line, rate)
  how = dict(margins=strength[kept]) if line == "margin" else {}
  fitted = runs.run(c, runs.groups_of(c, texts, own, **how), evaluated)
  scores = runs.scores_of(fitted.scored)
  metrics = runs.measures(scores, chosen, rejected, test_texts)
  turned = np.asarray([a != picks[n] for n, a in zip(kept, own, strict=True)])
  return metrics | runs.costs(fitted) | {
    "label_error": float(np.mean(wrong[kept] ^ turned)),
    "label_gap": gap,
    "vote_std": float(vote.std(0, ddof=1).mean()),
  }, []
