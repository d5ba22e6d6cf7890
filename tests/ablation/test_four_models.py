"""The picture of four kinds of models: what is learnt, read and drawn where."""

import math

import numpy as np
import pytest

from rm_jax.ablation import chain_runs as runs
from rm_jax.ablation import four_models as four
from rm_jax.data.worlds import chain
from rm_jax.evals.token_plots import Completion, Read, along_tokens
from rm_jax.types import UserError


@pytest.fixture(scope="module")
def held():
  return four.sides(four.SEED, problems=1)[1]


def random_numbers(held):
  """{model: random numbers where it is asked, NaN elsewhere}."""
  return {
    name: np.where(
      four.asked(name, held),
      np.random.default_rng(n).random(held.tokens.shape),
      np.nan,
    )
    for n, name in enumerate(four.MODELS)
  }


def two_solutions():
  """Of a problem of three lines and of one of four, by hand.

  1 +1 2 *2 1 +1 2, right, and 0 +1 1 +1 0 ^2 0 +1 1: line 2 is wrong, it is 2;
  2 squared is 1, so the answer would be 2 and is wrong.
  """
  problems = chain.Problems(
    modulus=3,
    starts=np.array([1, 0]),
    operations=np.array([[0, 1, 0, 0, 0, 0, 0, 0], [0, 0, 2, 0, 0, 0, 0, 0]]),
    lengths=np.array([3, 4]),
    traps=np.zeros((2, 8), int),
  )
  line = np.arange(10)
  lines = np.array([[3], [4]])
  values = np.zeros((2, 1, 10), int)
  values[0, 0, :3] = 2, 1, 2
  values[1, 0, :4] = 1, 0, 0, 1
  follows = line < lines[..., None]
  follows[1, 0, 1] = False
  solutions = chain.Solutions(
    values=values,
    done=np.where(line < lines[..., None], line + 1, 0),
    lines=lines,
    neutral=np.zeros((2, 1, 10), bool),
    follows=follows,
    answers=np.array([[2], [1]]),
    outcome=np.array([[True], [False]]),
    first_error=np.array([[-1], [1]]),
  )
  return problems, solutions


def test_a_solution_of_each_kind_is_chosen_each_of_another_problem(held):
  # Wrong: panels of one problem, a mistake that a second one undoes.
  s = held.solutions
  (right, g0, k0), (wrong, g1, k1), (lucky, g2, k2) = four.choose(s)
  assert ("all" in right, "wrong answer" in wrong, "luck" in lucky) == (
    True,
  ) * 3
  assert len({g0, g1, g2}) == 3
  assert s.first_error[g0, k0] == -1
  assert s.first_error[g1, k1] == 2 and not s.outcome[g1, k1]
  assert s.first_error[g2, k2] == 2 and s.outcome[g2, k2]
  for g, k in ((g1, k1), (g2, k2)):
    assert s.follows[g, k, :6].sum() == 5 and s.lines[g, k] == 6


def test_each_model_learns_its_own_labels_from_as_many_solutions():
  # Catches: outcomes for steps, labels of one line where a prefix is meant, a
  # rejected solution that is right, twice the solutions in a step of pairs.
  side = problems, s = four.sides(0, problems=30, held=1)[0]
  found = {name: four.to_learn(name, side, steps=2) for name in four.MODELS}
  for name, (c, data) in found.items():
    group = data.groups[0]
    assert c.data.groups_per_batch * len(group.tokens) == four.BATCH, name
  tokens, counts = chain.token_rows(problems, s)
  where = [(g, k) for g in range(30) for k in range(four.SAMPLES)]
  for name in ("outcome", "value"):
    for (g, k), group in zip(where, found[name][1].groups, strict=True):
      (labels,) = group.labels  # one a token, or one that counts for all
      assert len(labels) and set(labels.tolist()) == {float(s.outcome[g, k])}
  for (g, k), group in zip(where, found["process"][1].groups, strict=True):
    lines, at = s.lines[g, k], s.first_error[g, k]
    want = [float(at < 0 or line < at) for line in range(lines)]
    assert group.labels[0].tolist() == want
  both = [g for g in range(30) if 0 < s.outcome[g].sum() < four.SAMPLES]
  pairs = found["reward"][1].groups
  for g, group in zip(both, pairs, strict=True):
    for tokens_of, right in zip(group.tokens, (True, False), strict=True):
      k = list(s.outcome[g]).index(right)
      np.testing.assert_array_equal(tokens_of, tokens[g, k, : counts[g, k]])


