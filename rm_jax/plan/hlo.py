"""The text of a compiled program as computations and instructions."""

import re
from typing import NamedTuple

CALLED = re.compile(
  r"(?:calls|to_apply|body|condition|true_computation|false_computation)"
  r"=%?([\w.\-]+)"
)
SEVERAL = re.compile(r"(?:branch_computations|called_computations)=\{([^}]*)\}")
SHAPE = re.compile(r"\b(pred|[suf]\d+\w*|bf16|c\d+)\[([\d,]*)\]")
BITS = {"pred": 8, "bf16": 16}


class Instruction(NamedTuple):
  """One line of a computation."""

  name: str
  shape: str  # as printed, layouts included
  opcode: str
  operands: tuple  # names
  rest: str  # attributes; of a constant its value

  def attribute(self, name: str) -> str | None:
    """The value of name=value, None where there is none."""
    found = re.search(rf"\b{name}=%?([\w.\-]+)", self.rest)
    return found and found[1]

  def called(self) -> list[str]:
    """Names of the computations that it calls."""
    names = CALLED.findall(self.rest)
    for several in SEVERAL.findall(self.rest):
      names += [x.strip().lstrip("%") for x in several.split(",")]
    return names


class Program(NamedTuple):
  """All computations of a module and the name of the one it begins with."""

  computations: dict  # name -> tuple of Instruction; the last one is the root
  entry: str


def read_program(text: str) -> Program:
  """Parses what `compiled.as_text()` gives.

  A computation ends at a line that is exactly "}", or names the thread it runs
  on behind it: kernels print a config of several lines, some of which begin
  with one.
  """
  computations, entry, name, lines = {}, "", None, []
  for line in text.splitlines():
    if name is None:
      found = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
      if found:
        name, lines = found[2], []
        entry = name if found[1] else entry
    elif line == "}" or line.startswith("}, execution_thread="):
      computations[name] = tuple(_in_order(lines))
      name = None
    else:
      lines.append(line)
  return Program(computations, entry)


def _in_order(lines):
  """Instructions of one computation, its root last."""
  found, root = [], None
  for line in lines:
    instruction = _instruction(line)
    if instruction is None:
      continue
    if line.lstrip().startswith("ROOT "):
      root = instruction
    else:
      found.append(instruction)
  return found if root is None else [*found, root]


def _instruction(line):
  found = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)$", line)
  if not found:
    return None
  name, text = found.groups()
  end = _closing(text) if text.startswith("(") else text.find(" ")
  shape, text = text[:end], text[end:].strip()
  opcode = re.match(r"([\w\-]+)\(", text)
  if not opcode:
    return None
  text = text[opcode.end() - 1 :]
  end = _closing(text)
  inside, rest = text[1 : end - 1], text[end:]
  operands = tuple(re.findall(r"%([\w.\-]+)", inside))
  if opcode[1] == "constant":
    rest = inside + rest
  return Instruction(name, shape, opcode[1], operands, rest)


def _closing(text: str) -> int:
  """Position after the parenthesis that closes the first character."""
  depth = 0
  for at, letter in enumerate(text):
    depth += (letter == "(") - (letter == ")")
    if not depth:
      return at + 1
  return len(text)


def sizes(shape: str) -> list[int]:
  """Bytes of every array of a shape, in the order printed."""
  found = []
  for kind, dims in SHAPE.findall(re.sub(r"\{[^{}]*\}", "", shape)):
    bits = BITS.get(kind) or int(re.search(r"\d+", kind)[0])
    count = 1
    for dim in dims.split(","):
      count *= int(dim or 1)
    found.append(-(-count * bits // 8))
  return found


def trips(program: Program, loop: Instruction) -> int:
  """How often the body of a `while` runs.

  From `counter < N` of its condition and the counter's step in its body: the
  programs of a TPU do not state it.

  Raises:
    ValueError: the loop does not count up to a constant.
  """
  condition = program.computations[loop.attribute("condition")]
  body = program.computations[loop.attribute("body")]
  inside = {x.name: x for x in condition}
  test = condition[-1]
  if test.opcode == "fusion":  # the compare lies in a computation of its own
    arguments = [inside[x] for x in test.operands]
    condition = program.computations[test.called()[0]]
    passed = {
      x.name: arguments[int(x.rest.split(")")[0] or 0)]
      for x in condition
      if x.opcode == "parameter" and x.rest.split(")")[0].isdigit()
    }
    inside |= {x.name: passed.get(x.name, x) for x in condition}
    test = condition[-1]
  if test.opcode != "compare" or "direction=LT" not in test.rest:
    raise ValueError(f"loop {loop.name}: cannot read its condition {test}")
  counter, limit = (inside[x] for x in test.operands)
  index = counter.attribute("index")
  if counter.opcode != "get-tuple-element" or limit.opcode != "constant":
    raise ValueError(f"loop {loop.name}: no counter against a constant")
  return -(-int(limit.rest.split(",")[0]) // _step(body, int(index)))


def _step(body, index: int) -> int:
  """By how much a loop's body raises element `index` of its tuple."""
  inside = {x.name: x for x in body}
  added = inside[body[-1].operands[index]]
  while added.opcode == "copy":
    added = inside[added.operands[0]]
  if added.opcode == "add":
    for name in added.operands:
      if inside[name].opcode == "constant":
        return int(inside[name].rest.split(",")[0])
  raise ValueError(f"counter {added}: expected itself and a constant")
