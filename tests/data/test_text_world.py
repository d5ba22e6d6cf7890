"""The text world: its files, its gold, its labellers, and what its card says.

The numbers that the card promises are measured here on other ways than those of
the package where there is another way: scipy for correlations, loops for pairs,
closed forms for what was drawn.
"""

import itertools
import math
import pathlib
import re
import types

import numpy as np
import pytest
import scipy.stats

import rm_jax
from rm_jax.data.recognise import row_items
from rm_jax.data.text_world import checks, gold, labellers, make, sampling
from rm_jax.data.text_world.labellers import ANNOTATORS, Annotator
from rm_jax.types import UserError

FOLDER = pathlib.Path(rm_jax.__file__).parent / "data" / "text_world"
SIDES = ("train", "test")
DRAWS = 40_000


@pytest.fixture(scope="module")
def groups() -> dict[str, list[dict]]:
  return {s: make.read_lines(FOLDER / f"{s}.jsonl") for s in SIDES}


@pytest.fixture(scope="module")
def pairs() -> dict[str, list[dict]]:
  return {s: make.read_lines(FOLDER / f"{s}_pairs.jsonl.gz") for s in SIDES}


@pytest.fixture(scope="module")
def surfaces(groups) -> dict[str, dict]:
  return {side: checks.surfaces(groups[side]) for side in SIDES}


@pytest.fixture(scope="module")
def card() -> str:
  return (FOLDER / "README.md").read_text("utf-8")


def flat(lines: list[dict], field: str) -> np.ndarray:
  return np.array([value for line in lines for value in line[field]])


def loop_accuracy(scores, golds) -> float:
  """The slow path of `pair_accuracy`: one pair after the other."""
  credit = []
  for s, g in zip(scores, golds, strict=True):
    for i, j in itertools.permutations(range(len(g)), 2):
      if g[i] > g[j]:
        credit.append(1.0 if s[i] > s[j] else 0.5 if s[i] == s[j] else 0.0)
  return sum(credit) / len(credit)


