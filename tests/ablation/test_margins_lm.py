"""The lm design of margins: whose comparison, whose strength, whose truth."""

import pathlib

import numpy as np
import pytest

from rm_jax.ablation.design import load_file

ROOT = pathlib.Path(__file__).parents[2]
LM = load_file(ROOT / "experiments/margins/lm.py")
RECORD = {
  "completions": ["a", "bb", "ccc"],
  "comparisons": [[0, 1, 1, 3], [2, 0, 1, 0], [1, 2, 1, 1]],
  "ratings": [4, 5, 4],
}


def test_comparisons_that_ratings_contradict_are_left_out():
  # 0 above 1 is against 4 below 5; equal ratings contradict nothing.
  kept = LM.not_contradicted(RECORD)
  assert kept["comparisons"] == [[2, 0, 1, 0], [1, 2, 1, 1]]
  assert kept["completions"] == RECORD["completions"]
  assert len(RECORD["comparisons"]) == 3


def test_length_says_what_wins_in_training():
  assert not LM.longer_wins([RECORD])  # shorter, longer, shorter
  longer = RECORD | {"comparisons": [[2, 1, 1, 0]]}
  assert LM.longer_wins([longer]) and LM.longer_wins([RECORD, longer])


def test_sides_are_places_of_their_own_group():
  # Catches: groups counted by eight; the second side chosen although the first
  # is preferred. Record 1 was too long: the groups are 0 and 1 all the same.
  arrays = {
    "record": np.asarray([0, 0, 0, 2, 2]),
    "comparisons": np.asarray([[0, 1, 2], [0, 2, 0], [1, 0, 1]]),
    "preference": np.asarray([1.0, 0.0, 1.0]),
  }
  chosen, rejected = LM.places(arrays)
  assert chosen.tolist() == [1, 0, 3] and rejected.tolist() == [2, 2, 4]


def test_accuracy_is_against_gold_where_there_is_one():
  # Four comparisons, one of each strength. All labels are right but that of
  # strength 0; the scores follow the labels but for strength 3.
  arrays = {
    "record": np.repeat(np.arange(4), 2),
    "comparisons": np.asarray([[g, 0, 1] for g in range(4)]),
    "preference": np.ones(4),
    "strength": np.arange(4.0),
    "scores": np.asarray([1, 0, 1, 0, 1, 0, 0, 1], np.float32),
    "gold": np.asarray([0, 1, 1, 0, 1, 0, 1, 0], np.float32),
    "length": np.asarray([5, 5, 9, 5, 5, 9, 9, 5]),
  }
  truth = LM.measures(arrays, gold=True, longer=True)
  assert [truth[name] for name in LM.NAMES] == [0, 1, 1, 0]
  assert truth["average"] == 0.5 and truth["labelled_average"] == 0.75
  assert truth["spread"] == 0 and truth["length_only"] == 0.625
  label = LM.measures(arrays, gold=False, longer=False)
  assert [label[name] for name in LM.NAMES] == [1, 1, 1, 0]
  assert label["average"] == 0.75 and label["length_only"] == 0.375
  # softplus(-1) three times, softplus(1) once.
  wanted = (3 * np.log1p(np.exp(-1)) + np.log1p(np.exp(1))) / 4
  assert label["log_loss"] == pytest.approx(wanted)


def test_judgements_are_of_the_completions_that_a_record_keeps():
  from rm_jax.ablation import lm_runs

  rng, right = np.random.default_rng(0), []
  for line in lm_runs.lines("train")[:60]:
    record = LM.judged(rng, line, 4)
    used = {i for i, j, *_ in record["comparisons"]} | {
      j for i, j, *_ in record["comparisons"]
    }
    assert used == set(range(len(record["completions"])))
    assert len(record["ratings"]) == len(record["completions"])
    places = [line["completions"].index(t) for t in record["completions"]]
    assert record["gold"] == [line["gold"][k] for k in places]
    gold, rated = np.asarray(record["gold"]), np.asarray(record["ratings"])
    right += [gold[i] > gold[j] for i, j, *_ in record["comparisons"]]
    # A class is 0.8 wide, the noise of what is rated 0.3: not three off.
    classes = 1 + np.searchsorted((-1.2, -0.4, 0.4, 1.2), gold)
    assert np.abs(classes - rated).max() <= 2
  assert 0.7 < np.mean(right) < 0.9


def test_few_prompts_are_some_of_all_of_them():
  every, held = LM.text_records(3, 40, 2, few=False)
  some, same = LM.text_records(3, 40, 2, few=True)
  assert some == every[::4] and len(some) == 10 and held == same
