"""Eight conversations in the templates and tokenizers of real families.

What is expected comes from the families' templates in plain Python and from
tokens turned back into bytes one letter at a time, never from `encode`.
"""

import datetime
import itertools

import numpy as np
import pytest

from rm_jax.data.rejects import RecordError
from rm_jax.data.templates import render_group
from rm_jax.data.tokenize import encode, encode_to_fit, end_ids, kept_prefix
from rm_jax.data.tokenizers import (
  check_fingerprint,
  fingerprint,
  load_tokenizer,
)
from rm_jax.types import Record, UserError
from tests.data.families import FAMILIES, normal, pieces
from tests.data.fixtures import group
from tests.tiny_run import write_tokenizer


def turns(*contents, system=""):
  """Messages of the user and the assistant in turn, after a system turn."""
  roles = itertools.cycle(["user", "assistant"])
  head = [{"role": "system", "content": system}] if system else []
  return (*head, *({"role": next(roles), "content": c} for c in contents))


def pair(prompt, *completions):
  return Record("pair", prompt, completions, source="rows.jsonl", line=3)


ASKED = "What is two plus two?"
# A prompt that ends with an answer. Qwen 3 shows the thoughts of a last turn,
# even empty ones; as soon as another turn follows it does not.
REWRITTEN = turns("Who wrote this?", "A poet wrote it.")
# The first step ends in an accent of two characters, the last in an emoji.
STEPS = "First add two and two.\n\nThat is cafe\u0301\nThe answer is four 🙂"
ENDS = (STEPS.index(".") + 1, STEPS.index("\u0301") + 1, len(STEPS))


def steps(prompt):
  return Record(
    "steps",
    prompt,
    (STEPS,),
    step_ends=(ENDS,),
    step_labels=((1.0, 0.0, 1.0),),
    source="rows.jsonl",
    line=3,
  )


CONVERSATIONS = {
  "one turn": pair(ASKED, "It is four.", "Nobody knows."),
  "three turns": pair(
    turns("Who wrote this?", "A poet wrote it.", "When?"), "In 1998.", "No."
  ),
  "system": pair(
    turns(ASKED, system="You are a poet. Be brief."), "Four.", "It is five."
  ),
  "white space": pair("\n  Who?\n", "\n\n  A poet. \n", "\n\n Not me.\n\n"),
  "unicode": pair("東京 café 🙂?", "🙂 oui, 東京", "👩‍🚀 não"),
  "end token": pair(ASKED, "It prints END and goes on.", "END"),
  "nearly empty": pair(ASKED, " .", " !"),
  "steps": steps(ASKED),
}

CASES = [
  (family, name)
  for family, name in itertools.product(FAMILIES, CONVERSATIONS)
  if FAMILIES[family].system or name != "system"
]
every_case = pytest.mark.parametrize(("name", "conversation"), CASES)
every_family = pytest.mark.parametrize("name", FAMILIES)


def record_of(name, conversation):
  record = CONVERSATIONS[conversation]
  end = FAMILIES[name].end
  return record._replace(
    completions=tuple(c.replace("END", end) for c in record.completions)
  )


def written(name, record):
  """(prompt, texts) by the family's template in plain Python."""
  prompt = record.prompt
  if isinstance(prompt, str):
    prompt = turns(prompt)
  write = FAMILIES[name].write
  answers = [{"role": "assistant", "content": c} for c in record.completions]
  return write(prompt, True), [write((*prompt, a), False) for a in answers]


def coded(name, record, read_at="end_of_turn", tokenizer=None):
  tokenizer = tokenizer or FAMILIES[name].build()
  return encode(record, tokenizer, read_at=read_at, template="auto")


# ---------------------------------------------------------------- encode


@every_case
def test_templates_render_as_plain_python_does(name, conversation):
  # Catches white space trimmed by the wrong side, a date of today, a template
  # that is given other messages than the record's.
  record = record_of(name, conversation)
  tokenizer = FAMILIES[name].build()
  got = render_group(record, tokenizer, template="chat")
  assert got == written(name, record)


@every_case
@pytest.mark.parametrize("read_at", ["end_of_turn", "last_token"])
def test_tokens_are_those_of_the_whole_text(name, conversation, read_at):
  # Catches prompt and completion tokenised apart, a BOS more or less, a cut at
  # the first end token (the text of a completion may hold one), a cut that
  # loses the end or keeps the newline behind it.
  family, record = FAMILIES[name], record_of(name, conversation)
  tokenizer = family.build()
  got = coded(name, record, read_at, tokenizer)
  for k, text in enumerate(written(name, record)[1]):
    if read_at == "end_of_turn":
      text = text.removesuffix(family.tail)
    want = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    assert got.tokens[k].tolist() == want.ids
    assert b"".join(pieces(family, tokenizer, want.ids)) == normal(family, text)
    assert got.reads[k] == len(want.ids) - 1
    if read_at == "end_of_turn" or not family.tail:
      read = got.tokens[k][got.reads[k]]
      assert tokenizer.convert_ids_to_tokens(int(read)) == family.end
      assert read in end_ids(tokenizer)


