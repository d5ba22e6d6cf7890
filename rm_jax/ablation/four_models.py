"""Four kinds of reward models of one data set, and what each says where.

  python -m rm_jax.ablation.four_models docs/four_models.png

A reward model learns which of two solutions is right and is read at the end; an
outcome reward model learns at every token whether the answer will be right; a
process reward model learns at the end of every step whether the steps so far
are; a value function learns at every token what the rest is worth, here by
TD(lambda), so from its own later values. All from the same solutions of
W-CHAIN, one backbone to begin with, and as many train steps.
"""

import sys

import numpy as np

from rm_jax.ablation import chain_runs as runs
from rm_jax.data.worlds import chain
from rm_jax.evals.token_plots import Completion, Read, along_tokens
from rm_jax.metrics import roc_area
from rm_jax.train.labels import sigmoid

SEED = 0
MODULUS = 5  # fifteen facts to learn: a short run is enough
GENERATOR = chain.Generator(error=0.15, trap_error=0.15)
PROBLEMS, SAMPLES, HELD = 2_400, 4, 200
BEFORE, STEPS, BATCH, RATE = 600, 150, 64, 5e-3  # 150 * 64: one pass
LENGTH = 6  # lines of the solutions that are drawn
MODELS = dict(
  reward=dict(loss="bradley_terry", pooling="last_token", head="scalar"),
  outcome=dict(loss="outcome_cross_entropy", pooling="every_token"),
  process=dict(loss="step_binary_cross_entropy", pooling="step_ends"),
  value=dict(loss="squared_error", pooling="every_token"),
)
LAMBDA = 0.9
NAMES = dict(
  reward="reward model: chance to beat a sample",
  outcome="outcome reward model",
  process="process reward model",
  value=f"value function, TD({LAMBDA})",
)


def sides(seed: int):
  """((problems, solutions) to learn from, what is held out)."""
  both = []
  for purpose, count in enumerate((PROBLEMS, HELD)):
    rng = np.random.default_rng([seed, purpose])
    problems = chain.draw_problems(rng, count=count, modulus=MODULUS)
    solutions = chain.draw_solutions(rng, problems, GENERATOR, count=SAMPLES)
    both.append((problems, solutions))
  return both[0], runs.hold(*both[1])


def learn(name: str, side, first: dict, *, steps: int):
  """(config, parameters) of one of MODELS."""
  problems, solutions = side
  c = runs.chain_config(
    seed=SEED, steps=steps, batch=BATCH, rate=RATE, **MODELS[name]
  )
  right = solutions.outcome
  if name == "value":
    c.loss.discount, c.loss.trace = 1.0, LAMBDA
  if name == "reward":
    data = runs.pairs_to_learn(c, problems, solutions)
  elif name == "process":
    labels = chain.prefix_right(solutions).astype(float)
    data = runs.to_learn(c, problems, solutions, steps=labels)
  else:
    data = runs.to_learn(c, problems, solutions, outcomes=right.astype(float))
  start = runs.start_from(c, first, MODULUS)
  return c, runs.train(c, data, MODULUS, start=start).params


def read_all(side, held, *, before: int, steps: int) -> dict[str, np.ndarray]:
  """{model: what it says at every token of the distinct solutions, [U, 24]}.

  In [0, 1]; values of a squared error may leave it and are cut. A score of the
  reward model has no zero: it is held against the mean of whole solutions.
  """
  rng = np.random.default_rng([SEED, 2])
  first = runs.first_backbone(rng, SEED, modulus=MODULUS, steps=before)
  found = {}
  for name in MODELS:
    c, params = learn(name, side, first, steps=steps)
    scores = runs.score_tokens(c, params, held)
    said = scores.tokens[..., 0]
    if name == "reward":
      said = sigmoid(said - scores.at_end().mean())
    elif name == "value":
      said = np.clip(said, 0.0, 1.0)
    else:
      said = sigmoid(said)
    found[name] = said
  return found


def choose(solutions) -> list[tuple[str, int, int]]:
  """(what it is, problem, solution): the first of each kind in the set."""
  of_length = solutions.lines == LENGTH
  first, right = solutions.first_error, solutions.outcome
  kinds = {
    "all lines right": first < 0,
    "a mistake, a wrong answer": (first == 2) & ~right,
    "a mistake, and a right answer by luck": (first >= 1) & right,
  }
  out = []
  for name, where in kinds.items():
    g, k = np.argwhere(where & of_length)[0]
    out.append((name, int(g), int(k)))
  return out


def areas(said: dict, held) -> dict[str, float]:
  """Area under the ROC curve of right against wrong lines so far, by model."""
  where = chain.is_line(held.solutions)
  right = chain.prefix_right(held.solutions)[where]
  ends = chain.line_end(np.arange(chain.LINES))
  return {
    name: roc_area(own[:, ends][held.index][where], right)
    for name, own in said.items()
  }


def completion(title: str, g: int, k: int, held, said: dict) -> Completion:
  """One solution as a panel."""
  u = held.index[g, k]
  count = int(held.counts[u])
  tokens, lines = held.tokens[u, :count], int(held.solutions.lines[g, k])
  ends = chain.line_end(np.arange(lines))
  chance = chain.success(held.problems, GENERATOR)[g]
  # Before line 1, then after each line; the answer repeats the last value.
  after = held.solutions.values[g, k, :lines]
  values = np.concatenate([[held.problems.starts[g]], after])
  reached = chance[np.arange(lines + 1), values]
  written = np.maximum(np.arange(count) - chain.PROMPT + 1, 0) // 2
  truth = reached[np.minimum(written, lines)]
  asked = {
    "reward": np.arange(count) == count - 1,
    "outcome": np.arange(count) >= chain.PROMPT,
    "process": np.isin(np.arange(count), ends),
    "value": np.arange(count) >= chain.PROMPT,
  }
  reads = []
  for name, own in said.items():
    shown = asked["process"] if name == "process" else asked["outcome"]
    values = np.where(shown, own[u, :count], np.nan)
    reads.append(Read(NAMES[name], values, asked[name]))
  at = int(held.solutions.first_error[g, k])
  wrong = int(chain.line_end(at)) if at >= 0 else -1
  texts = chain.token_texts(tokens, modulus=MODULUS)
  return Completion(title, texts, tuple(reads), truth, wrong)


def draw(path, *, before: int = BEFORE, steps: int = STEPS) -> dict:
  """Trains the four models and writes the PNG; what they say, as `read_all`."""
  side, held = sides(SEED)
  said = read_all(side, held, before=before, steps=steps)
  chosen = choose(held.solutions)
  found = areas(said, held)
  told = ", ".join(f"{name} {area:.2f}" for name, area in found.items())
  along_tokens(
    [completion(title, g, k, held, said) for title, g, k in chosen],
    path,
    title="What four kinds of models say, token by token\n"
    f"right from wrong lines so far, AUC on held-out problems: {told}",
  )
  return said


if __name__ == "__main__":
  draw(sys.argv[1])
