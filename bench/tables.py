"""Tables of three pages, and the picture of one, from committed results.

  python -m bench.tables    writes them anew

A number in a table is the median over repeats, with the smallest and the
largest behind it.
"""

import json
import pathlib
import re

import numpy as np

from rm_jax.evals import canvas

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
PAGES = (
  ROOT / "docs" / "speed.md",
  ROOT / "docs" / "steps.md",
  ROOT / "README.md",
)
PICTURE = ROOT / "docs" / "speed.png"  # of `scaling`
BLOCK = re.compile(r"<!-- table (\w+) (\S+) -->\n(.*?)<!-- end -->", re.DOTALL)
WALL, CPU = 0, 1  # of a pair of seconds
PARTS = ("forward", "backward", "optimizer")


def grid(head: tuple, rows: list[tuple]) -> str:
  """A Markdown table; numbers to the right."""
  line = [":--" if i == 0 else "--:" for i in range(len(head))]
  return "\n".join(
    "| " + " | ".join(map(str, row)) + " |" for row in (head, line, *rows)
  )


def number(x: float) -> str:
  """Three digits that count, thousands set off."""
  if x >= 100:
    return f"{x:,.0f}"
  return f"{x:.1f}" if x >= 10 else f"{x:.2f}"


def spread(values) -> str:
  """Median (smallest to largest)."""
  middle = number(float(np.median(values)))
  return f"{middle} ({number(min(values))} to {number(max(values))})"


def seconds(variant: dict, part: str = "step", clock: int = WALL) -> list:
  """Of each repeat."""
  return [repeat[part][clock] for repeat in variant["repeats"]]


def ratios(slow: dict, fast: dict, clock: int = WALL) -> list[float]:
  """How many times as long the slow one took, round by round."""
  both = zip(
    seconds(slow, clock=clock), seconds(fast, clock=clock), strict=True
  )
  return [a / b for a, b in both]


def machine(result: dict) -> str:
  """One line: what it was measured on."""
  versions = [f"{name} {v}" for name, v in result["versions"].items()]
  if "torch" in result:
    torch = result["torch"]
    versions += [f"{n} {torch[n]}" for n in ("torch", "transformers")]
  hardware = "with" if result["bfloat16_hardware"] else "without"
  return (
    f"{result['processor']}, {result['cores']} cores, {hardware} bfloat16 in "
    f"hardware; {', '.join(versions)}; commit {result['commit']}; load average "
    f"{result['load_average'][0]} at the start; `{result['command']}`"
  )


def pairs(result: dict) -> str:
  """Ours and torch's on the same pairs."""
  variants = result["variants"]
  ours = [name for name in variants if name.startswith("ours")]
  count, useful = result["pairs"], result["useful_tokens"]
  rows = []
  for name, variant in variants.items():
    took = seconds(variant)
    computed = variant["computed_tokens"]
    shown = name
    if name not in ours:
      at_once = variant["pairs_at_once"]
      shown += f", {at_once} pairs a forward"
      shown += ", checkpointing" if variant["checkpointing"] else ""
    middle = float(np.median(took))
    rows.append(
      (
        shown,
        f"{computed:,}",
        spread(took),
        spread(seconds(variant, clock=CPU)),
        *(number(float(np.median(seconds(variant, p)))) for p in PARTS),
        number(count / middle),
        number(useful / middle),
        number(computed / middle),
      )
    )
  head = (
    "step",
    "tokens computed",
    "seconds",
    "processor seconds",
    *PARTS,
    "pairs/s",
    "useful tok/s",
    "computed tok/s",
  )
  lines = []
  for other in variants:
    if other in ours:
      continue
    for mine in ours:
      by_clock = spread(ratios(variants[other], variants[mine]))
      by_cpu = spread(ratios(variants[other], variants[mine], CPU))
      lines.append(
        f"- {mine} against {other}: **{by_clock} times the pairs a second**; "
        f"by processor time {by_cpu}."
      )
  equal = result["equal"]
  tokens = [result[f"{x}_tokens"] for x in ("padded", "unshared", "useful")]
  shares = " : ".join(number(x / tokens[-1]) for x in tokens)
  about = (
    f"{count} pairs of {result['source']}, padded : alone : shared tokens = "
    f"{tokens[0]:,} : {tokens[1]:,} : {tokens[2]:,} = {shares}. Before the "
    f"first step the scores of both sides differ by at most "
    f"{equal['largest_score_difference']:.1e}, the gradients of "
    f"{equal['tensors']} tensors by {equal['largest_gradient_difference']:.1e} "
    "of their norm (float32)."
  )
  return "\n\n".join(
    [about, grid(head, rows), "\n".join(lines), machine(result)]
  )


