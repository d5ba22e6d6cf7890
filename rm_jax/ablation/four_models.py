"""Four kinds of reward models of one data set, and what each says where.

  python -m rm_jax.ablation.four_models docs/four_models.png

A reward model learns which of two solutions is right and is read at the end; an
outcome reward model learns at every token whether the answer will be right; a
process reward model learns at the end of every step whether the steps so far
are; a value function learns at every token what the rest is worth, here by
TD(lambda), so from its own later values. All from the same solutions of
W-CHAIN, one backbone to begin with, as many train steps of as many solutions.

The world is one where luck is common: modulo 3 squaring makes 1 of 1 and of 2,
and four operations of ten square.
"""

import sys

import numpy as np
from jaxtyping import Bool, Float, Int

from rm_jax.ablation import chain_runs as runs
from rm_jax.data.worlds import chain
from rm_jax.evals.token_plots import Completion, Read, along_tokens
from rm_jax.metrics import roc_area
from rm_jax.train.labels import sigmoid

SEED = 0
MODULUS, SQUARES = 3, 0.4
GENERATOR = chain.Generator(error=0.15, trap_error=0.15)
PROBLEMS, SAMPLES, HELD = 5_120, 4, 1_000
BEFORE, STEPS, RATE = 600, 320, 5e-3
BATCH = 64  # solutions a step; 320 * 64 = 5_120 * 4, one pass
LENGTH, MISTAKE = 6, 2  # lines of the solutions that are drawn; the wrong one
OFFSETS = np.arange(-3, 4)  # lines from the mistake, of the means
MODELS = dict(
  reward=dict(loss="bradley_terry", pooling="last_token", head="scalar"),
  outcome=dict(loss="outcome_cross_entropy", pooling="every_token"),
  process=dict(loss="step_binary_cross_entropy", pooling="step_ends"),
  value=dict(loss="squared_error", pooling="every_token"),
)
LAMBDA = 0.9
NAMES = dict(
  reward="reward model: share of held-out solutions that score lower",
  outcome="outcome reward model",
  process="process reward model",
  value=f"value function, TD({LAMBDA})",
)


def sides(seed: int, *, problems: int = PROBLEMS, held: int = HELD):
  """((problems, solutions) to learn from, what is held out)."""
  both = []
  for purpose, count in enumerate((problems, held)):
    rng = np.random.default_rng([seed, purpose])
    drawn = chain.draw_problems(
      rng, count=count, modulus=MODULUS, squares=SQUARES
    )
    solutions = chain.draw_solutions(rng, drawn, GENERATOR, count=SAMPLES)
    both.append((drawn, solutions))
  return both[0], runs.hold(*both[1])


def to_learn(name: str, side, *, steps: int):
  """(config, data) of one of MODELS."""
  problems, solutions = side
  # A pair is two solutions.
  batch = BATCH // 2 if name == "reward" else BATCH
  c = runs.chain_config(
    seed=SEED, steps=steps, batch=batch, rate=RATE, **MODELS[name]
  )
  if name == "reward":
    return c, runs.pairs_to_learn(c, problems, solutions)
  if name == "process":
    labels = chain.prefix_right(solutions).astype(float)
    return c, runs.to_learn(c, problems, solutions, steps=labels)
  if name == "value":
    c.loss.discount, c.loss.trace = 1.0, LAMBDA
  right = solutions.outcome.astype(float)
  return c, runs.to_learn(c, problems, solutions, outcomes=right)


def asked(name: str, held) -> Bool[np.ndarray, "U 24"]:
  """At which tokens training asks one of MODELS."""
  column, counts = np.arange(chain.ROW), held.counts[:, None]
  if name == "reward":
    return column == counts - 1
  if name == "process":
    ends = chain.line_end(np.arange(chain.LINES))
    return np.isin(column, ends) & (column < counts - 2)
  return (column >= chain.PROMPT) & (column < counts)


