"""Our heads as the classifiers of transformers: one linear map and its names.

A sequence classifier reads one token and has no bias, a token classifier reads
every token and has one. What is left over is said in a sentence.
"""

from typing import NamedTuple

import numpy as np

from rm_jax.heads import HeadSpec
from rm_jax.models.transformer import unembedding
from rm_jax.reward_model import ModelSpec
from rm_jax.types import UserError

ARCHITECTURES = ("auto", "sequence", "token", "causal")
STEP_LABELS = ("negative", "neutral", "positive")


class Classifier(NamedTuple):
  """A head in the form of transformers."""

  architecture: str  # sequence or token
  weight: np.ndarray  # [labels, D] float32
  bias: np.ndarray | None  # [labels] float32; None: the class has none
  labels: tuple  # names of the outputs
  head: HeadSpec  # what our loader makes of it
  left_over: tuple  # bias that the class cannot hold, or ()
  notes: tuple  # sentences: how its numbers become our scores


def classify(
  spec: ModelSpec, params: dict, attributes: tuple, *, architecture: str
) -> Classifier:
  """The head of a model as a classifier of transformers.

  Args:
    attributes: names of the outputs of an attribute head.
    architecture: auto, sequence or token. auto: sequence where a completion is
      read at its last token, else token.

  Raises:
    UserError: the head or its pooling has no place in that class.
  """
  head = spec.head
  weight, bias = _linear(spec, params)
  chosen = architecture
  if architecture == "auto":
    chosen = "sequence" if head.pooling == "last_token" else "token"
  if chosen == "sequence" and head.pooling in ("mean", "step_ends"):
    raise UserError(
      f"--architecture=sequence reads one token, this model has pooling "
      f"{head.pooling!r}, which reads many. Export with --architecture=token."
    )
  if head.kind == "attributes" and not attributes:
    attributes = tuple(f"LABEL_{n}" for n in range(head.outputs))
  labels = {
    "steps": STEP_LABELS,
    "attributes": tuple(attributes),
    "bins": tuple(f"bin_{n}" for n in range(head.outputs)),
  }.get(head.kind, ("LABEL_0",))
  notes = [_HOW[chosen][head.pooling], *_reading_of(head, attributes)]
  left_over = ()
  if chosen == "token":
    # transformers draws a bias at random where the file has none.
    bias = np.zeros(len(weight), np.float32) if bias is None else bias
  elif bias is not None:
    left_over = tuple(float(x) for x in bias)
    bias = None
    if any(left_over):
      notes.append(
        "The head has a bias, which this class of transformers has no place "
        f"for: add {_numbers(left_over)} to its logits (rm_jax does)."
      )
  if head.kind == "gain_bias":
    notes.append(
      f"The head was a gain and a bias on the logit of token {head.token}; "
      "gain and logit are one linear map here."
    )
    # Not the token's own row any more: nothing trains it as one.
    head = HeadSpec("biased_scalar", head.init, head.pooling)
  return Classifier(chosen, weight, bias, labels, head, left_over, tuple(notes))


_LAST = "One number for each text, read at its last token that is not padding."
_HOW = {
  "sequence": {"last_token": _LAST, "every_token": _LAST},
  "token": {
    "last_token": "Read it at the last token of the text only.",
    "every_token": (
      "It was trained at every token of the completion; the score of a "
      "completion is the one at its last token."
    ),
    "mean": (
      "The score of a completion is the mean over its own tokens, from the "
      "first one after the prompt to the last one of the text."
    ),
    "step_ends": (
      "Read it at the last token of each reasoning step; the score of a whole "
      "completion is that of its last step."
    ),
  },
}


def _reading_of(head: HeadSpec, attributes: tuple) -> list[str]:
  """What else lies between the logits and our score."""
  if head.kind == "steps":
    return [
      "The probability that a step is right is the softmax over the three "
      "labels, at `positive`."
    ]
  if head.kind == "bins":
    low, high, count = head.centers
    return [
      f"The score is the expected value of {count} bins with centers evenly "
      f"from {low:g} to {high:g}: softmax of the logits, times the centers, "
      "summed."
    ]
  if head.kind == "attributes" and not head.weights:
    return ["Nothing says which sum of the labels would be the score."]
  if head.kind == "attributes":
    terms = " + ".join(
      f"{weight:g} {name}"
      for weight, name in zip(head.weights, attributes, strict=True)
    )
    return [f"The score of a completion is {terms}."]
  return []


def _numbers(values) -> str:
  if len(values) == 1:
    return f"{values[0]:.9g}"
  return "[" + ", ".join(f"{x:.9g}" for x in values) + "]"


def _linear(spec: ModelSpec, params: dict):
  """(weight [labels, D], bias [labels] or None) of the head, float32."""
  kind, own = spec.head.kind, params["head"]

  def array(x):
    return np.asarray(x, np.float32)

  if kind == "scalar":
    return array(own["kernel"])[None], None
  if kind == "biased_scalar":
    return array(own["linear"]["kernel"])[None], array(own["bias"])
  if kind == "gain_bias":
    row = array(unembedding(params["backbone"], spec.decoder)[spec.head.token])
    return array(own["gain"])[0] * row[None], array(own["bias"])
  if kind in ("attributes", "bins"):
    return np.ascontiguousarray(array(own["kernel"]).T), array(own["bias"])
  if kind == "steps":
    return np.ascontiguousarray(array(own["kernel"]).T), None
  raise UserError(
    f"a head of kind {kind!r} is not one linear map, which is all that a "
    "classifier of transformers has; score with rm-jax."
  )


def pick_task(spec: ModelSpec, params: dict, task: str):
  """(spec, params) with the head of one task as the only head.

  Args:
    task: a name of config.tasks; "": the main one.
  """
  heads = dict(spec.tasks)
  if task and task not in heads:
    raise UserError(
      f"--task={task!r} has no head of its own in this run. Known: "
      f"{sorted(heads)}; without --task the main head is exported."
    )
  own = {k: v for k, v in params["head"].items() if k not in ("tasks", "loss")}
  head = spec.head
  if task:
    head, own = heads[task], params["head"]["tasks"][task]
  only = ModelSpec(**{**vars(spec), "head": head, "tasks": (), "learned": ()})
  return only, {"backbone": params["backbone"], "head": own}
