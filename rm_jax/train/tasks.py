"""A config's tasks: what each reads, learns and is read from.

The main task is config.data.source, config.model and config.loss; config.tasks
adds others, each with data, a loss and mostly a head of its own, on the same
backbone.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np

from rm_jax.data.loader import Reading, Supervision
from rm_jax.heads import HEADS, HeadSpec
from rm_jax.losses import (
  ARGUMENTS,
  KIND,
  LEARNED,
  LOSSES,
  NEEDS,
  PARAMETERS,
)
from rm_jax.objectives import BINS, HEAD_OF, LossSpec, check_fit
from rm_jax.pooling import POOLINGS
from rm_jax.types import UserError

# Keys of config.loss that are set where a loss reads them and only there.
OPTIONAL = (
  "top",
  "smoothing",
  "noise",
  "temperature",
  "gap",
  "gamma",
  "low",
  "high",
  "bins",
  "sigma",
)
REGULARIZERS = ("centering", "score_square", "group_variance", "hidden_square")
CENTERS = ("low", "high", "bins")


class Task(NamedTuple):
  """One task of a run; a run without config.tasks has one."""

  name: str  # "": the main one
  sources: tuple  # of (place, weight); weight None: every record the same
  eval_source: str
  kind: str
  weight: float  # how often its groups are drawn
  reading: Reading
  supervision: Supervision
  loss: LossSpec
  head: HeadSpec | None  # None: it reads the main one


def read_tasks(config) -> list[Task]:
  """Every task of a config, the main one first.

  Raises:
    UserError: an unknown loss or head, one that does not fit the other, a
      parameter that is missing or that nothing reads.
  """
  d = config.data
  places = d.source.split(",")
  weights = tuple(d.weights) or (None,) * len(places)
  first = _task(
    config,
    "",
    0,
    config.model,
    config.loss,
    sources=tuple(zip(places, weights, strict=True)),
    eval_source=d.eval_source,
    kind=d.kind,
    weight=1.0,
  )
  tasks = [first]
  for name, own in config.tasks.items():
    if not name.isidentifier() or name == "main":
      raise UserError(
        f"config.tasks.{name}: expected a name of letters and digits that is "
        "not 'main', which is the run's own task. Rename it."
      )
    model = config.model if own.share_head else own.model
    task = _task(
      config,
      name,
      len(tasks),
      model,
      own.loss,
      sources=((own.source, None),),
      eval_source=own.eval_source,
      kind=own.kind,
      weight=own.weight,
    )
    head = "" if own.share_head else name
    loss = task.loss
    tasks.append(
      task._replace(
        loss=LossSpec(
          **vars(loss) | dict(head=head, coefficient=own.coefficient)
        ),
        head=None if own.share_head else task.head,
      )
    )
  return tasks


def objective(tasks: list[Task]) -> LossSpec:
  """The loss of the whole run: the main task's, with the others in `more`."""
  first, *others = (task.loss for task in tasks)
  return LossSpec(**vars(first) | dict(more=tuple(others)))


def learned(tasks: list[Task]) -> tuple:
  """((task, name, initial value), ...) of what the losses learn."""
  return tuple(
    (task.name, name, initial)
    for task in tasks
    for name, initial in LEARNED.get(task.loss.name, {}).items()
  )


def _task(config, name, index, model, loss, **where) -> Task:
  key = f"config.tasks.{name}" if name else "config"
  spec = _loss(key, name, loss)
  check_fit(spec, head=model.head, pooling=model.pooling)
  d = config.data
  reading = Reading(
    template=d.template,
    read_at=d.read_at,
    row_len=d.row_len,
    overlong=d.overlong,
    layout=d.layout,
    align=d.align,
    pooling=model.pooling,
  )
  supervision = Supervision(
    loss=spec.name,
    kind=KIND[spec.name],
    per=loss.per,
    margin=loss.margin,
    ties=NEEDS[spec.name] in ("ties", "preference"),
    attributes=tuple(model.attributes),
    language=spec.language,
    task=index,
  )
  head = _head(key, model, spec)
  reads = dict(reading=reading, supervision=supervision)
  return Task(name, **where, **reads, loss=spec, head=head)


