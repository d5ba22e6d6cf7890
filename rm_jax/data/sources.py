"""Files that people have to records: foreign field names end here.

A row's format is recognised by its fields (FORMATS, first match). Every row
gives records or a Reject that names its file and line; none is dropped in
silence.
"""

import difflib
import gzip
import json
import math
import os
import pathlib
import zlib
from collections.abc import Callable
from typing import NamedTuple

from rm_jax.data.rejects import Reject, check_share, write_rejects
from rm_jax.data.templates import common_prefix, parse_dialogue
from rm_jax.types import Record, UserError

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
CHUNK = 1 << 16  # characters read at a time from a JSON array
STEP_SEPARATOR = "\n"  # between the steps of one completion
ROLES = {"human": "user", "gpt": "assistant", "prompter": "user"}


class BadRow(Exception):
  """Reason why a row, or one record of it, cannot be used."""


# ---------------------------------------------------------------- reading


def load(path, *, kind="auto", max_reject_share: float, rejects_path) -> list:
  """Returns the records of a file or folder; rejects are written and counted.

  Writes `rejects_path`, one JSON object {file, line, reason} per line. Raises
  UserError when nothing is read or more than `max_reject_share` is rejected.
  """
  records, rejects = [], []
  for item in read_records(path, kind=kind):
    (rejects if isinstance(item, Reject) else records).append(item)
  write_rejects(rejects, rejects_path)
  total = len(records) + len(rejects)
  if not total:
    raise UserError(f"{path} holds no records, expected at least one row.")
  check_share(rejects, total, max_reject_share=max_reject_share)
  return records


def read_records(path, *, kind="auto"):
  """Yields a Record or a Reject per record of a file or folder, streaming.

  Args:
    path: .json or .jsonl, plain or .gz, holding a JSON array or one object per
      line; or a folder, whose files with these endings are read in name order.
    kind: "auto" recognises each row by its fields; a key of FORMATS reads
      every row as that. {prompt, completions, labels} is TRL's stepwise format
      unless kind="outcome" says that the completions are whole answers.

  Raises:
    UserError: no such file, unknown kind, a file that breaks off.
  """
  check_kind(kind)
  for file in find_files(path):
    for line, row in read_rows(file):
      if isinstance(row, BadRow):
        yield Reject(str(file), line, str(row))
        continue
      for item in row_items(row, kind):
        if isinstance(item, BadRow):
          yield Reject(str(file), line, str(item))
        else:
          yield item._replace(source=str(file), line=line)


def check_kind(kind: str) -> None:
  if kind != "auto" and kind not in FORMATS:
    raise UserError(
      f"kind={kind!r} is unknown: use 'auto' or one of {', '.join(FORMATS)}."
    )


def find_files(path) -> list:
  """Returns the files to read; UserError names the nearest if none is there."""
  path = pathlib.Path(path)
  if path.is_dir():
    files = sorted(f for f in path.rglob("*") if f.name.endswith(SUFFIXES))
    if not files:
      raise UserError(
        f"{path} holds no data file: expected names ending in "
        f"{', '.join(SUFFIXES)}."
      )
    return files
  if not path.exists():
    folder = path.parent
    names = os.listdir(folder) if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.3)
    found = ", ".join(near or sorted(names)[:3])
    hint = f"nearest there: {found}" if found else f"{folder} has no files"
    raise UserError(f"{path} does not exist ({hint}). Correct the path.")
  if not path.name.endswith(SUFFIXES):
    raise UserError(
      f"{path} has an unknown ending: expected one of {', '.join(SUFFIXES)}."
    )
  return [path]


def read_rows(file):
  """Yields (line, row or BadRow); in a JSON array the line is the row."""
  opener = gzip.open if file.name.endswith(".gz") else open
  try:
    with opener(file, "rb") as stream:
      head = stream.read(CHUNK).removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"["):
      with opener(file, "rt", encoding="utf-8-sig") as text:
        yield from read_array(file, text)
    else:
      with opener(file, "rb") as stream:
        yield from read_lines(stream)
  except (EOFError, gzip.BadGzipFile, zlib.error) as error:
    raise UserError(
      f"{file} is not a whole gzip file ({error}): copy it again."
    ) from error


