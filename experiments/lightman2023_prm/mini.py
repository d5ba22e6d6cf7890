"""Process against outcome supervision, and whom to label, on W-CHAIN.

  rm-jax experiment lightman2023_prm --quick
  rm-jax experiment lightman2023_prm

Lightman et al. 2023, arXiv:2305.20050: a model of step labels (positive,
neutral, negative, up to the first error) picks better among N sampled solutions
than one of outcomes, and that one better than a majority vote; the gap grows
with N. How step scores become one (product or minimum, neutral with positive or
with negative) moves little. Labelling solutions that a first model finds
convincing although their answer is wrong saves labels.

Outcome models learn at every token and are read at the last one (appendix E
there, after Cobbe et al. 2021); the loss is the binary cross-entropy here.
Outcomes are those of the answer, which wrong steps can reach by luck, or those
of the steps: right if all are (section 4 there: labels of a large process
model).
"""

import functools

import numpy as np

MODULUS = 7
ERROR, TRAP_ERROR = 0.12, 0.7
TRAPS = 0.1  # share of lines that most solutions get wrong in one way
NEUTRAL = 0.1  # chance of each of two neutral lines of a solution
NS = (4, 16, 64, 256)
PER_PROBLEM = dict(uniform=5, active=5, uniform_more=13)
WRONG_SHARE = 0.8  # of what the active arm picks: convincing and wrong

DESIGN = dict(
  title="Lightman et al.: process against outcome supervision",
  source="Lightman et al. 2023, arXiv:2305.20050, sections 3, 4, appendix F",
  claim=(
    "A process reward model picks better among many solutions than an outcome "
    "reward model, and the gap grows with their number."
  ),
  arms=dict(
    prm="step labels up to the first error, three classes",
    orm_answer="whether the answer is right, at every token",
    orm_oracle="whether all steps are right, at every token",
    majority="a vote, no model",
    uniform="as prm, 5 labelled solutions of each of few problems",
    active="the same, chosen by a model of one solution per problem",
    uniform_more="as uniform, 13 solutions: 2.6 times the labels",
  ),
  seeds=tuple(range(8)),
  quick_seeds=(0, 1, 2),
  columns=dict(
    accuracy_1="a sample",
    accuracy_4="best of 4",
    accuracy_16="best of 16",
    accuracy_64="best of 64",
    accuracy_256="best of 256",
    trace_error_256="wrong steps among right picks, of 256",
    rule_spread="product, minimum x neutral: largest difference",
    mean_256="best of 256 by mean",
    last_256="best of 256 by last step",
  ),
  outcomes=(
    dict(
      name="best of 256, PRM over ORM of answers",
      metric="accuracy_256",
      arm="prm",
      less="orm_answer",
      expected=1,
      published="+5.8 points: 78.2 against 72.4, best of 1860 (figure 3)",
      comparable="GPT-4 on MATH there; errors are drawn here",
    ),
    dict(
      name="that gap at 256 less that at 4",
      metric="gain_256_over_4",
      arm="prm",
      less="orm_answer",
      expected=1,
      published="grows with N (figure 3, no numbers)",
      comparable="as above",
    ),
    dict(
      name="best of 256, PRM over ORM of steps",
      metric="accuracy_256",
      arm="prm",
      less="orm_oracle",
      expected=1,
      published="above 0 at all data sizes (figure 4)",
      comparable="labels of a large model there, exact ones here",
    ),
    dict(
      name="best of 256, ORM of steps over ORM of answers",
      metric="accuracy_256",
      arm="orm_oracle",
      less="orm_answer",
      expected=1,
      published="above 0 at all data sizes (figure 4)",
      comparable="as above",
    ),
    dict(
      name="best of 256, ORM of answers over majority",
      metric="accuracy_256",
      arm="orm_answer",
      less="majority",
      expected=1,
      published="+2.8 points: 72.4 against 69.6, of 1860",
      comparable="traps decide what a majority gets here",
    ),
    dict(
      name="best of 64, active over as many uniform",
      metric="accuracy_64",
      arm="active",
      less="uniform",
      expected=1,
      published="above 0: 2.6 times as data-efficient (section 4.2)",
      comparable="64 candidates a problem here, 1,000 there",
    ),
    dict(
      name="best of 64, active over 2.6 times as many uniform",
      metric="accuracy_64",
      arm="active",
      less="uniform_more",
      expected=0,
      published="0, by the slopes of their lines",
      comparable="as above",
    ),
    dict(
      name="best of 256, PRM over majority",
      metric="accuracy_256",
      arm="prm",
      less="majority",
      expected=1,
      published="+8.6 points: 78.2 against 69.6, of 1860",
      comparable="added after a first run of these seeds",
    ),
    dict(
      name="best of 16, PRM over majority",
      metric="accuracy_16",
      arm="prm",
      less="majority",
      expected=1,
      published="above 0 (figure 3)",
      comparable="added after a first run of these seeds",
    ),
    dict(
      name="best of 16, ORM of steps over ORM of answers",
      metric="accuracy_16",
      arm="orm_oracle",
      less="orm_answer",
      expected=1,
      published="above 0 at all data sizes (figure 4)",
      comparable="added after a first run of these seeds",
    ),
  ),
  checks=(
    dict(
      name="wrong steps reach right answers",
      metric="false_positives",
      arm="majority",
      above=0.08,
    ),
    dict(
      name="a majority leaves something to be found",
      metric="accuracy_256",
      arm="majority",
      below=0.9,
    ),
    dict(
      name="a right solution is mostly among 256",
      metric="coverage",
      arm="majority",
      above=0.95,
    ),
  ),
  conditions=(
    dict(
      name="PRM above ORM of steps",
      metric="accuracy_256",
      arm="prm",
      less="orm_oracle",
      above=0.0,
    ),
    dict(
      name="ORM of steps above ORM of answers",
      metric="accuracy_256",
      arm="orm_oracle",
      less="orm_answer",
      above=0.0,
    ),
    dict(
      name="the gap grows from 4 to 256",
      metric="gain_256_over_4",
      arm="prm",
      less="orm_answer",
      above=0.0,
    ),
  ),
  series=(
    dict(
      title="best of N, all labels",
      axis="N",
      at=NS,
      lines={
        arm: tuple((arm, f"accuracy_{n}") for n in NS)
        for arm in ("prm", "orm_answer", "orm_oracle", "majority")
      },
    ),
    dict(
      title="best of N, few labels",
      axis="N",
      at=NS,
      lines={
        arm: tuple((arm, f"accuracy_{n}") for n in NS)
        for arm in (*PER_PROBLEM, "majority")
      },
    ),
  ),
  sizes=dict(
    whole=dict(
      before=900, steps=320, problems=5_120, samples=4, few=100, test=150
    ),
    quick=dict(before=150, steps=60, problems=400, samples=4, few=50, test=40),
    two_steps=dict(before=2, steps=2, problems=40, samples=2, few=10, test=4),
  ),
  falsified="the ORM of answers picks as well as the PRM or better, of 256",
  tuning=dict(
    rates=(1e-3, 3e-3, 1e-2),
    seeds=(100, 101, 102, 103),
    metric="accuracy_64",
    lower=False,
    arms=(  # all but the vote
      *("prm", "orm_answer", "orm_oracle"),
      *("uniform", "active", "uniform_more"),
    ),
  ),
)

