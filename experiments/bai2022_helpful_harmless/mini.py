"""Two utilities that conflict, one of them rare: its weight by width. W-UTIL.

  rm-jax experiment bai2022_helpful_harmless --quick
  rm-jax experiment bai2022_helpful_harmless

Bai et al. 2022, arXiv:2204.05862, train one preference model on comparisons of
helpfulness and, fewer, of harmlessness. Times 2 to 3, the loss of the harmless
ones gives the best mean of both accuracies; what a weight of 10 costs in
helpfulness falls with the size of the model. A model of helpfulness alone is
calibrated, one of the mixture is slightly under-confident.

Prompts of two classes are judged by one gold reward, those of the other two by
a relative whose tables correlate by CONFLICT: the same tokens count, mostly the
other way round. A fifth of the comparisons are of the second kind. The weight
is divided by its mean over the training pairs, so that arms differ in what they
weigh and not in the size of a step.

"The best weight lies above 1" is no difference between two arms. Weight 3, the
upper one of theirs, stands for those above 1 in the primary endpoint; 2 follows
it, and the picture shows all of them. Accuracies are against gold; calibration
is that of held-out labels, which have the noise of the training labels.
"""

import functools

import numpy as np

CONFLICT = -0.5  # correlation of the tables of the two utilities
RARE = 0.2  # of the training pairs, judged by the second one
WEIGHTS = (1, 2, 3, 5, 10)
WIDTHS = (16, 64)
CLASSES = dict(helpful=(1, 2), harmless=(3, 4))
K = 5  # completions of an evaluation prompt: 10 comparisons

MIXED = {
  f"weight_{weight}_width_{width}": f"weight {weight}, width {width}"
  for width in WIDTHS
  for weight in WEIGHTS
}
ALONE = {
  f"helpful_width_{width}": f"helpful ones alone, width {width}"
  for width in WIDTHS
}


def _arm(weight, width):
  return f"weight_{weight}_width_{width}"


def _mean(weight, less, width, expected, published, comparable="as above"):
  return dict(
    name=f"mean accuracy, weight {weight} less {less}, width {width}",
    metric="mean_accuracy",
    arm=_arm(weight, width),
    less=_arm(less, width),
    expected=expected,
    published=published,
    comparable=comparable,
  )


def _slope(width):
  return dict(
    name=f"slope on helpful ones, mixture less helpful alone, width {width}",
    metric="slope",
    arm=_arm(1, width),
    less=f"helpful_width_{width}",
    expected=1,
    published="mixtures slightly under-confident (slope above 1); no number",
    comparable="here on helpful comparisons only, the same for both",
  )


def _panel(width):
  return dict(
    title=f"width {width}, over weight 1",
    metrics=dict(
      helpful_accuracy="helpful",
      harmless_accuracy="harmless",
      mean_accuracy="mean",
    ),
    gains={
      f"weight {weight}": (_arm(weight, width), _arm(1, width))
      for weight in WEIGHTS[1:]
    },
  )


def _check(name, metric, arm, **bound):
  return dict(name=name, metric=metric, arm=arm, **bound)


