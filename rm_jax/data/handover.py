"""A tokenizer as others will use it: padding, template, nothing left to guess.

Other programs pool by token id (the rightmost token that is not padding) and
render with the template alone. So the padding token must be one that no text
holds, and the template must print exactly the tokens that were scored here.
"""

import copy
from typing import NamedTuple

import numpy as np

from rm_jax.data.loader import Reading
from rm_jax.data.rejects import RecordError
from rm_jax.data.templates import (
  FROZEN_DATE,
  completion_messages,
  freeze,
  prompt_messages,
  template_name,
)
from rm_jax.data.tokenize import encode, end_ids
from rm_jax.types import Record, UserError

NEW_PADDING = "<|pad|>"

# Texts whose tokens must be the same before and after: white space at both
# ends, other scripts, several turns, a system turn where the template has one.
PROBES = (
  ("What is 2 plus 3?", ("The answer is five.", " It's 5!\n", "ありがと 🙂")),
  ((" \n Hello, 1234.5  cafés"), ("don't\tstop", "Yes.")),
  (
    (
      {"role": "user", "content": "Is 127 prime?"},
      {"role": "assistant", "content": "Yes."},
      {"role": "user", "content": "And 2047?"},
    ),
    ("No: 23 * 89.", "I do not know. "),
  ),
  (
    (
      {"role": "system", "content": "Be brief."},
      {"role": "user", "content": "Why is the sky blue?"},
    ),
    ("Rayleigh scattering.",),
  ),
)


class Handover(NamedTuple):
  """What is written instead of the tokenizer that a run had."""

  tokenizer: object
  reading: Reading  # with the template by its kind, "chat" or "plain"
  recipe: str  # of RECIPES: how others get the same token ids
  grown: bool  # the padding token needs a row that the table has not


# How a user of transformers turns text into the ids that are scored here.
#   chat      apply_chat_template(messages)
#   special   tokenizer(prompt + completion + EOS)
#   plain     tokenizer(prompt + completion + EOS, add_special_tokens=False)
RECIPES = ("chat", "special", "plain")


def hand_over(tokenizer, reading: Reading, *, vocab_size: int) -> Handover:
  """A copy of the tokenizer that pads and renders for other programs.

  Args:
    tokenizer: of the run.
    reading: of the run: what its scores were read from.
    vocab_size: rows of the embedding table.

  Raises:
    UserError: no template or call gives the tokens that were scored; shows the
      first text where they part.
  """
  own = copy.deepcopy(tokenizer)
  kind = template_name(reading.template, tokenizer)
  if kind == "chat":
    own.chat_template = closing_template(tokenizer, read_at=reading.read_at)
  else:
    # A template that was not used would give other scores to who applies it.
    own.chat_template = None
  grown = set_padding(own, vocab_size=vocab_size)
  own.padding_side = "right"
  reading = reading._replace(template=kind)
  recipe = find_recipe(tokenizer, own, reading)
  return Handover(own, reading, recipe, grown)


# ---------------------------------------------------------------- padding


def set_padding(tokenizer, *, vocab_size: int) -> bool:
  """Gives the tokenizer a padding token that no text and no template holds.

  Its own where it is not what ends a turn; else one that is called so or
  reserved; else the highest special token that the template does not print;
  else a new one. Returns whether that needs a new row of the table.
  """
  token = _padding_token(tokenizer)
  if token is not None:
    tokenizer.pad_token = token
    return False
  tokenizer.add_special_tokens({"pad_token": NEW_PADDING})
  index = tokenizer.pad_token_id
  if index > vocab_size:
    raise UserError(
      f"tokenizer {tokenizer.name_or_path!r}: a new padding token would have "
      f"id {index}, the table has {vocab_size} rows; give the tokenizer a "
      "padding token that ends no turn"
    )
  return index == vocab_size


def _padding_token(tokenizer) -> str | None:
  never = {*end_ids(tokenizer), tokenizer.bos_token_id}
  if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in never:
    return tokenizer.pad_token
  template = tokenizer.chat_template or ""
  special = [
    token.content
    for index, token in sorted(tokenizer.added_tokens_decoder.items())
    if token.special and index not in never and token.content not in template
  ]
  for word in ("pad", "reserved", "unused"):
    named = [token for token in special if word in token.lower()]
    if named:
      return named[-1]
  # Low ids are what templates of other uses print.
  return special[-1] if special else None


# ---------------------------------------------------------------- template


