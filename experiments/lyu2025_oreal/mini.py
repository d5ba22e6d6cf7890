"""What the mean of token logits knows of prefixes, on W-CHAIN.

  rm-jax experiment lyu2025_oreal --quick
  rm-jax experiment lyu2025_oreal

Lyu et al. 2025 (OREAL), arXiv:2502.06781, train a token reward model with the
outcome alone: binary cross-entropy of the mean of the logits of all tokens of a
solution. Read as the running mean up to a token, it says where a solution went
wrong, without a label there. Held here against the same loss at the last token
only, and at every token by itself (Cobbe et al. 2021 with another loss).

Of each prompt one right and one wrong solution are kept, as there.
"""

import functools

import numpy as np

MODULUS = 7
ERROR, TRAP_ERROR, TRAPS = 0.12, 0.7, 0.1
POOLINGS = dict(pooled="mean", token="every_token", last="last_token")
N = 40

DESIGN = dict(
  title="Lyu et al. (OREAL): the mean of token logits",
  source="Lyu et al. 2025, arXiv:2502.06781, section 3.3 and released code",
  claim=(
    "A model that learns the outcome from the mean of its token logits tells "
    "right prefixes from wrong ones; one read at the last token does not."
  ),
  arms=dict(
    pooled="cross-entropy of the mean of all token logits",
    token="cross-entropy of every token's logit",
    last="cross-entropy of the last token's logit",
    majority="a vote, no model",
    earlier="the earlier line is right, the first one falls; no model",
    chance="a line, a solution drawn at random",
  ),
  seeds=tuple(range(8)),
  quick_seeds=(0, 1, 2),
  columns=dict(
    prefix_auc="prefix right or wrong: area under the ROC curve",
    located="first mistakes found at the largest fall",
    accuracy_40="best of 40",
    outcome_auc="answer right or wrong: the same area",
    train_loss="training loss at the end",
  ),
  outcomes=(
    dict(
      name="prefix AUC, pooled over last token",
      metric="prefix_auc",
      arm="pooled",
      less="last",
      expected=1,
      published="none verified: its tokens weigh a policy's loss",
      comparable="the claim of the method, not a number of the paper",
    ),
    dict(
      name="first mistakes located, pooled over last token",
      metric="located",
      arm="pooled",
      less="last",
      expected=1,
      published="none",
      comparable="as above",
    ),
    dict(
      name="prefix AUC, pooled over every token",
      metric="prefix_auc",
      arm="pooled",
      less="token",
      expected=0,
      published="none, and no prediction is made",
      comparable="as above",
    ),
    dict(
      name="best of 40, pooled over last token",
      metric="accuracy_40",
      arm="pooled",
      less="last",
      expected=1,
      published="none",
      comparable="as above",
    ),
    dict(
      name="best of 40, pooled over a vote",
      metric="accuracy_40",
      arm="pooled",
      less="majority",
      expected=0,
      published="none",
      comparable="added after a first run of these seeds",
    ),
    dict(
      name="prefix AUC, pooled over the earlier line",
      metric="prefix_auc",
      arm="pooled",
      less="earlier",
      expected=1,
      published="none",
      comparable="added after a first run of these seeds",
    ),
  ),
  checks=(
    dict(
      name="pooled tells right answers from wrong ones",
      metric="outcome_auc",
      arm="pooled",
      above=0.6,
    ),
    dict(
      name="last token does so too",
      metric="outcome_auc",
      arm="last",
      above=0.6,
    ),
  ),
  conditions=(
    dict(
      name="prefix AUC of pooled is 5 points above that of last token",
      metric="prefix_auc",
      arm="pooled",
      less="last",
      above=0.05,
    ),
  ),
  sizes=dict(
    whole=dict(before=900, steps=320, problems=8_000, test=250),
    quick=dict(before=150, steps=60, problems=1_000, test=60),
    two_steps=dict(before=2, steps=2, problems=60, test=6),
  ),
  falsified="the prefix AUC of pooled is not above that of the last token",
  tuning=dict(
    rates=(1e-3, 3e-3, 1e-2),
    seeds=(100, 101, 102, 103),
    metric="outcome_auc",
    lower=False,
    arms=tuple(POOLINGS),
  ),
)

