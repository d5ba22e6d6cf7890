"""Labels of steps by rolling out from them, on W-CHAIN.

  rm-jax experiment wang2023_math_shepherd --quick
  rm-jax experiment wang2023_math_shepherd

Wang et al. 2023 (Math-Shepherd), arXiv:2312.08935: a step's label is hard, 1 if
any of N completions from it is right, or soft, the share that is. Hard labels
agree best with people at a small N (86 % at N = 4) and less at more, since luck
reaches the answer from wrong steps; soft labels come ever closer. Reward models
of either are equal, and pick better than one of outcomes.

Here every prefix's truth is known: whether all its lines follow, and the exact
chance that a completion from it is right.
"""

import functools

import numpy as np

MODULUS = 7  # small: luck is common
ERROR, TRAP_ERROR, TRAPS = 0.12, 0.7, 0.1  # of generator and completer
ROLLOUTS = (1, 2, 4, 8, 16, 64)
LEARNT = 8  # rollouts of the labels that reward models learn from

DESIGN = dict(
  title="Math-Shepherd: hard and soft labels by rolling out",
  source="Wang et al. 2023, arXiv:2312.08935, sections 3 and 4, figure on N",
  claim=(
    "Hard rollout labels are most often right at a small N; soft ones come "
    "closer to the true chance of success with every rollout."
  ),
  arms=dict(
    **{f"labels_{n}": f"labels of {n} rollouts, no model" for n in ROLLOUTS},
    hard="reward model of hard labels, 8 rollouts",
    soft="reward model of soft labels, 8 rollouts",
    orm="reward model of outcomes",
    majority="a vote, no model",
    earlier="the earlier line is right, no model",
  ),
  seeds=tuple(range(8)),
  quick_seeds=(0, 1, 2),
  columns=dict(
    hard_accuracy="hard label = prefix is right",
    hard_expected="the same, exact expectation",
    soft_cross_entropy="soft label against true chance: cross-entropy",
    soft_error="squared",
    accuracy_1="a sample",
    accuracy_64="best of 64",
    trace_error_64="wrong steps among right picks",
    prefix_auc="prefix right or wrong: area under the ROC curve",
  ),
  outcomes=(
    dict(
      name="hard label accuracy, 4 rollouts over 64",
      metric="hard_accuracy",
      arm="labels_4",
      less="labels_64",
      expected=1,
      published="86 % at 4, less at more (figure, no further numbers)",
      comparable="held against people there, against the truth here",
    ),
    dict(
      name="hard label accuracy, 4 rollouts over 1",
      metric="hard_accuracy",
      arm="labels_4",
      less="labels_1",
      expected=1,
      published="above 0",
      comparable="as above",
    ),
    dict(
      name="cross-entropy of soft labels, 64 rollouts over 4",
      metric="soft_cross_entropy",
      arm="labels_64",
      less="labels_4",
      expected=-1,
      published="below 0",
      comparable="to a distribution of people there, to the true chance here",
    ),
    dict(
      name="best of 64, hard over soft labels",
      metric="accuracy_64",
      arm="hard",
      less="soft",
      expected=0,
      published="equal (no numbers)",
      comparable="errors are drawn here",
    ),
    dict(
      name="best of 64, hard labels over outcomes",
      metric="accuracy_64",
      arm="hard",
      less="orm",
      expected=1,
      published="+1.4 points on GSM8K, +4.1 on MATH (LLaMA2-70B, best of 256)",
      comparable="errors are drawn here",
    ),
    dict(
      name="best of 64, hard labels over a vote",
      metric="accuracy_64",
      arm="hard",
      less="majority",
      expected=1,
      published="+5.2 points on GSM8K, +5.1 on MATH (LLaMA2-70B, best of 256)",
      comparable="added after a first run of these seeds",
    ),
    dict(
      name="best of 64, soft labels over a vote",
      metric="accuracy_64",
      arm="soft",
      less="majority",
      expected=0,
      published="not reported",
      comparable="added after a first run of these seeds",
    ),
    dict(
      name="prefix AUC, hard over soft labels",
      metric="prefix_auc",
      arm="hard",
      less="soft",
      expected=0,
      published="not reported",
      comparable="added after a first run of these seeds",
    ),
  ),
  checks=(
    dict(
      name="luck is common: wrong prefixes reach right answers",
      metric="lucky",
      arm="labels_64",
      above=0.05,
    ),
    dict(
      name="rollouts are right as often as the exact chances say",
      metric="off_expected",
      arm="labels_64",
      below=0.01,
    ),
  ),
  conditions=(
    dict(
      name="4 rollouts are above 1",
      metric="hard_accuracy",
      arm="labels_4",
      less="labels_1",
      above=0.0,
    ),
    dict(
      name="soft labels come closer from 4 to 64",
      metric="soft_cross_entropy",
      arm="labels_64",
      less="labels_4",
      below=0.0,
    ),
  ),
  series=(
    dict(
      title="hard label = prefix is right",
      axis="rollouts",
      at=ROLLOUTS,
      lines=dict(
        drawn=tuple((f"labels_{n}", "hard_accuracy") for n in ROLLOUTS),
        exact=tuple((f"labels_{n}", "hard_expected") for n in ROLLOUTS),
      ),
    ),
    dict(
      title="soft label less true chance",
      axis="rollouts",
      at=ROLLOUTS,
      lines={
        "squared error": tuple((f"labels_{n}", "soft_error") for n in ROLLOUTS)
      },
    ),
  ),
  sizes=dict(
    whole=dict(before=900, steps=320, problems=5_120, samples=4, test=150),
    quick=dict(before=150, steps=60, problems=400, samples=4, test=40),
    two_steps=dict(before=2, steps=2, problems=40, samples=2, test=4),
  ),
  falsified="hard labels are ever more often right the more rollouts there are",
  tuning=dict(
    rates=(3e-4, 1e-3, 3e-3, 1e-2),
    seeds=(100, 101, 102, 103),
    metric="accuracy_64",
    lower=False,
    arms=("hard", "soft", "orm"),
  ),
)