class TestFiles:
  def test_prompts_are_400_in_16_families(self):
    # Catches a family that lost a prompt, a prompt that is there twice.
    rows = make.read_lines(FOLDER / "prompts.jsonl")
    families = [row["family"] for row in rows]
    assert len(rows) == 400 == len({row["prompt"] for row in rows})
    assert len(set(families)) == 16
    assert all(families.count(family) == 25 for family in families)
    assert [r["id"] for r in rows] == [
      f"{family}-{i:02d}"
      for family, members in itertools.groupby(families)
      for i, _ in enumerate(members)
    ]

  def test_prompts_are_short_and_not_one_template(self):
    # Catches a family that is one frame with words swapped: more than half of
    # it would begin with the same two words or share most of their words.
    rows = make.read_lines(FOLDER / "prompts.jsonl")
    for _, members in itertools.groupby(rows, lambda row: row["family"]):
      texts = [row["prompt"] for row in members]
      assert max(len(text.split()) for text in texts) <= 60
      begins = [tuple(text.split()[:2]) for text in texts]
      assert max(map(begins.count, begins)) <= 12, begins
      words = [set(gold.words_of(text)) for text in texts]
      for a, b in itertools.combinations(words, 2):
        assert len(a & b) < 0.6 * len(a | b), (a, b)

  def test_groups_are_whole(self, groups):
    # Catches a lost field, a completion drawn twice, a text that ran away, and
    # characters that are no text.
    prompts = {
      r["id"]: r["prompt"] for r in make.read_lines(FOLDER / "prompts.jsonl")
    }
    assert [len(groups[side]) for side in SIDES] == [320, 80]
    seen = {}
    for side in SIDES:
      for row in groups[side]:
        seen[row["id"]] = row["prompt"]
        assert row["split"] == side
        assert len(set(row["completions"])) == 8 == len(row["completions"])
        for field in ("tokens", "gold", "ratings", "ranks"):
          assert len(row[field]) == 8, field
        assert all(1 <= tokens <= 64 for tokens in row["tokens"])
        assert row["drawn"] >= 8
        for text in row["completions"]:
          assert text and text == text.strip()
          assert "\ufffd" not in text and "<|" not in text
          assert not sampling.CRUDE.search(text), row["id"]
    assert seen == prompts

  def test_five_of_each_family_are_held_out(self, groups):
    # Catches a split by line number, and one that is not by family.
    held = [row["family"] for row in groups["test"]]
    assert all(held.count(family) == 5 for family in held)
    assert len(set(held)) == 16

  def test_split_does_not_move_when_a_prompt_is_added(self):
    # Catches a split that shuffles: one new prompt would move all the others.
    rows = [
      {"id": str(i), "family": "f", "prompt": f"text {i}"} for i in range(25)
    ]
    before = make.split_of(rows[:24])
    after = make.split_of(rows)
    moved = [name for name in before if before[name] != after[name]]
    assert list(before.values()).count("test") == make.HELD_OUT
    assert len(moved) <= 1

  def test_files_are_small(self):
    # Catches data that makes every clone and every wheel heavy.
    data = [p for p in FOLDER.iterdir() if "json" in p.name]
    assert sum(path.stat().st_size for path in data) < 2_000_000

  def test_gold_split_and_labels_follow_from_the_text(self, groups, pairs):
    # Catches a feature or a labeller that was edited without writing the files
    # again, files edited by hand, and numbers that depend on the order.
    prompts = make.read_lines(FOLDER / "prompts.jsonl")
    have = {row["id"]: row for side in SIDES for row in groups[side]}
    sampled = [
      row
      | {
        "completions": have[row["id"]]["completions"],
        "tokens": have[row["id"]]["tokens"],
        "dropped": {"any": have[row["id"]]["drawn"] - 8},
      }
      for row in prompts
    ]
    again = make.build(sampled)
    for side in SIDES:
      assert again[f"{side}.jsonl"] == groups[side]
      assert again[f"{side}_pairs.jsonl.gz"] == pairs[side]
      name = f"{side}_comparisons.jsonl.gz"
      assert again[name] == make.read_lines(FOLDER / name)

  def test_groups_are_read_as_rankings_with_ratings(self, groups):
    # Catches a field name that the reader takes for another format.
    for row in groups["test"]:
      (record,) = row_items(row, "auto")
      assert record.kind == "ranking"
      assert record.prompt == row["prompt"]
      assert record.completions == tuple(row["completions"])
      assert record.ranks == tuple(row["ranks"])
      assert record.ratings == tuple(row["ratings"])
      assert sorted(row["ranks"]) == list(range(8))

  def test_pairs_are_read_as_pairs_and_ties(self, groups, pairs):
    # Catches sides that were turned without their ratings or their gold, and
    # a tie that became a win.
    lines = {row["id"]: row for side in SIDES for row in groups[side]}
    kinds = []
    for row in pairs["train"] + pairs["test"]:
      (record,) = row_items(row, "auto")
      kinds.append(record.kind)
      assert record.kind == ("comparisons" if "tie" in row else "pair")
      assert record.completions == (row["chosen"], row["rejected"])
      assert record.strength == row.get("strength")
      assert record.annotator in {a.name for a in ANNOTATORS}
      assert record.ratings == (row["chosen_rating"], row["rejected_rating"])
      line = lines[row["id"].rsplit("-", 1)[0]]
      assert record.gold == tuple(row["gold"])
      for text, value in zip(record.completions, record.gold, strict=True):
        assert line["gold"][line["completions"].index(text)] == value
    assert len(kinds) == 1_600 and set(kinds) == {"comparisons", "pair"}

  def test_comparisons_are_the_pairs_on_one_tree(self, groups, pairs):
    # Catches a verdict that turned with the sides, an index into texts that
    # were left out, and a held-out prompt without all its eight texts.
    for side in SIDES:
      lines = {row["id"]: row for row in groups[side]}
      said = {}
      for row in make.read_lines(FOLDER / f"{side}_comparisons.jsonl.gz"):
        (record,) = row_items(row, "auto")
        assert record.kind == "comparisons"
        compared = {k for c in record.comparisons for k in c[:2]}
        wanted = range(8) if side == "test" else compared
        assert len(record.completions) == len(wanted)
        whole = lines[row["id"]]
        for text, value in zip(record.completions, record.gold, strict=True):
          assert whole["gold"][whole["completions"].index(text)] == value
        said[row["id"]] = [
          (record.completions[c.chosen], record.completions[c.rejected])
          + (c.preference, c.strength)
          for c in record.comparisons
        ]
      want = {}
      for row in pairs[side]:
        told = (0.5, None) if "tie" in row else (1.0, row["strength"])
        one = (row["chosen"], row["rejected"], *told)
        want.setdefault(row["id"].rsplit("-", 1)[0], []).append(one)
      assert said == want

  def test_pairs_of_a_prompt_differ(self, pairs):
    # Catches pairs drawn with replacement.
    for side in SIDES:
      texts = [frozenset((p["chosen"], p["rejected"])) for p in pairs[side]]
      assert len(set(texts)) == len(texts)

  def test_files_come_back_as_they_were_written(self, tmp_path):
    # Catches a line cut at U+2028 and a gzip file that holds the time.
    lines = [{"text": "a\u2028b\x85c 🙂 \ud7ff"}]
    for name in ("a.jsonl", "a.jsonl.gz"):
      make.write_lines(tmp_path / name, lines)
      first = (tmp_path / name).read_bytes()
      make.write_lines(tmp_path / name, lines)
      assert (tmp_path / name).read_bytes() == first
      assert make.read_lines(tmp_path / name) == lines


