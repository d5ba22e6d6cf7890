"""Text to tokens: whole rows written out by hand."""

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing

from rm_jax.data.rejects import RecordError
from rm_jax.data.supervise import supervise_for_scoring
from rm_jax.data.tokenize import (
  encode_to_fit,
  end_ids,
  fit,
  kept_prefix,
)
from rm_jax.types import Encoded, Record, UserError
from tests.data.fixtures import (
  FORGETFUL,
  PAIR,
  PROMPT,
  REWRITING,
  STEPS,
  TEMPLATE,
  encoded,
  group,
  lists,
  make_tokenizer,
  words,
)

# ---------------------------------------------------------------- encode


def test_whole_rows_of_a_pair():
  # Columns:  0 to 14 the prompt, then the completion, then its end of turn.
  chosen = [*PROMPT, "It", "_is", "_four", "_.", ">"]
  rejected = [*PROMPT, "Nobody", "_knows", "_.", ">"]
  got = encoded()
  tokenizer = make_tokenizer()
  assert [words(tokenizer, ids) for ids in got.tokens] == [chosen, rejected]
  assert got.starts == (15, 15)
  assert got.reads == (19, 18)
  assert all(ids.dtype == np.int32 for ids in got.tokens)


@pytest.mark.parametrize(
  "read_at, tail",
  [
    ("end_of_turn", ["_four", "_.", ">"]),
    ("last_token", ["_four", "_.", ">", "/"]),
  ],
)
def test_what_the_template_prints_last_is_read_by_choice(read_at, tail):
  # Catches trap 8: the template's newline read, or dropped where the checkpoint
  # was trained to read it.
  got = encoded(read_at=read_at)
  row = words(make_tokenizer(), got.tokens[0])
  assert row[-len(tail) :] == tail
  assert got.reads[0] == len(row) - 1


def test_read_position_does_not_come_from_ids():
  # Catches trap 1: with pad == EOS, or EOS inside the prompt, a search for the
  # first EOS reads somewhere in the middle.
  tokenizer = make_tokenizer(pad_token="<|im_end|>")
  dialogue = (
    {"role": "user", "content": "Who wrote this ?"},
    {"role": "assistant", "content": "A poet wrote it ."},
    {"role": "user", "content": "Who ?"},
  )
  got = encoded(PAIR._replace(prompt=dialogue), tokenizer)
  for ids, start, read in zip(*got[:3], strict=True):
    assert (ids == tokenizer.eos_token_id).sum() == 4
    assert read == len(ids) - 1 > start


def test_several_end_ids():
  # Catches trap 10: only tokenizer.eos_token_id ends a turn.
  template = TEMPLATE.replace("<|im_end|>", "<|eot_id|>")
  tokenizer = make_tokenizer(template)
  ids = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|eot_id|>"])
  assert end_ids(tokenizer) == tuple(sorted(ids))
  row = words(tokenizer, encoded(tokenizer=tokenizer).tokens[0])
  assert row[-2:] == ["_.", "<|eot_id|>"]


def test_no_end_of_turn_is_said():
  tokenizer = make_tokenizer("{{ messages[-1]['content'] }}")
  record = PAIR._replace(prompt="")
  with pytest.raises(RecordError, match="rows.jsonl:7: no EOS or EOT token"):
    encoded(record, tokenizer)
  encoded(record, tokenizer, read_at="last_token")


@pytest.mark.parametrize(
  "adds, in_text, template",
  [
    (True, False, "plain"),
    (True, True, "plain"),
    (False, True, "plain"),
    (True, True, "auto"),
    (False, True, "twice"),
  ],
)
def test_exactly_one_bos(adds, in_text, template):
  # Catches trap 8: a BOS by the template and one more by the tokenizer.
  tokenizer = make_tokenizer()
  if adds:
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
      single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
  prompt = "Be kind ."
  if template == "twice":
    tokenizer.chat_template = "<s>" + TEMPLATE
    template = "auto"
  elif template == "plain" and in_text:
    prompt = "<s>" + prompt
  record = PAIR._replace(prompt=prompt, completions=(" Yes .", " No ."))
  got = encoded(record, tokenizer, template=template)
  for k, ids in enumerate(got.tokens):
    assert ids[0] == tokenizer.bos_token_id
    assert (ids == tokenizer.bos_token_id).sum() == 1
    start = got.starts[k]
    assert words(tokenizer, ids[start:])[0].strip("_") == ("Yes", "No")[k]


def test_plain_row():
  tokenizer = make_tokenizer(None)
  record = PAIR._replace(prompt="It is", completions=(" four .", " five ."))
  got = encoded(record, tokenizer)
  assert words(tokenizer, got.tokens[1]) == "It _is _five _. >".split()
  assert (got.starts, got.reads) == ((2, 2), (4, 4))


