"""What a compiled program sends between chips, read from its text."""

from rm_jax.plan.hlo import Program, read_program, sizes, trips

KINDS = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
  "ragged-all-to-all",
  "collective-broadcast",
)


def collective_bytes(text: str) -> dict[str, int]:
  """{kind: bytes per chip and run} of a compiled program's text.

  What arrives of a gather, an exchange or a permutation; what goes in, whole,
  of a reduction. Loop bodies count as often as they run; a loop that sends
  nothing may run as often as its data say. One collective that is
  printed in several pieces (start, fused steps, done) counts once: the pieces
  have its channel in common. Some lie in a loop that runs beside it, so the
  piece that runs the fewest times counts.
  """
  program = read_program(text)
  found = {}
  _walk(program, program.entry, 1, "", found)
  totals = {}
  for (kind, _), size in found.items():
    totals[kind] = totals.get(kind, 0) + size
  return totals


def _walk(program: Program, name: str, times: int, fused: str, found: dict):
  """Adds the collectives of one computation and of what it calls."""
  for instruction in program.computations[name]:
    if instruction.opcode == "while":
      body = instruction.attribute("body")
      if _sends(program, body):
        times_inside = times * trips(program, instruction)
        _walk(program, body, times_inside, fused, found)
      continue
    kind = instruction.opcode.removesuffix("-start")
    if kind in KINDS:
      channel = instruction.attribute("channel_id") or (name, instruction.name)
      size = times * _size(kind, instruction, program.computations[name])
      if kind == "all-reduce" and "all-reduce-scatter" in fused:
        kind = "reduce-scatter"
      found[kind, channel] = min(size, found.get((kind, channel), size))
    elif not instruction.opcode.endswith("-done"):
      inside = instruction.name if instruction.opcode == "fusion" else fused
      for called in instruction.called():
        _walk(program, called, times, f"{fused} {called} {inside}", found)


def _sends(program: Program, name: str) -> bool:
  """Whether a computation, or one that it calls, has a collective."""
  return any(
    instruction.opcode.removesuffix("-start") in KINDS
    or any(_sends(program, called) for called in instruction.called())
    for instruction in program.computations[name]
  )


def _size(kind, instruction, computation) -> int:
  """Bytes that the collective moves, of the arrays in its printed shape."""
  arrays = sizes(instruction.shape)
  if kind == "reduce-scatter":
    whole = {x.name: x for x in computation}
    return sum(sum(sizes(whole[x].shape)) for x in instruction.operands)
  if not instruction.opcode.endswith("-start") or kind == "all-reduce":
    return sum(arrays)
  # (what goes in, what comes out, and for a permutation its flags)
  count = len(instruction.operands)
  return sum(arrays[count : 2 * count])
