"""The bench of rollout labels: what is rolled out, judged and told, by hand."""

import math

import numpy as np
import pytest

from bench import rollouts
from rm_jax.data.worlds import chain
from rm_jax.rollouts import Cost, Rollouts

V = chain.FIRST_VALUE


@pytest.fixture
def side():
  """1 +1 2 *2 4 +1 5 (right) and 3 *2 6 ^2 3 +1 4: 36 is 1, so line 2 is wrong.

  Modulo 7; the second answer should be 1 + 1 = 2.
  """
  problems = chain.Problems(
    modulus=7,
    starts=np.array([1, 3]),
    operations=np.array([[0, 1, 0, 0, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0, 0, 0]]),
    lengths=np.array([3, 3]),
    traps=np.zeros((2, 8), int),
  )
  real = np.arange(10) < 3
  values = np.zeros((2, 1, 10), int)
  values[:, 0, :3] = [[2, 4, 5], [6, 3, 4]]
  follows = np.tile(real, (2, 1, 1))
  follows[1, 0, 1] = False
  solutions = chain.Solutions(
    values=values,
    done=np.tile(np.where(real, np.arange(10) + 1, 0), (2, 1, 1)),
    lines=np.array([[3], [3]]),
    neutral=np.zeros((2, 1, 10), bool),
    follows=follows,
    answers=np.array([[5], [4]]),
    outcome=np.array([[True], [False]]),
    first_error=np.array([[-1], [1]]),
  )
  return problems, solutions


# "3 lines", the start, then operation and value of every line.
PLUS, TIMES, SQUARE = range(chain.FIRST_OPERATION, chain.FIRST_OPERATION + 3)
THREE = chain.FIRST_LENGTH
FIRST = [THREE, V + 1, PLUS, V + 2, TIMES, V + 4, PLUS, V + 5]
SECOND = [THREE, V + 3, TIMES, V + 6, SQUARE, V + 3, PLUS, V + 4]


def test_solutions_are_cut_before_their_answer(side):
  # Catches the answer given away, the padding kept, ends at operations.
  tokens, ends = rollouts.prefixes(*side)
  assert tokens == [FIRST, SECOND]
  assert ends == [[3, 5, 7], [3, 5, 7]]


def test_every_prefix_by_itself_ends_with_its_line():
  single, owners = rollouts.alone([[9, 8, 7, 6], [5, 4]], [[1, 3], [0]])
  assert single == [[9, 8], [9, 8, 7, 6], [5]]
  assert owners == [0, 0, 1]


def test_a_completion_is_right_by_its_last_line_and_its_length(side):
  # Wrong: the answer of another problem, a line too few or too many, the value
  # behind the stop, a solution judged by its lines.
  is_right = rollouts.judge(side[0])
  stop = list(rollouts.STOP)
  assert is_right(0, FIRST + stop)
  assert not is_right(1, SECOND + stop)
  assert not is_right(1, FIRST + stop)
  by_luck = [*SECOND[:-1], V + 2]
  assert is_right(1, by_luck + stop) and not is_right(0, by_luck + stop)
  assert not is_right(0, [*FIRST[:-2], *stop])
  assert not is_right(0, [*FIRST, PLUS, V + 5, *stop])


def test_costs_are_per_label_and_errors_over_all_lines(side):
  shares = [np.array([0.5, 0.75, 1.0]), np.array([0.5, 0.0, 0.25])]
  unfinished = [np.array([0, 1, 0]), np.array([0, 0, 2])]
  cost = Cost(6, 6, 16, 36, 120, 1.0)
  found = rollouts.facts_of(Rollouts(shares, unfinished, cost), side)
  assert found["labels"] == 6 and found["unfinished"] == 3
  assert found["encoded_tokens_per_label"] == 2.67  # 16 / 6
  assert found["encoded_alone_per_label"] == 6.0
  assert found["sampled_tokens_per_label"] == 20.0
  # A line is wrong with 0.15, each of six other values 0.025. One line left:
  # 0.85 from the right value, 0.025 from another one; two lines left, both one
  # to one after the first: 0.85^2 + 0.15 * 0.025.
  two = 0.85**2 + 0.15 * 0.025
  # Before the last line the second has 3 where 1 is right. Before the square
  # 6, which is right, so there is the same chance.
  truth = [two, 0.85, 1.0, two, 0.025, 0.0]
  error = np.concatenate(shares) - truth
  rmse = math.sqrt(sum(e * e for e in error) / 6)
  assert found["rmse_to_exact"] == pytest.approx(rmse, abs=5e-5)
  # Some rollout is right: yes, yes, yes, yes, no, yes; the lines so far are
  # right: yes, yes, yes, yes, no, no.
  assert found["hard_label_is_the_lines"] == pytest.approx(5 / 6, abs=5e-5)
