"""Worlds to token groups: what tokenised text is, from records on."""

import numpy as np
from jaxtyping import Float, Int

from rm_jax.data.loader import Dataset, Reading, Supervision, with_demands
from rm_jax.data.split import prompt_key
from rm_jax.data.supervise import supervise, supervise_for_scoring
from rm_jax.data.worlds.utility import Texts
from rm_jax.types import Comparison, Encoded, Record


def tokens_of(texts: Texts, group: int, k: int) -> np.ndarray:
  """Prompt, completion and end token of one completion, int32."""
  count = int(texts.lengths[group, k]) + 1
  own = texts.completions[group, k, :count]
  return np.concatenate([texts.prompts[group], own]).astype(np.int32)


def chained(texts: Texts, order: Int[np.ndarray, "G K"]) -> Texts:
  """Completions of a prompt behind each other: the k-th is read after k others.

  Completion k of the result is the first k + 1 of `order`, each with its end,
  and has the gold of the last of them. Scored at its end it is what a row of
  all K under a plain causal mask gives there.
  """
  rows = np.arange(len(order))[:, None]
  own = texts.completions[rows, order]
  lengths, gold = texts.lengths[rows, order], texts.gold[rows, order]
  count, k, width = own.shape
  ends = np.cumsum(lengths + 1, 1)
  joined = np.zeros((count, k * width), own.dtype)
  for g in range(count):
    parts = [own[g, i, : lengths[g, i] + 1] for i in range(k)]
    joined[g, : ends[g, -1]] = np.concatenate(parts)
  every = np.broadcast_to(joined[:, None], (count, k, k * width))
  return Texts(texts.prompts, every, ends - 1, gold)


def encoded_groups(texts: Texts, picks) -> list[Encoded]:
  """The `Encoded` of each pick.

  Args:
    picks: of (group, completions): which completions of a prompt go together.
  """
  start = texts.prompts.shape[1]
  out = []
  for group, ks in picks:
    tokens = tuple(tokens_of(texts, group, k) for k in ks)
    out.append(
      Encoded(
        tokens=tokens,
        starts=(start,) * len(ks),
        reads=tuple(len(t) - 1 for t in tokens),
        step_ends=(np.zeros(0, np.int32),) * len(ks),
      )
    )
  return out


def dataset(
  texts: Texts,
  picks,
  reading: Reading,
  supervision: Supervision,
  *,
  ranks=None,
  strength=None,
  ratings=None,
  margins=None,
  labels=None,
  compare=None,
) -> Dataset:
  """A Dataset of one group per pick, by the path that text takes.

  Args:
    picks: of (group, completions); a pair is (chosen, rejected).
    ranks: int [G, K] by completion: the picks are rankings.
    strength: one per pick, of pairs.
    ratings: [G, K] by completion, of pairs: what a margin may read.
    margins: one per pick, of pairs: what the margin "record" reads.
    labels: float [G, K] by completion: the picks are outcomes.
    compare: per pick the comparisons (chosen, rejected, strength) of a group,
      by place in the pick.
  """
  names, keys = _names(texts), {}
  groups, prompts = [], []
  for n, ((group, ks), encoded) in enumerate(
    zip(picks, encoded_groups(texts, picks), strict=True)
  ):
    more, kind = {}, "pair"
    if compare is not None:
      kind = "comparisons"
      more["comparisons"] = tuple(
        Comparison(int(i), int(j), 1.0, float(s)) for i, j, s in compare[n]
      )
    elif ranks is not None:
      kind, more["ranks"] = "ranking", tuple(ranks[group, list(ks)].tolist())
    elif labels is not None:
      kind, more["labels"] = "outcome", tuple(labels[group, list(ks)].tolist())
    else:
      if strength is not None:
        more["strength"] = float(strength[n])
      if ratings is not None:
        more["ratings"] = tuple(ratings[group, list(ks)].tolist())
      if margins is not None:
        more["margin"] = float(margins[n])
    record = Record(
      kind=kind,
      prompt=names[group],
      completions=("",) * len(ks),  # they have no text, only tokens
      gold=tuple(texts.gold[group, list(ks)].tolist()),
      line=n + 1,
      **more,
    )
    made = supervise(
      encoded,
      record,
      index=n,
      pooling=reading.pooling,
      **supervision._asdict(),
    )
    groups.append(made)
    keys[group] = keys.get(group) or prompt_key(record)
    prompts.append(keys[group])
  return with_demands(groups, reading, [], {}, prompts)


def with_margins(data: Dataset, margins: Float[np.ndarray, " C"]) -> Dataset:
  """The same pairs with other margins: arms share what else they are made of.

  Args:
    margins: one per group, of groups with one comparison each.
  """
  told = np.asarray(margins, np.float32)[:, None]
  groups = [
    group._replace(margins=own)
    for group, own in zip(data.groups, told, strict=True)
  ]
  return data._replace(groups=groups)


def dataset_to_score(texts: Texts, picks, reading: Reading) -> Dataset:
  """A Dataset of groups that are scored and teach nothing."""
  names, groups, prompts = _names(texts), [], []
  for n, ((group, ks), encoded) in enumerate(
    zip(picks, encoded_groups(texts, picks), strict=True)
  ):
    record = Record(
      kind="unlabelled", prompt=names[group], completions=("",) * len(ks)
    )
    groups.append(
      supervise_for_scoring(encoded, record, index=n, pooling=reading.pooling)
    )
    prompts.append(prompt_key(record))
  return with_demands(groups, reading, [], {}, prompts)


def _names(texts: Texts) -> list[str]:
  return [" ".join(map(str, p)) for p in texts.prompts]
