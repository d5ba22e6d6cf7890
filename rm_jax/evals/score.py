"""A file of records in, the same rows with their scores out.

OUTPUT                 every row that was scored, in order, with new keys
OUTPUT.rejects.jsonl   every other row: file, line, reason
OUTPUT.progress.json   how far both are written: what a restart goes on from
"""

import contextlib
import hashlib
import json
import os
import pathlib
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from rm_jax.data.fields import BadRow
from rm_jax.data.pairs import find_preference
from rm_jax.data.recognise import check_kind, matches, row_items
from rm_jax.data.rejects import Reject
from rm_jax.data.sources import find_files, read_rows
from rm_jax.evals.fitting import check_writable, fit_on_output
from rm_jax.inference import RewardModel
from rm_jax.train.checkpoint import write_json
from rm_jax.types import UserError

MANY = ("oasst", "mr_ben")  # formats whose rows hold any number of groups
TREES = ("prm800k", "math_aps", "math_aps_tree")
CHUNK_ROWS = 64  # scored together, and lost to a kill
BLOCK = 1 << 20  # bytes hashed at a time

# Ends of lines to str.splitlines, and plain text to JSON.
LINE_ENDS = ("\u0085", "\u2028", "\u2029")


def score_file(
  model: str,
  input: str | pathlib.Path,
  output: str | pathlib.Path,
  *,
  kind: str,
  dtype: str,
  fit_normaliser: bool = False,
  **how,
) -> str:
  """Scores every row of a file; returns one line that counts them.

  A row keeps its fields and order and gains

      pair                         chosen_score, rejected_score
      one completion               score
      several completions          scores: a list as long as the completions
      a row of several groups      scores, step_scores: one such list per group
      (OpenAssistant, MR-Ben)      in the order they are read; null for a group
                                   that cannot be scored, `unscored` says why
      reasoning steps              step_scores: a list as long as the labels; a
                                   list of such lists where the row has several
                                   completions (PRM800K: the path, then every
                                   rated alternative to it, step by step)

  Scores are written in as many digits as a float32 needs to read back
  bit-equal. A row without a score is in the rejects with its line and reason.
  Blank lines are not rows.

  A run that was killed goes on where it was: the same command again gives the
  same bytes as a run without a break.

  Args:
    model: what `RewardModel.load` takes.
    input: one .json or .jsonl file, plain or .gz.
    output: the .jsonl to write.
    kind: record format; "auto" recognises it by the fields.
    dtype: of the matrix products.
    fit_normaliser: also keep the mean and std of these scores beside the
      model, for `RewardModel.reward`.
    how: what else `RewardModel.load` takes.

  Raises:
    UserError: no such model, file or kind; OUTPUT exists and is not of this
      command: the model or the input is another one.
  """
  input, output = pathlib.Path(input), pathlib.Path(output)
  check_kind(kind)
  if input.is_dir():
    raise UserError(
      f"--input={input} is a folder: give one file, so that a line number says "
      "where a row stood."
    )
  (file,) = find_files(input)
  if output.suffix == ".gz" or output.is_dir() or output == input:
    raise UserError(
      f"--output={output}: expected the name of a .jsonl file, not compressed, "
      "a folder or the input."
    )
  if fit_normaliser:
    check_writable(model)
  reward_model = RewardModel.load(model, dtype=dtype, **how)
  content, lines = _digest(file)
  begun = {
    "input": content,
    "kind": kind,
    "dtype": dtype,
    "model": model_digest(reward_model),
  }
  paths = Paths(
    output,
    output.with_name(output.name + ".rejects.jsonl"),
    output.with_name(output.name + ".progress.json"),
  )
  output.parent.mkdir(parents=True, exist_ok=True)
  done = _find_progress(paths, begun)

  def summary():
    text = _summary(paths, done)
    if fit_normaliser:
      counts = dict(rows=done["scored"], rejected=done["rejected"])
      told = fit_on_output(
        reward_model, model, file, paths.output, sha256=content, **counts
      )
      text += f"\n{told}"
    return text

  if done["complete"]:
    return f"complete already: {summary()}"

  with contextlib.ExitStack() as stack:
    out, rejects = (stack.enter_context(p.open("ab")) for p in paths[:2])
    bar = stack.enter_context(
      tqdm(
        total=lines,
        initial=done["line"],
        desc="score",
        unit="row",
        disable=None,
      )
    )
    for chunk in _chunks(read_rows(file), after=done["line"]):
      scored, rejected = _score_rows(reward_model, chunk, kind, str(file))
      for stream, rows in ((out, scored), (rejects, rejected)):
        stream.writelines(rows)
        stream.flush()
        os.fsync(stream.fileno())
      bar.update(chunk[-1][0] - done["line"])
      done |= {
        "line": chunk[-1][0],
        "scored": done["scored"] + len(scored),
        "rejected": done["rejected"] + len(rejected),
        "output_bytes": out.tell(),
        "rejects_bytes": rejects.tell(),
      }
      # After the rows: what it counts is on disk.
      write_json(paths.progress, done)
    done["complete"] = True
    write_json(paths.progress, done)
  return summary()


