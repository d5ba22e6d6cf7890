"""Runs on the token world W-UTIL: their config, their data, their measures."""

import numpy as np
from ml_collections import ConfigDict

from rm_jax.ablation.lanes import fit
from rm_jax.config import base
from rm_jax.data.loader import Dataset
from rm_jax.data.worlds import utility
from rm_jax.data.worlds.groups import dataset, dataset_to_score
from rm_jax.data.worlds.utility import Texts
from rm_jax.metrics import accuracy, calibration_error, length_correlation
from rm_jax.train.evaluate import Scored
from rm_jax.train.fit import Fitted
from rm_jax.train.labels import sigmoid
from rm_jax.train.tasks import read_tasks

EVAL_ROWS = 256


def token_config(
  *, seed: int, steps: int, groups: int, loss: str, rate: float
) -> ConfigDict:
  """A run of `steps` train steps of `groups` groups, one completion a row.

  Padded, so that the shapes do not depend on the lengths that a seed drew: all
  seeds of an arm share one compilation.
  """
  c = base()
  c.seed, c.num_train_steps = seed, steps
  c.init["from"] = "random:mini"
  c.loss.name = loss
  c.data.source = "world:utility"  # not read: the groups come from the world
  c.data.row_len, c.data.layout = utility.ROW, "padded"
  c.data.blocks, c.data.groups_per_batch = 1, groups
  c.optim.lr, c.optim.weight_decay = rate, 0.0
  c.optim.warmup_steps = min(10, steps - 1)
  c.evals.rows = EVAL_ROWS
  c.compute.dtype, c.compute.remat = "float32", False
  return c


def groups_of(config, texts: Texts, picks, *, task: int = 0, **how) -> Dataset:
  """The groups of the picks, supervised as the config says."""
  own = read_tasks(config)[task]
  return dataset(texts, picks, own.reading, own.supervision, **how)


def groups_to_score(
  texts: Texts, count: int | None = None, *, config=None
) -> Dataset:
  """All completions of the first `count` prompts, to be scored by any arm.

  Args:
    config: of the arm, where its rows are not those of `token_config`.
  """
  c = config or _to_score()
  return dataset_to_score(texts, whole(texts)[:count], read_tasks(c)[0].reading)


def _to_score() -> ConfigDict:
  return token_config(seed=0, steps=2, groups=1, loss="bradley_terry", rate=0.0)


def pool_to_score(texts: Texts, part: int) -> Dataset:
  """As `groups_to_score`, for prompts with more completions than a batch.

  Args:
    part: completions that go together; divides those of a prompt. The scores
      of a prompt's parts follow each other: `pool_scores` puts them together.
  """
  count, k = texts.gold.shape
  picks = [
    (group, tuple(range(start, start + part)))
    for group in range(count)
    for start in range(0, k, part)
  ]
  return dataset_to_score(texts, picks, read_tasks(_to_score())[0].reading)


def pool_scores(scored: Scored, texts: Texts) -> np.ndarray:
  """Scores of `pool_to_score`, float64 [G, K]."""
  return scores_of(scored).reshape(texts.gold.shape)


def whole(texts: Texts) -> list:
  """Picks of all completions of every prompt together."""
  count, k = texts.gold.shape
  return [(group, tuple(range(k))) for group in range(count)]


def run(config, train: Dataset, test: Dataset, **how) -> Fitted:
  """`fit` with the vocabulary of the world."""
  return fit(config, train, test, vocabulary=utility.VOCABULARY, **how)


def scores_of(scored: Scored) -> np.ndarray:
  """Scores of groups of one size, float64 [G, K]."""
  return np.asarray(scored.completions, np.float64)


def ranked_pairs(ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Flat places (better, worse) in [G, K] of every ordered pair of a group."""
  count, k = ranks.shape
  group, i, j = np.nonzero(ranks[:, :, None] < ranks[:, None, :])
  return group * k + i, group * k + j


def log_loss(difference: np.ndarray) -> float:
  """Mean of softplus(-difference): that of Bradley-Terry without margin."""
  return float(np.mean(np.logaddexp(0.0, -difference)))


def measures(scores, chosen, rejected, texts: Texts) -> dict[str, float]:
  """What every run reports of its comparisons; equal scores count one half.

  Args:
    scores: [G, K], of the completions of `texts`.
    chosen, rejected: flat places in it.
  """
  flat = scores.ravel()
  difference = flat[chosen] - flat[rejected]
  gold = texts.gold.ravel()
  probability = sigmoid(difference)
  both = np.concatenate([probability, 1 - probability])
  labels = np.repeat([1.0, 0.0], len(difference))
  group = np.repeat(np.arange(len(scores)), scores.shape[1])
  first, second = ranked_pairs(np.argsort(np.argsort(-texts.gold)))
  right = accuracy(flat[first], flat[second], ties="half")
  return {
    "log_loss": log_loss(difference),
    "accuracy": float(
      np.mean(accuracy(flat[chosen], flat[rejected], ties="half"))
    ),
    "gold_accuracy": float(np.mean(right)),
    "gold_correlation": float(np.corrcoef(flat, gold)[0, 1]),
    "calibration_error": calibration_error(both, labels),
    "score_mean": float(flat.mean()),
    "score_std": float(flat.std()),
    "length_correlation": length_correlation(
      flat, texts.lengths.ravel().astype(float), group=group
    ),
  }


def costs(fitted: Fitted) -> dict[str, float]:
  """What a run computed, and its loss over the last tenth of its steps."""
  tail = fitted.losses[-max(1, len(fitted.losses) // 10) :]
  return {
    "train_loss": float(np.mean(tail)),
    "train_tokens": float(fitted.tokens),
    "forward_passes": float(fitted.completions),
  }
