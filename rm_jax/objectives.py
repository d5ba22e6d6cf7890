"""Where a loss meets a batch: outputs to weighted sums, one place per kind.

A term is (sum of weighted losses, sum of weights). Weights are data: they are
known before the forward pass and summed over micro-batches, devices and hosts
before the one division (`mean_loss`).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rm_jax.losses import ARGUMENTS, KIND, LOSSES, NEEDS, expected_value
from rm_jax.losses.values import segmented_targets
from rm_jax.models.likelihood import token_values
from rm_jax.reward_model import Outputs
from rm_jax.types import Batch, LossSums, UserError

LANGUAGE = "next_token_cross_entropy"

BINS = ("two_hot", "hl_gauss")  # one logit for each center
STEP_LOSS = "step_cross_entropy"
# The head that gives as many logits a slot as the loss reads; others give one.
HEAD_OF = {STEP_LOSS: "steps"} | dict.fromkeys(BINS, "bins")


@dataclasses.dataclass(frozen=True)
class LossSpec:
  """The terms of one task: a loss by name and what is added to it.

  A run with several tasks has the further ones in `more`; each is a mean over
  its own groups, times its coefficient.
  """

  name: str
  language: float  # coefficient of the next-token loss; 0: no such term
  task: str = ""  # before the names of its terms; "": the main one
  head: str = ""  # of ModelSpec.tasks; "": the main one
  coefficient: float = 1.0
  parameters: tuple = ()  # of (keyword of the loss function, number)
  centers: tuple = ()  # (low, high, how many) of a categorical loss
  discount: float | None = None  # of a value at every token; None: the label
  trace: float | None = None  # lambda of TD(lambda); 1: Monte Carlo
  regularizers: tuple = ()  # of (name, coefficient)
  more: tuple = ()  # of LossSpec

  def __post_init__(self):
    if self.name not in LOSSES:
      known = sorted(name for name in LOSSES if KIND[name] in SUMS)
      raise UserError(
        f"config.loss.name={self.name!r} is not known. Known: {known}."
      )
    if KIND[self.name] not in SUMS:
      raise UserError(
        f"config.loss.name={self.name!r} is of kind {KIND[self.name]!r}, which "
        "is added to another loss by its coefficient in config.loss; train "
        f"takes the kinds {sorted(SUMS)}."
      )
    if not self.language >= 0:
      raise UserError(
        f"config.loss.language_coefficient={self.language} must be 0 or more"
      )

  @property
  def every(self) -> tuple:
    """All tasks of the run; a group's `task` is the position here."""
    return (self, *self.more)

  @property
  def coefficients(self) -> dict[str, float]:
    """{term: coefficient} of the mean loss."""
    terms = {}
    for one in self.every:
      own = {one.name: 1.0} | dict(one.regularizers)
      if one.language:
        own[LANGUAGE] = one.language
      terms |= {one.term(k): one.coefficient * x for k, x in own.items()}
    return terms

  @property
  def reads_language(self) -> bool:
    return any(one.language > 0 for one in self.every)

  @property
  def reads_hidden(self) -> bool:
    return any("hidden_square" in dict(one.regularizers) for one in self.every)

  def term(self, name: str) -> str:
    """The name of one of its terms in sums and metrics."""
    return f"{self.task}/{name}" if self.task else name


def check_fit(loss: LossSpec, *, head: str, pooling: str) -> None:
  """Nothing, if the loss can read what this head and pooling give.

  Raises:
    UserError: one logit where the loss reads several or the other way round; a
      loss over reasoning steps without slots at their ends; a discount without
      a value at every token.
  """
  wanted = HEAD_OF.get(loss.name)
  if wanted is None and head in HEAD_OF.values():
    wanted = "scalar"
  if wanted is not None and head != wanted:
    raise UserError(
      f"config.loss.name={loss.name!r} does not fit config.model.head="
      f"{head!r}: the heads of several logits a slot are for "
      f"{', '.join(sorted(HEAD_OF))}. Set config.model.head={wanted!r}."
    )
  if head == "attributes" and loss.name != "squared_error":
    raise UserError(
      f"config.loss.name={loss.name!r} reads one number per completion, "
      "config.model.head='attributes' predicts several ratings. Set "
      "config.loss.name='squared_error' or config.model.head='scalar'."
    )
  several = head == "attributes" or head in HEAD_OF.values()
  of_score = [r for r, _ in loss.regularizers if r != "hidden_square"]
  if several and of_score:
    raise UserError(
      f"config.loss.{of_score[0]} is of one score per completion, "
      f"config.model.head={head!r} gives several numbers. Set it to 0."
    )
  if KIND[loss.name] == "process" and pooling != "step_ends":
    raise UserError(
      f"config.loss.name={loss.name!r} reads reasoning steps, which "
      f"config.model.pooling={pooling!r} does not. Set "
      "config.model.pooling='step_ends'."
    )
  if loss.discount is not None and (
    pooling != "every_token" or KIND[loss.name] != "pointwise"
  ):
    raise UserError(
      f"config.loss.discount={loss.discount} is of a value at every token, but "
      f"config.model.pooling={pooling!r} and config.loss.name={loss.name!r}. "
      "Set pooling='every_token' and a pointwise loss, or leave it out."
    )


