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

# Losses whose parameters no config key sets: what is missing, what to use.
UNSET = {
  "plackett_luce_top": ("the number `top`", "plackett_luce"),
  "two_hot": ("`centers` and a head with one logit for each", "squared_error"),
  "hl_gauss": (
    "`centers`, `sigma` and a head with one logit for each center",
    "squared_error",
  ),
}
STEP_HEAD = "steps"  # of rm_jax.heads: three logits a slot, where others give 1
STEP_LOSS = "step_cross_entropy"  # the one loss that reads three


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
    if self.name in UNSET:
      missing, instead = UNSET[self.name]
      raise UserError(
        f"config.loss.name={self.name!r} needs {missing}, which no config key "
        f"sets: call rm_jax.losses.{self.name} from your own code, or train "
        f"with {instead!r}."
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


def check_fit(loss: LossSpec, *, head: str, pooling: str) -> None:
  """Nothing, if the loss can read what this head and pooling give.

  Raises:
    UserError: one logit where the loss reads three or the other way round; a
      loss over reasoning steps without slots at their ends.
  """
  if (loss.name == STEP_LOSS) != (head == STEP_HEAD):
    wanted = STEP_HEAD if loss.name == STEP_LOSS else "scalar"
    raise UserError(
      f"config.loss.name={loss.name!r} does not fit config.model.head="
      f"{head!r} ({STEP_HEAD!r} gives three logits a slot, which only "
      f"{STEP_LOSS} reads). Set config.model.head={wanted!r}."
    )
  if KIND[loss.name] == "process" and pooling != "step_ends":
    raise UserError(
      f"config.loss.name={loss.name!r} reads reasoning steps, which "
      f"config.model.pooling={pooling!r} does not. Set "
      "config.model.pooling='step_ends'."
    )


def _pick(scores, index):
  """scores [N, R, S], index [N, ...] of row * S + slot -> [N, ...]."""
  flat = scores.reshape(scores.shape[0], -1)
  picked = jnp.take_along_axis(flat, index.reshape(index.shape[0], -1), axis=1)
  return picked.reshape(index.shape)


def _real(values, weight):
  """Values where there is weight, else 0: NaN times a zero gradient is NaN."""
  return jnp.where(weight == 0, 0.0, values)


def _pairwise(name, scores, batch):
  sides = (
    _pick(scores, batch.chosen_index),
    _pick(scores, batch.rejected_index),
  )
  if name == "bradley_terry_margin":
    sides = (*sides, _real(batch.margin, batch.comparison_weight))
  return LOSSES[name](*sides), batch.comparison_weight


def _listwise(name, scores, batch):
  listed = _pick(scores, batch.group_index)
  losses = LOSSES[name](listed, batch.ranks, batch.where)
  return losses, batch.group_weight


def _pointwise(name, scores, batch):
  labels = _real(batch.labels, batch.weight)
  return LOSSES[name](scores, labels), batch.weight


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
  """Sum of weighted next-token losses; logits of one chunk at a time."""
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

  A loss under weight 0 is dropped before the product, so that a label, margin
  or rank of an unused entry (NaN included) never enters. A weight that is NaN
  does: the train step is then skipped, not silently made smaller.
  """
  losses, weights = SUMS[KIND[loss.name]](loss.name, outputs.scores, batch)
  kept = _real(losses, weights) * weights
  totals = weight_sums(loss, batch)
  sums = {loss.name: (jnp.sum(kept), totals[loss.name])}
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
    # == 0, not > 0: a NaN weight must show in the loss.
    mean = sums[term][0] / jnp.where(weight == 0, 1.0, weight)
    total += coefficient * jnp.where(weight == 0, 0.0, mean)
  return total
