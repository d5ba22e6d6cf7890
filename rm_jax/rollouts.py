"""Labels of reasoning steps by sampling on from each of them.

The value of a step is the chance that a completion from it reaches the right
answer; its estimate is the share of some rollouts that do. A solution is
encoded once for all its steps: their rollouts fork from one cache.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rm_jax.models.decode import continue_from
from rm_jax.models.transformer import DecoderConfig
from rm_jax.types import UserError


class Cost(NamedTuple):
  """What labels took."""

  labels: int  # steps with a label
  rolled_out: int  # of them; the others are ends of finished solutions
  encoded_tokens: int  # every solution once
  prefix_tokens: int  # what it would be with every prefix by itself
  sampled_tokens: int
  seconds: float  # of sampling, compilation included


class Rollouts(NamedTuple):
  """Labels of every step of every solution.

  Soft labels are `shares`, hard ones `shares > 0`: Wang et al. 2023
  (Math-Shepherd), arXiv:2312.08935, equations 3 and 4.
  """

  shares: list  # per solution float64 [S]: rollouts that are right
  unfinished: list  # per solution int64 [S]: rollouts that did not end in time
  cost: Cost


def roll_out_steps(
  config: DecoderConfig,
  params: dict,
  solutions: list[list[int]],
  step_ends: list[list[int]],
  is_right: Callable[[int, list[int]], bool],
  *,
  samples: int,
  max_tokens: int,
  temperature: float,
  top_p: float,
  stop: tuple[int, ...],
  seed: int,
  dtype: str,
) -> Rollouts:
  """Rolls out `samples` completions from every step of every solution.

      share = 1/n sum over rollouts of [the answer is right]

  unbiased for the chance that the model finishes the prefix rightly, with the
  variance p (1 - p) / n. A rollout that has not ended after `max_tokens` is not
  right, and counted: many of them make every label too low. A step whose last
  token is a stop has nothing to be rolled out: its share is 0 or 1.

  What is drawn for a solution depends on its place in the list and on its own
  steps, not on the other solutions.

  Args:
    config, params: of a language model, as of `decode.sample`.
    solutions: token ids, prompt included.
    step_ends: of each solution the place of the last token of every step, in
      ascending order, as of `Encoded.step_ends`.
    is_right: (index of the solution, all tokens of a finished completion, its
      prefix and its stop included) -> whether its answer is right.
    samples, max_tokens, temperature, top_p, stop, seed, dtype: of the rollouts,
      as of `decode.sample`.

  Raises:
    UserError: as `decode.sample`; no stop; a step that its solution does not
      have.
  """
  stop = tuple(stop)
  if not stop:
    raise UserError(
      "stop=(): without a token that ends a rollout none is ever finished, and "
      "every step would be labelled wrong. Give the ids that end a solution."
    )
  ends = [np.asarray(own, np.int64) for own in step_ends]
  for i, (solution, own) in enumerate(zip(solutions, ends, strict=True)):
    if len(own) and not (
      (np.diff(own) > 0).all() and 0 <= own[0] and own[-1] < len(solution)
    ):
      raise UserError(
        f"step_ends[{i}]: expected ascending places from 0 to "
        f"{len(solution) - 1}, the last token of solution {i}, got "
        f"{own.tolist()}."
      )
  over = [
    np.asarray([solution[end] in stop for end in own], bool)
    for solution, own in zip(solutions, ends, strict=True)
  ]
  forks = [
    (own[~done] + 1).tolist() for own, done in zip(ends, over, strict=True)
  ]
  # What stands behind the last fork nobody sees.
  trunks = [
    solution[: max(own, default=1)]
    for solution, own in zip(solutions, forks, strict=True)
  ]
  started = time.perf_counter()
  found = continue_from(
    config,
    params,
    trunks,
    forks,
    samples=samples,
    max_tokens=max_tokens,
    temperature=temperature,
    top_p=top_p,
    stop=stop,
    seed=seed,
    dtype=dtype,
  )
  seconds = time.perf_counter() - started
  shares, unfinished = [], []
  for i, (own, done) in enumerate(zip(ends, over, strict=True)):
    share, late = np.zeros(len(own)), np.zeros(len(own), np.int64)
    for s in np.flatnonzero(done):
      share[s] = is_right(i, list(solutions[i][: own[s] + 1]))
    for s, rollouts in zip(np.flatnonzero(~done), found[i], strict=True):
      prefix = list(solutions[i][: own[s] + 1])
      finished = [ids for ids in rollouts if ids[-1] in stop]
      late[s] = samples - len(finished)
      share[s] = sum(bool(is_right(i, prefix + x)) for x in finished) / samples
    shares.append(share)
    unfinished.append(late)
  cost = Cost(
    labels=sum(map(len, ends)),
    rolled_out=sum(map(len, forks)),
    encoded_tokens=sum(
      len(t) for t, own in zip(trunks, forks, strict=True) if own
    ),
    prefix_tokens=sum(map(sum, forks)),
    sampled_tokens=sum(len(x) for own in found for r in own for x in r),
    seconds=seconds,
  )
  return Rollouts(shares, unfinished, cost)
