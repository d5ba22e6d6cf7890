"""Every family against torch's numbers, and packed against unpacked.

The goldens come from tests/golden/make_families.py: classifiers as transformers
saves them, and what torch made of ragged rows.
"""

import dataclasses
import functools
import json
import pathlib

import flax.linen as nn
import forests
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from rm_jax.data.pack import Geometry
from rm_jax.models import sight
from rm_jax.models.convert import load_pretrained, to_hf
from rm_jax.models.sharding import RULES, make_mesh, shard_tree
from rm_jax.models.sight import Forest
from rm_jax.objectives import LossSpec, loss_sums, mean_loss, weight_sums
from rm_jax.reward_model import (
  HeadSpec,
  ModelSpec,
  abstract_params,
  completion_scores,
  forward,
)
from rm_jax.types import UserError

FOLDER = pathlib.Path(__file__).parents[1] / "golden/families"
NAMES = sorted(path.name for path in FOLDER.iterdir())


@functools.cache
def load(name):
  return load_pretrained(FOLDER / name)


def spec_for(config):
  head = HeadSpec("scalar", "zeros", "last_token")
  return ModelSpec(config, head, "float32", True, (config.layers,))


@functools.partial(jax.jit, static_argnums=0)
def hidden_of(config, params, tokens, forest):
  decoder = spec_for(config).decoder_module
  return decoder.apply({"params": params}, tokens, forest)


def ragged(rows):
  """Tokens and forest of rows of one path each, padded on the right."""
  width = max(map(len, rows))
  tokens = np.zeros((len(rows), width), np.int32)
  for i, row in enumerate(rows):
    tokens[i, : len(row)] = row
  real = (tokens != 0).astype(np.int32)
  positions = real * np.arange(width, dtype=np.int32)
  return tokens, Forest(real, 0 * real, positions, 0 * real)


def states(name, config=None):
  """[hidden states of each golden row] under this config."""
  found = load(name)
  rows = json.loads((FOLDER / name / "expected.json").read_text())["tokens"]
  out = hidden_of(config or found.config, found.params, *ragged(rows))
  return [np.asarray(h[: len(row)]) for h, row in zip(out, rows, strict=True)]


def close(got, want):
  """1e-5 of the scale: float32 sums in another order over three layers."""
  want = np.asarray(want)
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("name", NAMES)
def test_hidden_states_and_scores_are_those_of_torch(name):
  # Catches whatever a family does and our switches do not: 1 + w, a norm at
  # another place, heads fused in another order, a bias that is dropped, a
  # window off by one or on the wrong layers, an offset of positions.
  expected = json.loads((FOLDER / name / "expected.json").read_text())
  got = states(name)
  for row, want in zip(got, expected["hidden"], strict=True):
    close(row, want)
  score = load(name).head.tensors["score.weight"]
  assert score.shape == (1, 32)
  close([h[-1] @ score[0] for h in got], expected["scores"])


# (golden, a field, what another family has there): each must show, or the
# golden would not notice that the switch is ignored.
BITES = [
  ("mistral", "window", 0),
  ("mistral", "window", 6),
  ("llama3", "rope_scaling", ()),
  ("qwen2", "global_layers", ()),
  ("gemma", "norm", "rms"),
  ("gemma", "embed_scale", 1.0),
  ("gemma", "activation", "silu"),
  ("gemma2", "soft_cap", 0.0),
  ("gemma2", "query_scalar", 0.0),
  ("gemma2", "global_layers", (0, 2)),
  ("gemma3", "global_rope_theta", 0.0),
  ("gemma3", "global_rope_scaling", ()),
  ("phi3", "rotary_dim", 0),
  ("phi3_longrope", "rope_scaling", ()),
  ("pythia", "parallel", False),
  ("pythia", "activation", "gelu_tanh"),
  ("gpt2", "activation", "gelu"),
  ("opt", "activation", "silu"),
]


# Slow: it tests the goldens, which do not change.
@pytest.mark.slow
@pytest.mark.parametrize("name, field, value", BITES)
def test_every_switch_changes_the_goldens(name, field, value):
  config = load(name).config
  assert getattr(config, field) != value
  changed = states(name, dataclasses.replace(config, **{field: value}))
  worst = max(
    np.abs(a - b).max() for a, b in zip(states(name), changed, strict=True)
  )
  # Ten times what the golden tolerates; GELU and its tanh are so near.
  assert worst > 1e-4 * max(np.abs(a).max() for a in changed)


@pytest.mark.parametrize("name", NAMES)
def test_published_names_and_layouts_come_back_bit_for_bit(name):
  # Catches a part of a fused tensor written to its neighbour's rows.
  found = load(name)
  source = load_file(FOLDER / name / "model.safetensors")
  source.pop("score.weight")
  back = to_hf(found.params, found.config)
  assert set(back) == set(source)
  for key, array in back.items():
    assert np.array_equal(array, source[key].astype(np.float32)), key
    assert array.flags["C_CONTIGUOUS"], key


