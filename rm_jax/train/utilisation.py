"""FLOPs a second of a run's train steps, and which share of the peak they are.

Useful are the model FLOPs of the tokens of trees; computed is what the program
does, padding, rematerialisation and whole blocks of attention included.
"""

from rm_jax.chips import peak_flops
from rm_jax.data.plan import Plan
from rm_jax.reward_model import ModelSpec
from rm_jax.train.flops import step_flops, useful_flops


def flop_counter(
  spec: ModelSpec,
  sizes: tuple[int, ...],
  steps,
  plan: Plan,
  demands: list,
  *,
  devices: int,
):
  """A function (step, state, frozen, batch) -> {"useful", "computed"} FLOPs.

  Over all devices. A program is counted once per row count, off the trace that
  the step needs anyway: call it before the step, which takes the state.

  Args:
    sizes: of `matrix_sizes`.
    steps: of `make_steps`.
    demands: of the groups of the plan.
  """
  g, programs = plan.geometry, {}

  def count(step, state, frozen, batch):
    laid = plan.steps[step - 1]
    if laid.rows not in programs:
      _, programs[laid.rows] = step_flops(
        spec,
        sizes,
        steps.program(state, frozen, batch),
        rows=g.blocks * laid.rows,
        row_len=g.row_len,
        devices=devices,
      )
    pieces = (p for place in laid.places for p in demands[place.group].pieces)
    return {
      "useful": useful_flops(spec, sizes, pieces),
      "computed": programs[laid.rows],
    }

  return count


def flop_rates(
  flops: dict, seconds: float, *, kind: str, devices: int
) -> dict[str, float]:
  """Entries of a row of metrics.jsonl: FLOPs a second, and their utilisation.

  The utilisation is the share of what the devices multiply in bfloat16 at
  most, whatever the dtype of the run; left out where that is not known.

  Args:
    flops: over all devices, of `flop_counter`.
    kind: of the devices, as jax names it.
  """
  rates = {name: each / seconds for name, each in flops.items()}
  row = {f"{name}_flops_per_second": rate for name, rate in rates.items()}
  peak = peak_flops(kind)
  if peak is not None:
    row |= {f"{n}_utilisation": r / (peak * devices) for n, r in rates.items()}
  return row