def test_token_across_the_boundary_belongs_to_the_prompt():
  # Catches prompt and completion tokenised apart: "Nob" + "ody" is one token.
  tokenizer = make_tokenizer(None)
  record = PAIR._replace(prompt="Nob", completions=("ody knows", "ody is"))
  got = encoded(record, tokenizer)
  assert words(tokenizer, got.tokens[0]) == ["Nobody", "_knows", ">"]
  assert got.starts == (1, 1)


def test_template_that_rewrites_earlier_turns():
  # The completion's start is unknown: refused by name, but the last token can
  # be read. Catches a start taken from the length of the rendered prompt.
  tokenizer = make_tokenizer(REWRITING)
  coded = encoded(tokenizer=tokenizer)
  assert coded.starts == (-1, -1)
  assert group(coded=coded).reads == (0, 0)
  for changes in (dict(pooling="every_token"), dict(language=0.1)):
    with pytest.raises(
      RecordError,
      match="rows.jsonl:7: the chat template rewrites earlier turns",
    ):
      group(coded=coded, **changes)
  with pytest.raises(RecordError, match="rewrites earlier turns"):
    encoded(STEPS, tokenizer)


def test_template_that_forgets_answers_keeps_what_is_said_last():
  tokenizer = make_tokenizer(FORGETFUL)
  dialogue = (
    {"role": "user", "content": "Who wrote this ?"},
    {"role": "assistant", "content": "A poet wrote it ."},
    {"role": "user", "content": "Who ?"},
  )
  got = encoded(PAIR._replace(prompt=dialogue), tokenizer)
  row = words(tokenizer, got.tokens[0])
  assert "poet" not in "".join(row)
  assert row[got.starts[0] :] == "< assistant / It _is _four _. >".split()


def test_refusal_of_the_template_names_the_record():
  tokenizer = make_tokenizer("{{ raise_exception('no system turn') }}")
  with pytest.raises(
    RecordError,
    match="rows.jsonl:7: the chat template refuses .* no system turn",
  ) as caught:
    encoded(tokenizer=tokenizer)
  assert caught.value.reject[:2] == ("rows.jsonl", 7)


def test_steps_end_at_the_token_of_their_last_character():
  # prompt 15 | First _add _two _. / Then _add _one _. >
  #            | 15    16   17   18   20             23
  got = encoded(STEPS)
  tokenizer = make_tokenizer()
  assert lists(got.step_ends) == [[18, 23]]
  assert words(tokenizer, got.tokens[0][got.step_ends[0]]) == ["_.", "_."]


def test_step_ends_survive_separators_and_steps_in_the_prompt():
  # Catches trap 11 and 38: a search for the separator or for the step's text,
  # which also stand in the prompt and twice in the answer.
  prompt = "First add two .\n\nFirst add two .\nThen"
  text = " \nFirst add two .\n\nFirst add two .\n"
  record = STEPS._replace(
    prompt=prompt, completions=(text,), step_ends=((17, 34),)
  )
  got = encoded(record)
  tokenizer = make_tokenizer()
  row = words(tokenizer, got.tokens[0])
  # The template trims the answer: First _add _two _. / / First _add _two _. >
  start = got.starts[0]
  assert row[start:] == "First _add _two _. / / First _add _two _. >".split()
  assert lists(got.step_ends) == [[start + 3, start + 9]]


def test_step_inside_a_token_of_several_characters():
  # A step may end inside a token, or in a character of several tokens.
  text = "Nobody éé"
  record = STEPS._replace(completions=(text,), step_ends=((3, 9),))
  got = encoded(record)
  ends = got.step_ends[0] - got.starts[0]
  tokenizer = make_tokenizer()
  row = words(tokenizer, got.tokens[0][got.starts[0] :])
  assert ends[0] == 0 and row[0] == "Nobody"
  assert ends[1] == len(row) - 2  # the last token before the end of turn


@pytest.mark.parametrize(
  "ends, message",
  [
    ((15, 31), "are not within the 30 characters of completion 0"),
    ((0, 30), "are not within the 30 characters"),
    ((1, 2), "two steps of completion 0 end in the same token"),
  ],
)
def test_bad_step_ends_are_refused(ends, message):
  with pytest.raises(RecordError, match=message):
    encoded(STEPS._replace(step_ends=(ends,)))


def test_unknown_read_at_and_slow_tokenizers():
  with pytest.raises(UserError, match="config.data.read_at='eos' is unknown"):
    encoded(read_at="eos")


def test_training_and_scoring_see_the_same_tokens():
  # Catches trap 7: another path from text to tokens for unlabelled data.
  coded = encoded()
  bare = Record("unlabelled", PAIR.prompt, PAIR.completions)
  train, score = group(coded=coded), encoded(bare)
  scoring = supervise_for_scoring(score, bare, index=0, pooling="last_token")
  for a, b in zip(train.tokens, scoring.tokens, strict=True):
    np.testing.assert_array_equal(a, b)
  assert lists(train.slots) == lists(scoring.slots) == [[19], [18]]


# ---------------------------------------------------------------- overlong