def read_lines(stream):
  for line, raw in enumerate(stream, start=1):
    if not raw.strip():
      continue
    try:
      yield line, json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
      yield line, BadRow(f"not UTF-8 at byte {error.start} of the line")
    except json.JSONDecodeError as error:
      yield line, BadRow(f"bad JSON at column {error.colno}: {error.msg}")
    except (ValueError, RecursionError) as error:
      # A number of thousands of digits; brackets nested as deep.
      yield line, BadRow(f"bad JSON: {error}")


def read_array(file, text):
  """Yields (row number, value) of a JSON array without holding all of it."""
  decoder = json.JSONDecoder()
  buffer = text.read(CHUNK).lstrip()[1:]
  row = 0
  while True:
    buffer = buffer.lstrip().removeprefix("," if row else "").lstrip()
    if buffer.startswith("]"):
      return
    try:
      value, end = decoder.raw_decode(buffer)
      # A number at the end of the buffer may go on in the next chunk.
      whole = end < len(buffer)
    except json.JSONDecodeError as error:
      problem, whole = error, False
    else:
      problem = "it breaks off"
    if whole:
      row += 1
      yield row, value
      buffer = buffer[end:]
      continue
    more = text.read(max(CHUNK, len(buffer)))  # doubling: linear in total
    if not more:
      # Nothing after this row can be found, so it is not one reject.
      raise UserError(
        f"{file}: bad JSON in row {row + 1} of the array ({problem}): correct "
        "the file, or write one object per line."
      )
    buffer += more


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
    items = FORMATS[name].read(row)
    return items if isinstance(items, list) else [items]
  except BadRow as error:
    return [error]
  except (KeyError, TypeError, AttributeError) as error:
    # Inside a nested foreign row: no field is as its format says.
    problem = f"{type(error).__name__}: {error}"
    return [BadRow(f"malformed, expected {FORMATS[name].shape}: {problem}")]


def recognise(row) -> str:
  for name, known in FORMATS.items():
    if all(field in row for field in known.fields) and known.test(row):
      return name
  shapes = "; ".join(known.shape for known in FORMATS.values())
  raise BadRow(
    f"unrecognised record: keys {{{', '.join(sorted(row))}}}; known shapes: "
    f"{shapes}"
  )


# ---------------------------------------------------------------- values


def is_number(value) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)


def need_number(value, name: str) -> float:
  if not is_number(value):
    raise BadRow(f"{name} must be a number, got {json.dumps(value)[:40]}")
  if not math.isfinite(value):
    raise BadRow(f"{name} must be finite, got {value}")
  return float(value)


def need_label(value, name: str) -> float:
  """Returns a boolean as 0.0 or 1.0, a soft label as it is: never int()."""
  label = float(value) if isinstance(value, bool) else need_number(value, name)
  if not 0 <= label <= 1:
    raise BadRow(f"{name} must be a boolean or in [0, 1], got {value}")
  return label


def need_list(value, name: str) -> list:
  if not isinstance(value, list):
    raise BadRow(f"{name} must be a list, got {type(value).__name__}")
  if not value:
    raise BadRow(f"{name} is empty")
  return value


def need_text(value, name: str) -> str:
  if not isinstance(value, str):
    raise BadRow(f"{name} must be a string, got {type(value).__name__}")
  return value


def need_messages(value, name: str) -> tuple:
  """Returns messages of {role, content}; ShareGPT's {from, value} as well."""
  messages = []
  for i, message in enumerate(need_list(value, name)):
    if not isinstance(message, dict):
      raise BadRow(
        f"{name}[{i}] must be a message, got {type(message).__name__}"
      )
    role = message.get("role", message.get("from"))
    content = message.get("content", message.get("value"))
    role = need_text(role, f"{name}[{i}].role")
    content = need_text(content, f"{name}[{i}].content")
    messages.append({"role": ROLES.get(role, role), "content": content})
  return tuple(messages)


