"""Findings as text, as JSON and as one HTML file that needs no network."""

import collections
import html
import textwrap
from typing import NamedTuple

from rm_jax.data.doctor.findings import SEVERITIES, Finding, share
from rm_jax.data.doctor.suggest import flags

SCHEMA = 1
WIDTH = 80
INDENT = " " * 4
BAR = 24  # characters of a full bar in the text
SECTIONS = {
  "reading": "Rows that are no record",
  "records": "Records",
  "labels": "Labels",
  "text": "Text",
  "contamination": "Contamination",
  "template": "Chat template",
  "tokens": "Tokens",
  "loss": "Loss",
}
SPOKEN = {"error": "errors", "warning": "warnings", "note": "notes"}
NOTHING = "no finding"


class Report(NamedTuple):
  """All that a report says."""

  data: str
  against: str  # "": nothing to compare with
  model: str  # "": text only
  command: str
  records: int
  rejects: int
  findings: tuple  # of Finding
  suggestion: dict  # config key -> value


# ---------------------------------------------------------------- words


def number(value) -> str:
  """Returns a count with commas, anything else with four digits."""
  return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def percent(value: float) -> str:
  return f"{100 * value:.1f} %"


def headline(finding: Finding) -> str:
  """Returns the count and its share, with the interval where one is known."""
  count = number(finding.count)
  if finding.total == 1 and finding.count == 1:
    return ""  # of a template: there or not
  line = f"{count} of {number(finding.total)} {finding.unit}"
  line += f" ({percent(share(finding))})"
  numbers = finding.numbers or {}
  if "low" in numbers:
    low, high = percent(numbers["low"]), percent(numbers["high"])
    line += f", 95 % interval {low} to {high}"
  return line


def details(finding: Finding) -> list[tuple[str, str]]:
  """Returns (name, value) of the further numbers, as people read them."""
  return [
    (name.replace("_", " "), number(value))
    for name, value in (finding.numbers or {}).items()
    if name not in ("low", "high")
  ]


def tally(report: Report) -> list[tuple[str, int]]:
  """Returns how many findings there are of each severity."""
  counts = collections.Counter(f.severity for f in report.findings)
  return [(severity, counts[severity]) for severity in SEVERITIES]


def summary(report: Report) -> list[str]:
  """Returns what was read and how much was found, a line each."""
  rows = report.records + report.rejects
  found = ", ".join(
    f"{count} {SPOKEN[severity] if count != 1 else severity}"
    for severity, count in tally(report)
  )
  lines = [
    f"{number(rows)} read: {number(report.records)} records, "
    f"{number(report.rejects)} rejected",
    found,
  ]
  if report.against:
    lines.append(f"compared with {report.against}")
  if not report.model:
    lines.append("text checks only: --model adds those of the tokens")
  return lines


def by_section(report: Report):
  """Yields (title, findings) of the sections that have any."""
  for key, title in SECTIONS.items():
    found = [f for f in report.findings if f.section == key]
    if found:
      yield title, sorted(found, key=lambda f: SEVERITIES.index(f.severity))


# ---------------------------------------------------------------- text


def text_report(report: Report) -> str:
  """Returns the report in lines of at most 80 columns where words allow."""
  lines = [f"rm-jax doctor: {report.data}", *wrapped(summary(report), "  ")]
  for title, findings in by_section(report):
    lines += ["", title.upper()]
    for finding in findings:
      lines += text_finding(finding)
  lines += ["", "A CONFIG THAT FITS"]
  if report.suggestion:
    lines.append("  flags of `rm-jax train --config=FILE --workdir=FOLDER`:")
    lines += [f"{INDENT}{flag}" for flag in flags(report.suggestion)]
  else:
    lines.append("  none: no record has a label to learn from")
  return "\n".join(lines)


def wrapped(texts, indent: str) -> list[str]:
  return [
    line
    for text in texts
    for line in textwrap.wrap(
      text,
      WIDTH,
      initial_indent=indent,
      subsequent_indent=indent,
      break_long_words=False,
      break_on_hyphens=False,
    )
  ]


def text_finding(finding: Finding) -> list[str]:
  head = f"  {finding.severity:8}{finding.name}"
  if headline(finding):
    head += f": {headline(finding)}"
  lines = textwrap.wrap(head, WIDTH, subsequent_indent=INDENT)
  lines[0] = f"  {lines[0].lstrip()}"
  paragraphs = [finding.what]
  if details(finding):
    paragraphs.append("; ".join(f"{k} {v}" for k, v in details(finding)))
  if finding.examples:
    paragraphs.append(f"at {', '.join(finding.examples)}")
  lines += wrapped(paragraphs, INDENT)
  if finding.table:
    lines += text_table(finding.table)
  if finding.advice:
    lines += wrapped([f"-> {finding.advice}"], INDENT)
  return lines


def text_table(table) -> list[str]:
  wide = min(max(len(name) for name, _ in table), 32)
  most = max(count for _, count in table)
  return [
    f"{INDENT}{name[:wide]:{wide}} {number(count):>9} "
    f"{'#' * max(round(BAR * count / most), 1)}"
    for name, count in table
  ]


# ---------------------------------------------------------------- json


