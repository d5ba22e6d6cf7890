"""Runs on W-CHAIN: their config, every token's score, their measures."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from ml_collections import ConfigDict

from rm_jax.ablation.lanes import fit
from rm_jax.ablation.token_runs import token_config
from rm_jax.data.loader import Dataset
from rm_jax.data.worlds import chain
from rm_jax.data.worlds.chain import Problems, Solutions, token_rows
from rm_jax.data.worlds.chain_groups import prefix_groups, solution_groups
from rm_jax.metrics import best_of_n, roc_area
from rm_jax.models.sight import Forest
from rm_jax.reward_model import ModelSpec, init_params
from rm_jax.train.fit import Fitted, spec_of
from rm_jax.train.tasks import read_tasks
from rm_jax.voting import majority_of_n, vote_chances

CHUNK = 1_024  # rows of one evaluation batch
# Of the backbone that all start from.
FIRST_BATCH, FIRST_RATE = 64, 2e-2
FIRST_ERROR, FIRST_NEUTRAL = 0.2, 0.1


def chain_config(
  *,
  seed: int,
  steps: int,
  batch: int,
  loss: str,
  pooling: str,
  rate: float,
  head: str = "biased_scalar",
) -> ConfigDict:
  """A run of `steps` train steps of `batch` solutions, one a row."""
  c = token_config(seed=seed, steps=steps, groups=batch, loss=loss, rate=rate)
  c.data.source = "world:chain"  # not read: the groups come from the world
  c.data.row_len = chain.ROW
  c.model.pooling, c.model.head = pooling, head
  return c


def to_learn(
  config,
  problems: Problems,
  solutions: Solutions,
  picks=None,
  *,
  task: int = 0,
  **labels,
) -> Dataset:
  """Solutions one by one, supervised as the config says.

  Args:
    picks: of (problem, solution); None: all of them.
    task: whose supervision; its number in the config.
    labels: `outcomes` or `steps`, see `solution_groups`.
  """
  if picks is None:
    picks = np.argwhere(solutions.lines > 0).tolist()
  own = read_tasks(config)[task]
  alone = [(group, (k,)) for group, k in picks]
  return solution_groups(
    problems, solutions, alone, own.reading, own.supervision, **labels
  )


def pairs_to_learn(config, problems: Problems, solutions: Solutions) -> Dataset:
  """One pair of each problem that has both: its first right and wrong ones."""
  right = solutions.outcome
  picks = [
    (int(g), (int(right[g].argmax()), int((~right[g]).argmax())))
    for g in np.flatnonzero(right.any(1) & ~right.all(1))
  ]
  own = read_tasks(config)[0]
  return solution_groups(
    problems, solutions, picks, own.reading, own.supervision
  )


def train(config, data: Dataset, modulus: int, **how) -> Fitted:
  """`fit` with the vocabulary of the world; nothing is scored."""
  return fit(config, data, None, vocabulary=chain.vocabulary(modulus), **how)


def first_backbone(
  rng: np.random.Generator,
  seed: int,
  *,
  modulus: int,
  steps: int,
  squares: float = 0.2,
) -> dict:
  """The backbone that all arms of a seed start from, after `steps` train steps.

  It stands for pretraining: it learnt, at every line of other problems with
  other errors, whether all lines so far follow, and nothing of answers. From
  random parameters a run of this size does not teach an outcome model what a
  line is, and every comparison with it would be one-sided.

  Args:
    squares: share of its operations that square, as of `draw_problems`.
  """
  c = chain_config(
    seed=seed,
    steps=steps,
    batch=FIRST_BATCH,
    loss="step_binary_cross_entropy",
    pooling="step_ends",
    rate=FIRST_RATE,
  )
  count = steps * FIRST_BATCH
  problems = chain.draw_problems(
    rng, count=count, modulus=modulus, squares=squares
  )
  often = chain.Generator(FIRST_ERROR, FIRST_ERROR, neutral=FIRST_NEUTRAL)
  solutions = chain.draw_solutions(rng, problems, often, count=1)
  labels = chain.prefix_right(solutions).astype(float)
  data = to_learn(c, problems, solutions, steps=labels)
  return train(c, data, modulus).params["backbone"]


def start_from(config, backbone: dict, modulus: int) -> dict:
  """Parameters of a run with this backbone and a new head."""
  spec = spec_of(config, chain.vocabulary(modulus))
  params = init_params(spec, jax.random.key(config.seed))
  return params | {"backbone": backbone}


class Held(NamedTuple):
  """Problems to be judged on: K solutions each, every distinct one once."""

  problems: Problems
  solutions: Solutions
  tokens: Int[np.ndarray, "U 24"]
  counts: Int[np.ndarray, " U"]
  index: Int[np.ndarray, "G K"]  # which of them each solution is


def hold(problems: Problems, solutions: Solutions) -> Held:
  """Solutions to be scored by any arm; equal tokens are scored once."""
  rows, counts = token_rows(problems, solutions)
  flat = np.concatenate([counts[..., None], rows], -1).reshape(counts.size, -1)
  unique, index = np.unique(flat, axis=0, return_inverse=True)
  index = index.reshape(counts.shape)
  return Held(problems, solutions, unique[:, 1:], unique[:, 0], index)


def to_score(config, held: Held, *, problems: int, samples: int) -> Dataset:
  """The first problems with their first solutions, for scores in a run."""
  picks = [(group, tuple(range(samples))) for group in range(problems)]
  own = read_tasks(config)[0]
  return solution_groups(
    held.problems, held.solutions, picks, own.reading, None
  )


def lines_to_score(config, held: Held, *, problems: int) -> Dataset:
  """First solutions of the first problems up to each line, one by one.

  In the order of `np.argwhere(chain.is_line(...)[:problems, 0])`.
  """
  where = chain.is_line(held.solutions)[:problems, 0]
  picks = [(int(g), 0, int(line)) for g, line in np.argwhere(where)]
  reading = read_tasks(config)[0].reading
  return prefix_groups(held.problems, held.solutions, picks, reading)


class TokenScores(NamedTuple):
  """Raw outputs of the head at all tokens of the distinct solutions."""

  tokens: Float[np.ndarray, "U 24 A"]
  index: Int[np.ndarray, "G K"]
  counts: Int[np.ndarray, " U"]

  def at_lines(self) -> Float[np.ndarray, "G K 10 A"]:
    """At the value of each line; beyond the last line nobody's."""
    ends = chain.line_end(np.arange(chain.LINES))
    return self.tokens[:, ends][self.index]

  def at_end(self) -> Float[np.ndarray, "G K A"]:
    """At the value of the answer."""
    last = self.tokens[np.arange(len(self.counts)), self.counts - 1]
    return last[self.index]

  def where(self) -> Bool[np.ndarray, "U 24"]:
    """The tokens after the prompt, of distinct solutions."""
    column = np.arange(chain.ROW)
    return (column >= chain.PROMPT) & (column < self.counts[:, None])