def _pick(scores, index):
  """scores [N, R, S], index [N, ...] of row * S + slot -> [N, ...]."""
  flat = scores.reshape(scores.shape[0], -1)
  picked = jnp.take_along_axis(flat, index.reshape(index.shape[0], -1), axis=1)
  return picked.reshape(index.shape)


def _real(values, weight):
  """Values where there is weight, else 0: NaN times a zero gradient is NaN."""
  return jnp.where(weight == 0, 0.0, values)


def slot_tasks(batch: Batch) -> Array:
  """The task of each slot, int32 [N, R, S]: that of its completion."""
  blocks = batch.slot_completion.shape[0]
  flat = batch.slot_completion.reshape(blocks, -1)
  tasks = jnp.take_along_axis(batch.completion_task, flat, axis=1)
  return tasks.reshape(batch.slot_completion.shape)


def _only(batch: Batch, task: int) -> Batch:
  """The batch in which whatever is of another task has weight 0."""
  slots = slot_tasks(batch)

  def mine(tasks, weight):
    return jnp.where(tasks == task, weight, 0.0)

  return batch._replace(
    weight=mine(slots, batch.weight),
    language_weight=mine(slots, batch.language_weight),
    comparison_weight=mine(
      _pick(slots, batch.chosen_index), batch.comparison_weight
    ),
    group_weight=mine(
      _pick(slots, batch.group_index[..., 0]), batch.group_weight
    ),
    completion_where=batch.completion_where & (batch.completion_task == task),
  )


def _call(loss, outputs, *arrays):
  learned = outputs.learned.get(loss.task, {})
  return LOSSES[loss.name](*arrays, **dict(loss.parameters), **learned)


def _pairwise(loss, outputs, scores, batch):
  weight = batch.comparison_weight
  further = {
    "margin": _real(batch.margin, weight),
    "preference": jnp.where(weight == 0, 1.0, batch.preference),
    "tied": batch.preference == 0.5,
  }
  sides = (
    _pick(scores, batch.chosen_index),
    _pick(scores, batch.rejected_index),
  )
  more = [further[name] for name in ARGUMENTS[loss.name]]
  return _call(loss, outputs, *sides, *more), weight


def _listwise(loss, outputs, scores, batch):
  listed = _pick(scores, batch.group_index)
  told = batch.ranks
  if NEEDS[loss.name] != "ranks":
    told = _real(
      _pick(batch.labels, batch.group_index), batch.group_weight[..., None]
    )
  return _call(loss, outputs, listed, told, batch.where), batch.group_weight


def _pointwise(loss, outputs, scores, batch):
  labels = _real(batch.labels, batch.weight)
  further = ()
  if loss.centers:
    further = (jnp.linspace(*loss.centers),)
  elif scores.ndim > labels.ndim and loss.name not in HEAD_OF:
    # A head of several outputs, one of which counts in each slot.
    index = batch.score_output[..., None]
    scores = jnp.take_along_axis(scores, index, axis=-1)[..., 0]
  if loss.discount is not None:
    labels = _targets(loss, scores, labels, batch)
  return _call(loss, outputs, scores, labels, *further), batch.weight


