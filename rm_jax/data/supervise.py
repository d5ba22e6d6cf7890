"""Tokens to supervision: Encoded and Record -> TokenizedGroup.

Slots, labels, weights and comparisons are written here, per completion and
before any packing.
"""

from typing import NamedTuple

import numpy as np

from rm_jax.data.compare import find_comparisons, find_margins, find_ranks
from rm_jax.data.rejects import record_error
from rm_jax.data.tokenize import REWRITES, check_choice
from rm_jax.types import Encoded, Record, TokenizedGroup, UserError

KINDS = ("pairwise", "listwise", "pointwise", "process", "language")
POOLINGS = ("last_token", "every_token", "mean", "step_ends")
PLACINGS = (*POOLINGS, "prompt_and_last", "sum")  # with published heads
PER = ("group", "comparison")

# Losses whose labels are any numbers: a rating, a return, a correctness.
NUMBERS = ("squared_error", "two_hot", "hl_gauss", "listnet")
TARGETED = "listnet"  # the one listwise loss that reads labels


def supervise(
  encoded: Encoded,
  record: Record,
  *,
  index: int,
  loss: str,
  kind: str,
  pooling: str,
  per: str,
  margin: str,
  ties: bool,
  attributes: tuple,
  language: float,
  task: int,
) -> TokenizedGroup:
  """Returns the group with its slots, labels, weights and comparisons.

  Weights, with w = record.weight, C ordered pairs and n weighted slots:

      per = "group":      comparison w / C, slot w / n, listwise group w
      per = "comparison": comparison w,     slot w,     listwise group w * C

  Slots by pooling: last_token: where the score is read; every_token: start to
  there, all with the completion's label; mean: the same, the weight on the
  last; step_ends: the ends of the steps. With attributes every such place has
  one slot for each that was rated. With a language loss every completion
  token has a slot too (the chosen one only, of a pair), with language weight w:
  Cobbe et al. 2021, arXiv:2110.14168, train on all solutions, right and wrong.

  Args:
    encoded: from `encode` or `fit`.
    record: what it was encoded from.
    index: of the record in its source.
    loss: its name, for what it reads and for messages.
    kind: KIND[loss] of rm_jax.losses.
    pooling: one of PLACINGS.
    per: "group" or "comparison": what has equal weight.
    margin: name in rm_jax.margins.MARGINS, or "record": what it states; read
      by pairwise losses.
    ties: tied completions give comparisons too, with preference 1/2.
    attributes: names of the ratings to predict, one output of the head each;
      (): one number per completion.
    language: coefficient of the added language loss; above 0 adds its slots.
    task: its number in a run with several.

  Raises:
    RecordError: the record lacks what the loss, pooling or margin needs.
    UserError: an unknown name, a process loss without step ends.
  """
  check_choice(f"kind of loss {loss!r}", kind, KINDS)
  check_choice("config.model.pooling", pooling, PLACINGS)
  check_choice("config.loss.per", per, PER)
  if kind == "process" and pooling != "step_ends":
    raise UserError(
      f"config.model.pooling={pooling!r} does not read reasoning steps, which "
      f"loss {loss!r} compares with their labels: use pooling 'step_ends'."
    )
  check_distinct(encoded, record)
  ranks = find_ranks(record)
  compared = find_comparisons(record, ties=ties)
  check_compares(record, compared, ranks, loss=loss, kind=kind)
  outputs = [np.zeros(1, np.int32)] * len(encoded.tokens)
  if attributes:
    labels, outputs = attribute_labels(record, attributes, loss=loss)
  else:
    labels = find_labels(record, encoded, loss=loss, kind=kind, pooling=pooling)
  found = []
  for k in range(len(encoded.tokens)):
    spoken = np.zeros(0, np.int32)
    if kind == "language" or language > 0:
      spoken = language_slots(encoded, record, k)
    score = score_slots(encoded, record, k, pooling=pooling)
    label = np.zeros(0, np.float32) if labels is None else labels[k]
    found.append(
      write_slots(score, spoken, label, outputs[k], mean=pooling == "mean")
    )
  if kind == "listwise":  # read by the list, not at each slot
    found = [s._replace(where=np.zeros_like(s.where)) for s in found]
  slot_count = sum(s.where.sum() for s in found)
  share = max(slot_count, 1) if per == "group" else 1
  count = len(compared)
  margins = np.zeros(count, np.float32)
  if kind == "pairwise":
    margins = find_margins(record, compared, margin=margin)
  pair_weight = (
    record.weight / max(count, 1) if per == "group" else record.weight
  )
  return TokenizedGroup(
    tokens=encoded.tokens,
    slots=tuple(s.tokens for s in found),
    outputs=tuple(s.outputs for s in found),
    labels=tuple(s.labels for s in found),
    weights=tuple(
      (s.where * (record.weight / share)).astype(np.float32) for s in found
    ),
    language_weights=tuple(
      (s.spoken * record.weight).astype(np.float32) for s in found
    ),
    reads=tuple(s.read for s in found),
    comparisons=np.asarray(
      [(c.chosen, c.rejected) for c in compared], np.int32
    ).reshape(-1, 2),
    margins=margins,
    preferences=np.asarray([c.preference for c in compared], np.float32),
    comparison_weights=np.full(count, pair_weight, np.float32),
    ranks=np.zeros(len(found), np.int32) if ranks is None else ranks,
    weight=float(record.weight * (1 if per == "group" else count)),
    trunk=record.trunk,
    record=index,
    task=task,
    gold=np.asarray(record.gold or (), np.float32),
    strengths=np.asarray(
      [np.nan if c.strength is None else c.strength for c in compared],
      np.float32,
    ),
  )