class TestGold:
  @pytest.mark.parametrize(
    "name, text, want",
    [
      ("variety", "one two one three", 3 / 4),
      # The second "x" has eleven words before it: the first is out of sight.
      ("variety", "x a b c d e f g h i j x", 1.0),
      ("variety", "", 1.0),
      ("uptake", "Cats and birdsong", 1 / 2),  # birds, houses
      ("uptake", "", 0.0),
      ("plain", "The cat and the hat", 3 / 5),
      (
        "address",
        "Well, you’re right here now and that is all there is",
        1 / 11,
      ),
      ("address", "you", gold.MOST),
      ("polite", "Thanks a lot for all of the help that came today", 1 / 11),
      ("warm", "What a lovely day it is to be out in rain", 1 / 11),
      ("word_length", "a bb, ccc!", 2.0),
      ("capitals", "Here Bob sat. Then he saw Rome.", 2 / 5),
      ("capitals", "Here. Then.", 0.0),
      ("marks", "ab, cd. * e ef 12 g hi jkl", 3 / 26),
      ("marks", "***", gold.MOST),
    ],
  )
  def test_features_are_what_they_say(self, name, text, want):
    # Catches counts for shares, substrings for words, a cap that is missing.
    # By hand; the prompt has the content words "birds" and "houses".
    measure = gold.FEATURES[name].measure
    assert measure(text, "Are birds in our houses?") == pytest.approx(want)

  def test_is_the_weighted_sum(self):
    # Catches a weight on the wrong feature, a deviation that multiplies.
    prompt, text = "Describe the sea.", "The sea is wide, and you could rest."
    want = 0.0
    for feature in gold.FEATURES.values():
      value = feature.measure(text, prompt)
      want += feature.weight * (value - feature.mean) / feature.sd
    got = gold.gold_rewards([text, "x"], prompt)[0]
    assert got == pytest.approx(want / gold.SCALE, abs=1e-4)

  def test_a_text_said_twice_is_hardly_better(self):
    # Catches a count among the features: it would double. Shares stay, but for
    # words that are repeated across the seam.
    prompt = "Describe the sea."
    text = (
      "The sea is wide and blue, with white foam upon long slow waves that"
      " break near old boats. You could rest there, happy, while gulls call."
    )
    once, twice = gold.gold_rewards([text, f"{text} {text}"], prompt)
    assert abs(once - twice) < 0.5

  def test_is_standardised_on_the_training_side(self, groups):
    # Catches constants of an older version of the texts.
    values = flat(groups["train"], "gold")
    assert abs(values.mean()) < 2e-3 and abs(values.std() - 1) < 2e-3
    measured = np.concatenate(
      [gold.features(r["completions"], r["prompt"]) for r in groups["train"]]
    )
    for feature, own in zip(gold.FEATURES.values(), measured.T, strict=True):
      assert feature.mean == pytest.approx(own.mean(), abs=5e-5)
      assert feature.sd == pytest.approx(own.std(), abs=5e-5)

  def test_has_no_ties_to_speak_of(self, groups):
    # Catches a gold of a few levels: best of n and pair accuracy need an order.
    for side in SIDES:
      equal = [len(set(r["gold"])) < 8 for r in groups[side]]
      assert np.mean(equal) < 0.02