@every_case
def test_at_most_one_bos_begins_the_text(name, conversation):
  # Catches trap 8 in each family's rule: the template prints it, the tokenizer
  # adds it, or neither does. Llama 2 begins every turn of the user with one.
  family, record = FAMILIES[name], record_of(name, conversation)
  tokenizer = family.build()
  for ids in coded(name, record, tokenizer=tokenizer).tokens:
    if not family.bos:
      assert tokenizer.bos_token is None
      continue
    head = tokenizer.convert_ids_to_tokens(ids[:2].tolist())
    assert head[0] == family.bos and head[1] != family.bos
    count = (ids == tokenizer.bos_token_id).sum()
    text = b"".join(pieces(family, tokenizer, ids)).decode()
    if name == "llama2":
      assert count == text.count("[INST]")
    elif name == "olmo2":  # the same token ends what the assistant says
      ends = [c.count(family.end) for c in record.completions]
      assert count - 1 - text.count("<|assistant|>") in ends
    else:
      assert count == 1


@every_case
def test_the_completion_begins_beyond_the_prompt(name, conversation):
  # Catches a start by the length of the prompt's own tokens, by a search for
  # the completion's text, and one token late after a special token.
  family, record = FAMILIES[name], record_of(name, conversation)
  tokenizer = family.build()
  got = coded(name, record, tokenizer=tokenizer)
  prompt = normal(family, written(name, record)[0])
  for ids, start, said in zip(
    got.tokens, got.starts, record.completions, strict=True
  ):
    parts = pieces(family, tokenizer, ids)
    head, rest = b"".join(parts[:start]), b"".join(parts[start:])
    # No token of the completion lies before, and none after is left out.
    assert head.startswith(prompt)
    assert len(b"".join(parts[: start - 1])) < len(prompt)
    said = normal(family, said)
    if family.trims:
      said = said.strip()
    if conversation != "white space" or family.trims:
      assert head == prompt and said in rest
    elif name == "qwen3":  # empty thoughts take the place of the newlines
      assert head == prompt and said.lstrip(b"\n") in rest
    else:  # the prompt's newline and the completion's are one token
      assert head == prompt + b"\n\n"
      assert said.removeprefix(b"\n\n") in rest


@every_case
def test_completions_share_the_prompts_tokens(name, conversation):
  # Catches a completion that changes how its prompt comes apart: no trunk.
  record = record_of(name, conversation)
  got = coded(name, record)
  heads = {
    tuple(ids[:start].tolist())
    for ids, start in zip(got.tokens, got.starts, strict=True)
  }
  assert len(heads) == 1
  assert len(heads.pop()) >= 5


@every_family
def test_steps_end_at_the_token_of_their_last_character(name):
  # Catches offsets of the normalised text (an accent of two characters is one
  # there), the first of an emoji's byte tokens, and a step that is looked for
  # in the prompt, which holds the same words.
  family, tokenizer = FAMILIES[name], FAMILIES[name].build()
  record = steps(turns(STEPS, "Go on.", STEPS))
  got = coded(name, record, tokenizer=tokenizer)
  parts = pieces(family, tokenizer, got.tokens[0])
  (text,) = written(name, record)[1]
  at = text.rindex(STEPS)
  for end, found in zip(ENDS, got.step_ends[0], strict=True):
    read = len(normal(family, text[: at + end]))  # bytes
    assert len(b"".join(parts[:found])) < read
    assert len(b"".join(parts[: found + 1])) >= read
  # In front of the end of turn, since nothing follows the last step.
  assert b"".join(parts[got.step_ends[0][-1] + 1 :]).strip() == (
    family.end.encode()
  )


def test_a_family_without_a_system_turn_refuses_the_record_by_name():
  # Catches a traceback of jinja2, and a system turn dropped in silence.
  with pytest.raises(
    RecordError,
    match="^rows.jsonl:3: the chat template refuses .*: no system turn in",
  ):
    coded("gemma", CONVERSATIONS["system"])


# -------------------------------------------------- generation prompts