def supervise_for_scoring(
  encoded: Encoded, record: Record, *, index: int, pooling: str
) -> TokenizedGroup:
  """Returns the group with the slots to read and nothing to learn from.

  All weights are 0 and there are no comparisons; ranks are 0.
  """
  check_choice("config.model.pooling", pooling, PLACINGS)
  slots = tuple(
    score_slots(encoded, record, k, pooling=pooling)
    for k in range(len(encoded.tokens))
  )
  zeros = tuple(np.zeros(len(s), np.float32) for s in slots)
  return TokenizedGroup(
    tokens=encoded.tokens,
    slots=slots,
    outputs=tuple(np.zeros(len(s), np.int32) for s in slots),
    labels=zeros,
    weights=zeros,
    language_weights=zeros,
    reads=tuple(len(s) - 1 for s in slots),
    comparisons=np.zeros((0, 2), np.int32),
    margins=np.zeros(0, np.float32),
    preferences=np.zeros(0, np.float32),
    comparison_weights=np.zeros(0, np.float32),
    ranks=np.zeros(len(slots), np.int32),
    weight=0.0,
    trunk=record.trunk,
    record=index,
  )


def every_output(group: TokenizedGroup, count: int) -> TokenizedGroup:
  """Returns a group to be scored whose slots read all outputs, in order."""

  def repeat(arrays):
    return tuple(np.repeat(a, count) for a in arrays)

  return group._replace(
    slots=repeat(group.slots),
    outputs=tuple(np.tile(np.arange(count), len(s)) for s in group.slots),
    labels=repeat(group.labels),
    weights=repeat(group.weights),
    language_weights=repeat(group.language_weights),
    reads=tuple((read + 1) * count - 1 for read in group.reads),
  )


class Slots(NamedTuple):
  """The slots of one completion, [S_k] each."""

  tokens: np.ndarray
  outputs: np.ndarray
  labels: np.ndarray
  where: np.ndarray  # a label is there to learn from
  spoken: np.ndarray  # the token is there to be predicted
  read: int  # of the completion's score


def write_slots(score, spoken, labels, outputs, *, mean: bool) -> Slots:
  """Returns the slots of one completion.

  A token that is both scored and spoken has one slot, a token whose score has
  A labels has A; the last scored slot carries the completion's score.

  Args:
    score: int32 [n], tokens where the head reads.
    spoken: int32, tokens to be predicted.
    labels: float32, one for all scored tokens, one for each, or one for each
      output; NaN or empty: none.
    outputs: int32 [A], outputs of the head that have a label.
    mean: only the last scored token has a weight.
  """
  count = max(len(outputs), 1)
  if len(score) == count == 1 and not len(spoken):  # most, and far cheaper
    known = np.isfinite(labels) if len(labels) else np.zeros(1, bool)
    return Slots(
      tokens=np.asarray(score, np.int32),
      outputs=outputs if len(outputs) else np.zeros(1, np.int32),
      labels=np.where(known, labels if len(labels) else 0, 0).astype(
        np.float32
      ),
      where=known,
      spoken=np.zeros(1, np.float32),
      read=0,
    )
  tokens = np.union1d(score, spoken).astype(np.int32)
  times = np.where(np.isin(tokens, score), count, 1)
  first = np.cumsum(times) - times
  size = int(times.sum())
  at = first[np.searchsorted(tokens, score)][:, None] + np.arange(count)
  slots = Slots(
    tokens=np.repeat(tokens, times),
    outputs=np.zeros(size, np.int32),
    labels=np.zeros(size, np.float32),
    where=np.zeros(size, bool),
    spoken=np.zeros(size, np.float32),
    read=int(at[-1, -1]),
  )
  slots.spoken[first[np.isin(tokens, spoken)]] = 1.0
  if len(outputs):
    slots.outputs[at] = outputs
  if len(labels):
    known = np.isfinite(labels)
    slots.labels[at] = np.where(known, labels, 0.0).reshape(-1, count)
    slots.where[at] = known.reshape(-1, count)
    if mean:
      slots.where[at[:-1]] = False
  return slots


def check_distinct(encoded, record) -> None:
  """A pair whose two sides are the same tokens teaches nothing: loss log 2."""
  if record.kind == "pair" and np.array_equal(*encoded.tokens):
    raise record_error(
      record, "chosen and rejected are identical after tokenisation"
    )