def test_each_model_is_asked_at_its_own_tokens():
  # Tokens: lines start, then operation value per line, then = answer.
  held = runs.hold(*two_solutions())
  u = held.index[0, 0]  # three lines, ten tokens
  asked = {
    name: np.flatnonzero(four.asked(name, held)[u]).tolist()
    for name in four.MODELS
  }
  assert asked == {
    "reward": [9],
    "outcome": [2, 3, 4, 5, 6, 7, 8, 9],
    "process": [3, 5, 7],
    "value": [2, 3, 4, 5, 6, 7, 8, 9],
  }


def test_scores_are_read_as_chances_values_and_shares():
  # Wrong: a sigmoid of a value, a score counted as below itself, the share of
  # distinct solutions where two are equal.
  tokens = np.zeros((3, 24, 1))
  tokens[:, 9, 0] = -1.0, 0.0, 2.0
  counts, index = np.array([10, 10, 10]), np.array([[0, 0], [1, 2]])
  scores = runs.TokenScores(tokens, index, counts)
  at_end = {name: four.said_by(name, scores)[:, 9] for name in four.MODELS}
  chances = [1 / (1 + math.exp(-x)) for x in (-1, 0, 2)]
  np.testing.assert_allclose(at_end["outcome"], chances)
  np.testing.assert_allclose(at_end["process"], chances)
  assert at_end["value"].tolist() == [0.0, 0.0, 1.0]
  assert at_end["reward"].tolist() == [0.0, 0.5, 0.75]


def test_areas_are_shares_of_pairs_in_order():
  # Catches: tokens of operations, lines that are not there, the reward model
  # read between, answers read at the last line.
  held = runs.hold(*two_solutions())
  said = random_numbers(held)
  found = four.areas(said, held)
  assert list(found["lines"]) == ["outcome", "process", "value"]
  assert list(found["answers"]) == ["reward", "outcome", "value"]
  right, wrong = held.index[0, 0], held.index[1, 0]
  # Prefixes end at tokens 3, 5, 7 and 3, 5, 7, 9; the second one is wrong from
  # its second line on.
  good = [(right, 3), (right, 5), (right, 7), (wrong, 3)]
  bad = [(wrong, 5), (wrong, 7), (wrong, 9)]
  for name, area in found["lines"].items():
    own = said[name]
    pairs = [own[g] > own[b] for g in good for b in bad]
    assert len(pairs) == 12 and area == pytest.approx(sum(pairs) / 12)
  for name, area in found["answers"].items():
    assert area == float(said[name][right, 9] > said[name][wrong, 11])


def test_lines_are_aligned_at_the_mistake():
  # Catches: an offset by one, lines before the first or after the last counted,
  # a mean over all instead of those that have the line.
  values = np.array([np.arange(10) / 10, np.arange(10) / 5])
  mean, count = four.aligned(values, np.array([3, 5]), np.array([0, 2]))
  # From the mistake: the first has lines 0 to 2 there, the second -2 to 2.
  assert four.OFFSETS.tolist() == [-3, -2, -1, 0, 1, 2, 3]
  assert count.tolist() == [0, 1, 1, 2, 2, 2, 0]
  want = [math.nan, 0.0, 0.2, 0.2, 0.35, 0.5, math.nan]
  np.testing.assert_allclose(mean, want)


