"""Margins: how much better the annotator called the chosen completion.

Pure numpy functions of what a record holds, applied when data is read; the loss
is `bradley_terry_margin`. Two kinds, never mixed: functions of two absolute
ratings, and functions of one comparative strength (0 negligible or unsure, 1
slightly, 2 better, 3 significantly better).

Functions of ratings are odd in chosen - rejected: where the ratings contradict
the label the margin is negative, and it is never negative elsewhere. Only
`constant_one` is 1 whatever they say. A margin is in units of score, so its
scale is part of the ablation: on a scale of 1 to 5 the differences are 0 to 4,
and a margin of 3 asks for 95 % confidence.
"""

import numpy as np
from jaxtyping import Float

from rm_jax.types import ArrayLike, UserError

Margin = Float[np.ndarray, "*C"]


def none(
  chosen_rating: Float[ArrayLike, "*C"], rejected_rating: Float[ArrayLike, "*C"]
) -> Margin:
  """Margin 0: the plain Bradley-Terry loss, the control of every ablation.

  Example:
    >>> print(f"{none(5, 2):.4f}")
    0.0000
  """
  return 0.0 * np.abs(_difference("none", chosen_rating, rejected_rating))


def constant_one(
  chosen_rating: Float[ArrayLike, "*C"], rejected_rating: Float[ArrayLike, "*C"]
) -> Margin:
  """Margin 1 for every pair: does the annotation matter, or any margin?

  Source: the constant target margin of Meng et al. 2024 (SimPO),
  arXiv:2405.14734, here on scores; the value 1 is ours.

  Example:
    >>> print(f"{constant_one(5, 2):.4f}")
    1.0000
  """
  return 1.0 + 0.0 * _difference("constant_one", chosen_rating, rejected_rating)


def rating_difference(
  chosen_rating: Float[ArrayLike, "*C"], rejected_rating: Float[ArrayLike, "*C"]
) -> Margin:
  """Difference of the two ratings: 5 against 2 gives 3.

      margin = chosen_rating - rejected_rating

  Source: a common reading of Llama 2's margin, which in the paper is a function
  of one comparative rating (`llama2_small`, `llama2_large`).

  Example:
    >>> print(f"{rating_difference(5, 2):.4f}")
    3.0000
  """
  return _difference("rating_difference", chosen_rating, rejected_rating)


def rating_log1p(
  chosen_rating: Float[ArrayLike, "*C"], rejected_rating: Float[ArrayLike, "*C"]
) -> Margin:
  """Logarithm of the difference: the first point counts most.

      margin = sign(d) log(1 + |d|),   d = chosen_rating - rejected_rating

  Source: after Amini et al. 2024 (offset DPO), arXiv:2402.10571, whose offset
  is a scaled logarithm of d; the 1 is ours, so that equal ratings give 0.

  Example:
    >>> print(f"{rating_log1p(5, 2):.4f}")
    1.3863
  """
  difference = _difference("rating_log1p", chosen_rating, rejected_rating)
  return np.sign(difference) * np.log1p(np.abs(difference))


def rating_sqrt(
  chosen_rating: Float[ArrayLike, "*C"], rejected_rating: Float[ArrayLike, "*C"]
) -> Margin:
  """Square root of the difference: concave, but without a flat end.

      margin = sign(d) sqrt(|d|),   d = chosen_rating - rejected_rating

  Source: ours; between `rating_difference` and `rating_log1p` for d above 1.

  Example:
    >>> print(f"{rating_sqrt(5, 2):.4f}")
    1.7321
  """
  difference = _difference("rating_sqrt", chosen_rating, rejected_rating)
  return np.sign(difference) * np.sqrt(np.abs(difference))


def rating_squared(
  chosen_rating: Float[ArrayLike, "*C"], rejected_rating: Float[ArrayLike, "*C"]
) -> Margin:
  """Square of the difference: convex, separable pairs get nearly all of it.

      margin = sign(d) d^2,   d = chosen_rating - rejected_rating

  Source: ours; the opposite of the concave ones. 9 for 5 against 2 is far
  outside of usual score differences: the arm that should break first.

  Example:
    >>> print(f"{rating_squared(5, 2):.4f}")
    9.0000
  """
  difference = _difference("rating_squared", chosen_rating, rejected_rating)
  return difference * np.abs(difference)