# The winners of --tune, on seeds 100 to 103.
RATES = dict(
  hard=3e-4,
  soft=1e-3,
  orm=3e-3,
)
BATCH = 64
SAMPLES = 64  # of a held-out problem


@functools.lru_cache(maxsize=1)
def data(seed: int, before: int, problems: int, samples: int, test: int):
  """(problems, solutions, held-out, first backbone) of a seed."""
  from rm_jax.ablation.chain_runs import first_backbone, hold
  from rm_jax.data.worlds import chain

  rng = np.random.default_rng([2312, 8935, seed])
  sides = []
  for count, k in ((problems, samples), (test, SAMPLES)):
    drawn = chain.draw_problems(rng, count=count, modulus=MODULUS, traps=TRAPS)
    sides.append(
      (drawn, chain.draw_solutions(rng, drawn, generator(), count=k))
    )
  first = first_backbone(rng, seed, modulus=MODULUS, steps=before)
  return *sides[0], hold(*sides[1]), first


def generator():
  """What writes solutions and completes them."""
  from rm_jax.data.worlds.chain import Generator

  return Generator(ERROR, TRAP_ERROR)


def rollout_shares(seed, problems, solutions, *, count: int) -> np.ndarray:
  """Of `count` completions from each line, the share that is right, [G, K, 10].

  Not a number beyond the last line.
  """
  from rm_jax.data.worlds.chain import is_line, roll_out

  rng = np.random.default_rng([3, seed, count])
  where = is_line(solutions)
  group = np.nonzero(where)[0]
  done, values = solutions.done[where], solutions.values[where]
  total = np.zeros(len(group))
  for _ in range(count):
    total += roll_out(rng, problems, generator(), group, done, values)
  out = np.full(where.shape, np.nan)
  out[where] = total / count
  return out


def job(arm, seed, *, before, steps, problems, samples, test, rate=None):
  """One arm at one seed: (metrics, no curve)."""
  from rm_jax.ablation import chain_runs as runs
  from rm_jax.ablation.token_runs import costs

  own, solutions, held, first = data(seed, before, problems, samples, test)
  if arm.startswith("labels_"):
    return label_quality(seed, own, solutions, int(arm[7:])), []
  if arm == "majority":
    return runs.majority(held.solutions, (SAMPLES,)), []
  if arm == "earlier":
    return {"prefix_auc": runs.earlier_auc(held.solutions)}, []
  process = arm != "orm"
  c = runs.chain_config(
    seed=seed,
    steps=steps,
    batch=BATCH,
    loss="step_binary_cross_entropy" if process else "outcome_cross_entropy",
    pooling="step_ends" if process else "every_token",
    rate=rate or RATES[arm],
  )
  if process:
    labels = rollout_shares(seed, own, solutions, count=LEARNT)
    if arm == "hard":
      labels = np.where(np.isnan(labels), np.nan, labels > 0)
    train = runs.to_learn(c, own, solutions, steps=labels)
  else:
    right = solutions.outcome.astype(float)
    train = runs.to_learn(c, own, solutions, outcomes=right)
  start = runs.start_from(c, first, MODULUS)
  fitted = runs.train(c, train, MODULUS, start=start)
  scores = runs.score_tokens(c, fitted.params, held)
  return measures(process, scores, held) | costs(fitted), []


def label_quality(seed, problems, solutions, count: int) -> dict[str, float]:
  """How often hard labels are right, how close soft ones come."""
  from rm_jax.data.worlds.chain import is_line, prefix_right, prefix_success

  where = is_line(solutions)
  share = rollout_shares(seed, problems, solutions, count=count)[where]
  right = prefix_right(solutions)[where]
  chance = prefix_success(problems, solutions, generator())[where]
  any_right = 1 - (1 - chance) ** count
  # Half a rollout more of each kind: a share of 0 has no logarithm.
  q = (share * count + 0.5) / (count + 1)
  cross = -(chance * np.log(q) + (1 - chance) * np.log1p(-q))
  return {
    "hard_accuracy": ((share > 0) == right).mean(),
    "hard_expected": np.where(right, any_right, 1 - any_right).mean(),
    "soft_cross_entropy": cross.mean(),
    "soft_error": ((share - chance) ** 2).mean(),
    "lucky": chance[~right].mean(),
    "off_expected": abs(((share > 0) - any_right).mean()),
  }


def measures(process, scores, held) -> dict[str, float]:
  """Best of 64 by the minimum over lines, of outcomes by the last token."""
  from rm_jax.ablation.chain_runs import picked
  from rm_jax.data.worlds.chain import is_line, prefix_right
  from rm_jax.metrics import roc_area
  from rm_jax.step_scores import minimum

  solutions, lines = held.solutions, scores.at_lines()[..., 0]
  where = is_line(solutions)
  whole = minimum(lines, where) if process else scores.at_end()[..., 0]
  return {
    "prefix_auc": roc_area(lines[where], prefix_right(solutions)[where])
  } | picked(whole, solutions, SAMPLES)