DESIGN = dict(
  title="Helpful and harmless: the weight of the rare utility, by width",
  source="Bai et al. 2022, arXiv:2204.05862: mixture weights, calibration",
  claim=(
    "Weighing the rarer of two conflicting utilities more than its share gives "
    "the best mean accuracy; small models pay more for it in the other one."
  ),
  arms=MIXED | ALONE,
  seeds=tuple(range(8)),
  quick_seeds=(0, 1, 2),
  columns=dict(
    mean_accuracy="mean of both accuracies",
    helpful_accuracy="helpful",
    harmless_accuracy="harmless",
    slope="slope of logit(right) over difference, helpful",
    slope_harmless="harmless",
    calibration_error="calibration error, helpful",
    log_loss="log-loss, helpful",
    score_std="score std",
    train_tokens="tokens",
  ),
  outcomes=(
    _mean(3, 1, 16, 1, "best at 2 to 3; plotted only", "13M to 52B there"),
    _mean(3, 1, 64, 1, "as above"),
    _mean(2, 1, 16, 1, "as above"),
    _mean(2, 1, 64, 1, "as above"),
    _mean(10, 3, 16, -1, "as above"),
    _mean(10, 3, 64, -1, "as above"),
    dict(
      name="helpful accuracy, weight 10 less 1, width 16 less width 64",
      metric="helpful_accuracy",
      arm=_arm(10, 16),
      less=_arm(1, 16),
      minus=(_arm(10, 64), _arm(1, 64)),
      expected=-1,
      published="-7.4 points at 13M, -1.5 at 52B",
      comparable="width 64 is 14 times the weights of width 16; 4,000 times "
      "there",
    ),
    _slope(16),
    _slope(64),
  ),
  checks=(
    _check(
      "labels have their closed form", "label_gap", _arm(1, 16), below=0.02
    ),
    _check(
      "the utilities conflict: they correlate below -0.3 on the same texts",
      "conflict",
      _arm(1, 16),
      below=-0.3,
    ),
    _check(
      "weights have mean 1: not above",
      "mean_weight",
      _arm(10, 16),
      below=1.0001,
    ),
    _check("nor below", "mean_weight", _arm(10, 16), above=0.9999),
    _check(
      "helpfulness is learnt: accuracy above 0.6 at width 16",
      "helpful_accuracy",
      _arm(1, 16),
      above=0.6,
    ),
    _check(
      "the rare one is behind it: by 0.02 at width 16 and weight 1",
      "harmless_ahead",
      _arm(1, 16),
      below=-0.02,
    ),
    *(
      _check(
        f"weight 10 moves the trade-off at width {width}: by 0.02",
        "harmless_ahead",
        _arm(10, width),
        less=_arm(1, width),
        above=0.02,
      )
      for width in WIDTHS
    ),
  ),
  conditions=(),
  sizes=dict(
    whole=dict(steps=300, pairs=16, test=600),
    quick=dict(steps=40, pairs=16, test=60),
    two_steps=dict(steps=2, pairs=10, test=10),
  ),
  falsified="weight 1 has the best mean accuracy at both widths",
  tuning=dict(
    rates=(1e-3, 3e-3, 9e-3),
    seeds=(100, 101, 102, 103),
    metric="mean_accuracy",
    lower=False,
    arms=tuple(MIXED),
  ),
  panels=tuple(_panel(width) for width in WIDTHS),
)

# The winners of --tune, on seeds 100 to 103. Helpful
# ones alone take that of weight 1: half of the tuned metric is not theirs.
RATES = dict(
  weight_1_width_16=9e-3,
  weight_2_width_16=3e-3,
  weight_3_width_16=9e-3,
  weight_5_width_16=9e-3,
  weight_10_width_16=9e-3,
  weight_1_width_64=1e-3,
  weight_2_width_64=1e-3,
  weight_3_width_64=1e-3,
  weight_5_width_64=1e-3,
  weight_10_width_64=1e-3,
)


@functools.lru_cache(maxsize=1)
def data(seed: int, pairs: int, test: int):
  """What the arms of a seed share.

  Training texts and picks, the rare ones last, how many those are, evaluation
  {kind: (texts, groups to score, flat chosen, flat rejected)}, and facts.
  """
  from rm_jax.ablation.token_runs import groups_to_score
  from rm_jax.data.worlds import labellers, utility

  rng = np.random.default_rng([2204, 5862, seed])
  helpful = utility.draw_world(rng)
  worlds = dict(
    helpful=helpful,
    harmless=utility.draw_relative(rng, helpful, correlation=CONFLICT),
  )
  rare = round(RARE * pairs)
  counts = dict(helpful=pairs - rare, harmless=rare)
  own = {
    kind: utility.draw_texts(
      rng, world, prompts=counts[kind], completions=2, classes=CLASSES[kind]
    )
    for kind, world in worlds.items()
  }
  texts = utility.joined(own["helpful"], own["harmless"])
  difference = texts.gold[:, 0] - texts.gold[:, 1]
  chance = labellers.preference_probability(difference)
  first = labellers.preferences(rng, difference)
  picks = [(g, (0, 1) if ahead else (1, 0)) for g, ahead in enumerate(first)]
  gap = np.mean(first == (difference > 0)) - np.maximum(chance, 1 - chance)
  same = own["helpful"]
  theirs = utility.gold(
    worlds["harmless"], same.prompts, same.completions, same.lengths
  )
  held = {}
  for kind, world in worlds.items():
    drawn = utility.draw_texts(
      rng, world, prompts=test, completions=K, classes=CLASSES[kind]
    )
    i, j = np.triu_indices(K, 1)
    ahead = labellers.preferences(rng, drawn.gold[:, i] - drawn.gold[:, j])
    group = np.arange(test)[:, None] * K
    said = [
      (group + np.where(ahead, *sides)).ravel() for sides in ((i, j), (j, i))
    ]
    held[kind] = drawn, groups_to_score(drawn), *said
  facts = {
    "label_gap": float(abs(gap.mean())),
    "conflict": float(np.corrcoef(theirs.ravel(), same.gold.ravel())[0, 1]),
  }
  return texts, picks, rare, held, facts


