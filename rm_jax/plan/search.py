"""Meshes and settings of one config on one slice, compiled and ranked."""

import itertools
import sys
from typing import NamedTuple

from tqdm import tqdm

from rm_jax.plan.compile import Compiled, compile_step
from rm_jax.plan.report import GIB, bounds
from rm_jax.plan.slices import Slice
from rm_jax.types import UserError

TENSOR = (1, 2, 4, 8)
DATA = (1, 2, 4, 8)
ROWS = (1, 2, 4, 8)
MOMENTS = ("float32", "bfloat16")


class Choice(NamedTuple):
  """What a search changes in a config; rows of a batch stay as many."""

  data: int
  fsdp: int
  tensor: int
  rows: int  # of a micro-batch and chip, or group of tensor chips
  micro_batches: int
  remat: bool
  moments: str

  def apply(self, config):
    """A copy of the config with this choice."""
    c = config.copy_and_resolve_references()
    c.mesh.update(data=self.data, fsdp=self.fsdp, tensor=self.tensor)
    c.train.accumulate = self.micro_batches
    c.data.blocks = self.data * self.fsdp * self.micro_batches
    c.compute.remat = self.remat
    c.optim.momentum_dtype = self.moments
    return c

  def flags(self) -> str:
    """The flags that make a config this choice."""
    pairs = {
      "mesh.data": self.data,
      "mesh.fsdp": self.fsdp,
      "mesh.tensor": self.tensor,
      "train.accumulate": self.micro_batches,
      "data.blocks": self.data * self.fsdp * self.micro_batches,
      "compute.remat": self.remat,
      "optim.momentum_dtype": self.moments,
    }
    return " ".join(f"--config.{k}={v}" for k, v in pairs.items())


