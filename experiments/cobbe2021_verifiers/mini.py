"""Verifiers: token or solution level, joint or alone, dropout; on W-CHAIN.

  rm-jax experiment cobbe2021_verifiers --quick
  rm-jax experiment cobbe2021_verifiers

Cobbe et al. 2021, arXiv:2110.14168: a verifier predicts, with a squared error,
whether a sampled solution ends in the right answer, after every token or after
the last one alone. Prediction at every token learns slower and ends higher,
prediction of the solution overfits within the run; the language objective on
reference solutions beside it helps; residual dropout helps most where there is
most overfitting. Of N samples the one with the highest score at its last token
is taken: too many of them find the verifier's mistakes.

Few problems with many samples each, as there, and almost seven passes over
them: a verifier can learn their answers by heart. The primary arms are those
without the language objective: in a first design, which was invalid, it took
more from the token level than the levels differ by.
"""

import functools

import numpy as np

MODULUS = 7
ERROR, TRAP_ERROR = 0.12, 0.7
TRAPS = 0.1  # share of lines that most solutions get wrong in one way
LONGEST = 6  # lines of a problem
DROPOUT = 0.2
NS = (1, 4, 10, 40, 256)
N = 10  # of the primary endpoint, and on the curve: more find its mistakes
SHOWN = 20  # samples of a problem on the curve: best of N, over all subsets

POOLINGS = dict(token="every_token", solution="last_token")

ARMS = dict(
  token="at every token, and the language objective",
  solution="at the last token, and the language objective",
  token_alone="at every token",
  solution_alone="at the last token",
  token_dropout="as token, residual dropout 0.2",
  solution_dropout="as solution, residual dropout 0.2",
  token_alone_dropout="as token_alone, residual dropout 0.2",
  solution_alone_dropout="as solution_alone, residual dropout 0.2",
)

DESIGN = dict(
  title="Cobbe et al.: verifiers",
  source="Cobbe et al. 2021, arXiv:2110.14168, sections 4.2, 4.3, appendix E",
  claim=(
    "A verifier that predicts at every token picks better at the end of "
    "training than one that predicts once per solution, which overfits."
  ),
  arms=dict(**ARMS, majority="a vote, no model"),
  seeds=tuple(range(8)),
  quick_seeds=(0, 1, 2),
  columns=dict(
    accuracy_1="a sample",
    accuracy_4="best of 4",
    accuracy_10="best of 10",
    accuracy_40="best of 40",
    accuracy_256="best of 256",
    late_gain="best of 10, the end less half of training",
    outcome_auc="answer right or wrong: area under the ROC curve",
    gap="that of training solutions less it",
  ),
  outcomes=(
    dict(
      name="best of 10 at the end, token over solution level, verifier only",
      metric="accuracy_10",
      arm="token_alone",
      less="solution_alone",
      expected=1,
      published="above 0 at the end of training (figure, no numbers)",
      comparable="GPT-3 on GSM8K, joint there; errors are drawn here",
    ),
    dict(
      name="the same, joint",
      metric="accuracy_10",
      arm="token",
      less="solution",
      expected=1,
      published="above 0 at the end of training (figure, no numbers)",
      comparable="GPT-3 on GSM8K there; errors are drawn here",
    ),
    dict(
      name="best of 10, second half of training, token over solution level",
      metric="late_gain",
      arm="token_alone",
      less="solution_alone",
      expected=1,
      published="above 0: one still rises, the other falls (figure)",
      comparable="as above",
    ),
    dict(
      name="best of 10, joint over verifier only",
      metric="accuracy_10",
      arm="token",
      less="token_alone",
      expected=1,
      published="above 0 (figure)",
      comparable="the language is 40 token ids here",
    ),
    dict(
      name="best of 10, dropout over none, solution level",
      metric="accuracy_10",
      arm="solution_alone_dropout",
      less="solution_alone",
      expected=1,
      published="above 0, to about the token level without (figure)",
      comparable="the paper's model was pretrained with dropout as well",
    ),
    dict(
      name="what dropout adds at the solution level over the token level",
      metric="accuracy_10",
      arm="solution_alone_dropout",
      less="solution_alone",
      minus=("token_alone_dropout", "token_alone"),
      expected=1,
      published="above 0 (figures)",
      comparable="as above",
    ),
    dict(
      name="best of 10, token level over a vote, verifier only",
      metric="accuracy_10",
      arm="token_alone",
      less="majority",
      expected=0,
      published="not reported",
      comparable="added after a first run of these seeds",
    ),
  ),
  checks=(
    dict(
      name="the solution level overfits: AUC, training less held-out",
      metric="gap",
      arm="solution_alone",
      above=0.05,
    ),
    dict(
      name="a verifier finds something: best of 10, where one is right in 0.47",
      metric="accuracy_10",
      arm="token_alone",
      above=0.55,
    ),
  ),
  conditions=(
    dict(
      name="the solution level is past its best at the end",
      metric="late_gain",
      arm="solution_alone",
      below=0.0,
    ),
  ),
  series=(
    dict(
      title="verifier only, and a vote",
      axis="best of N",
      at=NS,
      lines={
        arm: tuple((arm, f"accuracy_{n}") for n in NS)
        for arm in ("token_alone", "solution_alone", "majority")
      },
    ),
    dict(
      title="with the language objective",
      axis="best of N",
      at=NS,
      lines={
        arm: tuple((arm, f"accuracy_{n}") for n in NS)
        for arm in ("token", "solution", "majority")
      },
    ),
  ),
  sizes=dict(
    whole=dict(
      before=900, steps=500, problems=150, samples=32, test=150, curve=100
    ),
    quick=dict(
      before=150, steps=60, problems=50, samples=16, test=40, curve=10
    ),
    two_steps=dict(before=2, steps=2, problems=20, samples=2, test=4, curve=2),
  ),
  falsified=(
    "the solution level picks as well as the token level at the end, or better"
  ),
  tuning=dict(
    rates=(1e-3, 3e-3, 1e-2),
    seeds=(100, 101, 102, 103),
    metric="accuracy_10",
    lower=False,
    arms=tuple(ARMS),
  ),
)