def said_by(name: str, scores: runs.TokenScores) -> Float[np.ndarray, "U 24"]:
  """What one of MODELS says at every token, in [0, 1].

  Values of a squared error may leave it and are cut. A score of the reward
  model has no zero: it is the share of all solutions with a lower one.
  """
  said = scores.tokens[..., 0]
  if name == "reward":
    below = np.sort(scores.at_end().ravel())
    return np.searchsorted(below, said) / len(below)
  return np.clip(said, 0.0, 1.0) if name == "value" else sigmoid(said)


def read_all(side, held, *, before: int, steps: int) -> dict[str, np.ndarray]:
  """{model: what it says at tokens of the distinct solutions, [U, 24]}.

  NaN where training does not ask it.
  """
  rng = np.random.default_rng([SEED, 2])
  first = runs.first_backbone(
    rng, SEED, modulus=MODULUS, steps=before, squares=SQUARES
  )
  found = {}
  for name in MODELS:
    c, data = to_learn(name, side, steps=steps)
    start = runs.start_from(c, first, MODULUS)
    params = runs.train(c, data, MODULUS, start=start).params
    said = said_by(name, runs.score_tokens(c, params, held))
    found[name] = np.where(asked(name, held), said, np.nan)
  return found


def mistakes(solutions) -> Int[np.ndarray, "G K"]:
  """How many lines do not follow from the one before."""
  return (chain.is_line(solutions) & ~solutions.follows).sum(-1)


def choose(solutions) -> list[tuple[str, int, int]]:
  """(what it is, problem, solution): the first of each kind, three problems."""
  right, wrong = solutions.outcome, mistakes(solutions)
  one = (wrong == 1) & (solutions.first_error == MISTAKE)
  kinds = {
    "One solution: all lines right": wrong == 0,
    "Another: one wrong line, a wrong answer": one & ~right,
    "A third: one wrong line, a right answer by luck": one & right,
  }
  out, taken = [], set()
  for name, where in kinds.items():
    found = np.argwhere(where & (solutions.lines == LENGTH)).tolist()
    g, k = next((g, k) for g, k in found if g not in taken)
    taken.add(g)
    out.append((name, g, k))
  return out


def at_lines(said: Float[np.ndarray, "U 24"], held):
  """What is said at the end of every line, [G, K, 10].

  Beyond the last line it is nobody's.
  """
  return said[:, chain.line_end(np.arange(chain.LINES))][held.index]


def at_answer(said: Float[np.ndarray, "U 24"], held):
  """What is said at the last token, [G, K]."""
  return said[np.arange(len(said)), held.counts - 1][held.index]


def areas(said: dict, held) -> dict[str, dict[str, float]]:
  """Areas under the ROC curve by model, of those that are asked there.

  lines: right against wrong lines so far, at the end of every line. answers:
  right against wrong ones, at the last token.
  """
  solutions = held.solutions
  where = chain.is_line(solutions)
  right = chain.prefix_right(solutions)[where]
  by_line = {
    name: roc_area(at_lines(said[name], held)[where], right)
    for name in ("outcome", "process", "value")
  }
  by_answer = {
    name: roc_area(
      at_answer(said[name], held).ravel(), solutions.outcome.ravel()
    )
    for name in ("reward", "outcome", "value")
  }
  return {"lines": by_line, "answers": by_answer}


def completion(title: str, g: int, k: int, held, said: dict) -> Completion:
  """One solution as a panel."""
  u = held.index[g, k]
  count = int(held.counts[u])
  tokens, lines = held.tokens[u, :count], int(held.solutions.lines[g, k])
  chance = chain.success(held.problems, GENERATOR)[g]
  # Before line 1, then after each line; the answer repeats the last value.
  after = held.solutions.values[g, k, :lines]
  values = np.concatenate([[held.problems.starts[g]], after])
  reached = chance[np.arange(lines + 1), values]
  written = np.maximum(np.arange(count) - chain.PROMPT + 1, 0) // 2
  truth = reached[np.minimum(written, lines)]
  reads = tuple(Read(NAMES[n], own[u, :count]) for n, own in said.items())
  at = int(held.solutions.first_error[g, k])
  wrong = int(chain.line_end(at)) if at >= 0 else -1
  texts = chain.token_texts(tokens, modulus=MODULUS)
  return Completion(title, texts, reads, truth, wrong)


