import pytest

from rm_jax.types import Comparison
from tests.data.reading import assistant, count, read, refusal, user

PAIR = dict(prompt="Q", chosen="good", rejected="bad")


def test_standard_pair():
  row = dict(PAIR, strength=2, chosen_rating=5, rejected_rating=2)
  got = read(row)
  assert (got.kind, got.prompt) == ("pair", "Q")
  assert got.completions == ("good", "bad")
  assert (got.ranks, got.ratings, got.strength) == ((0, 1), (5.0, 2.0), 2.0)


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("prompt", ["Q", [user("Q")]])
def test_conversational_pair_with_a_prompt(prompt, repeats):
  # Catches: a prompt that stands twice, when `chosen` repeats it.
  head = [user("Q")] if repeats else []
  row = dict(
    prompt=prompt,
    chosen=[*head, assistant("good")],
    rejected=[*head, assistant("bad")],
  )
  assert read(row).completions == ("good", "bad")


def test_implicit_prompt_of_messages_leaves_both_a_turn():
  # Catches: the shorter conversation taken whole as the prompt.
  short = [user("a"), assistant("b")]
  long = [*short, user("c"), assistant("d")]
  got = read(dict(chosen=long, rejected=short))
  assert got.prompt == (user("a"),)
  assert got.completions == (
    (assistant("b"), user("c"), assistant("d")),
    "b",
  )


def test_implicit_prompt_of_a_dialogue():
  head = "\n\nHuman: hi\n\nAssistant: yes?\n\nHuman: why\n\nAssistant:"
  row = dict(chosen=head + " It is so", rejected=head + " It is")
  got = read(row)
  # Catches: the common text "It is" counted to the prompt.
  assert got.prompt == (user("hi"), assistant("yes?"), user("why"))
  assert got.completions == ("It is so", "It is")


@pytest.mark.parametrize(
  "chosen, reason",
  [
    ("\n\nHuman: hi\n\nAssistant: ", "the chosen completion is empty"),
    ("\n\nHuman: ho\n\nAssistant: x", "earlier turns of chosen and rejected"),
    (
      "\n\nHuman: hi",
      "the chosen dialogue does not end with an Assistant turn",
    ),
    ("\n\nHuman: hi\n\nAssistant: no", "chosen and rejected are identical"),
    ("\n\nHuman: hi\n\nAssistant: no ", "chosen and rejected are identical"),
  ],
)
def test_bad_dialogues_are_rejected_by_name(chosen, reason):
  row = dict(chosen=chosen, rejected="\n\nHuman: hi\n\nAssistant: no")
  assert str(read(row)).startswith(reason)


@pytest.mark.parametrize(
  "chosen, rejected, prompt",
  [
    ("The cat sat", "The cap fell", "The "),  # not "The ca"
    ("The cat", "The cat sat", "The "),  # not the whole of one
    ("yes", "no", ""),
  ],
)
def test_implicit_prompt_of_strings_ends_at_a_word(chosen, rejected, prompt):
  got = read(dict(chosen=chosen, rejected=rejected))
  assert got.prompt == prompt
  assert [prompt + c for c in got.completions] == [chosen, rejected]


# ------------------------------------------------------- votes, ties, margins

RATED = dict(
  PAIR,
  chosen_rating=5,
  rejected_rating=2,
  chosen_ratings=dict(help=4, truth=None),
  rejected_ratings=dict(truth=1, help=2),
  strength=2,
  margin=1.5,
)


@pytest.mark.parametrize(
  "votes",
  [dict(preference=0.75), dict(votes=[3, 1]), dict(votes=[1.5, 0.5])],
)
def test_votes_are_a_share(votes):
  # Catches: votes[0] / votes[1]; a preference rounded to a verdict.
  got = read(dict(PAIR, **votes))
  assert (got.kind, got.preference) == ("pair", 0.75)
  assert got.completions == ("good", "bad")


def test_fewer_votes_for_chosen_turn_the_pair_with_all_that_belongs_to_it():
  # Catches: sides turned without their ratings, attributes or margin; a
  # preference below 1/2 left for a loss that never looks.
  got = read(dict(RATED, preference=0.25))
  assert (got.kind, got.completions) == ("pair", ("bad", "good"))
  assert (got.preference, got.margin, got.strength) == (0.75, -1.5, 2.0)
  assert (got.ranks, got.ratings) == ((0, 1), (2.0, 5.0))
  assert got.attributes == ("help", "truth")
  assert str(got.attribute_ratings) == "((2.0, 1.0), (4.0, nan))"


