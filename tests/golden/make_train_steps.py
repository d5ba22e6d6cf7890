"""Writes tests/golden/train_steps.json: three train steps of a tiny model.

    python -m tests.golden.make_train_steps

Our own numbers: they say that a change moved something, not what is right.
Regenerate when a default of the optimizer, the model or a loss is changed on
purpose, with a line in CHANGELOG.md; never to make a refactoring pass.
"""

import json
import pathlib
import sys

import jax
import numpy as np

from rm_jax.config import base
from rm_jax.models.sharding import make_mesh
from rm_jax.models.sizes import SIZES
from rm_jax.objectives import LossSpec
from rm_jax.reward_model import HeadSpec, ModelSpec, abstract_params
from rm_jax.train.optim import make_optimizer, make_schedule
from rm_jax.train.step import TrainState, make_steps

OUT = pathlib.Path(__file__).with_name("train_steps.json")
STEPS = 3
TINY = SIZES["tiny"]
SPEC = ModelSpec(
  TINY,
  HeadSpec("scalar", "zeros", "last_token"),
  "float32",
  True,
  (TINY.layers,),
)


def draw_params():
  """Parameters from numpy, so that no library's initialiser is in the numbers.

  The head as well: zeros would let no gradient through to the rest.
  """
  rng = np.random.default_rng(0)
  leaves, tree = jax.tree.flatten(abstract_params(SPEC))
  drawn = [
    rng.normal(size=x.shape).astype(np.float32)
    / np.sqrt(x.shape[-2] if len(x.shape) > 1 else TINY.width)
    for x in leaves
  ]
  return jax.tree.unflatten(tree, drawn)


def make() -> dict:
  """{"loss", "grad_norm", "lr": of each step; "sum_of_squares": after them}."""
  import flax.linen as nn
  import forests

  c = base().optim
  c.lr, c.warmup_steps = 1e-2, 1
  schedule = make_schedule(c, STEPS)
  optimizer = make_optimizer(c, schedule)
  mesh = make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])
  steps = make_steps(
    SPEC,
    LossSpec("plackett_luce", 0.1),
    optimizer,
    schedule,
    trainable="all",
    accumulate=2,
    parallel="pjit",
    mesh=mesh,
  )
  params = nn.unbox(draw_params())
  state = steps.put_state(
    TrainState(np.int32(0), np.int32(0), params, optimizer.init(params))
  )
  groups = [
    *forests.ragged_groups(language=True),
    forests.forked_group(record=9, language=True),
  ]
  batch = forests.batches(groups, layout="shared", row_len=48, blocks=2)[0][0][
    0
  ]
  found = {"loss": [], "grad_norm": [], "lr": []}
  for _ in range(STEPS):
    state, metrics = steps.train(state, {}, steps.put_batch(batch))
    for name, values in found.items():
      values.append(float(metrics[name]))
  squares = [
    float(np.sum(np.square(x, dtype=np.float64)))
    for x in jax.tree.leaves(jax.device_get(steps.stored(state).params))
  ]
  return found | {"sum_of_squares": sum(squares)}


if __name__ == "__main__":
  sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # forests
  OUT.write_text(json.dumps(make(), indent=2) + "\n")