# The winners of --tune, on seeds 100 to 103.
RATES = dict(
  prm=1e-2,
  orm_answer=1e-3,
  orm_oracle=3e-3,
  uniform=1e-3,
  active=3e-3,
  uniform_more=1e-3,
)
BATCH = 64
CANDIDATES = 64  # solutions of a problem to choose from


@functools.lru_cache(maxsize=1)
def data(
  seed: int, before: int, problems: int, samples: int, few: int, test: int
):
  """What the arms of a seed share.

  (training, few problems with many candidates, held-out, first backbone)
  """
  from rm_jax.ablation.chain_runs import first_backbone, hold
  from rm_jax.data.worlds import chain

  rng = np.random.default_rng([2305, 20050, seed])
  generator = chain.Generator(ERROR, TRAP_ERROR, NEUTRAL)
  sides = []
  for count, k in ((problems, samples), (few, CANDIDATES), (test, max(NS))):
    drawn = chain.draw_problems(rng, count=count, modulus=MODULUS, traps=TRAPS)
    sides.append((drawn, chain.draw_solutions(rng, drawn, generator, count=k)))
  first = first_backbone(rng, seed, modulus=MODULUS, steps=before)
  return *sides[:2], hold(*sides[2]), first


def job(arm, seed, *, before, steps, problems, samples, few, test, rate=None):
  """One arm at one seed: (metrics, no curve)."""
  from rm_jax.ablation.token_runs import costs

  whole, small, held, first = data(seed, before, problems, samples, few, test)
  if arm == "majority":
    return vote(held.solutions), []
  how = dict(steps=steps, rate=rate or RATES[arm], first=first)
  if arm in PER_PROBLEM:
    picks = choose(arm, seed, small, **how)
    scores, fitted = process_scores(seed, small, held, picks=picks, **how)
  elif arm == "prm":
    scores, fitted = process_scores(seed, whole, held, **how)
  else:
    scores, fitted = outcome_scores(arm, seed, whole, held, **how)
  metrics = measures(scores, held.solutions)
  return metrics | costs(fitted), []


