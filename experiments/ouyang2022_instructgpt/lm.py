"""Comparisons of a prompt kept together or shuffled apart, with SmolLM2.

  rm-jax experiment ouyang2022_instructgpt --preset=lm

As mini.py, on real text: 40 prompts of the text world, six completions each
that a language model wrote, ranked by a simulated annotator. One rate for all
arms, that of `grouped`: a rate of each arm's own would hide what one pass does.
"""

import numpy as np

K = 6
STEP = 2  # prompts of a step of `grouped`

DESIGN = dict(
  title="InstructGPT: grouped or shuffled comparisons, SmolLM2",
  source="Ouyang et al. 2022, arXiv:2203.02155, section 3.5",
  claim=(
    "Comparisons shuffled apart overfit within one pass; all comparisons of a "
    "prompt in one element of the batch do not."
  ),
  arms=dict(
    grouped="all 15 comparisons of a prompt together, one pass",
    shuffled="all comparisons shuffled, one pass, as many per step",
    grouped_5="together, 5 passes: as many visits as shuffled",
  ),
  seeds=(0, 1, 2, 3),
  quick_seeds=(0,),
  columns=dict(
    log_loss="held-out log-loss",
    accuracy="accuracy",
    gold_accuracy="accuracy against gold",
    calibration_error="calibration error",
    train_loss="training loss, last 3 steps",
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
      comparable="6B there; 12 layers of SmolLM2-135M and 40 prompts here",
    ),
    dict(
      name="log-loss of grouped_5 less grouped",
      metric="log_loss",
      arm="grouped_5",
      less="grouped",
      expected=1,
      published="more epochs overfit quickly (App. C.2); no number",
      comparable="as above",
    ),
    dict(
      name="accuracy against gold of shuffled less grouped",
      metric="gold_accuracy",
      arm="shuffled",
      less="grouped",
      expected=-1,
      published="grouped is much better; no number",
      comparable="as above",
    ),
  ),
  checks=(
    dict(
      name="grouped learns: its accuracy against gold is above 0.5",
      metric="gold_accuracy",
      arm="grouped",
      above=0.5,
    ),
  ),
  conditions=(),
  sizes=dict(
    whole=dict(prompts=40, test=80),
    quick=dict(prompts=6, test=8),
    two_steps=dict(prompts=4, test=2),
  ),
  falsified="shuffled has no higher log-loss than grouped",
  tuning=dict(
    rates=(1e-4, 3e-4, 1e-3),
    seeds=(100, 101),
    metric="log_loss",
    lower=True,
    arms=("grouped",),
  ),
)

# The winner of --tune, on seeds 100 and 101.
RATE = 1e-3


def training_records(arm: str, prompts, ranks, rng) -> list[dict]:
  """One record a prompt, or one a comparison."""
  from rm_jax.ablation import lm_runs as runs

  records = []
  for line, order in zip(prompts, ranks, strict=True):
    kept = rng.choice(len(order), K, replace=False).tolist()
    if arm != "shuffled":
      records.append(runs.compared(line, kept, order))
      continue
    high, low = np.triu_indices(K, 1)
    pairs = [(kept[i], kept[j]) for i, j in zip(high, low, strict=True)]
    records += [runs.compared(line, pair, order) for pair in pairs]
  return records


def job(arm, seed, *, prompts, test, rate=None):
  """One arm at one seed: (metrics, no curve)."""
  from rm_jax.ablation import lm_runs as runs
  from rm_jax.ablation.token_runs import measures

  rng = np.random.default_rng([2203, 2155, seed])
  lines = runs.lines("train")
  picked = [lines[i] for i in rng.choice(len(lines), prompts, replace=False)]
  held = runs.lines("test")[:test]
  ranks, held_ranks = runs.draw_ranks(rng, picked), runs.draw_ranks(rng, held)
  passes = {"grouped": 1, "grouped_5": K - 1, "shuffled": K * (K - 1) // 2}
  c = runs.text_config(
    seed=seed,
    steps=prompts // STEP,
    groups=STEP * passes[arm],
    loss="bradley_terry",
    rate=rate or RATE,
  )
  everything = range(held_ranks.shape[1])
  ran = runs.run(
    c,
    training_records(arm, picked, ranks, rng),
    [
      runs.compared(line, everything, order)
      for line, order in zip(held, held_ranks, strict=True)
    ],
  )
  metrics = measures(ran.scores, ran.chosen, ran.rejected, ran.held)
  return metrics | ran.costs, []
