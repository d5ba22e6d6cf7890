"""What stands behind the verb: flags, config file and words, or what is wrong.

Whatever goes wrong here is the user's to mend, and said in one line.
"""

import re
import sys
import traceback

from absl import flags
from ml_collections import ConfigDict

from rm_jax.types import UserError
from rm_jax.verbs import PROGRAM

FLAGS = flags.FLAGS
FROM = r"^(--?config\.init)\.from="

# Frames of a traceback that are not in the user's config file.
NOT_THE_CONFIG = ("site-packages", "<frozen", __file__)


def parse(argv: list[str], words: tuple) -> list[str]:
  """The words beside the flags, as many as the verb takes; FLAGS are read.

  Args:
    argv: the whole command line. sys.argv becomes it: ml_collections looks for
      config keys there.
    words: WORDS of the verb.

  Raises:
    UserError: an unknown flag, config key or word, a value that is none, a
      config file that is missing or fails.
  """
  # `from` is a word of Python, which ml_collections parses keys as.
  sys.argv = [re.sub(FROM, r"\1['from']=", a) for a in argv]
  given = [PROGRAM, *sys.argv[2:]]
  try:
    rest = FLAGS(given)
    if "config" in FLAGS and FLAGS["config"].present:
      _check_config(FLAGS.config, given)
  except UserError:
    raise
  except SystemExit as error:
    raise UserError(
      f"the config file exits ({error.code!r}): let it return a config."
    ) from error
  except Exception as error:
    # A config file is a program: any exception may come out of it.
    raise UserError(_explain(error, given)) from error
  extra = rest[1 + len(words) :]
  if extra:
    raise UserError(f"unexpected argument {extra[0]!r}: flags are --key=value")
  return rest[1:]


def _check_config(config, argv: list[str]) -> None:
  if isinstance(config, ConfigDict):
    config.to_dict()  # a config file that is missing shows only now
  elif not hasattr(config, "to_dict"):
    raise UserError(
      f"{_config_file(argv)}: expected get_config to return a config, got "
      f"{config!r:.40}: let it return rm_jax.config.base(), changed."
    )


def _config_file(argv: list[str]) -> str:
  files = [a.partition("=")[2] for a in argv if a.startswith("--config=")]
  return files[0] if files else "--config"


def _explain(error, argv: list[str]) -> str:
  """One line about an exception of absl, ml_collections or a config file."""
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  absent = f"No such file or directory: '{_config_file(argv).split(':')[0]}'"
  if isinstance(error, OSError) and lines[-1].endswith(absent):
    return (
      f"--config={_config_file(argv)}: no such file. Name a config file, such "
      "as configs/pairwise_hh.py."
    )
  if isinstance(error, OSError):
    return lines[-1]  # after what ml_collections says about itself
  if isinstance(error, flags.Error):
    # absl packs a whole traceback of the config file into some of these.
    packed = any(line.startswith("Traceback") for line in lines)
    return f"{lines[0]} {lines[-1]}" if packed else " ".join(lines)
  frames = traceback.extract_tb(error.__traceback__)
  own = [
    f for f in frames if not any(name in f.filename for name in NOT_THE_CONFIG)
  ]
  text = f"{type(error).__name__}: {' '.join(lines)}"
  if own:
    return f"{own[-1].filename}:{own[-1].lineno}: {text}"
  asked = _unknown_key(argv)
  if asked:
    near = re.search(r'Did you mean "(\w+)"', str(error))
    hint = f" Nearest there: {near[1]}." if near else ""
    return (
      f"unknown config key in {asked}.{hint} {PROGRAM} train --help lists the "
      "keys."
    )
  return f"{_config_file(argv)}: {text}"


def _unknown_key(argv: list[str]) -> str:
  """The first --config.key=value whose key no config has; "" if there is none.

  Keys of a task are whatever the config file calls it.
  """
  from rm_jax.config import base

  for argument in argv:
    found = re.match(r"--?config\.([^=]+)", argument)
    if not found or found[1].startswith("tasks."):
      continue
    value = base()
    for part in re.sub(r"\['(\w+)'\]", r".\1", found[1]).split("."):
      if not isinstance(value, ConfigDict) or part not in value:
        return argument
      value = value[part]
  return ""
