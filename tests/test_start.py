"""What the head of a run starts from: drawn by name, or a published one."""

import math

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from rm_jax import RewardModel
from rm_jax.data.tokenizers import load_tokenizer
from rm_jax.train.init import describe_heads, init_from
from rm_jax.types import UserError
from tests import tiny_run
from tests.data.fixtures import make_tokenizer
from tests.published_folders import (
  GATED,
  draw,
  gated,
  two_layers,
  write,
)

WIDTH = 32  # of random:tiny and of the published fixtures
CLASSIFIER = "LlamaForSequenceClassification"


def start(source, **changes):
  tokenizer = load_tokenizer(source)
  config = tiny_run.config("", source, **{"init__from": str(source), **changes})
  return config, *init_from(config, tokenizer)


# ---------------------------------------------------------------- drawn


def test_zeros_by_default_and_log_2_through_the_command(tmp_path):
  # Design: a zeros head gives the first pairwise loss log 2, in the run that a
  # user starts, before the first step and at it. The start says what was drawn.
  data = tiny_run.write_rows(tmp_path / "pairs.jsonl", tiny_run.pairs(12))
  tokenizer = tiny_run.write_tokenizer(tmp_path / "tokenizer")
  workdir = tmp_path / "run"
  run = tiny_run.start(
    tiny_run.command(
      data,
      tokenizer,
      workdir,
      num_train_steps=2,
      model__head_init="zeros",
      data__blocks=2,
    )
  )
  out, err = run.communicate()
  assert run.returncode == 0, err
  before, first, _ = tiny_run.rows_without_times(workdir)
  assert before["eval/loss"] == pytest.approx(math.log(2), rel=1e-6)
  assert first["loss"] == pytest.approx(math.log(2), rel=1e-6)
  assert "head: scalar, zeros (std 0), seed 0; 32 weights of std 0\n" in out


@pytest.mark.parametrize(
  "name, std",
  [
    ("zeros", 0.0),
    ("stiennon", 1 / math.sqrt(WIDTH + 1)),
    ("small", 1 / (WIDTH + 1)),
  ],
)
def test_the_start_says_the_std_by_the_formula_and_as_drawn(name, std):
  # Wrong: the formula of another width, a std that nobody drew.
  config = tiny_run.config("", "", model__head_init=name, seed=3)
  spec, params = init_from(config, make_tokenizer())
  drawn = np.std(np.asarray(params["head"]["kernel"]))
  assert describe_heads(config, spec, params["head"]) == (
    f"head: scalar, {name} (std {std:.4g}), seed 3; 32 weights of std "
    f"{drawn:.4g}"
  )
  assert drawn == pytest.approx(std, rel=0.5)  # 32 draws: 12 %, 4 sigma


def test_a_two_layer_head_starts_at_zero_and_can_leave_it():
  # Wrong: zeros in both layers, from where no gradient leads away.
  config = tiny_run.config(
    "", "", model__head="two_layer", model__head_init="zeros"
  )
  spec, params = init_from(config, make_tokenizer())
  pooled = draw(1, 1, 1, WIDTH)

  def score(own):
    return spec.head.module().apply({"params": own}, pooled)[0, 0]

  value, slope = jax.value_and_grad(score)(params["head"])
  assert value == 0.0
  assert np.any(slope["outer"]["kernel"]) and not np.any(
    slope["inner"]["kernel"]
  )
  assert np.std(params["head"]["inner"]["kernel"]) > 0.1
  assert "32 weights of std 0" in describe_heads(config, spec, params["head"])


# ---------------------------------------------------------------- kept


@pytest.mark.parametrize(
  "classes, head, kind",
  [
    (CLASSIFIER, {"score.weight": draw(1, 1, WIDTH)}, "scalar"),
    ("Qwen2ForRewardModel", two_layers(1), "two_layer"),
    (
      "LlamaForCausalLM",
      {
        "v_head.summary.weight": draw(2, 1, WIDTH),
        "v_head.summary.bias": draw(3, 1),
      },
      "biased_scalar",
    ),
  ],
)
def test_a_published_head_is_kept_bit_for_bit(tmp_path, classes, head, kind):
  folder = write(tmp_path, classes, head, lm="CausalLM" in classes)
  config, spec, params = start(folder, init__head="keep", model__head=kind)
  want = RewardModel.load(folder).params["head"]
  for path, value in flat(want).items():
    np.testing.assert_array_equal(flat(params["head"])[path], value)
  assert f"{kind}, kept from {folder};" in describe_heads(
    config, spec, params["head"]
  )
  # New by default: another head, the same backbone.
  _, _, new = start(folder, model__head=kind)
  assert any(
    np.any(value != flat(new["head"])[path])
    for path, value in flat(want).items()
  )
  for path, value in flat(params["backbone"]).items():
    np.testing.assert_array_equal(flat(new["backbone"])[path], value)


def flat(tree) -> dict:
  return {
    jax.tree_util.keystr(path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
  }


def test_attributes_are_kept_where_as_many_are_named(tmp_path):
  head = {"score.weight": draw(4, 3, WIDTH)}
  folder = write(tmp_path, CLASSIFIER, head)
  rated = dict(
    init__head="keep",
    model__head="attributes",
    loss__name="squared_error",
  )
  names = ("helpful", "honest", "harmless")
  _, _, params = start(folder, model__attributes=names, **rated)
  saved = load_file(folder / "model.safetensors")["score.weight"]
  np.testing.assert_array_equal(params["head"]["kernel"].T, saved)
  with pytest.raises(UserError, match="has 3 outputs .*names 2: name as many"):
    start(folder, model__attributes=names[:2], **rated)


@pytest.mark.parametrize(
  "classes, head, changes, match",
  [
    (
      "LlamaForCausalLM",
      {},
      {},
      "has no reward head: set config.init.head=new",
    ),
    (GATED, gated(), {}, "'gated', which no loss here trains"),
    (
      "LlamaForSequenceClassification",
      {"score.weight": draw(1, 1, WIDTH)},
      {"model__head": "biased_scalar"},
      "'scalar', config.model.head is 'biased_scalar': set --config.model.head",
    ),
  ],
)
def test_what_cannot_be_kept_is_named(tmp_path, classes, head, changes, match):
  # Wrong: a head that is silently new.
  folder = write(tmp_path, classes, head, lm=classes == "LlamaForCausalLM")
  with pytest.raises(UserError, match=match):
    start(folder, init__head="keep", **changes)


def test_a_random_backbone_has_no_head_to_keep():
  config = tiny_run.config("", "", init__head="keep")
  with pytest.raises(UserError, match="'random:tiny' has no reward head"):
    init_from(config, make_tokenizer())