def score_slots(encoded, record, k: int, *, pooling: str) -> np.ndarray:
  """Returns the tokens where completion k is read; its score last."""
  read = encoded.reads[k]
  if pooling == "last_token":
    return np.asarray([read], np.int32)
  if pooling == "prompt_and_last":
    return np.asarray([encoded.asks[k], read], np.int32)
  if pooling == "sum":
    # Of likelihoods: token 0 has none.
    start = max(first_token(encoded, record, k), 1)
    return np.arange(start, read + 1, dtype=np.int32)
  if pooling == "step_ends":
    if record.step_ends is None:
      raise record_error(
        record,
        f"pooling 'step_ends' needs reasoning steps, this {record.kind} record "
        "has none",
      )
    ends = encoded.step_ends[k]
    return ends if len(ends) else np.asarray([read], np.int32)
  return np.arange(first_token(encoded, record, k), read + 1, dtype=np.int32)


def language_slots(encoded, record, k: int) -> np.ndarray:
  """Returns the completion tokens of k that a language loss predicts."""
  if record.kind == "pair" and k != 0:
    return np.zeros(0, np.int32)
  # Token 0 has no parent, hence nothing to be predicted from.
  start = max(first_token(encoded, record, k), 1)
  return np.arange(start, len(encoded.tokens[k]), dtype=np.int32)


def first_token(encoded, record, k: int) -> int:
  if encoded.starts[k] < 0:
    raise record_error(record, REWRITES)
  return encoded.starts[k]


def check_compares(record, compared, ranks, *, loss: str, kind: str) -> None:
  """A record without order teaches a loss that compares nothing."""
  k = len(record.completions)
  if kind == "listwise" and ranks is None and record.comparisons is not None:
    raise record_error(
      record,
      f"loss {loss!r} reads a ranking, this record lists comparisons, which "
      "need not give one: use a pairwise loss such as 'bradley_terry'",
    )
  if loss != TARGETED and kind in ("pairwise", "listwise") and not compared:
    raise record_error(
      record,
      f"loss {loss!r} compares completions, but this {record.kind} record has "
      f"K={k} and no ordered pair",
    )


def attribute_labels(record, attributes: tuple, *, loss: str):
  """Returns (K arrays of ratings, K arrays of outputs): only what was rated.

  The order of the outputs is that of `attributes`; what the record rates
  beyond them is not read, what it does not rate has no slot.
  """
  if record.attribute_ratings is None:
    raise record_error(
      record,
      f"ratings by attribute are missing: loss {loss!r} with config.model."
      f"attributes={attributes} needs them, this {record.kind} record has none",
    )
  labels, rated = [], []
  for values in record.attribute_ratings:
    known = dict(zip(record.attributes, values, strict=True))
    row = np.asarray([known.get(a, np.nan) for a in attributes], np.float32)
    where = np.isfinite(row)
    labels.append(row[where])
    rated.append(np.flatnonzero(where).astype(np.int32))
  if not any(map(len, rated)):
    raise record_error(
      record,
      f"none of config.model.attributes={attributes} is rated, the record has "
      f"{record.attributes}",
    )
  return labels, rated


def find_labels(record, encoded, *, loss: str, kind: str, pooling: str):
  """Returns K arrays of labels (one, or one per step), None where none is read.

  A loss over numbers at step ends reads the steps' values, any numbers.
  Step labels are probabilities; the classes of a three-class loss are
  -1, 0, 1 = 2 * label - 1.
  """
  if kind == "process":
    if record.step_labels is None:
      raise record_error(
        record,
        f"step labels are missing: loss {loss!r} needs them, this "
        f"{record.kind} record has none",
      )
    labels = [np.asarray(y, np.float32) for y in record.step_labels]
    check_steps(record, encoded, labels, "labels")
    if loss == "step_cross_entropy":
      labels = [2 * label - 1 for label in labels]
      known = [label[np.isfinite(label)] for label in labels]
      if any((label != np.round(label)).any() for label in known):
        raise record_error(
          record,
          f"loss {loss!r} needs step labels 0, 0.5 or 1 (wrong, neutral, "
          "right), this record has others: use 'step_binary_cross_entropy'",
        )
    return labels
  if kind != "pointwise" and loss != TARGETED:
    return None
  if pooling == "step_ends" and record.step_values is not None:
    check_steps(record, encoded, record.step_values, "values")
    return [np.asarray(y, np.float32) for y in record.step_values]
  values = record.labels
  if loss in NUMBERS and record.ratings is not None:
    values = record.ratings
  if values is None:
    hint = ""
    if record.kind == "steps":
      hint = "; if its completions are whole answers, read with kind='outcome'"
    raise record_error(
      record,
      f"labels are missing: loss {loss!r} needs one per completion, this "
      f"{record.kind} record has none{hint}",
    )
  return [np.asarray([value], np.float32) for value in values]


def check_steps(record, encoded, values, name: str) -> None:
  """Every step that was found in the text has one number, and no more."""
  for k, (own, ends) in enumerate(zip(values, encoded.step_ends, strict=True)):
    if len(own) != len(ends):
      raise record_error(
        record,
        f"completion {k} has {len(own)} step {name} for {len(ends)} steps",
      )