def need_prompt(value):
  return (
    value if isinstance(value, str) else need_messages(value, "field 'prompt'")
  )


def need_completion(value, name: str, prompt=""):
  """Returns a completion: messages, or a string for one assistant turn.

  Messages that begin with the prompt again lose it. Empty is a BadRow.
  """
  if isinstance(value, dict):  # ShareGPT: one message
    value = [value]
  if isinstance(value, list):
    messages = need_messages(value, name)
    head = prompt
    if isinstance(prompt, str):
      head = ({"role": "user", "content": prompt},)
    if len(messages) > len(head) and messages[: len(head)] == tuple(head):
      messages = messages[len(head) :]
    text = messages[-1]["content"]
    if len(messages) == 1 and messages[0]["role"] == "assistant":
      value = text
    else:
      value = messages
  else:
    value = text = need_text(value, name)
  if not text.strip():
    raise BadRow(f"{name} is empty")
  return value


def need_completions(row, values: str) -> tuple:
  """Returns (prompt, completions, values): K of both or a BadRow."""
  prompt = need_prompt(row["prompt"])
  completions = need_list(row["completions"], "field 'completions'")
  given = need_list(row[values], f"field '{values}'")
  if len(given) != len(completions):
    raise BadRow(
      f"field '{values}' has {len(given)} values for {len(completions)} "
      "completions"
    )
  texts = tuple(
    need_completion(completion, f"completion {k}", prompt)
    for k, completion in enumerate(completions)
  )
  return prompt, texts, given


# ---------------------------------------------------------------- general


def read_pair(row) -> Record:
  chosen, rejected = row["chosen"], row["rejected"]
  if chosen == rejected:
    raise BadRow("chosen and rejected are identical")
  if "prompt" in row:
    prompt = need_prompt(row["prompt"])
  elif "conversations" in row:
    prompt = need_messages(row["conversations"], "field 'conversations'")
  else:
    prompt, chosen, rejected = split_prompt(chosen, rejected)
  completions = (
    need_completion(chosen, "the chosen completion", prompt),
    need_completion(rejected, "the rejected completion", prompt),
  )
  if completions[0] == completions[1]:
    raise BadRow("chosen and rejected are identical")
  strength = row.get("strength")
  if strength is not None:
    strength = need_number(strength, "field 'strength'")
  return Record(
    "pair",
    prompt,
    completions,
    ranks=(0, 1),
    ratings=pair_ratings(row),
    strength=strength,
  )


def pair_ratings(row) -> tuple | None:
  """Returns (chosen, rejected) ratings, or None if the row has none."""
  metadata = row.get("metadata")
  scores = metadata if isinstance(metadata, dict) else {}
  chosen = row.get("chosen_rating", scores.get("score_chosen"))
  rejected = row.get("rejected_rating", scores.get("score_rejected"))
  if chosen is None and rejected is None:
    return None
  return (
    need_number(chosen, "the rating of the chosen completion"),
    need_number(rejected, "the rating of the rejected completion"),
  )


def split_prompt(chosen, rejected):
  """Returns (prompt, chosen, rejected) of a pair with an implicit prompt.

  Messages: the prompt is the longest common message prefix that leaves both a
  message. HH-RLHF dialogues: all turns but the last, which must be equal and
  followed by an Assistant turn on both sides. Other strings: the longest common
  prefix that ends in white space and leaves both some text, as plain text.
  """
  if isinstance(chosen, list) and isinstance(rejected, list):
    chosen = need_messages(chosen, "field 'chosen'")
    rejected = need_messages(rejected, "field 'rejected'")
    shared = common_prefix(chosen[:-1], rejected[:-1])
    prompt = chosen[:shared]
    return prompt, list(chosen[shared:]), list(rejected[shared:])
  chosen = need_text(chosen, "field 'chosen'")
  rejected = need_text(rejected, "field 'rejected'")
  turns, other = parse_dialogue(chosen), parse_dialogue(rejected)
  if turns and other:
    for name, dialogue in (("chosen", turns), ("rejected", other)):
      if dialogue[-1]["role"] != "assistant":
        raise BadRow(f"the {name} dialogue does not end with an Assistant turn")
    if turns[:-1] != other[:-1]:
      raise BadRow(
        "earlier turns of chosen and rejected differ: they answer different "
        "dialogues"
      )
    return turns[:-1], turns[-1]["content"], other[-1]["content"]
  shared = common_prefix(chosen, rejected)
  while shared and not (
    chosen[shared - 1].isspace()
    and chosen[shared:].strip()
    and rejected[shared:].strip()
  ):
    shared -= 1
  return chosen[:shared], chosen[shared:], rejected[shared:]


