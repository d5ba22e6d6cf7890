"""What --help prints."""

import textwrap

from absl import flags
from ml_collections import ConfigDict

from rm_jax.verbs import PROGRAM, VERBS


def overview() -> str:
  """The verbs, a line each."""
  lines = [f"  {name:12}{summary}" for name, summary in VERBS.items()]
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


def page(name: str, text: str, own: list[flags.Flag]) -> str:
  """The help of one verb.

  Args:
    name: of the verb.
    text: its HELP.
    own: its flags, in the order in which it defines them.
  """
  lines = [f"{PROGRAM} {name}: {VERBS[name]}", "", text, "", "Flags:"]
  lines += [line for flag in own for line in _flag(flag)]
  if any(flag.name == "config" for flag in own):
    from rm_jax.config import base

    lines += ["", "Config keys and defaults (rm_jax/config.py explains them):"]
    lines += _keys(base(), "config")
  return "\n".join(lines)


def _flag(flag) -> list[str]:
  """Two or more lines of help: the flag with its default, what it does."""
  given = "..." if flag.default is None else flag.default
  text = f"--{flag.name}={given}"
  if flag.boolean:
    text = f"--{flag.name}"
  return [
    f"  {text}",
    *textwrap.wrap(
      flag.help, 78, initial_indent="      ", subsequent_indent="      "
    ),
  ]


def _keys(c: ConfigDict, prefix: str) -> list[str]:
  lines = []
  for key in c:
    name = f"{prefix}.{key}"
    if isinstance(c[key], ConfigDict):
      lines += _keys(c[key], name)
    else:
      lines.append(f"  --{name}={c[key]!r}")
  return lines
