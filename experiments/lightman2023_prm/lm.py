"""Process against outcome labels of published steps; SmolLM2, four benchmarks.

  RM_DATA=path rm-jax experiment lightman2023_prm --preset=lm

PRMBench gives solutions of MATH problems as they were and with errors put into
known steps. Both models learn from the same two solutions of each problem, at
the end of each step, with the same loss; only the labels differ: whether that
step is right, or whether the whole solution is. Then both are read step by
step, on held-out PRMBench problems, and on three benchmarks that neither saw:
ProcessBench, MR-GSM8K and BIG-Bench Mistake. Does what is learnt on errors that
a language model put in find those that models make?

Beside them stand scores drawn at random, the position of a step, its length,
and that no step is wrong. Every seed draws other problems, for training and for
each benchmark. Each model has the rate that is best for what it is taught; with
one rate, that of the outcome model, the process model learnt nothing (the first
design).

Not as in the paper: labels go on behind the first error (PRMBench judges every
step), and the outcome model learns at the ends of steps instead of at every
token, as in Uesato et al. 2022, so that both learn at the same places.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

CLASSES = (
  "circular",
  "confidence",
  "counterfactual",
  "deception",
  "domain_inconsistency",
  "missing_condition",
  "redundency",
  "step_contradiction",
)
PRMBENCH = tuple(
  f"prmbench/prm800k_train_p1_first400_4o_{name}.jsonl.gz" for name in CLASSES
)
PROCESSBENCH = ("processbench/gsm8k.json.gz", "processbench/math.json.gz")
MR_GSM8K = tuple(
  f"mr_gsm8k/gpt4-grading/{name}_eval_results.json.gz"
  for name in ("Claude", "GPT3_5", "llama2_70b")
)
TASKS = ("multistep_arithmetic", "tracking_shuffled_objects", "word_sorting")
MISTAKE = tuple(f"big_bench_mistake/{task}.jsonl.gz" for task in TASKS)
# How well a model does at what it is taught: the metric of its rate.
TAUGHT = dict(prm="step_auc", orm="solution_order")
MODELS = tuple(TAUGHT)
ROW = 2_048
DRAWS = 10  # of random scores, whose measures are averaged

DESIGN = dict(
  title="Lightman et al.: process against outcome labels, SmolLM2",
  source="Lightman et al. 2023, arXiv:2305.20050, sections 2.6, 3, 5",
  claim=(
    "Labels of steps teach to find wrong steps of unseen problems better than "
    "labels of whole solutions."
  ),
  arms=dict(
    prm="whether each step is right",
    orm="whether the solution is right, at each step",
    chance="scores at random",
    earlier="the earlier step is right",
    length="the longer or the shorter step is right, as in training",
    none="no step is wrong",
  ),
  seeds=(0, 1, 2, 3),
  quick_seeds=(0,),
  columns=dict(
    step_order="PRMBench: right step above wrong, same solution",
    step_auc="any solution",
    prm_score="PRM-Score at 1/2",
    prm_score_chosen="PRM-Score, threshold of the other half",
    solution_order="original above its modification",
    processbench_gsm8k="ProcessBench F1, GSM8K, threshold chosen there",
    processbench_math="MATH, same threshold",
    processbench_gsm8k_half="ProcessBench F1, GSM8K, at 1/2",
    processbench_math_half="MATH, at 1/2",
    mr_gsm8k="MR-GSM8K: first wrong step found",
    mistake="BIG-Bench Mistake: place found, mean of tasks",
    left_out="solutions too long for a row",
    train_tokens="tokens",
  ),
  outcomes=(
    dict(
      name="PRMBench, right step above wrong of a solution, PRM over ORM",
      metric="step_order",
      arm="prm",
      less="orm",
      expected=1,
      published="no such number; best of 1860, 78.2 against 72.4 (figure 3)",
      comparable="GPT-4 and 800k labels there; 135M and 304 solutions here",
    ),
    dict(
      name="PRMBench, right step above wrong, PRM over the earlier step",
      metric="step_order",
      arm="prm",
      less="earlier",
      expected=1,
      published="not asked",
      comparable="ours",
    ),
    dict(
      name="PRMBench, PRM-Score with a chosen threshold, PRM over ORM",
      metric="prm_score_chosen",
      arm="prm",
      less="orm",
      expected=1,
      published="not reported",
      comparable="ours, as all below",
    ),
    dict(
      name="PRMBench, the same, PRM over no step wrong",
      metric="prm_score_chosen",
      arm="prm",
      less="none",
      expected=1,
      published="Qwen2.5-Math-PRM-7B 65.5 at 1/2 (Song et al. 2025)",
      comparable="all classes and 7B there",
    ),
    dict(
      name="ProcessBench MATH, F1, PRM over ORM",
      metric="processbench_math",
      arm="prm",
      less="orm",
      expected=1,
      published="out of domain 72.9 against 63.8, best of 100 (table 1)",
      comparable="picks among solutions there, places of errors here",
    ),
    dict(
      name="ProcessBench MATH, F1, PRM over length",
      metric="processbench_math",
      arm="prm",
      less="length",
      expected=1,
      published="Math-Shepherd-PRM-7B 29.5 (Zheng et al. 2024)",
      comparable="length is not in their table",
    ),
    dict(
      name="MR-GSM8K, first wrong step, PRM over ORM",
      metric="mr_gsm8k",
      arm="prm",
      less="orm",
      expected=1,
      published="not reported",
      comparable="wrong solutions alone, so no MR-Score",
    ),
    dict(
      name="BIG-Bench Mistake, place, PRM over the earlier step",
      metric="mistake",
      arm="prm",
      less="earlier",
      expected=0,
      published="not asked",
      comparable="tasks without mathematics to speak of",
    ),
  ),
  checks=(
    dict(
      name="the process labels are learnt: AUC of held-out steps above 0.5",
      metric="step_auc",
      arm="prm",
      above=0.5,
    ),
    dict(
      name="the outcome labels are learnt: original above its modification",
      metric="solution_order",
      arm="orm",
      above=0.5,
    ),
  ),
  conditions=(),
  sizes=dict(
    whole=dict(problems=152, batch=8, held=50, rows=40, few=10),
    quick=dict(problems=16, batch=8, held=8, rows=8, few=3),
    two_steps=dict(problems=4, batch=2, held=2, rows=6, few=1),
  ),
  falsified=(
    "outcome labels put the steps of held-out solutions in as good an order as "
    "step labels, or a better one"
  ),
  tuning=dict(
    rates=(1e-4, 3e-4, 1e-3, 3e-3),
    seeds=(100, 101),
    metric="taught",
    lower=False,
    arms=("prm", "orm"),
  ),
  data=(*PRMBENCH, *PROCESSBENCH, *MR_GSM8K, *MISTAKE),
)

# The winners of --tune, on seeds 100 and 101.
RATES = dict(prm=3e-3, orm=1e-4)


class Data(NamedTuple):
  """What the arms of a seed share."""

  train: list  # of Item: [original, modified]
  test: Any  # Held of rm_jax.ablation.step_benchmarks
  states: Any  # folder of what the frozen layers give


@functools.lru_cache(maxsize=1)
def data(seed: int, problems: int, held: int, rows: int, few: int) -> Data:
  """Other problems for training and each benchmark, drawn by the seed."""
  from rm_jax.ablation import step_benchmarks as steps
  from rm_jax.ablation.real_runs import states_folder

  rng = np.random.default_rng([2305, 20050, seed])

  def draw(names, read, count):
    return steps.draw(rng, steps.published(names, read), count)

  pairs = draw(PRMBENCH, steps.prmbench_item, problems + held)
  gsm8k, math = PROCESSBENCH
  drawn = {
    "prmbench": pairs[problems:],
    "processbench_gsm8k": draw((gsm8k,), steps.processbench_item, rows),
    "processbench_math": draw((math,), steps.processbench_item, rows),
    "mr_gsm8k": draw(MR_GSM8K, steps.mr_gsm8k_item, rows),
  }
  for task, name in zip(TASKS, MISTAKE, strict=True):
    drawn[f"mistake/{task}"] = draw((name,), steps.mistake_item, few)
  return Data(pairs[:problems], steps.held_of(drawn), states_folder())


def job(arm, seed, *, problems, batch, held, rows, few, rate=None):
  """One arm at one seed: (metrics, no curve)."""
  from rm_jax.ablation.step_benchmarks import measures

  own = data(seed, problems, held, rows, few)
  if arm in MODELS:
    rate = rate or RATES[arm]
    scores, costs = model_scores(arm, seed, own, batch=batch, rate=rate)
    by = "log_product" if arm == "prm" else "last"
    found = measures(scores, own.test, by=by, logits=True)
    return found | {"taught": found[TAUGHT[arm]]} | costs, []
  if arm != "chance":
    scores = dict(enumerate(BASELINES[arm](own)))
    return measures(scores, own.test, by="mean", logits=arm == "none"), []
  rng = np.random.default_rng([2305, 1, seed])
  drawn = [
    measures(random_scores(rng, own.test), own.test, by="last", logits=True)
    for _ in range(DRAWS)
  ]
  return {k: float(np.mean([m[k] for m in drawn])) for k in drawn[0]}, []


def model_scores(arm, seed, own: Data, *, batch: int, rate: float):
  """({place: logits of each solution's steps}, costs) of a trained model."""
  from rm_jax.ablation import real_runs as runs

  c = runs.real_config(
    seed=seed,
    steps=len(own.train) // batch,
    groups=batch,
    row=ROW,
    loss="step_binary_cross_entropy",
    pooling="step_ends",
    rate=rate,
    states=own.states,
  )
  found, costs = runs.run(
    c,
    [taught(item, arm) for item in own.train],
    [taught(item, "prm") for item in own.test.items],
  )
  return {i: [one.slots for one in read] for i, read in found.items()}, costs


def taught(item, arm: str) -> dict:
  """The row of an item, with labels of its steps or of its solutions.

  A row of a first error says so by itself.
  """
  right = item.right
  if right is None:
    return item.row
  if arm == "orm":
    right = [np.full(len(own), own.all()) for own in right]
  return item.row | {"labels": [own.astype(int).tolist() for own in right]}


def random_scores(rng, test) -> dict:
  """Logits of probabilities that are uniform."""
  return {
    i: [rng.logistic(size=len(steps)) for steps in item.steps]
    for i, item in enumerate(test.items)
  }


def by_place(own: Data) -> list:
  """Of every item its solutions' step scores: the earlier, the more."""
  return [
    [-np.arange(len(steps), dtype=float) for steps in item.steps]
    for item in own.test.items
  ]


def by_nothing(own: Data) -> list:
  return [[np.ones(len(s)) for s in item.steps] for item in own.test.items]


def by_length(own: Data) -> list:
  """The longer step the more, or the less, by the steps of training."""
  from rm_jax.metrics import roc_area

  long = np.concatenate([lengths(item.steps[1]) for item in own.train])
  right = np.concatenate([item.right[1] for item in own.train])
  sign = 1.0 if roc_area(long, right) >= 0.5 else -1.0
  return [
    [sign * lengths(steps) for steps in item.steps] for item in own.test.items
  ]


def lengths(steps: list) -> np.ndarray:
  return np.asarray([len(step) for step in steps], float)


BASELINES = dict(earlier=by_place, length=by_length, none=by_nothing)
