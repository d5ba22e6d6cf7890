"""The model card of an exported folder: every number comes from a file."""

import json
import pathlib
from typing import NamedTuple

from rm_jax.config import base
from rm_jax.data.handover import Handover
from rm_jax.export.heads import Classifier
from rm_jax.losses import KIND
from rm_jax.types import UserError

# What the table shows, in this order; the others follow by name.
FIRST = (
  "accuracy",
  "length_only_accuracy",
  "accuracy_over_length",
  "calibration_error",
  "brier",
)

# Keys that hold places of the machine that trained; told by their last part.
PLACES = ("source", "eval_source", "cache", "from", "tokenizer")


class Measured(NamedTuple):
  """One table of metrics: where they were measured, and the numbers."""

  title: str
  metrics: dict  # {name: {"value", "low", "high", "n"}}
  told: str  # commit, device, ties


def write_card(
  runs: list,
  *,
  name: str,
  classifier: Classifier,
  handover: Handover,
  decoder,
  dtype: str,
  normaliser: tuple | None,
  results: list,
) -> str:
  """README.md of the folder, Markdown.

  Args:
    runs: the training runs behind the weights: none (a published model), one,
      or several that were averaged.
    name: of the folder.
    handover: tokenizer and recipe as they are written.
    normaliser: (mean, std, ...) of scores, where one was fitted.
    results: paths of results.json files of rm-jax eval.
  """
  parts = [
    _front(classifier),
    f"# {name}",
    _about(runs, classifier, decoder, dtype),
    "## Use\n\n" + _use(classifier, handover, normaliser),
    *_trained(runs),
    *_measured(runs, results),
    "## Intended use\n\n" + _intended(runs),
    "## Limits\n\n" + _limits(runs, handover, results),
  ]
  return "\n\n".join(parts) + "\n"


def _front(classifier) -> str:
  task = {"sequence": "text-classification", "token": "token-classification"}
  return "\n".join(
    [
      "---",
      "library_name: transformers",
      f"pipeline_tag: {task[classifier.architecture]}",
      "tags:",
      "- reward-model",
      "- rm_jax",
      "---",
    ]
  )


def _about(runs, classifier, decoder, dtype) -> str:
  bases = sorted({place(run.config.init["from"]) for run in runs})
  origin = f"A reward model trained with rm_jax from `{', '.join(bases)}`."
  if not runs:
    origin = "A reward model, converted by rm_jax; how it was trained is not "
    origin += "known to it."
  if len(runs) > 1:
    origin += f" The weights are the mean of {len(runs)} runs."
  outputs = len(classifier.labels)
  return (
    f"{origin} {decoder.layers} layers of width {decoder.width}, "
    f"{outputs} output{'s' if outputs > 1 else ''}, weights in {dtype}"
    f"{'' if dtype == 'float32' else ' (the head in float32)'}.\n\n"
    + "\n".join(f"- {note}" for note in classifier.notes)
  )


# ---------------------------------------------------------------- use


def _use(classifier, handover, normaliser) -> str:
  reward = ""
  if normaliser is not None:
    mean, std, *known = normaliser
    on = f" on `{place(known[0])}`" if known and known[0] else ""
    reward = (
      f" Its scores{on} have mean {mean:.6g} and std {std:.6g}; nothing above "
      "subtracts or divides by them, `RewardModel.reward` does both."
    )
  return (
    f"```python\n{snippet(classifier, handover)}```\n\n"
    "`rm_jax.RewardModel.load(folder).score(prompt, completions)` gives the "
    "same numbers and refuses another tokenizer or template." + reward
  )


