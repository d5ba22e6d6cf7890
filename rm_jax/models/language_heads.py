"""Causal language models whose own logits are the reward.

Such a checkpoint looks like any other language model: nothing in it says that
it scores. So its reading has a name, which the user gives (`head=`) or its name
on the Hub does.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rm_jax.heads import HeadSpec
from rm_jax.models.head_readers import PublishedHead
from rm_jax.types import UserError


class LanguageHead(NamedTuple):
  """A reading of a causal language model's own logits."""

  read: Callable  # (name, tokenizer) -> PublishedHead
  hub: tuple  # names on the Hub, by which it is recognised
  reads: str
  source: str


def _first_token(name, tokenizer) -> PublishedHead:
  spec = HeadSpec("gain_bias", "zeros", "last_token", token=0)
  ones = np.ones(1, np.float32)
  params = {"gain": ones, "bias": np.zeros(1, np.float32)}
  return PublishedHead(name, spec, params, template="chat")


def _math_shepherd(name, tokenizer) -> PublishedHead:
  ids = tokenizer("+ -", add_special_tokens=False)["input_ids"]
  return _verdict(name, tokenizer, ids, template="plain")


def _rlhflow(name, tokenizer) -> PublishedHead:
  ids = [
    index
    for text in "+-"
    for index in tokenizer(text, add_special_tokens=False)["input_ids"]
  ]
  return _verdict(name, tokenizer, ids, template="chat")


def _verdict(name, tokenizer, ids, *, template) -> PublishedHead:
  if len(ids) != 2 or ids[0] == ids[1]:
    raise UserError(
      f"head {name!r} compares the tokens '+' and '-': expected one token for "
      f"each, the tokenizer gives {tokenizer.convert_ids_to_tokens(ids)}"
    )
  spec = HeadSpec("verdict", "zeros", "step_ends", verdicts=tuple(ids))
  return PublishedHead(name, spec, {}, template=template, steps=name)


LANGUAGE_HEADS = {
  "math_shepherd": LanguageHead(
    read=_math_shepherd,
    hub=("peiyi9979/math-shepherd-mistral-7b-prm",),
    reads="P('+') against '-' at the tag after each step",
    source="its model card, arXiv:2312.08935",
  ),
  "nemotron_reward": LanguageHead(
    read=_first_token,
    hub=("nvidia/Llama-3.1-Nemotron-70B-Reward-HF",),
    reads="the logit of token 0 after the last token",
    source="its model card, arXiv:2410.01257",
  ),
  "rlhflow_prm": LanguageHead(
    read=_rlhflow,
    hub=(
      "RLHFlow/Llama3.1-8B-PRM-Mistral-Data",
      "RLHFlow/Llama3.1-8B-PRM-Deepseek-Data",
    ),
    reads="P('+') against '-' at the token before each answer",
    source="its model card (Xiong et al. 2024)",
  ),
}


def language_head(
  name: str, tokenizer: Any, raw: dict, *, where: Path
) -> PublishedHead:
  """The reading of that name. UserError: unknown, or no such logits here."""
  if name not in LANGUAGE_HEADS:
    raise UserError(
      f"head={name!r} is not known. Known: {sorted(LANGUAGE_HEADS)}."
    )
  if raw.get("final_logit_softcapping") or raw.get("logit_scale"):
    raise UserError(
      f"{where}: its logits are scaled or capped (final_logit_softcapping, "
      "logit_scale in config.json), which reading them as a reward does not do"
    )
  try:
    return LANGUAGE_HEADS[name].read(name, tokenizer)
  except UserError as error:
    raise UserError(f"{where}: {error}") from None


def name_on_hub(source: str | Path) -> str:
  """The language head of a source called OWNER/NAME as on the Hub, else ""."""
  owned = "/".join(str(source).rstrip("/").split("/")[-2:])
  found = [name for name, h in LANGUAGE_HEADS.items() if owned in h.hub]
  return found[0] if found else ""
