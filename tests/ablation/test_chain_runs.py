"""Runs on W-CHAIN: labels, the one forward pass, what best-of-n picks."""

import itertools
import math

import jax
import numpy as np
import pytest

from rm_jax.ablation import chain_runs as runs
from rm_jax.config import task
from rm_jax.data.worlds import chain
from rm_jax.data.worlds.chain_groups import solution_groups, up_to_first_error
from rm_jax.reward_model import init_params
from rm_jax.train.evaluate import eval_body, score_dataset
from rm_jax.train.fit import spec_of
from rm_jax.train.sets import score_plan
from rm_jax.train.tasks import read_tasks

GENERATOR = chain.Generator(error=0.3, trap_error=0.7, neutral=0.3)


@pytest.fixture(scope="module")
def side():
  rng = np.random.default_rng(0)
  problems = chain.draw_problems(rng, count=12, modulus=5, traps=0.1)
  return problems, chain.draw_solutions(rng, problems, GENERATOR, count=6)


def config(**how):
  how = dict(loss="outcome_cross_entropy", pooling="every_token") | how
  return runs.chain_config(seed=0, steps=2, batch=8, rate=1e-2, **how)


def test_labels_end_at_the_first_error(side):
  labels = up_to_first_error(side[1], neutral=0.5)
  solutions, kinds = side[1], set()
  for g, k in np.ndindex(labels.shape[:2]):
    want = []
    for line in range(solutions.lines[g, k]):
      if not solutions.follows[g, k, line]:
        want.append(0.0)
        break
      want.append(0.5 if solutions.neutral[g, k, line] else 1.0)
    got = labels[g, k]
    assert got[: len(want)].tolist() == want
    assert np.isnan(got[len(want) :]).all()
    kinds |= set(want)
  assert kinds == {0.0, 0.5, 1.0}


def test_groups_have_a_slot_per_line_or_one_per_token(side):
  problems, solutions = side
  c = config(
    loss="step_binary_cross_entropy", pooling="step_ends", head="scalar"
  )
  labels = up_to_first_error(solutions)
  data = runs.to_learn(c, problems, solutions, [(3, 2), (5, 0)], steps=labels)
  for group, (g, k) in zip(data.groups, [(3, 2), (5, 0)], strict=True):
    count = int(solutions.lines[g, k])
    assert group.slots[0].tolist() == [3 + 2 * n for n in range(count)]
    known = np.isfinite(labels[g, k, :count])
    assert (group.weights[0] > 0).tolist() == known.tolist()
    assert group.weights[0].sum() == pytest.approx(1.0)
    values = group.tokens[0][group.slots[0]] - chain.FIRST_VALUE
    assert values.tolist() == solutions.values[g, k, :count].tolist()
  right = solutions.outcome.astype(float)
  data = runs.to_learn(config(), problems, solutions, [(3, 2)], outcomes=right)
  (group,) = data.groups
  assert group.slots[0].tolist() == list(range(2, len(group.tokens[0])))
  assert (group.labels[0] == right[3, 2]).all()


@pytest.mark.parametrize(
  "head, loss",
  [
    ("biased_scalar", "outcome_cross_entropy"),
    ("steps", "step_cross_entropy"),
  ],
)
def test_one_forward_pass_gives_what_the_packed_path_gives(side, head, loss):
  # Catches lines read at the wrong token, padding that is seen, distinct
  # solutions that are dealt out in another order.
  problems, solutions = side
  pooling = "every_token" if head == "biased_scalar" else "step_ends"
  c = config(head=head, loss=loss, pooling=pooling)
  spec = spec_of(c, chain.vocabulary(5))
  params = init_params(spec, jax.random.key(1))
  params = jax.tree.map(
    lambda x: x + 0.1 * jax.random.normal(jax.random.key(2), x.shape), params
  )
  held = runs.hold(problems, solutions)
  assert len(held.counts) < solutions.lines.size  # some are equal
  got = runs.score_tokens(c, params, held)
  (own,) = read_tasks(c)
  picks = [(g, tuple(range(6))) for g in range(12)]
  data = solution_groups(problems, solutions, picks, own.reading, None)
  body = jax.jit(eval_body(spec, None, None))
  scored = score_dataset(
    lambda batch: jax.device_get(body(params, {}, batch)),
    data,
    score_plan(c, data.demands),
  )
  lines, ends = got.at_lines(), got.at_end()
  if head == "steps":  # the packed path gives P(positive)
    e = np.exp(lines)
    lines = e[..., 2:] / e.sum(-1, keepdims=True)
  for g, k in np.ndindex(12, 6):
    count = solutions.lines[g, k]
    slots = scored.slots[g][k]
    if head == "biased_scalar":
      assert slots[-1] == pytest.approx(ends[g, k, 0], abs=1e-5)
      slots = slots[1:-2:2]  # operations, values; then the answer
    assert slots == pytest.approx(lines[g, k, :count, 0], abs=1e-5)
  assert got.where().sum() == (held.counts - chain.PROMPT).sum()


