"""From scores to one number: sums and weights by hand.

Catches: a mean of micro-batch means, a weight used twice or not at all, NaN
from what has no weight, a NaN weight that silently makes the loss 0.
"""

import ast
import functools
import math

import forests
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rm_jax.losses import KIND, LEARNED, LOSSES, PARAMETERS
from rm_jax.objectives import (
  BINS,
  HEAD_OF,
  SUMS,
  LossSpec,
  check_fit,
  loss_sums,
  mean_loss,
  weight_sums,
)
from rm_jax.reward_model import Outputs
from rm_jax.types import UserError


def softplus(x):
  return math.log1p(math.exp(x))


def group_of(k, *, record=0, per="group", weight=1.0):
  """K completions of one prompt; weights as `per` says, as data makes them."""
  pairs = k * (k - 1) // 2
  g = forests.group([[1, 10 + i] for i in range(k)], [1] * k, record=record)
  return g._replace(
    comparison_weights=np.full(
      pairs, weight / pairs if per == "group" else weight, np.float32
    ),
    weight=weight * (1 if per == "group" else pairs),
  )


def lay(groups, blocks=1):
  return forests.batches(groups, layout="shared", row_len=16, blocks=blocks)[0][
    0
  ]


def with_scores(groups, scores, blocks=1):
  """The batch, and Outputs that give completion k of group i scores[i][k]."""
  batch, owners = lay(groups, blocks)
  out = np.full(batch.score_where.shape, 7.0, np.float32)  # unused: no zeros
  for n, m in np.argwhere(owners.group >= 0):
    row, slot = divmod(batch.completion_index[n, m], out.shape[-1])
    out[n, row, slot] = scores[owners.group[n, m]][owners.completion[n, m]]
  return batch, jnp.asarray(out)


def value(name, batch, scores):
  loss = LossSpec(name, 0.0)
  sums = loss_sums(loss, Outputs(scores, None, None), batch, dtype="float32")
  return mean_loss(loss, sums, weight_sums(loss, batch)), sums


TWO, FOUR = (1.5, 0.5), (2.0, -1.0, 0.5, 1.0)


def test_per_group_and_per_comparison_by_hand():
  # K=2 has one comparison, K=4 has six: per group each counts 1/2, per
  # comparison the large one 6/7.
  first = softplus(TWO[1] - TWO[0])
  six = [softplus(FOUR[j] - FOUR[i]) for i in range(4) for j in range(i + 1, 4)]
  want = {
    "group": (first + sum(six) / 6) / 2,
    "comparison": (first + sum(six)) / 7,
  }
  assert abs(want["group"] - want["comparison"]) > 0.05
  for per in ("group", "comparison"):
    groups = [group_of(2, per=per), group_of(4, record=1, per=per)]
    batch, scores = with_scores(groups, [TWO, FOUR])
    for name in ("bradley_terry", "all_pairs"):
      got, _ = value(name, batch, scores)
      np.testing.assert_allclose(got, want[per], rtol=1e-6, err_msg=name)


def test_all_pairs_is_bradley_terry_over_all_pairs_value_and_gradient():
  groups = [group_of(2), group_of(4, record=1), group_of(3, record=2)]
  batch, scores = with_scores(groups, [TWO, FOUR, (0.1, 0.2, -2.0)])
  pairwise, listwise = (
    jax.value_and_grad(lambda s, n=name: value(n, batch, s)[0])(scores)
    for name in ("bradley_terry", "all_pairs")
  )
  np.testing.assert_allclose(pairwise[0], listwise[0], rtol=1e-6)
  np.testing.assert_allclose(pairwise[1], listwise[1], atol=1e-7)
  assert np.abs(pairwise[1]).max() > 0.05


def test_margin_is_read():
  batch, scores = with_scores([group_of(2)], [TWO])
  batch = batch._replace(margin=batch.margin + np.float32(0.7))
  got, _ = value("bradley_terry_margin", batch, scores)
  np.testing.assert_allclose(got, softplus(-(1.0 - 0.7)), rtol=1e-6)


def test_pointwise_by_hand():
  batch, scores = with_scores([group_of(2)], [TWO])  # labels 0 and 1
  batch = batch._replace(weight=batch.weight * np.float32(0.5))
  got, sums = value("outcome_cross_entropy", batch, scores)
  want = softplus(1.5), softplus(0.5) - 0.5
  np.testing.assert_allclose(got, sum(want) / 2, rtol=1e-6)
  np.testing.assert_allclose(sums["outcome_cross_entropy"][1], 1.0)


