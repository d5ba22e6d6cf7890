"""What a run on the token world says as a language model: log-likelihoods."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from rm_jax.ablation.token_runs import groups_of, token_config, whole
from rm_jax.data.loader import Dataset
from rm_jax.data.worlds import utility
from rm_jax.data.worlds.utility import Texts
from rm_jax.models.likelihood import log_likelihood, token_values
from rm_jax.pooling import segment_sum
from rm_jax.reward_model import completion_scores, forward
from rm_jax.train.evaluate import score_dataset
from rm_jax.train.fit import spec_of
from rm_jax.train.sets import score_plan


def imitation_config(
  *, seed: int, steps: int, groups: int, rate: float
) -> ConfigDict:
  """`token_config` of a run on the next-token loss alone.

  Its main loss is one that reads labels, and `spoken_groups` have none.
  """
  c = token_config(
    seed=seed,
    steps=steps,
    groups=groups,
    loss="outcome_cross_entropy",
    rate=rate,
  )
  c.loss.language_coefficient = 1.0
  return c


def spoken_groups(config, texts: Texts, picks=None) -> Dataset:
  """The picks (None: all completions) with their tokens to be predicted.

  Args:
    config: of `imitation_config`.
    picks: of (group, completions): every one of them is spoken.
  """
  none = np.full(texts.gold.shape, np.nan)
  picks = whole(texts) if picks is None else picks
  return groups_of(config, texts, picks, labels=none)


def log_likelihoods(
  config, params: dict, data: Dataset
) -> Float[np.ndarray, "G K"]:
  """log p(completion and its end token | prompt), float64.

  Args:
    config: of the run that gave the parameters.
    data: of `spoken_groups`, as many completions in every group.
  """
  spec = spec_of(config, utility.VOCABULARY)

  def run(batch):
    scores, slots, whose = jax.device_get(_summed(spec, params, batch))
    return scores, slots, {}, whose

  plan = score_plan(config, data.demands)
  found = score_dataset(run, data, plan).completions
  return np.asarray(found, np.float64)


@functools.partial(jax.jit, static_argnums=0)
def _summed(spec, params, batch):
  """(log p [N, M] of completions, of each slot's token, whose slot it is)."""
  outputs = forward(spec, params, batch, language=True)

  def lines(x):
    return x.reshape(-1, *x.shape[2:])

  tokens = jnp.take_along_axis(
    lines(batch.tokens), lines(batch.score_positions), axis=1
  )
  slots = token_values(
    log_likelihood,
    lines(outputs.context),
    outputs.unembedding,
    tokens,
    dtype=spec.dtype,
    soft_cap=outputs.soft_cap,
  ).reshape(batch.score_positions.shape)
  sums = segment_sum(
    slots,
    batch.slot_completion,
    batch.score_where & (batch.language_weight > 0),
    num_segments=batch.completion_index.shape[-1],
  )
  whose = jnp.where(batch.score_where, batch.slot_completion, -1)
  return completion_scores(sums, batch), slots, whose