def aligned(
  values: Float[np.ndarray, "N 10"],
  lines: Int[np.ndarray, " N"],
  at: Int[np.ndarray, " N"],
) -> tuple[Float[np.ndarray, " C"], Int[np.ndarray, " C"]]:
  """(mean, of how many) at each of OFFSETS from line `at` of each solution.

  A solution that has no such line does not count there.
  """
  line = at[:, None] + OFFSETS
  there = (line >= 0) & (line < lines[:, None])
  own = np.take_along_axis(values, np.clip(line, 0, values.shape[1] - 1), 1)
  count = there.sum(0)
  total = np.where(there, own, 0.0).sum(0)
  return np.where(count > 0, total / np.maximum(count, 1), np.nan), count


def means(
  title: str, where: Bool[np.ndarray, "G K"], held, said: dict
) -> Completion:
  """Many solutions as one panel: means by lines from the mistake, and last.

  Args:
    title: "{}" stands for how many they are.
    where: which; each has a mistake.
  """
  s = held.solutions
  lines, at = s.lines[where], s.first_error[where]
  each = np.arange(len(lines))

  def columns(by_line, by_answer):
    near, _ = aligned(by_line, lines, at)
    last = by_line[each, lines - 1].mean()
    return np.array([*near, np.nan, last, by_answer.mean()])

  chance = chain.prefix_success(held.problems, s, GENERATOR)[where]
  truth = columns(chance, s.outcome[where].astype(float))
  reads = []
  for name, own in said.items():
    by_line, by_answer = at_lines(own, held)[where], at_answer(own, held)[where]
    reads.append(Read(NAMES[name], columns(by_line, by_answer)))
  _, counts = aligned(chance, lines, at)
  texts = [f"{o:+d}" if o else "mistake" for o in OFFSETS]
  texts = [f"{t}\n{n}" for t, n in zip(texts, counts, strict=True)]
  texts += ["…", f"last line\n{len(lines)}", f"answer\n{len(lines)}"]
  wrong = int(np.flatnonzero(OFFSETS == 0)[0])
  return Completion(title.format(len(lines)), texts, tuple(reads), truth, wrong)


def panels(held, said: dict) -> list[Completion]:
  """Three solutions, then the means of all with one wrong line."""
  right, one = held.solutions.outcome, mistakes(held.solutions) == 1
  single = [completion(*which, held, said) for which in choose(held.solutions)]
  many = {
    "Mean of all {} with one wrong line and a right answer by luck; below each "
    "column of how many": one & right,
    "Mean of all {} with one wrong line and a wrong answer": one & ~right,
  }
  return single + [means(*which, held, said) for which in many.items()]


def draw(
  path,
  *,
  before: int = BEFORE,
  steps: int = STEPS,
  problems: int = PROBLEMS,
  held: int = HELD,
) -> tuple[list[Completion], dict]:
  """Trains the four models and writes the PNG; (its panels, `areas`)."""
  side, kept = sides(SEED, problems=problems, held=held)
  said = read_all(side, kept, before=before, steps=steps)
  shown, found = panels(kept, said), areas(said, kept)
  told = {
    kind: ", ".join(f"{name} {area:.2f}" for name, area in by_model.items())
    for kind, by_model in found.items()
  }
  along_tokens(
    shown,
    path,
    title="What four kinds of models say of solutions of held-out problems\n"
    f"AUC of right against wrong lines so far: {told['lines']}\n"
    f"AUC of right against wrong answers, at the last token: {told['answers']}",
  )
  return shown, found


def table(shown: list[Completion]) -> str:
  """The numbers of the panels, a line per model."""
  lines = []
  for one in shown:
    names = (token.replace("\n", ":") for token in one.tokens)
    lines.append(f"{one.title}\n  {' '.join(names)}")
    for read in (Read("truth", one.truth), *one.reads):
      values = " ".join(f"{v:.2f}" for v in read.values)
      lines.append(f"  {values}  {read.name}")
  return "\n".join(lines)


if __name__ == "__main__":
  print(table(draw(sys.argv[1])[0]))
