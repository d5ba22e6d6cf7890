"""What the doctor says of tokens and templates, counted by hand."""

from tokenizers import processors

from rm_jax.data.doctor.template import template_findings
from rm_jax.data.doctor.tokens import (
  fitting_row_len,
  quantile,
  token_findings,
  tokenized,
)
from rm_jax.data.loader import COMPARISONS, Reading
from rm_jax.types import Record
from tests.data.fixtures import FORGETFUL, REWRITING, TEMPLATE, make_tokenizer

READING = Reading(
  template="auto",
  read_at="end_of_turn",
  row_len=64,
  overlong="drop",
  layout="shared",
  align=1,
  pooling="last_token",
)


def pair(prompt, chosen, rejected, line=1):
  return Record(
    "pair", prompt, (chosen, rejected), (0, 1), source="a.jsonl", line=line
  )


def read(records, *, tokenizer=None, supervision=COMPARISONS, **changes):
  """(named findings, Tokens, rejects) of records."""
  rejects = []
  reading = READING._replace(**changes)
  found = tokenized(
    records,
    tokenizer or make_tokenizer(),
    reading,
    supervision,
    root="",
    rejects=rejects.append,
  )
  named = {f.name: f for f in token_findings(found, reading, supervision)}
  return named, found, rejects


# <s> < user / What _is _two _plus _two _? > / < assistant /  are 15 tokens;
# "It is four ." and its end 5, "Nobody knows ." and its end 4.
ASKED = "What is two plus two ?"
FOUR, NOBODY = "It is four .", "Nobody knows ."


def test_tokens_are_counted_as_by_hand():
  # Catches a template's tail that is counted, a prompt counted as completion,
  # sharing that forgets the trunk.
  named, found, rejects = read([pair(ASKED, FOUR, NOBODY)])
  assert rejects == []
  assert dict(found.tables["prompt"]) == {15: 2}
  assert dict(found.tables["completion"]) == {5: 1, 4: 1}
  assert dict(found.tables["longest"]) == {20: 1}
  sharing = named["sharing"]
  assert (sharing.count, sharing.total) == (15, 20 + 19)
  assert (named["row_fill"].count, named["row_fill"].total) == (24, 8 * 64)
  assert {f.severity for f in named.values()} == {"note"}
  assert named["tokens_completion"].numbers["largest"] == 5


def test_overlong_dropped_and_cut():
  # Rows of 19: the first pair needs 20, so one prompt token after <s> is cut;
  # the second has no token to spare, its completion alone is too long.
  records = [
    pair(ASKED, FOUR, NOBODY, 1),
    pair("Be", " ".join(["It is four ."] * 5), NOBODY, 2),
    pair("Be brief .", "Yes .", "No .", 3),
  ]
  named, _, rejects = read(records, row_len=19)
  overlong = named["overlong"]
  assert (overlong.count, overlong.total) == (2, 3)
  assert overlong.examples == ("a.jsonl:1", "a.jsonl:2")
  assert overlong.severity == "warning"
  numbers = overlong.numbers
  assert (numbers["cut_prompt_keeps"], numbers["cut_prompt_drops"]) == (1, 1)
  assert numbers["prompt_tokens_cut"] == numbers["prompt_tokens_cut_most"] == 1
  assert rejects == []  # dropped ones are counted, not rejected


def test_a_tree_longer_than_a_row_is_split():
  # 15 + 5 + 4 = 24 tokens in rows of 23; in rows of 24 the tree is whole.
  records = [pair(ASKED, FOUR, NOBODY)]
  assert read(records, row_len=23)[0]["split_trees"].count == 1
  assert "split_trees" not in read(records, row_len=24)[0]


def test_what_the_template_trims_is_identical_in_tokens():
  # The template trims, so the texts differ and the tokens do not; training
  # rejects that pair, and the report says so with its line.
  records = [pair(ASKED, FOUR, f" {FOUR}", 7), pair(ASKED, FOUR, NOBODY, 8)]
  named, _, rejects = read(records)
  assert named["identical_tokens"].count == 1
  assert named["identical_tokens"].examples == ("a.jsonl:7",)
  refused = named["loss_rejects"]
  assert (refused.count, refused.total) == (1, 2)
  assert "identical after tokenisation" in refused.what
  assert [(r.line, r.file) for r in rejects] == [(7, "a.jsonl")]


def test_a_first_token_that_tells_the_sides_apart():
  # Plain text keeps the space: "It" and " It" are other tokens.
  records = [pair("Be brief .", " It is four .", "It is five .")]
  named, _, _ = read(records, template="plain")
  assert named["first_token"].count == 1
  assert "first_token" not in read(records)[0]  # the template trims


def test_a_token_over_the_boundary_is_counted():
  # "tw" + "o" are one token together and others apart: both completions of the
  # first record begin inside of it.
  records = [pair("What is tw", "o plus two ?", "o ?"), pair("Yes", " .", " ?")]
  named, _, _ = read(records, template="plain")
  assert (named["boundary_shift"].count, named["boundary_shift"].total) == (
    2,
    4,
  )


def test_what_the_loss_cannot_use_is_told_with_the_reason():
  record = Record("outcome", ASKED, (FOUR,), labels=(1.0,), line=3)
  named, _, rejects = read([record, pair(ASKED, FOUR, NOBODY)])
  assert named["loss_rejects"].severity == "error"
  assert "'bradley_terry' compares completions" in named["loss_rejects"].what
  assert len(rejects) == 1


def test_the_row_that_holds_995_of_1000():
  # 5 of 1,000 may be left out, not 6; powers of two from 128 on.
  _, found, _ = read([pair(ASKED, FOUR, NOBODY)])
  for long, want in ((5, 256), (6, 1024)):
    found.tables["longest"].clear()
    found.tables["longest"].update({200: 1000 - long, 900: long})
    assert fitting_row_len(found) == want
  found.tables["longest"].clear()
  found.tables["longest"].update({128: 1})
  assert fitting_row_len(found) == 128
  assert quantile(found.tables["longest"], 0.5) == 128


def template_names(tokenizer, **changes):
  found = template_findings(tokenizer, READING._replace(**changes))
  return {f.name: f.severity for f in found}


def test_templates_that_do_odd_things():
  # Each template does one thing; the others must not be said of it.
  assert template_names(make_tokenizer()) == {
    "fingerprint": "note",
    "tail": "note",
  }
  last = template_names(make_tokenizer(), read_at="last_token")
  assert last["tail"] == "warning"  # the score would be read at a newline
  none = template_names(make_tokenizer(template=None))
  assert none == {"fingerprint": "note", "no_template": "note"}
  odd = {
    REWRITING: {"rewrites_turns"},
    FORGETFUL: {"drops_assistant_first", "drops_system"},
    "{{ strftime_now('%d') }}" + TEMPLATE: {"dated_template"},
    TEMPLATE.replace("<|im_end|>", ""): {"no_end"},
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}"
    "{% endif %}" + TEMPLATE: {"refuses_system"},
  }
  for template, names in odd.items():
    found = template_names(make_tokenizer(template=template))
    assert set(found) - {"fingerprint", "tail"} == names, template


def test_a_second_bos_is_told():
  tokenizer = make_tokenizer()
  tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
    single="<s> $A",
    special_tokens=[("<s>", tokenizer.convert_tokens_to_ids("<s>"))],
  )
  assert "double_bos" in template_names(tokenizer)
