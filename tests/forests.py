"""Token groups for tests, without text: ragged, forked, repeated."""

import numpy as np

from rm_jax.data.pack import grow, lay
from rm_jax.data.plan import demand, make_plan
from rm_jax.types import TokenizedGroup

VOCAB = 96


def group(
  tokens,
  starts,
  *,
  record=0,
  pooling="last_token",
  labels=None,
  trunk=-1,
  language=False,
  step_ends=None,
):
  """A TokenizedGroup with slots as `pooling` places them.

  Ranks fall with the completion's index; labels default to ranks > 0.
  """
  k = len(tokens)
  labels = [float(i > 0) for i in range(k)] if labels is None else labels
  slots, marks, weights, spoken, reads = [], [], [], [], []
  for i, (t, start) in enumerate(zip(tokens, starts, strict=True)):
    every = np.arange(start, len(t), dtype=np.int32)
    ends = every[-1:] if pooling == "last_token" else every
    if step_ends is not None:
      ends = np.asarray(step_ends[i], np.int32)
    at = every if language else ends
    scored = np.isin(at, every[-1:] if pooling == "mean" else ends)
    slots.append(at)
    marks.append(np.full(len(at), labels[i], np.float32))
    if step_ends is not None:
      marks[-1] = (at % 3 - 1).astype(np.float32)
    weights.append(scored.astype(np.float32))
    spoken.append(np.full(len(at), float(language), np.float32))
    reads.append(len(at) - 1)
  pairs = [(i, j) for i in range(k) for j in range(i + 1, k)]
  return TokenizedGroup(
    tokens=tuple(np.asarray(t, np.int32) for t in tokens),
    slots=tuple(slots),
    outputs=tuple(np.zeros(len(s), np.int32) for s in slots),
    labels=tuple(marks),
    weights=tuple(weights),
    language_weights=tuple(spoken),
    reads=tuple(reads),
    comparisons=np.asarray(pairs, np.int32).reshape(-1, 2),
    margins=np.linspace(0, 1, len(pairs), dtype=np.float32),
    preferences=np.ones(len(pairs), np.float32),
    comparison_weights=np.full(len(pairs), 1 / max(len(pairs), 1), np.float32),
    ranks=np.arange(k, dtype=np.int32),
    weight=1.0,
    trunk=trunk,
    record=record,
    strengths=np.full(len(pairs), np.nan, np.float32),
  )


def ragged_groups(seed=0, **how):
  """K = 1 .. 9: branches of length 1, identical completions, long prefixes."""
  rng = np.random.default_rng(seed)
  groups = []

  def draw(n):
    return rng.integers(1, VOCAB, n).tolist()

  for k in range(1, 10):
    prompt = draw(int(rng.integers(2, 14)))
    tails = [draw(int(rng.integers(1, 9))) for _ in range(k)]
    if k == 4:
      tails[1] = tails[0][:1]  # a branch of length 1, and a prefix of another
    if k == 5:
      tails[2] = list(tails[4])  # identical completions
    if k == 6:
      tails = [tails[0][:2] + t for t in tails]  # the prefix reaches further
    groups.append(
      group(
        [prompt + t for t in tails],
        [len(prompt)] * k,
        record=len(groups),
        **how,
      )
    )
  return groups


def forked_group(seed=0, record=0, **how):
  """A step tree: completion 0 is the trunk, others leave it at four depths."""
  rng = np.random.default_rng(seed)
  main = rng.integers(1, VOCAB, 18).tolist()
  others = [
    main[:cut] + rng.integers(1, VOCAB, n).tolist()
    for cut, n in ((3, 4), (9, 1), (14, 6), (17, 2))
  ]
  tokens = [main, *others]
  return group(tokens, [2] * len(tokens), record=record, trunk=0, **how)


def batches(
  groups,
  *,
  layout,
  row_len,
  blocks,
  num_steps=1,
  rows=None,
  geometry=None,
  **how,
):
  """Packs groups in order; [(Batch, Owners)] and the plan.

  `rows` and `geometry` replace the planned capacities by larger ones, so that
  layouts share one compilation.
  """
  settings = (
    dict(
      batch="groups",
      groups_per_batch=len(groups),
      rows_per_batch=0,
      align=1,
      seed=0,
      shuffle=False,
    )
    | how
  )
  align = settings["align"]
  pieces = [
    grow(g, layout=layout, row_len=row_len, align=align) for g in groups
  ]
  demands = [demand(g, p) for g, p in zip(groups, pieces, strict=True)]
  plan = make_plan(
    demands,
    num_steps=num_steps,
    layout=layout,
    row_len=row_len,
    blocks=blocks,
    **settings,
  )
  out = []
  for step in plan.steps:
    ids = [p.group for p in step.places]
    out.append(
      lay(
        [groups[i] for i in ids],
        [pieces[i] for i in ids],
        list(step.places),
        rows=rows or step.rows,
        geometry=geometry or plan.geometry,
      )
    )
  return out, plan