def choices(config, devices: int, shape) -> list[Choice]:
  """Every choice that gives a batch of as many rows as the config's.

  Args:
    shape: the decoder of the config.
  """
  total, found = config.data.rows_per_batch, []
  # adafactor has no first moments to round.
  moments = MOMENTS if config.optim.name == "adamw" else MOMENTS[:1]
  for tensor, data in itertools.product(TENSOR, DATA):
    fsdp = devices // (tensor * data)
    if fsdp * tensor * data != devices or shape.heads % tensor:
      continue
    if shape.width % fsdp or shape.kv_heads % tensor:
      continue
    for rows in ROWS:
      each = data * fsdp * rows
      if total % each:
        continue
      for how in itertools.product((True, False), moments):
        found.append(Choice(data, fsdp, tensor, rows, total // each, *how))
  return found


def estimate(choice: Choice, config, where: Slice, shape) -> tuple:
  """(seconds, bytes): a bound and a part of memory, without a compiler.

  Only to put choices in order: matrices of the layers, what is gathered and
  scattered of them, and what tensor chips exchange of the residual stream.
  """
  c, chip = shape, where.chip
  layer = c.width * c.head_dim * (2 * c.heads + 2 * c.kv_heads)
  layer += (3 if c.gated else 2) * c.width * c.mlp_width
  weights = c.layers * layer + c.vocab_size * c.width
  tokens = choice.rows * config.data.row_len * choice.micro_batches
  passes = 4 if choice.remat else 3
  compute = 2 * passes * c.layers * layer * tokens / choice.tensor
  size = 2 if config.compute.results == "bfloat16" else 4
  sent = 0.0
  if choice.fsdp > 1:
    sent += 3 * weights * size / choice.tensor * choice.micro_batches
  if choice.data > 1:
    sent += weights * 4 / (choice.fsdp * choice.tensor)
  if choice.tensor > 1:
    # Gathered and scattered twice a layer, each pass; kept by no one.
    sent += 2 * passes * c.layers * tokens * c.width * size
  seconds = max(compute / chip.flops, sent / chip.link_bandwidth)
  moments = 8 if choice.moments == "float32" else 6
  state = weights * (4 + moments) / (choice.fsdp * choice.tensor)
  kept = c.width
  if not choice.remat:  # test_what_a_scanned_layer_keeps_for_the_way_back
    kept += c.width + 2 * c.head_dim * (c.heads + c.kv_heads)
    kept += (2 if c.gated else 1) * c.mlp_width
  streams = choice.rows * config.data.row_len * c.layers * kept * size
  return seconds, state + streams / choice.tensor


def search(config, where: Slice, *, num_slices: int, limit: int) -> str:
  """A table of compiled choices, the least bound per token first.

  The `limit` most promising by estimate are compiled; a progress bar counts
  them where stderr is a terminal.

  Raises:
    UserError: batches of groups, or no mesh that fits the batch.
  """
  from rm_jax.plan.shapes import find_decoder
  from rm_jax.train.init import first_layers

  if config.data.batch == "groups":
    raise UserError(
      "--search keeps the rows of a batch, which config.data.batch='groups' "
      "does not say: add --rows_per_chip."
    )
  shape = find_decoder(config.init["from"])
  if config.init.layers:
    shape, _ = first_layers(shape, None, config.init.layers)
  devices = where.chips * where.chip.devices * num_slices
  every = [
    c for c in choices(config, devices, shape) if c.data % num_slices == 0
  ]
  judged = [(estimate(c, config, where, shape), c) for c in every]
  hbm = where.chip.hbm / where.chip.devices
  promising = sorted(
    (e[0], c.moments != "float32", c) for e, c in judged if e[1] < hbm
  )[:limit]
  if not promising:
    raise UserError(
      f"no mesh of {where.name} holds {config.data.rows_per_batch} rows a "
      f"batch of this model ({len(every)} were looked at). Take a larger slice."
    )
  found, refused = [], []
  bar = tqdm(promising, unit="plan", disable=not sys.stderr.isatty())
  for _, _, choice in bar:
    own = choice.apply(config)
    try:
      plan = compile_step(own, where, num_slices=num_slices, rows=choice.rows)
    except UserError as error:  # an axis of the model that this mesh cuts
      refused.append((choice, str(error)))
    else:
      found.append((choice, plan))
  if not found:
    raise UserError(refused[0][1])
  return ranking(found, where, config.data.row_len, len(every), refused)


def ranking(
  found: list[tuple[Choice, Compiled]],
  where: Slice,
  row_len: int,
  looked_at: int,
  refused: list[tuple[Choice, str]] = (),
) -> str:
  """The table of `search`; of what fits first that of the least chip seconds.

  Args:
    looked_at: choices that there were.
    refused: choices that make no step, and why.
  """

  def per_token(item):
    choice, plan = item
    tokens = choice.rows * choice.micro_batches * row_len
    return max(bounds(plan, where).values()) / tokens * choice.tensor

  fit = sorted((x for x in found if x[1].fits), key=per_token)
  lines = [
    f"{where.name}: {len(found)} of {looked_at} choices compiled, {len(fit)} "
    "fit; bounds, not times",
    "",
    "data fsdp tensor  rows x micro  remat moments   peak GiB  coll GiB  "
    "us/token  bound by",
  ]
  for choice, plan in fit:
    known = bounds(plan, where)
    sent = sum(plan.collectives.values()) / GIB
    lines.append(
      f"{_words(choice)}  {plan.peak / GIB:8.2f}  {sent:8.1f}  "
      f"{per_token((choice, plan)) * 1e6:8.2f}  {max(known, key=known.get)}"
    )
  for choice, plan in (x for x in found if not x[1].fits):
    lines.append(f"{_words(choice)}  does not fit ({_needed(plan)})")
  lines += [f"{_words(choice)}  refused: {why}" for choice, why in refused]
  if fit:
    lines += ["", f"best: {fit[0][0].flags()}"]
  return "\n".join(lines)


def _words(c: Choice) -> str:
  return (
    f"{c.data:4} {c.fsdp:4} {c.tensor:6}  {c.rows:4} x {c.micro_batches:5}  "
    f"{'yes' if c.remat else 'no':5} {c.moments:9}"
  )


def _needed(plan: Compiled) -> str:
  return f"about {plan.needed / GIB:.1f} GiB"
