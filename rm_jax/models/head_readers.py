"""Tensors of published heads to the parameters of ours, and back.

A reader gets the tensors of one head as float32 arrays and config.json, and
returns what models/published_heads.py hands on; its writer is its inverse, bit
for bit. The rule that says which reader is whose stands there.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rm_jax.heads import HeadSpec
from rm_jax.types import UserError


class PublishedHead(NamedTuple):
  """A head as a checkpoint holds it, and how it is to be read."""

  name: str  # of a row of HEADS_IN_THE_WILD, or of LANGUAGE_HEADS
  spec: HeadSpec
  params: dict  # of its Linen module, float32
  template: str = "auto"  # auto, chat or plain
  steps: str = "as_written"  # of data/step_formats.py
  append: int = -1  # token id behind the conversation, where it is read
  normaliser: tuple | None = None  # (mean, std) of scores, where it has one
  labels: tuple = ()  # names of its outputs, where config.json gives them


# ---------------------------------------------------------------- plain heads


def read_classifier(name, tensors, raw) -> PublishedHead:
  weight = tensors["score.weight"]
  bias = tensors.get("score.bias")
  normaliser = _normaliser(tensors, raw)
  if len(weight) == 1:
    kind, params = _scalar(weight, bias)
    spec = HeadSpec(kind, "zeros", "last_token")
    return PublishedHead(name, spec, params, normaliser=normaliser)
  spec = HeadSpec("attributes", "zeros", "last_token", outputs=len(weight))
  return PublishedHead(
    name, spec, _vector(weight, bias), labels=_labels(raw, len(weight))
  )


def write_classifier(spec, params) -> dict:
  if spec.kind == "attributes":
    tensors = {"score.weight": params["kernel"].T}
    # One without a bias is read as one with zeros.
    return tensors | (
      {"score.bias": params["bias"]} if np.any(params["bias"]) else {}
    )
  return _write_scalar(spec, params, "score")


def read_step_classifier(prefix: str) -> Callable:
  def read(name, tensors, raw) -> PublishedHead:
    weight = tensors[f"{prefix}.weight"]
    if len(weight) != 2:
      raise UserError(
        f"{prefix}.weight has {len(weight)} labels, "
        f"{_labels(raw, len(weight))}: expected two (wrong, right), as TRL's "
        "PRMTrainer saves them"
      )
    return PublishedHead(
      name,
      HeadSpec("classes", "zeros", "step_ends", outputs=2),
      _vector(weight, tensors[f"{prefix}.bias"]),
      template="plain",
      steps="trl_prm",
      labels=_labels(raw, 2),
    )

  return read


def write_step_classifier(prefix: str) -> Callable:
  return lambda spec, params: {
    f"{prefix}.weight": params["kernel"].T,
    f"{prefix}.bias": params["bias"],
  }


def read_value_head(prefix: str) -> Callable:
  def read(name, tensors, raw) -> PublishedHead:
    kind, params = _scalar(
      tensors[f"{prefix}.weight"], tensors.get(f"{prefix}.bias")
    )
    spec = HeadSpec(kind, "zeros", "last_token")
    return PublishedHead(
      name, spec, params, normaliser=_normaliser(tensors, raw)
    )

  return read


def read_reward_token(name, tensors, raw) -> PublishedHead:
  token = raw.get("reward_token_id")
  if not isinstance(token, int) or not 0 <= token < raw["vocab_size"]:
    raise UserError(
      f"reward_token_id={token!r} in config.json, expected a token id below "
      f"{raw['vocab_size']}: copy the config.json that was published with the "
      "weights"
    )
  kind, params = _scalar(tensors["v_head.weight"], None)
  spec = HeadSpec(kind, "zeros", "last_token")
  return PublishedHead(name, spec, params, template="chat", append=token)


def write_value_head(prefix: str) -> Callable:
  return lambda spec, params: _write_scalar(spec, params, prefix)


def _scalar(weight, bias) -> tuple[str, dict]:
  if len(weight) != 1:
    raise UserError(
      f"the head has {len(weight)} outputs, expected the one of a value"
    )
  if bias is None:
    return "scalar", {"kernel": weight[0]}
  return "biased_scalar", {"linear": {"kernel": weight[0]}, "bias": bias}


def _write_scalar(spec, params, prefix) -> dict:
  if spec.kind == "scalar":
    return {f"{prefix}.weight": params["kernel"][None]}
  return {
    f"{prefix}.weight": params["linear"]["kernel"][None],
    f"{prefix}.bias": params["bias"],
  }


def _vector(weight, bias) -> dict:
  zeros = np.zeros(len(weight), np.float32)
  return {
    "kernel": np.ascontiguousarray(weight.T),
    "bias": zeros if bias is None else bias,
  }


# ---------------------------------------------------------------- two layers


def read_two_layer(name, tensors, raw) -> PublishedHead:
  outputs = len(tensors["score.2.weight"])
  expected = 2 if name == "two_layer_process" else 1
  if outputs != expected:
    raise UserError(
      f"score.2.weight has {outputs} outputs, expected {expected}: "
      f"config.json says {raw['architectures']}"
    )
  params = {
    ours: {
      "kernel": np.ascontiguousarray(tensors[f"score.{n}.weight"].T),
      "bias": tensors[f"score.{n}.bias"],
    }
    for ours, n in (("inner", 0), ("outer", 2))
  }
  if outputs == 1:
    spec = HeadSpec("two_layer", "zeros", "last_token")
    return PublishedHead(name, spec, params, template="chat")
  spec = HeadSpec("two_layer_classes", "zeros", "step_ends", outputs=2)
  return PublishedHead(
    name, spec, params, template="chat", steps="qwen_math_prm"
  )


def write_two_layer(spec, params) -> dict:
  return {
    f"score.{n}.{theirs}": value
    for ours, n in (("inner", 0), ("outer", 2))
    for theirs, value in (
      ("weight", params[ours]["kernel"].T),
      ("bias", params[ours]["bias"]),
    )
  }


# ---------------------------------------------------------------- gated


def read_gated(name, tensors, raw) -> PublishedHead:
  weight = tensors["regression_layer.weight"]
  transform = tensors["reward_transform_matrix"]
  gate = sorted(t for t in tensors if t.startswith("gating.layers."))
  layers = len(gate) // 2 - 1
  whole = [
    f"gating.layers.{n}.{x}"
    for n in range(layers + 1)
    for x in ("bias", "weight")
  ]
  if layers < 1 or gate != sorted(whole):
    raise UserError(
      "expected a weight and a bias of every layer of the gate, got "
      f"{', '.join(gate)}: the file is incomplete"
    )
  first = tensors["gating.layers.0.weight"]
  last = tensors[f"gating.layers.{layers}.weight"]
  count = len(weight)
  if len(last) != count or transform.shape != (count, count):
    raise UserError(
      f"regression_layer.weight has {count} objectives, expected as many from "
      f"the last layer of the gate, got {len(last)}, and in both axes of "
      f"reward_transform_matrix, got {transform.shape}: the tensors belong to "
      "different models"
    )
  stated = {
    "num_objectives": count,
    "gating_n_hidden": layers,
    "gating_hidden_dim": len(first),
  }
  for key, held in stated.items():
    if raw.get(key, held) != held:
      raise UserError(
        f"{key}={raw[key]} in config.json, the tensors have {held}: they "
        "belong to different models"
      )
  temperature = float(raw.get("gating_temperature", 10))
  spec = HeadSpec(
    "gated",
    "zeros",
    "prompt_and_last",
    outputs=count,
    gate=(layers, len(first), temperature),
  )
  params = {
    "kernel": np.ascontiguousarray(weight.T),
    "transform": transform,
    "scale": tensors["gating.logit_scale"],
  }
  for n in range(layers + 1):
    params[f"gate_{n}"] = {
      "kernel": np.ascontiguousarray(tensors[f"gating.layers.{n}.weight"].T),
      "bias": tensors[f"gating.layers.{n}.bias"],
    }
  return PublishedHead(name, spec, params, template="chat")


def write_gated(spec, params) -> dict:
  tensors = {
    "regression_layer.weight": params["kernel"].T,
    "reward_transform_matrix": params["transform"],
    "gating.logit_scale": params["scale"],
  }
  for n in range(spec.gate[0] + 1):
    tensors[f"gating.layers.{n}.weight"] = params[f"gate_{n}"]["kernel"].T
    tensors[f"gating.layers.{n}.bias"] = params[f"gate_{n}"]["bias"]
  return tensors


# ---------------------------------------------------------------- config.json


def _labels(raw, count: int) -> tuple:
  names = raw.get("id2label") or {}
  return tuple(str(names.get(str(i), f"LABEL_{i}")) for i in range(count))


def _normaliser(tensors, raw) -> tuple | None:
  """(mean, std) as OpenRLHF keeps them: buffers, or keys of config.json."""

  def find(key):
    value = tensors[key] if key in tensors else raw.get(key)
    return None if value is None else np.ravel(np.asarray(value, np.float64))

  mean, std = find("mean"), find("std")
  if mean is None and std is None:
    return None
  if mean is None or std is None or mean.size != 1 or std.size != 1:
    raise UserError(
      f"expected one mean and one std of the scores, got mean={mean}, std={std}"
    )
  if not (np.isfinite(mean[0]) and 0 < std[0] < np.inf):
    raise UserError(
      f"expected a finite mean and a std above 0, got {mean[0]} and {std[0]}"
    )
  return float(mean[0]), float(std[0])