def _targets(loss, scores, labels, batch):
  """Value targets [N, R, S]: the label is the reward after the last token."""
  values = scores
  if loss.centers:
    values = expected_value(scores, jnp.linspace(*loss.centers))
  elif loss.name == "outcome_cross_entropy":
    values = jax.nn.sigmoid(scores)
  blocks = labels.shape[0]
  flat = labels.reshape(blocks, -1)
  ends = jnp.zeros(flat.shape, bool)
  rows = jnp.arange(blocks)[:, None]
  ends = ends.at[rows, batch.completion_index].max(batch.completion_where)
  rewards = jnp.where(ends, flat, 0.0).reshape(labels.shape)
  # Unused slots are nobody's: -1, not completion 0.
  segments = jnp.where(batch.score_where, batch.slot_completion, -1)
  return segmented_targets(
    rewards, values, segments, discount=loss.discount, trace=loss.trace
  )


SUMS = {
  "pairwise": _pairwise,
  "listwise": _listwise,
  "pointwise": _pointwise,
  "process": _pointwise,
}


def _regularizer(name, outputs, scores, batch):
  """(losses, weights) of one regularizer; a completion weighs 1."""
  if name == "centering":
    weight = batch.comparison_weight
    sides = (batch.chosen_index, batch.rejected_index)
    return LOSSES[name](*(_pick(scores, side) for side in sides)), weight
  if name == "group_variance":
    listed = _pick(scores, batch.group_index)
    return LOSSES[name](listed, batch.where), batch.group_weight
  weight = batch.completion_where.astype(jnp.float32)
  if name == "score_square":
    return LOSSES[name](_pick(scores, batch.completion_index)), weight
  blocks = outputs.pooled.shape[0]
  pooled = outputs.pooled.reshape(blocks, -1, outputs.pooled.shape[-1])
  index = batch.completion_index[..., None]
  hidden = jnp.take_along_axis(pooled, index, axis=1)
  return LOSSES[name](hidden), weight


def _weights(loss: LossSpec, batch: Batch) -> dict:
  """{term: weights} of one task, before they are summed."""
  kinds = {
    "pairwise": batch.comparison_weight,
    "listwise": batch.group_weight,
    "pointwise": batch.weight,
    "process": batch.weight,
  }
  of_regularizer = {
    "centering": batch.comparison_weight,
    "group_variance": batch.group_weight,
  }
  weights = {loss.name: kinds[KIND[loss.name]]}
  for name, _ in loss.regularizers:
    weights[name] = of_regularizer.get(name, batch.completion_where * 1.0)
  if loss.language:
    weights[LANGUAGE] = batch.language_weight
  return weights


def weight_sums(loss: LossSpec, batch: Batch) -> dict[str, Float[Array, ""]]:
  """{term: sum of weights}: from the batch alone, no parameter in it."""
  sums = {}
  for task, one in enumerate(loss.every):
    mine = _only(batch, task) if loss.more else batch
    for name, weights in _weights(one, mine).items():
      sums[one.term(name)] = jnp.sum(weights)
  return sums


def _language_sum(outputs: Outputs, batch: Batch, dtype):
  """Sum of weighted next-token losses."""
  tokens, columns, context, weight = (
    x.reshape(-1, *x.shape[2:])
    for x in (
      batch.tokens,
      batch.score_positions,
      outputs.context,
      batch.language_weight,
    )
  )
  losses = token_values(
    LOSSES[LANGUAGE],
    context,
    outputs.unembedding,
    jnp.take_along_axis(tokens, columns, axis=1),
    dtype=dtype,
    soft_cap=outputs.soft_cap,
  )
  return jnp.sum(losses * weight)


def loss_sums(
  loss: LossSpec, outputs: Outputs, batch: Batch, *, dtype: str
) -> LossSums:
  """{term: (sum of weight * loss, sum of weight)} over a batch.

  `dtype` is that of the product with the unembedding; sums are float32.

  A loss under weight 0 is dropped before the product, so that a label, margin
  or rank of an unused entry (NaN included) never enters. A weight that is NaN
  does: the train step is then skipped, not silently made smaller.
  """
  totals = weight_sums(loss, batch)
  sums = {}
  for task, one in enumerate(loss.every):
    mine = _only(batch, task) if loss.more else batch
    scores = outputs.tasks[one.head] if one.head else outputs.scores
    terms = {one.name: SUMS[KIND[one.name]](one, outputs, scores, mine)}
    for name, _ in one.regularizers:
      terms[name] = _regularizer(name, outputs, scores, mine)
    for name, (losses, weights) in terms.items():
      sums[one.term(name)] = jnp.sum(_real(losses, weights) * weights)
    if one.language:
      sums[one.term(LANGUAGE)] = _language_sum(outputs, mine, dtype)
  return {term: (total, totals[term]) for term, total in sums.items()}


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