def json_report(report: Report) -> dict:
  """Returns the report as JSON values: every number the text shows, exact."""
  return {
    "schema": SCHEMA,
    "command": report.command,
    "data": report.data,
    "against": report.against,
    "model": report.model,
    "records": report.records,
    "rejects": report.rejects,
    "severities": dict(tally(report)),
    "findings": [
      {
        **f._asdict(),
        "share": share(f),
        "numbers": f.numbers or {},
        "examples": list(f.examples),
        "table": [list(row) for row in f.table],
      }
      for f in report.findings
    ],
    "suggestion": report.suggestion,
  }


# ---------------------------------------------------------------- html

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a;
  --page: #fff; --card: #f6f8fa; --line: #d0d7de; --bar: #0072b2;
  --error: #b3261e; --warning: #8a5a00; --note: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9da7b1;
  --page: #0d1117; --card: #161b22; --line: #30363d; --bar: #56b4e9;
  --error: #ff8a80; --warning: #e6b450; --note: #79c0ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; color: var(--ink);
  background: var(--page); font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 0; } p { margin: .3rem 0; }
.tally { display: flex; flex-wrap: wrap; gap: .5rem; padding: 0;
  list-style: none; }
.tally li { border: 1px solid var(--line); border-radius: .4rem;
  padding: .3rem .8rem; background: var(--card); }
.tally b { font-size: 1.3rem; }
article { background: var(--card); border: 1px solid var(--line);
  border-left: .35rem solid var(--line); border-radius: .4rem;
  padding: .7rem .9rem; margin: .6rem 0; break-inside: avoid; }
article.error { border-left-color: var(--error); }
article.warning { border-left-color: var(--warning); }
article.note { border-left-color: var(--note); }
.error .kind { color: var(--error); } .warning .kind { color: var(--warning); }
.note .kind { color: var(--note); }
.kind { font-size: .8rem; font-weight: 700; text-transform: uppercase;
  letter-spacing: .05em; }
.soft { color: var(--soft); font-size: .9rem; }
.share { height: .5rem; background: var(--line); border-radius: .25rem;
  overflow: hidden; margin: .3rem 0; }
.share i, td i { display: block; height: 100%; background: var(--bar); }
td i { height: .8rem; min-width: 2px; border-radius: .15rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem;
  margin: .3rem 0; font-size: .9rem; } dt { color: var(--soft); }
dd { margin: 0; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
td { padding: .1rem .5rem .1rem 0; } td:nth-child(2) { text-align: right;
  font-variant-numeric: tabular-nums; } td:last-child { width: 50%; }
pre { background: var(--card); border: 1px solid var(--line); padding: .7rem;
  border-radius: .4rem; white-space: pre-wrap; font-size: .85rem; }
@media print { body { max-width: none; font-size: 11pt; }
  i { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def html_report(report: Report) -> str:
  """Returns one HTML page: no script, no file or address beside it."""
  title = f"rm-jax doctor: {report.data}"
  boxes = "".join(
    f"<li><b>{count}</b> {SPOKEN[severity] if count != 1 else severity}</li>"
    for severity, count in tally(report)
  )
  first, _, *rest = summary(report)
  parts = [
    "<!doctype html>",
    '<html lang="en"><head><meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>",
    f"<h1>{html.escape(title)}</h1>",
    *(f"<p>{html.escape(line)}</p>" for line in (first, *rest)),
    f'<ul class="tally">{boxes}</ul>',
  ]
  for name, findings in by_section(report):
    parts.append(f"<section><h2>{html.escape(name)}</h2>")
    parts += [html_finding(finding) for finding in findings]
    parts.append("</section>")
  shown = "\n".join(flags(report.suggestion)) or NOTHING
  parts += [
    "<section><h2>A config that fits</h2>",
    f"<pre>{html.escape(shown)}</pre></section>",
    f'<p class="soft">{html.escape(report.command)}</p>',
    "</body></html>",
  ]
  return "\n".join(parts) + "\n"


def html_finding(finding: Finding) -> str:
  """Returns the finding as an article: words, a bar for its share, numbers."""
  parts = [
    f'<article class="{finding.severity}">',
    f'<span class="kind">{finding.severity}</span>',
    f"<h3>{html.escape(finding.name.replace('_', ' '))}</h3>",
    f"<p>{html.escape(finding.what)}</p>",
  ]
  if headline(finding):
    parts.append(f"<p>{html.escape(headline(finding))}</p>")
    if finding.count != finding.total:  # a full bar shows nothing
      width = f"width:{share(finding):.1%}"
      parts.append(f'<div class="share"><i style="{width}"></i></div>')
  if finding.table:
    most = max(count for _, count in finding.table)
    rows = "".join(
      f"<tr><td>{html.escape(name)}</td><td>{number(count)}</td>"
      f'<td><i style="width:{count / most:.1%}"></i></td></tr>'
      for name, count in finding.table
    )
    parts.append(f"<table>{rows}</table>")
  if details(finding):
    rows = "".join(
      f"<dt>{html.escape(name)}</dt><dd>{value}</dd>"
      for name, value in details(finding)
    )
    parts.append(f"<dl>{rows}</dl>")
  if finding.examples:
    places = html.escape(", ".join(finding.examples))
    parts.append(f'<p class="soft">at {places}</p>')
  if finding.advice:
    parts.append(f"<p><b>To do:</b> {html.escape(finding.advice)}</p>")
  return "".join(parts) + "</article>"
