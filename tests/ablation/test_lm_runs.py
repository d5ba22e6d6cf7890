"""Jobs on the text world: what is said of the texts, whose score is whose."""

import functools

import jax
import numpy as np
import pytest

from rm_jax.ablation import lm_runs as runs
from rm_jax.ablation.token_runs import measures
from rm_jax.data.tokenizers import load_tokenizer
from rm_jax.models.sharding import make_mesh
from rm_jax.train import loop

LINE = {
  "prompt": "p",
  "completions": list("abcd"),
  "gold": [0.1, 0.2, 0.3, 0.4],
}


def test_a_ranking_of_some_completions():
  # b and d of ranks 3 and 1: d is the better one.
  assert runs.ranked(LINE, (1, 3), [2, 3, 0, 1]) == {
    "prompt": "p",
    "completions": ["b", "d"],
    "gold": [0.2, 0.4],
    "ranks": [1, 0],
  }


def test_every_comparison_that_a_ranking_implies():
  made = runs.compared(LINE, (1, 3, 0), [2, 3, 0, 1])  # b 3, d 1, a 2
  assert made["completions"] == ["b", "d", "a"]
  assert sorted(made["comparisons"]) == [[1, 0, 1], [1, 2, 1], [2, 0, 1]]


def test_ranks_are_drawn_anew_and_follow_gold():
  prompts = runs.lines("train")
  first, second = (
    runs.draw_ranks(np.random.default_rng(n), prompts) for n in (0, 1)
  )
  assert first.shape == (320, 8) and (first != second).any()
  gold = np.asarray([line["gold"] for line in prompts])
  ahead = (gold[:, 0] - gold[:, 1]) * (first[:, 1] - first[:, 0]) > 0
  # The mean of sigmoid(|difference| / 0.5): Plackett-Luce of two.
  chance = 1 / (1 + np.exp(-np.abs(gold[:, 0] - gold[:, 1]) / 0.5))
  wide = 4 * np.sqrt((chance * (1 - chance)).sum()) / len(gold)
  assert ahead.mean() == pytest.approx(chance.mean(), abs=wide)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["bradley_terry", "plackett_luce"])
def test_scores_gold_and_comparisons_are_of_one_completion(
  loss, monkeypatch, optimised
):
  # Catches: scores in the order they were computed in, not that of the file;
  # a comparison that points into another group.
  one = functools.partial(make_mesh, devices=jax.devices()[:1])
  monkeypatch.setattr(loop, "make_mesh", one)
  lines = runs.lines("test")[:5]
  ranks = runs.draw_ranks(np.random.default_rng(0), lines)
  record = runs.ranked if loss == "plackett_luce" else runs.compared
  train, test = (
    [record(*each) for each in zip(side, [range(8)] * 5, ranks, strict=True)]
    for side in (runs.lines("train")[:5], lines)
  )
  c = runs.text_config(seed=0, steps=2, groups=2, loss=loss, rate=1e-3)
  c.init.tokenizer, c.init["from"] = "smollm2", "random:tiny"
  c.init.layers, c.train.trainable = 0, "last:1"
  ran = runs.run(c, train, test)
  np.testing.assert_allclose(ran.held.gold, [line["gold"] for line in lines])
  tokenizer = load_tokenizer("smollm2")
  for row, line in zip(ran.held.lengths, lines, strict=True):
    alone = [len(tokenizer(t)["input_ids"]) for t in line["completions"]]
    # The prompt and the turn around it are the same for all of a group.
    assert len(set((row - alone).tolist())) == 1
  for n, order in enumerate(ranks):
    own = ran.chosen // 8 == n
    np.testing.assert_array_equal(ran.rejected[own] // 8, n)
    told = np.zeros((8, 8), bool)
    told[ran.chosen[own] % 8, ran.rejected[own] % 8] = True
    np.testing.assert_array_equal(told, order[:, None] < order[None, :])
  made = measures(ran.scores, ran.chosen, ran.rejected, ran.held)
  flat = ran.scores.ravel()
  assert made["accuracy"] == (flat[ran.chosen] > flat[ran.rejected]).mean()
  assert ran.costs["train_tokens"] > 0 and np.std(ran.scores) > 0
