"""What is wrong with a data set, from its text: counts to findings."""

import collections
import math
from typing import NamedTuple

from rm_jax.data.doctor.overlap import OVERLAPS
from rm_jax.data.doctor.survey import Survey
from rm_jax.data.doctor.text import CHECKS

SEVERITIES = ("error", "warning", "note")
MOST_REASONS = 12  # of rejects, each a finding of its own
STOPS_A_RUN = 0.02  # default of config.data.max_reject_share
SKEW = 0.1  # distance from 1/2 that is a warning, interval included
RARE = 0.05  # share of the rarer label below which is a warning
Z95 = 1.959964  # 97.5 % point of the normal distribution


class Finding(NamedTuple):
  """One thing to know about a data set, with how often and where."""

  name: str
  section: str
  severity: str  # one of SEVERITIES
  count: int
  total: int  # what the count is a share of
  unit: str  # of both
  what: str
  advice: str = ""
  examples: tuple = ()  # places, at most three
  numbers: dict | None = None  # further numbers by name
  table: tuple = ()  # (name, count) of a distribution, most frequent first


def share(finding: Finding) -> float:
  """Returns count / total, 0 of nothing."""
  return finding.count / finding.total if finding.total else 0.0


def wilson(hits: float, n: int, *, z: float = Z95) -> tuple[float, float]:
  """Returns the Wilson score interval of a share, (low, high).

      (p + z^2/2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2/n)

  Inside [0, 1] and sensible at 0 and n hits, unlike the normal interval. The n
  are taken as independent, which comparisons of one group are not.
  """
  if not n:
    return 0.0, 1.0
  p = hits / n
  centre = p + z * z / (2 * n)
  half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
  scale = 1 + z * z / n
  return max((centre - half) / scale, 0.0), min((centre + half) / scale, 1.0)


# ---------------------------------------------------------------- findings


def text_findings(found: Survey) -> list[Finding]:
  """Returns every finding of the text, section by section."""
  lists = (
    rejects(found),
    distributions(found),
    repeats(found),
    verdicts(found),
    label_balance(found, "outcome"),
    label_balance(found, "steps"),
    checked(found, "labels"),
    length_skew(found),
    positions(found),
    cut_off(found),
    checked(found, "text"),
    checked(found, "contamination"),
  )
  return [finding for some in lists for finding in some]


def from_hit(found, name, section, severity, unit, what, advice, **more):
  """Returns [Finding] of a counted defect, [] where there is none."""
  count, examples = found.hits.get(name, (0, ()))
  if not count:
    return []
  more = {"examples": tuple(examples), **more}
  total = found.counts[unit]
  return [
    Finding(name, section, severity, count, total, unit, what, advice, **more)
  ]


def checked(found, section) -> list[Finding]:
  return [
    finding
    for name, c in (CHECKS | OVERLAPS).items()
    if c.section == section
    for finding in from_hit(
      found, name, section, c.severity, c.unit, c.what, c.advice
    )
  ]


def rejects(found) -> list[Finding]:
  total = found.counts["rejects"] + found.counts["records"]
  reasons = sorted(
    ((name, h) for name, h in found.hits.items() if name.startswith("reject:")),
    key=lambda item: -item[1][0],
  )
  stops = found.counts["rejects"] > STOPS_A_RUN * total
  out = [
    Finding(
      name="rejects",
      section="reading",
      severity="error" if stops else "warning",
      count=count,
      total=total,
      unit="records read",
      what=found.seen["reasons"][name],
      advice="Correct the rows or leave them out; rejects.jsonl lists them all."
      if not stops
      else "Correct the rows: a run stops at more than "
      f"config.data.max_reject_share={STOPS_A_RUN:g} of rejects.",
      examples=tuple(examples),
    )
    for name, (count, examples) in reasons[:MOST_REASONS]
  ]
  rest = sum(h[0] for _, h in reasons[MOST_REASONS:])
  if rest:
    what = f"{len(reasons) - MOST_REASONS} further reasons"
    out.append(out[-1]._replace(count=rest, what=what, examples=()))
  return out


