"""W-CHAIN: labels and chances against enumeration and simulation."""

import itertools
import math

import numpy as np
import pytest

from rm_jax.data.worlds import chain
from rm_jax.data.worlds.chain import Generator, draw_problems, draw_solutions

HOW = dict(count=40, modulus=5, squares=0.3, traps=0.2)
GENERATOR = Generator(error=0.2, trap_error=0.7, neutral=0.3)


def drawn(seed=0, solutions=50, generator=GENERATOR, **how):
  rng = np.random.default_rng(seed)
  problems = draw_problems(rng, **HOW | how)
  return problems, draw_solutions(rng, problems, generator, count=solutions)


def result(operation: str, value: int, m: int) -> int:
  """One operation as it is written."""
  k = int(operation[1:])
  by = {"+": value + k, "*": value * k, "^": value**k}
  return by[operation[0]] % m


def operations_of(problems, g):
  picked = problems.operations[g, : problems.lengths[g]]
  return [chain.OPERATIONS[o] for o in picked]


def test_operations_are_what_they_are_called():
  for o, name in enumerate(chain.OPERATIONS):
    got = chain.applied(o, np.arange(7), modulus=7)
    assert got.tolist() == [result(name, v, 7) for v in range(7)]
  one_to_one = [
    len(set(chain.applied(o, np.arange(7), modulus=7))) for o in range(3)
  ]
  assert one_to_one == [7, 7, 4]  # squares: 0, 1, 2, 4


def test_labels_are_what_reading_the_lines_one_by_one_finds():
  # The slow path: only the tokens are read. Catches a line that is judged from
  # the true value and not from the line before, neutral lines that count as
  # progress, an answer that is not the last value.
  problems, solutions = drawn()
  names = {chain.FIRST_OPERATION + o: n for o, n in enumerate(chain.OPERATIONS)}
  names[chain.NEUTRAL] = "+0"
  seen = set()
  rows, counts = chain.token_rows(problems, solutions)
  for g, k in np.ndindex(40, 50):
    tokens = rows[g, k, : counts[g, k]].tolist()
    assert not rows[g, k, counts[g, k] :].any()
    asked = tokens[0] - chain.FIRST_LENGTH + chain.SHORTEST
    value = truth = tokens[1] - chain.FIRST_VALUE
    for name in operations_of(problems, g):
      truth = result(name, truth, 5)
    follows, written = [], []
    for operation, token in zip(tokens[2:-2:2], tokens[3:-2:2], strict=True):
      follows.append(
        result(names[operation], value, 5) == token - chain.FIRST_VALUE
      )
      value = token - chain.FIRST_VALUE
      written.append(names[operation])
    own = [name for name in written if name != "+0"]
    assert own == operations_of(problems, g) and len(own) == asked
    assert tokens[-2:] == [chain.ANSWER, chain.FIRST_VALUE + value]
    n = solutions.lines[g, k]
    assert solutions.follows[g, k].tolist() == follows + [False] * (10 - n)
    first = follows.index(False) if False in follows else -1
    assert solutions.first_error[g, k] == first
    assert solutions.outcome[g, k] == (value == truth)
    right = [all(follows[: i + 1]) for i in range(n)] + [False] * (10 - n)
    assert chain.prefix_right(solutions)[g, k].tolist() == right
    ends = chain.line_end(np.arange(n))
    assert [tokens[e] - chain.FIRST_VALUE for e in ends] == (
      solutions.values[g, k, :n].tolist()
    )
    assert len(tokens) <= chain.ROW and max(tokens) < chain.vocabulary(5)
    seen.add((first >= 0, bool(solutions.outcome[g, k])))
  # Right answers by wrong reasoning are there; wrong ones by right are not.
  assert seen == {(False, True), (True, False), (True, True)}


def enumerated(problems, generator, g, done, value) -> float:
  """P(right answer) as the sum over every way the lines can go."""
  m = problems.modulus
  truth = int(problems.starts[g])
  for name in operations_of(problems, g):
    truth = result(name, truth, m)
  left = operations_of(problems, g)[done:]
  total = 0.0
  for path in itertools.product(range(m), repeat=len(left)):
    chance, at = 1.0, value
    for n, (name, after) in enumerate(zip(left, path, strict=True)):
      right = result(name, at, m)
      trap = int(problems.traps[g, done + n])
      if trap:
        wrong = (right + trap) % m
        e = generator.trap_error
        chance *= (1 - e) * (after == right) + e * (after == wrong)
      else:
        e = generator.error
        chance *= 1 - e if after == right else e / (m - 1)
      at = after
    total += chance * (at == truth)
  return total


