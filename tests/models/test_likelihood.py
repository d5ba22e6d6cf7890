"""Values of tokens from their logits, against all logits at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rm_jax.losses import next_token_cross_entropy
from rm_jax.models import likelihood
from rm_jax.models.likelihood import log_likelihood, token_values
from rm_jax.models.sharding import make_mesh

ROWS, SLOTS, WIDTH, VOCAB = 8, 70, 4, 12  # a device has 70, 140 or 35 tokens


def numbers():
  rng = np.random.default_rng(0)
  context = rng.normal(size=(ROWS, SLOTS, WIDTH)).astype(np.float32)
  table = rng.normal(size=(VOCAB, WIDTH)).astype(np.float32)
  tokens = rng.integers(0, VOCAB, (ROWS, SLOTS))
  return context, table, tokens, rng.normal(size=(ROWS, SLOTS))


def whole(context, table, tokens, weight, cap):
  """Float64, every logit: sum of weight * log p, its gradients by hand."""
  context, table = context.astype(np.float64), table.astype(np.float64)
  raw = context @ table.T
  logits = cap * np.tanh(raw / cap) if cap else raw
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  one = np.eye(VOCAB)[tokens]
  log_p = np.log((p * one).sum(-1))
  slope = 1 - np.tanh(raw / cap) ** 2 if cap else 1.0
  of_logits = weight[..., None] * (one - p) * slope
  return (
    log_p,
    of_logits @ table,
    np.einsum("bsv,bsd->vd", of_logits, context),
  )


@pytest.mark.parametrize("cap", [0.0, 3.0])
@pytest.mark.parametrize("mesh", [None, (8, 1), (2, 2), (4, 2)])
def test_equals_all_logits_at_once(mesh, cap, monkeypatch):
  # Catches a gradient of the table that only one device's tokens are in, or
  # that is counted once for every device; padding of the last chunk in it.
  monkeypatch.setattr(likelihood, "CHUNK", 64)
  context, table, tokens, weight = numbers()
  want = whole(context, table, tokens, weight, cap)
  run = functools.partial(
    token_values, log_likelihood, dtype="float32", soft_cap=cap
  )

  def loss(context, table):
    found = run(context, table, tokens)
    return jnp.sum(found * weight), found

  step = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
  if mesh is None:
    gradients, found = step(context, table)
  else:
    over, tensor = mesh
    count = over * tensor
    devices = jax.devices()[:count]
    of = make_mesh(data=1, fsdp=over, tensor=tensor, devices=devices)
    with jax.set_mesh(of):
      gradients, found = step(context, table)
  for got, expected in zip((found, *gradients), want, strict=True):
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_the_loss_is_less_the_log_likelihood():
  logits = np.float32([[0.5, -1.0, 2.0], [3.0, 1.0, -2.0]])
  tokens = np.array([2, 1])
  np.testing.assert_allclose(
    log_likelihood(jnp.asarray(logits), jnp.asarray(tokens)),
    -next_token_cross_entropy(logits, tokens),
    rtol=1e-6,
  )


def test_a_rounded_table_sums_its_gradient_unrounded(monkeypatch):
  # 512 chunks of one token that add the same: summed in bfloat16, whose steps
  # are 1/128 of a value, the sum would stop growing at 256 of them.
  monkeypatch.setattr(likelihood, "CHUNK", 1)
  context = jnp.ones((1, 512, 1))
  table = jnp.zeros((2, 1), jnp.bfloat16)
  tokens = jnp.zeros((1, 512), jnp.int32)

  def loss(table):
    return token_values(
      log_likelihood, context, table, tokens, dtype="bfloat16", soft_cap=0.0
    ).sum()

  gradient = jax.grad(loss)(table)
  assert gradient.dtype == jnp.bfloat16
  np.testing.assert_array_equal(
    gradient.astype(jnp.float32), [[256.0], [-256.0]]
  )