def process_scores(seed, side, held, *, steps, rate, first, picks=None):
  """({rule: scores [G, K]} of a process reward model, its run)."""
  from scipy.special import softmax

  from rm_jax import step_scores
  from rm_jax.ablation import chain_runs as runs
  from rm_jax.data.worlds.chain import is_line
  from rm_jax.data.worlds.chain_groups import up_to_first_error

  c = runs.chain_config(
    seed=seed,
    steps=steps,
    batch=BATCH,
    loss="step_cross_entropy",
    pooling="step_ends",
    rate=rate,
    head="steps",
  )
  labels = up_to_first_error(side[1], neutral=0.5)
  train = runs.to_learn(c, *side, picks, steps=labels)
  start = runs.start_from(c, first, MODULUS)
  fitted = runs.train(c, train, MODULUS, start=start)
  classes = softmax(runs.score_tokens(c, fitted.params, held).at_lines(), -1)
  where = is_line(held.solutions)
  _, neutral, positive = np.moveaxis(classes, -1, 0)
  with_neutral = np.minimum(neutral + positive, 1.0)  # rounding
  return {
    "product": step_scores.log_product(with_neutral, where),
    "minimum": step_scores.minimum(with_neutral, where),
    "product_negative": step_scores.log_product(positive, where),
    "minimum_negative": step_scores.minimum(positive, where),
    "mean": step_scores.mean(with_neutral, where),
    "last": step_scores.last(with_neutral, where),
  }, fitted


def outcome_scores(arm, seed, side, held, *, steps, rate, first):
  """({"last": scores [G, K]} of an outcome reward model, its run)."""
  from rm_jax.ablation import chain_runs as runs

  c = runs.chain_config(
    seed=seed,
    steps=steps,
    batch=BATCH,
    loss="outcome_cross_entropy",
    pooling="every_token",
    rate=rate,
  )
  solutions = side[1]
  right = solutions.outcome
  if arm == "orm_oracle":
    right = solutions.first_error < 0
  train = runs.to_learn(c, *side, outcomes=right.astype(float))
  start = runs.start_from(c, first, MODULUS)
  fitted = runs.train(c, train, MODULUS, start=start)
  scores = runs.score_tokens(c, fitted.params, held)
  return {"last": scores.at_end()[..., 0]}, fitted


def choose(arm, seed, side, **how) -> list:
  """(problem, solution) of what is labelled.

  Uniform: the first ones. Active: of each problem, by the score of a first
  model of one solution per problem, WRONG_SHARE of them the highest whose
  answer is wrong, then the highest that are left; no solution twice.
  """
  from rm_jax.ablation.chain_runs import hold

  count = PER_PROBLEM[arm]
  every = range(len(side[0].starts))
  if arm != "active":
    return [(g, k) for g in every for k in range(count)]
  one = [(g, 0) for g in every]
  candidates = hold(*side)
  scores, _ = process_scores(seed, side, candidates, picks=one, **how)
  wrong = ~side[1].outcome
  picks = []
  for g in every:
    _, first = np.unique(candidates.index[g], return_index=True)
    order = first[np.argsort(-scores["product"][g, first], kind="stable")]
    most = round(WRONG_SHARE * count)
    convincing = [k for k in order if wrong[g, k]][:most]
    rest = [k for k in order if k not in convincing]
    picks += [(g, int(k)) for k in (convincing + rest)[:count]]
  return picks


def measures(scores: dict, solutions) -> dict[str, float]:
  """Best of N by the product (of an outcome model: its score), and by rules."""
  from rm_jax.ablation.chain_runs import picked

  main = scores.get("product", scores["last"])
  metrics = {}
  for n in NS:
    metrics |= picked(main, solutions, n)
  by = {
    rule: picked(own, solutions, max(NS))[f"accuracy_{max(NS)}"]
    for rule, own in scores.items()
  }
  metrics["gain_256_over_4"] = metrics["accuracy_256"] - metrics["accuracy_4"]
  metrics["last_256"] = by["last"]
  if "product" in by:
    four = [own for rule, own in by.items() if rule not in ("mean", "last")]
    metrics["rule_spread"] = max(four) - min(four)
    metrics["mean_256"] = by["mean"]
  return metrics


def vote(solutions) -> dict[str, float]:
  """What a majority gets, and what the samples are like."""
  from rm_jax.ablation.chain_runs import majority
  from rm_jax.voting import vote_chances

  right, answers = solutions.outcome, solutions.answers
  lucky = right & (solutions.first_error >= 0)
  chances = vote_chances(answers, np.ones(answers.shape))
  metrics = majority(solutions, NS)
  return metrics | {
    "gain_256_over_4": metrics["accuracy_256"] - metrics["accuracy_4"],
    "trace_error_256": (chances * lucky).sum() / (chances * right).sum(),
    "false_positives": lucky.sum() / right.sum(),
    "coverage": (solutions.first_error < 0).any(1).mean(),
  }
