"""Where a loss meets a batch: outputs to weighted sums, one place per kind.

A term is (sum of weighted losses, sum of weights). Weights are data: they are
known before the forward pass and summed over micro-batches, devices and hosts
before the one division (`mean_loss`).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rm_jax.losses import KIND, LOSSES
from rm_jax.models.dots import dot
from rm_jax.reward_model import Outputs
from rm_jax.types import Batch, LossSums, UserError

LANGUAGE = "next_token_cross_entropy"
LANGUAGE_CHUNK = 256  # slots whose [V] logits exist at one time


@dataclasses.dataclass(frozen=True)
class LossSpec:
  """The terms of a run: one loss by name and a joint language-model term."""

  name: str
  language: float  # coefficient of the next-token loss; 0: no such term

  def __post_init__(self):
    if self.name not in LOSSES:
      raise UserError(
        f"config.loss.name={self.name!r} is not known. Known: {sorted(LOSSES)}."
      )
    if KIND[self.name] not in SUMS:
      raise UserError(
        f"config.loss.name={self.name!r} is of kind {KIND[self.name]!r}, which "
        f"needs its own head; train takes the kinds {sorted(SUMS)}."
      )
    if not self.language >= 0:
      raise UserError(
        f"config.loss.language_coefficient={self.language} must be 0 or more"
      )

  @property
  def coefficients(self) -> dict[str, float]:
    """{term: coefficient} of the mean loss."""
    terms = {self.name: 1.0}
    if self.language:
      terms[LANGUAGE] = self.language
    return terms


def _pick(scores, index):
  """scores [N, R, S], index [N, ...] of row * S + slot -> [N, ...]."""
  flat = scores.reshape(scores.shape[0], -1)
  picked = jnp.take_along_axis(
    flat, index.reshape(index.shape[0], -1), axis=1
  )
  return picked.reshape(index.shape)


def _pairwise(name, scores, batch):
  sides = (
    _pick(scores, batch.chosen_index),
    _pick(scores, batch.rejected_index),
  )
  if name == "bradley_terry_margin":
    sides = (*sides, batch.margin)
  return LOSSES[name](*sides), batch.comparison_weight


def _listwise(name, scores, batch):
  listed = _pick(scores, batch.group_index)
  losses = LOSSES[name](listed, batch.ranks, batch.where)
  return losses, batch.group_weight


def _pointwise(name, scores, batch):
  return LOSSES[name](scores, batch.labels), batch.weight


SUMS = {
  "pairwise": _pairwise,
  "listwise": _listwise,
  "pointwise": _pointwise,
  "process": _pointwise,
}


def weight_sums(loss: LossSpec, batch: Batch) -> dict[str, Float[Array, ""]]:
  """{term: sum of weights}: from the batch alone, no parameter in it."""
  weights = {
    "pairwise": batch.comparison_weight,
    "listwise": batch.group_weight,
    "pointwise": batch.weight,
    "process": batch.weight,
  }
  sums = {loss.name: jnp.sum(weights[KIND[loss.name]])}
  if loss.language:
    sums[LANGUAGE] = jnp.sum(batch.language_weight)
  return sums


def _language_sum(outputs: Outputs, batch: Batch, dtype):
  """Sum of weighted next-token losses, [V] logits a chunk of slots at a time."""
  blocks, rows, slots, width = outputs.context.shape
  total = blocks * rows * slots
  lines = blocks * rows
  tokens = jnp.take_along_axis(
    batch.tokens.reshape(lines, -1),
    batch.score_positions.reshape(lines, -1),
    axis=1,
  )
  # Whole chunks: the last one is filled up with weight 0.
  chunk = min(LANGUAGE_CHUNK, total)
  spare = -total % chunk

  def cut(x, shape=()):
    flat = x.reshape(total, *shape)
    padding = [(0, spare)] + [(0, 0)] * len(shape)
    return jnp.pad(flat, padding).reshape(-1, chunk, *shape)

  @jax.checkpoint
  def one_chunk(total_loss, part):
    context, token, weight = part
    logits = dot("sd,vd->sv", context, outputs.unembedding, dtype=dtype)
    losses = LOSSES[LANGUAGE](logits, token)
    return total_loss + jnp.sum(losses * weight), None

  parts = (
    cut(outputs.context, (width,)),
    cut(tokens),
    cut(batch.language_weight),
  )
  return jax.lax.scan(one_chunk, jnp.float32(0.0), parts)[0]


def loss_sums(
  loss: LossSpec, outputs: Outputs, batch: Batch, *, dtype: str
) -> LossSums:
  """{term: (sum of weight * loss, sum of weight)} over a batch.

  `dtype` is that of the product with the unembedding; sums are float32.

  A loss under weight 0 is dropped before the product, so that what stands in
  unused entries (NaN included) never enters.
  """
  losses, weights = SUMS[KIND[loss.name]](loss.name, outputs.scores, batch)
  kept = jnp.where(weights > 0, losses, 0.0)
  totals = weight_sums(loss, batch)
  sums = {loss.name: (jnp.sum(kept * weights), totals[loss.name])}
  if loss.language:
    sums[LANGUAGE] = (_language_sum(outputs, batch, dtype), totals[LANGUAGE])
  return sums


def mean_loss(
  loss: LossSpec, sums: LossSums, weights: dict[str, Array]
) -> Float[Array, ""]:
  """sum over terms of coefficient * sum / W: the one division; 0 if W is 0."""
  total = jnp.float32(0.0)
  for term, coefficient in loss.coefficients.items():
    weight = weights[term]
    mean = sums[term][0] / jnp.where(weight > 0, weight, 1.0)
    total += coefficient * jnp.where(weight > 0, mean, 0.0)
  return total