def brief_pairs(result: dict) -> str:
  """The same in four columns."""
  variants = result["variants"]
  ours = next(v for name, v in variants.items() if name.startswith("ours"))
  rows = [
    (
      BRIEF[DTYPE.sub(" ", name).strip()],
      f"{variant['computed_tokens']:,}",
      spread(seconds(variant)),
      spread(ratios(variant, ours)),
    )
    for name, variant in variants.items()
  ]
  head = (
    f"{result['pairs']} pairs of {result['source']}",
    "tokens computed",
    "seconds a step",
    "times ours",
  )
  return "\n\n".join([grid(head, rows), machine(result)])


DTYPE = re.compile(r" b?float(16|32)-?")
BRIEF = {
  "ours": "ours",
  "torch": "torch, padded as TRL does by default",
  "torch tuned": "torch, four pairs a forward, no checkpointing",
}
ENCODED = {
  "shared": "one tree a group",
  "once": "every completion once",
  "pairs": "every comparison alone",
}


def rankings(result: dict) -> str:
  """Three ways to encode groups of K, one loss."""
  rows = []
  variants = result["variants"]
  for variant in variants.values():
    k = variant["k"]
    size = result["sizes"][str(k)]
    tree = variants[f"{k} shared"]
    rows.append(
      (
        f"K={k}, {ENCODED[variant['encoded']]}",
        size["groups"],
        size["comparisons"],
        f"{variant['useful_tokens']:,}",
        f"{variant['computed_tokens']:,}",
        spread(seconds(variant)),
        number(variant["useful_tokens"] / tree["useful_tokens"]),
        spread(ratios(variant, tree)),
        spread(ratios(variant, tree, CPU)),
      )
    )
  head = (
    "step",
    "groups",
    "comparisons",
    "tokens",
    "computed",
    "seconds",
    "tokens / tree's",
    "time / tree's",
    "processor time / tree's",
  )
  sources = {f"K={k}: {size['source']}" for k, size in result["sizes"].items()}
  return "\n\n".join(
    [grid(head, rows), "; ".join(sorted(sources)) + ".", machine(result)]
  )


def points(result: dict, series: str) -> list[dict]:
  """The measured points of one series, in order."""
  return [v for v in result["variants"].values() if v["series"] == series]


def per_token(variant: dict, clock: int) -> float:
  """Milliseconds a useful token, the median."""
  took = np.median(seconds(variant, clock=clock))
  return float(took) / variant["useful_tokens"] * 1e3


def scaling(result: dict) -> str:
  """Time by useful tokens, and by row length."""
  out = []
  for series, first in (("tokens", "useful tokens"), ("row_len", "row length")):
    rows = []
    for v in points(result, series):
      value = v["useful_tokens"] if series == "tokens" else v["row_len"]
      rows.append(
        (
          f"{value:,}",
          f"{v['useful_tokens']:,}",
          f"{v['computed_tokens']:,}",
          v["row_len"],
          spread(seconds(v)),
          spread(seconds(v, clock=CPU)),
          number(per_token(v, WALL)),
          number(per_token(v, CPU)),
        )
      )
    head = (
      first,
      "useful",
      "computed",
      "row length",
      f"seconds, {result['layers']} layers",
      "processor seconds",
      "ms / useful token",
      "processor ms / useful token",
    )
    out.append(grid(head, rows))
  picture = f"![Seconds of a step]({PICTURE.name})"
  return "\n\n".join([*out, picture, machine(result)])