class TestManipulationChecks:
  @pytest.mark.parametrize("side", SIDES)
  def test_length_does_not_tell_gold(self, groups, side):
    # Catches a gold that rewards long or short texts, overall or by family.
    rows = groups[side]
    rho = scipy.stats.spearmanr(flat(rows, "gold"), flat(rows, "tokens"))
    assert abs(rho.statistic) < 0.1
    families = {row["family"] for row in rows}
    by_family = []
    for family in families:
      own = [row for row in rows if row["family"] == family]
      found = scipy.stats.spearmanr(flat(own, "gold"), flat(own, "tokens"))
      by_family.append(abs(found.statistic))
    assert np.median(by_family) < 0.15
    assert checks.length_by_family(rows) == pytest.approx(np.median(by_family))

  @pytest.mark.parametrize("side", SIDES)
  @pytest.mark.parametrize("name", [*gold.FEATURES, "tokens", "characters"])
  def test_no_single_feature_decides(self, groups, surfaces, side, name):
    # Catches a weight that makes gold one feature with noise. Either direction.
    rows = groups[side]
    found = surfaces[side][name]
    accuracy = loop_accuracy(found, [row["gold"] for row in rows])
    assert max(accuracy, 1 - accuracy) <= 0.65
    assert checks.pair_accuracy(
      found, [row["gold"] for row in rows]
    ) == pytest.approx(accuracy)

  def test_surfaces_that_are_no_feature_do_not_decide_either(self, groups):
    # Catches a shortcut that was not thought of as a feature: words, lines, an
    # end that is a sentence's.
    shortcuts = {
      "words": lambda text: len(text.split()),
      "lines": lambda text: text.count("\n"),
      "ends": lambda text: text[-1] in ".!?",
      "digits": lambda text: sum(c.isdigit() for c in text),
    }
    for side, measure in itertools.product(SIDES, shortcuts.values()):
      rows = groups[side]
      scores = [[measure(t) for t in row["completions"]] for row in rows]
      accuracy = loop_accuracy(scores, [row["gold"] for row in rows])
      assert max(accuracy, 1 - accuracy) <= 0.65

  def test_gold_differs_within_prompts(self, groups):
    # Catches a gold that is a matter of the prompt: nothing to compare.
    # Analysis of variance: total = within + between.
    for side in SIDES:
      table = np.array([row["gold"] for row in groups[side]])
      between = table.mean(axis=1).var()
      share = 1 - between / table.var()
      assert share > 0.5
      assert checks.within_share(table) == pytest.approx(share)

  def test_words_tell_some_of_it(self, groups):
    # Catches a gold that text does not show, and one that a list of words
    # shows entirely.
    scores = checks.bag_of_words(groups["train"], groups["test"])
    credit = loop_accuracy(scores, [row["gold"] for row in groups["test"]])
    print(f"ridge regression on words: {credit:.3f} of the held-out pairs")
    assert 0.6 < credit < 0.9

  def test_card_shows_what_the_script_prints(self, groups, pairs, card):
    # Catches a card that tells of an older version of the data.
    for table in checks.report(groups, pairs).split("\n\n"):
      assert table in card, table
    for name, feature in gold.FEATURES.items():
      row = f"| {name} | {feature.weight:g} | {feature.mean:g} |"
      assert row in card, row
    for who in ANNOTATORS:
      row = " | ".join([who.name, *(f"{value:g}" for value in who[1:])])
      assert f"| {row} |" in card, row

  def test_spearman_is_scipys(self):
    # Catches ranks that break ties by order.
    x, y = [1, 2, 2, 5, 3], [2, 2, 9, 4, 4]
    want = scipy.stats.spearmanr(x, y).statistic
    assert checks.spearman(x, y) == pytest.approx(want)
    assert math.isnan(checks.spearman(x, [1] * 5))


def near(found: np.ndarray, chances) -> None:
  """Asserts shares of draws within four standard errors of their chances."""
  chances = np.asarray(chances)
  error = np.sqrt(chances * (1 - chances) / DRAWS)
  assert chances.sum() == pytest.approx(1.0)
  np.testing.assert_array_less(np.abs(found - chances), 4 * error + 1e-12)


def shares(values: np.ndarray, kinds) -> np.ndarray:
  return np.array([(values == kind).mean() for kind in kinds])


def phi(x: float) -> float:
  return 0.5 * (1 + math.erf(x / math.sqrt(2)))


