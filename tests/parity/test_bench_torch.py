"""The two sides of bench/step.py compute the same, live.

Needs torch: make parity.
"""

import dataclasses
import sys

import flax.linen as nn
import forests
import jax
import numpy as np
import pytest

from bench import ours, step
from rm_jax.models.sizes import SIZES
from rm_jax.reward_model import HeadSpec, ModelSpec, init_params

pytestmark = pytest.mark.parity

pytest.importorskip("torch", reason="torch is not installed: parity")


def tiny_model():
  decoder = dataclasses.replace(SIZES["tiny"], vocab_size=forests.VOCAB)
  head = HeadSpec("scalar", "unit", "last_token")
  spec = ModelSpec(decoder, head, "float32", True, (decoder.layers,))
  return spec, nn.unbox(init_params(spec, jax.random.key(0)))


def test_both_sides_compute_the_same():
  spec, params = tiny_model()
  torch = step.Torch(sys.executable, spec, params)
  held = ours.hold(params)
  groups = [g for g in forests.ragged_groups() if len(g.tokens) == 2]
  found = step.check_equal(torch, spec, held, groups, 64)
  assert np.std(found["scores"]) > 0.1  # not all zero
  setting = ours.Setting("shared", 64, 1, "float32", False)
  run = ours.start(spec, held, groups, setting)
  both = [run.step()]
  for checkpointing, at_once in ((True, len(groups)), (False, 1)):
    fresh = step.Torch(sys.executable, spec, params)
    both.append(
      fresh.ask(
        do="step",
        dtype="float32",
        checkpointing=checkpointing,
        pairs_at_once=at_once,
        **step.sides(groups),
      )
    )
  for name in ("loss", "grad_norm"):
    values = [x[name] for x in both]
    np.testing.assert_allclose(values, values[0], rtol=1e-3)