def profile(result: dict) -> str:
  """Where the time of a step goes, and the limit."""
  total = sum(sum(row.values()) for row in result["traced"].values())
  passes = ("forward", "again", "backward")
  rows = []
  for part, row in result["traced"].items():
    mine = sum(row.values())
    shown = [number(row[p]) if p in row else "" for p in passes]
    rows.append((part, *shown, number(mine), f"{mine / total:.0%}"))
  head = ("part", *passes, "seconds", "share")
  matrix = result["teraflops"]
  flops = matrix["products"] + matrix["attention"]
  (wall, cpu), (step_wall, step_cpu) = result["gradient"], result["optimizer"]
  limit = max(rate["all"] for rate in result["limit"])
  reached = flops * 1e3 / wall
  kinds = ("forward", "input_gradient", "weight_gradient")
  limits = [
    (f"{rate['dtype']}, {name}", *(row[k] for k in kinds))
    for rate in result["limit"]
    for name, row in rate["products"].items()
  ]
  said = (
    f"The gradient takes {number(wall)} s ({number(cpu)} of the processors) "
    f"for {flops:.2f} Tflop ({matrix['products']:.2f} in products with "
    f"matrices), the optimizer {number(step_wall)} s ({number(step_cpu)}). The "
    f"gradient runs at {number(reached)} GFLOP/s; the products of a layer "
    f"alone, each as fast as it goes here, at {limit}: the step reaches "
    f"{reached / limit:.0%} of that."
  )
  return "\n\n".join(
    [
      grid(head, rows),
      said,
      grid(("GFLOP/s of products", *kinds), limits),
      machine(result),
    ]
  )


def layouts(result: dict) -> str:
  """Tokens, fill and operations of a step by layout; whole files."""
  steps, files = [], []
  for kind, entry in result["kinds"].items():
    step = entry["step"]
    for layout in ("padded", "packed", "shared"):
      row = step[layout]
      timed = result["variants"].get(f"{kind} {layout}")
      steps.append(
        (
          f"{kind} ({entry['source']}), {layout}",
          step["groups"],
          f"{row['useful_tokens']:,}",
          f"{row['computed_tokens']:,}",
          number(row["computed_tokens"] / row["useful_tokens"]),
          f"{row['rows']} x {row['row_len']}",
          number(sum(row["teraflops"].values())),
          number(row["teraflops"]["attention"]),
          spread(seconds(timed)) if timed and timed["repeats"] else "",
        )
      )
    tokens = entry["file"]
    files.append(
      (
        f"{kind} ({entry['source']})",
        f"{tokens['groups']:,}",
        *(f"{tokens[x]:,}" for x in ("padded", "unshared", "shared")),
        number(tokens["shared"] / tokens["unshared"]),
      )
    )
  modes = [
    (
      f"{mode}, {layout}",
      row["steps"],
      f"{row['groups']:,}",
      f"{row['useful_tokens']:,}",
      f"{row['computed_tokens']:,}",
      f"{row['computed_tokens'] / row['useful_tokens']:.3f}",
    )
    for mode, by_layout in result["kinds"]["pairs"]["epoch"].items()
    for layout, row in by_layout.items()
  ]
  return "\n\n".join(
    [
      grid(
        (
          "one step",
          "groups",
          "useful tokens",
          "computed",
          "computed / useful",
          "rows",
          "Tflop",
          "of it attention",
          f"seconds, {result['layers']} layers",
        ),
        steps,
      ),
      grid(
        (
          "whole file",
          "groups",
          "padded, 16 a step",
          "alone",
          "shared",
          "shared / alone",
        ),
        files,
      ),
      grid(
        (
          f"data.batch, layout (pairs, rows of {result['row_len']})",
          "steps",
          "groups",
          "useful tokens",
          "computed",
          "computed / useful",
        ),
        modes,
      ),
      machine(result),
    ]
  )


