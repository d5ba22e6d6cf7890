"""The exported tokenizer: their pooling and their template give our tokens."""

import numpy as np
import pytest
from tokenizers import processors

from rm_jax.data.handover import (
  NEW_PADDING,
  PROBES,
  closing_template,
  encoded_ids,
  hand_over,
  recipe_ids,
)
from rm_jax.data.loader import Reading
from rm_jax.data.rejects import RecordError
from rm_jax.data.templates import FROZEN_DATE, render
from rm_jax.data.tokenize import end_ids
from rm_jax.data.tokenizers import load_tokenizer
from rm_jax.types import Record, UserError
from tests.data.families import FAMILIES
from tests.data.fixtures import make_tokenizer

TURNS = (
  {"role": "user", "content": " Is 127 prime?"},
  {"role": "assistant", "content": "Yes.\n"},
)


def reading(template="auto", read_at="end_of_turn"):
  return Reading(template, read_at, 512, "drop", "shared", 1, "last_token")


def pooled(ids, padding) -> int:
  """Where transformers reads: the rightmost token that is not padding.

  As its sequence classifiers do it: argmax of position * (id != padding).
  """
  ids = np.asarray(ids)
  return int(np.argmax(np.arange(len(ids)) * (ids != padding)))


@pytest.mark.parametrize("read_at", ["end_of_turn", "last_token"])
@pytest.mark.parametrize("name", [*FAMILIES, "smollm2"])
def test_their_tokens_and_their_pooled_token_are_ours(name, read_at):
  # Would catch a tail that is still printed, a padding id that is the end of
  # turn, a date of today, white space that the capture of the text ate.
  tokenizer = (
    load_tokenizer(name) if name == "smollm2" else FAMILIES[name].build()
  )
  got = hand_over(
    tokenizer, reading(read_at=read_at), vocab_size=len(tokenizer)
  )
  assert got.recipe == "chat" and got.reading.template == "chat"
  seen = 0
  for prompt, completions in PROBES:
    record = Record("unlabelled", prompt, completions)
    try:
      want = encoded_ids(record, tokenizer, reading(read_at=read_at))
    except RecordError:
      continue  # no system turn in this family
    for ids, completion in zip(want, completions, strict=True):
      theirs = recipe_ids("chat", got.tokenizer, prompt, completion)
      assert theirs == ids
      padded = theirs + [got.tokenizer.pad_token_id] * 5
      assert pooled(padded, got.tokenizer.pad_token_id) == len(ids) - 1
      assert got.tokenizer.pad_token_id not in ids
      seen += 1
  assert seen >= 5
  # What the user had is as it was.
  assert tokenizer.pad_token_id != got.tokenizer.pad_token_id or (
    tokenizer.pad_token_id not in end_ids(tokenizer)
  )


def test_smollm2s_template_ends_at_the_end_of_turn():
  tokenizer = load_tokenizer("smollm2")
  got = hand_over(tokenizer, reading(), vocab_size=49152)
  before = tokenizer.apply_chat_template(list(TURNS), tokenize=False)
  after = got.tokenizer.apply_chat_template(list(TURNS), tokenize=False)
  assert before.endswith("Yes.\n<|im_end|>\n") and after == before[:-1]
  # The prompt that waits for an answer is as it was.
  waits = dict(tokenize=False, add_generation_prompt=True)
  asked = [TURNS[0]]
  assert got.tokenizer.apply_chat_template(
    asked, **waits
  ) == tokenizer.apply_chat_template(asked, **waits)
  # Padding was the end of turn; no text of this model's holds the new one.
  assert tokenizer.pad_token == "<|im_end|>"
  assert got.tokenizer.pad_token == "<empty_output>" and not got.grown


def test_a_template_that_prints_nothing_after_the_end_stays_as_it_is():
  tokenizer = FAMILIES["llama2"].build()
  closing = closing_template(tokenizer, read_at="end_of_turn")
  assert closing == tokenizer.chat_template.removesuffix("\n")