def test_unequal_micro_batches_are_not_averaged():
  # Blocks with weight 5 and 0.01: the sum over both by W is not the mean of
  # their two means.
  groups = [group_of(2, weight=5.0), group_of(4, record=1, weight=0.01)]
  batch, scores = with_scores(groups, [TWO, FOUR], blocks=2)
  loss = LossSpec("bradley_terry", 0.0)
  whole = jax.grad(lambda s: value("bradley_terry", batch, s)[0])(scores)
  weights = weight_sums(loss, batch)

  def part(n, weights=None):
    cut = jax.tree.map(lambda x: x[n : n + 1], batch)

    def f(s):
      sums = loss_sums(loss, Outputs(s, None, None), cut, dtype="float32")
      return mean_loss(
        loss, sums, weight_sums(loss, cut) if weights is None else weights
      )

    return jax.grad(f)(scores[n : n + 1])

  right = jnp.concatenate([part(n, weights) for n in (0, 1)])
  wrong = jnp.concatenate([part(n) for n in (0, 1)]) / 2
  np.testing.assert_allclose(right, whole, rtol=1e-6)
  assert float(jnp.abs(wrong - whole).max()) > 0.1


PARAMETER = dict(
  top=2,
  smoothing=0.1,
  noise=0.1,
  temperature=0.5,
  gap=1.0,
  gamma=2.0,
  sigma=0.5,
)


def spec_of(name):
  """A LossSpec with every parameter set, and what its loss learns."""
  bins = ("low", "high", "bins")
  centers = (0.0, 1.0, 3) if name in BINS else ()
  reads = [p for p in PARAMETERS[name] if p not in bins]
  loss = LossSpec(
    name,
    0.0,
    parameters=tuple((p, PARAMETER[p]) for p in reads),
    centers=centers,
  )
  return loss, {"": LEARNED[name]} if name in LEARNED else {}


@pytest.mark.parametrize("name", sorted(n for n in LOSSES if KIND[n] in SUMS))
def test_without_weight_a_micro_batch_adds_exactly_nothing(name):
  # NaN labels, margins and ranks of nobody's entries must not come through,
  # nor 0 times NaN in the gradient.
  batch, scores = with_scores([group_of(2)], [TWO])
  nan = np.float32(np.nan)
  batch = batch._replace(
    labels=batch.labels * nan,
    margin=batch.margin * nan,
    preference=batch.preference * nan,
    weight=batch.weight * 0,
    comparison_weight=batch.comparison_weight * 0,
    group_weight=batch.group_weight * 0,
  )
  if name in HEAD_OF:
    scores = jnp.stack([scores, -scores, scores], axis=-1)
  loss, learned = spec_of(name)
  other = {name: jnp.float32(3.0)}  # the weight of the other micro-batches

  def f(s):
    outputs = Outputs(s, None, None, learned=learned)
    sums = loss_sums(loss, outputs, batch, dtype="float32")
    return mean_loss(loss, sums, other)

  got, gradient = jax.value_and_grad(f)(scores)
  assert float(got) == 0.0
  assert not np.any(gradient)
  other = weight_sums(loss, batch)
  assert float(f(scores)) == float(other[name]) == 0.0  # no division by W = 0


@pytest.mark.parametrize(
  "name", ["bradley_terry", "all_pairs", "squared_error"]
)
def test_a_nan_weight_shows_in_the_loss(name):
  # Wrong: `weight > 0` is False for NaN, the loss 0 and the step "fine".
  batch, scores = with_scores([group_of(2)], [TWO])
  nan = np.float32(np.nan)
  batch = batch._replace(
    weight=batch.weight * nan,
    comparison_weight=batch.comparison_weight * nan,
    group_weight=batch.group_weight * nan,
  )
  assert np.isnan(value(name, batch, scores)[0])