class TestLabellers:
  @pytest.mark.parametrize("difference", [-1.7, 0.0, 0.2, 0.9])
  def test_verdicts_follow_the_ordered_logistic(self, difference):
    # Catches a threshold at the wrong side, strengths in reverse, a tie that
    # is not symmetric.
    cuts = [-1.5, -0.8, -0.3, -0.1, 0.1, 0.3, 0.8, 1.5]
    below = [1 / (1 + math.exp(-(cut - difference) / 0.5)) for cut in cuts]
    want = np.diff([0.0, *below, 1.0])
    got = labellers.verdict_probabilities(difference, temperature=0.5)
    np.testing.assert_allclose(got, want, rtol=1e-12)
    rng = np.random.default_rng(2)
    drawn = labellers.verdicts(rng, np.full(DRAWS, difference), temperature=0.5)
    near(shares(drawn, range(-4, 5)), want)

  def test_verdicts_without_ties_are_bradley_terry(self):
    # Catches noise that decides side and strength apart from each other.
    got = labellers.verdict_probabilities(0.7, temperature=0.5, tie=0.0)
    assert got[5:].sum() == pytest.approx(1 / (1 + math.exp(-1.4)))
    assert got[4] == 0.0

  def test_verdicts_with_ties_are_rao_kuppers(self):
    # Catches a tie measured in units of noise. P(a) = pa / (pa + theta pb).
    strong, weak = math.exp(0.7 / 0.5), 1.0
    theta = math.exp(labellers.TIE / 0.5)
    got = labellers.verdict_probabilities(0.7, temperature=0.5)
    assert got[5:].sum() == pytest.approx(strong / (strong + theta * weak))
    assert got[:4].sum() == pytest.approx(weak / (weak + theta * strong))

  def test_strong_verdicts_are_seldom_wrong(self):
    # Catches a strength drawn from noise of its own: all would be right alike.
    chance = labellers.verdict_probabilities(0.6, temperature=0.5)
    right = [chance[5 + s] / (chance[5 + s] + chance[3 - s]) for s in range(4)]
    assert right == sorted(right) and right[3] > right[0] + 0.2

  @pytest.mark.parametrize("gold_value", [-2.0, -0.4, 0.1, 1.3])
  @pytest.mark.parametrize("shift", [-0.5, 0.0])
  def test_ratings_follow_the_ordered_probit(self, gold_value, shift):
    # Catches ratings from 0, a shift of the wrong sign, noise as a variance.
    ends = [-math.inf, -1.2, -0.4, 0.4, 1.2, math.inf]
    below = [phi((end - gold_value - shift) / 0.3) for end in ends]
    want = np.diff(below)
    got = labellers.rating_probabilities(gold_value, noise=0.3, shift=shift)
    np.testing.assert_allclose(got, want, atol=1e-12)
    drawn = labellers.ratings(
      np.random.default_rng(3),
      np.full(DRAWS, gold_value),
      noise=0.3,
      shift=shift,
    )
    near(shares(drawn, range(1, 6)), want)

  def test_rankings_follow_plackett_luce(self):
    # Catches Gaussian noise, ranks that count from the worst, and an argsort
    # (the order) in the place of ranks.
    values, temperature = np.array([0.3, -0.5, 0.9]), 0.7
    u = np.exp(values / temperature)
    orders = list(itertools.permutations(range(3)))
    want = [u[a] / u.sum() * u[b] / (u.sum() - u[a]) for a, b, _ in orders]
    drawn = labellers.ranking(
      np.random.default_rng(4), np.tile(values, (DRAWS, 1)), temperature=0.7
    )
    found = []
    for order, chance in zip(orders, want, strict=True):
      ranks = np.argsort(order)  # where each item stands in the order
      assert labellers.ranking_probability(
        values, ranks, temperature=temperature
      ) == pytest.approx(chance)
      found.append((drawn == ranks).all(axis=1).mean())
    near(np.array(found), want)

  def test_a_ranking_of_two_is_bradley_terry(self):
    # Catches a temperature that means another thing to rankings.
    got = labellers.ranking_probability([0.4, -0.3], [0, 1], temperature=0.5)
    assert got == pytest.approx(1 / (1 + math.exp(-0.7 / 0.5)))

  @pytest.mark.parametrize("who", ANNOTATORS, ids=lambda who: who.name)
  def test_annotators_are_what_they_are_said_to_be(self, who):
    # Catches a share of careless ones that is not applied, a shift that moves
    # comparisons, an annotator's noise that nobody reads.
    rng = np.random.default_rng(5)
    model = labellers.verdict_probabilities(0.4, temperature=who.temperature)
    blind = np.array([1, 1, 1, 1, 0, 1, 1, 1, 1]) / 8
    want = (1 - who.careless) * model + who.careless * blind
    got = labellers.annotated_verdict_probabilities(0.4, who)
    np.testing.assert_allclose(got, want)
    drawn = labellers.annotated_verdicts(rng, np.full(DRAWS, 0.4), who)
    near(shares(drawn, range(-4, 5)), want)

    model = labellers.rating_probabilities(
      0.4, noise=who.noise, shift=who.shift
    )
    want = (1 - who.careless) * model + who.careless / 5
    got = labellers.annotated_rating_probabilities(0.4, who)
    np.testing.assert_allclose(got, want)
    drawn = labellers.annotated_ratings(rng, np.full(DRAWS, 0.4), who)
    near(shares(drawn, range(1, 6)), want)

  def test_annotators_differ(self):
    # Catches a list of copies: shift, noise and care each belong to somebody.
    assert len({who.name for who in ANNOTATORS}) == len(ANNOTATORS) >= 4
    for field in Annotator._fields[1:]:
      assert len({getattr(who, field) for who in ANNOTATORS}) > 1, field

  def test_thresholds_that_do_not_rise_are_refused(self):
    # Catches thresholds in the wrong order, which would give negative chances.
    with pytest.raises(
      UserError, match="tie < three rising .* got tie 0.1 and"
    ):
      labellers.verdict_probabilities(
        0.0, temperature=1.0, thresholds=(0.8, 0.3, 1.5)
      )

  def test_a_ranking_with_ties_is_refused(self):
    # Catches a chance that is not one: ties have none here.
    with pytest.raises(
      UserError, match=r"0 \.\.\. 2 once each, got \[0, 0, 2\]"
    ):
      labellers.ranking_probability([0.1, 0.2, 0.3], [0, 0, 2], temperature=1.0)

  def test_the_files_carry_the_stated_noise(self, groups, pairs):
    # Catches files labelled with another temperature than the card says: what
    # was drawn is held against the chances summed over the very pairs.
    for who in ANNOTATORS:
      rows = [p for s in SIDES for p in pairs[s] if p["annotator"] == who.name]
      gaps = [abs(p["gold"][0] - p["gold"][1]) for p in rows]
      chance = labellers.annotated_verdict_probabilities(gaps, who)
      for at, found in (
        (
          slice(5, 9),  # the better one is chosen
          ["tie" not in p and p["gold"][0] > p["gold"][1] for p in rows],
        ),
        (4, ["tie" in p for p in rows]),
        ([0, 8], [p.get("strength") == 3 for p in rows]),
      ):
        mean = chance[:, at].reshape(len(rows), -1).sum(axis=1)
        error = math.sqrt((mean * (1 - mean)).sum())
        assert abs(sum(found) - mean.sum()) < 4 * error, (who.name, at)