@pytest.mark.parametrize("n", [1, 2, 6])
def test_what_is_picked_is_the_mean_over_subsets(side, n):
  solutions = side[1]
  scores = np.random.default_rng(3).random(solutions.outcome.shape).round(1)
  got = runs.picked(scores, solutions, n)
  right, lucky = [], []
  for g in range(len(scores)):
    for subset in itertools.combinations(range(6), n):
      top = max(scores[g, k] for k in subset)
      best = [k for k in subset if scores[g, k] == top]
      ok = [bool(solutions.outcome[g, k]) for k in best]
      bad = [
        ok[i] and solutions.first_error[g, k] >= 0 for i, k in enumerate(best)
      ]
      right.append(sum(ok) / len(ok))
      lucky.append(sum(bad) / len(bad))
  assert got[f"accuracy_{n}"] == pytest.approx(np.mean(right))
  want = math.fsum(lucky) / math.fsum(right)
  assert got[f"trace_error_{n}"] == pytest.approx(want)


def test_a_run_without_a_test_set_scores_nothing(side):
  problems, solutions = side
  c = config()
  right = solutions.outcome.astype(float)
  data = runs.to_learn(c, problems, solutions, outcomes=right)
  fitted = runs.train(c, data, 5)
  assert fitted.scored is None and fitted.completions == 16
  assert np.isfinite(fitted.losses).all()


def test_a_run_starts_from_the_backbone_with_a_head_of_its_own():
  # Catches a run that starts from random parameters all the same.
  rng = np.random.default_rng(5)
  first = runs.first_backbone(rng, 0, modulus=5, steps=2)
  c = config(head="steps", loss="step_cross_entropy", pooling="step_ends")
  params = runs.start_from(c, first, 5)
  same = jax.tree.map(np.array_equal, params["backbone"], first)
  assert all(jax.tree.leaves(same))
  random = init_params(spec_of(c, chain.vocabulary(5)), jax.random.key(0))
  moved = jax.tree.map(np.array_equal, random["backbone"], first)
  assert not all(jax.tree.leaves(moved))
  assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, random)


def test_the_first_backbone_learns_problems_with_as_many_squares(monkeypatch):
  # Catches a share that is not passed on; nothing trains.
  drawn = []

  def stop(config, problems, *more, **how):
    drawn.append(problems)
    raise InterruptedError

  monkeypatch.setattr(runs, "to_learn", stop)
  for squares in (0.0, 1.0):
    with pytest.raises(InterruptedError):
      runs.first_backbone(
        np.random.default_rng(5), 0, modulus=5, steps=1, squares=squares
      )
  none, all_ = (p.operations[p.lengths == 8] == chain.SQUARE for p in drawn)
  assert not none.any() and all_.all() and all_.size


def test_a_vote_is_counted_answer_by_answer(side):
  # Catches errors over all picks where those over right ones are asked.
  solutions = side[1]
  weights = np.random.default_rng(4).random(solutions.outcome.shape)
  got = runs.voted(weights, solutions)
  right = lucky = 0
  for g in range(len(weights)):
    totals = {}
    for answer, weight in zip(solutions.answers[g], weights[g], strict=True):
      totals[answer] = totals.get(answer, 0.0) + weight
    winner = max(totals, key=totals.get)
    own = np.flatnonzero(solutions.answers[g] == winner)
    pick = own[weights[g, own].argmax()]
    right += bool(solutions.outcome[g, pick])
    lucky += bool(
      solutions.outcome[g, pick] and solutions.first_error[g, pick] >= 0
    )
  assert 0 < lucky < right < len(weights)
  assert got["answer_error"] == pytest.approx(1 - right / len(weights))
  assert got["trace_error"] == pytest.approx(lucky / right)


