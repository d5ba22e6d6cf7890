"""Metrics of scores against annotations: numpy, float64, no model and no batch.

Means over nothing are nan, never 0 or 1: the caller counts and reports them.
A NaN score is an error here, because every comparison with it is silently lost.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, Int

from rm_jax.types import ArrayLike, UserError

# Credit for equal scores. Reports use "half"; "drop" leaves the comparison out.
TIE_CREDIT = {"half": 0.5, "wrong": 0.0, "drop": math.nan}


def accuracy(
  chosen: Float[ArrayLike, "*C"],
  rejected: Float[ArrayLike, "*C"],
  *,
  ties: str,
) -> Float[np.ndarray, "*C"]:
  """Credit of each comparison: 1 right order, 0 wrong order, ties by policy.

  Its mean is the accuracy. Equal scores earn 1/2 ("half"), nothing ("wrong"),
  or are left out ("drop"): then only the kept comparisons come back, flat and
  in their order, so the mean is over those and the length says how many.

  Raises:
    ValueError: the shapes differ, a score is NaN, or `ties` is unknown.

  Example:
    >>> credit = accuracy([2.0, 1.0, 0.0], [1.0, 1.0, 1.0], ties="half")
    >>> print(f"{credit.mean():.4f}")
    0.5000
  """
  if ties not in TIE_CREDIT:
    raise UserError(
      f"accuracy: expected ties in {', '.join(TIE_CREDIT)}, got {ties!r}. "
      'Reports use "half".'
    )
  chosen, rejected = _same_shape("accuracy", chosen=chosen, rejected=rejected)
  credit = (chosen > rejected).astype(np.float64)
  tied = chosen == rejected
  if ties == "drop":
    return credit[~tied]
  return np.where(tied, TIE_CREDIT[ties], credit)


def roc_area(
  scores: Float[ArrayLike, "*N"], labels: Bool[ArrayLike, "*N"]
) -> float:
  """P(a true item scores higher than a false one), equal scores 1/2.

  The area under the receiver operating characteristic: 1/2 is chance, no
  threshold and no share of true items moves it. nan where one kind is missing.

  Source: Mann and Whitney 1947, their statistic over the number of pairs.

  Raises:
    ValueError: the shapes differ, labels are not boolean, or a score is NaN.

  Example:
    >>> print(f"{roc_area([3.0, 1.0, 1.0], [True, True, False]):.4f}")
    0.7500
  """
  _check_shapes("roc_area", scores=scores, labels=labels)
  (scores,) = _numbers("roc_area", scores=scores)
  labels = np.asarray(labels)
  if labels.dtype != bool:
    raise ValueError(
      f"roc_area: expected boolean labels, got {labels.dtype}. Compare them "
      "with a threshold."
    )
  false = np.sort(scores[~labels])
  true = scores[labels]
  if not len(false) or not len(true):
    return math.nan
  below = np.searchsorted(false, true, side="left")
  up_to = np.searchsorted(false, true, side="right")
  return float((below + up_to).sum() / (2 * len(true) * len(false)))


def best_of_n(
  proxy: Float[ArrayLike, "G M"], gold: Float[ArrayLike, "G M"], n: int
) -> Float[np.ndarray, " G"]:
  """Expected gold of the best of n by proxy, one value per group; exact.

  The expectation is over all subsets of n of the M completions, each as likely:
  with the completions sorted by proxy, the m-th of M is the best of a subset
  with probability

      C(m - 1, n - 1) / C(M, n)

  and completions of equal proxy share theirs equally. No sampling, no bias; n=1
  is the mean of gold, n = M its value at the highest proxy.

  Source: the unbiased estimator of Nakano et al. 2021 (WebGPT),
  arXiv:2112.09332, App. I, used by Gao et al. 2022, arXiv:2210.10760.

  Raises:
    ValueError: not two equal shapes [G, M], a NaN, or n outside of 1 ... M.

  Example:
    >>> value = best_of_n([[0.1, 0.2, 0.3]], [[3.0, 0.0, 6.0]], 2)
    >>> print(f"{value[0]:.4f}")
    4.0000
  """
  proxy, gold = _same_shape("best_of_n", proxy=proxy, gold=gold)
  if proxy.ndim != 2:
    raise ValueError(
      f"best_of_n: expected proxy and gold [G, M], got {proxy.shape}. A single "
      "group is [1, M]."
    )
  size = proxy.shape[1]
  if not (1 <= n <= size and n == int(n)):
    raise UserError(
      f"best_of_n: expected n from 1 to the {size} completions of a group, got "
      f"{n}. Subsets are drawn without replacement."
    )
  # C(m - 1, n - 1) / C(M, n) from m = M down: no factorial, no overflow.
  m = np.arange(size, 0, -1)
  at_most = np.cumprod(np.append(1.0, np.maximum(m[:-1] - n, 0) / m[:-1]))
  chance = (at_most * n / m)[::-1]
  order = np.argsort(proxy, axis=1, kind="stable")
  proxy = np.take_along_axis(proxy, order, axis=1)
  gold = np.take_along_axis(gold, order, axis=1)
  # Runs of equal proxy, numbered through all groups; each shares its chance.
  starts = np.ones(proxy.shape, bool)
  starts[:, 1:] = proxy[:, 1:] != proxy[:, :-1]
  run = np.cumsum(starts) - 1
  chance = np.broadcast_to(chance, proxy.shape).ravel()
  share = np.bincount(run, weights=chance) / np.bincount(run)
  return (share[run].reshape(gold.shape) * gold).sum(1)


def calibration_error(
  probabilities: Float[ArrayLike, "*C"],
  labels: Float[ArrayLike, "*C"],
  *,
  weights: Float[ArrayLike, "*C"] | None = None,
  bins: int = 15,
) -> float:
  """Expected calibration error over bins of equal width; 0 is calibrated.

      ECE = sum over bins b of W_b / W |mean_b(probability) - mean_b(label)|

  Bin k of B holds probabilities in ((k - 1)/B, k/B]; 0 belongs to the first.

  Source: Guo et al. 2017, arXiv:1706.04599, Eq. (3), 15 bins; there for the
  confidence of the predicted class, here for the probability of label 1.

  Args:
    labels: what happened, or the share of annotators who said so, in [0, 1].
    weights: importance of each item; None counts them alike.

  Raises:
    ValueError: the shapes differ, or a value is outside of its range.

  Example:
    >>> print(f"{calibration_error([0.9, 0.9, 0.3], [1, 0, 0]):.4f}")
    0.3667
  """
  probabilities, labels, weights = _judged(
    "calibration_error", probabilities, labels, weights
  )
  if bins < 1:
    raise UserError(f"calibration_error: expected bins >= 1, got {bins}.")
  # Compared with k/B itself: ceil(p * B) puts 0.7 of ten bins one too high.
  edges = np.arange(1, bins) / bins
  index = np.searchsorted(edges, probabilities, side="left")
  gap = np.bincount(index, weights * (probabilities - labels), bins)
  total = weights.sum()
  return float(np.abs(gap).sum() / total) if total else math.nan


def brier(
  probabilities: Float[ArrayLike, "*C"],
  labels: Float[ArrayLike, "*C"],
  *,
  weights: Float[ArrayLike, "*C"] | None = None,
) -> float:
  """Mean squared error of probabilities; a constant 1/2 gets 0.25.

      Brier = mean((p - y)^2)

  Source: Brier 1950, in the one-sided form for two outcomes.

  Raises:
    ValueError: the shapes differ, or a value is outside of its range.

  Example:
    >>> print(f"{brier([0.9, 0.9, 0.3], [1, 0, 0]):.4f}")
    0.3033
  """
  probabilities, labels, weights = _judged(
    "brier", probabilities, labels, weights
  )
  total = weights.sum()
  errors = (probabilities - labels) ** 2
  return float((weights * errors).sum() / total) if total else math.nan


def fit_temperature(
  score_diff: Float[ArrayLike, "*C"], labels: Float[ArrayLike, "*C"]
) -> float:
  """The T > 0 at which sigmoid(score_diff / T) fits the labels best.

      T = argmin mean(softplus(d / T) - y d / T)

  Convex in 1/T, so bisection on the derivative finds the one minimum. It exists
  only if the order is better than chance and not perfect; else the limit comes
  back: inf (probability 1/2 for all) or 0.0 (no T is small enough).

  Source: Guo et al. 2017, arXiv:1706.04599, Sec. 4.2. Margins and learning
  rates change the scale of the scores: compare log-losses after this fit, made
  on other data than it is reported on.

  Args:
    score_diff: differences d; chosen minus rejected with label 1, or any sign.
    labels: probability that the first of the two is better, in [0, 1].

  Raises:
    ValueError: the shapes differ, a difference is not finite, or a label is
      outside of [0, 1].

  Example:
    >>> temperature = fit_temperature([2.0, 2.0, 2.0, 2.0], [1, 1, 1, 0])
    >>> print(f"{temperature:.4f}")
    1.8205
  """
  score_diff, labels = _same_shape(
    "fit_temperature", score_diff=score_diff, labels=labels
  )
  _in_range("fit_temperature", "labels", labels, 0.0, 1.0)
  limit = np.finfo(np.float64).max
  _in_range("fit_temperature", "score_diff", score_diff, -limit, limit)
  largest = np.abs(score_diff).max(initial=0.0)
  if not largest:
    return math.nan  # no item, or no difference: every T fits alike
  score_diff = score_diff / largest

  def slope(inverse):
    # sigmoid by tanh: exp overflows where the scores are confident.
    probabilities = 0.5 + 0.5 * np.tanh(0.5 * inverse * score_diff)
    return ((probabilities - labels) * score_diff).sum()

  # As 1/T grows only pairs in the wrong order keep a slope.
  if (((score_diff > 0) - labels) * score_diff).sum() <= 0.0:
    return 0.0
  if slope(0.0) >= 0.0:
    return math.inf
  low, high = 0.0, 1.0
  while slope(high) < 0.0:
    low, high = high, 2.0 * high
  while low < (middle := 0.5 * (low + high)) < high:
    low, high = (middle, high) if slope(middle) < 0.0 else (low, middle)
  return float(largest / high)


def kendall_tau(
  scores: Float[ArrayLike, "*G K"],
  ranks: Int[ArrayLike, "*G K"],
  where: Bool[ArrayLike, "*G K"],
) -> Float[np.ndarray, "*G"]:
  """Kendall's tau-b of scores against ranks, one value per group; 1 agrees.

      tau_b = (agreeing - opposed) / sqrt(pairs untied in scores
                                          * pairs untied in ranks)

  over pairs of real items. Ranks are smaller for better, so a higher score for
  a smaller rank agrees. nan where all scores or all ranks are tied.

  Source: Kendall 1945.

  Raises:
    ValueError: the shapes differ, `where` is not boolean, or the score of a
      real item is NaN.

  Example:
    >>> print(f"{kendall_tau([3.0, 1.0, 2.0], [0, 1, 2], [True] * 3):.4f}")
    0.3333
  """
  _check_shapes("kendall_tau", scores=scores, ranks=ranks, where=where)
  where = np.asarray(where)
  if where.dtype != bool or not where.ndim:
    raise ValueError(
      f"kendall_tau: expected a boolean where [..., K], got {where.dtype} of "
      f"shape {where.shape}. Compare it with 0, or index it."
    )
  # Before the check for NaN: padding may hold anything.
  (scores,) = _numbers("kendall_tau", scores=np.where(where, scores, 0.0))
  ranks = np.where(where, ranks, 0)
  # By comparison, not by sign of a difference: inf - inf is NaN.
  higher = _exceeds(scores) - _exceeds(scores).swapaxes(-1, -2)
  better = _exceeds(ranks).swapaxes(-1, -2) - _exceeds(ranks)
  real = where[..., :, None] & where[..., None, :]
  agreement = (higher * better * real).sum((-2, -1))
  untied = (higher**2 * real).sum((-2, -1)) * (better**2 * real).sum((-2, -1))
  with np.errstate(invalid="ignore"):  # 0 / 0: no order, nan
    return agreement / np.sqrt(untied)


def first_error_f1(
  predicted: Int[ArrayLike, "*N"], gold: Int[ArrayLike, "*N"]
) -> float:
  """Harmonic mean of the accuracies on erroneous and on correct solutions.

      F1 = 2 e c / (e + c);   e = share of gold != -1 found exactly,
                              c = share of gold == -1 left alone

  0 where both are 0; nan where one of the two kinds is missing.

  Source: Zheng et al. 2024 (ProcessBench), arXiv:2412.06559. Its headline is
  the unweighted mean of four splits.

  Args:
    predicted: index of the first wrong step from 0, -1 for none. A missing
      prediction is anything else, nan or -2, and matches nothing.
    gold: the same, annotated.

  Raises:
    ValueError: the shapes differ, or a gold index is not an integer from -1.

  Example:
    >>> print(f"{first_error_f1([2, 0, -1, -1], [2, 1, -1, -1]):.4f}")
    0.6667
  """
  _check_shapes("first_error_f1", predicted=predicted, gold=gold)
  predicted = np.asarray(predicted, np.float64)
  gold = np.asarray(gold, np.float64)
  bad = ~((gold >= -1) & (gold == np.floor(gold)))
  if bad.any():
    raise UserError(
      "first_error_f1: expected gold to be -1 or the index of a step, got "
      f"{gold[bad][0]:g}. Leave out solutions without an annotation."
    )
  right = predicted == gold
  correct = gold == -1
  if correct.all() or not correct.any():
    return math.nan
  on_errors, on_correct = right[~correct].mean(), right[correct].mean()
  if not right.any():
    return 0.0
  return float(2 * on_errors * on_correct / (on_errors + on_correct))


def length_correlation(
  scores: Float[ArrayLike, "*N"],
  lengths: Float[ArrayLike, "*N"],
  *,
  group: Int[ArrayLike, "*N"] | None = None,
) -> float:
  """Pearson correlation of scores with lengths, in [-1, 1].

      r = sum(s l) / sqrt(sum(s^2) sum(l^2)),   s, l less their means

  With `group` the means are those of each group: what longer completions of one
  prompt gain, without prompts that have long answers and high scores. nan where
  scores or lengths do not vary.

  Source: Pearson 1895; within groups as in Singhal et al. 2023,
  arXiv:2310.03716.

  Args:
    group: the prompt of each item: any integers, or any strings.

  Raises:
    ValueError: the shapes differ, or a score is NaN.

  Example:
    >>> print(f"{length_correlation([1.0, 2.0, 4.0], [10, 30, 20]):.4f}")
    0.3273
  """
  scores, lengths = _same_shape(
    "length_correlation", scores=scores, lengths=lengths
  )
  if group is None:
    member = np.zeros(scores.size, int)
  else:
    _check_shapes("length_correlation", scores=scores, group=group)
    member = np.unique(np.ravel(group), return_inverse=True)[1]
  scores = _less_mean(scores.ravel(), member)
  lengths = _less_mean(lengths.ravel(), member)
  norm = math.sqrt((scores**2).sum()) * math.sqrt((lengths**2).sum())
  return float((scores * lengths).sum() / norm) if norm else math.nan


def bootstrap_interval(
  values: Float[ArrayLike, "*N"],
  *,
  groups: Int[ArrayLike, "*N"],
  level: float = 0.95,
  samples: int = 2000,
  seed: int,
) -> tuple[float, float]:
  """Percentile interval of the mean of values, by resampling whole groups.

  Comparisons of one prompt are not independent; drawing prompts with
  replacement keeps them together. Each sample's mean is over its items, so a
  prompt with more comparisons counts more, as it does in the plain mean. Fewer
  than two groups say nothing about the spread: (nan, nan).

  Source: Efron and Tibshirani 1993, Ch. 13 (percentile); Field and Welsh 2007
  (clusters).

  Args:
    groups: the prompt of each value, integers or strings; `range(N)` if each
      value is alone.
    seed: of numpy's default generator; the same seed gives the same interval.

  Raises:
    ValueError: the shapes differ, a value is NaN, level is not between 0 and 1,
      or samples < 1.

  Example:
    >>> values, groups = [1.0, 1.0, 0.0, 0.0], [0, 0, 1, 1]
    >>> low, high = bootstrap_interval(values, groups=groups, seed=0)
    >>> print(f"{low:.4f} {high:.4f}")
    0.0000 1.0000
  """
  _check_shapes("bootstrap_interval", values=values, groups=groups)
  (values,) = _numbers("bootstrap_interval", values=values)
  _check_level("bootstrap_interval", level)
  if samples < 1:
    raise UserError(
      f"bootstrap_interval: expected samples >= 1, got {samples}. Try 2000."
    )
  member = np.unique(np.ravel(groups), return_inverse=True)[1]
  sizes = np.bincount(member)
  if sizes.size < 2:
    return math.nan, math.nan
  totals = np.bincount(member, values.ravel())
  generator = np.random.default_rng(seed)
  even = np.full(sizes.size, 1.0 / sizes.size)
  # In parts: 2,000 samples of 20,000 groups would be 320 MB of counts at once.
  part = max(1, 4_000_000 // sizes.size)
  means = []
  for done in range(0, samples, part):
    count = min(part, samples - done)
    drawn = generator.multinomial(sizes.size, even, size=count)
    means.append((drawn @ totals) / (drawn @ sizes))
  tail = (1.0 - level) / 2
  low, high = np.quantile(np.concatenate(means), [tail, 1.0 - tail])
  return float(low), float(high)


def paired_interval(
  a: Float[ArrayLike, " N"], b: Float[ArrayLike, " N"], *, level: float = 0.95
) -> tuple[float, float, float, float]:
  """Mean of a - b, its t-interval (low, high), and the two-sided p-value.

      mean +- t_{N-1}((1 + level) / 2) sd(a - b) / sqrt(N)

  a[i] and b[i] share a seed (or a prompt): what both have in common cancels.
  One pair has no spread: low, high and p are nan. Differences that are all
  equal have no width: p is 0, or 1 if they are 0.

  Source: Student 1908.

  Raises:
    ValueError: the shapes differ, a value is NaN, or level is not between 0
      and 1.

  Example:
    >>> result = paired_interval([0.70, 0.74, 0.71], [0.68, 0.70, 0.71])
    >>> print("{:.4f} {:.4f} {:.4f} {:.4f}".format(*result))
    0.0200 -0.0297 0.0697 0.2254
  """
  from scipy import (
    stats,
  )  # here: half a second that other commands need not pay

  a, b = _same_shape("paired_interval", a=a, b=b)
  _check_level("paired_interval", level)
  difference = (a - b).ravel()
  count = difference.size
  if count < 2:
    mean = float(difference[0]) if count else math.nan
    return mean, math.nan, math.nan, math.nan
  mean = float(difference.mean())
  if np.ptp(difference) == 0.0:  # sd would be rounding
    return mean, mean, mean, float(difference[0] == 0.0)
  error = float(difference.std(ddof=1)) / math.sqrt(count)
  reach = float(stats.t.ppf((1.0 + level) / 2, count - 1)) * error
  p = float(2.0 * stats.t.sf(abs(mean) / error, count - 1))
  return mean, mean - reach, mean + reach, p


def _same_shape(caller, **arguments):
  """Returns the arguments as float64 arrays of one shape, without NaN."""
  _check_shapes(caller, **arguments)
  return _numbers(caller, **arguments)


def _check_shapes(caller, **arguments):
  first = next(iter(arguments))
  for name, value in arguments.items():
    if np.shape(value) != np.shape(arguments[first]):
      raise ValueError(
        f"{caller}: expected equal shapes, got {first} "
        f"{np.shape(arguments[first])} and {name} {np.shape(value)}. Pass one "
        "value of each per item."
      )


def _numbers(caller, **arguments):
  """Returns the arguments as float64 arrays without NaN."""
  arrays = [np.asarray(value, np.float64) for value in arguments.values()]
  for name, array in zip(arguments, arrays, strict=True):
    if np.isnan(array).any():
      at = tuple(int(i) for i in np.argwhere(np.isnan(array))[0])
      raise ValueError(
        f"{caller}: expected numbers, got NaN in {name} at index {at}. Find "
        "out why it has no value; leave the item out and count it."
      )
  return arrays


def _judged(caller, probabilities, labels, weights):
  """Returns checked probabilities, labels and weights, flat."""
  if weights is None:
    weights = np.ones(np.shape(probabilities))
  probabilities, labels, weights = _same_shape(
    caller, probabilities=probabilities, labels=labels, weights=weights
  )
  _in_range(caller, "probabilities", probabilities, 0.0, 1.0)
  _in_range(caller, "labels", labels, 0.0, 1.0)
  _in_range(caller, "weights", weights, 0.0, np.finfo(np.float64).max)
  return probabilities.ravel(), labels.ravel(), weights.ravel()


def _in_range(caller, name, array, low, high):
  outside = (array < low) | (array > high)
  if outside.any():
    raise ValueError(
      f"{caller}: expected {name} from {low:g} to {high:g}, got "
      f"{array[outside][0]:g}. Convert it first, or leave the item out."
    )


def _check_level(caller, level):
  if not 0.0 < level < 1.0:
    raise UserError(
      f"{caller}: expected level between 0 and 1, got {level}. 95 % is 0.95."
    )


def _exceeds(values):
  """Returns [..., K, K]: 1.0 where value i is greater than value j."""
  return (values[..., :, None] > values[..., None, :]).astype(np.float64)


def _less_mean(values, member):
  """Returns values less the mean of their group; exactly 0 where all equal."""
  count = np.maximum(np.bincount(member), 1)
  means = np.bincount(member, values) / count
  centred = values - means[member]
  # The mean of equal numbers is off by rounding, and noise correlates with
  # anything: a group of equal values is 0, not 1e-17.
  low = np.full(count.size, np.inf)
  high = np.full(count.size, -np.inf)
  np.minimum.at(low, member, values)
  np.maximum.at(high, member, values)
  return np.where((low == high)[member], 0.0, centred)