class Tokenizer:
  """Five tokens: two special ones, a letter, a space, half a character, ..."""

  all_special_ids = [0, 1]
  eos_token_id = 1
  texts = {2: "a", 3: " ", 4: "\ufffd", 5: "Shitty"}

  def decode(self, ids):
    return "".join(self.texts[i] for i in ids)


class TestSampling:
  def test_takes_the_first_different_ones(self):
    # Catches a repetition or an empty text among the K, and drops not counted.
    found = sampling.Sampled([], [], {})
    for ids in ([2, 1], [3, 1], [2, 3, 1], [2, 2], [4, 2, 1], [2, 0], [1], [5]):
      sampling._take(found, ids, Tokenizer())
    assert found.completions == ["a", "aa"]
    assert found.tokens == [1, 2]
    assert found.dropped == {
      "empty": 2,
      "repeated": 1,
      "not UTF-8": 1,
      "special token": 1,
      "crude": 1,
    }
    for _ in range(3):
      sampling._take(found, [2, 4], Tokenizer())  # cut within a character
    assert found.completions == ["a", "aa"]
    assert found.dropped["repeated"] == 4

  def test_draws_again_for_the_prompts_that_lack_some(self, monkeypatch):
    # Catches prompts that are drawn again although they are full, the same
    # seed again (it would give the same texts), and a prompt given up quietly.
    many = [[2] * (n + 1) for n in range(8)]  # "a", "aa", ...
    asked = []

    def fake(config, params, prompts, *, samples, seed, **settings):
      asked.append((prompts, seed))
      assert samples == 8 and settings["max_tokens"] == 64
      assert settings["temperature"] == settings["top_p"] == 1.0
      assert settings["stop"] == (0, 1)
      full = [many if p == [1] or len(asked) > 1 else many[:1] for p in prompts]
      return [(texts * 8)[:8] for texts in full]

    monkeypatch.setattr("rm_jax.models.decode.sample", fake)
    monkeypatch.setattr(
      "rm_jax.models.convert.load_pretrained",
      lambda name: types.SimpleNamespace(config=None, params=None),
    )
    monkeypatch.setattr(sampling, "load_tokenizer", lambda name: Tokenizer())
    monkeypatch.setattr(
      sampling, "_prompt_tokens", lambda prompt, _: [len(prompt)]
    )
    found = sampling.sample_completions(["x", "yy"], seed=5)
    assert asked == [([[1], [2]], 5), ([[2]], 6)]
    assert found[0].completions == found[1].completions
    assert found[1].dropped == {"repeated": 8}

    many = many[:3]
    asked.clear()
    with pytest.raises(
      UserError, match="8 different completions, got 3 of 40 drawn for 'x'"
    ):
      sampling.sample_completions(["x", "yy"], seed=5)

  def test_what_lies_there_is_not_sampled_again(self, tmp_path, monkeypatch):
    # Catches a script that begins from the first family after a break.
    prompts = [
      {"id": f"{f}-0", "family": f, "prompt": f"text {f}"} for f in "abc"
    ]
    asked = []

    def fake(texts, *, seed):
      asked.append((texts, seed))
      if len(asked) == 3:
        raise KeyboardInterrupt
      return [sampling.Sampled(["x"], [1], {}) for _ in texts]

    monkeypatch.setattr(sampling, "sample_completions", fake)
    path = tmp_path / "sampled.jsonl"
    with pytest.raises(KeyboardInterrupt):
      make.sample_all(prompts, path)
    lines = make.sample_all(prompts, path)
    assert [line["family"] for line in lines] == ["a", "b", "c"]
    texts, seeds = zip(*asked, strict=True)
    assert texts == (["text a"], ["text b"], ["text c"], ["text c"])
    assert len(set(seeds)) == 3 and seeds[2] == seeds[3]

  def test_the_prompt_has_one_bos_and_the_generation_prompt(self):
    # Catches a second BOS, and a prompt that the model takes for its own turn.
    tokenizer = sampling.load_tokenizer(sampling.MODEL)
    ids = sampling._prompt_tokens("Why?", tokenizer)
    text = tokenizer.decode(ids)
    assert text.endswith(
      "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert ids[:2].count(tokenizer.bos_token_id) == 1

  @pytest.mark.slow
  def test_made_again_the_statistics_agree(self, groups):
    # Catches another model, template or temperature than those of the files.
    # Not the bytes: another CPU rounds otherwise. Two families, three prompts
    # of each; means within four standard errors of the difference.
    families = sorted({row["family"] for row in groups["train"]})[::8]
    old = [
      row
      for family in families
      for row in [r for r in groups["train"] if r["family"] == family][:3]
    ]
    assert len(old) == 6
    found = sampling.sample_completions(
      [row["prompt"] for row in old], seed=make.SEED - 1
    )
    for row, new in zip(old, found, strict=True):
      assert len(set(new.completions)) == sampling.K
      assert not set(new.completions) <= set(row["completions"])
    measured = [
      (
        [gold.gold_rewards(r["completions"], r["prompt"]), r["tokens"]],
        [gold.gold_rewards(n.completions, r["prompt"]), n.tokens],
      )
      for r, n in zip(old, found, strict=True)
    ]
    for which in (0, 1):
      before = np.concatenate([a[which] for a, _ in measured])
      after = np.concatenate([b[which] for _, b in measured])
      error = math.sqrt(before.var() / 48 + after.var() / 48)
      assert abs(before.mean() - after.mean()) < 4 * error


def test_the_card_names_every_file(card):
  # Catches a file that nobody is told about.
  for path in FOLDER.iterdir():
    if re.search(r"\.(jsonl|gz|py)$", path.name):
      assert f"`{path.name}`" in card, path.name