# The winners of --tune, on seeds 100 to 103.
RATES = dict(
  pooled=3e-3,
  token=3e-3,
  last=3e-3,
)
BATCH = 64
CANDIDATES = 16  # solutions of a prompt, of which one right and one wrong stay


@functools.lru_cache(maxsize=1)
def data(seed: int, before: int, problems: int, test: int):
  """(problems, solutions, picks to learn from, held-out, first backbone)."""
  from rm_jax.ablation.chain_runs import first_backbone, hold
  from rm_jax.data.worlds import chain

  rng = np.random.default_rng([2502, 6781, seed])
  generator = chain.Generator(ERROR, TRAP_ERROR)

  def side(count, k):
    drawn = chain.draw_problems(rng, count=count, modulus=MODULUS, traps=TRAPS)
    return drawn, chain.draw_solutions(rng, drawn, generator, count=k)

  own, solutions = side(problems, CANDIDATES)
  right = solutions.outcome
  both = np.flatnonzero(right.any(1) & ~right.all(1))
  picks = [
    (int(g), int(k))
    for g in both
    for k in (right[g].argmax(), (~right[g]).argmax())
  ]
  held = hold(*side(test, N))
  first = first_backbone(rng, seed, modulus=MODULUS, steps=before)
  return own, solutions, picks, held, first


def job(arm, seed, *, before, steps, problems, test, rate=None):
  """One arm at one seed: (metrics, no curve)."""
  from rm_jax.ablation import chain_runs as runs
  from rm_jax.ablation.token_runs import costs

  own, solutions, picks, held, first = data(seed, before, problems, test)
  if arm not in POOLINGS:
    return untrained(held.solutions)[arm], []
  c = runs.chain_config(
    seed=seed,
    steps=steps,
    batch=BATCH,
    loss="outcome_cross_entropy",
    pooling=POOLINGS[arm],
    rate=rate or RATES[arm],
  )
  right = solutions.outcome.astype(float)
  train = runs.to_learn(c, own, solutions, picks, outcomes=right)
  start = runs.start_from(c, first, MODULUS)
  fitted = runs.train(c, train, MODULUS, start=start)
  scores = runs.score_tokens(c, fitted.params, held)
  return measures(arm, scores, held) | costs(fitted), []


def untrained(solutions) -> dict[str, dict]:
  """What no model is needed for, by arm."""
  from rm_jax.ablation import chain_runs as runs

  wrong = solutions.first_error >= 0
  return {
    "majority": runs.majority(solutions, (N,)),
    "earlier": {
      "prefix_auc": runs.earlier_auc(solutions),
      "located": float((solutions.first_error == 0)[wrong].mean()),
    },
    "chance": {
      "prefix_auc": 0.5,
      "located": float((1 / solutions.lines)[wrong].mean()),
      "accuracy_40": float(solutions.outcome.mean()),
      "outcome_auc": 0.5,
    },
  }


def running(arm, scores) -> np.ndarray:
  """The score of each distinct solution if it ended at a token, [U, 24]."""
  from rm_jax.step_scores import cumulative

  how = "mean" if arm == "pooled" else "last"
  return cumulative(scores.tokens[..., 0], scores.where(), by=how)


def measures(arm, scores, held) -> dict[str, float]:
  """Of prefixes, of first mistakes and of whole solutions."""
  from rm_jax.ablation import chain_runs as runs
  from rm_jax.data.worlds import chain
  from rm_jax.metrics import roc_area
  from rm_jax.step_errors import largest_drop
  from rm_jax.train.labels import sigmoid

  solutions = held.solutions
  so_far = scores._replace(tokens=running(arm, scores)[..., None])
  lines, ends = so_far.at_lines()[..., 0], so_far.at_end()[..., 0]
  where = chain.is_line(solutions)
  prefix = chain.prefix_right(solutions)
  # Half of what it learns from is right: that is what it knows before line 1.
  chances = sigmoid(np.where(where, lines, 0.0))
  at = largest_drop(chances, where, before=0.5)
  wrong = solutions.first_error >= 0
  return {
    "prefix_auc": roc_area(lines[where], prefix[where]),
    "located": float((at == solutions.first_error)[wrong].mean()),
    "outcome_auc": roc_area(ends, solutions.outcome),
  } | runs.picked(ends, solutions, N)
