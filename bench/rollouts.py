"""What a rollout label costs, and how close it comes to the truth.

  python -m bench.rollouts
  python -m bench.rollouts --solutions=200 --samples=8,64

A small language model learns to write solutions of W-CHAIN, rolls out from
every line of held-out ones, and its labels are held against the exact chance
that the generator it learnt from ends right. For every number of samples: the
cost per label, with one cache for all lines of a solution and with every prefix
encoded by itself, the error of the shares, and how often the hard label is that
of the line. Both ways run once before they are timed, then in turn: nothing is
compiled. Prints one JSON object, also written to --out.
"""

import argparse
import json
import shlex
import sys

import numpy as np

from bench import machine
from bench.step import repeat
from rm_jax.ablation import chain_runs as runs
from rm_jax.data.worlds import chain
from rm_jax.rollouts import Rollouts, roll_out_steps
from rm_jax.train.fit import spec_of

MODULUS = 7
GENERATOR = chain.Generator(error=0.15, trap_error=0.15)
PROBLEMS, BATCH, RATE = 6_400, 64, 2e-2  # of the language model, one epoch
STOP = (chain.ANSWER,)  # what follows it repeats the last value
REPEATS = 3


def draw(rng: np.random.Generator, count: int):
  """(problems, one solution of each)."""
  problems = chain.draw_problems(rng, count=count, modulus=MODULUS)
  return problems, chain.draw_solutions(rng, problems, GENERATOR, count=1)


def learn(rng: np.random.Generator, steps: int):
  """(decoder, parameters, last loss) of a language model of solutions."""
  c = runs.chain_config(
    seed=0,
    steps=steps,
    batch=BATCH,
    loss="squared_error",
    pooling="last_token",
    rate=RATE,
  )
  c.loss.language_coefficient = 1.0
  problems, solutions = draw(rng, PROBLEMS)
  unknown = np.full(solutions.outcome.shape, np.nan)
  data = runs.to_learn(c, problems, solutions, outcomes=unknown)
  fitted = runs.train(c, data, MODULUS)
  spec = spec_of(c, chain.vocabulary(MODULUS))
  return spec.decoder, fitted.params["backbone"], fitted.losses[-1]


def prefixes(problems, solutions):
  """(token ids of every solution, places of its lines' ends)."""
  tokens, _ = chain.token_rows(problems, solutions)
  ends = [chain.line_end(np.arange(n)).tolist() for n in solutions.lines[:, 0]]
  cut = [
    row[: e[-1] + 1].tolist() for row, e in zip(tokens[:, 0], ends, strict=True)
  ]
  return cut, ends


def alone(tokens: list, ends: list) -> tuple[list, list]:
  """(every prefix by itself, the solution that each is of)."""
  both = [
    (row[: end + 1], i)
    for i, (row, own) in enumerate(zip(tokens, ends, strict=True))
    for end in own
  ]
  return [prefix for prefix, _ in both], [i for _, i in both]


def judge(problems):
  """Whether the value before the answer is the right one, after all lines."""
  answers = chain.true_values(problems)[:, -1]
  whole = chain.PROMPT + 2 * problems.lengths + 1

  def is_right(index, tokens):
    last = tokens[-2] - chain.FIRST_VALUE
    return bool(len(tokens) == whole[index] and last == answers[index])

  return is_right


def facts_of(found: Rollouts, side) -> dict:
  """Tokens per label of all lines, and how close the labels are."""
  problems, solutions = side
  shares = np.concatenate(found.shares)
  where = chain.is_line(solutions)
  truth = chain.prefix_success(problems, solutions, GENERATOR)[where]
  right = chain.prefix_right(solutions)[where]
  cost = found.cost
  error = np.sqrt(np.mean((shares - truth) ** 2))
  return {
    "labels": cost.labels,
    "encoded_tokens_per_label": round(cost.encoded_tokens / cost.labels, 2),
    "encoded_alone_per_label": round(cost.prefix_tokens / cost.labels, 2),
    "sampled_tokens_per_label": round(cost.sampled_tokens / cost.labels, 1),
    "unfinished": int(sum(map(sum, found.unfinished))),
    "rmse_to_exact": round(float(error), 4),
    "correlation_with_exact": round(float(np.corrcoef(shares, truth)[0, 1]), 4),
    "hard_label_is_the_lines": round(float(np.mean((shares > 0) == right)), 4),
  }


def variant(decoder, params, side, samples: int):
  """(`facts_of`, a round of both ways to be timed), both warm."""
  tokens, ends = prefixes(*side)
  single, owners = alone(tokens, ends)
  is_right = judge(side[0])
  how = dict(
    samples=samples,
    max_tokens=2 * chain.LINES + 1,
    temperature=1.0,
    top_p=1.0,
    stop=STOP,
    seed=0,
    dtype="float32",
  )

  def together():
    return roll_out_steps(decoder, params, tokens, ends, is_right, **how)

  def by_itself():
    own = [[len(prefix) - 1] for prefix in single]
    return roll_out_steps(
      decoder,
      params,
      single,
      own,
      lambda i, tokens: is_right(owners[i], tokens),
      **how,
    )

  def once():
    return {
      "step": machine.timed(together)[1],
      "alone": machine.timed(by_itself)[1],
    }

  found = together()
  by_itself()
  return {"samples": samples} | facts_of(found, side), once


def measure(asked) -> dict:
  """Learns, labels, and times the labels."""
  words = [w for w in sys.argv[1:] if not w.startswith("--out")]
  command = shlex.join(["python", "-m", "bench.rollouts", *words])
  result = machine.facts(command)
  rng = np.random.default_rng(0)
  decoder, params, loss = learn(rng, asked.steps)
  side = draw(rng, asked.solutions)
  result |= {
    "train_steps": asked.steps,
    "language_loss": round(float(loss), 4),
    "solutions": asked.solutions,
  }
  variants = {
    f"samples {n}": variant(decoder, params, side, int(n))
    for n in asked.samples.split(",")
  }
  return repeat(asked, result, variants)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--steps", type=int, default=400)
  parser.add_argument("--solutions", type=int, default=100)
  parser.add_argument("--samples", default="4,16,64")
  parser.add_argument("--repeats", type=int, default=REPEATS)
  parser.add_argument("--out", default="")
  asked = parser.parse_args()
  print(json.dumps(measure(asked), indent=1))


if __name__ == "__main__":
  main()
