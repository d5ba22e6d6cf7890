"""Scores of tokenised groups: laid out in rows, one forward pass per batch."""

import functools

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from rm_jax.data.loader import Dataset, Reading
from rm_jax.data.plan import Plan, make_eval_plan
from rm_jax.models.sharding import RULES, put_blocks, put_evenly
from rm_jax.objectives import LossSpec
from rm_jax.reward_model import ModelSpec, abstract_backbones
from rm_jax.train.evaluate import Scored, eval_body, score_dataset

ROWS = 4  # of a batch when many groups are scored
SHORTEST_ROW = 64


def place(spec: ModelSpec, params, mesh: Mesh | None):
  """Parameters on the device, or over those of a mesh."""
  if mesh is None:
    return jax.device_put(params)
  return put_evenly(params, abstract_backbones(spec), mesh)


def score_groups(
  spec: ModelSpec,
  params,
  data: Dataset,
  *,
  reading: Reading,
  mesh: Mesh | None,
  loss: LossSpec | None,
  progress: str | None,
) -> Scored:
  """Every group scored once, with the sums of a loss.

  Args:
    params: as `place` puts them.
    data: groups whose trees were grown for `reading.row_len`, with the slots
      that the pooling of `spec` reads.
    loss: adds its sums; None: no sums.
    progress: a word before a progress bar; None: no bar.
  """
  plan = _plan(data, reading, mesh)
  evaluate = _compiled(spec, loss, mesh)
  with tqdm(
    total=len(plan.steps),
    desc=progress,
    unit="batch",
    disable=None if progress else True,
  ) as bar:

    def run(batch):
      out = jax.device_get(evaluate(params, {}, batch))
      bar.update(1)
      return out

    return score_dataset(run, data, plan)


def _plan(data: Dataset, reading: Reading, mesh: Mesh | None) -> Plan:
  """Rows for every group once; a block for each device of a mesh."""
  align, row_len = reading.align, reading.row_len
  # Alignment counts: a row shorter than a whole tree would never take it.
  total = sum(p.columns(align) for d in data.demands for p in d.pieces)
  rows, blocks = ROWS, 1
  if mesh is not None:
    blocks = mesh.size
  elif total <= row_len:  # one short row: no need to compute a long one
    row_len = min(row_len, max(SHORTEST_ROW, 1 << (total - 1).bit_length()))
    rows = 1
  return make_eval_plan(
    data.demands,
    blocks=blocks,
    rows=rows,
    row_len=row_len,
    layout=reading.layout,
    align=align,
  )


@functools.cache
def _compiled(spec: ModelSpec, loss: LossSpec | None, mesh: Mesh | None):
  """(params, frozen, batch in numpy) -> what `eval_body` returns."""
  body = eval_body(spec, loss, None)
  if mesh is None:
    return jax.jit(body)
  # Out whole: a few bytes a completion.
  run = jax.jit(body, out_shardings=NamedSharding(mesh, PartitionSpec()))

  def evaluate(params, frozen, batch):
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
      return run(params, frozen, put_blocks(batch, mesh))

  return evaluate