def test_pairs_are_a_right_and_a_wrong_solution_of_one_problem(side):
  problems, solutions = side
  c = config(loss="bradley_terry", pooling="last_token", head="scalar")
  data = runs.pairs_to_learn(c, problems, solutions)
  both = solutions.outcome.any(1) & ~solutions.outcome.all(1)
  assert len(data.groups) == both.sum() > 5
  tokens, counts = chain.token_rows(problems, solutions)
  for group, g in zip(data.groups, np.flatnonzero(both), strict=True):
    assert group.comparisons.tolist() == [[0, 1]]
    for k, wanted in enumerate((True, False)):
      k_of = int(np.flatnonzero(solutions.outcome[g] == wanted)[0])
      want = tokens[g, k_of, : counts[g, k_of]]
      np.testing.assert_array_equal(group.tokens[k], want)


def test_a_second_task_speaks_and_does_not_judge(side):
  # The joint objective: reference solutions teach the next token, not the
  # prompt's, and no outcome.
  problems, solutions = side
  c = config(loss="squared_error")
  c.tasks.language = task()
  c.tasks.language.source, c.tasks.language.share_head = "world:chain", True
  c.tasks.language.loss.name = "squared_error"
  c.tasks.language.loss.language_coefficient = 1.0
  unknown = np.full(solutions.outcome.shape, np.nan)
  spoken = runs.to_learn(
    c, problems, solutions, [(3, 2)], task=1, outcomes=unknown
  )
  (group,) = spoken.groups
  assert group.task == 1 and not group.weights[0].any()
  said = group.slots[0][group.language_weights[0] > 0]
  assert said.tolist() == list(range(chain.PROMPT, len(group.tokens[0])))


def test_lines_are_scored_as_their_whole_solution_is(side):
  # Wrong: an answer behind the line, or another line's tokens.
  problems, solutions = side
  held = runs.hold(problems, solutions)
  c = config(loss="squared_error")
  spec = spec_of(c, chain.vocabulary(5))
  params = init_params(spec, jax.random.key(1))
  rng = np.random.default_rng(2)
  params["head"] = jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), params["head"]
  )
  data = runs.lines_to_score(c, held, problems=7)
  where = chain.is_line(solutions)[:7, 0]
  for group, (g, line) in zip(data.groups, np.argwhere(where), strict=True):
    (tokens,) = group.tokens
    assert len(tokens) == chain.line_end(line) + 1
    value = tokens[-1] - chain.FIRST_VALUE
    assert value == solutions.values[g, 0, line]
  step = jax.jit(eval_body(spec, None, None))
  scored = score_dataset(
    lambda batch: jax.device_get(step(params, {}, batch)),
    data,
    score_plan(c, data.demands),
  )
  whole = runs.score_tokens(c, params, held).at_lines()[:7, 0, :, 0][where]
  found = np.asarray(scored.completions)[:, 0]
  np.testing.assert_allclose(found, whole, atol=1e-5)
  assert np.std(whole) > 0.05


def test_a_vote_and_a_sample_are_means_over_all_subsets(side):
  solutions = side[1]
  found = runs.majority(solutions, (1, 3))
  assert found.keys() == {"accuracy_1", "accuracy_3"}
  assert found["accuracy_1"] == pytest.approx(solutions.outcome.mean())
  each = []
  for answers, right in zip(solutions.answers, solutions.outcome, strict=True):
    for subset in itertools.combinations(range(6), 3):
      said = answers[list(subset)].tolist()
      most = max(map(said.count, said))
      wins = {a for a in said if said.count(a) == most}
      true = set(answers[right].tolist()) & wins
      each.append(len(true) / len(wins))
  assert found["accuracy_3"] == pytest.approx(np.mean(each))


def test_a_shorter_prefix_is_likelier_right(side):
  solutions = side[1]
  lines = [
    (line, all(solutions.follows[g, k, : line + 1]))
    for g, k in np.ndindex(solutions.lines.shape)
    for line in range(solutions.lines[g, k])
  ]
  credit = [
    1.0 if a < b else 0.5 if a == b else 0.0
    for a, right in lines
    if right
    for b, other in lines
    if not other
  ]
  assert runs.earlier_auc(solutions) == pytest.approx(np.mean(credit))
  assert np.mean(credit) > 0.6