def test_means_equal_a_loop_over_the_solutions(held):
  s, said = held.solutions, random_numbers(held)
  where = (four.mistakes(s) == 1) & s.outcome
  one = four.means("all {}", where, held, said)
  chances = chain.prefix_success(held.problems, s, four.GENERATOR)
  chosen = np.argwhere(where).tolist()
  assert one.title == f"all {len(chosen)}" and len(chosen) > 100
  assert one.wrong_from == 3 and one.tokens[3] == f"mistake\n{len(chosen)}"
  for column, offset in enumerate(four.OFFSETS):
    truth, heard = [], {name: [] for name in said}
    for g, k in chosen:
      line = s.first_error[g, k] + offset
      if 0 <= line < s.lines[g, k]:
        truth.append(chances[g, k, line])
        for name in said:
          heard[name].append(said[name][held.index[g, k], 3 + 2 * line])
    assert one.tokens[column].endswith(f"\n{len(truth)}")
    np.testing.assert_allclose(one.truth[column], np.mean(truth))
    for read, name in zip(one.reads, said, strict=True):
      np.testing.assert_allclose(read.values[column], np.mean(heard[name]))
  assert one.truth[-2:].tolist() == [1.0, 1.0]  # they all end right
  last = np.array([(held.index[g, k], s.lines[g, k]) for g, k in chosen]).T
  for read, name in zip(one.reads, said, strict=True):
    own = said[name]
    ends = own[last[0], 1 + 2 * last[1]], own[last[0], 3 + 2 * last[1]]
    np.testing.assert_allclose(read.values[-2:], [x.mean() for x in ends])
  said_at_all = [np.isfinite(r.values[-1]) for r in one.reads]
  assert said_at_all == [True, True, False, True]  # no step is an answer


def test_truth_and_models_stand_at_their_tokens(held, tmp_path):
  # Catches a chance drawn a token early, a process model drawn between steps,
  # a mistake shaded from its operation on, a reward model before the end.
  said = random_numbers(held)
  chances = chain.prefix_success(held.problems, held.solutions, four.GENERATOR)
  shown = four.panels(held, said)
  assert len(shown) == 5
  for (_, g, k), one in zip(four.choose(held.solutions), shown, strict=False):
    lines, u = held.solutions.lines[g, k], held.index[g, k]
    assert len(one.tokens) == 2 + 2 * lines + 2
    assert one.tokens[0] == f"{lines} lines" and one.tokens[-2] == "="
    values = held.solutions.values[g, k, :lines]
    assert one.tokens[3:-2:2] == [str(v) for v in values]
    np.testing.assert_allclose(one.truth[3:-2:2], chances[g, k, :lines])
    # The operation is given: with it nothing is known that was not before.
    np.testing.assert_array_equal(one.truth[4:-2:2], one.truth[3:-4:2])
    at = held.solutions.first_error[g, k]
    assert one.wrong_from == (-1 if at < 0 else 3 + 2 * at)
    reward, outcome, process, value = one.reads
    np.testing.assert_array_equal(
      process.values[3:-2:2], said["process"][u, 3 : len(one.tokens) - 2 : 2]
    )
    assert np.isfinite(process.values).sum() == lines
    after_prompt = [False] * 2 + [True] * (2 * lines + 2)
    for every in (outcome, value):
      assert np.isfinite(every.values).tolist() == after_prompt
    assert np.flatnonzero(np.isfinite(reward.values)).tolist() == [
      len(one.tokens) - 1
    ]
  along_tokens(shown, tmp_path / "four.png", title="four")
  assert (tmp_path / "four.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow  # nine programs to compile
def test_a_run_of_two_steps_draws_the_picture(tmp_path):
  path = tmp_path / "four.png"
  shown, found = four.draw(path, before=2, steps=2, problems=40, held=150)
  assert path.read_bytes()[:4] == b"\x89PNG"
  assert [len(one.tokens) for one in shown] == [16, 16, 16, 10, 10]
  for one in shown:
    assert [read.name for read in one.reads] == list(four.NAMES.values())
    heard = np.concatenate([read.values for read in one.reads])
    heard = heard[np.isfinite(heard)]
    assert len(heard) and (heard >= 0).all() and (heard <= 1).all()
  for by_model in found.values():
    assert all(0 <= area <= 1 for area in by_model.values())
  assert four.table(shown).count("\n") == 5 * 7 - 1


def test_a_line_of_another_length_is_refused(tmp_path):
  one = Completion("a", ["x", "y"], (Read("m", np.zeros(3)),), np.zeros(2))
  with pytest.raises(UserError, match="expected 2 values of m.*got 3"):
    along_tokens([one], tmp_path / "x.png", title="")
