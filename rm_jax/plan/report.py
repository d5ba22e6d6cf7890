"""What a plan says: the fixed figures for programs, a table for people."""

import math

from rm_jax.plan.compile import Compiled
from rm_jax.plan.slices import SLICES, Slice

GIB = 2**30


def bounds(plan: Compiled, where: Slice) -> dict[str, float]:
  """{what: seconds} that one step takes at the least.

  Each as if nothing else took time: FLOPs at the chip's peak, bytes of HBM at
  its bandwidth (the state read and written once, what other chips send written
  and read), bytes from other chips over all links. A step that overlaps all
  three perfectly takes the largest; none is a forecast.
  """
  chip = where.chip
  found = {"compute": plan.hardware_flops / chip.flops}
  if plan.fits:
    sent = sum(plan.collectives.values())
    state = plan.parts["parameters"] + plan.parts["optimizer state"]
    found["memory"] = 2 * (state + sent) / chip.hbm_bandwidth
    found["collectives"] = sent / chip.link_bandwidth
  return found


def figures(
  plan: Compiled,
  where: Slice,
  *,
  num_slices: int,
  useful_fraction: float | None,
) -> dict:
  """The figures of `rm-jax plan --json`, per chip and step.

  None: not known, because it does not fit or because no data was read.
  """
  known = bounds(plan, where)
  slowest = max(known, key=known.get)
  sent = sum(plan.collectives.values()) / GIB if plan.fits else None
  return {
    "slice": where.name if num_slices == 1 else f"{num_slices}x{where.name}",
    "chips": where.chips * num_slices,
    "fits": plan.fits,
    "hbm_peak_gib": plan.peak / GIB if plan.fits else None,
    "hbm_sum_gib": plan.sum / GIB if plan.fits else None,
    "hbm_limit_gib": where.chip.hbm / GIB,
    "collective_gib": sent,
    "model_tflops": plan.model_flops / 1e12,
    "hardware_tflops": plan.hardware_flops / 1e12,
    "bound_s": known[slowest],
    "bound_by": slowest,
    "useful_fraction": useful_fraction,
  }


def table(plan: Compiled, where: Slice, said: dict) -> str:
  """The plan in lines, from its `figures`."""
  mesh = " x ".join(f"{k} {v}" for k, v in plan.mesh.items())
  closes = "a torus" if where.wrap else "open ends"
  lines = [
    f"{said['slice']}: {said['chips']} chips ({where.topology}, {closes}), "
    f"mesh {mesh}",
    f"{plan.parameters:,} parameters train",
    ("Compiled for it, not run on it." if plan.fits else "It does NOT fit.")
    + " Per chip and step:",
    "",
    *_memory(plan, where, said),
    *_work(plan, said),
  ]
  if plan.fits:
    each = [
      f"{kind} {size / GIB:.2f}"
      for kind, size in sorted(plan.collectives.items(), key=lambda x: -x[1])
    ]
    text = f"{said['collective_gib']:.2f} GiB: {', '.join(each) or 'none'}"
    lines.append(_line("collectives", text))
  known = bounds(plan, where)
  every = ", ".join(f"{k} {v:.3g}" for k, v in known.items())
  text = f"{said['bound_s']:.3g} s, bound by {said['bound_by']} ({every})"
  lines.append(_line("a step takes at least", text))
  useful = said["useful_fraction"]
  tokens = "not known without the data (--read_data)"
  if useful is not None:
    tokens = f"{useful:.1%} of those computed"
  lines.append(_line("useful tokens", tokens))
  return "\n".join(lines)


def _memory(plan, where, said):
  parts = [f"{name} {size / GIB:.2f}" for name, size in plan.parts.items()]
  limit = said["hbm_limit_gib"]
  if not plan.fits:
    return [
      _line(
        "HBM",
        f"does NOT fit {limit:.2f} GiB: the compiler asks for about "
        f"{plan.needed / GIB:.1f}",
      ),
      _line("  of that", ", ".join(parts)),
      _line("nearest change", nearest_change(plan, where)),
    ]
  rest = (plan.peak - sum(plan.parts.values())) / GIB
  lines = [
    _line("HBM at its fullest", f"{plan.peak / GIB:.2f} GiB of {limit:.2f}"),
    _line("  of that", f"{', '.join(parts)}, work on a layer {rest:.2f}"),
    _line("HBM of all buffers", f"{plan.sum / GIB:.2f} GiB"),
  ]
  if plan.sum > where.chip.hbm:
    lines.append(
      _line("", "fits because buffers share memory: unproven until it runs")
    )
  return lines


def _work(plan, said):
  group = plan.mesh["tensor"]
  whose = f" on {group} chips together" if group > 1 else ""
  again = said["hardware_tflops"] / said["model_tflops"] - 1
  return [
    _line(
      "rows",
      f"{plan.chip_rows} x {plan.row_len:,} tokens{whose}, "
      f"{plan.micro_batches} micro-batches",
    ),
    _line("model FLOPs", f"{said['model_tflops']:.1f} T"),
    _line(
      "hardware FLOPs",
      f"{said['hardware_tflops']:.1f} T: {again:+.0%} from what is computed "
      "again and whole blocks of attention",
    ),
  ]


def _line(name: str, text: str) -> str:
  return f"{name:26}{text}"


def nearest_change(plan: Compiled, where: Slice) -> str:
  """What would make a plan fit that does not; an estimate, not compiled.

  What is there in any case (parameters, moments) stays or is cut over more
  chips; the rest of what the compiler asked for goes with the rows.
  """
  limit = where.chip.hbm
  fixed = plan.parts["parameters"] + plan.parts["optimizer state"]
  fixed += plan.parts.get("frozen parameters", 0)
  row = (plan.needed - fixed) / plan.chip_rows
  rows = math.floor((limit - fixed) / row)
  if rows >= 1:
    times = -(-plan.chip_rows // rows)
    return (
      f"{rows} rows a chip in place of {plan.chip_rows} "
      f"(config.train.accumulate={plan.micro_batches * times}, estimated)"
    )
  for other in SLICES.values():
    share = fixed * where.chips / other.chips
    if other.chip == where.chip and other.chips > where.chips:
      if share + row <= limit:
        return (
          f"{other.name} with one row a chip (config.mesh.fsdp="
          f"{other.chips // plan.mesh['tensor']}, estimated)"
        )
  group = plan.mesh["tensor"]
  return (
    f"config.mesh.tensor={2 * group}, so that {2 * group} chips share a row, "
    "or shorter rows (config.data.row_len)"
  )
