"""The command line: one verb, one exit code.

No jax is imported before a verb runs, so help and mistakes answer at once.
"""

import importlib
import shlex
import signal
import sys
import traceback

from absl import flags

from rm_jax.types import LostHost, UserError
from rm_jax.verbs import PROGRAM, VERBS
from rm_jax.verbs.command_line import parse
from rm_jax.verbs.help import overview, page

HELP = ("-h", "--help", "--helpfull", "help")


def main(argv: list[str] | None = None) -> None:
  """Runs one verb and exits with its code."""
  argv = sys.argv if argv is None else argv
  if len(argv) < 2 or argv[1] in HELP:
    print(overview())
    sys.exit(0 if len(argv) > 1 else 2)
  name = argv[1]
  if name not in VERBS:
    _fail(f"unknown verb {name!r}. Known: {', '.join(VERBS)}.")
  verb = importlib.import_module(f"rm_jax.verbs.{name}")
  known = set(flags.FLAGS)
  verb.define_flags()
  if any(a in HELP for a in argv[2:]):
    own = [flags.FLAGS[flag] for flag in flags.FLAGS if flag not in known]
    print(page(name, verb.HELP, own))
    sys.exit(0)
  try:
    words = parse(argv, verb.WORDS)
    code = verb.run(shlex.join([PROGRAM, *argv[1:]]), *words)
  except UserError as error:
    _fail(str(error))
  except LostHost as error:
    _fail(str(error), code=1)
  except KeyboardInterrupt:
    print(f"{PROGRAM}: interrupted", file=sys.stderr)
    _leave(128 + signal.SIGINT)  # as a shell reports it
  except Exception as error:
    if isinstance(error, OSError) and error.filename is not None:
      _fail(f"{error.filename}: {error.strerror}")
    traceback.print_exc()
    _leave(1)
  sys.exit(code)


def _fail(text: str, code: int = 2) -> None:
  print(f"{PROGRAM}: error: {text}", file=sys.stderr)
  _leave(code)


def _leave(code: int) -> None:
  hosts = sys.modules.get("rm_jax.train.hosts")
  if hosts is not None:
    hosts.leave(code)
  sys.exit(code)
