import datetime

import jinja2
import pytest

from rm_jax.data import templates
from rm_jax.data.templates import parse_dialogue, render, render_group
from rm_jax.types import Record, UserError
from tests.data.fixtures import TEMPLATE, make_tokenizer

DIALOGUE = (
  {"role": "user", "content": "hi"},
  {"role": "assistant", "content": "yes?"},
  {"role": "user", "content": "why"},
)


def test_renders_the_tokenizers_template():
  text = render(DIALOGUE[:1], make_tokenizer(), add_generation_prompt=True)
  assert text == ("<s><|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize(
  "expression",
  [
    "date_string",
    "strftime_now('%d %b %Y')",
    "strftime_now('%A %d %B %Y, %H:%M')",
    "strftime_now('%Y-%m-%d')",
    "strftime_now('%-d/%-m/%y %I %p %a %S %F %T')",
  ],
)
def test_date_is_frozen(expression):
  # Catches a template that prints today: other tokens tomorrow.
  want = "26 Jul 2024"
  if "'" in expression:
    frozen = datetime.datetime(2024, 7, 26)
    want = frozen.strftime(expression.split("'")[1])
  # Used in a loop as well: a macro must be seen there.
  template = (
    "{{ " + expression + " }}{% for m in messages %}|{{ " + expression + " }}"
    "{% endfor %}"
  )
  got = render(DIALOGUE, make_tokenizer(template), add_generation_prompt=False)
  assert got == "|".join([want] * 4)


def test_date_is_frozen_where_a_template_asks_if_it_can():
  template = (
    "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% endif %}"
  )
  got = render(DIALOGUE, make_tokenizer(template), add_generation_prompt=False)
  assert got == "2024"


def test_no_template_is_said():
  tokenizer = make_tokenizer(None)
  with pytest.raises(UserError, match="has no chat template.*'plain'"):
    render(DIALOGUE, tokenizer, add_generation_prompt=False)
  assert templates.template_name("auto", tokenizer) == "plain"
  assert templates.template_name("auto", make_tokenizer()) == "chat"
  with pytest.raises(UserError, match="template='alpaca' is unknown"):
    templates.template_name("alpaca", tokenizer)


def test_refusals_of_a_template_reach_the_caller():
  template = "{{ raise_exception('roles must alternate') }}"
  with pytest.raises(jinja2.TemplateError, match="roles must alternate"):
    render(DIALOGUE, make_tokenizer(template), add_generation_prompt=False)


def test_plain_text_is_prompt_completion_eos():
  record = Record("outcome", "2 + 2 =", (" 4",))
  got = render_group(record, make_tokenizer(None), template="plain")
  assert got == ("2 + 2 =", ["2 + 2 = 4<|im_end|>"])


def test_plain_dialogue_is_what_hh_rlhf_looks_like():
  # Catches roles lost, or a space too many before the answer.
  text = "\n\nHuman: hi\n\nAssistant: yes?\n\nHuman: why\n\nAssistant: so"
  *prompt, answer = parse_dialogue(text)
  record = Record("outcome", tuple(prompt), (answer["content"],))
  head, (whole,) = render_group(record, make_tokenizer(None), template="auto")
  assert whole == text + "<|im_end|>"
  assert whole.startswith(head) and head.endswith("\n\nAssistant:")


def test_plain_without_eos_is_said():
  tokenizer = make_tokenizer(None, eos_token=None)
  with pytest.raises(UserError, match="has no EOS token"):
    render_group(Record("outcome", "a", ("b",)), tokenizer, template="plain")


def test_parse_dialogue():
  got = parse_dialogue("\n\nHuman: a\n\nb \n\nAssistant:")
  assert got == (
    {"role": "user", "content": "a\n\nb"},
    {"role": "assistant", "content": ""},
  )
  assert parse_dialogue("Human: a") is None
  assert parse_dialogue("Title\n\nHuman: a") is None
  assert parse_dialogue("\n\nAssistant: a") is None


def test_generation_prompt_only_before_an_assistant_turn():
  # Catches a header of the assistant counted to a prompt that it does not end.
  tool = (
    {"role": "tool", "content": "4"},
    {"role": "assistant", "content": "4"},
  )
  record = Record("outcome", "a", (tool,))
  prompt, (text,) = render_group(record, make_tokenizer(), template="chat")
  assert prompt == "<s><|im_start|>user\na<|im_end|>\n"
  assert text.startswith(prompt + "<|im_start|>tool\n4")


@pytest.mark.parametrize(
  "prompt, want",
  [
    ("a question", "<s><|im_start|>user\n"),
    (
      ({"role": "system", "content": "Be kind ."}, *DIALOGUE),
      "<s><|im_start|>system\nBe kind .<|im_end|>\n<|im_start|>user\n",
    ),
  ],
)
def test_opening_ends_where_the_user_begins(prompt, want):
  record = Record("outcome", prompt, ("b",))
  got = templates.opening(record, make_tokenizer(TEMPLATE), template="chat")
  assert got == want