SYSTEM = (
  {"role": "system", "content": "Be brief ."},
  {"role": "user", "content": "What is two plus two ?"},
)


def cut(record, row_len, policy="cut_prompt", tokenizer=None):
  return encode_to_fit(
    record,
    tokenizer or make_tokenizer(),
    read_at="end_of_turn",
    template="auto",
    row_len=row_len,
    policy=policy,
  )


def test_drop_only_what_is_longer_than_a_row():
  # The longer completion has 20 tokens. Catches >= and a sum over the group.
  assert cut(PAIR, 20, "drop").reads == (19, 18)
  assert cut(PAIR, 19, "drop") is None


def test_cut_prompt_keeps_bos_system_turn_and_ends():
  # <s> < system / Be _brief _. > | / < user / What _is | _two _plus ...
  # 8 kept                          6 cut
  record = PAIR._replace(prompt=SYSTEM)
  tokenizer = make_tokenizer()
  whole = encoded(record)
  assert len(whole.tokens[0]) == 28
  got = cut(record, 22)
  rest = "_two _plus _two _? > / < assistant /".split()
  head = "<s> < system / Be _brief _. >".split()
  assert [words(tokenizer, ids) for ids in got.tokens] == [
    [*head, *rest, "It", "_is", "_four", "_.", ">"],
    [*head, *rest, "Nobody", "_knows", "_.", ">"],
  ]
  assert (got.starts, got.reads) == ((17, 17), (21, 20))
  for k in range(2):
    np.testing.assert_array_equal(
      got.tokens[k][got.starts[k] :], whole.tokens[k][whole.starts[k] :]
    )
    assert got.reads[k] == len(got.tokens[k]) - 1


def test_cut_prompt_until_the_completion_alone_does_not_fit():
  # 1 BOS + 5 tokens of the longer completion.
  got = cut(PAIR, 6)
  tokenizer = make_tokenizer()
  assert words(tokenizer, got.tokens[0]) == "<s> It _is _four _. >".split()
  assert words(tokenizer, got.tokens[1]) == "<s> Nobody _knows _. >".split()
  assert cut(PAIR, 5) is None


def test_cut_moves_the_steps():
  whole, got = encoded(STEPS), cut(STEPS, 20)
  for k in range(1):
    np.testing.assert_array_equal(
      got.tokens[k][got.step_ends[k]], whole.tokens[k][whole.step_ends[k]]
    )
  assert len(got.tokens[0]) == 20
  assert lists(got.step_ends) == [[13, 18]]  # 18, 23 less the 5 cut


def test_cut_keeps_a_system_turn_of_the_template():
  default = (
    "<s>{% if messages[0]['role'] != 'system' %}<|im_start|>system\n"
    "Be kind .<|im_end|>\n{% endif %}" + TEMPLATE.removeprefix("<s>")
  )
  tokenizer = make_tokenizer(default)
  coded = encoded(tokenizer=tokenizer)
  keep = kept_prefix(coded, PAIR, tokenizer, template="auto")
  kept = words(tokenizer, coded.tokens[0][:keep])
  assert kept == "<s> < system / Be _kind _. >".split()


def test_cut_needs_the_same_prompt_tokens():
  coded = Encoded(
    tokens=(np.arange(9, dtype=np.int32), np.arange(1, 10, dtype=np.int32)),
    starts=(6, 6),
    reads=(8, 8),
    step_ends=(np.zeros(0, np.int32),) * 2,
  )
  assert fit(coded, row_len=8, policy="cut_prompt", keep=0) is None
  assert fit(coded, row_len=9, policy="cut_prompt", keep=0) is coded


def test_unknown_policy_is_refused():
  with pytest.raises(UserError, match="config.data.overlong='cut' is unknown"):
    cut(PAIR, 5, "cut")


# ---------------------------------------------------------------- real ones


@pytest.fixture(scope="module")
def smollm2():
  tokenizers = pytest.importorskip("rm_jax.data.tokenizers")
  try:
    return tokenizers.load_tokenizer("smollm2")
  except UserError as error:
    pytest.skip(f"no SmolLM2 tokenizer: {error}")


def test_smollm2_row(smollm2):
  # Catches the newline after the template's last turn, and a lost system turn.
  got = encoded(tokenizer=smollm2)
  text = smollm2.decode(got.tokens[0])
  assert text.startswith("<|im_start|>system\n")
  assert text.endswith("assistant\nIt is four .<|im_end|>")
  start = got.starts[0]
  assert smollm2.decode(got.tokens[0][start:]) == "It is four .<|im_end|>"
  whole = encoded(tokenizer=smollm2, read_at="last_token").tokens[0]
  assert smollm2.decode(whole[-2:]) == "<|im_end|>\n"
  keep = kept_prefix(got, PAIR, smollm2, template="auto")
  kept = smollm2.decode(got.tokens[0][:keep])
  assert kept.startswith("<|im_start|>system\n")
  assert kept.endswith("<|im_end|>") and "user" not in kept