def snippet(classifier: Classifier, handover: Handover) -> str:
  """Python that scores `prompt` and `completions` with transformers alone."""
  kind = classifier.architecture.capitalize()
  lines = [
    "import torch",
    f"from transformers import AutoModelFor{kind}Classification, AutoTokenizer",
    "",
    "folder = '.'",
    "tokenizer = AutoTokenizer.from_pretrained(folder)",
    f"model = AutoModelFor{kind}Classification.from_pretrained(folder).eval()",
    "prompt, completions = 'What is 2 plus 3?', ['It is 5.', 'I like trains.']",
    "ids = [",
    *{
      "chat": [
        "  tokenizer.apply_chat_template(",
        "    [{'role': 'user', 'content': prompt},",
        "     {'role': 'assistant', 'content': completion}],",
        "    return_dict=False)",
      ],
      "special": [
        "  tokenizer(prompt + completion + tokenizer.eos_token)['input_ids']",
      ],
      "plain": [
        "  tokenizer(prompt + completion + tokenizer.eos_token,",
        "            add_special_tokens=False)['input_ids']",
      ],
    }[handover.recipe],
    "  for completion in completions",
    "]",
    "batch = tokenizer.pad({'input_ids': ids}, return_tensors='pt')",
    "with torch.no_grad():",
    "  logits = model(**batch).logits",
  ]
  if classifier.architecture == "token":
    lines.append("logits = [row[:len(i)] for row, i in zip(logits, ids)]")
  return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- training


def place(value: str) -> str:
  """A source as others may know it: a URL or name whole, a path's last part."""
  parts = [
    one if "://" in one or "/" not in one else pathlib.PurePath(one).name
    for one in str(value).split(",")
  ]
  return ", ".join(parts)


def changed_keys(config) -> dict:
  """{dotted key: value} where a config is not the base config."""

  def flat(tree, prefix):
    if not isinstance(tree, dict):
      return {prefix: tree}
    found = {}
    for key, value in tree.items():
      found |= flat(value, f"{prefix}.{key}" if prefix else key)
    return found

  now, before = flat(config.to_dict(), ""), flat(base().to_dict(), "")
  return {k: v for k, v in now.items() if k not in before or v != before[k]}


def _trained(runs) -> list[str]:
  parts = []
  for number, run in enumerate(runs, 1):
    stored = _results_of(run)
    rows = ["| key | value |", "|---|---|"]
    for key, value in sorted(changed_keys(run.config).items()):
      if key.rpartition(".")[2] in PLACES:
        value = place(value)
      rows.append(f"| `{key}` | `{value}` |")
    title = "## Training"
    if len(runs) > 1:
      title += f" of run {number}"
    counts, commit = "", "unknown (the run has no results.json)"
    if stored:
      c = stored["counts"]
      counts = (
        f" on {c['train_groups']:,} groups ({c['train_tokens_unshared']:,} "
        "tokens, prompts counted once per completion)"
      )
      commit = stored["commit"] or "unknown"
    parts.append(
      f"{title}\n\nLoss `{run.config.loss.name}`, checkpoint of train step "
      f"{run.step} of {run.config.num_train_steps}{counts}. Data "
      f"`{place(run.config.data.source)}`. Commit of rm_jax: {commit}. What "
      "differs from the base config:\n\n" + "\n".join(rows)
    )
  return parts


def _results_of(run) -> dict | None:
  path = run.workdir / "results.json"
  return json.loads(path.read_text()) if path.is_file() else None


# ---------------------------------------------------------------- metrics


def _measured(runs, results) -> list[str]:
  tables = []
  for number, run in enumerate(runs, 1):
    title = "Evaluation" + (f" of run {number}" if len(runs) > 1 else "")
    tables.append(_of_run(run, title))
  tables += [_of_file(path) for path in results]
  parts = []
  for one in tables:
    text = one.told
    if one.metrics:
      text += "\n\n" + metric_table(one.metrics)
    parts.append(f"## {one.title}\n\n{text}")
  return parts


