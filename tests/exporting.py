"""Reward models with random heads and what is needed to export them."""

import dataclasses
import json
import pathlib

import flax.linen as nn
import jax
import numpy as np

from rm_jax.data.loader import Reading
from rm_jax.export.folder import Source, write_reward_model
from rm_jax.heads import HeadSpec
from rm_jax.inference import RewardModel
from rm_jax.models.families import read_config
from rm_jax.models.sizes import SIZES
from rm_jax.reward_model import ModelSpec, abstract_params
from tests.data.fixtures import make_tokenizer

READING = Reading(
  template="auto",
  read_at="end_of_turn",
  row_len=128,
  overlong="drop",
  layout="shared",
  align=1,
  pooling="last_token",
)

GOLDENS = pathlib.Path(__file__).parent / "golden" / "families"
FAMILIES = sorted(path.name for path in GOLDENS.iterdir())

WEIGHTS = (0.25, 0.5, -1.0)  # of three attributes
HEADS = {
  "scalar": HeadSpec("scalar", "unit", "last_token"),
  "biased_scalar": HeadSpec("biased_scalar", "unit", "last_token"),
  "gain_bias": HeadSpec("gain_bias", "unit", "last_token", token=5),
  "attributes": HeadSpec(
    "attributes", "unit", "last_token", outputs=3, weights=WEIGHTS
  ),
  "bins": HeadSpec(
    "bins", "unit", "last_token", outputs=4, centers=(-1.0, 2.0, 4)
  ),
  "steps": HeadSpec("steps", "unit", "step_ends"),
}


def tiny(
  head="scalar",
  *,
  pooling=None,
  tokenizer=None,
  tied=True,
  decoder=None,
  **reading,
):
  """A random reward model; no parameter is zero, no norm is one."""
  tokenizer = tokenizer or make_tokenizer()
  head = HEADS[head]
  if pooling is not None:
    head = dataclasses.replace(head, pooling=pooling)
  decoder = decoder or dataclasses.replace(
    SIZES["tiny"], vocab_size=len(tokenizer), tied=tied
  )
  spec = ModelSpec(decoder, head, "float32", False, (decoder.layers,))
  rng = np.random.default_rng(1)

  def draw(path, shape):
    name = jax.tree_util.keystr(path)
    size = 0.2 if "kernel" in name or "embedding" in name else 0.1
    # Biases and gains too: what is zero or one hides that it was dropped.
    mean = 1.0 if "scale" in name or "gain" in name else 0.0
    return rng.normal(mean, size, shape.shape).astype(np.float32)

  params = jax.tree_util.tree_map_with_path(
    draw, nn.unbox(abstract_params(spec))
  )
  reading = READING._replace(pooling=head.pooling, **reading)
  return RewardModel(spec, params, tokenizer, reading)


def of_family(name, folder):
  """A random reward model of a golden family; its base's config in `folder`."""
  raw = json.loads((GOLDENS / name / "config.json").read_text())
  raw["vocab_size"] = len(make_tokenizer())
  for key in ("n_positions", "max_position_embeddings"):
    raw |= {key: 128} if key in raw else {}
  folder.mkdir()
  (folder / "config.json").write_text(json.dumps(raw))
  return tiny(decoder=read_config(raw, where=folder))


def write(model, folder, base="random:tiny", **changed):
  """Exports a model that no run made; returns the folder."""
  folder.mkdir()
  keys = dict(
    name="tiny",
    architecture="auto",
    dtype="float32",
    max_shard_bytes=1 << 30,
    task="",
    attributes=(),
    results=[],
  )
  source = Source(model, [], base)
  write_reward_model(source, folder, **keys | changed)
  return folder