def test_a_pair_with_ratings_keeps_its_sides():
  got = read(dict(RATED, preference=0.75))
  assert got.ratings == (5.0, 2.0)
  assert (got.preference, got.margin, got.strength) == (0.75, 1.5, 2.0)
  assert str(got.attribute_ratings) == "((4.0, nan), (2.0, 1.0))"


@pytest.mark.parametrize(
  "said", [dict(tie=True), dict(preference=0.5), dict(votes=[2, 2])]
)
def test_a_tie_chooses_nobody(said):
  # Catches: ranks (0, 1) left on a tie, which a loss reads as a choice.
  got = read(dict(PAIR, chosen_rating=3, rejected_rating=3, **said))
  assert (got.kind, got.ranks, got.preference) == ("comparisons", None, None)
  assert got.completions == ("good", "bad")
  assert got.comparisons == (Comparison(0, 1, 0.5, None),)
  assert got.ratings == (3.0, 3.0)


@pytest.mark.parametrize("nothing", [None, False])
def test_no_tie_and_no_votes_leave_the_pair_as_it_is(nothing):
  # Catches: a column of an Arrow table that is null in this row read as a vote.
  row = dict(PAIR, tie=nothing, preference=None, votes=None, margin=None)
  assert read(row) == read(PAIR)


@pytest.mark.parametrize(
  "fields, reason",
  [
    (dict(preference=1.5), "field 'preference' must be a boolean or in [0, 1]"),
    (dict(preference="A"), "field 'preference' must be a number, got \"A\""),
    (dict(votes=[0, 0]), "field 'votes' must be [for chosen, for rejected]"),
    (dict(votes=[1, -1]), "field 'votes' must be [for chosen, for rejected]"),
    (dict(votes=[1]), "field 'votes' must be [for chosen, for rejected]"),
    (dict(tie="no"), "field 'tie' must be a boolean, got"),
    (dict(tie=True, preference=1), "fields preference and tie say the same"),
    (dict(tie=True, margin=2), "a tie with margin 2: correct one of them"),
    (dict(margin=float("inf")), "field 'margin' must be finite"),
    (dict(strength=4), "field 'strength' must be in [0, 3], got 4"),
    (dict(chosen_ratings={"a": 1}), "field 'rejected_ratings' must be an obj"),
    (
      dict(chosen_ratings={"a": "5"}, rejected_ratings={"a": 1}),
      "'a' of field 'chosen_ratings' must be a number",
    ),
    (
      dict(chosen_ratings={"a": None}, rejected_ratings={"a": None}),
      "no attribute is rated in field 'chosen_ratings' and",
    ),
  ],
)
def test_bad_votes_say_what_is_wrong(fields, reason):
  assert refusal(dict(PAIR, **fields)).startswith(reason)


# ------------------------------------------------------------------ real files


def test_hh_rlhf(rm_data):
  # Counts of the defects, found by splitting at the markers alone.
  differ = (
    "earlier turns of chosen and rejected differ: they answer different "
    "dialogues"
  )
  records, reasons = count(rm_data / "hh_rlhf/harmless-base")
  assert reasons == {"the chosen completion is empty": 4, differ: 5}
  assert len(records) == 2_312 - 4 - 5
  records, reasons = count(rm_data / "hh_rlhf/helpful-base")
  assert reasons == {
    "the rejected completion is empty": 4,
    differ: 9,
    "chosen and rejected are identical": 2,
  }
  assert len(records) == 2_354 - 4 - 9 - 2


def test_ultrafeedback_sample(rm_data):
  records, reasons = count(rm_data / "ultrafeedback_sample")
  assert reasons == {
    "chosen and rejected are identical": 4,
    "the chosen completion is empty": 1,
    "the rejected completion is empty": 1,
  }
  margins = [r.ratings[0] - r.ratings[1] for r in records]
  assert (min(margins), max(margins)) == (0.0, 8.0)
