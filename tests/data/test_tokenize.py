import math

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing

from rm_jax.data.rejects import RecordError
from rm_jax.data.sources import Reject, read_records
from rm_jax.data.tokenize import (
  encode,
  encode_to_fit,
  end_ids,
  fit,
  kept_prefix,
  supervise,
  supervise_for_scoring,
)
from rm_jax.types import Encoded, Record, UserError
from tests.data.fixtures import (
  FORGETFUL,
  REWRITING,
  TEMPLATE,
  make_tokenizer,
  words,
)

PAIR = Record(
  "pair",
  "What is two plus two ?",
  ("It is four .", "Nobody knows ."),
  ranks=(0, 1),
  source="rows.jsonl",
  line=7,
)
STEPS = Record(
  "steps",
  "What is two plus two ?",
  ("First add two .\nThen add one .",),
  step_ends=((15, 30),),
  step_labels=((1.0, 0.0),),
)
PROMPT = "<s> < user / What _is _two _plus _two _? > / < assistant /".split()


def encoded(
  record=PAIR, tokenizer=None, read_at="end_of_turn", template="auto"
):
  tokenizer = tokenizer or make_tokenizer()
  return encode(record, tokenizer, read_at=read_at, template=template)


def group(record=PAIR, coded=None, **changes):
  arguments = dict(
    index=3,
    loss="bradley_terry",
    kind="pairwise",
    pooling="last_token",
    per="group",
    margin="none",
    language=0.0,
  )
  return supervise(coded or encoded(record), record, **{**arguments, **changes})


OUTCOME = dict(loss="outcome_cross_entropy", kind="pointwise")
PROCESS = dict(
  loss="step_binary_cross_entropy", kind="process", pooling="step_ends"
)
LISTWISE = dict(loss="plackett_luce", kind="listwise")


def lists(arrays):
  return [array.tolist() for array in arrays]


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


# ---------------------------------------------------------------- supervise


def test_pair():
  got = group()
  assert lists(got.slots) == [[19], [18]]
  assert got.reads == (0, 0)
  assert got.comparisons.tolist() == [[0, 1]]
  assert got.comparison_weights.tolist() == [1.0]
  assert lists(got.weights) == [[0.0], [0.0]]  # no pointwise loss
  assert (got.weight, got.trunk, got.record) == (1.0, -1, 3)


RANKING = Record(
  "ranking",
  "What is two plus two ?",
  ("It is four .", "It is five .", "Nobody knows .", "Yes ."),
  ranks=(2, 1, 2, 4),
  weight=3.0,
)


@pytest.mark.parametrize(
  "per, each, whole",
  [
    ("group", 3 / 5, 3.0),
    ("comparison", 3.0, 15.0),
  ],
)
def test_weights_of_a_ranking(per, each, whole):
  # Order 1 > 0 = 2 > 3: five pairs, the tie gives none.
  got = group(RANKING, per=per)
  assert got.comparisons.tolist() == [[0, 3], [1, 0], [1, 2], [1, 3], [2, 3]]
  np.testing.assert_allclose(got.comparison_weights, [each] * 5, rtol=1e-6)
  assert got.ranks.tolist() == [2, 1, 2, 4]
  listwise = group(RANKING, per=per, **LISTWISE)
  assert listwise.weight == whole


def test_order_from_ratings_and_from_outcomes():
  # Catches a rating read as a rank: larger is better.
  ratings = RANKING._replace(ranks=None, ratings=(1.0, 5.0, 1.0, 3.0))
  got = group(ratings, margin="rating_difference")
  assert got.ranks.tolist() == [2, 0, 2, 1]
  assert got.comparisons.tolist() == [[1, 0], [1, 2], [1, 3], [3, 0], [3, 2]]
  assert got.margins.tolist() == [4.0, 4.0, 2.0, 2.0, 2.0]
  outcome = RANKING._replace(ranks=None, labels=(0.0, 1.0, 0.0, 0.0))
  assert group(outcome).comparisons.tolist() == [[1, 0], [1, 2], [1, 3]]


def test_margin_from_strength():
  got = group(PAIR._replace(strength=2.0), margin="llama2_small")
  np.testing.assert_allclose(got.margins, [2 / 3], rtol=1e-6)
  assert group(margin="constant_one").margins.tolist() == [1.0]


@pytest.mark.parametrize(
  "margin, needs",
  [
    ("rating_difference", "chosen_rating and rejected_rating"),
    ("llama2_large", "strength"),
  ],
)
def test_missing_rating_names_record_and_margin(margin, needs):
  message = (
    f"rows.jsonl:7: margin '{margin}' needs {needs}, the record has none"
  )
  with pytest.raises(RecordError, match=message):
    group(margin=margin)


