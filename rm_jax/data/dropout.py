"""From what the dropout masks of a train step are drawn."""

import numpy as np

from rm_jax.data.pack import Geometry
from rm_jax.data.state_rows import batch_rows

TOKENS = 32  # bits for the tokens of one group


def dropout_ids(
  groups: list,
  pieces: list[tuple],
  places: list,
  *,
  seed: int,
  step: int,
  rows: int,
  geometry: Geometry,
) -> np.ndarray:
  """A number per token of a batch, uint32 [N, R, L].

      mix(group of the data set, token of its tree; seed, step)

  Data, like the order of the groups: it is the same for all copies of a token
  of one train step, in every layout, on every mesh, in any number of hosts or
  micro-batches and after a restart, and another one at the next train step.
  Two of n tokens share a number with chance n^2 / 2^33, then a mask: no harm.

  Args:
    groups, pieces, places, rows, geometry: as `lay` takes them.
    seed: of the run, 0 or more.
    step: from 0.
  """
  firsts = {p.group: p.group << TOKENS for p in places}
  shape = dict(rows=rows, geometry=geometry)
  token = batch_rows(groups, pieces, places, firsts, **shape).astype(np.uint64)
  (start,) = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)
  return (_mixed(_mixed(token) ^ start) >> np.uint64(32)).astype(np.uint32)


def _mixed(x: np.ndarray) -> np.ndarray:
  """One to one on uint64; every bit of x moves every bit of the result.

  Source: the finaliser of SplitMix64, Steele et al. 2014 (OOPSLA).
  """
  for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
    x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)  # modulo 2^64
  return x ^ (x >> np.uint64(31))
