"""W-CHAIN: chains of arithmetic whose every step and answer is known exactly.

A problem is a start value and SHORTEST to LONGEST operations modulo an odd m; a
solution writes one line per operation, "operation value", and the last value as
its answer. The generator gets a line wrong with a known chance and goes on from
the wrong value, so it is known of every line whether it follows from the one
before and of every answer whether it is right. Wrong reasoning may end right: a
later error undoes the first, or squaring makes a value and its negative one.

Lines of two kinds are there to be told apart. A *trap* is a line of a problem
that most solutions get wrong, and all in the same way: what a majority vote
falls for. A *neutral* line adds 0: right, and no step further.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

SHORTEST, LONGEST = 3, 8  # lines of a problem
NEUTRALS = 2  # neutral lines of a solution at most
LINES = LONGEST + NEUTRALS

OPERATIONS = ("+1", "*2", "^2")  # few: what each makes of a value is learnt
SQUARE = OPERATIONS.index("^2")

# Token ids: ANSWER, NEUTRAL, the operations, how many lines are asked, values.
ANSWER, NEUTRAL, FIRST_OPERATION = 0, 1, 2
FIRST_LENGTH = FIRST_OPERATION + len(OPERATIONS)
FIRST_VALUE = FIRST_LENGTH + LONGEST - SHORTEST + 1
PROMPT = 2  # how many lines, the start value
ROW = PROMPT + 2 * LINES + 2  # 24: lines are two tokens, so is the answer


class Problems(NamedTuple):
  """Start values and operations; 0 beyond the last line of a problem."""

  modulus: int
  starts: Int[np.ndarray, " G"]
  operations: Int[np.ndarray, "G 8"]  # index into OPERATIONS
  lengths: Int[np.ndarray, " G"]
  traps: Int[np.ndarray, "G 8"]  # what is wrongly added there; 0: no trap


class Generator(NamedTuple):
  """How often a line is wrong: what a completer is, too.

  To draw, an error may be an array [G, 1]: that of each problem's solutions.
  """

  error: float  # with any of the other values, each as likely
  trap_error: float  # at a trap, with its own wrong value
  neutral: float = 0.0  # chance of each of the NEUTRALS neutral lines


class Solutions(NamedTuple):
  """K solutions of each problem; lines beyond the last one are 0 and False."""

  values: Int[np.ndarray, "G K 10"]  # after each line
  done: Int[np.ndarray, "G K 10"]  # operations of the problem done by then
  lines: Int[np.ndarray, "G K"]
  neutral: Bool[np.ndarray, "G K 10"]
  follows: Bool[np.ndarray, "G K 10"]  # from the line before
  answers: Int[np.ndarray, "G K"]
  outcome: Bool[np.ndarray, "G K"]  # the answer is right
  first_error: Int[np.ndarray, "G K"]  # line, from 0; -1: none


def vocabulary(modulus: int) -> int:
  """How many token ids there are."""
  return FIRST_VALUE + modulus


def applied(operations, values, *, modulus: int) -> np.ndarray:
  """What operations make of values, any shapes that broadcast."""
  table = [
    np.arange(modulus) + 1,
    np.arange(modulus) * 2,
    np.arange(modulus) ** 2,
  ]
  return (np.stack(table) % modulus)[operations, values]


def draw_problems(
  rng: np.random.Generator,
  *,
  count: int,
  modulus: int,
  longest: int = LONGEST,
  squares: float = 0.2,
  traps: float = 0.0,
) -> Problems:
  """Random problems; how many lines they have is uniform.

  Args:
    modulus: odd, so that doubling joins no two values.
    squares: share of the operations that square.
    traps: share of the lines that are traps.
  """
  if modulus < 3 or modulus % 2 == 0:
    raise ValueError(
      f"modulus {modulus}: expected an odd number from 3, else doubling joins "
      "values and a wrong one comes right by itself."
    )
  if not SHORTEST <= longest <= LONGEST:
    raise ValueError(
      f"longest {longest}: expected {SHORTEST} to {LONGEST}, a row holds no "
      "more lines."
    )
  shape = (count, LONGEST)
  lengths = rng.integers(SHORTEST, longest + 1, count)
  operations = rng.integers(0, SQUARE, shape)
  operations = np.where(rng.random(shape) < squares, SQUARE, operations)
  shift = rng.integers(1, modulus, shape)
  shift = np.where(rng.random(shape) < traps, shift, 0)
  real = np.arange(LONGEST) < lengths[:, None]
  return Problems(
    modulus=modulus,
    starts=rng.integers(0, modulus, count),
    operations=np.where(real, operations, 0),
    lengths=lengths,
    traps=np.where(real, shift, 0),
  )


def true_values(problems: Problems) -> Int[np.ndarray, "G 9"]:
  """The start and the right value after each line; the answer from then on."""
  values = [problems.starts]
  for line in range(LONGEST):
    after = applied(
      problems.operations[:, line], values[-1], modulus=problems.modulus
    )
    values.append(np.where(line < problems.lengths, after, values[-1]))
  return np.stack(values, 1)


def next_values(
  rng: np.random.Generator,
  problems: Problems,
  generator: Generator,
  group: Int[np.ndarray, "*N"],
  done: Int[np.ndarray, "*N"],
  values: Int[np.ndarray, "*N"],
) -> tuple[Int[np.ndarray, "*N"], Bool[np.ndarray, "*N"]]:
  """One more line of each: (its value, whether it is right).

  Args:
    group: the problem of each.
    done: lines done before; one of those that the problem has is next.
    values: after those.
  """
  m = problems.modulus
  right = applied(problems.operations[group, done], values, modulus=m)
  trap = problems.traps[group, done]
  chance = np.where(trap > 0, generator.trap_error, generator.error)
  wrong = rng.random(right.shape) < chance
  shift = np.where(trap > 0, trap, rng.integers(1, m, right.shape))
  return np.where(wrong, (right + shift) % m, right), ~wrong


def draw_solutions(
  rng: np.random.Generator,
  problems: Problems,
  generator: Generator,
  *,
  count: int,
) -> Solutions:
  """`count` solutions of every problem."""
  shape = (len(problems.starts), count)
  group = np.broadcast_to(np.arange(shape[0])[:, None], shape)
  lengths = problems.lengths[group]
  extra = rng.binomial(NEUTRALS, generator.neutral, shape)
  lines = lengths + extra
  real = np.arange(LINES) < lines[..., None]
  # The neutral lines stand anywhere: those of the smallest random keys.
  keys = np.where(real, rng.random((*shape, LINES)), 2.0)
  neutral = np.argsort(np.argsort(keys, -1), -1) < extra[..., None]
  done = np.cumsum(real & ~neutral, -1)
  value = problems.starts[group]
  values, follows = [], []
  for line in range(LINES):
    before = np.minimum(done[..., line - 1] if line else 0, lengths - 1)
    after, right = next_values(rng, problems, generator, group, before, value)
    moves = real[..., line] & ~neutral[..., line]
    value = np.where(moves, after, value)
    values.append(np.where(real[..., line], value, 0))
    follows.append(real[..., line] & (right | ~moves))
  follows = np.stack(follows, -1)
  wrong = real & ~follows
  return Solutions(
    values=np.stack(values, -1),
    done=np.where(real, done, 0),
    lines=lines,
    neutral=neutral,
    follows=follows,
    answers=value,
    outcome=value == true_values(problems)[:, -1:],
    first_error=np.where(wrong.any(-1), wrong.argmax(-1), -1),
  )


def is_line(solutions: Solutions) -> Bool[np.ndarray, "G K 10"]:
  """Where there is a line."""
  return np.arange(LINES) < solutions.lines[..., None]


def prefix_right(solutions: Solutions) -> Bool[np.ndarray, "G K 10"]:
  """Whether all lines so far follow; False beyond the last one."""
  return np.logical_and.accumulate(solutions.follows, -1)


def success(
  problems: Problems, generator: Generator
) -> Float[np.ndarray, "G 9 m"]:
  """P(the answer will be right | t lines are done, at value w), exactly.

      V_T(w) = 1 if w is the answer, else 0
      V_t(w) = (1 - e_t) V_(t+1)(c) + e_t mean of V_(t+1) over the wrong values

  with c the right result of line t from w. The wrong values are all but c, or
  the trap's own one. From T, the lines of the problem, on V stays the same.
  """
  m, count = problems.modulus, len(problems.starts)
  rows = np.arange(count)[:, None]
  answer = true_values(problems)[:, -1:]
  out = np.zeros((count, LONGEST + 1, m))
  out[:, LONGEST] = np.arange(m) == answer
  for line in range(LONGEST - 1, -1, -1):
    later = out[:, line + 1]
    right = applied(
      problems.operations[:, line, None], np.arange(m)[None], modulus=m
    )
    trap = problems.traps[:, line, None]
    at_right = later[rows, right]
    others = (later.sum(1, keepdims=True) - at_right) / (m - 1)
    wrong = np.where(trap > 0, later[rows, (right + trap) % m], others)
    e = np.where(trap > 0, generator.trap_error, generator.error)
    now = (1 - e) * at_right + e * wrong
    out[:, line] = np.where(line < problems.lengths[:, None], now, later)
  return out


def prefix_success(
  problems: Problems, solutions: Solutions, generator: Generator
) -> Float[np.ndarray, "G K 10"]:
  """`success` after every line of every solution; 0 beyond the last one."""
  chances = success(problems, generator)
  group = np.arange(len(problems.starts))[:, None, None]
  found = chances[group, solutions.done, solutions.values]
  return np.where(is_line(solutions), found, 0.0)


def success_in_closed_form(
  right: Bool[np.ndarray, "*N"],
  left: Int[np.ndarray, "*N"],
  *,
  error: float,
  modulus: int,
) -> Float[np.ndarray, "*N"]:
  """P(the answer will be right) without squares and traps.

      1/m + (1 - 1/m) z^n of a right value,  1/m - 1/m z^n of a wrong one,
      z = 1 - e m / (m - 1),  n lines left

  Every other operation is one to one, so right and wrong are all the state.
  """
  left_over = (1 - error * modulus / (modulus - 1)) ** np.asarray(left)
  return (
    np.where(right, 1 - 1 / modulus, -1 / modulus) * left_over + 1 / modulus
  )


def roll_out(
  rng: np.random.Generator,
  problems: Problems,
  generator: Generator,
  group: Int[np.ndarray, "*N"],
  done: Int[np.ndarray, "*N"],
  values: Int[np.ndarray, "*N"],
) -> Bool[np.ndarray, "*N"]:
  """Whether a completion of each prefix reaches the right answer.

  Args:
    group, done, values: as of `next_values`; done may be all lines.
  """
  values = np.asarray(values)
  for line in range(LONGEST):
    open_ = (line >= done) & (line < problems.lengths[group])
    at = np.full(values.shape, line)
    after, _ = next_values(rng, problems, generator, group, at, values)
    values = np.where(open_, after, values)
  return values == true_values(problems)[group, -1]


def token_rows(
  problems: Problems, solutions: Solutions
) -> tuple[Int[np.ndarray, "G K 24"], Int[np.ndarray, "G K"]]:
  """(tokens of every solution, int32, 0 beyond its end; how many it has).

  LENGTH start, then per line OPERATION value, then ANSWER value: the value of
  line s is token `line_end(s)`, that of the answer the last one.
  """
  shape = solutions.lines.shape
  group = np.arange(shape[0])[:, None, None]
  out = np.zeros((*shape, ROW), np.int32)
  out[..., 0] = FIRST_LENGTH + problems.lengths[:, None] - SHORTEST
  out[..., 1] = FIRST_VALUE + problems.starts[:, None]
  operation = problems.operations[group, np.maximum(solutions.done - 1, 0)]
  operation = np.where(solutions.neutral, NEUTRAL, FIRST_OPERATION + operation)
  ends, real = line_end(np.arange(LINES)), is_line(solutions)
  out[..., ends - 1] = np.where(real, operation, 0)
  out[..., ends] = np.where(real, FIRST_VALUE + solutions.values, 0)
  count = PROMPT + 2 * solutions.lines + 2
  last = (count - 1)[..., None]
  answer = FIRST_VALUE + solutions.answers[..., None]
  np.put_along_axis(out, last - 1, ANSWER, -1)
  np.put_along_axis(out, last, answer.astype(np.int32), -1)
  return out, count


def line_end(line):
  """The token of a line's value, the same in every solution."""
  return PROMPT + 1 + 2 * np.asarray(line)


def token_texts(tokens: Int[np.ndarray, " L"], *, modulus: int) -> list[str]:
  """What each token says: "5 lines", "3", "*2", "=" before the answer."""
  names = ["=", "+0", *OPERATIONS]
  names += [f"{n} lines" for n in range(SHORTEST, LONGEST + 1)]
  names += map(str, range(modulus))
  return [names[t] for t in tokens]
