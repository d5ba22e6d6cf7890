"""Sections of a report to one HTML page that needs no network.

No script, no address, every picture inside: the file can be mailed, and reads
on a phone, in the dark and in print.
"""

import base64
import html
import math
import pathlib
from typing import NamedTuple

from rm_jax.data.doctor.report import STYLE
from rm_jax.evals.examples import Example

LETTERS = 700  # of a text in a tree; the middle of a longer one is left out
MORE_STYLE = """
figure { margin: .8rem 0; overflow-x: auto; break-inside: avoid; }
figure img { display: block; width: 100%; min-width: 36rem; height: auto;
  background: #fff; border: 1px solid var(--line); border-radius: .4rem; }
.lead { font-size: 1.05rem; margin: .6rem 0 1rem; }
.wide { overflow-x: auto; }
table.numbers { width: auto; min-width: 50%; }
.numbers th { text-align: right; font-weight: 600; color: var(--soft);
  padding: .1rem .9rem .1rem 0; vertical-align: bottom; }
.numbers td, .numbers td:last-child { width: auto; text-align: right;
  padding: .1rem .9rem .1rem 0; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.numbers th:first-child, .numbers td:first-child { text-align: left;
  white-space: normal; }
.numbers th, .numbers td { overflow-wrap: normal; word-break: normal; }
.numbers tr { border-bottom: 1px solid var(--line); break-inside: avoid; }
.tree ol { list-style: none; margin: .4rem 0 0; padding: 0 0 0 .6rem;
  border-left: .15rem solid var(--bar); }
.tree li { position: relative; padding: .3rem 0 .3rem 1.1rem; }
.tree li::before { content: ""; position: absolute; left: -.6rem; top: 1.1rem;
  width: 1.3rem; border-top: .15rem solid var(--bar); }
.text { white-space: pre-wrap; font-size: .9rem; }
.score { font-weight: 700; font-variant-numeric: tabular-nums; }
summary { cursor: pointer; }
@media print { h2, h2 + p { break-after: avoid; }
  figure img { min-width: 0; max-height: 22cm; object-fit: contain; }
  .wide { overflow: visible; } }
"""


class Section(NamedTuple):
  """One heading of a page and what stands under it."""

  title: str
  text: tuple = ()  # paragraphs, plain
  pictures: tuple = ()  # of (PNG in the page's folder, what it shows in words)
  body: str = ""  # HTML


def html_page(
  title: str,
  *,
  lead: str,
  boxes: list[tuple[str, str]],
  sections: list[Section],
  absent: list[str],
  folder: pathlib.Path,
) -> str:
  """The page, whole.

  Args:
    lead: the first paragraph: what was found, in words.
    boxes: (number, what it is) below the lead.
    absent: what the page leaves out and why, a line each.
    folder: where the PNGs of the sections lie.
  """
  parts = [
    "<!doctype html>",
    '<html lang="en"><head><meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    f"<title>{html.escape(title)}</title>",
    f"<style>{STYLE}{MORE_STYLE}</style></head><body>",
    f"<h1>{html.escape(title)}</h1>",
    f'<p class="lead">{html.escape(lead)}</p>',
  ]
  if boxes:
    items = "".join(
      f"<li><b>{html.escape(number)}</b> {html.escape(name)}</li>"
      for number, name in boxes
    )
    parts.append(f'<ul class="tally">{items}</ul>')
  parts += [_section(section, folder) for section in sections]
  if absent:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in absent)
    parts.append(
      f'<section class="absent"><h2>Not on this page</h2><ul>{items}</ul>'
      "</section>"
    )
  return "\n".join([*parts, "</body></html>"]) + "\n"


def _section(section: Section, folder: pathlib.Path) -> str:
  parts = [f"<section><h2>{html.escape(section.title)}</h2>"]
  parts += [f"<p>{html.escape(line)}</p>" for line in section.text]
  for name, alt in section.pictures:
    data = base64.b64encode((folder / name).read_bytes()).decode()
    parts.append(
      f'<figure><img src="data:image/png;base64,{data}" '
      f'alt="{html.escape(alt)}"></figure>'
    )
  return "\n".join([*parts, section.body, "</section>"])


def datum(value: float | None, name: str) -> str:
  """A number as four digits, with its exact value and name for machines."""
  if value is None or not math.isfinite(value):
    return "&ndash;"
  return (
    f'<data class="{html.escape(name)}" value="{value!r}">{value:.4f}</data>'
  )


def table(head: list[str], rows: list[list[str]]) -> str:
  """A table of HTML cells; the first column is text, the others numbers."""
  first = "".join(f"<th>{html.escape(name)}</th>" for name in head)
  lines = "".join(
    f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows
  )
  return (
    f'<div class="wide"><table class="numbers"><thead><tr>{first}</tr></thead>'
    f"<tbody>{lines}</tbody></table></div>"
  )


def metric_table(metrics: dict) -> str:
  """Every metric of a results.json with its interval and its n."""
  rows = []
  for name, entry in metrics.items():
    interval = ""
    if entry["low"] is not None:
      low, high = datum(entry["low"], "low"), datum(entry["high"], "high")
      interval = f"{low} to {high}"
    rows.append(
      [
        html.escape(name.replace("_", " ")),
        datum(entry["value"], name),
        interval,
        "" if entry["n"] is None else f"{entry['n']:,}",
      ]
    )
  return table(["metric", "value", "95 % interval", "n"], rows)


def tree(example: Example) -> str:
  """A group as its trunk and, below it, a branch per completion."""
  most = max(branch.score for branch in example.branches)
  least = min(branch.score for branch in example.branches)
  items = []
  for branch in example.branches:
    facts = [branch.said] if branch.said else []
    if math.isfinite(branch.gold):
      facts.append(f"gold {branch.gold:.4g}")
    if not branch.tokens:
      facts.append("all of it is the trunk")
    elif branch.fork < example.tokens:
      facts.append(f"leaves the trunk after {branch.fork} tokens")
    share = (branch.score - least) / (most - least) if most > least else 1.0
    items.append(
      f'<li><span class="score">{branch.score:.3f}</span> '
      f'<span class="soft">{html.escape(", ".join(facts))}</span>'
      f'<div class="share"><i style="width:{share:.1%}"></i></div>'
      f'<div class="text">{html.escape(shortened(branch.text))}</div></li>'
    )
  shared = f"{example.tokens} tokens computed once"
  right = ""
  if example.compared:
    right = f"; {example.right:g} of {example.compared} comparisons right"
  return (
    f'<article class="tree"><p class="soft">{shared}{right}</p>'
    f'<div class="text">{html.escape(shortened(example.trunk))}</div>'
    f"<ol>{''.join(items)}</ol></article>"
  )


def folded(title: str, text: str) -> str:
  """Text that opens on a click."""
  return (
    f"<details><summary>{html.escape(title)}</summary>"
    f"<pre>{html.escape(text)}</pre></details>"
  )


def shortened(text: str) -> str:
  """The text, without its middle where it is longer than LETTERS."""
  if len(text) <= LETTERS:
    return text
  half = LETTERS // 2
  left_out = len(text) - 2 * half
  return f"{text[:half]} [... {left_out:,} characters ...] {text[-half:]}"