def read_ranking(row) -> Record:
  prompt, completions, ranks = need_completions(row, "ranks")
  for k, rank in enumerate(ranks):
    if not is_number(rank) or not float(rank).is_integer():
      raise BadRow(f"rank {k} must be an integer, got {json.dumps(rank)[:40]}")
  record = Record("ranking", prompt, completions, tuple(map(int, ranks)))
  if "ratings" not in row:
    return record
  return record._replace(ratings=read_ratings(row).ratings)


def read_ratings(row) -> Record:
  prompt, completions, ratings = need_completions(row, "ratings")
  ratings = tuple(need_number(r, f"rating {k}") for k, r in enumerate(ratings))
  return Record("ratings", prompt, completions, ratings=ratings)


def read_outcome(row) -> Record:
  if "completions" in row and "labels" in row:
    prompt, completions, labels = need_completions(row, "labels")
  else:
    if "messages" in row:  # feedback on the last turn of a conversation
      messages = need_messages(row["messages"], "field 'messages'")
      prompt, answer = messages[:-1], [messages[-1]]
    elif "prompt" in row and "completion" in row:
      prompt, answer = need_prompt(row["prompt"]), row["completion"]
    else:
      raise BadRow(f"missing fields, expected {FORMATS['outcome'].shape}")
    completions = (need_completion(answer, "the completion", prompt),)
    labels = [row.get("label")]
  labels = tuple(need_label(y, f"label {k}") for k, y in enumerate(labels))
  return Record("outcome", prompt, completions, labels=labels)


def read_unlabelled(row) -> Record:
  prompt = need_prompt(row["prompt"])
  given = row.get("completions", row.get("completion"))
  many = "completions" in row
  if given is None:
    raise BadRow(f"missing field, expected {FORMATS['unlabelled'].shape}")
  completions = need_list(given, "field 'completions'") if many else [given]
  texts = tuple(
    need_completion(text, f"completion {k}", prompt)
    for k, text in enumerate(completions)
  )
  return Record("unlabelled", prompt, texts)


# ---------------------------------------------------------------- steps
#
# One scale for all: a step label is the probability that the step is right.
# Three-class labels -1, 0, 1 become 0, 1/2, 1, so that 0 always means wrong,
# whoever wrote it; `supervise` turns them back for a three-class loss.


def join_steps(steps, name="completion") -> tuple:
  """Returns (text, ends): the steps joined, and the character after each."""
  text, ends = "", []
  for i, step in enumerate(steps):
    if not need_text(step, f"step {i + 1} of {name}").strip():
      raise BadRow(f"step {i + 1} of {name} is empty")
    text += (STEP_SEPARATOR if i else "") + step
    ends.append(len(text.rstrip()))  # white space may be cut by a template
  return text, tuple(ends)


def three_class(rating) -> float:
  """Returns the label of a rating -1 (wrong), 0 (neutral) or 1 (right)."""
  if isinstance(rating, bool) or rating not in (-1, 0, 1):
    raise BadRow(f"a step rating must be -1, 0 or 1, got {rating!r}")
  return (rating + 1) / 2


def step_labels(labels, name: str) -> tuple:
  """Returns step labels in [0, 1].

  Booleans and numbers in [0, 1] as they are; a list that holds a -1 is read as
  three-class. Integers 0 and 1 alone mean wrong and right.
  """
  if any(is_number(label) and label == -1 for label in labels):
    return tuple(map(three_class, labels))
  return tuple(
    need_label(label, f"step label {i + 1} of {name}")
    for i, label in enumerate(labels)
  )


