"""One group, three layouts: equal scores, losses and gradients.

Catches: a token that sees a sibling branch or another tree, positions that do
not continue from the fork, supervision merged on shared tokens, a next-token
target read one column to the left instead of at its parent, a group split over
rows whose trunk copies differ.
"""

import dataclasses
import functools

import forests
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rm_jax.data.pack import LAYOUTS, Geometry
from rm_jax.models.sizes import SIZES
from rm_jax.objectives import LossSpec, loss_sums, mean_loss, weight_sums
from rm_jax.reward_model import (
  HeadSpec,
  ModelSpec,
  completion_scores,
  forward,
  init_params,
)

TINY = SIZES["tiny"]
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


def spec_for(pooling="last_token", head="scalar", window=0):
  decoder = dataclasses.replace(TINY, window=window)
  return ModelSpec(
    decoder,
    HeadSpec(head, "unit", pooling),
    "float32",
    True,
    (decoder.layers,),
  )


@functools.cache
def params_for(head="scalar"):
  """Random weights with a head of std 1 and norms that are not all ones."""
  params = init_params(spec_for(head=head), jax.random.key(0))

  def perturb(path, x):
    if "scale" not in jax.tree_util.keystr(path):
      return x
    noise = np.random.default_rng(len(jax.tree_util.keystr(path)))
    return x + 0.3 * noise.normal(size=x.shape).astype(np.float32)

  return jax.tree_util.tree_map_with_path(perturb, params)


@functools.partial(jax.jit, static_argnums=(0, 1))
def score_and_gradient(spec, loss, params, batch):
  def f(params):
    outputs = forward(spec, params, batch, language=loss.language > 0)
    sums = loss_sums(loss, outputs, batch, dtype="float32")
    return mean_loss(loss, sums, weight_sums(loss, batch)), outputs.scores

  (value, scores), grads = jax.value_and_grad(f, has_aux=True)(params)
  if spec.head.kind == "steps":
    scores = scores[..., 0]
  return value, completion_scores(scores, batch), grads


def run(groups, layout, *, spec, loss, row_len, blocks=2, head="scalar"):
  """(loss, {(record, completion): score}, gradient) of one batch."""
  # Every layout of rows of 24 in the same capacities: one compilation.
  wide = dict(rows=26, geometry=WIDE) if row_len == 24 and blocks == 2 else {}
  batch, owners = forests.batches(
    groups, layout=layout, row_len=row_len, blocks=blocks, **wide
  )[0][0]
  value, scores, grads = score_and_gradient(
    spec, loss, params_for(head), jax.tree.map(jnp.asarray, batch)
  )
  scores = np.asarray(scores)
  by_owner = {
    (int(g), int(k)): float(s)
    for g, k, s in zip(
      owners.group.ravel(),
      owners.completion.ravel(),
      scores.ravel(),
      strict=True,
    )
    if g >= 0
  }
  return float(value), by_owner, grads


def assert_same(a, b):
  value_a, scores_a, grads_a = a
  value_b, scores_b, grads_b = b
  assert scores_a.keys() == scores_b.keys()
  keys = sorted(scores_a)
  left = np.array([scores_a[k] for k in keys])
  right = np.array([scores_b[k] for k in keys])
  np.testing.assert_allclose(
    left, right, rtol=0, atol=1e-5 * np.abs(right).max()
  )
  np.testing.assert_allclose(value_a, value_b, rtol=1e-5)

  def close(path, x, y):
    worst = float(jnp.max(jnp.abs(x - y)))
    limit = 1e-5 * float(jnp.max(jnp.abs(y)))
    assert worst <= limit, (jax.tree_util.keystr(path), worst, limit)

  jax.tree_util.tree_map_with_path(close, grads_a, grads_b)
  norm = jnp.sqrt(
    sum(jnp.sum(g**2) for g in jax.tree.leaves(grads_b["backbone"]))
  )
  assert norm > 1e-3, "a zero gradient would agree with anything"


def mixed_groups(**how):
  groups = forests.ragged_groups(**how)
  groups.append(forests.forked_group(record=len(groups), **how))
  return groups


# name: (loss, language coefficient, how slots are placed, pooling, head)
CASES = {
  "bradley_terry": ("bradley_terry", 0.0, {}, "last_token", "scalar"),
  "margin": ("bradley_terry_margin", 0.0, {}, "last_token", "scalar"),
  "all_pairs": ("all_pairs", 0.0, {}, "last_token", "scalar"),
  "plackett_luce": ("plackett_luce", 0.0, {}, "last_token", "scalar"),
  "token_orm_and_language": (
    "outcome_cross_entropy",
    0.3,
    {"pooling": "every_token", "language": True},
    "every_token",
    "scalar",
  ),
  "mean_logit_orm": (
    "outcome_cross_entropy",
    0.0,
    {"pooling": "mean"},
    "mean",
    "scalar",
  ),
  "steps": (
    "step_cross_entropy",
    0.0,
    {"pooling": "every_token"},
    "step_ends",
    "steps",
  ),
}


