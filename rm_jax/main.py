"""The command line: flags and device start-up, nothing else.

No jax is imported before a verb runs, so help and mistakes answer at once.
"""

import pathlib
import sys
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from rm_jax.types import UserError

PROGRAM = "rm-jax"
FLAGS = flags.FLAGS


class Verb(NamedTuple):
  """One verb: a line for the list, a text for its help, flags, the work."""

  summary: str
  text: str
  define: object  # () -> None: its flags
  run: object  # (command line as one string) -> exit code


def _train_flags():
  config_flags.DEFINE_config_file(
    "config", None, "The run: a config file; FILE:ARG passes it an argument."
  )
  flags.DEFINE_string("workdir", None, "Folder of the run; made if missing.")


def _train(command: str) -> int:
  _need("config", "workdir")
  _start_jax()
  from rm_jax.evals.report import write_pictures
  from rm_jax.train.loop import train

  workdir = pathlib.Path(FLAGS.workdir)
  code = train(FLAGS.config, workdir, command=command)
  if code == 0:
    print(write_pictures(workdir))
  return code


def _eval_flags():
  flags.DEFINE_string("model", None, "Workdir, checkpoint, or HF folder.")
  flags.DEFINE_string("data", None, "File or folder of records.")
  flags.DEFINE_string("out", None, "Where results.json goes.")
  flags.DEFINE_string("kind", "auto", "Record format.")
  flags.DEFINE_integer("max_groups", 0, "Evaluate this many; 0: all.")
  flags.DEFINE_boolean(
    "allow_overlap", False, "Evaluate on prompts the model was trained on."
  )


def _eval(command: str) -> int:
  _need("model", "data", "out")
  _start_jax()
  from rm_jax.evals.records import evaluate_records

  table = evaluate_records(
    FLAGS.model,
    FLAGS.data,
    pathlib.Path(FLAGS.out),
    kind=FLAGS.kind,
    max_groups=FLAGS.max_groups,
    allow_overlap=FLAGS.allow_overlap,
    command=command,
  )
  print(table)
  return 0


def _score_flags():
  flags.DEFINE_string("model", None, "Workdir, checkpoint, or HF folder.")
  flags.DEFINE_string("input", None, "File of records (.json, .jsonl, .gz).")
  flags.DEFINE_string("output", None, "Where the scored .jsonl goes.")
  flags.DEFINE_string("kind", "auto", "Record format.")


def _score(command: str) -> int:
  del command
  _need("model", "input", "output")
  _start_jax()
  from rm_jax.evals.score import score_file

  print(
    score_file(
      FLAGS.model,
      pathlib.Path(FLAGS.input),
      pathlib.Path(FLAGS.output),
      kind=FLAGS.kind,
    )
  )
  return 0


VERBS = {
  "train": Verb(
    "one run into --workdir: checkpoints, metrics, results, pictures",
    """Trains one reward model. Run the same command again to resume.

  rm-jax train --config=configs/demo.py --workdir=runs/demo
  rm-jax train --config=configs/pairwise_hh.py --workdir=runs/hh \\
      --config.data.source=pairs.jsonl --config.optim.lr=2e-5""",
    _train_flags,
    _train,
  ),
  "eval": Verb(
    "a model on a file of records: results.json and a table",
    """Evaluates a trained model: accuracy, calibration, intervals, baselines.

  rm-jax eval --model=runs/hh --data=test.jsonl --out=results.json""",
    _eval_flags,
    _eval,
  ),
  "score": Verb(
    "jsonl in, jsonl with scores out; streams and resumes",
    """Adds scores to records: `scores` to rankings, `chosen_score` and
`rejected_score` to pairs, `score`, `step_scores`. Same order; a line that
cannot be scored goes to OUTPUT.rejects.jsonl with its reason.

  rm-jax score --model=runs/hh --input=in.jsonl --output=scored.jsonl""",
    _score_flags,
    _score,
  ),
}


def _need(*names):
  for name in names:
    if not FLAGS[name].value:
      raise UserError(
        f"--{name} is missing: see {PROGRAM} {sys.argv[1]} --help"
      )


def _start_jax():
  """Compilations are kept between runs unless the user set a place."""
  import os

  import jax

  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    home = pathlib.Path(
      os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")
    )
    jax.config.update("jax_compilation_cache_dir", str(home / "rm_jax" / "xla"))


def _overview() -> str:
  lines = [f"  {name:8}{verb.summary}" for name, verb in VERBS.items()]
  return "\n".join(
    [
      f"usage: {PROGRAM} VERB [--flag=value ...]",
      "",
      "Train, evaluate and use reward models.",
      "",
      *lines,
      "",
      f"{PROGRAM} VERB --help says more. Exit codes: 0 done, 1 our fault,",
      "2 the input's, 75 preempted and saved.",
    ]
  )


def _keys(c: ConfigDict, prefix: str) -> list[str]:
  lines = []
  for key in c:
    name = f"{prefix}.{key}"
    if isinstance(c[key], ConfigDict):
      lines += _keys(c[key], name)
    else:
      lines.append(f"  --{name}={c[key]!r}")
  return lines


def _help(name: str) -> str:
  verb = VERBS[name]
  own = [
    f"  --{f.name}={'' if f.value is None else f.value}  {f.help}"
    for f in FLAGS.get_flags_for_module(sys.modules[__name__])
  ]
  lines = [f"{PROGRAM} {name}: {verb.summary}", "", verb.text, "", *own]
  if name == "train":
    from rm_jax.config import base

    lines += ["", "Config keys and defaults (rm_jax/config.py explains them):"]
    lines += _keys(base(), "config")
  return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
  """Runs one verb and exits with its code."""
  argv = sys.argv if argv is None else argv
  if len(argv) < 2 or argv[1] in ("-h", "--help", "help"):
    print(_overview())
    sys.exit(0 if len(argv) > 1 else 2)
  name = argv[1]
  if name not in VERBS:
    _fail(f"unknown verb {name!r}. Known: {', '.join(VERBS)}.")
  VERBS[name].define()
  if any(a in ("-h", "--help") for a in argv[2:]):
    print(_help(name))
    sys.exit(0)
  command = " ".join([PROGRAM, *argv[1:]])
  try:
    rest = FLAGS([PROGRAM, *argv[2:]])
    if len(rest) > 1:
      raise UserError(f"unexpected argument {rest[1]!r}: flags are --key=value")
    code = VERBS[name].run(command)
  except UserError as error:
    _fail(str(error))
  except (flags.Error, AttributeError, KeyError, TypeError, OSError) as error:
    if not _from_flags(error):
      raise
    _fail(" ".join(str(error).split()))
  sys.exit(code)


def _from_flags(error) -> bool:
  """Whether a flag or the config file is at fault, not our code."""
  import traceback

  if isinstance(error, flags.Error):
    return True
  names = [f.filename for f in traceback.extract_tb(error.__traceback__)]
  return any("absl" in f or "ml_collections" in f for f in names)


def _fail(text: str) -> None:
  print(f"{PROGRAM}: error: {text}", file=sys.stderr)
  sys.exit(2)
