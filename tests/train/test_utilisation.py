"""What a run says of its speed: counted once a shape, shares of a peak."""

import forests
import jax
import pytest

from rm_jax.config import base
from rm_jax.data.pack import grow
from rm_jax.data.plan import demand
from rm_jax.models.sharding import make_mesh
from rm_jax.models.sizes import SIZES
from rm_jax.objectives import LossSpec
from rm_jax.reward_model import HeadSpec, ModelSpec, init_params
from rm_jax.train.flops import attention_flops, matrix_sizes, model_flops
from rm_jax.train.optim import make_optimizer, make_schedule
from rm_jax.train.step import make_steps
from rm_jax.train.utilisation import flop_counter, flop_rates

TINY = SIZES["tiny"]
SPEC = ModelSpec(
  TINY,
  HeadSpec("scalar", "zeros", "last_token"),
  "float32",
  False,
  (TINY.layers,),
)
ROW_LEN = 96  # more than one block of attention


def test_a_share_of_what_the_chips_can_do():
  flops = {"useful": 197e12, "computed": 2 * 197e12}
  # 4 chips of 197 TFLOP/s for 2 seconds; a chip of v7 is two devices.
  row = flop_rates(flops, 2.0, kind="TPU v5 lite", devices=4)
  assert row == {
    "useful_flops_per_second": 98.5e12,
    "computed_flops_per_second": 197e12,
    "useful_utilisation": 1 / 8,
    "computed_utilisation": 1 / 4,
  }
  two = flop_rates({"useful": 2307e12}, 1.0, kind="TPU7x", devices=2)
  assert two["useful_utilisation"] == 1.0


def test_where_no_peak_is_known_there_is_no_share():
  row = flop_rates({"useful": 3.0}, 2.0, kind="cpu", devices=8)
  assert row == {"useful_flops_per_second": 1.5}


@pytest.mark.parametrize("parallel", ["pjit", "pmap"])
def test_a_program_is_counted_once_and_traced_no_more_than_without(parallel):
  # Wrong: a trace a step; of pmap, the products of one device or of a mapped
  # axis twice.
  groups = forests.ragged_groups()
  laid, plan = forests.batches(
    groups, layout="shared", row_len=ROW_LEN, blocks=2
  )
  demands = [
    demand(g, grow(g, layout="shared", row_len=ROW_LEN, align=1))
    for g in groups
  ]
  traced = []
  c = base().optim
  schedule = make_schedule(c, 20)

  def counted(step):
    traced.append(step)
    return schedule(step)

  mesh = make_mesh(data=2, fsdp=1, tensor=1, devices=jax.devices()[:2])
  steps = make_steps(
    SPEC,
    LossSpec("bradley_terry", 0.0),
    make_optimizer(c, schedule),
    counted,
    trainable="all",
    accumulate=1,
    parallel=parallel,
    mesh=mesh,
  )
  params = jax.device_get(init_params(SPEC, jax.random.key(0)))
  sizes = matrix_sizes(SPEC, params)
  count = flop_counter(SPEC, sizes, steps, plan, demands, devices=2)
  state, frozen = steps.first_state(params), steps.put_frozen({})
  batch = steps.put_batch(laid[0][0])
  flops = count(1, state, frozen, batch)
  for _ in range(2):
    assert count(1, state, frozen, batch) == flops
    state, _ = steps.train(state, frozen, batch)
  assert len(traced) == (1 if parallel == "pjit" else 2)

  # Nothing is computed again, so the program takes what its full rows take,
  # and little more for the head; attention in whole blocks.
  g, rows = plan.geometry, plan.steps[0].rows
  assert g.blocks * rows * ROW_LEN == batch.tokens.size
  matrices = model_flops(SPEC, sizes, tokens=batch.tokens.size)
  how = dict(rows=g.blocks * rows, row_len=ROW_LEN, block=64)
  attention = attention_flops(SPEC, sizes, **how)[1]
  assert flops["computed"] == pytest.approx(matrices + attention, rel=0.02)
  assert (
    flops["useful"]
    < model_flops(SPEC, sizes, tokens=batch.tokens.size) + attention
  )
