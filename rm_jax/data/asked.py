"""What a caller asks a model to score -> Record."""

from rm_jax.data.fields import BadRow, join_steps, need_messages
from rm_jax.types import Record, UserError


def asked_group(item) -> Record:
  """A Record as it is; one without labels of {"prompt", "completions"}.

  Args:
    item: prompt and every completion are a string (one turn) or a list of
      {"role", "content"}.

  Raises:
    UserError: a key is missing, no completions, a text that is none.
  """
  if isinstance(item, Record):
    return item
  absent = {"prompt", "completions"} - set(item)
  if absent:
    raise UserError(
      f"expected a Record or a dict of prompt and completions, got keys "
      f"{sorted(item)}: add {sorted(absent)}."
    )
  completions = item["completions"]
  if isinstance(completions, str | dict) or not len(completions):
    raise UserError(
      f"completions: expected a list of one or more, got {completions!r:.60}: "
      "put a single completion in a list."
    )
  return Record(
    kind="unlabelled",
    prompt=_turns(item["prompt"], "prompt"),
    completions=tuple(
      _turns(c, f"completion {k}") for k, c in enumerate(completions)
    ),
  )


def asked_steps(prompt, steps) -> Record:
  """One completion of reasoning steps without labels.

  Raises:
    UserError: no steps, or one that is no text.
  """
  if isinstance(steps, str) or not len(steps):
    raise UserError(
      f"steps: expected a list of one or more strings, got {steps!r:.60}: "
      "give every reasoning step on its own."
    )
  try:
    text, ends = join_steps(tuple(steps))
  except BadRow as error:
    raise UserError(f"{error}: give the text of every step.") from error
  return Record(
    kind="steps",
    prompt=_turns(prompt, "prompt"),
    completions=(text,),
    step_ends=(ends,),
  )


def _turns(value, name: str):
  """A string as it is, messages as a tuple, checked."""
  if isinstance(value, str):
    return value
  try:
    return need_messages(
      list(value) if isinstance(value, tuple) else value, name
    )
  except BadRow as error:
    raise UserError(
      f'{error}: give a string or a list of {{"role", "content"}}.'
    ) from error
