"""W-UTIL: token completions under a gold reward in closed form.

A prompt is PROMPT tokens, its first one a class; a completion is SHORTEST to
LONGEST tokens of the vocabulary's content and an end token, where it is read.
With n content tokens y_1 ... y_n under a prompt of class c:

    gold = TOKENS   * sum_t value[c, y_t] / sqrt(n)
         + NEIGHBOURS * sum_t match[kind(y_t), kind(y_{t+1})] / sqrt(n - 1)
         + FIRST    * opening[y_1]

value[c] is partly shared by the classes. Each table has mean 0 and variance 1
over uniform tokens, match has mean 0 along both axes and opening is orthogonal
to every value[c], so the three terms do not correlate: whatever the length,
gold has mean 0 and variance TOKENS^2 + NEIGHBOURS^2 + FIRST^2 = 1, and length
tells nothing. The safety token is a knob that gold does not read.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

VOCABULARY = 64
END = 0
CLASSES = (1, 2, 3, 4)  # first token of a prompt
UNSAFE = 5
CONTENT = np.arange(
  8, VOCABULARY
)  # 56 tokens; the kind of one is token % KINDS
KINDS = 4
PROMPT = 6
SHORTEST, LONGEST = 8, 17  # content tokens; with prompt and end 24 at most
ROW = PROMPT + LONGEST + 1

TOKENS, NEIGHBOURS, FIRST = 0.80, 0.36, 0.48
SHARED = 0.8  # correlation of the values of a token in two classes


class World(NamedTuple):
  """The tables of one gold reward."""

  value: Float[np.ndarray, "4 64"]  # by class, token
  match: Float[np.ndarray, "4 4"]  # by kind, kind of the next
  opening: Float[np.ndarray, " 64"]


class Texts(NamedTuple):
  """Prompts and K completions each, as tokens; END beyond a completion."""

  prompts: Int[np.ndarray, "G 6"]
  completions: Int[np.ndarray, "G K 18"]
  lengths: Int[np.ndarray, "G K"]  # content tokens
  gold: Float[np.ndarray, "G K"]


def draw_world(rng: np.random.Generator) -> World:
  """A gold reward; every seed is another one."""

  def table(*shape):
    return _standard(rng.standard_normal((*shape, len(CONTENT))))

  shared, own = table(1), table(len(CLASSES))
  content = np.sqrt(SHARED) * shared + np.sqrt(1 - SHARED) * own
  match = rng.standard_normal((KINDS, KINDS))
  match -= match.mean(0, keepdims=True)
  match -= match.mean(1, keepdims=True)
  return _world(content, match, table(1)[0])


def draw_relative(
  rng: np.random.Generator, world: World, *, correlation: float
) -> World:
  """Another gold reward whose tables correlate with those of `world`."""
  other, rest = draw_world(rng), np.sqrt(1 - correlation**2)
  value, match, opening = (
    correlation * a + rest * b for a, b in zip(world, other, strict=True)
  )
  return _world(value[:, CONTENT], match, opening[CONTENT])


def _world(content, match, first) -> World:
  """Tables brought to the moments that the head of this file states."""
  content, first = _standard(content), _standard(first)
  first = first - np.linalg.lstsq(content.T, first)[0] @ content
  value = np.zeros((len(CLASSES), VOCABULARY))
  opening = np.zeros(VOCABULARY)
  value[:, CONTENT], opening[CONTENT] = content, _standard(first)
  return World(value, match / match.std(), opening)


def _standard(table):
  """Mean 0 and variance 1 along the last axis."""
  table = table - table.mean(-1, keepdims=True)
  return table / table.std(-1, keepdims=True)


def draw_texts(
  rng: np.random.Generator,
  world: World,
  *,
  prompts: int,
  completions: int,
  unsafe: float = 0.0,
  classes: tuple = CLASSES,
  one_length: bool = False,
) -> Texts:
  """Random prompts with random completions and their gold.

  Args:
    unsafe: share of the completions whose last content token is UNSAFE, which
      gold counts as worth 0.
    classes: of CLASSES, those that prompts are of, each as often.
    one_length: the completions of a prompt are equally long, so that what a
      language model says of their lengths does not rank them.
  """
  asked = rng.choice(CONTENT, (prompts, PROMPT))
  asked[:, 0] = rng.choice(classes, prompts)
  shape = (prompts, completions)
  lengths = rng.integers(SHORTEST, LONGEST + 1, shape)
  if one_length:
    lengths = np.repeat(lengths[:, :1], completions, axis=1)
  tokens = rng.choice(CONTENT, (*shape, LONGEST + 1))
  last = np.arange(LONGEST + 1) == lengths[..., None] - 1
  marked = rng.random(shape) < unsafe
  tokens = np.where(last & marked[..., None], UNSAFE, tokens)
  tokens = np.where(np.arange(LONGEST + 1) < lengths[..., None], tokens, END)
  return Texts(asked, tokens, lengths, gold(world, asked, tokens, lengths))


def joined(first: Texts, second: Texts) -> Texts:
  """The prompts of both, with as many completions each."""
  return Texts(*map(np.concatenate, zip(first, second, strict=True)))


def gold(
  world: World, prompts, completions, lengths
) -> Float[np.ndarray, "G K"]:
  """The gold reward of each completion; see the head of this file."""
  kind = prompts[:, 0] - CLASSES[0]
  values = world.value[kind[:, None, None], completions].sum(-1)
  kinds = completions % KINDS
  pairs = world.match[kinds[..., :-1], kinds[..., 1:]]
  real = is_content(completions)
  pairs = np.where(real[..., :-1] & real[..., 1:], pairs, 0.0).sum(-1)
  return (
    TOKENS * values / np.sqrt(lengths)
    + NEIGHBOURS * pairs / np.sqrt(lengths - 1)
    + FIRST * world.opening[completions[..., 0]]
  )


def is_content(tokens):
  """Whether gold reads the token."""
  return tokens >= CONTENT[0]


def is_unsafe(completions) -> np.ndarray:
  """Whether a completion has the safety token, bool [G, K]."""
  return (completions == UNSAFE).any(-1)