@pytest.mark.parametrize(
  "record",
  [
    RANKING._replace(completions=RANKING.completions[:1], ranks=(0,)),
    RANKING._replace(ranks=(1, 1, 1, 1)),
    RANKING._replace(ranks=None),
  ],
)
@pytest.mark.parametrize("loss", [{}, LISTWISE])
def test_nothing_to_compare_is_refused(record, loss):
  # K = 1, all tied, unlabelled.
  with pytest.raises(
    RecordError, match=f"K={len(record.completions)} and no ordered pair"
  ):
    group(record, **loss)


def test_identical_tokens_are_refused():
  # Catches trap 6: the template trims what made the two differ.
  with pytest.raises(RecordError, match="identical after tokenisation"):
    group(PAIR._replace(completions=("It is", "It is \n")))


OUTCOMES = Record(
  "outcome",
  "What is two plus two ?",
  ("It is four .", "Yes ."),
  labels=(1.0, 0.25),
  weight=2.0,
)


@pytest.mark.parametrize(
  "pooling, per, slots, weights, reads",
  [
    ("last_token", "group", [[19], [17]], [[1], [1]], (0, 0)),
    ("last_token", "comparison", [[19], [17]], [[2], [2]], (0, 0)),
    (
      "every_token",
      "group",
      [[15, 16, 17, 18, 19], [15, 16, 17]],
      [[2 / 8] * 5, [2 / 8] * 3],
      (4, 2),
    ),
    (
      "mean",
      "group",
      [[15, 16, 17, 18, 19], [15, 16, 17]],
      [[0, 0, 0, 0, 1], [0, 0, 1]],
      (4, 2),
    ),
  ],
)
def test_slots_of_outcomes(pooling, per, slots, weights, reads):
  got = group(OUTCOMES, pooling=pooling, per=per, **OUTCOME)
  assert lists(got.slots) == slots
  for k, (weight, label) in enumerate(zip(weights, (1.0, 0.25), strict=True)):
    np.testing.assert_allclose(got.weights[k], weight, rtol=1e-6)
    # Catches int() on a soft label.
    np.testing.assert_array_equal(got.labels[k], [label] * len(weight))
  assert got.reads == reads
  assert got.comparisons.tolist() == [[0, 1]]


def test_value_losses_read_ratings():
  record = OUTCOMES._replace(kind="ratings", labels=None, ratings=(4.0, 1.5))
  got = group(record, loss="squared_error", kind="pointwise")
  assert lists(got.labels) == [[4.0], [1.5]]


@pytest.mark.parametrize(
  "record", [PAIR, PAIR._replace(kind="ratings", ratings=(1.0, 2.0)), STEPS]
)
def test_outcome_loss_without_labels_is_refused(record):
  with pytest.raises(RecordError, match="labels are missing"):
    group(record, **OUTCOME)


def test_outcome_loss_on_steps_says_how_to_read_the_file():
  with pytest.raises(RecordError, match="read with kind='outcome'"):
    group(STEPS, **OUTCOME)


def test_language_slots_of_outcomes_cover_all_completions():
  # Cobbe et al.: right and wrong solutions. Score weights stay where they were.
  got = group(OUTCOMES, language=0.1, **OUTCOME)
  assert lists(got.slots) == [[15, 16, 17, 18, 19], [15, 16, 17]]
  assert lists(got.weights) == [[0, 0, 0, 0, 1], [0, 0, 1]]
  assert lists(got.labels) == [[0, 0, 0, 0, 1.0], [0, 0, 0.25]]
  assert lists(got.language_weights) == [[2.0] * 5, [2.0] * 3]
  assert got.reads == (4, 2)


def test_language_slots_of_a_pair_are_the_chosen_ones():
  got = group(language=0.1)
  assert lists(got.slots) == [[15, 16, 17, 18, 19], [18]]
  assert lists(got.language_weights) == [[1.0] * 5, [0.0]]
  assert got.reads == (4, 0)


def test_language_loss_never_asks_for_a_first_token():
  # Token 0 has no parent to be predicted from.
  record = OUTCOMES._replace(prompt="")
  coded = encoded(record, make_tokenizer(None))
  assert coded.starts == (0, 0)
  got = group(record, coded, loss="next_token_cross_entropy", kind="language")
  assert lists(got.slots) == [[1, 2, 3, 4], [1, 2]]
  assert lists(got.weights) == [[0.0] * 4, [0.0] * 2]