def _loss(key, name, c) -> LossSpec:
  """The terms of one task, every parameter checked."""
  # Checks the name before the tables are asked for it.
  LossSpec(c.name, c.language_coefficient)
  reads = PARAMETERS[c.name]
  for parameter in OPTIONAL:
    value = c[parameter]
    if parameter in reads and value is None:
      raise UserError(
        f"{key}.loss.{parameter} is not set, but loss {c.name!r} reads it: "
        f"set it, such as --{key}.loss.{parameter}=1."
      )
    if parameter not in reads and value is not None:
      readers = [n for n, p in PARAMETERS.items() if parameter in p]
      raise UserError(
        f"{key}.loss.{parameter}={value} is not read by loss {c.name!r}, only "
        f"by {', '.join(readers)}. Leave it out."
      )
  if c.margin != "none" and "margin" not in ARGUMENTS[c.name]:
    readers = [n for n, a in ARGUMENTS.items() if "margin" in a]
    raise UserError(
      f"{key}.loss.margin={c.margin!r} is not read by loss {c.name!r}, only by "
      f"{', '.join(readers)}. Leave it 'none'."
    )
  if (c.discount is None) != (c.trace is None):
    raise UserError(
      f"{key}.loss.discount={c.discount} and {key}.loss.trace={c.trace}: set "
      "both (trace=1 for Monte Carlo) or neither."
    )
  for parameter in ("discount", "trace"):
    if c[parameter] is not None and not 0 <= c[parameter] <= 1:
      raise UserError(
        f"{key}.loss.{parameter}={c[parameter]} must be in [0, 1]."
      )
  for regularizer in REGULARIZERS:
    if not c[regularizer] >= 0:
      raise UserError(
        f"{key}.loss.{regularizer}={c[regularizer]} must be 0 or more."
      )
  centers = tuple(c[p] for p in CENTERS) if c.name in BINS else ()
  if centers and not (centers[0] < centers[1] and centers[2] > 1):
    raise UserError(
      f"{key}.loss: low={c.low}, high={c.high}, bins={c.bins} give no centers: "
      "expected low < high and 2 bins or more."
    )
  spec = LossSpec(
    c.name,
    c.language_coefficient,
    task=name,
    parameters=tuple((p, c[p]) for p in reads if p not in CENTERS),
    centers=centers,
    discount=c.discount,
    trace=c.trace,
    regularizers=tuple((r, c[r]) for r in REGULARIZERS if c[r]),
  )
  _check_parameters(spec)
  return spec


def _check_parameters(spec: LossSpec) -> None:
  """Traces the loss once, so that a parameter out of range shows at once."""
  learnt = LEARNED.get(spec.name, {})
  two = np.zeros(2, np.float32)
  where = np.ones(2, bool)
  further = {
    "margin": (two,),
    "preference": (two,),
    "tied": (where,),
    "ranks": (np.arange(2), where),
    "labels": (two, where) if KIND[spec.name] == "listwise" else (two,),
  }
  arrays = [two, two] if KIND[spec.name] == "pairwise" else [two]
  if spec.centers:
    arrays = [np.zeros((2, spec.centers[2]), np.float32)]
  elif spec.name in HEAD_OF:
    arrays = [np.zeros((2, 3), np.float32)]
  arrays += further.get((ARGUMENTS[spec.name] or ("",))[0], ())
  if spec.centers:
    arrays.append(np.linspace(*spec.centers))
  # Traced, not run: each operation of its own would be compiled.
  loss = functools.partial(LOSSES[spec.name], *arrays)
  jax.eval_shape(lambda: loss(**dict(spec.parameters), **learnt))


def _head(key, c, loss: LossSpec) -> HeadSpec:
  """The head of one task; the token of a gain_bias head is found later."""
  attributes, weights = tuple(c.attributes), tuple(c.attribute_weights)
  if bool(attributes) != (c.head == "attributes"):
    raise UserError(
      f"{key}.model.attributes={attributes} and {key}.model.head={c.head!r}: "
      "the attributes are the names of the outputs of head 'attributes'. Set "
      "both or neither."
    )
  if weights and len(weights) != len(attributes):
    raise UserError(
      f"{key}.model.attribute_weights={weights} must be one number for each of "
      f"the {len(attributes)} attributes, or ()."
    )
  if bool(c.verdict) != (c.head == "gain_bias"):
    raise UserError(
      f"{key}.model.verdict={c.verdict!r} and {key}.model.head={c.head!r}: the "
      "verdict is the token whose logit head 'gain_bias' reads. Set both or "
      "neither."
    )
  if c.head not in HEADS:
    raise UserError(
      f"{key}.model.head={c.head!r} is not known. Known: {sorted(HEADS)}."
    )
  if c.pooling not in POOLINGS:
    raise UserError(
      f"{key}.model.pooling={c.pooling!r} is not known. Known: "
      f"{sorted(POOLINGS)}."
    )
  outputs = len(attributes) if attributes else 1
  if loss.centers:
    outputs = loss.centers[2]
  return HeadSpec(
    kind=c.head,
    init=c.head_init,
    pooling=c.pooling,
    outputs=outputs,
    weights=weights or (1 / max(len(attributes), 1),) * len(attributes),
    centers=loss.centers,
  )
