"""An independent reading of the contract of a Record: what may be in one."""

import math

from rm_jax.types import Record


def sound(record: Record) -> str:
  """Returns what is wrong with a record, "" for nothing: read afresh."""
  count = len(record.completions)

  def text(value):
    return isinstance(value, str) and value.encode("utf-8", "replace") == (
      value.encode("utf-8", "surrogatepass")
    )

  def number(value):  # also as float32, which losses and labels are in
    return type(value) in (int, float) and abs(value) < 2.0**128

  def share(value):
    return number(value) and 0 <= value <= 1

  def strength(value):
    return value is None or (number(value) and 0 <= value <= 3)

  def side(value, blank):
    if isinstance(value, str):
      return text(value) and (blank or value.strip() != "")
    return (
      type(value) is tuple
      and (blank or value[-1]["content"].strip() != "")
      and all(text(m["role"]) and text(m["content"]) for m in value)
    )

  def each(values, check):
    return values is None or (
      type(values) is tuple and len(values) == count and all(map(check, values))
    )

  def compared(c):
    return (
      type(c.chosen) is int
      and type(c.rejected) is int
      and {c.chosen, c.rejected} <= set(range(count))
      and c.chosen != c.rejected
      and share(c.preference)
      and c.preference >= 0.5
      and strength(c.strength)
    )

  def steps_of(values, check):
    if values is None:
      return True
    if record.step_ends is None or len(values) != count:
      return False
    return all(
      len(one) == len(ends) and all(map(check, one))
      for one, ends in zip(values, record.step_ends, strict=True)
    )

  def ends_of(k):
    ends, said = record.step_ends[k], record.completions[k]
    return list(ends) == sorted(set(ends)) and 0 < ends[0] <= ends[-1] <= len(
      said
    )

  rules = {
    "completions": count > 0
    and all(side(c, blank=False) for c in record.completions),
    "prompt": side(record.prompt, blank=True),
    "ranks": each(
      record.ranks, lambda rank: type(rank) is int and abs(rank) < 2**31
    ),
    "ratings": each(record.ratings, number),
    "attribute_ratings": each(
      record.attribute_ratings,
      lambda row: (
        len(row) == len(record.attributes)
        and all(number(r) or math.isnan(r) for r in row)
      ),
    ),
    "comparisons": record.comparisons is None
    or (len(record.comparisons) > 0 and all(map(compared, record.comparisons))),
    "preference": record.preference is None
    or (share(record.preference) and record.preference >= 0.5),
    "strength": strength(record.strength),
    "margin": record.margin is None or number(record.margin),
    "labels": each(record.labels, share),
    "step_ends": record.step_ends is None
    or (len(record.step_ends) == count and all(map(ends_of, range(count)))),
    # NaN: a step of which nobody says whether it is right.
    "step_labels": steps_of(
      record.step_labels, lambda y: share(y) or math.isnan(y)
    ),
    "step_values": steps_of(record.step_values, number),
    "weight": number(record.weight) and record.weight > 0,
    "annotator": text(record.annotator) and text(record.origin),
    "pair": record.kind != "pair"
    or (count == 2 and record.completions[0] != record.completions[1]),
  }
  return ", ".join(name for name, good in rules.items() if not good)
