"""What crosses a folder: records, tokenised groups, batches, sums.

NamedTuples, so that jax sees pytrees without this module importing jax.
"""

from typing import Any, NamedTuple

import numpy as np

# What numpy makes an array of, for shape annotations. numpy's own alias is no
# class since its release for Python 3.12, jax's would import jax.
ArrayLike = np.ndarray | list | tuple | float | int


class UserError(ValueError):
  """A mistake the user can correct: what, where and what to do, in one line.

  The command line prints it without a traceback and exits with code 2.
  """


class Record(NamedTuple):
  """One data row as text: a prompt and its K completions.

  `kind` says what the annotator gave (pair, ranking, ratings, outcome, steps);
  K never does. A prompt is a string (one user turn) or a tuple of messages
  `{"role": ..., "content": ...}`; a completion is a string (one assistant
  turn) or a tuple of messages.
  """

  kind: str
  prompt: Any  # str or tuple of messages
  completions: tuple  # K of str or tuple of messages
  ranks: tuple | None = None  # K ints, smaller is better, equal is tied
  ratings: tuple | None = None  # K floats
  strength: float | None = None  # of a pair: 0 unsure ... 3 significantly
  labels: tuple | None = None  # K floats in [0, 1]: outcome
  step_ends: tuple | None = None  # K tuples: end of each step, in characters
  step_labels: tuple | None = None  # K tuples of floats, aligned to step_ends
  trunk: int = -1  # tree records: completion k is the trunk; -1: common prefix
  weight: float = 1.0
  source: str = ""  # file or data set
  line: int = 0  # line or row in it, from 1


class Encoded(NamedTuple):
  """Token ids of one record: what `encode` returns.

  Shapes: K arrays of length T_k; indices are into the array of completion k.
  """

  tokens: tuple  # K int32 [T_k]: full conversations, tokenised once
  starts: tuple  # K ints: first token of the completion
  reads: tuple  # K ints: token where the completion's score is read
  step_ends: tuple  # K int32 arrays: token that ends each reasoning step


class TokenizedGroup(NamedTuple):
  """A prompt and K completions as token ids, with their supervision.

  A *slot* is (completion k, token index t): a place where the head reads for
  completion k. Slots are written per completion and never merged, also where
  completions share the token. Indices are into `tokens[k]`.
  """

  tokens: tuple  # K int32 [T_k]
  slots: tuple  # K int32 [S_k], ascending token indices
  labels: tuple  # K float32 [S_k]
  weights: tuple  # K float32 [S_k]: of the pointwise or process loss
  language_weights: tuple  # K float32 [S_k]: of the next-token loss
  reads: tuple  # K ints: which slot of completion k carries its score
  comparisons: np.ndarray  # int32 [C, 2]: (chosen, rejected) completions
  margins: np.ndarray  # float32 [C]
  comparison_weights: np.ndarray  # float32 [C]
  ranks: np.ndarray  # int32 [K]
  weight: float  # of the group in a listwise loss
  trunk: int  # completion k is the trunk; -1: the longest common prefix
  record: int  # index of the record in its source


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
  slot_completion: Any  # int32 [N, R, S]: completion within the block
  labels: Any  # float32 [N, R, S]
  weight: Any  # float32 [N, R, S]
  language_weight: Any  # float32 [N, R, S]
  chosen_index: Any  # int32 [N, C]: row * S + slot
  rejected_index: Any  # int32 [N, C]
  margin: Any  # float32 [N, C]
  comparison_weight: Any  # float32 [N, C]
  group_index: Any  # int32 [N, G, K]: row * S + slot
  ranks: Any  # int32 [N, G, K]
  where: Any  # bool [N, G, K]
  group_weight: Any  # float32 [N, G]
  completion_index: Any  # int32 [N, M]: slot of each completion's score
  completion_where: Any  # bool [N, M]


# {term: (sum of weighted losses, sum of weights)}; means are taken once, late.
LossSums = dict[str, tuple[Any, Any]]
