"""Sampling with a cache against a full forward for every token."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rm_jax.models import decode
from rm_jax.models.convert import load_pretrained
from rm_jax.models.decode import continue_from, sample
from rm_jax.models.draws import invert, nucleus
from rm_jax.models.sight import Forest
from rm_jax.models.sizes import SIZES
from rm_jax.models.transformer import Decoder, unembedding
from rm_jax.places import locate
from rm_jax.types import UserError
from tests.models.test_transformer import random_params as params_of_shape

GOLDEN = pathlib.Path(__file__).parents[1] / "golden/families"
TINY = SIZES["tiny"]
DECODERS = {
  "grouped": TINY,
  "one_kv_head": dataclasses.replace(TINY, kv_heads=1),
  "untied": dataclasses.replace(TINY, kv_heads=4, tied=False),
  # Smaller than the longest prompt and than what is written.
  "window": dataclasses.replace(TINY, window=3),
}
# What a cache can get wrong: layers of two kinds, caps, learned positions,
# norms of queries and keys. (folders of goldens)
FAMILIES = ("gemma2", "gemma3", "opt")
# Ragged; the longest needs more columns than the shortest bucket has.
PROMPTS = [
  np.random.default_rng(n).integers(0, TINY.vocab_size, n).tolist()
  for n in (5, 1, 18, 9)
]
LONGEST = 32

HOW = dict(
  samples=2,
  max_tokens=7,
  temperature=1.0,
  top_p=1.0,
  stop=(),
  seed=3,
  dtype="float32",
)


@functools.cache
def published(name):
  return load_pretrained(GOLDEN / name)


def decoder_of(name):
  return DECODERS[name] if name in DECODERS else published(name).config


def random_params(c=TINY):
  """Those of the golden with this config, else random ones."""
  for name in FAMILIES:
    if c.family != "llama" and published(name).config == c:
      return published(name).params
  return params_of_shape(c)


def capped(c, logits):
  cap = c.final_soft_cap
  return cap * np.tanh(logits / cap) if cap else logits


@functools.cache
def full_forward(c):
  """(params, tokens [L]) -> logits [L, V] of one path, all tokens at once."""
  decoder = Decoder(c, (c.layers,), "float32", remat=False)

  def logits(params, tokens):
    line = jnp.arange(len(tokens), dtype=jnp.int32)[None]
    forest = Forest(0 * line + 1, 0 * line, line, 0 * line)
    hidden = decoder.apply({"params": params}, tokens[None], forest)
    return hidden[0] @ unembedding(params, c).T

  return jax.jit(logits)


def next_logits(c, params, ids, longest=LONGEST):
  """Logits of the token after `ids`; what stands behind it is never seen."""
  padded = np.zeros(longest, np.int32)
  padded[: len(ids)] = ids
  return capped(c, np.asarray(full_forward(c)(params, padded)[len(ids) - 1]))


def slow_nucleus(mass, top_p):
  """Sorted, added up, cut at the first sum that reaches the share."""
  ordered = np.sort(mass)[::-1]
  sums = np.cumsum(ordered)
  return np.where(mass >= ordered[np.argmax(sums >= top_p * sums[-1])], mass, 0)


def slow_sample(c, params, prompt, index, number, how):
  """One completion, a full forward and a numpy draw for every token."""
  key = jax.random.key(how["seed"])
  key = jax.random.fold_in(jax.random.fold_in(key, index), number)
  ids = []
  for step in range(how["max_tokens"]):
    logits = next_logits(c, params, prompt + ids).astype(np.float64)
    mass = np.exp((logits - logits.max()) / how["temperature"])
    sums = np.cumsum(slow_nucleus(mass, how["top_p"]))
    uniform = float(jax.random.uniform(jax.random.fold_in(key, step)))
    ids.append(int(np.searchsorted(sums, uniform * sums[-1], side="right")))
    if ids[-1] in how["stop"]:
      break
  return ids


@pytest.mark.parametrize("name", [*DECODERS, *FAMILIES])
def test_logits_of_every_step_equal_a_full_forward(name):
  # Catches a position that is off by one, keys read before they are turned, a
  # window that counts cache columns, padding of a shorter prompt that is seen,
  # a branch that sees its sibling, key heads handed to the wrong queries.
  c = decoder_of(name)
  params, width, steps = random_params(c), 3, 7
  rule = decode.Rule(c, "float32", steps, 1.0, 1.0)
  lengths = np.array([len(p) for p in PROMPTS], np.int32)
  tokens = np.zeros((len(PROMPTS), LONGEST), np.int32)
  for row, prompt in enumerate(PROMPTS):
    tokens[row, : len(prompt)] = prompt
  forced = np.random.default_rng(0).integers(
    0, c.vocab_size, (len(PROMPTS), width, steps)
  )
  layers, table = decode.cut(rule, params)
  forks = np.repeat(lengths[:, None], width, 1)
  trunk, hidden = decode.prefill(rule, params, tokens, lengths, forks)
  own = decode.empty_branches(rule, len(PROMPTS), width)
  advance = jax.jit(decode.advance, static_argnums=0)
  for step in range(steps):
    got = capped(c, np.asarray(hidden @ table.T))
    for row, prompt in enumerate(PROMPTS):
      for n in range(width):
        ids = prompt + forced[row, n, :step].tolist()
        want = next_logits(c, params, ids)
        worst = np.abs(got[row, n] - want).max() / np.abs(want).max()
        assert worst < 1e-5, (step, row, n, worst)
    last = jnp.asarray(forced[:, :, step], jnp.int32)
    hidden, own = advance(rule, layers, trunk, own, last, forks, step)


@pytest.mark.parametrize("name", list(DECODERS))
def test_greedy_takes_the_most_probable_token(name):
  # Catches a completion returned to another prompt than its own (they are
  # sorted by length inside), and a temperature 0 that divides.
  c = DECODERS[name]
  params = random_params(c)
  how = HOW | {"temperature": 0.0}
  got = sample(c, params, PROMPTS, **how)
  for prompt, completions in zip(PROMPTS, got, strict=True):
    ids = []
    for _ in range(how["max_tokens"]):
      ids.append(int(np.argmax(next_logits(c, params, prompt + ids))))
    assert completions == [ids] * how["samples"]


@pytest.mark.parametrize(
  "name, temperature, top_p",
  [
    ("grouped", 1.0, 1.0),
    ("grouped", 0.7, 0.6),
    ("window", 1.0, 0.9),
    ("gemma2", 2.0, 1.0),
  ],
)
def test_draws_are_those_of_a_slow_path(name, temperature, top_p):
  # Catches a key that leaves out prompt, sample or step, a temperature that
  # multiplies, a nucleus of untempered logits, a stop that is not kept.
  c = decoder_of(name)
  params = random_params(c)
  stop = tuple(range(0, c.vocab_size, 9))
  how = HOW | {"temperature": temperature, "top_p": top_p, "stop": stop}
  got = sample(c, params, PROMPTS, **how)
  want = [
    [slow_sample(c, params, prompt, i, n, how) for n in range(how["samples"])]
    for i, prompt in enumerate(PROMPTS)
  ]
  assert got == want
  sizes = {len(ids) for completions in want for ids in completions}
  assert min(sizes) < how["max_tokens"], "no stop was met: the test is idle"


FORKS = [[2, 5], [1], [1, 9, 18], []]  # of PROMPTS


@pytest.mark.parametrize("name", ["grouped", "window", "gemma2", "opt"])
def test_draws_from_a_fork_are_those_of_its_prefix_alone(name):
  # Catches a completion that sees its trunk beyond the fork, that goes on at
  # the trunk's last position or from another fork's state.
  c = decoder_of(name)
  params = random_params(c)
  got = continue_from(c, params, PROMPTS, FORKS, **HOW)
  assert list(map(len, got)) == list(map(len, FORKS))
  for i, (prompt, own) in enumerate(zip(PROMPTS, FORKS, strict=True)):
    for f, fork in enumerate(own):
      for n in range(HOW["samples"]):
        number = f * HOW["samples"] + n
        want = slow_sample(c, params, prompt[:fork], i, number, HOW)
        assert got[i][f][n] == want


def test_forks_that_are_not_there_are_refused():
  forks = [[5], [1], [19], [9]]
  with pytest.raises(UserError, match=r"forks\[2\]: expected 1 to 18.*got 19"):
    continue_from(TINY, random_params(), PROMPTS, forks, **HOW)
  with pytest.raises(UserError, match=r"each of the 4 prompts, got 3"):
    continue_from(TINY, random_params(), PROMPTS, forks[:3], **HOW)
  assert continue_from(TINY, random_params(), [[1]], [[]], **HOW) == [[]]


@pytest.mark.parametrize("bound", ["SIDE_BY_SIDE", "CACHE_BYTES"])
def test_batches_change_nothing(bound, monkeypatch):
  # Catches a key or a cache that depends on the place in the batch, a row
  # without a prompt that is returned, a last part that is lost.
  params = random_params()
  how = HOW | {"samples": 5}
  whole = sample(TINY, params, PROMPTS, **how)
  forked = continue_from(TINY, params, PROMPTS, FORKS, **how)
  monkeypatch.setattr(decode, bound, 3)
  assert sample(TINY, params, PROMPTS, **how) == whole
  assert continue_from(TINY, params, PROMPTS, FORKS, **how) == forked


def test_batches_keep_to_their_bounds(monkeypatch):
  # 4 bytes * 2 * 3 layers * 2 heads * 16 = 768 bytes for a token in float32.
  # A prompt in 32 columns with 5 samples of 7: 67 tokens, 51,456 bytes.
  rule = decode.Rule(TINY, "float32", 7, 1.0, 1.0)
  shape = functools.partial(decode._batch_shape, rule)
  assert shape(100, 32, 5) == (25, 5)  # 4 batches of 128 // 5 at most
  assert shape(3, 32, 300) == (1, 100)  # 3 parts of at most 128
  monkeypatch.setattr(decode, "CACHE_BYTES", 2 * 51_456)
  assert shape(100, 32, 5) == (2, 5)
  monkeypatch.setattr(decode, "CACHE_BYTES", 51_455)
  assert shape(100, 32, 5) == (1, 3)  # room for 4: two parts of 3
  half = rule._replace(dtype="bfloat16")
  assert decode._batch_shape(half, 100, 32, 5) == (1, 5)


def test_companions_change_nothing():
  # Catches a draw that depends on who else is decoded, and by how much.
  params = random_params()
  alone = sample(TINY, params, PROMPTS[:1], **HOW)
  for others in (PROMPTS[1:], [[1] * 40]):
    among = sample(TINY, params, PROMPTS[:1] + others, **HOW)
    assert among[:1] == alone
  more = sample(TINY, params, PROMPTS[:1], **HOW | {"samples": 4})
  assert more[0][:2] == alone[0]
  longer = sample(TINY, params, PROMPTS[:1], **HOW | {"max_tokens": 9})
  assert [ids[:7] for ids in longer[0]] == alone[0]
  other = sample(TINY, params, PROMPTS[:1], **HOW | {"seed": 4})
  assert other != alone


def test_order_of_prompts():
  # Greedy: any order gives the same. Sampled: the place is part of the key,
  # so equal prompts get samples of their own.
  params = random_params()
  greedy = functools.partial(
    sample, TINY, params, **HOW | {"temperature": 0.0, "samples": 1}
  )
  assert greedy(PROMPTS[::-1]) == greedy(PROMPTS)[::-1]
  first, second = sample(TINY, params, [PROMPTS[0]] * 2, **HOW)
  assert first != second


def test_stop_ends_only_its_completion():
  # Catches a stop token that is dropped, and a batch that ends with its first
  # completion or goes on in one that has ended.
  params = random_params()
  free = sample(TINY, params, PROMPTS, **HOW | {"samples": 4})
  stop = (free[0][0][2], free[2][1][4])

  def until(ids):
    ends = [i for i, token in enumerate(ids) if token in stop]
    return ids[: ends[0] + 1] if ends else ids

  got = sample(TINY, params, PROMPTS, **HOW | {"samples": 4, "stop": stop})
  assert got == [[until(ids) for ids in group] for group in free]
  assert {len(ids) for group in got for ids in group} > {3, 7}


def test_one_step_has_the_frequencies_of_softmax():
  # Against softmax, not against another draw: catches a uniform number that is
  # shared, and sums that favour the ends. 4 sigma for each of 96 tokens, and
  # chi-square below its mean + 4 standard deviations, sqrt(2 * mean).
  params, count = random_params(), 4_000
  how = HOW | {"samples": count, "max_tokens": 1, "temperature": 2.0}
  logits = next_logits(TINY, params, PROMPTS[0]).astype(np.float64) / 2.0
  share = np.exp(logits - logits.max())
  for top_p in (1.0, 0.5):
    mass = slow_nucleus(share, top_p)
    expected = count * mass / mass.sum()
    (drawn,) = sample(TINY, params, PROMPTS[:1], **how | {"top_p": top_p})
    seen = np.bincount([ids[0] for ids in drawn], minlength=TINY.vocab_size)
    assert not seen[expected == 0].any()
    real = expected > 5
    sigma = np.sqrt(expected * (1 - expected / count))
    assert (np.abs(seen - expected)[real] < 4 * sigma[real]).all()
    square = ((seen - expected)[real] ** 2 / expected[real]).sum()
    freedom = real.sum() - 1
    assert freedom > 5
    assert square < freedom + 4 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("size", [96, 256, 1_000])
@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.9, 0.999])
def test_nucleus_is_the_sorted_rule(size, top_p):
  # Catches a nucleus that leaves out the token which reaches the share, and
  # vocabularies that are no multiple of a block.
  rng = np.random.default_rng(0)
  mass = np.exp(rng.normal(size=(2, 3, size)) * 3).astype(np.float32)
  mass /= mass.max(axis=-1, keepdims=True)
  got = nucleus(jnp.asarray(mass), top_p)
  for row in range(2):
    for n in range(3):
      want = slow_nucleus(mass[row, n].astype(np.float64), top_p)
      np.testing.assert_array_equal(got[row, n], want)
      assert top_p > 1e-6 or (want > 0).sum() == 1


def test_nucleus_keeps_all_that_tie_at_the_border():
  mass = jnp.array([[[0.5, 1.0, 0.5, 0.25, 0.0]]])
  # Of 2.25, 0.6 is 1.35: 1.0 and one of the 0.5 would do.
  got = nucleus(mass, 0.6)
  np.testing.assert_array_equal(got[0, 0], [0.5, 1.0, 0.5, 0.0, 0.0])


@pytest.mark.parametrize("size", [96, 256, 1_000])
def test_invert_is_the_running_sum(size):
  # Catches a draw of a token without mass, at both ends and between blocks,
  # and a block whose tokens are added to the wrong sum.
  rng = np.random.default_rng(0)
  weights = rng.integers(0, 4, size)  # whole numbers: the sums are exact
  weights[: size // 3] = weights[-3:] = 0  # of 1,000: the whole first block
  mass = jnp.asarray(weights[None, None] / 4, jnp.float32)
  sums = np.cumsum(weights)
  # The middle of every step of the running sum, and both ends.
  goals = (np.arange(sums[-1]) + 0.5) / sums[-1]
  goals = np.concatenate([goals, [0.0, 1 - 2.0**-23]])
  want = np.searchsorted(sums, goals * sums[-1], side="right")
  mass = jnp.broadcast_to(mass, (1, len(goals), size))
  got = invert(mass, jnp.asarray(goals[None], jnp.float32))
  np.testing.assert_array_equal(got[0], want)


@pytest.mark.parametrize("samples, prompts", [(1, 1), (3, 1), (1, 3)])
@pytest.mark.parametrize("name", list(DECODERS))
def test_bfloat16_has_kernels_for_every_shape(name, samples, prompts):
  # XLA:CPU refuses some bfloat16 products when they run, by their layout. The
  # first token's logit is near the best one of float32: 5 % of the scale.
  c = DECODERS[name]
  params = random_params(c)
  how = HOW | {"dtype": "bfloat16", "temperature": 0.0, "samples": samples}
  got = sample(c, params, PROMPTS[:prompts], **how)
  for prompt, completions in zip(PROMPTS, got, strict=False):
    assert [len(ids) for ids in completions] == [7] * samples
    logits = next_logits(c, params, prompt)
    short = logits.max() - logits[completions[0][0]]
    assert short <= 0.05 * np.abs(logits).max()


def test_no_prompts_give_no_completions():
  assert sample(TINY, random_params(), [], **HOW) == []


@pytest.mark.parametrize(
  "change, match",
  [
    ({"samples": 0}, "samples=0 must be 1 or more"),
    ({"max_tokens": 0}, "max_tokens=0 must be 1 or more"),
    ({"temperature": -0.5}, "temperature=-0.5 must be 0 .* or more"),
    ({"temperature": float("nan")}, "temperature=nan must be 0"),
    ({"top_p": 0.0}, "top_p=0.0 must be above 0 and at most 1"),
    ({"top_p": 1.5}, "top_p=1.5 must be above 0 and at most 1"),
    ({"dtype": "float16"}, "dtype='float16' is not known. Known: .*bfloat16"),
    ({"stop": (96,)}, "stop: expected token ids below 96, .* got 96"),
    (
      {"prompts": [[1], []]},
      r"prompts\[1\]: expected one token or more, got none",
    ),
    ({"prompts": [[1, -1]]}, r"prompts\[0\]: expected token ids .* got -1"),
  ],
)
def test_a_mistake_is_named(change, match):
  # Catches the silence of jax: an id that is too large reads NaN or clamps.
  asked = {"prompts": PROMPTS} | HOW | change
  with pytest.raises(UserError, match=match) as error:
    sample(TINY, random_params(), asked.pop("prompts"), **asked)
  assert "\n" not in str(error.value)


def test_a_completion_beyond_the_positions_is_refused():
  # Catches a table that is read beyond its end: NaN, or its last row again.
  c, params, _ = published("opt")  # 32 positions
  how = HOW | {"samples": 1, "temperature": 0.0}
  prompt = [3] * 25
  (ids,) = sample(c, params, [prompt], **how)
  assert ids[0][-1] == np.argmax(next_logits(c, params, prompt + ids[0][:-1]))
  with pytest.raises(
    UserError, match=r"prompts\[0\]: 26 tokens .* are 33, the"
  ):
    sample(c, params, [[3] * 26], **how)


@pytest.mark.slow
def test_smollm2_writes_what_full_forwards_say(optimised):
  # Real weights, real chat prompts: 8 greedy tokens, ragged and side by side.
  try:
    locate("smollm2")
  except UserError as error:
    pytest.skip(str(error))
  from rm_jax.data.tokenizers import load_tokenizer

  tokenizer = load_tokenizer("smollm2")
  c, params, _ = load_pretrained("smollm2")
  params = jax.tree.map(jnp.asarray, params)
  prompts = [
    tokenizer.apply_chat_template(
      [{"role": "user", "content": text}],
      add_generation_prompt=True,
      return_dict=False,
    )
    for text in ("What is the capital of France?", "Name a colour.")
  ]
  stop = (tokenizer.eos_token_id,)
  how = HOW | {"samples": 1, "max_tokens": 8, "temperature": 0.0, "stop": stop}
  got = sample(c, params, prompts, **how)
  for prompt, (ids,) in zip(prompts, got, strict=True):
    assert len(prompt) + 8 <= 64
    for n, token in enumerate(ids):
      logits = next_logits(c, params, prompt + ids[:n], longest=64)
      assert token == np.argmax(logits), (n, ids)
    assert len(ids) == 8 or ids[-1] in stop
  assert "Paris" in tokenizer.decode(got[0][0])
