"""The decoder: stacks, bfloat16, and an independent forward in numpy."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rm_jax.models.sight import BLOCK, Forest
from rm_jax.models.sizes import SIZES
from rm_jax.models.transformer import unembedding
from rm_jax.reward_model import HeadSpec, ModelSpec, init_params
from rm_jax.train.optim import cut_layers, join_layers

TINY = SIZES["tiny"]


def spec(decoder=TINY, dtype="float32", segments=None, remat=False, unrolled=2):
  segments = segments or (decoder.layers,)
  head = HeadSpec("scalar", "unit", "last_token")
  return ModelSpec(decoder, head, dtype, remat, segments, unrolled=unrolled)


@functools.cache
def random_params(decoder=TINY):
  """Norm scales off one: ones would hide a scale that is left out."""
  params = init_params(spec(decoder), jax.random.key(0))["backbone"]
  rng = np.random.default_rng(0)

  def off_one(path, x):
    if "scale" not in jax.tree_util.keystr(path):
      return np.asarray(x)
    return np.asarray(x) + rng.normal(size=x.shape).astype(np.float32) / 3

  return jax.tree_util.tree_map_with_path(off_one, params)


def rows(lengths, width=12):
  """Each row one path, padded at its end."""
  rng = np.random.default_rng(0)
  tokens = np.zeros((len(lengths), width), np.int32)
  group = np.zeros_like(tokens)
  positions = np.zeros_like(tokens)
  for i, n in enumerate(lengths):
    tokens[i, :n] = rng.integers(1, TINY.vocab_size, n)
    group[i, :n] = 1
    positions[i, :n] = np.arange(n)
  zeros = np.zeros_like(tokens)
  return jnp.asarray(tokens), Forest(
    *map(jnp.asarray, (group, zeros, positions, zeros))
  )


def slow_forward(params, c, tokens):
  """One path in float64, a token and a head at a time."""

  def norm(x, scale):
    return x / np.sqrt(np.mean(x**2) + c.norm_eps) * scale

  def turn(x, position):
    half = c.head_dim // 2
    out = np.zeros_like(x)
    for i in range(half):
      angle = position * c.rope_theta ** (-2 * i / c.head_dim)
      a, b = x[i], x[i + half]
      out[i] = a * np.cos(angle) - b * np.sin(angle)
      out[i + half] = b * np.cos(angle) + a * np.sin(angle)
    return out

  p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  x = p["embed"]["embedding"][np.asarray(tokens)]
  for n in range(c.layers):
    w = jax.tree.map(lambda leaf, n=n: leaf[n], p["layers_0"])
    h = [norm(t, w["attn_norm"]["scale"]) for t in x]
    heads = np.zeros((len(x), c.heads * c.head_dim))

    def project(name, h=h, w=w):
      flat = np.stack(h) @ w["attn"][name]["kernel"]
      return flat.reshape(len(h), -1, c.head_dim)

    q, k, v = project("q"), project("k"), project("v")
    for head in range(c.heads):
      j = head // (c.heads // c.kv_heads)
      for t in range(len(x)):
        first = max(0, t - c.window + 1) if c.window else 0
        past = range(first, t + 1)
        logits = np.array(
          [turn(q[t, head], t) @ turn(k[s, j], s) for s in past]
        ) / np.sqrt(c.head_dim)
        weights = np.exp(logits - logits.max())
        weights /= weights.sum()
        part = slice(head * c.head_dim, (head + 1) * c.head_dim)
        heads[t, part] = sum(
          a * v[s, j] for a, s in zip(weights, past, strict=True)
        )
    x = x + heads @ w["attn"]["o"]["kernel"]
    for t in range(len(x)):
      h = norm(x[t], w["mlp_norm"]["scale"])
      gate = h @ w["mlp"]["gate"]["kernel"]
      up = h @ w["mlp"]["up"]["kernel"]
      x[t] = (
        x[t] + (gate / (1 + np.exp(-gate)) * up) @ w["mlp"]["down"]["kernel"]
      )
  return np.stack([norm(t, p["final_norm"]["scale"]) for t in x])


def run(params, tokens, forest, **how):
  decoder = spec(**how).decoder_module
  return jax.jit(decoder.apply)({"params": params}, tokens, forest)


@pytest.mark.parametrize("window", [0, 4])
def test_equals_a_slow_forward_in_float64(window):
  # Catches interleaved rotary halves, a left-out norm scale, gate and up
  # swapped, a wrong head mapping, a window off by one.
  decoder = dataclasses.replace(TINY, window=window)
  params = random_params()
  tokens, forest = rows([12, 7, 1])
  got = run(params, tokens, forest, decoder=decoder)
  for i, n in enumerate([12, 7, 1]):
    want = slow_forward(params, decoder, tokens[i, :n])
    np.testing.assert_allclose(got[i, :n], want, rtol=2e-4, atol=2e-4)


def test_cut_stacks_compute_what_one_stack_does():
  params, (tokens, forest) = random_params(), rows([12, 7])
  whole = run(params, tokens, forest)
  cut = run(cut_layers(params, (2, 1)), tokens, forest, segments=(2, 1))
  np.testing.assert_allclose(cut, whole, rtol=1e-5, atol=1e-5)
  back = join_layers(cut_layers(params, (2, 1)))
  jax.tree.map(np.testing.assert_array_equal, back, params)


def test_neither_remat_nor_writing_out_changes_a_gradient():
  params, (tokens, forest) = random_params(), rows([12, 7])
  again = re.compile(r"rematted_computation/.*mlp/up/.*dot_general")

  def compiled(remat, unrolled):
    decoder = spec(remat=remat, unrolled=unrolled).decoder_module

    def loss(params):
      return jnp.sum(decoder.apply({"params": params}, tokens, forest) ** 2)

    return jax.jit(jax.grad(loss)).lower(params).compile()

  want = compiled(False, 0)(params)
  for remat, unrolled in ((True, 0), (False, TINY.layers), (True, TINY.layers)):
    program = compiled(remat, unrolled)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
      program(params),
      want,
    )
    text = program.as_text()
    assert bool(unrolled) == ("while/body" not in text), unrolled
    # Wrong: remat that a stack which is written out does not get.
    assert remat == bool(again.search(text)), (remat, unrolled)


@pytest.mark.parametrize("length", [48, 2 * BLOCK], ids=["dense", "blocks"])
def test_what_a_scanned_layer_keeps_for_the_way_back(length):
  # Wrong: both sides of every norm and activation in the stack, which a step
  # with bfloat16 in hardware spends more on than on its products; or attention
  # kept by no name, and computed twice.
  c, count, params = TINY, 2, random_params()
  tokens, forest = rows([length] * count, width=length)
  weights = {x.shape for x in jax.tree.leaves(params)}
  assert spec().unrolled < c.layers

  def kept(remat):
    """Numbers per layer and token that a pass forward hands to the one back."""
    module = spec(remat=remat).decoder_module

    def backward(params):
      return jax.vjp(
        lambda p: module.apply({"params": p}, tokens, forest), params
      )[1]

    shapes = [
      x.shape for x in jax.tree.leaves(jax.eval_shape(backward, params))
    ]
    stacked = [
      math.prod(s[1:])
      for s in shapes
      if len(s) > 2 and s[0] == c.layers and s not in weights
    ]
    return sum(stacked) / (count * length)

  assert kept(remat=True) == c.width
  heads, inner = c.heads * c.head_dim, c.kv_heads * c.head_dim
  # Input and output of attention's half, its operands, what it gives, the MLP.
  wanted = 2 * c.width + heads + 2 * inner + heads + 2 * c.mlp_width
  wanted += c.heads * (length if length < BLOCK else 1)  # weights or their sum
  assert kept(remat=False) == wanted


def test_bfloat16_is_near_float32_and_gives_float32():
  params, (tokens, forest) = random_params(), rows([12])
  exact = run(params, tokens, forest)
  rough = run(params, tokens, forest, dtype="bfloat16")
  assert rough.dtype == jnp.float32
  worst = float(jnp.abs(rough - exact).max() / jnp.abs(exact).max())
  assert 0 < worst < 0.05


@pytest.mark.slow
def test_bfloat16_results_are_near_and_gradients_are_float32():
  # Wrong: a stream that turns float32 in one layer, which a scan refuses only
  # where norms and adapters are; hidden states that are not float32.
  tokens, forest = rows((12, 7))
  exact = spec(dataclasses.replace(TINY, post_norm=True))
  rough = dataclasses.replace(exact, dtype="bfloat16", results="bfloat16")
  params = random_params(exact.decoder)

  def total(params, spec):
    hidden = spec.decoder_module.apply({"params": params}, tokens, forest)
    assert hidden.dtype == jnp.float32
    return jnp.sum(jnp.sin(hidden) * (tokens > 0)[..., None]), hidden

  grads, hidden = {}, {}
  for name, one in (("exact", exact), ("rough", rough)):
    grads[name], hidden[name] = jax.jit(
      jax.grad(total, has_aux=True), static_argnums=1
    )(params, one)
  # bfloat16 keeps 8 bits: 2^-8 a rounding, some ten of them a layer.
  np.testing.assert_allclose(hidden["rough"], hidden["exact"], atol=0.15)
  for want, got in zip(
    jax.tree.leaves(grads["exact"]),
    jax.tree.leaves(grads["rough"]),
    strict=True,
  ):
    assert got.dtype == jnp.float32
    size = np.linalg.norm(want)
    assert np.linalg.norm(np.asarray(got) - want) <= 0.08 * size


def test_untied_unembedding_has_its_own_matrix():
  decoder = dataclasses.replace(TINY, tied=False)
  params = init_params(spec(decoder), jax.random.key(0))["backbone"]
  table = unembedding(params, decoder)
  assert table.shape == (TINY.vocab_size, TINY.width)
  np.testing.assert_array_equal(table.T, params["lm_head"]["kernel"])
  tied = init_params(spec(), jax.random.key(0))["backbone"]
  assert "lm_head" not in tied
  np.testing.assert_array_equal(
    unembedding(tied, TINY), tied["embed"]["embedding"]
  )


def test_segments_must_cover_the_layers():
  with pytest.raises(ValueError, match="add up to 2 layers, the decoder has 3"):
    init_params(spec(segments=(2,)), jax.random.key(0))