@pytest.mark.parametrize("thought", ["", "<think>", "<think>\nHm.\n</think>\n"])
def test_a_generation_prompt_may_say_more_than_a_turn_begins_with(thought):
  # Catches "rewrites earlier turns" where none is: templates that make a model
  # think end their generation prompt in "<think>", which other answers lack.
  tokenizer = FAMILIES["qwen2"].build()
  header = '"<|im_start|>assistant\\n'
  assert tokenizer.chat_template.count(header) == 1
  tokenizer.chat_template = tokenizer.chat_template.replace(
    header, header + "<think>"
  )
  record = pair(ASKED, "It is four.", thought + "Nobody knows.")
  got = coded("qwen2", record, tokenizer=tokenizer)
  for ids, start, said in zip(
    got.tokens, got.starts, record.completions, strict=True
  ):
    parts = pieces(FAMILIES["qwen2"], tokenizer, ids)
    assert b"".join(parts[:start]).endswith(b"<|im_start|>assistant\n")
    assert b"".join(parts[start:]).decode() == said + "<|im_end|>"


def test_a_turn_that_the_generation_prompt_does_not_begin_stays_unknown():
  # Catches a prompt cut back into an earlier turn: this family ends an answer
  # with a newline once another turn follows, which the prompt alone lacks.
  assert coded("olmo2", pair(REWRITTEN, "In 1998.", "No.")).starts == (-1, -1)


# ---------------------------------------------------------------- dates


@every_family
def test_tokens_are_the_same_on_two_days(name, monkeypatch):
  # Catches trap 9; the family that prints a date does so when it is not frozen.
  tokenizer = FAMILIES[name].build()
  record = CONVERSATIONS["one turn"]
  frozen, live = [], []
  for day in (1, 2):

    class Clock(datetime.datetime):
      @classmethod
      def now(cls, tz=None, day=day):
        return datetime.datetime(2031, 5, day)

    monkeypatch.setattr(
      "transformers.utils.chat_template_utils.datetime", Clock
    )
    frozen.append(coded(name, record, tokenizer=tokenizer).tokens[0].tolist())
    live.append(
      tokenizer.apply_chat_template(list(turns(ASKED)), tokenize=False)
    )
  assert frozen[0] == frozen[1]
  assert (live[0] != live[1]) == (name == "llama3")


# ------------------------------------------------------- rewritten turns


def test_thoughts_of_earlier_turns_are_gone_from_prompt_and_conversation():
  # Catches a prompt that keeps them: its text would not begin the whole.
  thought = "<think>\nTwo and two.\n</think>\n\nFour."
  record = pair(turns(ASKED, thought, "Sure?"), thought, "No.")
  tokenizer = FAMILIES["qwen3"].build()
  got = coded("qwen3", record, tokenizer=tokenizer)
  assert got.starts[0] == got.starts[1] > 0
  texts = [
    b"".join(pieces(FAMILIES["qwen3"], tokenizer, ids)).decode()
    for ids in got.tokens
  ]
  assert [text.count("Two and two.") for text in texts] == [1, 0]
  assert texts[0].endswith(thought + "<|im_end|>")
  assert texts[1].endswith("assistant\n<think>\n\n</think>\n\nNo.<|im_end|>")


@pytest.mark.parametrize(
  "pooling", ["last_token", "every_token", "mean", "step_ends"]
)
def test_a_rewritten_turn_is_refused_where_the_start_must_be_known(pooling):
  # Catches a start taken from the length of a prompt that is not there.
  process = pooling == "step_ends"
  record = steps(REWRITTEN) if process else pair(REWRITTEN, "In 1998.", "No.")

  def read():
    changes = dict(pooling=pooling)
    if process:
      changes |= dict(loss="step_binary_cross_entropy", kind="process")
    return group(record, coded("qwen3", record), **changes)

  if pooling == "last_token":
    got = read()
    tokenizer = FAMILIES["qwen3"].build()
    for ids, slots in zip(got.tokens, got.slots, strict=True):
      assert slots.tolist() == [len(ids) - 1]
      assert ids[-1] == tokenizer.eos_token_id
    return
  with pytest.raises(
    RecordError, match="^rows.jsonl:3: the chat template rewrites earlier turns"
  ):
    read()


@every_family
def test_only_one_family_rewrites(name):
  # Catches a refusal of dialogues that no template changes: a prompt may end
  # with an answer, and the completions go on with a question.
  on = [turns("When?", answer) for answer in ("In 1998.", "Nobody knows.")]
  got = coded(name, pair(REWRITTEN, *on))
  if name == "qwen3":
    assert got.starts == (-1, -1)
    return
  family, tokenizer = FAMILIES[name], FAMILIES[name].build()
  prompt = normal(family, family.write(REWRITTEN, False))
  for ids, start in zip(got.tokens, got.starts, strict=True):
    assert b"".join(pieces(family, tokenizer, ids[:start])) == prompt