# The winners of --tune, on seeds 100 to 103.
RATES = dict(
  token=3e-3,
  solution=3e-3,
  token_alone=1e-3,
  solution_alone=3e-3,
  token_dropout=1e-3,
  solution_dropout=3e-3,
  token_alone_dropout=3e-3,
  solution_alone_dropout=3e-3,
)
BATCH = 64  # solutions to be judged; a joint arm has as many to be spoken
POINTS = 10  # of the curve


@functools.lru_cache(maxsize=1)
def data(seed: int, before: int, problems: int, samples: int, test: int):
  """(problems, solutions, reference solutions, held-out, first backbone)."""
  from rm_jax.ablation.chain_runs import first_backbone, hold
  from rm_jax.data.worlds import chain

  rng = np.random.default_rng([2110, 14168, 2, seed])  # 2: the second design
  generator = chain.Generator(ERROR, TRAP_ERROR)
  sides = []
  for count, k in ((problems, samples), (test, max(NS))):
    drawn = chain.draw_problems(
      rng, count=count, modulus=MODULUS, longest=LONGEST, traps=TRAPS
    )
    sides.append((drawn, chain.draw_solutions(rng, drawn, generator, count=k)))
  never = chain.Generator(0.0, 0.0)
  reference = chain.draw_solutions(rng, sides[0][0], never, count=1)
  first = first_backbone(rng, seed, modulus=MODULUS, steps=before)
  return *sides[0], reference, hold(*sides[1]), first


def job(arm, seed, *, before, steps, problems, samples, test, curve, rate=None):
  """One arm at one seed: (metrics, best of 10 over training)."""
  from rm_jax.ablation import chain_runs as runs
  from rm_jax.ablation.token_runs import costs

  own, solutions, reference, held, first = data(
    seed, before, problems, samples, test
  )
  if arm == "majority":
    return runs.majority(held.solutions, NS), []
  level, *more = arm.split("_")
  c = runs.chain_config(
    seed=seed,
    steps=steps,
    batch=BATCH,
    loss="squared_error",
    pooling=POOLINGS[level],
    rate=rate or RATES[arm],
  )
  c.model.dropout = DROPOUT if "dropout" in more else 0.0
  right = solutions.outcome.astype(float)
  train, parts = runs.to_learn(c, own, solutions, outcomes=right), None
  if "alone" not in more:
    train, parts = with_language(c, train, own, reference)
    c.data.groups_per_batch = 2 * BATCH
  shown = runs.to_score(c, held, problems=curve, samples=SHOWN)
  fitted = runs.train(
    c,
    train,
    MODULUS,
    start=runs.start_from(c, first, MODULUS),
    parts=parts,
    curve=shown,
    every=max(1, steps // POINTS),
  )
  drawn = along(fitted.curve, held, curve)
  scores = runs.score_tokens(c, fitted.params, held)
  learnt = runs.hold(own, solutions)
  seen = runs.score_tokens(c, fitted.params, learnt)
  half = min(drawn, key=lambda row: abs(row["step"] - steps / 2))
  metrics = measures(scores, seen, held, learnt) | costs(fitted)
  metrics["late_gain"] = drawn[-1]["accuracy_10"] - half["accuracy_10"]
  return metrics, drawn


def with_language(c, judged, problems, reference):
  """Solutions to be judged and, as a second task, right ones to be spoken.

  In equal numbers, each drawn as often: the paper's mix. The second task has no
  labels, so that nothing but the next token is learnt from it.
  """
  from rm_jax.ablation import chain_runs as runs
  from rm_jax.config import task
  from rm_jax.data.loader import join
  from rm_jax.data.plan import Part

  c.tasks.language = task()
  c.tasks.language.source = "world:chain"
  c.tasks.language.share_head = True
  c.tasks.language.loss.name = "squared_error"
  c.tasks.language.loss.language_coefficient = 1.0
  unknown = np.full(reference.outcome.shape, np.nan)
  spoken = runs.to_learn(c, problems, reference, task=1, outcomes=unknown)
  count = len(judged.groups)
  parts = [Part(0, count, 1.0), Part(count, len(spoken.groups), 1.0)]
  return join([judged, spoken]), parts


def along(curve, held, problems: int) -> list:
  """Best of 10 of the first problems, at points of training."""
  from rm_jax.metrics import best_of_n

  right = held.solutions.outcome[:problems, :SHOWN].astype(float)
  return [
    {
      "step": step,
      "accuracy_10": float(
        best_of_n(np.asarray(scored.completions, np.float64), right, N).mean()
      ),
    }
    for step, scored in curve
  ]


def measures(scores, seen, held, learnt) -> dict[str, float]:
  """Best of n by the score at the last token, and how well that one ranks."""
  from rm_jax.ablation.chain_runs import picked
  from rm_jax.metrics import roc_area

  ends, own = scores.at_end()[..., 0], seen.at_end()[..., 0]
  metrics = {"outcome_auc": roc_area(ends, held.solutions.outcome)}
  metrics["gap"] = (
    roc_area(own, learnt.solutions.outcome) - metrics["outcome_auc"]
  )
  for n in NS:
    metrics |= picked(ends, held.solutions, n)
  return metrics
