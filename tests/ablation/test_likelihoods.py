"""Imitation on the token world: what is learned, and what its scores are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rm_jax.ablation import token_runs as runs
from rm_jax.ablation.likelihoods import (
  imitation_config,
  log_likelihoods,
  spoken_groups,
)
from rm_jax.data.worlds import utility
from rm_jax.data.worlds.groups import tokens_of
from rm_jax.models.sight import Forest
from rm_jax.models.transformer import unembedding
from rm_jax.train.fit import spec_of

STEPS, GOOD = 20, 8


@pytest.fixture(scope="module")
def imitated():
  """(config, texts, parameters): one completion of every prompt is imitated.

  It is made of a quarter of the tokens, so that little training is seen.
  """
  rng = np.random.default_rng(100)
  world = utility.draw_world(rng)
  texts = utility.draw_texts(
    rng, world, prompts=STEPS * GOOD, completions=2, one_length=True
  )
  real = utility.is_content(texts.completions[:, 0])
  few = utility.CONTENT[0] + texts.completions[:, 0] % 14
  tokens = texts.completions.copy()
  tokens[:, 0] = np.where(real, few, tokens[:, 0])
  texts = texts._replace(completions=tokens)
  c = imitation_config(seed=100, steps=STEPS, groups=GOOD, rate=1e-2)
  train = spoken_groups(c, texts, [(g, (0,)) for g in range(STEPS * GOOD)])
  fitted = runs.run(c, train, None)
  return c, texts, fitted


def test_a_log_likelihood_is_the_sum_over_the_completion(imitated):
  # The slow path: one completion at a time, all logits. Wrong: prompt tokens
  # in the sum, no end token, a token predicted from its own column.
  c, texts, fitted = imitated
  few = utility.Texts(*(x[:3] for x in texts))
  got = log_likelihoods(c, fitted.params, spoken_groups(c, few))
  spec, backbone = spec_of(c, utility.VOCABULARY), fitted.params["backbone"]
  table = unembedding(backbone, spec.decoder)
  for g in range(3):
    for k in range(2):
      row = tokens_of(few, g, k)[None]
      zeros = np.zeros_like(row)
      forest = Forest(zeros + 1, zeros, np.arange(row.size)[None], zeros)
      hidden = spec.decoder_module.apply(
        {"params": backbone},
        jnp.asarray(row),
        jax.tree.map(jnp.asarray, forest),
      )
      logits = np.asarray(hidden[0] @ table.T, np.float64)
      log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
      want = sum(
        log_p[t - 1, row[0, t]] for t in range(utility.PROMPT, row.size)
      )
      assert got[g, k] == pytest.approx(want, abs=1e-3)


def test_the_loss_is_that_of_the_next_token_alone(imitated):
  # Wrong: a loss of the head beside it, which has no label here.
  _, _, fitted = imitated
  assert fitted.losses[-1] < fitted.losses[0] - 0.5
  head = jax.tree.leaves(fitted.params["head"])
  assert all((np.asarray(x) == 0).all() for x in head)


def test_what_was_imitated_is_more_likely(imitated):
  c, texts, fitted = imitated
  held = utility.Texts(*(x[:32] for x in texts))
  found = log_likelihoods(c, fitted.params, spoken_groups(c, held))
  assert np.mean(found[:, 0] > found[:, 1]) > 0.9