class Paths(NamedTuple):
  """The three files that scoring writes."""

  output: pathlib.Path
  rejects: pathlib.Path
  progress: pathlib.Path


def model_digest(model: RewardModel) -> str:
  """sha256 of all that scores depend on: parameters, spec, tokenizer."""
  digest = hashlib.sha256()
  digest.update(repr((model.spec, model.reading)).encode())
  digest.update(model.tokenizer.backend_tokenizer.to_str().encode())
  digest.update(str(model.tokenizer.chat_template).encode())
  for path, leaf in jax.tree_util.tree_flatten_with_path(model.params)[0]:
    array = np.ascontiguousarray(leaf)
    digest.update(f"{path}{array.dtype}{array.shape}".encode())
    digest.update(array.reshape(-1).view(np.uint8))
  return digest.hexdigest()


def _digest(file: pathlib.Path) -> tuple[str, int | None]:
  """(sha256 of a file, its lines or None where they cannot be counted)."""
  digest, lines = hashlib.sha256(), 0
  with file.open("rb") as stream:
    while block := stream.read(BLOCK):
      digest.update(block)
      lines += block.count(b"\n")
  plain = file.suffix == ".jsonl"
  return digest.hexdigest(), max(lines, 1) if plain else None


def _find_progress(paths: Paths, begun: dict) -> dict:
  """Where to go on; both files are cut to what the progress file vouches for.

  A new run writes its progress file first: a kill before the first chunk must
  not leave an output that nothing vouches for.
  """
  restart = (
    f"remove {paths.output.name}, {paths.rejects.name} and "
    f"{paths.progress.name} to start anew, or choose another --output"
  )
  if not paths.progress.exists():
    if paths.output.exists():
      raise UserError(
        f"{paths.output} exists and no {paths.progress.name} says that it is "
        "of this command: remove it or choose another --output."
      )
    done = {
      "begun": begun,
      "line": 0,
      "scored": 0,
      "rejected": 0,
      "output_bytes": 0,
      "rejects_bytes": 0,
      "complete": False,
    }
    write_json(paths.progress, done)
    paths.output.write_bytes(b"")
    paths.rejects.write_bytes(b"")
    return done
  done = json.loads(paths.progress.read_text())
  other = [k for k in begun if done["begun"].get(k) != begun[k]]
  if other:
    raise UserError(
      f"{paths.progress}: this output was begun with another "
      f"{' and '.join(other)} than now: {restart}."
    )
  for path, key in (
    (paths.output, "output_bytes"),
    (paths.rejects, "rejects_bytes"),
  ):
    size = path.stat().st_size if path.exists() else 0
    if size < done[key]:
      raise UserError(
        f"{path} holds {size} bytes, {paths.progress.name} counts "
        f"{done[key]}: it was changed or removed; {restart}."
      )
    with path.open("ab") as stream:
      stream.truncate(done[key])
  return done


def _chunks(rows, *, after: int):
  """Lists of at most CHUNK_ROWS of (line, row), without those done."""
  chunk = []
  for line, row in rows:
    if line <= after:
      continue
    chunk.append((line, row))
    if len(chunk) == CHUNK_ROWS:
      yield chunk
      chunk = []
  if chunk:
    yield chunk


def _score_rows(model, chunk, kind, file) -> tuple[list, list]:
  """(lines of the output, lines of the rejects) of one chunk, as bytes."""
  items = [_items(row, kind) for _, row in chunk]
  results = iter(_score_items(model, [x for mine in items for x in mine]))
  scored, rejected = [], []
  for (line, row), mine in zip(chunk, items, strict=True):
    got = [next(results) for _ in mine]
    reasons = [g for g in got if isinstance(g, str)]
    if len(reasons) == len(got):
      reject = Reject(file, line, reasons[0])
      rejected.append(_line(reject._asdict()))
    else:
      scored.append(_line(row | _new_keys(row, mine, got)))
  return scored, rejected