def test_language_term_adds_with_its_coefficient():
  # Two tokens, weights 1 and 3, logits by hand: V = 3, D = 2.
  g = forests.group([[1, 2, 1]], [1], pooling="every_token", language=True)
  g = g._replace(language_weights=(np.array([1, 3], np.float32),))
  batch, _ = lay([g])
  context = np.zeros((1, 1, 2, 2), np.float32)
  context[0, 0, :] = [[1.0, 0.0], [0.0, 2.0]]
  table = np.array([[0.1, 0.4], [0.2, 0.5], [0.3, 0.6]], np.float32)

  def entropy(logits, token):
    return math.log(sum(math.exp(x) for x in logits)) - logits[token]

  language = entropy([0.1, 0.2, 0.3], 2) + 3 * entropy([0.8, 1.0, 1.2], 1)
  loss = LossSpec("outcome_cross_entropy", 0.25)
  outputs = Outputs(
    jnp.zeros((1, 1, 2)), jnp.asarray(context), jnp.asarray(table)
  )
  sums = loss_sums(loss, outputs, batch, dtype="float32")
  total, weight = sums["next_token_cross_entropy"]
  np.testing.assert_allclose(total, language, rtol=1e-6)
  assert float(weight) == 4.0
  got = mean_loss(loss, sums, weight_sums(loss, batch))
  np.testing.assert_allclose(got, math.log(2) + 0.25 * language / 4, rtol=1e-6)


def test_language_chunks_fill_up_with_nothing():
  # 300 slots are two chunks of 256, 212 of them spare.
  rng = np.random.default_rng(0)
  g = forests.group(
    [rng.integers(1, 5, 301).tolist()],
    [1],
    pooling="every_token",
    language=True,
  )
  batch, _ = forests.batches([g], layout="packed", row_len=301, blocks=1)[0][0]
  context = rng.normal(size=(1, 1, 300, 2)).astype(np.float32)
  table = rng.normal(size=(5, 2)).astype(np.float32)
  outputs = Outputs(
    jnp.zeros((1, 1, 300)), jnp.asarray(context), jnp.asarray(table)
  )
  loss = LossSpec("outcome_cross_entropy", 1.0)
  total, weight = loss_sums(loss, outputs, batch, dtype="float32")[
    "next_token_cross_entropy"
  ]
  logits = context[0, 0].astype(np.float64) @ table.T
  want = np.log(np.exp(logits).sum(1)) - logits[np.arange(300), g.tokens[0][1:]]
  np.testing.assert_allclose(total, want.sum(), rtol=1e-5)
  assert float(weight) == 300


# ---------------------------------------------------------------- refusals


def test_an_unknown_loss_lists_the_known():
  with pytest.raises(UserError, match=r"'hing' is not known\. Known: \['all_p"):
    LossSpec("hing", 0.0)


def test_a_language_loss_alone_has_no_reward_head():
  with pytest.raises(UserError, match="of kind 'language'"):
    LossSpec("next_token_cross_entropy", 0.0)
  with pytest.raises(UserError, match=r"language_coefficient=-1.* 0 or more"):
    LossSpec("bradley_terry", -1.0)
  with pytest.raises(UserError, match="language_coefficient=nan"):
    LossSpec("bradley_terry", math.nan)


@pytest.mark.parametrize(
  "name, head, pooling, message",
  [
    ("step_cross_entropy", "scalar", "step_ends", "head='steps'"),
    ("bradley_terry", "steps", "last_token", "head='scalar'"),
    ("step_binary_cross_entropy", "steps", "step_ends", "head='scalar'"),
    ("step_binary_cross_entropy", "scalar", "mean", "pooling='step_ends'"),
    ("step_cross_entropy", "steps", "last_token", "pooling='step_ends'"),
  ],
)
def test_a_loss_that_does_not_fit_head_or_pooling(name, head, pooling, message):
  with pytest.raises(
    UserError, match=rf"'{name}'.*Set config\.model\.{message}"
  ):
    check_fit(LossSpec(name, 0.0), head=head, pooling=pooling)


def test_what_fits_is_taken():
  fits = functools.partial(check_fit, LossSpec("step_cross_entropy", 0.0))
  assert fits(head="steps", pooling="step_ends") is None
  fits = functools.partial(check_fit, LossSpec("outcome_cross_entropy", 0.0))
  assert fits(head="biased_scalar", pooling="mean") is None


def test_an_unknown_loss_lists_those_that_train():
  # Catches: names that the next line refuses, such as centering.
  with pytest.raises(UserError, match="'btt' is not known") as refused:
    LossSpec("btt", 0.0)
  known = ast.literal_eval(str(refused.value).partition("Known: ")[2][:-1])
  assert "hinge" in known and "centering" not in known
  for name in known:
    LossSpec(name, 0.0)