def rating_tanh(
  chosen_rating: Float[ArrayLike, "*C"], rejected_rating: Float[ArrayLike, "*C"]
) -> Margin:
  """Saturating difference: ratings order pairs, but no margin exceeds 1.

      margin = tanh(chosen_rating - rejected_rating)

  Source: ours; smooth partner of `rating_step`, on the scale of `llama2_small`.

  Example:
    >>> print(f"{rating_tanh(5, 2):.4f}")
    0.9951
  """
  return np.tanh(_difference("rating_tanh", chosen_rating, rejected_rating))


def rating_capped(
  chosen_rating: Float[ArrayLike, "*C"], rejected_rating: Float[ArrayLike, "*C"]
) -> Margin:
  """Difference of the ratings, at most 2: are the largest margins the harm?

      margin = clip(chosen_rating - rejected_rating, -2, 2)

  Source: ours; equal to `rating_difference` but for pairs 3 or more apart.

  Example:
    >>> print(f"{rating_capped(5, 2):.4f}")
    2.0000
  """
  difference = _difference("rating_capped", chosen_rating, rejected_rating)
  return np.clip(difference, -2.0, 2.0)


def rating_step(
  chosen_rating: Float[ArrayLike, "*C"], rejected_rating: Float[ArrayLike, "*C"]
) -> Margin:
  """Margin 1 for pairs two or more points apart, else 0.

      margin = sign(d) [|d| >= 2],   d = chosen_rating - rejected_rating

  Source: ours; a margin only where a rater would repeat the order. One point is
  within the noise of a five-point scale.

  Example:
    >>> print(f"{rating_step(5, 2):.4f}")
    1.0000
  """
  difference = _difference("rating_step", chosen_rating, rejected_rating)
  return np.sign(difference) * (np.abs(difference) >= 2.0)


def rating_relative(
  chosen_rating: Float[ArrayLike, "*C"], rejected_rating: Float[ArrayLike, "*C"]
) -> Margin:
  """Difference as a share of the ratings: 2 over 1 is more than 5 over 4.

      margin = (c - r) / (|c| + |r|),   0 where both are 0

  Source: ours; does not depend on the unit of the scale (it does on its zero),
  so sources with scales of 1 to 5 and 1 to 10 can be mixed.

  Example:
    >>> print(f"{rating_relative(5, 2):.4f}")
    0.4286
  """
  difference = _difference("rating_relative", chosen_rating, rejected_rating)
  total = np.abs(np.asarray(chosen_rating, np.float64)) + np.abs(
    np.asarray(rejected_rating, np.float64)
  )
  return difference / np.where(total == 0.0, 1.0, total)


def llama2_small(strength: Float[ArrayLike, "*C"]) -> Margin:
  """Llama 2's small margin: 0, 1/3, 2/3, 1 for strength 0, 1, 2, 3.

      margin = strength / 3

  Source: Touvron et al. 2023 (Llama 2), arXiv:2307.09288, Table 27.

  Example:
    >>> print(f"{llama2_small(2):.4f}")
    0.6667
  """
  return _strength("llama2_small", strength) / 3.0


def llama2_large(strength: Float[ArrayLike, "*C"]) -> Margin:
  """Llama 2's large margin: 0, 1, 2, 3 for strength 0, 1, 2, 3.

      margin = strength

  Source: Touvron et al. 2023 (Llama 2), arXiv:2307.09288, Table 27; also the
  margin of Wang et al. 2024 (HelpSteer2-Preference), arXiv:2410.01257.

  Example:
    >>> print(f"{llama2_large(2):.4f}")
    2.0000
  """
  return 1.0 * _strength("llama2_large", strength)


