"""Solutions of W-CHAIN to token groups, by the path that text takes."""

import numpy as np
from jaxtyping import Float

from rm_jax.data.loader import Dataset, Reading, Supervision, with_demands
from rm_jax.data.split import prompt_key
from rm_jax.data.supervise import supervise, supervise_for_scoring
from rm_jax.data.worlds.chain import (
  PROMPT,
  Problems,
  Solutions,
  is_line,
  line_end,
  token_rows,
)
from rm_jax.types import Encoded, Record


def solution_groups(
  problems: Problems,
  solutions: Solutions,
  picks,
  reading: Reading,
  supervision: Supervision | None,
  *,
  outcomes: Float[np.ndarray, "G K"] | None = None,
  steps: Float[np.ndarray, "G K 10"] | None = None,
) -> Dataset:
  """A Dataset of one group per pick.

  Args:
    picks: of (problem, solutions of it): which go together; without labels a
      pair, (chosen, rejected).
    supervision: None: to be scored, teaches nothing.
    outcomes: a label per solution, in [0, 1].
    steps: a label per line, in [0, 1]; NaN: none.
  """
  rows, counts = token_rows(problems, solutions)
  groups, prompts = [], []
  for n, (group, ks) in enumerate(picks):
    lines = solutions.lines[group, list(ks)]
    ends = tuple(line_end(np.arange(n)).astype(np.int32) for n in lines)
    tokens = tuple(rows[group, k, : counts[group, k]] for k in ks)
    encoded = Encoded(
      tokens=tokens,
      starts=(PROMPT,) * len(ks),
      reads=tuple(len(t) - 1 for t in tokens),
      step_ends=ends,
    )
    more, kind = {}, "unlabelled" if supervision is None else "pair"
    if outcomes is not None:
      kind = "outcome"
      more["labels"] = tuple(float(outcomes[group, k]) for k in ks)
    if steps is not None:
      kind = "steps"
      more["step_labels"] = tuple(
        tuple(steps[group, k, : len(own)].tolist())
        for k, own in zip(ks, ends, strict=True)
      )
    record = Record(
      kind=kind,
      prompt=f"problem {group}",  # it has no text; equal ones are equal prompts
      completions=("",) * len(ks),
      step_ends=tuple(tuple(own.tolist()) for own in ends),
      line=n + 1,
      **more,
    )
    how = dict(index=n, pooling=reading.pooling)
    if supervision is None:
      made = supervise_for_scoring(encoded, record, **how)
    else:
      made = supervise(encoded, record, **how, **supervision._asdict())
    groups.append(made)
    prompts.append(prompt_key(record))
  return with_demands(groups, reading, [], {}, prompts)


def prefix_groups(
  problems: Problems, solutions: Solutions, picks, reading: Reading
) -> Dataset:
  """A Dataset of one group per pick: a solution up to a line, to be scored.

  Args:
    picks: of (problem, solution, last line).
  """
  rows, _ = token_rows(problems, solutions)
  groups, prompts = [], []
  for n, (group, k, line) in enumerate(picks):
    tokens = rows[group, k, : line_end(line) + 1]
    ends = line_end(np.arange(line + 1)).astype(np.int32)
    encoded = Encoded(
      tokens=(tokens,),
      starts=(PROMPT,),
      reads=(len(tokens) - 1,),
      step_ends=(ends,),
    )
    record = Record(
      kind="unlabelled",
      prompt=f"problem {group}",
      completions=("",),
      step_ends=(tuple(ends.tolist()),),
      line=n + 1,
    )
    groups.append(
      supervise_for_scoring(encoded, record, index=n, pooling=reading.pooling)
    )
    prompts.append(prompt_key(record))
  return with_demands(groups, reading, [], {}, prompts)


def up_to_first_error(
  solutions: Solutions, *, neutral: float = 1.0
) -> Float[np.ndarray, "G K 10"]:
  """Step labels of an annotator: 1, 0 at the first wrong line, then NaN.

  Source: Lightman et al. 2023, arXiv:2305.20050, section 2.4.

  Args:
    neutral: label of a right line that leads nowhere; 0.5: its own class.
  """
  line = np.arange(solutions.follows.shape[-1])
  first = solutions.first_error[..., None]
  labels = np.where(solutions.neutral, neutral, 1.0)
  labels = np.where(line == first, 0.0, labels)
  known = is_line(solutions) & ((first < 0) | (line <= first))
  return np.where(known, labels, np.nan)