def read_steps(row) -> Record:
  """TRL's stepwise format, or K of it: lists of steps, lists of labels."""
  prompt = need_prompt(row["prompt"])
  completions = need_list(row["completions"], "field 'completions'")
  labels = need_list(row["labels"], "field 'labels'")
  if not isinstance(completions[0], list):
    completions, labels = [completions], [labels]
  if len(completions) != len(labels):
    raise BadRow(
      f"field 'labels' has {len(labels)} lists for {len(completions)} "
      "completions"
    )
  texts, ends, values = [], [], []
  for k, (steps, marks) in enumerate(zip(completions, labels, strict=True)):
    name = f"completion {k}"
    steps, marks = need_list(steps, name), need_list(marks, f"labels {k}")
    if len(steps) != len(marks):
      raise BadRow(f"{name} has {len(steps)} steps but {len(marks)} labels")
    text, end = join_steps(steps, name)
    texts.append(text)
    ends.append(end)
    values.append(step_labels(marks, name))
  return Record(
    "steps",
    prompt,
    tuple(texts),
    step_ends=tuple(ends),
    step_labels=tuple(values),
  )


def read_prmbench(row) -> Record:
  """PRMBench: `error_steps` counts from 1 in `modified_process`."""
  steps = need_list(row["modified_process"], "field 'modified_process'")
  errors = row["error_steps"]
  for i in errors if isinstance(errors, list) else [errors]:
    if not is_number(i) or not 1 <= i <= len(steps):
      raise BadRow(f"error step {i} is not one of the {len(steps)} steps")
  text, ends = join_steps(steps)
  labels = tuple(0.0 if i + 1 in errors else 1.0 for i in range(len(steps)))
  prompt = need_prompt(row["modified_question"])
  return Record(
    "steps", prompt, (text,), step_ends=(ends,), step_labels=(labels,)
  )


def read_prm800k(row) -> Record:
  """A PRM800K labelling as a tree: the path taken, and forks from it.

  Completion 0 is the trunk: at each step the chosen completion, or the one a
  human wrote (it has no rating, so no label). A last step without either goes
  on with its first completion: the step where the solution went wrong. Every
  other rated completion of a step is a fork: the path before that step and
  itself, labelled on its own step only, so that no step counts twice and none
  follows an alternative that it never saw.

  Source: Lightman et al. 2023, arXiv:2305.20050 (the released PRM800K schema).
  """
  steps = need_list(row["label"]["steps"], "field 'label.steps'")
  path, path_labels, forks = [], [], []
  for i, step in enumerate(steps):
    completions = step.get("completions") or []
    chosen, human = step.get("chosen_completion"), step.get("human_completion")
    if chosen is None and human is None:
      if i + 1 < len(steps) and any(
        s.get("completions") for s in steps[i + 1 :]
      ):
        raise BadRow(f"step {i + 1} has no chosen completion but steps follow")
      chosen = 0
    if human is not None and chosen is None:
      taken = {"text": human["text"], "rating": None}
    elif 0 <= chosen < len(completions):
      taken = completions[chosen]
    elif completions:
      raise BadRow(f"step {i + 1} chose completion {chosen} of none such")
    else:
      break  # given up: a last step that nobody wrote
    for other in completions:
      if other is not taken and other["rating"] is not None:
        forks.append((len(path), other["text"], three_class(other["rating"])))
    rating = taken["rating"]
    path.append(taken["text"])
    path_labels.append(None if rating is None else three_class(rating))
  text, ends = join_steps(need_list(path, "the path"), "the trunk")
  labelled = [i for i, label in enumerate(path_labels) if label is not None]
  texts = [text]
  step_ends = [tuple(ends[i] for i in labelled)]
  labels = [tuple(path_labels[i] for i in labelled)]
  for depth, other, label in forks:
    fork, fork_ends = join_steps([*path[:depth], other], "an alternative")
    texts.append(fork)
    step_ends.append(fork_ends[-1:])
    labels.append((label,))
  return Record(
    "steps",
    need_prompt(row["question"]["problem"]),
    tuple(texts),
    step_ends=tuple(step_ends),
    step_labels=tuple(labels),
    trunk=0,
  )


