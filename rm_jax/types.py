"""What crosses a folder: records, tokenised groups, batches, sums.

NamedTuples, so that jax sees pytrees without this module importing jax.
"""

from typing import Any, NamedTuple

import numpy as np

# What numpy makes an array of, for shape annotations. numpy's own alias is no
# class since its release for Python 3.12, jax's would import jax.
ArrayLike = np.ndarray | list | tuple | float | int


NOTHING = np.zeros(0, np.float32)


class UserError(ValueError):
  """A mistake the user can correct: what, where and what to do, in one line.

  The command line prints it without a traceback and exits with code 2.
  """


class LostHost(RuntimeError):
  """Another host of the run is gone; in one line what is saved.

  The command line prints it without a traceback and exits with code 1.
  """


class Record(NamedTuple):
  """One data row as text: a prompt and its K completions.

  `kind` says what the annotator gave (pair, ranking, ratings, comparisons,
  outcome, steps, values, unlabelled); K never does. A prompt is a string (one
  user turn) or a tuple of messages `{"role": ..., "content": ...}`; a
  completion is a string (one assistant turn) or a tuple of messages.
  """

  kind: str
  prompt: Any  # str or tuple of messages
  completions: tuple  # K of str or tuple of messages
  ranks: tuple | None = None  # K ints, smaller is better, equal is tied
  ratings: tuple | None = None  # K floats
  attributes: tuple | None = None  # A names of what was rated, where many
  attribute_ratings: tuple | None = None  # K tuples of A floats, NaN: not rated
  comparisons: tuple | None = None  # of Comparison: not every pair, or cycles
  preference: float | None = None  # of a pair: share of votes for the chosen
  strength: float | None = None  # of a pair: 0 unsure ... 3 significantly
  margin: float | None = None  # of a pair: stated by the data, in score units
  labels: tuple | None = None  # K floats in [0, 1]: outcome
  step_ends: tuple | None = None  # K tuples: end of each step, in characters
  step_labels: tuple | None = None  # K tuples of floats, the same; NaN: none
  step_values: tuple | None = None  # K tuples of any floats, the same
  gold: tuple | None = None  # K floats: the truth of a world; no loss reads it
  trunk: int = -1  # tree records: completion k is the trunk; -1: common prefix
  weight: float = 1.0
  annotator: str = ""
  problem: str = ""  # what several prompts share, and no split tears apart
  origin: str = ""  # data set that the row says it comes from
  source: str = ""  # file it was read from
  line: int = 0  # line or row in it, from 1


class Comparison(NamedTuple):
  """Two completions of one group, as somebody compared them."""

  chosen: int
  rejected: int
  preference: float = 1.0  # share of votes for `chosen`, 0.5 or more; 0.5: tie
  strength: float | None = None  # 0 unsure ... 3 significantly


class Encoded(NamedTuple):
  """Token ids of one record: what `encode` returns.

  Shapes: K arrays of length T_k; indices are into the array of completion k.
  """

  tokens: tuple  # K int32 [T_k]: full conversations, tokenised once
  starts: tuple  # K ints: first token of the completion
  reads: tuple  # K ints: token where the completion's score is read
  step_ends: tuple  # K int32 arrays: token where each reasoning step is read
  asks: tuple = ()  # K ints: last token before the last turn, where asked for


class TokenizedGroup(NamedTuple):
  """A prompt and K completions as token ids, with their supervision.

  A *slot* is (completion k, token index t, output a): a place where the head
  reads for completion k, and which of its outputs counts there (0 where it has
  one; one slot per attribute where it has many). Slots are written per
  completion and never merged, also where completions share the token. Indices
  are into `tokens[k]`.
  """

  tokens: tuple  # K int32 [T_k]
  slots: tuple  # K int32 [S_k], token indices that never fall
  outputs: tuple  # K int32 [S_k]: output of the head that a slot reads
  labels: tuple  # K float32 [S_k]
  weights: tuple  # K float32 [S_k]: of the pointwise or process loss
  language_weights: tuple  # K float32 [S_k]: of the next-token loss
  reads: tuple  # K ints: which slot of completion k carries its score
  comparisons: np.ndarray  # int32 [C, 2]: (chosen, rejected) completions
  margins: np.ndarray  # float32 [C]
  preferences: np.ndarray  # float32 [C]: for the chosen one; 0.5 is a tie
  comparison_weights: np.ndarray  # float32 [C]
  ranks: np.ndarray  # int32 [K]
  weight: float  # of the group in a listwise loss
  trunk: int  # completion k is the trunk; -1: the longest common prefix
  record: int  # index of the record in its source
  task: int = 0  # whose loss and head, in a run with several
  # What only an evaluation reads.
  gold: np.ndarray = NOTHING  # float32 [K], or [0]: unknown
  strengths: np.ndarray = NOTHING  # float32 [C], NaN: unknown


class Batch(NamedTuple):
  """N blocks of R packed rows; every index is local to its block.

  Capacities: L columns, S slots per row, C comparisons, G groups of at most K,
  M completions per block. What is unused has weight 0 and `where` False.
  """

  tokens: Any  # int32 [N, R, L]
  group_ids: Any  # int32 [N, R, L]: tree within the row, from 1; 0 is padding
  branch_ids: Any  # int32 [N, R, L]: 0 is the trunk
  positions: Any  # int32 [N, R, L]: depth on the token's own path
  fork_positions: Any  # int32 [N, R, L]: where its branch leaves the trunk
  parents: Any  # int32 [N, R, L]: column of the previous token, -1 for none
  score_positions: Any  # int32 [N, R, S]: column where the head reads
  score_where: Any  # bool [N, R, S]
  score_output: Any  # int32 [N, R, S]: which output of the head
  slot_completion: Any  # int32 [N, R, S]: completion within the block
  labels: Any  # float32 [N, R, S]
  weight: Any  # float32 [N, R, S]
  language_weight: Any  # float32 [N, R, S]
  chosen_index: Any  # int32 [N, C]: row * S + slot
  rejected_index: Any  # int32 [N, C]
  margin: Any  # float32 [N, C]
  preference: Any  # float32 [N, C]: for the chosen one; 0.5 is a tie
  comparison_weight: Any  # float32 [N, C]
  group_index: Any  # int32 [N, G, K]: row * S + slot
  ranks: Any  # int32 [N, G, K]
  where: Any  # bool [N, G, K]
  group_weight: Any  # float32 [N, G]
  completion_index: Any  # int32 [N, M]: slot of each completion's score
  completion_where: Any  # bool [N, M]
  completion_task: Any  # int32 [N, M]: whose loss and head
  # float32 [N, R, L, D] what the frozen layers gave; None: to be computed.
  hidden: Any = None
  # uint32 [N, R, L] what dropout masks are drawn from; None: no dropout.
  dropout_ids: Any = None


# {term: (sum of weighted losses, sum of weights)}; means are taken once, late.
LossSums = dict[str, tuple[Any, Any]]