@pytest.mark.parametrize("name", NAMES)
def test_the_tree_is_that_of_the_module(name):
  # Catches a parameter that the module makes and the loader does not know.
  found = load(name)
  want = jax.tree.map(lambda x: x.shape, found.params)
  boxed = abstract_params(spec_for(found.config))["backbone"]
  got = jax.tree.map(
    lambda x: x.value.shape, boxed, is_leaf=lambda x: hasattr(x, "value")
  )
  assert got == want


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "pythia"])
def test_rows_of_several_blocks_compute_the_same(name, monkeypatch):
  # Catches a layer that gets the blocks, or the window, of another kind, and a
  # scale or cap that only short rows have.
  want = states(name)
  monkeypatch.setattr(sight, "BLOCK", 4)
  found = load(name)
  rows = json.loads((FOLDER / name / "expected.json").read_text())["tokens"]
  apply = jax.jit(hidden_of.__wrapped__, static_argnums=0)
  out = apply(found.config, found.params, *ragged(rows))
  for got, row in zip(out, want, strict=True):
    close(got[: len(row)], row)


@pytest.mark.parametrize("name", NAMES)
def test_every_logical_axis_has_a_rule(name):
  # Catches a parameter that would be copied to every device, in silence.
  known = {axis for axis, _ in RULES}
  specs = nn.get_partition_spec(abstract_params(spec_for(load(name).config)))
  for path, spec in jax.tree_util.tree_flatten_with_path(specs)[0]:
    assert set(spec) <= known, (jax.tree_util.keystr(path), spec)


@pytest.mark.parametrize("name", ["gemma3", "opt", "olmo2"])
def test_a_mesh_computes_the_same(name):
  # Catches a bias, position table or norm of a whole projection that is cut
  # where the stream is not.
  found = load(name)
  mesh = make_mesh(data=2, fsdp=2, tensor=2)
  shards = shard_tree(abstract_params(spec_for(found.config)), mesh)["backbone"]
  params = jax.device_put(found.params, shards)
  rows = json.loads((FOLDER / name / "expected.json").read_text())["tokens"]
  apply = jax.jit(hidden_of.__wrapped__, static_argnums=0)
  with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
    out = jax.device_get(apply(found.config, params, *ragged(rows)))
  for got, row in zip(out, states(name), strict=True):
    close(got[: len(row)], row)


# ---------------------------------------------------------------- packing

WIDE = Geometry(
  row_len=24,
  blocks=2,
  slots=96,
  comparisons=160,
  groups=10,
  group_size=9,
  completions=50,
  align=1,
)
LOSS = LossSpec("bradley_terry", 0.0)


@functools.partial(jax.jit, static_argnums=(0, 1))
def score(config, gradient, params, batch):
  """(scores of completions, loss and its gradient or nothing)."""
  spec = spec_for(config)

  def f(params):
    outputs = forward(spec, params, batch, language=False)
    scores = completion_scores(outputs.scores, batch)
    if not gradient:
      return scores
    sums = loss_sums(LOSS, outputs, batch, dtype="float32")
    return mean_loss(LOSS, sums, weight_sums(LOSS, batch)), scores

  if not gradient:
    return f(params), ()
  (value, scores), grads = jax.value_and_grad(f, has_aux=True)(params)
  return scores, (value, grads)


def run(name, layout, *, gradient):
  """({(record, completion): score}, loss and gradient) of one batch."""
  found = load(name)
  groups = [*forests.ragged_groups(), forests.forked_group(record=9)]
  batch, owners = forests.batches(
    groups, layout=layout, row_len=24, blocks=2, rows=26, geometry=WIDE
  )[0][0]
  params = {
    "backbone": found.params,
    "head": {"kernel": found.head.tensors["score.weight"][0]},
  }
  batch = jax.tree.map(jnp.asarray, batch)
  scores, rest = score(found.config, gradient, params, batch)
  who = zip(owners.group.ravel(), owners.completion.ravel(), strict=True)
  by_owner = dict(zip(who, np.asarray(scores).ravel(), strict=True))
  return {k: v for k, v in by_owner.items() if k[0] >= 0}, rest


@pytest.mark.parametrize("name", NAMES)
def test_a_packed_forest_equals_a_row_for_each_completion(name):
  # Catches learned positions, windows or rotary bases that follow columns
  # instead of positions. The prefixes are longer than the windows.
  padded, _ = run(name, "padded", gradient=False)
  packed, _ = run(name, "shared", gradient=False)
  assert padded.keys() == packed.keys()
  keys = sorted(padded)
  close([packed[k] for k in keys], [padded[k] for k in keys])


def slow_but(*quick):
  """All families, those that are not named marked as slow."""
  return [
    name if name in quick else pytest.param(name, marks=pytest.mark.slow)
    for name in NAMES
  ]


@pytest.mark.parametrize("name", slow_but("gemma3", "opt"))
def test_gradients_of_a_packed_forest(name):
  _, (value, grads) = run(name, "padded", gradient=True)
  _, (packed_value, packed_grads) = run(name, "shared", gradient=True)
  np.testing.assert_allclose(packed_value, value, rtol=1e-5)
  top = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads))

  def same(path, a, b):
    worst = float(jnp.abs(a - b).max())
    # A bias of keys shifts all logits of a query alike: its gradient is 0 but
    # for rounding, and that is judged by the size of the others.
    limit = 1e-5 * max(float(jnp.abs(b).max()), 1e-2 * top)
    assert worst <= limit, (jax.tree_util.keystr(path), worst, limit)

  jax.tree_util.tree_map_with_path(same, packed_grads, grads)


@pytest.mark.parametrize("name", ["gpt2", "phi3_longrope"])
def test_rows_beyond_the_positions_are_refused(name):
  # Catches a table that is read beyond its end: NaN, or its last row again.
  found = load(name)
  tokens, forest = ragged([list(range(1, 34))])
  with pytest.raises(UserError, match="rows of 33 tokens: .* for 32; set"):
    hidden_of(found.config, found.params, tokens, forest)