@functools.lru_cache(maxsize=16)
def _compiled(spec: ModelSpec):
  def run(params, tokens, counts):
    column = jnp.arange(tokens.shape[1])[None]
    real = column < counts[:, None]
    zeros = jnp.zeros_like(tokens)
    forest = Forest(
      real.astype(jnp.int32), zeros, jnp.where(real, column, 0), zeros
    )
    states = spec.decoder_module.apply(
      {"params": params["backbone"]}, tokens, forest
    )
    scores = spec.head.module().apply({"params": params["head"]}, states)
    # One number a token: [U, 24, 1], so that all heads are read alike.
    return scores if scores.ndim == 3 else scores[..., None]

  return jax.jit(run)


def score_tokens(config, params, held: Held) -> TokenScores:
  """Every distinct solution at all its tokens, one forward pass each.

  A model that learnt from the mean of its scores is read at each token.
  """
  run = _compiled(spec_of(config, chain.vocabulary(held.problems.modulus)))
  total = len(held.counts)
  short = -total % min(CHUNK, total)
  tokens = np.pad(held.tokens, [(0, short), (0, 0)])
  counts = np.pad(held.counts, (0, short), constant_values=1)
  out = [
    run(params, tokens[at : at + CHUNK], counts[at : at + CHUNK])
    for at in range(0, len(tokens), CHUNK)
  ]
  scores = np.concatenate(jax.device_get(out)).astype(np.float64)
  return TokenScores(scores[:total], held.index, held.counts)


def picked(
  scores: Float[np.ndarray, "G K"], solutions: Solutions, n: int
) -> dict[str, float]:
  """What best-of-n by these scores picks, exactly over all subsets.

  accuracy: the answer is right. trace_error: of those, a line is wrong.
  """
  right = solutions.outcome.astype(float)
  lucky = right * (solutions.first_error >= 0)
  accuracy = best_of_n(scores, right, n).mean()
  wrong_trace = best_of_n(scores, lucky, n).mean()
  return {
    f"accuracy_{n}": float(accuracy),
    f"trace_error_{n}": float(wrong_trace / accuracy) if accuracy else 0.0,
  }


def voted(
  weights: Float[np.ndarray, "G K"], solutions: Solutions
) -> dict[str, float]:
  """What a vote with these weights picks: see `vote_chances`.

  answer_error: the answer is wrong. trace_error: of the right ones, a line is.
  """
  chances = vote_chances(solutions.answers, weights)
  right = solutions.outcome
  lucky = right & (solutions.first_error >= 0)
  accuracy = (chances * right).sum(1).mean()
  wrong_trace = (chances * lucky).sum(1).mean()
  return {
    "answer_error": float(1 - accuracy),
    "trace_error": float(wrong_trace / accuracy) if accuracy else 0.0,
  }


def majority(solutions: Solutions, counts) -> dict[str, float]:
  """What a vote of n without a model gets, exactly over all subsets.

  accuracy_1, one sample, is chance for any model that picks.
  """
  right = solutions.outcome
  return {
    f"accuracy_{n}": float(majority_of_n(solutions.answers, right, n).mean())
    for n in (1, *(n for n in counts if n > 1))
  }


def earlier_auc(solutions: Solutions) -> float:
  """Area under the ROC curve of prefixes, where all that counts is how long.

  Every line is another chance of an error: the shorter, the likelier right.
  """
  where = chain.is_line(solutions)
  line = np.broadcast_to(np.arange(chain.LINES), where.shape)
  return roc_area(-line[where], chain.prefix_right(solutions)[where])
