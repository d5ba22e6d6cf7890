"""What the designs on W-CHAIN measure, of a head's outputs that are invented.

By loops over problems, solutions and lines, from the logits themselves.
"""

import math
import pathlib
import types

import numpy as np
import pytest

from rm_jax.ablation.design import load_file
from rm_jax.data.worlds import chain

ROOT = pathlib.Path(__file__).parents[2]
LIGHTMAN, UESATO, LYU, WANG = (
  load_file(ROOT / "experiments" / key / "mini.py")
  for key in (
    "lightman2023_prm",
    "uesato2022_process_outcome",
    "lyu2025_oreal",
    "wang2023_math_shepherd",
  )
)
G, K = 6, 8


@pytest.fixture(scope="module")
def held():
  """Six problems modulo 3: right answers after wrong lines are common."""
  from rm_jax.ablation.chain_runs import hold

  rng = np.random.default_rng(0)
  problems = chain.draw_problems(rng, count=G, modulus=3, traps=0.1)
  generator = chain.Generator(error=0.3, trap_error=0.7, neutral=0.3)
  return hold(problems, chain.draw_solutions(rng, problems, generator, count=K))


def said(held, *, outputs=1):
  """Invented logits of every token; large ones where none may count."""
  from rm_jax.ablation.chain_runs import TokenScores

  rng = np.random.default_rng(1)
  tokens = rng.normal(size=(len(held.counts), chain.ROW, outputs))
  tokens[:, : chain.PROMPT] = 100.0
  tokens[np.arange(chain.ROW) >= held.counts[:, None]] = -100.0
  return TokenScores(tokens, held.index, held.counts)


def every():
  return np.ndindex(G, K)


def line_logits(scores, solutions, g, k):
  """Those of the values: LENGTH start OPERATION value ..., so 3, 5, 7 ..."""
  return [
    scores.tokens[scores.index[g, k], 3 + 2 * n]
    for n in range(solutions.lines[g, k])
  ]


def end_logit(scores, g, k) -> float:
  u = scores.index[g, k]
  return scores.tokens[u, scores.counts[u] - 1, 0]


def sigmoid(x: float) -> float:
  return 1 / (1 + math.exp(-x))


def pairs_in_order(scores, truth) -> float:
  """The area under the ROC curve, pair by pair."""
  true = [s for s, t in zip(scores, truth, strict=True) if t]
  false = [s for s, t in zip(scores, truth, strict=True) if not t]
  assert true and false
  won = [(a > b) + 0.5 * (a == b) for a in true for b in false]
  return math.fsum(won) / len(won)


def best_is_right(score, solutions) -> float:
  """How often the highest of all has the right answer; equal ones are equal."""
  top = [max(range(K), key=lambda k: score(g, k)) for g in range(G)]
  return sum(bool(solutions.outcome[g, k]) for g, k in enumerate(top)) / G


def prefixes(solutions):
  """Line by line whether all so far follow, of all solutions in order."""
  return [
    bool(solutions.follows[g, k, : n + 1].all())
    for g, k in every()
    for n in range(solutions.lines[g, k])
  ]


def test_agreement_is_counted_line_by_line(held, monkeypatch):
  # Catches: labels of this line where those of all lines so far are asked,
  # lines beyond the end that agree, the one kind of labels for the other.
  scores, solutions = said(held), held.solutions
  monkeypatch.setattr(UESATO, "SAMPLES", K)
  got = UESATO.measures(scores, solutions)
  process, outcome = [], []
  for g, k in every():
    so_far = True
    for n, (logit,) in enumerate(line_logits(scores, solutions, g, k)):
      so_far = so_far and bool(solutions.follows[g, k, n])
      process.append((logit > 0) == so_far)
      outcome.append((logit > 0) == bool(solutions.outcome[g, k]))
  assert got["agrees_process"] == pytest.approx(np.mean(process))
  assert got["agrees_outcome"] == pytest.approx(np.mean(outcome))
  assert got["agrees_more"] == pytest.approx(
    (sum(process) - sum(outcome)) / len(process)
  )
  assert sum(process) != sum(outcome)


def test_the_probability_at_the_last_line_picks_and_votes(held, monkeypatch):
  # Catches: the answer's token or another line read, logits as weights.
  scores, solutions = said(held), held.solutions
  monkeypatch.setattr(UESATO, "SAMPLES", K)
  got = UESATO.measures(scores, solutions)

  def chance(g, k):
    return sigmoid(line_logits(scores, solutions, g, k)[-1][0])

  assert got[f"accuracy_{K}"] == best_is_right(chance, solutions)
  right = 0
  for g in range(G):
    totals = {}
    for k in range(K):
      answer = solutions.answers[g, k]
      totals[answer] = totals.get(answer, 0.0) + chance(g, k)
    right += (
      max(totals, key=totals.get) == chain.true_values(held.problems)[g, -1]
    )
  assert got["answer_error"] == pytest.approx(1 - right / G)


def so_far(arm, scores, u, t) -> float:
  """What a solution of Lyu et al. would score if it ended at token t."""
  own = scores.tokens[u, :, 0]
  if arm == "pooled":
    return math.fsum(own[2 : t + 1]) / (t - 1)
  return own[t]


