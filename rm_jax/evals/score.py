"""A file of records in, the same rows with their scores out."""

import contextlib
import hashlib
import itertools
import json
import os
import pathlib

import jax
import numpy as np
from tqdm import tqdm

from rm_jax.data.fields import BadRow
from rm_jax.data.pairs import find_preference
from rm_jax.data.recognise import check_kind, matches, row_items
from rm_jax.data.rejects import Reject
from rm_jax.data.sources import find_files, read_rows
from rm_jax.evals.fitting import check_writable, fit_on_output
from rm_jax.evals.output import Paths, digest_file, find_progress, paths_of
from rm_jax.inference import RewardModel
from rm_jax.train.checkpoint import write_json
from rm_jax.types import UserError

MANY = ("oasst", "mr_ben")  # formats whose rows hold any number of groups
TREES = ("prm800k", "math_aps", "math_aps_tree")
CHUNK_ROWS = 64  # scored together, and lost to a kill

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
      command: the model or the input is another one; every row was rejected.
  """
  input, output = pathlib.Path(input), pathlib.Path(output)
  file = find_input(input, kind)
  if output.suffix == ".gz" or output.is_dir() or output == input:
    raise UserError(
      f"--output={output}: expected the name of a .jsonl file, not compressed, "
      "a folder or the input."
    )
  if fit_normaliser:
    check_writable(model)
  reward_model = RewardModel.load(model, dtype=dtype, **how)
  content, lines = digest_file(file)
  output.parent.mkdir(parents=True, exist_ok=True)
  paths = paths_of(output)
  begun = begin(reward_model, content, kind, dtype)
  done = find_progress(paths, begun)
  again = "complete already: " if done["complete"] else ""
  done = score_lines(reward_model, file, paths, done, total=lines)
  if not done["scored"]:
    raise UserError(none_scored(file, done["rejected"], [paths.rejects]))
  text = again + _summary(paths, done)
  if fit_normaliser:
    counts = dict(rows=done["scored"], rejected=done["rejected"])
    told = fit_on_output(
      reward_model, model, file, paths.output, sha256=content, **counts
    )
    text += f"\n{told}"
  return text


def none_scored(file, rejected: int, rejects: list[pathlib.Path]) -> str:
  """What is said of an input of which nothing can be scored."""
  lines = [path.read_text("utf-8").partition("\n")[0] for path in rejects]
  first = next(filter(None, lines), "")
  why = json.loads(first)["reason"].rstrip(".") if first else "there is none"
  where = rejects[0] if len(rejects) == 1 else rejects[0].parent
  return (
    f"{file}: none of {rejected} rows can be scored. First: {why}. See {where}."
  )


def find_input(input: pathlib.Path, kind: str) -> pathlib.Path:
  """The file to score; UserError where there is none, or no such kind."""
  check_kind(kind)
  if input.is_dir():
    raise UserError(
      f"--input={input} is a folder: give one file, so that a line number says "
      "where a row stood."
    )
  (file,) = find_files(input)
  return file


def begin(model: RewardModel, content: str, kind: str, dtype: str) -> dict:
  """What an output is of: one that goes on must be of the same.

  Args:
    content: digest of the input.
  """
  return {
    "input": content,
    "kind": kind,
    "dtype": dtype,
    "model": model_digest(model),
  }


def score_lines(
  model: RewardModel,
  file: pathlib.Path,
  paths: Paths,
  done: dict,
  *,
  before: int = 0,
  last: int | None = None,
  total: int | None = None,
  saved=lambda done: None,
) -> dict:
  """Scores the rows that are left; returns the progress, which is complete.

  Args:
    done: of `find_progress`.
    before: lines that are not of this output, at the beginning,
    last: and the last that is; None: to the end.
    total: lines in all, where it is known.
    saved: (progress) -> None, called once a chunk of rows is on disk.
  """
  if done["complete"]:
    return done
  kind = done["begun"]["kind"]
  # A device more is as many rows more that fit a batch.
  size = CHUNK_ROWS * (model.mesh.size if model.mesh else 1)
  done = done | {"line": max(done["line"], before)}
  with contextlib.ExitStack() as stack:
    out, rejects = (stack.enter_context(p.open("ab")) for p in paths[:2])
    bar = stack.enter_context(
      tqdm(
        total=total,
        initial=done["line"] - before,
        desc=f"score {paths.output.name}",
        unit="row",
        disable=None,
      )
    )
    rows = _between(read_rows(file), done["line"], last)
    for chunk in _chunks(rows, size):
      scored, rejected = _score_rows(model, chunk, kind, str(file))
      for stream, lines in ((out, scored), (rejects, rejected)):
        stream.writelines(lines)
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
      saved(done)
  done["complete"] = True
  write_json(paths.progress, done)
  return done


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


def _between(rows, after: int, last: int | None):
  """The (line, row) of later lines, up to the last."""
  for line, row in rows:
    if last is not None and line > last:
      return
    if line > after:
      yield line, row


def _chunks(rows, size: int):
  """Lists of at most `size` of (line, row)."""
  rows = iter(rows)
  while chunk := list(itertools.islice(rows, size)):
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
