"""Rankings of seven: Plackett-Luce, all pairs, one pair, with SmolLM2.

  rm-jax experiment zhu2024_starling --preset=lm

As mini.py, on real text: 170 prompts of the text world, seven completions each
that a language model wrote, ranked by a simulated annotator whose noise is that
of Plackett-Luce. One rate for all arms, that of `pairs`. A prompt comes back
with fresh pairs in `one_pair`, until it has cost as many completions.
"""

import numpy as np

K = 7
STEP = 10  # prompts
LOSSES = dict(pl="plackett_luce", pairs="all_pairs", one_pair="bradley_terry")

DESIGN = dict(
  title="Starling: Plackett-Luce or pairs of K = 7, SmolLM2",
  source="Zhu et al. 2024, Starling-7B and Nectar; arXiv:2301.11270",
  claim="On rankings of 7 the Plackett-Luce likelihood beats pairwise losses.",
  arms=dict(
    pl="Plackett-Luce likelihood",
    pairs="mean over all 21 pairs",
    one_pair="one random pair, 3.5 times as many groups",
  ),
  seeds=(0, 1, 2, 3),
  quick_seeds=(0,),
  columns=dict(
    gold_accuracy="accuracy against gold",
    accuracy="accuracy",
    log_loss="log-loss of pairs",
    top_1="best of 8 found",
    calibration_error="calibration error",
    train_tokens="tokens",
  ),
  outcomes=(
    dict(
      name="accuracy against gold, pl less pairs",
      metric="gold_accuracy",
      arm="pl",
      less="pairs",
      expected=1,
      published="better; no number",
      comparable="7B on 182,954 prompts ranked by GPT-4; 170 prompts here",
    ),
    dict(
      name="accuracy against gold, pl less one pair",
      metric="gold_accuracy",
      arm="pl",
      less="one_pair",
      expected=1,
      published="better; no number",
      comparable="as above",
    ),
    dict(
      name="best of 8 found, pl less pairs",
      metric="top_1",
      arm="pl",
      less="pairs",
      expected=1,
      published="not reported",
      comparable="ours",
    ),
  ),
  checks=(
    dict(
      name="all pairs learn: their accuracy against gold is above 0.5",
      metric="gold_accuracy",
      arm="pairs",
      above=0.5,
    ),
  ),
  conditions=(),
  sizes=dict(
    whole=dict(prompts=170, test=80),
    quick=dict(prompts=20, test=8),
    two_steps=dict(prompts=20, test=2),
  ),
  falsified="pl has lower accuracy than pairs under its own noise",
  tuning=dict(
    rates=(1e-4, 3e-4, 1e-3),
    seeds=(100, 101),
    metric="gold_accuracy",
    lower=False,
    arms=("pairs",),
  ),
)

# The winner of --tune, on seeds 100 and 101.
RATE = 1e-3


def training_records(arm: str, prompts, ranks, rng) -> list[dict]:
  """A ranking of K a prompt, or 3.5 of its pairs."""
  from rm_jax.ablation import lm_runs as runs

  kept = [rng.choice(8, K, replace=False).tolist() for _ in prompts]
  if arm != "one_pair":
    return [
      runs.ranked(*each) for each in zip(prompts, kept, ranks, strict=True)
    ]
  records = []
  for line, own, order in zip(prompts, kept, ranks, strict=True):
    high, low = np.triu_indices(K, 1)
    count = K // 2 + int(rng.random() < 0.5)  # 3.5 in the mean
    for at in rng.permutation(len(high))[:count]:
      records.append(runs.compared(line, (own[high[at]], own[low[at]]), order))
  return records


def job(arm, seed, *, prompts, test, rate=None):
  """One loss at one seed: (metrics, no curve)."""
  from rm_jax.ablation import lm_runs as runs
  from rm_jax.ablation.token_runs import measures

  rng = np.random.default_rng([2301, 11270, seed])
  lines = runs.lines("train")
  picked = [lines[i] for i in rng.choice(len(lines), prompts, replace=False)]
  held = runs.lines("test")[:test]
  ranks, held_ranks = runs.draw_ranks(rng, picked), runs.draw_ranks(rng, held)
  c = runs.text_config(
    seed=seed,
    steps=prompts // STEP,
    groups=STEP * K // 2 if arm == "one_pair" else STEP,
    loss=LOSSES[arm],
    rate=rate or RATE,
  )
  record = runs.compared if arm == "one_pair" else runs.ranked
  everything = range(held_ranks.shape[1])
  ran = runs.run(
    c,
    training_records(arm, picked, ranks, rng),
    [
      record(line, everything, order)
      for line, order in zip(held, held_ranks, strict=True)
    ],
  )
  metrics = measures(ran.scores, ran.chosen, ran.rejected, ran.held) | ran.costs
  best = ran.scores.argmax(1) == ran.held.gold.argmax(1)
  return metrics | {"top_1": float(best.mean())}, []