def _items(row, kind) -> list:
  """Records and BadRows of a row, at least one."""
  if isinstance(row, BadRow):
    return [row]
  try:
    json.dumps(row, ensure_ascii=False).encode()
  except UnicodeEncodeError as error:
    half = error.object[error.start]
    return [BadRow(f"half a surrogate pair, {half!a}, is not text")]
  items = row_items(row, kind)
  if not items:
    return [BadRow("the row holds no group of completions to score")]
  # Asked before anything is scored: a field of the row is never replaced.
  taken = [
    key
    for item in items
    if not isinstance(item, BadRow)
    for key in _keys(row, item)
    if key in row
  ]
  if taken:
    return [BadRow(f"the row has a field {taken[0]!r} already: rename it")]
  return items


def _score_items(model, items) -> list:
  """Per Record or BadRow its Scores, or the reason why it has none."""
  out = [str(item) for item in items]
  for steps, pooling in ((False, model.reading.pooling), (True, "step_ends")):
    mine = [
      i
      for i, item in enumerate(items)
      if not isinstance(item, BadRow) and (item.step_ends is not None) == steps
    ]
    got = model.score_each([items[i] for i in mine], pooling=pooling)
    for i, scores in zip(mine, got, strict=True):
      out[i] = scores if isinstance(scores, str) else _finite(scores)
  return out


def _finite(scores):
  values = np.concatenate([scores.completions, *scores.slots])
  return scores if np.isfinite(values).all() else "the score is not finite"


def _is_of(row, names) -> bool:
  """Whether a row is in one of these formats; see FORMATS of catalogue.py."""
  return matches(row)[:1] in [[name] for name in names]


def _keys(row, record) -> tuple:
  """Names of what a row gains."""
  steps = record.step_ends is not None
  if _is_of(row, MANY):
    return ("step_scores" if steps else "scores", "unscored")
  if steps:
    return ("step_scores",)
  if record.kind == "pair" or {"chosen", "rejected"} <= row.keys():
    sides = ("chosen_score", "rejected_score")
    # The votes are against what the row calls chosen: the record turned it.
    turned = "chosen" in row and record.kind == "pair" and _is_turned(row)
    return sides[::-1] if turned else sides
  one = "completions" not in row and {"completion", "messages"} & row.keys()
  return ("score",) if one else ("scores",)


def _is_turned(row) -> bool:
  preference = find_preference(row)
  return preference is not None and preference < 0.5


def _new_keys(row, records, results) -> dict:
  """What a row gains; see `score_file`."""
  if _is_of(row, MANY):
    name = next(
      _keys(row, record)[0]
      for record, r in zip(records, results, strict=True)
      if not isinstance(r, str)
    )
    lists = [
      None if isinstance(r, str) else _numbers(record, r)
      for record, r in zip(records, results, strict=True)
    ]
    reasons = [
      f"group {i}: {r}" for i, r in enumerate(results) if isinstance(r, str)
    ]
    return {name: lists} | ({"unscored": reasons} if reasons else {})
  (record,), (result,) = records, results
  keys, scores = _keys(row, record), _numbers(record, result)
  if keys == ("step_scores",):
    return {"step_scores": scores if _has_lists(row) else scores[0]}
  if keys == ("scores",):
    return {"scores": scores}
  return dict(zip(keys, scores, strict=True))


def _numbers(record, result) -> list:
  """K scores of a record, or K lists of a score per step."""
  if record.step_ends is None:
    return result.completions.tolist()
  # No step: the one slot there is the end of the completion.
  return [
    slots.tolist() if len(ends) else []
    for slots, ends in zip(result.slots, record.step_ends, strict=True)
  ]


def _has_lists(row) -> bool:
  """Whether a row of steps has several completions."""
  if "completions" in row:
    return isinstance(row["completions"][0], list)
  return _is_of(row, TREES)  # a path and alternatives


def _line(row: dict) -> bytes:
  text = json.dumps(row, ensure_ascii=False)
  for end in LINE_ENDS:
    text = text.replace(end, f"\\u{ord(end):04x}")
  return f"{text}\n".encode("utf-8", "backslashreplace")


def _summary(paths: Paths, done: dict) -> str:
  note = f", see {paths.rejects}" if done["rejected"] else ""
  return (
    f"{done['scored']} rows scored into {paths.output}, {done['rejected']} "
    f"rejected{note}"
  )
