"""Which format a parsed row is in, and the records of it.

A row is recognised by its fields: FORMATS, first match.
"""

from rm_jax.data.catalogue import FORMATS, UNUSABLE
from rm_jax.data.fields import BadRow, need_list, need_number, need_text, shown
from rm_jax.data.pairs import find_preference
from rm_jax.types import UserError

# A row with one of these is labelled: never read as unlabelled by guess.
LABELS = (
  "label",
  "labels",
  "rating",
  "ratings",
  "rank",
  "ranks",
  "comparisons",
  "preference",
  "votes",
  "first_error",
  "values",
)

# Ours: their rows may carry the truth of a simulated world.
GENERAL = (
  "pair",
  "ranking",
  "ratings",
  "comparisons",
  "first_error",
  "values",
  "steps",
  "outcome",
  "unlabelled",
)

# General formats that tell different things of the same completions. Only a
# ranking and comparisons read the ratings beside them.
EXCLUSIVE = (
  "ranking",
  "ratings",
  "comparisons",
  "first_error",
  "values",
  "steps",
)


def check_kind(kind: str) -> None:
  if kind != "auto" and kind not in FORMATS:
    raise UserError(
      f"kind={kind!r} is unknown: use 'auto' or one of {', '.join(FORMATS)}."
    )


def row_items(row, kind) -> list:
  """Returns the Records and BadRows of one parsed row."""
  try:
    if not isinstance(row, dict):
      raise BadRow(f"expected a JSON object, got {type(row).__name__}")
    name = recognise(row) if kind == "auto" else kind
    absent = [field for field in FORMATS[name].fields if field not in row]
    if absent:
      raise BadRow(
        f"missing field {absent[0]!r}, expected {FORMATS[name].shape}"
      )
    said = provenance(row)
    items = FORMATS[name].read(row)
    items = items if isinstance(items, list) else [items]
    if name in GENERAL and row.get("gold") is not None:
      said["gold"] = read_gold(row, items)
    return [
      item if isinstance(item, BadRow) else item._replace(**said)
      for item in items
    ]
  except BadRow as error:
    return [error]
  except (KeyError, TypeError, AttributeError) as error:
    # Inside a nested foreign row: no field is as its format says.
    problem = f"{type(error).__name__}: {error}"[:80]
    return [BadRow(f"malformed, expected {FORMATS[name].shape}: {problem}")]


def provenance(row) -> dict:
  """Returns weight, annotator and origin of a row, as fields of a Record."""
  said = {}
  if row.get("weight") is not None:
    said["weight"] = need_number(row["weight"], "field 'weight'")
    if said["weight"] <= 0:
      raise BadRow(
        f"field 'weight' must be above 0, got {shown(row['weight'])}"
      )
  if row.get("annotator") is not None:
    name = row["annotator"]
    if isinstance(name, int) and not isinstance(name, bool):
      name = str(name)
    said["annotator"] = need_text(name, "field 'annotator'")
  if row.get("source") is not None:
    said["origin"] = need_text(row["source"], "field 'source'")
  return said


def read_gold(row, items) -> tuple:
  """Returns the gold rewards of a row of a simulated world, one for each."""
  gold = need_list(row["gold"], "field 'gold'")
  for item in items:
    if not isinstance(item, BadRow) and len(item.completions) != len(gold):
      raise BadRow(
        f"field 'gold' has {len(gold)} values for {len(item.completions)} "
        "completions"
      )
  found = tuple(need_number(g, f"gold {k}") for k, g in enumerate(gold))
  preference = find_preference(row) if "chosen" in row else None
  # The votes are against what the row calls chosen: the record turned it.
  return found[::-1] if preference is not None and preference < 0.5 else found


def matches(row) -> list:
  """Returns the names of all formats that a row could be, in order."""
  return [
    name
    for name, known in FORMATS.items()
    if all(field in row for field in known.fields) and known.test(row)
  ]


def recognise(row) -> str:
  """Returns the name of the row's format; BadRow where none or two say it."""
  found = matches(row)
  if found and found[0] != "unlabelled":
    rivals = [name for name in found if name in EXCLUSIVE]
    rated = rivals in (["ranking", "ratings"], ["comparisons", "ratings"])
    if len(rivals) > 1 and not rated:
      raise BadRow(
        f"the row is {' and '.join(rivals)} at once: say with kind= which of "
        "them to read"
      )
    return found[0]
  for fields, reason in UNUSABLE.items():
    if all(field in row for field in fields):
      raise BadRow(reason)
  labels = [field for field in LABELS if field in row]
  if found and labels:
    raise BadRow(
      f"field {labels[0]!r} would be lost in an unlabelled row: no format has "
      f"it beside {{{listed(row)}}}; rename it, or say kind='unlabelled'"
    )
  if found:
    return "unlabelled"
  raise BadRow(
    f"unrecognised record: keys {{{listed(row)}}}; nearest shape: "
    f"{FORMATS[nearest(row)].shape}"
  )


def listed(row) -> str:
  """Returns the keys of a row, shortened: a reject is one line to read."""
  keys = ", ".join(sorted(map(str, row)))
  return keys if len(keys) <= 80 else f"{keys[:80]} ... {len(row)} in all"


def nearest(row) -> str:
  """Returns the format that the row lacks the fewest fields of.

  Of several a general one, then the one of most fields; "pair" if the row has
  no field of any.
  """
  names = list(FORMATS)
  ranked = []
  for place, name in enumerate(names):
    fields = FORMATS[name].fields
    present = sum(field in row for field in fields)
    if 0 < present < len(fields):
      published = place < names.index("pair")
      ranked.append((len(fields) - present, published, -present, place))
  return names[min(ranked)[-1]] if ranked else "pair"