@pytest.mark.parametrize("arm", list(LYU.POOLINGS))
def test_a_running_score_leaves_the_prompt_out(held, arm):
  scores = said(held)
  got = LYU.running(arm, scores)
  assert got.shape == (len(held.counts), 24)
  for u, count in enumerate(held.counts):
    want = [so_far(arm, scores, u, t) for t in range(2, count)]
    assert got[u, 2:count] == pytest.approx(want)
    assert np.isnan(got[u, :2]).all() and np.isnan(got[u, count:]).all()


@pytest.mark.parametrize("arm", list(LYU.POOLINGS))
def test_a_mistake_is_where_the_running_chance_falls_most(
  held, arm, monkeypatch
):
  # Catches: falls of logits, a first line that cannot fall, solutions without a
  # mistake counted as found; the last line read instead of the last token.
  scores, solutions = said(held), held.solutions
  monkeypatch.setattr(LYU, "N", K)
  got = LYU.measures(arm, scores, held)
  values, found, ends, places = [], [], [], set()
  for g, k in every():
    u, count = held.index[g, k], held.counts[held.index[g, k]]
    lines = [
      so_far(arm, scores, u, 3 + 2 * n) for n in range(solutions.lines[g, k])
    ]
    values += lines
    ends.append(so_far(arm, scores, u, count - 1))
    place, most, before = -1, 0.0, 0.5
    for n, chance in enumerate(map(sigmoid, lines)):
      if before - chance > most:
        place, most = n, before - chance
      before = chance
    places.add(place)
    wrong = [
      n for n in range(solutions.lines[g, k]) if not solutions.follows[g, k, n]
    ]
    if wrong:
      found.append(place == wrong[0])
  assert got["located"] == pytest.approx(np.mean(found))
  assert 0 < sum(found) < len(found) < G * K and 0 in places
  assert got["prefix_auc"] == pytest.approx(
    pairs_in_order(values, prefixes(solutions))
  )
  right = [bool(solutions.outcome[g, k]) for g, k in every()]
  assert got["outcome_auc"] == pytest.approx(pairs_in_order(ends, right))
  ends = np.reshape(ends, (G, K))
  assert got[f"accuracy_{K}"] == best_is_right(
    lambda g, k: ends[g, k], solutions
  )


@pytest.mark.parametrize("process", [True, False])
def test_math_shepherd_picks_by_the_worst_line_or_by_the_end(
  held, process, monkeypatch
):
  scores, solutions = said(held), held.solutions
  monkeypatch.setattr(WANG, "SAMPLES", K)
  got = WANG.measures(process, scores, held)

  def score(g, k):
    if process:
      return min(x for (x,) in line_logits(scores, solutions, g, k))
    return end_logit(scores, g, k)

  assert got[f"accuracy_{K}"] == best_is_right(score, solutions)
  values = [
    x for g, k in every() for (x,) in line_logits(scores, solutions, g, k)
  ]
  assert got["prefix_auc"] == pytest.approx(
    pairs_in_order(values, prefixes(solutions))
  )


def test_a_neutral_step_counts_as_right_or_as_wrong(held, monkeypatch):
  # Catches: the two rules swapped, neutral merged in the mean alone, classes in
  # another order. Labels: neutral is a class of its own, none behind an error.
  from rm_jax.ablation import chain_runs as runs

  scores, solutions, learnt = said(held, outputs=3), held.solutions, []
  # Where nothing is negative the other two may sum to more than 1.
  scores.tokens[::2, ..., 0] -= 100.0

  def train(config, data, modulus, *, start):
    learnt.extend(data.groups)
    return types.SimpleNamespace(params={"of": "the run"})

  def score_tokens(config, params, side):
    assert params == {"of": "the run"} and side is held
    return scores

  monkeypatch.setattr(runs, "start_from", lambda *_: None)
  monkeypatch.setattr(runs, "train", train)
  monkeypatch.setattr(runs, "score_tokens", score_tokens)
  side = (held.problems, solutions)
  got, _ = LIGHTMAN.process_scores(
    0, side, held, picks=list(every()), steps=1, rate=1e-3, first=None
  )
  for g, k in every():
    merged, alone = [], []
    for logits in line_logits(scores, solutions, g, k):
      powers = [math.exp(x) for x in logits]
      merged.append((powers[1] + powers[2]) / math.fsum(powers))
      alone.append(powers[2] / math.fsum(powers))
    want = {
      "product": math.fsum(map(math.log, merged)),
      "minimum": min(merged),
      "product_negative": math.fsum(map(math.log, alone)),
      "minimum_negative": min(alone),
      "mean": math.fsum(merged) / len(merged),
      "last": merged[-1],
    }
    found = {rule: own[g, k] for rule, own in got.items()}
    assert found == pytest.approx(want, abs=1e-12)
  for group, (g, k) in zip(learnt, every(), strict=True):
    want = []
    for n in range(solutions.lines[g, k]):
      want.append(0 if solutions.neutral[g, k, n] else 1)
      if not solutions.follows[g, k, n]:
        want[-1] = -1
        break
    assert group.labels[0][: len(want)].tolist() == want
    assert (group.weights[0] > 0).sum() == len(want)