def strength_squared(strength: Float[ArrayLike, "*C"]) -> Margin:
  """Convex in the strength, with both ends of `llama2_large`.

      margin = strength^2 / 3

  Source: ours; Llama 2 found the large margin to cost accuracy on negligible
  pairs (Table 28), so this one takes from the slightly better ones.

  Example:
    >>> print(f"{strength_squared(2):.4f}")
    1.3333
  """
  return _strength("strength_squared", strength) ** 2 / 3.0


def strength_step(strength: Float[ArrayLike, "*C"]) -> Margin:
  """Margin 1 for strength 2 and 3, else 0: only where raters were sure.

      margin = [strength >= 2]

  Source: ours; the coarsest use of a four-level label, robust to a rater who
  confuses neighbouring levels.

  Example:
    >>> print(f"{strength_step(2):.4f}")
    1.0000
  """
  return 1.0 * (_strength("strength_step", strength) >= 2.0)


def strength_log_odds(strength: Float[ArrayLike, "*C"]) -> Margin:
  """Log-odds of a label that strengthens by even steps of probability.

      margin = log(p / (1 - p)),   p = 1/2 + strength / 8

  Source: ours; strengths read as agreement of 50, 62.5, 75 and 87.5 %, turned
  into the score difference that Bradley-Terry gives to such a pair.

  Example:
    >>> print(f"{strength_log_odds(2):.4f}")
    1.0986
  """
  strength = _strength("strength_log_odds", strength)
  return np.log((4.0 + strength) / (4.0 - strength))


MARGINS = {
  "none": none,
  "constant_one": constant_one,
  "rating_difference": rating_difference,
  "rating_log1p": rating_log1p,
  "rating_sqrt": rating_sqrt,
  "rating_squared": rating_squared,
  "rating_tanh": rating_tanh,
  "rating_capped": rating_capped,
  "rating_step": rating_step,
  "rating_relative": rating_relative,
  "llama2_small": llama2_small,
  "llama2_large": llama2_large,
  "strength_squared": strength_squared,
  "strength_step": strength_step,
  "strength_log_odds": strength_log_odds,
}

# The parameters of each: what the record must hold.
_RATINGS = ("chosen_rating", "rejected_rating")
_STRENGTH = ("strength",)
NEEDS = {
  "none": _RATINGS,
  "constant_one": _RATINGS,
  "rating_difference": _RATINGS,
  "rating_log1p": _RATINGS,
  "rating_sqrt": _RATINGS,
  "rating_squared": _RATINGS,
  "rating_tanh": _RATINGS,
  "rating_capped": _RATINGS,
  "rating_step": _RATINGS,
  "rating_relative": _RATINGS,
  "llama2_small": _STRENGTH,
  "llama2_large": _STRENGTH,
  "strength_squared": _STRENGTH,
  "strength_step": _STRENGTH,
  "strength_log_odds": _STRENGTH,
}


def _difference(name, chosen_rating, rejected_rating):
  """Returns chosen - rejected in float64."""
  chosen = np.asarray(chosen_rating, np.float64)
  rejected = np.asarray(rejected_rating, np.float64)
  if chosen.ndim and rejected.ndim and chosen.shape != rejected.shape:
    raise ValueError(
      f"margin {name}: expected equal shapes, got chosen_rating {chosen.shape} "
      f"and rejected_rating {rejected.shape}. Pass one rating of each per pair."
    )
  for side, rating in (("chosen", chosen), ("rejected", rejected)):
    if not np.isfinite(rating).all():
      raise UserError(
        f"margin {name}: expected finite ratings, got {side}_rating "
        f"{rating[~np.isfinite(rating)][0]}. Drop pairs without a rating, or "
        "use a margin that needs none of it."
      )
  return chosen - rejected


def _strength(name, strength):
  """Returns the strength in float64."""
  strength = np.asarray(strength, np.float64)
  bad = ~((strength >= 0.0) & (strength <= 3.0))  # NaN is neither
  if bad.any():
    raise UserError(
      f"margin {name}: expected a strength from 0 (negligible) to 3 "
      f"(significantly better), got {strength[bad][0]}. Map the source's scale "
      "to these levels; a preference for the other side swaps the pair."
    )
  return strength