def metric_table(metrics: dict) -> str:
  """Markdown: a row per metric, its 95 % interval where it has one."""

  def number(x):
    return "" if x is None else f"{x:.4g}"

  names = [n for n in FIRST if n in metrics]
  names += [n for n in sorted(metrics) if n not in FIRST]
  rows = ["| metric | value | 95 % interval | n |", "|---|---|---|---|"]
  for name in names:
    m = metrics[name]
    interval = ""
    if m["low"] is not None:
      interval = f"{number(m['low'])} to {number(m['high'])}"
    count = "" if m.get("n") is None else f"{m['n']:,}"
    rows.append(f"| {name} | {number(m['value'])} | {interval} | {count} |")
  return "\n".join(rows)


def _of_run(run, title) -> Measured:
  """What the run measured of this very checkpoint."""
  held_out = place(run.config.data.eval_source) or (
    f"the {run.config.data.eval_share:.0%} of prompts that were held out"
  )
  stored = _results_of(run)
  if stored and stored["num_train_steps"] == run.step:
    told = (
      f"On {held_out}. Ties count one {stored['ties']}. {stored['device']}."
    )
    return Measured(title, stored["metrics"], told)
  path = run.workdir / "metrics.jsonl"
  lines = path.read_text().splitlines() if path.is_file() else []
  for row in map(json.loads, lines):
    # Not eval/loss: a run of several terms logs each, one of tasks each task's.
    evaluated = any(key.startswith("eval/") for key in row)
    if row["step"] == run.step and evaluated:
      told = f"On {held_out}, at train step {run.step}. Ties count one half."
      return Measured(title, _from_row(row), told)
  told = f"The checkpoint of train step {run.step} was not evaluated."
  return Measured(title, {}, told)


def _from_row(row: dict) -> dict:
  """The metrics of one line of metrics.jsonl."""
  own = {
    k.removeprefix("eval/"): v for k, v in row.items() if k.startswith("eval/")
  }
  return {
    name: {
      "value": value,
      "low": own.get(f"{name}_low"),
      "high": own.get(f"{name}_high"),
    }
    for name, value in own.items()
    if not name.endswith(("_low", "_high"))
  }


def _of_file(path) -> Measured:
  path = pathlib.Path(path)
  try:
    stored = json.loads(path.read_text())
    metrics, command = stored["metrics"], stored["command"]
  except (json.JSONDecodeError, KeyError, TypeError) as error:
    raise UserError(
      f"--results: {path}: expected a results.json of rm-jax eval, got a file "
      f"that is none ({error!r:.80}): run rm-jax eval --out={path}."
    ) from error
  data = [
    place(word.partition("=")[2])
    for word in str(command).split()
    if word.startswith("--data=")
  ]
  title = f"Evaluation on {data[0] if data else path.stem}"
  told = (
    f"By `rm-jax eval`, commit {stored['commit'] or 'unknown'}. Ties count one "
    "half."
  )
  return Measured(title, metrics, told)


# ---------------------------------------------------------------- in words


def _intended(runs) -> str:
  kinds = {KIND[run.config.loss.name] for run in runs}
  use = (
    "To score completions of prompts like those of its training data: to rank "
    "candidates, as a reward in reinforcement learning, to filter data."
  )
  if kinds & {"pairwise", "listwise"}:
    use += (
      " It was trained on comparisons within a prompt: differences of scores "
      "of one prompt mean something, a score alone and its sign do not."
    )
  return use


def _limits(runs, handover, results) -> str:
  lines = [
    f"Read in rows of at most {handover.reading.row_len} tokens, prompt and "
    "completion together; longer texts were never seen.",
    "Another chat template, a second BOS or text after the last token changes "
    "the score.",
    "The license of the base model and of the data hold for this model too.",
  ]
  if len(runs) > 1 and not results:
    lines.append(
      "The mean of the weights itself was not evaluated; the tables are those "
      "of its members."
    )
  if not runs and not results:
    lines.append("Nothing was measured for this card.")
  if runs:
    lines.append(
      "The evaluation is on prompts of the same source as the training data; "
      "what it says about others is unknown."
    )
  lines.append(
    "A reward that is optimised against is exceeded: hold the policy near what "
    "was scored in training, and look at samples."
  )
  return "\n".join(f"- {line}" for line in lines)
