"""Tokens to supervision: Encoded and Record -> TokenizedGroup.

Slots, labels, weights and comparisons are written here, per completion and
before any packing.
"""

import numpy as np

from rm_jax.data.rejects import record_error
from rm_jax.data.tokenize import REWRITES, check_choice
from rm_jax.margins import MARGINS, NEEDS
from rm_jax.types import Encoded, Record, TokenizedGroup, UserError

KINDS = ("pairwise", "listwise", "pointwise", "process", "language")
POOLINGS = ("last_token", "every_token", "mean", "step_ends")
PER = ("group", "comparison")

# Margins that read no rating: any pair of numbers will do.
RATING_FREE = ("none", "constant_one")


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
  language: float,
) -> TokenizedGroup:
  """Returns the group with its slots, labels, weights and comparisons.

  Weights, with w = record.weight, C ordered pairs and n weighted slots:

      per = "group":      comparison w / C, slot w / n, listwise group w
      per = "comparison": comparison w,     slot w,     listwise group w * C

  Slots by pooling: last_token: where the score is read; every_token: start to
  there, all with the completion's label; mean: the same, the weight on the
  last; step_ends: the ends of the steps. With a language loss every completion
  token has a slot too (the chosen one only, of a pair), with language weight w:
  Cobbe et al. 2021, arXiv:2110.14168, train on all solutions, right and wrong.

  Args:
    encoded: from `encode` or `fit`.
    record: what it was encoded from.
    index: of the record in its source.
    loss: its name, for what it reads and for messages.
    kind: KIND[loss] of rm_jax.losses.
    pooling: one of POOLINGS.
    per: "group" or "comparison": what has equal weight.
    margin: name in rm_jax.margins.MARGINS; read by pairwise losses.
    language: coefficient of the added language loss; above 0 adds its slots.

  Raises:
    RecordError: the record lacks what the loss, pooling or margin needs.
    UserError: an unknown name, a process loss without step ends.
  """
  check_choice(f"kind of loss {loss!r}", kind, KINDS)
  check_choice("config.model.pooling", pooling, POOLINGS)
  check_choice("config.loss.per", per, PER)
  if kind == "process" and pooling != "step_ends":
    raise UserError(
      f"config.model.pooling={pooling!r} does not read reasoning steps, which "
      f"loss {loss!r} compares with their labels: use pooling 'step_ends'."
    )
  check_distinct(encoded, record)
  ranks = find_ranks(record)
  comparisons = ordered_pairs(ranks)
  if kind in ("pairwise", "listwise") and not len(comparisons):
    raise record_error(
      record,
      f"loss {loss!r} compares completions, but this {record.kind} record has "
      f"K={len(record.completions)} and no ordered pair",
    )
  labels = find_labels(record, encoded, loss=loss, kind=kind)
  slots, slot_labels, slot_where, targets, reads = [], [], [], [], []
  for k in range(len(encoded.tokens)):
    score = score_slots(encoded, record, k, pooling=pooling)
    last = len(score) - 1
    where = np.full(len(score), labels is not None)
    if pooling == "mean":
      where[:last] = False
    if labels is not None and not len(labels[k]):
      where[:] = False  # a completion none of whose steps has a label
    label = np.zeros(len(score), np.float32)
    if where.any():
      label[:] = labels[k]
    spoken = np.zeros(0, np.int32)
    if kind == "language" or language > 0:
      spoken = language_slots(encoded, record, k)
    # One slot where a token is both read for its score and a target.
    both = np.union1d(score, spoken).astype(np.int32)
    at = np.searchsorted(both, score)
    slots.append(both)
    slot_labels.append(scatter(both, at, label))
    slot_where.append(scatter(both, at, where))
    targets.append(np.isin(both, spoken).astype(np.float32) * record.weight)
    reads.append(int(at[last]))
  slot_count = sum(where.sum() for where in slot_where)
  share = max(slot_count, 1) if per == "group" else 1
  count = len(comparisons)
  margins = np.zeros(count, np.float32)
  if kind == "pairwise":
    margins = find_margins(record, comparisons, margin=margin)
  pair_weight = (
    record.weight / max(count, 1) if per == "group" else record.weight
  )
  return TokenizedGroup(
    tokens=encoded.tokens,
    slots=tuple(slots),
    labels=tuple(slot_labels),
    weights=tuple(
      (where * (record.weight / share)).astype(np.float32)
      for where in slot_where
    ),
    language_weights=tuple(t.astype(np.float32) for t in targets),
    reads=tuple(reads),
    comparisons=comparisons,
    margins=margins,
    comparison_weights=np.full(count, pair_weight, np.float32),
    ranks=np.zeros(len(slots), np.int32) if ranks is None else ranks,
    weight=float(record.weight * (1 if per == "group" else count)),
    trunk=record.trunk,
    record=index,
  )