def closing_template(tokenizer, *, read_at: str) -> str:
  """The chat template that prints what is scored here and nothing after it.

  The date is the frozen one. With read_at "end_of_turn" a conversation stops
  at its last EOS or EOT, as `encode` stops there; a prompt that waits for an
  answer is printed as before.
  """
  template = freeze(tokenizer.get_chat_template()).removesuffix("\n")
  date = ""
  if "date_string" in template:
    date = f"{{%- set date_string = {FROZEN_DATE!r} -%}}"
  if read_at != "end_of_turn":
    return date + template
  ends = tokenizer.convert_ids_to_tokens(list(end_ids(tokenizer)))
  if not _prints_after(tokenizer, template, ends):
    return date + template
  # "+": the white space around the tags is the template's own.
  return (
    f"{date}{{% set whole +%}}{template}{{%+ endset %}}"
    "{%- set last = namespace(end=0) -%}"
    f"{{%- for mark in {ends!r} -%}}"
    "{%- set end = whole.rfind(mark) + mark | length -%}"
    "{%- if mark in whole and end > last.end -%}"
    "{%- set last.end = end -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt or not last.end -%}{{- whole -}}"
    "{%- else -%}{{- whole[:last.end] -}}{%- endif -%}"
  )


def _prints_after(tokenizer, template: str, ends: list) -> bool:
  """Whether the template prints anything after the end of the last turn."""
  text = tokenizer.apply_chat_template(
    [
      {"role": "user", "content": "a"},
      {"role": "assistant", "content": "b"},
    ],
    chat_template=template,
    tokenize=False,
    date_string=FROZEN_DATE,
  )
  return not text.endswith(tuple(ends))


# ---------------------------------------------------------------- the same ids


def find_recipe(before, after, reading: Reading) -> str:
  """Which of RECIPES gives the ids that `encode` gives with `before`.

  Raises:
    UserError: none does, or `encode` itself gives others with `after`.
  """
  chat = reading.template == "chat"
  recipes = list(RECIPES[:1] if chat else RECIPES[1:])
  differ = ""
  for prompt, completions in PROBES:
    if not chat and not isinstance(prompt, str):
      continue
    record = Record("unlabelled", prompt, completions)
    try:
      want = encoded_ids(record, before, reading)
    except RecordError:
      continue  # a template without a system turn
    got = encoded_ids(record, after, reading)
    if got != want:
      raise _other_tokens(after, record, got, want)
    for recipe in tuple(recipes):
      found = [recipe_ids(recipe, after, prompt, c) for c in completions]
      if found != want:
        recipes.remove(recipe)
        differ = differ or _other_tokens(after, record, found, want)
  if not recipes:
    raise differ
  return recipes[0]


def encoded_ids(record: Record, tokenizer, reading: Reading) -> list:
  """The ids of each completion as they are scored here."""
  encoded = encode(
    record,
    tokenizer,
    read_at=reading.read_at,
    template=reading.template,
    append=reading.append,
  )
  return [ids.tolist() for ids in encoded.tokens]


def recipe_ids(recipe: str, tokenizer, prompt, completion) -> list:
  """The ids that a user of transformers gets."""
  if recipe == "chat":
    return tokenizer.apply_chat_template(
      [*prompt_messages(prompt), *completion_messages(completion)],
      return_dict=False,
    )
  return tokenizer(
    prompt + completion + tokenizer.eos_token,
    add_special_tokens=recipe == "special",
  )["input_ids"]


def _other_tokens(tokenizer, record, got, want) -> UserError:
  pairs = zip(got, want, strict=True)
  k = next(k for k, (a, b) in enumerate(pairs) if a != b)
  ours, theirs = np.asarray(want[k]), np.asarray(got[k])
  size = min(len(ours), len(theirs))
  parts = np.flatnonzero(ours[:size] != theirs[:size])
  at = int(parts[0]) if len(parts) else size
  near = slice(max(at - 3, 0), at + 3)
  shown = [
    tokenizer.convert_ids_to_tokens(ids[near].tolist())
    for ids in (ours, theirs)
  ]
  return UserError(
    f"tokenizer {tokenizer.name_or_path!r}: expected the exported tokenizer to "
    f"give the tokens that were scored, it gives others for completion {k} of "
    f"{str(record.prompt)[:40]!r}, token {at}: scored {shown[0]}, exported "
    f"{shown[1]}; export is not possible with this template and tokenizer"
  )