def distributions(found) -> list[Finding]:
  """Notes on what the records are: kinds, K, origins, annotators."""
  records = found.counts["records"]
  named = (
    ("kinds", "kinds of records"),
    ("group_size", "completions per record (K)"),
    ("origins", "data sets that the records say they come from"),
    ("annotators", "annotators"),
  )
  out = []
  for name, what in named:
    table = found.tables[name]
    if not table:
      continue
    # One kind only is said in words: no bar to compare it with.
    top = tuple((str(key), n) for key, n in table.most_common(10))
    out.append(
      Finding(
        name=name,
        section="records",
        severity="note",
        count=sum(table.values()),
        total=records,
        unit="records",
        what=what if len(table) > 1 else f"{what}: {top[0][0]}",
        numbers={"different": len(table)} if len(table) > 1 else None,
        table=top if len(table) > 1 else (),
      )
    )
  return out


def repeats(found) -> list[Finding]:
  return [
    *from_hit(
      found,
      "duplicate_records",
      "records",
      "warning",
      "records",
      "records equal to an earlier one, annotator included",
      "Remove the repeats: they weigh twice.",
    ),
    *from_hit(
      found,
      "repeated_prompts",
      "records",
      "note",
      "records",
      "records whose prompt (case and white space aside) came before",
      "Split by prompt, as config.data.eval_share does. If these are pairs of "
      "one ranking, write them as one ranking record: each completion is then "
      "computed once.",
      numbers={"prompts": len(found.seen["prompts"])},
    ),
  ]


def verdicts(found) -> list[Finding]:
  """Same pair judged again: contradictions, agreement; cycles; ties."""
  several = bool(found.tables["annotators"])
  return [
    *from_hit(
      found,
      "contradictions",
      "records",
      "note" if several else "warning",
      "judged pairs",
      "pairs of completions that were chosen in both orders",
      "Remove both, or keep the majority: the loss has no minimum that suits "
      "both.",
    ),
    *from_hit(
      found,
      "conflicting_labels",
      "records",
      "warning",
      "records",
      "records that give a comparison or completion another strength, rating "
      "or label than an earlier one by the same annotator",
      "Find the true one, or average them into one soft label.",
    ),
    *agreement(found),
    *from_hit(
      found,
      "cycles",
      "records",
      "warning",
      "prompts",
      "prompts whose comparisons form a cycle (ties are equalities; of "
      "repeated verdicts the majority counts)",
      "No scores agree with a cycle: these comparisons bound the accuracy.",
    ),
    *from_hit(
      found,
      "tied_comparisons",
      "labels",
      "note",
      "comparisons",
      "comparisons that are ties",
      "bradley_terry leaves them out; davidson learns from them.",
    ),
  ]


def agreement(found) -> list[Finding]:
  """How often two annotators of the same pair say the same."""
  alike = both = pairs = 0
  for voters in found.seen["voters"].values():
    n = len(voters)
    pairs += n > 1
    both += n * (n - 1) // 2
    for votes in collections.Counter(voters.values()).values():
      alike += votes * (votes - 1) // 2
  if not both:
    return []
  low, high = wilson(alike, both)
  return [
    Finding(
      name="agreement",
      section="records",
      severity="note",
      count=alike,
      total=both,
      unit="pairs of verdicts",
      what="two annotators of the same pair agree (a tie is a verdict)",
      advice="No model should be more accurate than this on single verdicts.",
      numbers={"judged_by_several": pairs, "low": low, "high": high},
    )
  ]


def label_balance(found, name) -> list[Finding]:
  """Balance of outcome or step labels, and what length tells about them."""
  table = found.tables[name]
  total = sum(table.values())
  if not total:
    return []
  unit = "completions" if name == "outcome" else "steps"
  right = sum(n for label, n in table.items() if label > 0.5)
  wrong = sum(n for label, n in table.items() if label < 0.5)
  constant = len(table) == 1 and total > 1
  severity, advice = "note", ""
  if constant:
    severity = "error"
    advice = "All labels are the same: there is nothing to learn."
  elif min(right, wrong) < RARE * total:
    severity = "warning"
    advice = (
      f"Less than {RARE:.0%} of one label: compare the loss and accuracy with "
      "those of a constant answer."
    )
  low, high = wilson(right, total)
  out = [
    Finding(
      name=f"{name}_balance",
      section="labels",
      severity=severity,
      count=right,
      total=total,
      unit=unit,
      what=f"{unit} labelled right (above 1/2)",
      advice=advice,
      numbers={"wrong": wrong, "low": low, "high": high},
      table=tuple((f"{label:g}", n) for label, n in table.most_common(10)),
    )
  ]
  if name == "outcome" and found.counts["groups of one label"]:
    out.append(
      Finding(
        name="groups_of_one_label",
        section="labels",
        severity="note",
        count=found.counts["groups of one label"],
        total=found.counts["records"],
        unit="records",
        what="groups whose completions all have the same outcome label",
        advice="They give no comparison; outcome_cross_entropy reads them.",
      )
    )
  return out + label_length(found, name, unit)