def test_the_date_is_the_frozen_one_without_being_told():
  tokenizer = FAMILIES["llama3"].build()
  got = hand_over(tokenizer, reading(), vocab_size=len(tokenizer)).tokenizer
  for told in ({}, {"date_string": "1 Jan 1999"}):
    text = got.apply_chat_template(list(TURNS), tokenize=False, **told)
    assert f"Today Date: {FROZEN_DATE}" in text


def test_generation_marks_of_a_template_survive():
  # Templates for training mark what the assistant says.
  template = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% generation %}{{ m.content }}{% endgeneration %}{{ '<|im_end|>\n' }}"
    "{% endfor %}"
  )
  tokenizer = make_tokenizer(template)
  got = hand_over(tokenizer, reading(), vocab_size=len(tokenizer)).tokenizer
  text = render(TURNS, tokenizer, add_generation_prompt=False)
  assert render(TURNS, got, add_generation_prompt=False) == text[:-1]


# ---------------------------------------------------------------- plain text


def test_plain_text_loses_the_template_that_it_was_not_read_with():
  tokenizer = make_tokenizer()
  got = hand_over(tokenizer, reading("plain"), vocab_size=len(tokenizer))
  assert got.tokenizer.chat_template is None
  assert got.reading.template == "plain" and got.recipe == "special"


def with_post_processor(text, **tokens):
  tokenizer = make_tokenizer(None)
  tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
    single=text, special_tokens=list(tokens.items())
  )
  return tokenizer


def test_a_bos_that_the_tokenizer_adds_is_in_the_recipe():
  ids = {"<s>": make_tokenizer().bos_token_id}
  tokenizer = with_post_processor("<s> $A", **ids)
  got = hand_over(tokenizer, reading("plain"), vocab_size=len(tokenizer))
  assert got.recipe == "special"
  found = recipe_ids("special", got.tokenizer, "Who ?", " A poet .")
  assert found[:2].count(tokenizer.bos_token_id) == 1


def test_a_tokenizer_that_adds_a_second_eos_is_refused():
  plain = make_tokenizer()
  tokenizer = with_post_processor(
    "<s> $A <|im_end|>",
    **{"<s>": plain.bos_token_id, "<|im_end|>": plain.eos_token_id},
  )
  with pytest.raises(
    UserError, match=r"gives others for completion 0 of 'What.*'<\|im_end\|>'"
  ):
    hand_over(tokenizer, reading("plain"), vocab_size=len(tokenizer))


def test_a_token_behind_the_conversation_is_refused():
  # Some published models are read at a token of their own; a template of
  # theirs prints none, and would be read elsewhere.
  tokenizer = make_tokenizer()
  with pytest.raises(UserError, match="gives others for completion 0 of"):
    hand_over(
      tokenizer,
      reading(read_at="last_token")._replace(append=5),
      vocab_size=len(tokenizer),
    )


# ---------------------------------------------------------------- padding


@pytest.mark.parametrize(
  "added, padding, want, grown",
  [
    ([], "<pad>", "<pad>", False),  # its own, a new row of its own table
    (["<|pad_right|>", "<|tool|>"], "<|im_end|>", "<|pad_right|>", False),
    (["<|reserved_1|>", "<|reserved_2|>"], None, "<|reserved_2|>", False),
    (["<|a|>", "<|b|>"], "<s>", "<|b|>", False),
    ([], "<|im_end|>", NEW_PADDING, True),
    ([], None, NEW_PADDING, True),
  ],
)
def test_padding(added, padding, want, grown):
  tokenizer = make_tokenizer()
  tokenizer.add_special_tokens({"additional_special_tokens": added})
  if padding:
    tokenizer.add_special_tokens({"pad_token": padding})
  size = len(tokenizer)
  got = hand_over(tokenizer, reading(), vocab_size=size)
  assert (got.tokenizer.pad_token, got.grown) == (want, grown)
  assert (got.tokenizer.pad_token_id == size) == grown
  assert got.tokenizer.padding_side == "right"
  # A table that was padded to a round size has a row for a new token.
  assert not hand_over(tokenizer, reading(), vocab_size=size + 7).grown