def test_success_is_the_sum_over_all_ways_to_go_on():
  problems, _ = drawn(count=6, longest=5, traps=0.4)
  assert problems.traps.any() and (problems.operations == chain.SQUARE).any()
  got = chain.success(problems, GENERATOR)
  for g in range(6):
    for done in range(problems.lengths[g] + 1):
      for value in range(5):
        want = enumerated(problems, GENERATOR, g, done, value)
        assert got[g, done, value] == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("modulus", [3, 7, 23])
def test_success_has_its_closed_form_where_operations_are_one_to_one(modulus):
  problems, solutions = drawn(modulus=modulus, squares=0.0, traps=0.0)
  truth = chain.true_values(problems)
  got = chain.prefix_success(problems, solutions, GENERATOR)
  for g, k, s in np.argwhere(chain.is_line(solutions)):
    done = solutions.done[g, k, s]
    want = chain.success_in_closed_form(
      solutions.values[g, k, s] == truth[g, done],
      problems.lengths[g] - done,
      error=0.2,
      modulus=modulus,
    )
    assert got[g, k, s] == pytest.approx(float(want), abs=1e-12)
  assert not got[~chain.is_line(solutions)].any()


def near(share, want, count):
  """Within four standard errors of a frequency."""
  return abs(share - want) < 4 * math.sqrt(want * (1 - want) / count) + 1e-9


def test_simulated_frequencies_are_the_chances():
  problems, solutions = drawn(count=4, solutions=20_000, traps=0.3)
  chances = chain.success(problems, GENERATOR)
  truth = chain.true_values(problems)
  for g in range(4):
    start = chances[g, 0, problems.starts[g]]
    assert near(solutions.outcome[g].mean(), start, 20_000)
    # All lines right: the product of their chances, neutral lines never wrong.
    traps = problems.traps[g, : problems.lengths[g]] > 0
    want = np.prod(np.where(traps, 0.3, 0.8))
    assert near((solutions.first_error[g] < 0).mean(), want, 20_000)
    # Given the value after two lines, whatever it is.
    after = solutions.done[g] == 2
    second = after.argmax(-1)
    value = solutions.values[g][np.arange(20_000), second]
    for w in range(5):
      own = solutions.outcome[g][value == w]
      assert near(own.mean(), chances[g, 2, w], len(own))
  assert near((solutions.neutral.sum(-1)).mean() / 2, 0.3, 160_000)
  assert truth.shape == (4, 9)


def test_a_completer_reaches_the_answer_as_often_as_it_should():
  completer = Generator(error=0.1, trap_error=0.5)
  problems, solutions = drawn(count=3, solutions=2, traps=0.3)
  chances = chain.success(problems, completer)
  rng, n = np.random.default_rng(7), 20_000
  for g, done, value in [(0, 0, 1), (1, 2, 3), (2, 3, 0)]:
    same = (np.full(n, x) for x in (g, done, value))
    got = chain.roll_out(rng, problems, completer, *same)
    assert near(got.mean(), chances[g, done, value], n)
  # Nothing left to write: the value is the answer.
  end = problems.lengths[0]
  same = (np.full(5, 0), np.full(5, end), np.arange(5))
  got = chain.roll_out(rng, problems, completer, *same)
  assert (
    got.tolist()
    == (np.arange(5) == chain.true_values(problems)[0, -1]).tolist()
  )


def test_errors_of_each_problem():
  # A policy that drifts: its errors fall from problem to problem.
  errors = np.array([0.5, 0.3, 0.0])[:, None]
  _, solutions = drawn(
    count=3, solutions=4_000, traps=0.5, generator=Generator(errors, errors)
  )
  for error, follows, lines in zip(
    errors[:, 0], solutions.follows, solutions.lines, strict=True
  ):
    total = lines.sum()
    assert near(follows.sum() / total, 1 - error, total)


def test_majorities_fall_for_traps_and_for_nothing_else():
  # Catches traps whose wrong value differs between solutions.
  problems, solutions = drawn(
    count=200, modulus=7, solutions=64, generator=Generator(0.1, 0.8)
  )
  counts = np.stack([(solutions.answers == a).sum(1) for a in range(7)], 1)
  right = counts.argmax(1) == chain.true_values(problems)[:, -1]
  trapped = (problems.traps > 0).any(1)
  assert right[~trapped].mean() > 0.99 and right[trapped].mean() < 0.3


def test_what_a_world_refuses():
  rng = np.random.default_rng(0)
  with pytest.raises(ValueError, match="modulus 8: expected an odd number"):
    draw_problems(rng, count=1, modulus=8)
  with pytest.raises(ValueError, match="longest 9: expected 3 to 8"):
    draw_problems(rng, count=1, modulus=7, longest=9)
