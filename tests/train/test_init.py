"""What a run starts from: seeded, named, of the tokenizer's size."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tiny_run

from rm_jax.data.tokenizers import load_tokenizer
from rm_jax.heads import HeadSpec
from rm_jax.models.sharding import make_mesh
from rm_jax.models.sizes import SIZES
from rm_jax.reward_model import init_params
from rm_jax.train.init import (
  check_base,
  describe_heads,
  digest,
  find_tokenizer,
  first_layers,
  init_from,
  make_spec,
  read_run,
)
from rm_jax.train.optim import join_layers
from rm_jax.types import UserError
from tests import trained
from tests.data.fixtures import make_tokenizer


def start(**changes):
  return init_from(tiny_run.config("", "", **changes), make_tokenizer())


def test_a_random_model_has_a_row_per_token():
  spec, params = start()
  size = len(make_tokenizer())
  assert spec.decoder.vocab_size == size
  assert params["backbone"]["embed"]["embedding"].shape == (size, 32)
  assert (spec.head.kind, spec.head.pooling, spec.segments) == (
    "scalar",
    "last_token",
    (3,),
  )


def test_the_same_seed_is_the_same_model_and_another_is_not():
  # Wrong: a head that is not seeded, or seeded like the backbone.
  one, same, other = (start(seed=s)[1] for s in (1, 1, 2))
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(same), strict=True):
    np.testing.assert_array_equal(a, b)
  assert np.any(one["head"]["kernel"] != other["head"]["kernel"])
  embeddings = [p["backbone"]["embed"]["embedding"] for p in (one, other)]
  assert np.any(embeddings[0] != embeddings[1])


def test_what_trains_does_not_change_the_start():
  spec, cut = start(train__trainable="last:2")
  _, whole = start()
  assert spec.segments == (1, 2)
  joined = join_layers(cut["backbone"])
  assert jax.tree.structure(joined) == jax.tree.structure(whole["backbone"])
  for a, b in zip(
    jax.tree.leaves(joined), jax.tree.leaves(whole["backbone"]), strict=True
  ):
    np.testing.assert_array_equal(a, b)
  np.testing.assert_array_equal(cut["head"]["kernel"], whole["head"]["kernel"])


@pytest.mark.slow
def test_the_tree_is_what_the_spec_says():
  steps = dict(
    model__head="steps",
    model__pooling="step_ends",
    loss__name="step_cross_entropy",
  )
  bins = dict(
    model__head="bins",
    loss__name="two_hot",
    loss__low=0.0,
    loss__high=1.0,
    loss__bins=7,
  )
  rated = dict(
    model__head="attributes",
    model__attributes=("helpful", "brief"),
    loss__name="squared_error",
  )
  verdict = dict(
    model__head="gain_bias", model__verdict=make_tokenizer().eos_token
  )
  tied = dict(loss__name="davidson")
  plain = dict(model__head="biased_scalar")
  for how in (plain, steps, bins, rated, verdict, tied):
    spec, params = start(**how, train__trainable="last:1")
    want = jax.eval_shape(lambda s=spec: init_params(s, jax.random.key(0)))
    assert jax.tree.map(lambda x: x.shape, params) == jax.tree.map(
      lambda x: x.shape, want
    )


def test_only_the_first_layers():
  # Wrong: the last ones, or a spec that still counts them all.
  spec, whole = start()
  decoder, cut = first_layers(spec.decoder, whole["backbone"], 2)
  assert decoder.layers == 2 and spec.decoder.layers == 3
  for name, leaf in jax.tree_util.tree_leaves_with_path(cut["layers_0"]):
    want = whole["backbone"]["layers_0"]
    for key in name:
      want = want[key.key]
    np.testing.assert_array_equal(leaf, want[:2])
  assert cut["embed"] is whole["backbone"]["embed"]
  spec, params = start(init__layers=2, train__trainable="last:1")
  assert spec.segments == (1, 1)
  assert sorted(params["backbone"]) == [
    "embed",
    "final_norm",
    "layers_0",
    "layers_1",
  ]
  with pytest.raises(UserError, match="init.layers=4: expected 1 to 3, the la"):
    start(init__layers=4)


def test_an_unembedding_that_nothing_reads_is_left_out():
  # Of an 8B model it is 0.5B parameters with two moments each, and decays.
  untied = {"init__from": "random:pythia_70m", "init__layers": 1}
  spec, params = start(**untied)
  assert not spec.decoder.unembeds and "lm_head" not in params["backbone"]
  joint, whole = start(**untied, loss__language_coefficient=0.1)
  assert joint.decoder.unembeds
  kernel = whole["backbone"].pop("lm_head")["kernel"]
  assert kernel.shape == (512, len(make_tokenizer()))
  same = jax.tree.map(np.array_equal, params["backbone"], whole["backbone"])
  assert all(jax.tree.leaves(same))
  tied, params = start(loss__language_coefficient=0.1)
  assert tied.decoder.unembeds and "lm_head" not in params["backbone"]


def test_what_has_no_unembedding_predicts_no_tokens():
  c = tiny_run.config("", "", loss__language_coefficient=0.1)
  bare = dataclasses.replace(SIZES["pythia_70m"], unembeds=False)
  with pytest.raises(UserError, match="has no unembedding.*language model"):
    make_spec(c, bare, make_tokenizer())


def test_an_unknown_size_lists_the_known():
  with pytest.raises(
    UserError, match=r"'random:huge' .*'smollm2_135m', .*'tiny'"
  ):
    start(init__from="random:huge")


def test_the_digest_sees_one_bit_a_name_and_a_shape():
  params = {"a": np.arange(6, dtype=np.float32), "b": np.ones(2, np.float32)}
  same = {k: v.copy() for k, v in params.items()}
  assert digest(params) == digest(same)
  same["a"][3] = np.nextafter(np.float32(3), np.float32(4))
  others = [
    same,
    {"a": params["a"], "c": params["b"]},
    {"a": params["a"].reshape(2, 3), "b": params["b"]},
  ]
  assert len({digest(x) for x in [params, *others]}) == 4


def test_another_base_model_is_refused(tmp_path):
  # Wrong: layers that trained on one base, scored on top of another.
  (tmp_path / "run.json").write_text('{"frozen_sha256": "0123456789abcdef"}')
  check_base(tmp_path, "0123456789abcdef")
  said = "digest ffff.*began with 0123456789ab: config.init.from holds other"
  with pytest.raises(UserError, match=said):
    check_base(tmp_path, "ffff")


# ---------------------------------------------------------------- where from


def test_a_mesh_changes_where_weights_lie_and_no_bit(tmp_path_factory):
  # Catches a shard that holds another slice, a frozen stack read as trained.
  source = trained.published(tmp_path_factory.getbasetemp(), 1)
  how = dict(init__from=str(source), train__trainable="last:1")
  config = tiny_run.config("", "", **how)
  spec, plain = init_from(config, make_tokenizer())
  mesh = make_mesh(data=2, fsdp=4, tensor=1)
  same, placed = init_from(config, make_tokenizer(), mesh)
  assert spec == same and spec.segments == (2, 1)
  kernel = placed["backbone"]["layers_0"]["mlp"]["up"]["kernel"]
  assert {s.data.shape for s in kernel.addressable_shards} == {(2, 8, 48)}
  assert jax.tree.structure(plain) == jax.tree.structure(placed)
  for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(placed), strict=True):
    np.testing.assert_array_equal(a, b)


def test_a_mesh_that_does_not_divide_the_backbone(tmp_path_factory):
  source = trained.published(tmp_path_factory.getbasetemp(), 1)
  config = tiny_run.config("", "", init__from=str(source))
  with pytest.raises(UserError, match="config.mesh.tensor=8 does not divide"):
    init_from(config, make_tokenizer(), make_mesh(data=1, fsdp=1, tensor=8))


@pytest.mark.parametrize("trainable", ["all", "last:1"])
@pytest.mark.parametrize("of", ["", "checkpoints", "checkpoints/2"])
def test_our_own_run_is_a_start(trainable, of, tmp_path_factory):
  # Catches the base model under the name of the run, and a head that is new
  # although it is to be kept.
  workdir = trained.run(tmp_path_factory.getbasetemp(), trainable)
  tokenizer = load_tokenizer(workdir)
  which = "last" if of else "best"
  _, want, _ = read_run(workdir, which, None, tokenizer)
  how = dict(init__from=str(workdir / of), train__trainable="last:2")
  for head in ("new", "keep"):
    config = tiny_run.config("", "", init__head=head, **how)
    spec, got = init_from(config, tokenizer)
    assert spec.segments == (1, 2)
    for a, b in zip(
      jax.tree.leaves(join_layers(got["backbone"])),
      jax.tree.leaves(join_layers(want["backbone"])),
      strict=True,
    ):
      np.testing.assert_array_equal(a, b)
    equal = np.array_equal(got["head"]["kernel"], want["head"]["kernel"])
    assert equal == (head == "keep")


def test_a_head_of_another_kind_is_not_kept(tmp_path_factory):
  workdir = trained.run(tmp_path_factory.getbasetemp(), "all")
  how = dict(init__from=str(workdir), init__head="keep")
  config = tiny_run.config("", "", model__head="biased_scalar", **how)
  with pytest.raises(UserError, match="keep'.*kind='scalar'.*'biased_scalar'"):
    init_from(config, load_tokenizer(workdir))


def test_the_tokenizer_of_a_shape_is_given_beside_it():
  # Catches: it is looked for at "random:foo", as if that were a path.
  config = tiny_run.config("", "words", init__from="random:tiny")
  assert find_tokenizer(config) == "words"
  config.init.tokenizer = ""
  with pytest.raises(
    UserError, match="a shape without a tokenizer: set config"
  ):
    find_tokenizer(config)
  config.init["from"] = "random:foo"
  with pytest.raises(UserError, match=r"random:foo' is not known.*'tiny'"):
    find_tokenizer(config)
  config.init["from"] = "smollm2"
  assert find_tokenizer(config) == "smollm2"


@pytest.mark.parametrize(
  "head, said",
  [
    ("new", "head: gain_bias, gain 2.5 and bias -1"),
    ("keep", "head: gain_bias, kept from runs/hh, gain 2.5 and bias -1"),
  ],
)
def test_a_head_of_two_numbers_is_described(head, said):
  # Catches: a traceback, since a kept head was one with a kernel.
  config = tiny_run.config("", "", init__from="runs/hh", init__head=head)
  spec = SimpleNamespace(
    head=HeadSpec("gain_bias", "zeros", "last_token"), tasks=()
  )
  params = {"gain": np.float32([2.5]), "bias": np.float32([-1])}
  assert describe_heads(config, spec, params) == said
