"""What is timed is what is claimed: one loss in three layouts, equal sides."""

import argparse
import dataclasses
import json

import flax.linen as nn
import forests
import jax
import numpy as np
import pytest

from bench import groups as data
from bench import layouts, machine, ours, step
from rm_jax.models.sizes import SIZES
from rm_jax.reward_model import HeadSpec, ModelSpec, init_params

ROW_LEN = 64
TINY = dataclasses.replace(SIZES["tiny"], vocab_size=forests.VOCAB)


@pytest.fixture(scope="module")
def model():
  head = HeadSpec("scalar", "unit", "last_token")
  spec = ModelSpec(TINY, head, "float32", True, (TINY.layers,))
  return spec, nn.unbox(init_params(spec, jax.random.key(0)))


def pairs():
  return [g for g in forests.ragged_groups() if len(g.tokens) == 2]


def start(model, groups, layout, **how):
  spec, params = model
  setting = ours.Setting(layout, ROW_LEN, 1, "float32", False)
  return ours.start(spec, ours.hold(params), groups, setting._replace(**how))


@pytest.mark.slow
def test_three_ways_to_encode_a_ranking_have_one_loss(model):
  # Wrong: comparisons that weigh more because they were encoded alone.
  groups = [g for g in forests.ragged_groups() if 3 <= len(g.tokens) <= 5]
  alone = [pair for g in groups for pair in data.split_comparisons(g)]
  assert len(alone) == 3 + 6 + 10
  tokens = [
    sum(len(t) for g in some for t in g.tokens) for some in (groups, alone)
  ]
  times = [len(g.tokens) - 1 for g in groups for _ in g.tokens]
  lengths = [len(t) for g in groups for t in g.tokens]
  assert tokens == [sum(lengths), np.dot(times, lengths)]
  runs = [
    start(model, these, layout)
    for these, layout in (
      (groups, "shared"),
      (groups, "packed"),
      (groups, "padded"),
      (alone, "packed"),
    )
  ]
  losses = [run.loss() for run in runs]
  np.testing.assert_allclose(losses, losses[0], rtol=1e-5)
  # The loss of the first step, which is asked for before it changes anything.
  assert runs[0].step()["loss"] == pytest.approx(losses[0], rel=1e-5)
  assert runs[0].loss() != losses[0]
  useful = [run.work.counts["useful_tokens"] for run in runs]
  assert useful == [
    sum(map(data.shared_tokens, groups)),
    tokens[0],
    tokens[0],
    tokens[1],
  ]


def test_the_parts_of_a_step_add_up(model):
  parts = ours.parts_of(start(model, pairs(), "shared"))
  assert set(parts) == {"step", "forward", "backward", "optimizer"}
  rest = [parts[n].wall_s for n in ("forward", "backward", "optimizer")]
  assert parts["step"].wall_s == pytest.approx(sum(rest))


def test_the_typical_step_is_the_one_of_median_padding():
  def pair(a, b):
    return forests.group([[1] * a + [2], [1] * a + [3] * b], [a, a])

  # Padding per shared token: 4 / 3 of the first, 20 / 11 of all others.
  groups = [pair(1, 1)] + [pair(1, 9) for _ in range(6)]
  assert data.padded_tokens(groups[:1]) == 4
  assert data.shared_tokens(groups[0]) == 3
  (chosen,) = data.typical_step(groups, 1, seed=0)
  assert data.shared_tokens(chosen) == 11


def test_prefix_tokens_count_every_scored_place_with_all_before_it():
  group = forests.group([[5, 6, 7, 8]], [1], step_ends=[[1, 3]])
  assert data.prefix_tokens(group) == 2 + 4


def test_operations_of_a_step_by_hand():
  # SmolLM2's layers hold 106,168,320 weights; one block of padding sees none.
  weights = 30 * (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536)
  assert layouts.layer_weights() == weights == 106_168_320
  groups = [forests.group([[1] * 70, [1] * 70], [1, 1])]
  setting = ours.Setting("padded", 128, 1, "float32", False)
  batch = ours.lay_groups(groups, setting).batch
  assert batch.tokens.shape == (1, 2, 128)
  # Two blocks a row: each sees itself, the second sees the first.
  assert layouts.block_pairs(batch) == 2 * 3
  found = layouts.teraflops(batch, remat=False)
  assert found["products"] == round(6 * weights * 256 / 1e12, 4)
  pair = 4 * 64 * 64 * 9 * 64 * 30
  assert found["attention"] == round(3.5 * pair * 6 / 1e12, 4)


def test_every_round_is_written(tmp_path):
  # Wrong: a benchmark of half an hour that leaves nothing when it is stopped.
  out, seen = tmp_path / "out.json", []

  def run():
    if seen:
      seen.append(len(json.loads(out.read_text())["variants"]["a"]["repeats"]))
    seen.append("ran")
    return {"step": machine.Spent(1.5, 2.5)}

  asked = argparse.Namespace(repeats=2, out=str(out))
  result = step.repeat(asked, {}, {"a": ({"k": 4}, run)})
  assert seen == ["ran", 1, "ran"]
  assert result["variants"]["a"] == {
    "k": 4,
    "repeats": [{"step": [1.5, 2.5]}] * 2,
  }