def supervise_for_scoring(
  encoded: Encoded, record: Record, *, index: int, pooling: str
) -> TokenizedGroup:
  """Returns the group with the slots to read and nothing to learn from.

  All weights are 0 and there are no comparisons; ranks are 0.
  """
  check_choice("config.model.pooling", pooling, POOLINGS)
  slots = tuple(
    score_slots(encoded, record, k, pooling=pooling)
    for k in range(len(encoded.tokens))
  )
  zeros = tuple(np.zeros(len(s), np.float32) for s in slots)
  return TokenizedGroup(
    tokens=encoded.tokens,
    slots=slots,
    labels=zeros,
    weights=zeros,
    language_weights=zeros,
    reads=tuple(len(s) - 1 for s in slots),
    comparisons=np.zeros((0, 2), np.int32),
    margins=np.zeros(0, np.float32),
    comparison_weights=np.zeros(0, np.float32),
    ranks=np.zeros(len(slots), np.int32),
    weight=0.0,
    trunk=record.trunk,
    record=index,
  )


def scatter(slots, at, values) -> np.ndarray:
  out = np.zeros(len(slots), np.float32)
  out[at] = values
  return out


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


def find_ranks(record: Record) -> np.ndarray | None:
  """Returns int32 [K], smaller is better, or None where nothing gives an order.

  From the ranks, the pair, the ratings or the outcome labels: the first that
  the record has.
  """
  if record.ranks is not None:
    return np.asarray(record.ranks, np.int32)
  if record.kind == "pair":
    return np.asarray([0, 1], np.int32)
  values = record.ratings if record.ratings is not None else record.labels
  if values is None:
    return None
  better_first = sorted(set(values), reverse=True)
  return np.asarray([better_first.index(v) for v in values], np.int32)


def ordered_pairs(ranks: np.ndarray | None) -> np.ndarray:
  """Returns int32 [C, 2]: all (i, j) with rank_i < rank_j; ties give none."""
  if ranks is None:
    return np.zeros((0, 2), np.int32)
  return np.argwhere(ranks[:, None] < ranks[None, :]).astype(np.int32)


def find_labels(record, encoded, *, loss: str, kind: str):
  """Returns K arrays of labels (one, or one per step), None where none is read.

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
    for k, (label, ends) in enumerate(
      zip(labels, encoded.step_ends, strict=True)
    ):
      if len(label) != len(ends):
        raise record_error(
          record,
          f"completion {k} has {len(label)} step labels for {len(ends)} steps",
        )
    if loss == "step_cross_entropy":
      labels = [2 * label - 1 for label in labels]
      if any((label != np.round(label)).any() for label in labels):
        raise record_error(
          record,
          f"loss {loss!r} needs step labels 0, 0.5 or 1 (wrong, neutral, "
          "right), this record has others: use 'step_binary_cross_entropy'",
        )
    return labels
  if kind != "pointwise":
    return None
  values = record.labels
  if loss != "outcome_cross_entropy" and record.ratings is not None:
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


def find_margins(record, comparisons, *, margin: str) -> np.ndarray:
  """Returns float32 [C]: the margin of each comparison."""
  check_choice("config.loss.margin", margin, tuple(MARGINS))
  ratings, strength = record.ratings, record.strength
  if margin in RATING_FREE:
    ratings = np.zeros(len(record.completions))
  needs_strength = NEEDS[margin] == ("strength",)
  if (strength if needs_strength else ratings) is None:
    raise record_error(
      record,
      f"margin {margin!r} needs {' and '.join(NEEDS[margin])}, the record has "
      "none: add them or use margin 'none'",
    )
  try:
    if needs_strength:
      margins = [MARGINS[margin](strength)] * len(comparisons)
    else:
      margins = [
        MARGINS[margin](ratings[i], ratings[j]) for i, j in comparisons
      ]
  except ValueError as error:
    raise record_error(record, str(error)) from error
  return np.asarray(margins, np.float32)