def test_steps():
  got = group(STEPS, **PROCESS)
  assert lists(got.slots) == [[18, 23]]
  assert lists(got.labels) == [[1.0, 0.0]]
  assert lists(got.weights) == [[0.5, 0.5]]
  assert got.reads == (1,)
  scoring = supervise_for_scoring(
    encoded(STEPS), STEPS, index=0, pooling="step_ends"
  )
  assert lists(scoring.slots) == [[18, 23]]
  assert lists(scoring.weights) == [[0.0, 0.0]]


def test_steps_with_a_language_loss():
  got = group(STEPS, language=1.0, **PROCESS)
  assert lists(got.slots) == [list(range(15, 25))]
  np.testing.assert_array_equal(
    np.flatnonzero(got.weights[0]), [18 - 15, 23 - 15]
  )
  assert got.reads == (23 - 15,)


@pytest.mark.parametrize(
  "loss, labels",
  [
    ("step_binary_cross_entropy", [0.5, 0.0]),
    ("step_cross_entropy", [0.0, -1.0]),
  ],
)
def test_step_labels_in_the_scale_of_the_loss(loss, labels):
  # Catches a neutral step trained as wrong, a wrong one as neutral.
  record = STEPS._replace(step_labels=((0.5, 0.0),))
  got = group(record, **{**PROCESS, "loss": loss})
  assert lists(got.labels) == [labels]


def test_three_class_loss_refuses_soft_labels():
  record = STEPS._replace(step_labels=((0.3, 0.0),))
  with pytest.raises(RecordError, match="needs step labels 0, 0.5 or 1"):
    group(record, **{**PROCESS, "loss": "step_cross_entropy"})


def test_completion_without_labelled_steps_is_read_but_not_trained():
  record = STEPS._replace(
    completions=(STEPS.completions[0], "Yes ."),
    step_ends=(STEPS.step_ends[0], ()),
    step_labels=(STEPS.step_labels[0], ()),
  )
  got = group(record, **PROCESS)
  assert lists(got.slots) == [[18, 23], [17]]
  assert lists(got.weights) == [[0.5, 0.5], [0.0]]


@pytest.mark.parametrize(
  "record, message",
  [
    (PAIR, "pooling 'step_ends' needs reasoning steps|step labels are missing"),
    (STEPS._replace(step_labels=None), "step labels are missing"),
    (STEPS._replace(step_labels=((1.0,),)), "1 step labels for 2 steps"),
  ],
)
def test_process_loss_needs_steps(record, message):
  with pytest.raises(RecordError, match=message):
    group(record, **PROCESS)


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(pooling="cls"), "config.model.pooling='cls' is unknown"),
    (dict(per="pair"), "config.loss.per='pair' is unknown"),
    (dict(kind="pear"), "kind of loss 'bradley_terry'='pear' is unknown"),
    (dict(margin="m"), "config.loss.margin='m' is unknown: use one of .'none'"),
    (dict(kind="process"), "does not read reasoning steps"),
  ],
)
def test_mistakes_of_the_config_are_not_rejects(changes, message):
  # Catches a stream that sets every record aside for a typing error.
  with pytest.raises(UserError, match=message) as caught:
    group(**changes)
  assert not isinstance(caught.value, RecordError)


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


def test_real_steps_end_where_their_text_ends(rm_data):
  # An independent slow path: decode up to the step's token and compare texts.
  tokenizer = make_tokenizer()
  path = rm_data / "openr_samples/samples_prm800k.jsonl"
  checked = 0
  for record in read_records(path):
    coded = encoded(record, tokenizer)
    for k, ids in enumerate(coded.tokens):
      for end, t in zip(record.step_ends[k], coded.step_ends[k], strict=True):
        text = tokenizer.decode(ids[coded.starts[k] : t + 1])
        assert text == record.completions[k][:end].lstrip()
        checked += 1
    got = group(record, coded, **PROCESS)
    total = math.fsum(w for weights in got.weights for w in weights)
    assert total == pytest.approx(1.0, abs=1e-5)
  assert checked == 55 + 3 + 15


def test_real_pairs_end_in_the_end_of_turn(rm_data):
  tokenizer = make_tokenizer()
  end = tokenizer.eos_token_id
  items = list(read_records(rm_data / "hh_rlhf/helpful-base"))[:300]
  for record in items:
    if isinstance(record, Reject):
      continue
    got = group(record, encoded(record, tokenizer))
    for k, ids in enumerate(got.tokens):
      assert ids[-1] == end and got.slots[k].tolist() == [len(ids) - 1]
      assert (ids == tokenizer.bos_token_id).sum() == 1