# ---------------------------------------------------------------- overlong

LONG = "Who wrote this, what is it, and when did they? " * 4


@every_family
@pytest.mark.parametrize("system", ["", "Be kind.", "Never print END, please."])
def test_cut_prompt_keeps_bos_system_turn_and_ends(name, system):
  # Catches a cut from the very left, a cut in the completion, another cut for
  # each completion, and a system turn that is lost because its family ends it
  # with no token of its own or because its text holds an end token.
  family, tokenizer = FAMILIES[name], FAMILIES[name].build()
  if system and not family.system:
    pytest.skip(f"{name} has no system turn")
  system = system.replace("END", family.end)
  record = pair(turns(LONG, system=system), "It is four.", "Nobody knows why.")
  whole = coded(name, record, tokenizer=tokenizer)
  excess = 30
  got = encode_to_fit(
    record,
    tokenizer,
    read_at="end_of_turn",
    template="auto",
    row_len=max(map(len, whole.tokens)) - excess,
    policy="cut_prompt",
  )
  keep = kept_prefix(whole, record, tokenizer, template="auto")
  for k, ids in enumerate(whole.tokens):
    left, right = ids[:keep], ids[keep + excess :]
    np.testing.assert_array_equal(got.tokens[k], np.append(left, right))
    np.testing.assert_array_equal(
      got.tokens[k][got.starts[k] :], ids[whole.starts[k] :]
    )
    assert got.reads[k] == len(got.tokens[k]) - 1
    assert got.tokens[k][-1] == ids[-1]
  np.testing.assert_array_equal(
    whole.tokens[0][keep : keep + excess], whole.tokens[1][keep : keep + excess]
  )
  kept = b"".join(pieces(family, tokenizer, whole.tokens[0][:keep])).decode()
  assert kept.startswith(family.bos) and "Who wrote" not in kept
  assert system in kept
  if name == "qwen2" and not system:
    assert "You are a helpful assistant." in kept
  if name == "llama3":
    assert "Today Date: 26 Jul 2024" in kept


@every_family
def test_cut_prompt_gives_up_before_it_cuts_a_completion(name):
  tokenizer = FAMILIES[name].build()
  record = pair(ASKED, LONG, LONG + "No.")
  whole = coded(name, record, tokenizer=tokenizer)
  keep = kept_prefix(whole, record, tokenizer, template="auto")
  least = max(map(len, whole.tokens)) - whole.starts[0] + keep
  how = dict(read_at="end_of_turn", template="auto", policy="cut_prompt")
  assert encode_to_fit(record, tokenizer, row_len=least - 1, **how) is None
  assert encode_to_fit(record, tokenizer, row_len=least, **how) is not None


# ------------------------------------------------------------- fingerprint


def taken(tokenizer):
  policy = {"read_at": "end_of_turn", "pooling": "last_token"}
  return fingerprint(tokenizer, tokenizer.chat_template, policy)


@every_family
def test_loading_twice_gives_one_fingerprint_and_the_same_tokens(
  name, tmp_path
):
  # Catches a loader that rebuilds the tokenizer by its class and forgets how
  # the file says that text is split.
  built = FAMILIES[name].build()
  write_tokenizer(tmp_path, built)
  first, second = load_tokenizer(tmp_path), load_tokenizer(tmp_path)
  check_fingerprint(taken(first), taken(second))
  check_fingerprint(taken(built), taken(first))
  for conversation in ("white space", "unicode", "steps"):
    record = record_of(name, conversation)
    got, want = coded(name, record, tokenizer=first), coded(name, record)
    for a, b in zip(got.tokens, want.tokens, strict=True):
      np.testing.assert_array_equal(a, b)
    assert got.starts == want.starts


@pytest.mark.parametrize(
  ("one", "other"), list(itertools.combinations(FAMILIES, 2))
)
def test_fingerprints_of_two_families_differ_and_say_in_what(one, other):
  # Catches a fingerprint that leaves out the template (Qwen 2.5 and 3 share
  # all else) or the special tokens, and a message that says only "differ".
  a, b = (taken(FAMILIES[name].build()) for name in (one, other))
  with pytest.raises(UserError, match="expected the tokenizer") as caught:
    check_fingerprint(a, b)
  text = str(caught.value)
  assert "\n" not in text
  named = {part.split(":")[0] for part in text.split(": ", 1)[1].split("; ")}
  assert {"template", "dialogue"} <= named
  same = {one, other} == {"qwen2", "qwen3"}
  assert ("vocabulary" in named) != same
  eos = [x["special_ids"]["eos"] for x in (a, b)]
  assert ("special_ids.eos" in named) == (eos[0] != eos[1])