def startup(result: dict) -> str:
  """From the command to the first train step, and where it went."""
  rows = []
  for tree, found in result["measured"].items():
    for what in ("cold", "warm"):
      entry = found[what]
      longest = sorted((entry.get("stages") or {}).items(), key=lambda x: -x[1])
      rows.append(
        (
          f"{tree} (commit {result['commit'][tree]}), {what} caches",
          spread(entry["seconds"]["all"]),
          spread(entry["cpu_seconds"]["all"]),
          ", ".join(f"{name} {number(x)}" for name, x in longest[:4]),
        )
      )
  head = (
    result["config"],
    "seconds to the first step",
    "processor seconds of the run",
    "longest stages",
  )
  about = (
    f"Device {result['device']}, jax {result['versions']['jax']}, load average "
    f"{result['load'][0]:.1f} at the start; `{result['command']}`"
  )
  return "\n\n".join([grid(head, rows), about])


def rollouts(result: dict) -> str:
  """What a label of rollouts costs, and how close it is."""
  rows = []
  for v in result["variants"].values():
    each = 1e3 / v["labels"]
    rows.append(
      (
        v["samples"],
        v["labels"],
        v["encoded_tokens_per_label"],
        v["encoded_alone_per_label"],
        v["sampled_tokens_per_label"],
        *(
          spread([each * s for s in seconds(v, part, clock)])
          for part, clock in (
            ("step", WALL),
            ("alone", WALL),
            ("step", CPU),
            ("alone", CPU),
          )
        ),
        v["rmse_to_exact"],
        f"{v['hard_label_is_the_lines']:.1%}",
      )
    )
  head = (
    "samples",
    "labels",
    "encoded tokens a label",
    "encoded, every prefix by itself",
    "sampled tokens a label",
    "ms a label",
    "ms, every prefix by itself",
    "processor ms a label",
    "processor ms, every prefix by itself",
    "RMSE to the exact chance",
    "hard label is the line's",
  )
  return "\n\n".join([grid(head, rows), machine(result)])


TABLES = {
  f.__name__: f
  for f in (
    *(pairs, brief_pairs, rankings, scaling, profile, layouts, startup),
    rollouts,
  )
}


def draw(result: dict, path: pathlib.Path) -> None:
  """Writes the picture of `scaling`."""
  figure, (left, right) = canvas.new(4.0, 1, 2)
  for axes, series, key, title in (
    (left, "tokens", "useful_tokens", "a step against its useful tokens"),
    (right, "row_len", "row_len", "the same pairs against the row length"),
  ):
    found = points(result, series)
    x = [v[key] for v in found]
    for clock, colour, name in (
      (WALL, canvas.BLUE, "clock"),
      (CPU, canvas.ORANGE, "processor, all threads"),
    ):
      took = np.array([seconds(v, clock=clock) for v in found])
      middle = np.median(took, axis=1)
      gap = [middle - took.min(axis=1), took.max(axis=1) - middle]
      axes.errorbar(
        x, middle, yerr=gap, color=colour, marker="o", capsize=3, label=name
      )
      if series == "tokens":
        line = np.asarray(x) * (middle / x).mean()
        axes.plot(x, line, color=colour, linestyle=":", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_xticks(x, [f"{n:,}" for n in x])
    if series == "tokens":
      axes.set_yscale("log", base=2)
    else:
      axes.set_ylim(bottom=0)
    axes.set_xlabel(key.replace("_", " ").replace("row len", "row length"))
    axes.set_ylabel("seconds")
    axes.set_title(title)
    axes.legend()
  canvas.write(figure, path)


def fill(text: str) -> str:
  """A page with every table printed anew."""

  def one(match):
    path, table = RESULTS / match[2], "Not measured yet: `make speed`."
    if path.exists():
      table = TABLES[match[1]](json.loads(path.read_text()))
    return f"<!-- table {match[1]} {match[2]} -->\n{table}\n<!-- end -->"

  return BLOCK.sub(one, text)


def main() -> None:
  for page in PAGES:
    page.write_text(fill(page.read_text()))
  path = RESULTS / "scaling.json"
  if path.exists():
    draw(json.loads(path.read_text()), PICTURE)


if __name__ == "__main__":
  main()
