"""All losses as a table, read from their docstrings: docs/losses.md.

python -m rm_jax.losses.table prints it.
"""

import inspect
import re
from collections.abc import Callable

from rm_jax.losses import KIND, LEARNED, LOSSES, NEEDS, PARAMETERS

# What papers know by a name of its own, and is a loss with a pooling here:
# (name, keys of config, what is trained, source).
COMBINATIONS = (
  (
    "outcome reward model at the last token",
    "loss.name=outcome_cross_entropy model.pooling=last_token",
    "correctness of the completion, read at its last token",
    "Lightman et al. 2023, arXiv:2305.20050, App. E: the prediction at the "
    "final token is the score",
  ),
  (
    "outcome reward model of the mean logit",
    "loss.name=outcome_cross_entropy model.pooling=mean",
    "correctness of the completion, from the mean of its tokens' logits",
    "Lyu et al. 2025 (OREAL), arXiv:2502.06781",
  ),
  (
    "token-level verifier with a language model",
    "loss.name=squared_error model.pooling=every_token "
    "loss.language_coefficient=1",
    "correctness of the completion at each of its tokens, and the next token",
    "Cobbe et al. 2021, arXiv:2110.14168",
  ),
  (
    "process reward model of rollouts",
    "loss.name=step_binary_cross_entropy model.pooling=step_ends",
    "at each step, hard labels (some rollout was right: 0 or 1) or soft ones "
    "(the share of right rollouts)",
    "Wang et al. 2023 (Math-Shepherd), arXiv:2312.08935",
  ),
)


def loss_table() -> str:
  """Markdown with one row per loss, then the losses that pooling makes.

  Equation and source are the docstring's: the indented block after its first
  line, and the first sentence of its Source paragraph.
  """
  lines = [
    "| name | equation | source | kind | needs | parameters |",
    "|---|---|---|---|---|---|",
  ]
  for name, loss in LOSSES.items():
    parameters = [f"`{key}`" for key in PARAMETERS[name]]
    parameters += [f"`{key}` (learnt)" for key in LEARNED.get(name, ())]
    cells = (
      f"`{name}`",
      "<br>".join(f"`{line}`" for line in equation(loss)),
      source(loss),
      KIND[name],
      NEEDS[name],
      ", ".join(parameters),
    )
    lines.append(_row(cells))
  lines += [
    "",
    "A loss and a pooling together:",
    "",
    "| name | config | trains | source |",
    "|---|---|---|---|",
  ]
  for name, keys, trains, where in COMBINATIONS:
    keys = "<br>".join(f"`{key}`" for key in keys.split())
    lines.append(_row((name, keys, trains, where)))
  return "\n".join(lines)


def equation(loss: Callable) -> list[str]:
  """The lines of the equation in the docstring, continued ones joined.

  Raises:
    ValueError: the second paragraph of the docstring is not indented.
  """
  block = _paragraphs(loss)[1]
  if not block.startswith("    "):
    raise ValueError(
      f"{loss.__name__}: expected an equation, indented, after the first line "
      f"of the docstring, got {block.splitlines()[0]!r}."
    )
  joined = []
  for line in block.splitlines():
    if line.startswith("     ") and joined:  # deeper than the first line
      joined[-1] += " " + line.strip()
    else:
      joined.append(line.strip())
  return joined


def source(loss: Callable) -> str:
  """The first sentence after "Source:" in the docstring, without its stop.

  Raises:
    ValueError: no paragraph begins with "Source:".
  """
  for paragraph in _paragraphs(loss):
    if paragraph.startswith("Source:"):
      text = " ".join(paragraph.removeprefix("Source:").split())
      # A stop before a capital ends a sentence; "et al. 2023" goes on.
      return re.split(r"\.(?= [A-Z]|$)", text)[0]
  raise ValueError(
    f"{loss.__name__}: expected a paragraph 'Source: ...' in the docstring, "
    "got none. Say where the equation is from."
  )


def _paragraphs(loss):
  return inspect.getdoc(loss).split("\n\n")


def _row(cells):
  # Markdown ends a cell at a bar, also inside of code.
  cells = (cell.replace("|", r"\|") for cell in cells)
  return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
  print(loss_table())
