"""Slots, labels, weights and comparisons, written out by hand."""

import math

import numpy as np
import pytest

from rm_jax.data.rejects import RecordError
from rm_jax.data.sources import Reject, read_records
from rm_jax.data.supervise import supervise_for_scoring
from rm_jax.types import Record, UserError
from tests.data.fixtures import (
  PAIR,
  STEPS,
  encoded,
  group,
  lists,
  make_tokenizer,
)

OUTCOME = dict(loss="outcome_cross_entropy", kind="pointwise")
PROCESS = dict(
  loss="step_binary_cross_entropy", kind="process", pooling="step_ends"
)
LISTWISE = dict(loss="plackett_luce", kind="listwise")


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


def test_real_steps_end_where_their_text_ends(rm_data):
  # An independent slow path: decode up to the step's token and compare texts.
  tokenizer = make_tokenizer()
  path = rm_data / "openr_samples/samples_prm800k.jsonl"
  checked = labelled = 0
  for record in read_records(path):
    if isinstance(record, Reject):
      continue
    coded = encoded(record, tokenizer)
    for k, ids in enumerate(coded.tokens):
      for end, t in zip(record.step_ends[k], coded.step_ends[k], strict=True):
        text = tokenizer.decode(ids[coded.starts[k] : t + 1])
        assert text == record.completions[k][:end].lstrip()
        checked += 1
    got = group(record, coded, **PROCESS)
    labels = [y for marks in record.step_labels for y in marks]
    assert sum((w > 0).sum() for w in got.weights) == sum(
      not math.isnan(y) for y in labels
    )
    labelled += sum(not math.isnan(y) for y in labels)
    total = math.fsum(w for weights in got.weights for w in weights)
    assert total == pytest.approx(1.0, abs=1e-5)
  # 55 + 3 + 15 ratings less those of the row that tested the labeller; a step
  # that a human wrote has an end and no label.
  assert labelled == 61 < checked


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