# ---------------------------------------------------------------- foreign


def solutions(row) -> list:
  return [
    value
    for value in row.values()
    if isinstance(value, dict) and {"solution", "is_correct"} <= value.keys()
  ]


def read_gsm8k(row) -> Record:
  """GSM8K's example solutions: one per model, right or wrong."""
  found = solutions(row)
  return Record(
    "outcome",
    need_prompt(row["question"]),
    tuple(
      need_completion(s["solution"], f"solution {k}")
      for k, s in enumerate(found)
    ),
    labels=tuple(
      need_label(s["is_correct"], f"label {k}") for k, s in enumerate(found)
    ),
  )


def read_oasst(row) -> list:
  """Every group of ranked sibling replies of a tree, as a ranking.

  A single reply is not a ranking and gives no record; a group in which a reply
  has no rank gives a BadRow.
  """
  items = []

  def visit(node, before):
    role = ROLES.get(node["role"], node["role"])
    dialogue = (*before, {"role": role, "content": node["text"]})
    replies = node.get("replies") or []
    answers = [reply for reply in replies if reply["role"] == "assistant"]
    if len(answers) > 1:
      ranks = [answer.get("rank") for answer in answers]
      row = dict(
        prompt=list(dialogue),
        completions=[answer["text"] for answer in answers],
        ranks=ranks,
      )
      try:
        items.append(read_ranking(row))
      except BadRow as error:
        items.append(BadRow(f"replies to {node['message_id']}: {error}"))
    for reply in replies:
      visit(reply, dialogue)

  visit(row["prompt"], ())
  return items


class Format(NamedTuple):
  """How a row is recognised and read."""

  fields: tuple  # present in every such row
  test: Callable  # row -> bool: what the field names alone do not tell
  read: Callable  # row -> Record, or list of Record and BadRow
  shape: str  # for people


def always(row) -> bool:
  return True


# The first match counts: foreign formats before the general ones.
FORMATS = {
  "prm800k": Format(
    ("question", "label"),
    lambda row: isinstance(row["label"], dict) and "steps" in row["label"],
    read_prm800k,
    "{question: {problem}, label: {steps}} (PRM800K)",
  ),
  "prmbench": Format(
    ("modified_question", "modified_process", "error_steps"),
    always,
    read_prmbench,
    "{modified_question, modified_process, error_steps} (PRMBench)",
  ),
  "oasst": Format(
    ("message_tree_id", "prompt"),
    lambda row: isinstance(row["prompt"], dict),
    read_oasst,
    "{message_tree_id, prompt: {text, role, replies}} (OpenAssistant)",
  ),
  "gsm8k": Format(
    ("question",),
    lambda row: bool(solutions(row)),
    read_gsm8k,
    "{question, <model>: {solution, is_correct}} (GSM8K solutions)",
  ),
  "pair": Format(
    ("chosen", "rejected"),
    always,
    read_pair,
    "{[prompt,] chosen, rejected [, strength, chosen_rating, rejected_rating]}",
  ),
  "ranking": Format(
    ("prompt", "completions", "ranks"),
    always,
    read_ranking,
    "{prompt, completions, ranks}",
  ),
  "ratings": Format(
    ("prompt", "completions", "ratings"),
    always,
    read_ratings,
    "{prompt, completions, ratings}",
  ),
  "steps": Format(
    ("prompt", "completions", "labels"),
    always,
    read_steps,
    "{prompt, completions: steps, labels} (TRL stepwise)",
  ),
  "outcome": Format(
    (),
    lambda row: (
      {"prompt", "completion", "label"} <= row.keys()
      or {"messages", "label"} <= row.keys()
    ),
    read_outcome,
    "{prompt, completion, label}, or {prompt, completions, labels} with "
    "kind='outcome'",
  ),
  "unlabelled": Format(
    ("prompt",),
    lambda row: "completions" in row or "completion" in row,
    read_unlabelled,
    "{prompt, completions} or {prompt, completion} (to be scored)",
  ),
}