@pytest.mark.parametrize(
  "case, window",
  # 5: shorter than most prefixes.
  [(c, 0) for c in CASES]
  + [("plackett_luce", 5), ("token_orm_and_language", 5)],
)
def test_three_layouts_agree(case, window):
  name, language, how, pooling, head = CASES[case]
  groups = mixed_groups(**how)
  if head == "steps":
    groups = [
      g._replace(labels=tuple((s % 3 - 1).astype(np.float32) for s in g.slots))
      for g in groups
    ]
  go = functools.partial(
    run,
    groups,
    spec=spec_for(pooling, head, window),
    loss=LossSpec(name, language),
    head=head,
  )
  padded = go("padded", row_len=24)
  # Rows of 24 hold no whole tree of K > 3: shared trees are split over rows.
  assert_same(go("shared", row_len=24), padded)
  assert_same(go("packed", row_len=24), padded)
  if window == 0 and case in ("plackett_luce", "token_orm_and_language"):
    assert_same(go("shared", row_len=96), padded)  # no tree is split


@pytest.mark.parametrize(
  "pooling, language",
  [("every_token", 0.0), ("every_token", 1.0), ("mean", 0.0)],
)
def test_tokens_shared_by_completions_keep_every_label(pooling, language):
  # The first two completion tokens lie on the trunk and carry labels 1, 0, 1.
  prompt, head = [3, 4, 5], [7, 8]
  tails = [[9, 10], [11], [12, 13, 14]]
  tokens = [prompt + head + t for t in tails]
  how = dict(pooling=pooling, labels=[1.0, 0.0, 1.0], language=language > 0)
  g = forests.group(tokens, [3] * 3, **how)
  batch, _ = forests.batches([g], layout="shared", row_len=24, blocks=1)[0][0]
  on_trunk = np.asarray(batch.score_where) & (
    np.asarray(batch.score_positions) < 5
  )
  labels = np.asarray(batch.labels)[on_trunk]
  assert sorted(labels) == [0, 0, 1, 1, 1, 1]  # 2 tokens x 3 completions
  go = functools.partial(
    run,
    [g],
    spec=spec_for(pooling),
    loss=LossSpec("outcome_cross_entropy", language),
    blocks=1,
    row_len=24,
  )
  assert_same(go("shared"), go("padded"))
  assert_same(go("packed"), go("padded"))


def test_language_loss_equals_one_completion_at_a_time():
  # Independent of slots, parents and packing: plain rows, shifted by hand.
  g = mixed_groups(pooling="every_token", language=True)[2]
  spec, params = spec_for("every_token"), params_for()
  read = jax.jit(functools.partial(forward, spec, language=True))

  def lay(group, layout):
    # One shape for all: one compilation.
    wide = dict(rows=26, geometry=WIDE._replace(blocks=1))
    return forests.batches(
      [group], layout=layout, row_len=24, blocks=1, **wide
    )[0][0][0]

  total, count = 0.0, 0
  for tokens, slots in zip(g.tokens, g.slots, strict=True):
    alone = forests.group([tokens.tolist()], [1], pooling="every_token")
    out = read(params, lay(alone, "padded"))
    context = np.asarray(out.context[0, 0], np.float64)  # slot i: token i + 1
    table = np.asarray(out.unembedding, np.float64)
    for t in slots:
      logits = table @ context[t - 1]
      total += np.log(np.sum(np.exp(logits))) - logits[tokens[t]]
      count += 1
  batch = lay(g, "shared")
  loss = LossSpec("outcome_cross_entropy", 1.0)
  sums = loss_sums(loss, read(params, batch), batch, dtype="float32")
  got, weight = sums["next_token_cross_entropy"]
  assert weight == count
  np.testing.assert_allclose(got, total, rtol=1e-5)


def test_every_layout_is_a_different_cost():
  groups = mixed_groups()
  useful = {}
  for layout in LAYOUTS:
    batch, _ = forests.batches(groups, layout=layout, row_len=24, blocks=2)[0][
      0
    ]
    useful[layout] = int((batch.group_ids > 0).sum())
  assert useful["shared"] < useful["packed"] == useful["padded"]
