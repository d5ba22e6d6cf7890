"""A tokenised group as bytes, and back bit for bit."""

import numpy as np

from rm_jax.types import TokenizedGroup

# Arrays of one entry per slot of a completion, and per comparison.
PER_SLOT = {
  "slots": np.int32,
  "outputs": np.int32,
  "labels": np.float32,
  "weights": np.float32,
  "language_weights": np.float32,
}
PER_COMPARISON = {
  "comparisons": np.int32,
  "margins": np.float32,
  "preferences": np.float32,
  "comparison_weights": np.float32,
  "strengths": np.float32,
}
NUMBERS = ("trunk", "record", "task")


def pack_group(group: TokenizedGroup) -> bytes:
  """The group as bytes: int32 counts, then its arrays, little-endian.

      K, C, R, gold | trunk, record, task | T_k | S_k | reads | weight (float64)
      | tokens | slots, outputs, labels, ... | comparisons, margins, ... | ranks
      | gold

  Raises:
    ValueError: an array of another type or length than types.py says; to store
      it would change it.
  """
  sizes = [len(t) for t in group.tokens]
  slots = [len(s) for s in group.slots]
  head = [len(sizes), len(group.comparisons), len(group.ranks), len(group.gold)]
  head += [getattr(group, name) for name in NUMBERS]
  parts = [
    np.array([*head, *sizes, *slots, *group.reads], "<i4").tobytes(),
    np.array([group.weight], "<f8").tobytes(),
  ]
  for k, tokens in enumerate(group.tokens):
    parts.append(_bytes(tokens, np.int32, (sizes[k],), "tokens"))
  for name, kind in PER_SLOT.items():
    for k, array in enumerate(getattr(group, name)):
      parts.append(_bytes(array, kind, (slots[k],), name))
  for name, kind in PER_COMPARISON.items():
    shape = (head[1], 2) if name == "comparisons" else (head[1],)
    parts.append(_bytes(getattr(group, name), kind, shape, name))
  parts.append(_bytes(group.ranks, np.int32, (head[2],), "ranks"))
  parts.append(_bytes(group.gold, np.float32, (head[3],), "gold"))
  return b"".join(parts)


def unpack_group(data: bytes) -> TokenizedGroup:
  """The group that `pack_group` wrote, bit for bit; its arrays are views."""
  at = 0

  def take(count, kind="<i4"):
    nonlocal at
    array = np.frombuffer(data, kind, count, at)
    at += array.nbytes
    return array

  size, compared, ranked, known = take(4).tolist()
  numbers = take(len(NUMBERS)).tolist()
  sizes, slots, reads = take(3 * size).reshape(3, size).tolist()
  (weight,) = take(1, "<f8").tolist()
  fields = {"tokens": tuple(take(n) for n in sizes)}
  for name, kind in PER_SLOT.items():
    fields[name] = tuple(take(n, kind) for n in slots)
  for name, kind in PER_COMPARISON.items():
    if name == "comparisons":
      fields[name] = take(2 * compared, kind).reshape(compared, 2)
    else:
      fields[name] = take(compared, kind)
  return TokenizedGroup(
    **fields,
    ranks=take(ranked),
    gold=take(known, "<f4"),
    reads=tuple(reads),
    weight=weight,
    **dict(zip(NUMBERS, numbers, strict=True)),
  )


def _bytes(array: np.ndarray, kind, shape: tuple, name: str) -> bytes:
  if array.dtype != kind or array.shape != shape:
    raise ValueError(
      f"{name} of a group: expected {np.dtype(kind)} {shape}, got "
      f"{array.dtype} {array.shape}"
    )
  return array.tobytes()
