"""Messages to text: the checkpoint's chat template, or plain text.

The date is frozen: a template that prints today's date would give tomorrow
other tokens, and so another score, for the same words.
"""

import functools
import re

import jinja2

from rm_jax.types import UserError

FROZEN_DATE = "26 Jul 2024"

# 26 July 2024, a Friday, 00:00:00. Templates print dates through a function
# `strftime_now`; transformers hands templates plain data only, so the frozen
# one is a macro before the template text and shadows the real one.
FROZEN_STRFTIME = {
  "%-d": "26",
  "%d": "26",
  "%b": "Jul",
  "%B": "July",
  "%-m": "7",
  "%m": "07",
  "%Y": "2024",
  "%y": "24",
  "%A": "Friday",
  "%a": "Fri",
  "%H": "00",
  "%I": "12",
  "%p": "AM",
  "%M": "00",
  "%S": "00",
  "%F": "2024-07-26",
  "%T": "00:00:00",
}

DIALOGUE_ROLES = {"user": "Human", "assistant": "Assistant", "system": "System"}


def prompt_messages(prompt) -> tuple:
  """Returns the prompt as a tuple of messages; a string is one user turn.

  An empty string is no turn at all: plain text without a prompt.
  """
  if isinstance(prompt, str):
    return ({"role": "user", "content": prompt},) if prompt else ()
  return tuple(prompt)


def completion_messages(completion) -> tuple:
  """Returns the completion as messages; a string is one assistant turn."""
  if isinstance(completion, str):
    return ({"role": "assistant", "content": completion},)
  return tuple(completion)


def render(messages, tokenizer, *, add_generation_prompt: bool) -> str:
  """Returns the text of the messages in the tokenizer's chat template.

  The date is FROZEN_DATE, whether the template asks for `date_string` or calls
  `strftime_now`. Raises UserError without a template, jinja2's TemplateError
  where the template refuses the messages (roles that do not alternate, say).
  """
  if not tokenizer.chat_template:
    raise UserError(
      f"tokenizer {tokenizer.name_or_path!r} has no chat template, expected "
      "one for template='chat': use template='plain', or load a tokenizer "
      "that has one."
    )
  return tokenizer.apply_chat_template(
    list(messages),
    chat_template=freeze(tokenizer.get_chat_template()),
    tokenize=False,
    add_generation_prompt=add_generation_prompt,
    date_string=FROZEN_DATE,
  )


@functools.lru_cache(maxsize=8)
def freeze(template: str) -> str:
  """Returns the template with the date of `strftime_now` frozen."""
  if "strftime_now" not in template:
    return template
  replaced = "".join(
    f"|replace({code!r}, {value!r})" for code, value in FROZEN_STRFTIME.items()
  )
  macro = "{%- macro strftime_now(format) -%}{{ format" + replaced + " }}"
  return macro + "{%- endmacro -%}" + template


def template_name(template: str, tokenizer) -> str:
  """Returns "chat" or "plain": what `template` means for this tokenizer.

  "auto" is the tokenizer's own chat template where it has one, else "plain".
  """
  if template not in ("auto", "chat", "plain"):
    raise UserError(
      f"config.data.template={template!r} is unknown: use 'auto', 'chat' or "
      "'plain'."
    )
  if template == "auto":
    return "chat" if tokenizer.chat_template else "plain"
  return template


def render_group(record, tokenizer, *, template: str):
  """Returns (prompt, conversations): a text and K texts that continue it.

  "chat": the template's text; the prompt ends with its generation prompt when
  the completions begin with an assistant turn, or with as much of it as they
  begin with. "plain": prompt + completion + EOS, strings as they stand; a
  prompt of messages becomes a dialogue in the form of HH-RLHF,
  "\\n\\nHuman: ...\\n\\nAssistant: ...".

  A template that rewrites earlier turns gives conversations that do not begin
  with the prompt: `encode` deals with them.
  """
  if template_name(template, tokenizer) == "chat":
    return render_chat(record, tokenizer)
  if isinstance(record.prompt, str):
    prompt, gap = record.prompt, ""
  else:
    prompt = dialogue(prompt_messages(record.prompt)) + "\n\nAssistant:"
    gap = " "
  end = tokenizer.eos_token
  if end is None:
    raise UserError(
      f"tokenizer {tokenizer.name_or_path!r} has no EOS token, expected one "
      "for template='plain': set tokenizer.eos_token."
    )
  texts = []
  for completion in record.completions:
    first, *rest = completion_messages(completion)
    texts.append(prompt + gap + first["content"] + dialogue(rest) + end)
  return prompt, texts


def render_chat(record, tokenizer):
  prompt = prompt_messages(record.prompt)
  texts = []
  first_roles = set()
  for completion in record.completions:
    messages = completion_messages(completion)
    first_roles.add(messages[0]["role"])
    texts.append(
      render((*prompt, *messages), tokenizer, add_generation_prompt=False)
    )
  if not prompt:  # templates index messages[0]
    return "", texts
  # A generation prompt belongs to the prompt only if an assistant answers.
  answered = first_roles == {"assistant"}
  text = render(prompt, tokenizer, add_generation_prompt=answered)
  shared = min(common_prefix(text, whole) for whole in texts)
  if answered and shared < len(text):
    # It may say more than a turn begins with: some models are made to think by
    # "<think>" there. Then the prompt is what every turn does begin with.
    before = render(prompt, tokenizer, add_generation_prompt=False)
    if text.startswith(before) and shared > len(before):
      text = text[:shared]
  return text, texts


def opening(record, tokenizer, *, template: str) -> str:
  """Returns the text before the first user turn: BOS and the system turn.

  Found as what two conversations with different user turns have in common. A
  template that prints a system turn of its own is covered; so is one that
  writes the system text into the user turn.
  """
  if template_name(template, tokenizer) == "plain":
    return ""
  first = prompt_messages(record.prompt)[:1]
  system = first if first and first[0]["role"] == "system" else ()
  try:
    a, b = (
      render(
        (*system, {"role": "user", "content": text}),
        tokenizer,
        add_generation_prompt=False,
      )
      for text in ("a", "b")
    )
  except jinja2.TemplateError:
    return ""
  return a[: common_prefix(a, b)]


def dialogue(messages) -> str:
  """Returns the messages in the form of HH-RLHF."""
  return "".join(
    f"\n\n{DIALOGUE_ROLES.get(m['role'], m['role'])}: {m['content']}"
    for m in messages
  )


def parse_dialogue(text: str) -> tuple | None:
  """Returns the messages of an HH-RLHF dialogue, or None if it is not one.

  A dialogue begins with "\\n\\nHuman:" and its turns begin with "\\n\\nHuman:"
  or "\\n\\nAssistant:"; white space around a turn is not part of it.

  Source: Bai et al. 2022, arXiv:2204.05862 (the released hh-rlhf files).
  """
  before, *pieces = re.split(r"\n\n(Human|Assistant):", text)
  if before.strip() or not pieces or pieces[0] != "Human":
    return None
  roles = {"Human": "user", "Assistant": "assistant"}
  return tuple(
    {"role": roles[name], "content": turn.strip()}
    for name, turn in zip(pieces[::2], pieces[1::2], strict=True)
  )


def common_prefix(a, b) -> int:
  """Returns how many leading elements two sequences share."""
  shared = 0
  for left, right in zip(a, b, strict=False):
    if left != right:
      break
    shared += 1
  return shared
