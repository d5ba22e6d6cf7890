"""Heads of published reward models: which one a checkpoint holds.

HEADS_IN_THE_WILD is the whole rule. A row names the classes of config.json it
is for and the tensors it is made of; exactly one row must fit both, and every
tensor with a head's name belongs to it, or the checkpoint is refused. A plain
head is never what is left over: ArmoRM without its gate scored -2.23 where the
model says 0.19.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rm_jax.models.head_readers import (
  PublishedHead,
  read_classifier,
  read_gated,
  read_reward_token,
  read_step_classifier,
  read_two_layer,
  read_value_head,
  write_classifier,
  write_gated,
  write_step_classifier,
  write_two_layer,
  write_value_head,
)
from rm_jax.types import UserError

# What is a head's, by the first part of its name; the rest is the backbone's.
OF_A_HEAD = re.compile(
  r"(score|classifier|v_head|value_head|regression_layer|gating|"
  r"reward_transform_matrix|mean|std)(\.|$)"
)

# Classes of transformers: a checkpoint with code of its own for one of them
# may do anything with a plain score.weight. (Classes that transformers does not
# have are in the table because their code was read.)
PLAIN = r"\w+For(Sequence|Token)Classification"

TWO_LAYERS = (
  r"score\.0\.weight",
  r"score\.0\.bias",
  r"score\.2\.weight",
  r"score\.2\.bias",
)


class Row(NamedTuple):
  """One kind of head: how it is recognised, read and written."""

  classes: str  # regular expression of a class in config.json's architectures
  tensors: tuple  # regular expressions: each fits one tensor or more
  read: Callable  # (row name, {tensor: array}, config.json) -> PublishedHead
  write: Callable  # HeadSpec, params -> {tensor: array}
  reads: str  # what is read, where
  source: str
  optional: tuple = ()  # regular expressions of tensors that may be there


class HeldHead(NamedTuple):
  """A head that was recognised, as it lies in the checkpoint."""

  name: str  # of its row
  tensors: dict  # {published name: float32 array}
  raw: dict  # config.json
  where: Path  # for errors


# ---------------------------------------------------------------- the table

HEADS_IN_THE_WILD = {
  "classifier": Row(
    classes=r"\w+ForSequenceClassification",
    tensors=(r"score\.weight",),
    optional=(r"score\.bias",),
    read=read_classifier,
    write=write_classifier,
    reads="its labels at the last token",
    source="transformers, GenericForSequenceClassification",
  ),
  "step_classifier": Row(
    classes=r"\w+ForTokenClassification",
    tensors=(r"score\.weight", r"score\.bias"),
    read=read_step_classifier("score"),
    write=write_step_classifier("score"),
    reads="P(label 1 of 2) at the line end after each step",
    source="TRL, PRMTrainer",
  ),
  "step_classifier_named": Row(  # as GPT-2 and GPT-NeoX call it
    classes=r"\w+ForTokenClassification",
    tensors=(r"classifier\.weight", r"classifier\.bias"),
    read=read_step_classifier("classifier"),
    write=write_step_classifier("classifier"),
    reads="P(label 1 of 2) at the line end after each step",
    source="TRL, PRMTrainer",
  ),
  "two_layer_process": Row(
    classes=r"\w+ForProcessRewardModel",
    tensors=TWO_LAYERS,
    read=read_two_layer,
    write=write_two_layer,
    reads="P(label 1 of 2) at the token <extra_0> after each step",
    source="model card Qwen/Qwen2.5-Math-PRM-7B, arXiv:2501.07301",
  ),
  "two_layer": Row(
    classes=r"\w+ForRewardModel",
    tensors=TWO_LAYERS,
    read=read_two_layer,
    write=write_two_layer,
    reads="its output at the last token",
    source="model card Qwen/Qwen2.5-Math-RM-72B, arXiv:2409.12122",
  ),
  "gated": Row(
    classes=r"\w+ForRewardModelWithGating",
    tensors=(
      r"regression_layer\.weight",
      r"reward_transform_matrix",
      r"gating\.logit_scale",
      r"gating\.layers\.\d+\.weight",
      r"gating\.layers\.\d+\.bias",
    ),
    read=read_gated,
    write=write_gated,
    reads="objectives at the last token, their weights at the prompt's end",
    source="model card RLHFlow/ArmoRM-Llama3-8B-v0.1, arXiv:2406.12845",
  ),
  "v_head": Row(
    classes=r"\w+ForCausalLM|AutoModelForCausalLMWithValueHead",
    tensors=(r"v_head\.summary\.weight", r"v_head\.summary\.bias"),
    read=read_value_head("v_head.summary"),
    write=write_value_head("v_head.summary"),
    reads="a value at every token; the score at the last",
    source="TRL, AutoModelForCausalLMWithValueHead",
  ),
  "reward_token": Row(
    classes=r"InternLM2ForRewardModel",
    tensors=(r"v_head\.weight",),
    read=read_reward_token,
    write=write_value_head("v_head"),
    reads="its output at a reward token put behind the conversation",
    source="model card internlm/internlm2-7b-reward, arXiv:2403.17297",
  ),
  "value_head": Row(
    classes=r"LLMForSequenceRegression|RewardModel",
    tensors=(r"value_head\.weight",),
    optional=(r"mean", r"std"),
    read=read_value_head("value_head"),
    write=write_value_head("value_head"),
    reads="its output at the last token; mean and std are for reward()",
    source="OpenRLHF, get_llm_for_sequence_regression",
  ),
  "value_head_score": Row(
    classes=r"LLMForSequenceRegression|RewardModel",
    tensors=(r"score\.weight",),
    optional=(r"mean", r"std"),
    read=read_value_head("score"),
    write=write_value_head("score"),
    reads="its output at the last token; mean and std are for reward()",
    source="OpenRLHF, get_llm_for_sequence_regression",
  ),
}


def take_head(
  tensors: dict[str, Callable],
  raw: dict,
  *,
  width: int,
  where: Path,
  read: Callable[[str], np.ndarray],
) -> HeldHead | None:
  """The head of a checkpoint, taken out of `tensors`; None if it has none.

  Args:
    tensors: {name: function that reads it} of the whole checkpoint; loses
      those of the head, so that the backbone has to account for the rest.
    raw: config.json.
    width: D of the backbone.
    where: names the checkpoint in errors.
    read: the float32 array of a name.

  Raises:
    UserError: tensors of a head that no row explains, or that the class in
      config.json does not go with; a head that was not saved.
  """
  held = sorted(name for name in tensors if OF_A_HEAD.match(name))
  classes = list(raw.get("architectures") or ())
  named = [
    name
    for name, row in HEADS_IN_THE_WILD.items()
    if any(re.fullmatch(row.classes, c) for c in classes)
  ]
  if not held:
    if not named or any(c.endswith("ForCausalLM") for c in classes):
      return None
    wanted = " or ".join(_shown(HEADS_IN_THE_WILD[name]) for name in named)
    raise UserError(
      f"{where}: expected {wanted}, because config.json says {classes}, got no "
      "such tensor; the head was not saved"
    )
  fits = [name for name in named if _fits(HEADS_IN_THE_WILD[name], held)]
  if len(fits) != 1:
    raise UserError(
      f"{where}: expected the tensors and the class of one known reward head, "
      f"got {held} and {classes}; a head is never guessed. Known are "
      f"{_known()}. {_mend(held)}"
    )
  _refuse_own_code(raw, classes, where)
  arrays = {name: read(name) for name in held}
  for name in held:
    del tensors[name]
  _check_width(arrays, width, where)
  return HeldHead(fits[0], arrays, raw, where)


def read_held(held: HeldHead) -> PublishedHead:
  """The head with its parameters in our shape, and how it is to be read.

  Raises:
    UserError: the numbers of outputs are not those of the model it says to be.
  """
  row = HEADS_IN_THE_WILD[held.name]
  try:
    return row.read(held.name, held.tensors, held.raw)
  except UserError as error:
    raise UserError(f"{held.where}: {error}") from None


def write_head(head: PublishedHead) -> dict[str, np.ndarray]:
  """{tensor: contiguous float32 array} of a head, under its published names.

  The inverse of `take_head` and `read_held`, bit for bit.
  """
  row = HEADS_IN_THE_WILD[head.name]
  return {
    name: np.ascontiguousarray(value)
    for name, value in row.write(head.spec, head.params).items()
  }


def _fits(row: Row, held: list) -> bool:
  every = (*row.tensors, *row.optional)
  return all(
    any(re.fullmatch(pattern, name) for name in held) for pattern in row.tensors
  ) and all(
    any(re.fullmatch(pattern, name) for pattern in every) for name in held
  )


def _shown(row: Row) -> str:
  return ", ".join(row.tensors).replace("\\", "")


def _known() -> str:
  return "; ".join(
    f"{name} ({_shown(row)} of {row.classes})"
    for name, row in HEADS_IN_THE_WILD.items()
  ).replace("\\w+", "...")


def _mend(held: list) -> str:
  others = [
    row.classes for row in HEADS_IN_THE_WILD.values() if _fits(row, held)
  ]
  if not others:
    return "Load the model with the code that it was published with"
  return (
    f"These tensors go with {' or '.join(others)}: correct architectures in "
    "config.json, if that is what the model is"
  ).replace("\\w+", "...")


def _refuse_own_code(raw: dict, classes: list, where: Path) -> None:
  own = [
    value
    for value in (raw.get("auto_map") or {}).values()
    if isinstance(value, str)
    and value.rpartition(".")[2] in classes
    and re.fullmatch(PLAIN, value.rpartition(".")[2])
  ]
  if own:
    raise UserError(
      f"{where}: config.json brings code of its own, {own[0]!r}, so what its "
      "score.weight means is not known; a head is never guessed. If it is the "
      "plain head of transformers, remove auto_map from config.json"
    )


def _check_width(arrays: dict, width: int, where: Path) -> None:
  """Every matrix that reads hidden states is as wide as they are."""
  for name, array in arrays.items():
    inner = re.fullmatch(r"gating\.layers\.[1-9]\d*\.weight", name)
    if name.endswith(".weight") and not inner:
      if array.ndim != 2 or array.shape[1] != width:
        raise UserError(
          f"{where}: {name}: expected shape (labels, {width}), got "
          f"{array.shape}; config.json belongs to other weights"
        )