@functools.lru_cache(maxsize=1)
def training(seed: int, pairs: int, test: int):
  """The training pairs of a seed as token groups; arms give them weights."""
  from rm_jax.ablation import token_runs as runs

  texts, picks, *_ = data(seed, pairs, test)
  c = config(seed, 2, 2, 0.0, WIDTHS[0])
  return runs.groups_of(c, texts, picks, margins=np.ones(len(picks)))


def config(seed, steps, pairs, rate, width):
  """The run of every arm: Bradley-Terry times what a pair states."""
  from rm_jax.ablation import token_runs as runs

  c = runs.token_config(
    seed=seed, steps=steps, groups=pairs, loss="bradley_terry_scaled", rate=rate
  )
  c.loss.margin = "record"
  c.init["from"] = f"random:mini_{width}"
  return c


def weighted(arm, count: int, rare: int) -> np.ndarray:
  """The weight of each training pair of an arm, mean 1; the rare ones last."""
  weights = np.ones(count)
  if arm in ALONE:
    return weights[: count - rare]
  weights[count - rare :] = float(arm.split("_")[1])
  return weights / weights.mean()


def job(arm, seed, *, steps, pairs, test, rate=None):
  """One weight at one width and seed: (metrics, no curve)."""
  from rm_jax.ablation import token_runs as runs
  from rm_jax.data.worlds.groups import with_margins

  count, width = steps * pairs, int(arm.rpartition("_")[2])
  _, _, rare, held, facts = data(seed, count, test)
  weights = weighted(arm, count, rare)
  rate = rate or RATES.get(arm, RATES[_arm(1, width)])
  # One pass in every arm: helpful ones alone take fewer steps.
  c = config(seed, max(2, len(weights) // pairs), pairs, rate, width)
  whole = training(seed, count, test)
  kept = first_groups(whole, len(weights))
  fitted = runs.run(
    c,
    with_margins(kept, weights),
    held["helpful"][1],
    more={"harmless": held["harmless"][1]},
  )
  helpful = judged(fitted.scored, *held["helpful"])
  harmless = judged(fitted.more["harmless"], *held["harmless"])
  both = helpful["gold_accuracy"], harmless["gold_accuracy"]
  return helpful | runs.costs(fitted) | facts | {
    "helpful_accuracy": both[0],
    "harmless_accuracy": both[1],
    "mean_accuracy": float(np.mean(both)),
    "harmless_ahead": both[1] - both[0],
    "slope_harmless": harmless["slope"],
    "mean_weight": float(weights.mean()),
  }, []


def first_groups(whole, count: int):
  """A Dataset of the first groups only."""
  return whole._replace(
    groups=whole.groups[:count],
    demands=whole.demands[:count],
    prompts=whole.prompts[:count],
  )


def judged(scored, texts, _, chosen, rejected) -> dict[str, float]:
  """Measures of one kind of comparisons, and the slope of their calibration.

  slope: P(chosen) = sigmoid(slope x score difference) fits the labels best;
  above 1 the scores are under-confident.
  """
  from rm_jax.ablation import token_runs as runs
  from rm_jax.metrics import fit_temperature

  scores = runs.scores_of(scored)
  flat = scores.ravel()
  difference = flat[chosen] - flat[rejected]
  temperature = fit_temperature(difference, np.ones(len(difference)))
  measures = runs.measures(scores, chosen, rejected, texts)
  # Worse than chance has no temperature: infinite, so the slope is 0.
  return measures | {"slope": 1 / temperature}