def label_length(found, name, unit) -> list[Finding]:
  right, wrong = found.tables[f"{name} right"], found.tables[f"{name} wrong"]
  n, m = sum(right.values()), sum(wrong.values())
  if not n or not m:
    return []
  below = wins = 0
  for length in sorted({*right, *wrong}):
    wins += right[length] * (below + wrong[length] / 2)
    below += wrong[length]
  auc = wins / (n * m)
  skewed = abs(auc - 0.5) > SKEW and min(n, m) >= 30
  return [
    Finding(
      name=f"{name}_length",
      section="labels",
      severity="warning" if skewed else "note",
      count=n,
      total=n + m,
      unit=unit,
      what=f"right {unit}; a right one is longer than a wrong one with "
      f"probability {auc:.3f} (length alone, half credit for equal)",
      advice="Report the length-only rule beside every accuracy."
      if skewed
      else "",
      numbers={
        "length_only_auc": auc,
        "mean_characters_right": mean(right),
        "mean_characters_wrong": mean(wrong),
      },
    )
  ]


def mean(table) -> float:
  return sum(x * n for x, n in table.items()) / sum(table.values())


def skew_severity(low: float, high: float) -> str:
  """Returns "warning" where the whole interval is SKEW or more from 1/2."""
  return "warning" if low > 0.5 + SKEW or high < 0.5 - SKEW else "note"


def length_skew(found) -> list[Finding]:
  """Share of comparisons whose chosen side is longer, and what that earns."""
  c = found.counts
  n = c["strict"]
  if not n:
    return []
  low, high = wilson(c["longer"], n)
  severity = skew_severity(low, high)
  rule = (c["longer"] + c["same length"] / 2) / n
  return [
    Finding(
      name="chosen_longer",
      section="text",
      severity=severity,
      count=c["longer"],
      total=n,
      unit="strict comparisons",
      what="comparisons whose chosen side has more characters; the rule "
      f"'longer wins' has accuracy {rule:.3f} (half credit for equal)",
      advice="Report the length-only rule beside every accuracy."
      if severity == "warning"
      else "",
      numbers={
        "low": low,
        "high": high,
        "same_length": c["same length"],
        "length_only_accuracy": rule,
        "mean_characters_chosen": c["chosen characters"] / n,
        "mean_characters_rejected": c["rejected characters"] / n,
      },
    )
  ]


def positions(found) -> list[Finding]:
  n = found.counts["placed"]
  if not n:
    return []
  low, high = wilson(found.counts["first listed wins"], n)
  # A ranking is often written best first, which no model sees.
  severity = "note"
  if found.tables["kinds"]["comparisons"]:
    severity = skew_severity(low, high)
  return [
    Finding(
      name="first_listed_wins",
      section="labels",
      severity=severity,
      count=found.counts["first listed wins"],
      total=n,
      unit="strict comparisons",
      what="comparisons won by the completion that is listed first",
      advice="If annotators saw them in this order, they preferred a place; "
      "a judge that reads both must see both orders."
      if severity == "warning"
      else "",
      numbers={"low": low, "high": high},
    )
  ]


def cut_off(found) -> list[Finding]:
  c = found.counts
  n = c["strict"]
  chosen, rejected = wilson(c["chosen cut"], n), wilson(c["rejected cut"], n)
  apart = chosen[0] > rejected[1] + SKEW or rejected[0] > chosen[1] + SKEW
  numbers = {}
  if n:
    numbers = {
      "chosen_share": c["chosen cut"] / n,
      "rejected_share": c["rejected cut"] / n,
    }
  if not c["cut"]:
    return []
  return [
    Finding(
      name="cut_off",
      section="text",
      severity="warning" if n and apart else "note",
      count=c["cut"],
      total=c["completions"],
      unit="completions",
      what="completions that look cut off (40 characters or more, the last a "
      "letter or one of , ; - and opening brackets)",
      advice="The sides differ: a model learns to see the cut, not the answer."
      if n and apart
      else "Raise the generation limit if these ran into it.",
      numbers=numbers,
    )
  ]
