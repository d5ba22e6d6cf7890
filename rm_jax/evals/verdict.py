"""How a number becomes a claim: paired differences over seeds to a verdict."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from rm_jax.metrics import paired_interval
from rm_jax.types import ArrayLike, UserError

AGREE = 7 / 8  # of the seeds must go the expected way
REPRODUCED, REVERSED, NULL, INVALID = VERDICTS = (
  "reproduced",
  "reversed",
  "null",
  "invalid",
)
# Where no sign is claimed beforehand: what was found, and no more.
HIGHER, LOWER, NEITHER = UNCLAIMED = (
  "no claim: higher",
  "no claim: lower",
  "no claim: no difference found",
)


class Effect(NamedTuple):
  """The mean of a paired difference over seeds, its 95 % t-interval, and p."""

  mean: float
  low: float
  high: float
  p: float
  agree: int  # seeds whose difference has the expected sign, or the mean's
  seeds: int


class Verdict(NamedTuple):
  """A word of VERDICTS or UNCLAIMED, what it rests on, and why."""

  word: str
  effect: Effect
  why: str


def find_effect(
  treated: Float[ArrayLike, " N"],
  control: Float[ArrayLike, " N"],
  *,
  expected: int,
) -> Effect:
  """The effect of one arm over another, seed by seed.

  Args:
    expected: the sign of treated - control that was published, 1 or -1; 0
      where none is claimed: seeds then agree with the sign of the mean.

  Raises:
    UserError: a sign that is none.
  """
  if expected not in (1, -1, 0):
    raise UserError(
      f"expected={expected!r} must be 1 or -1, the sign of the published "
      "difference, or 0 where none is claimed."
    )
  treated = np.asarray(treated, np.float64)
  control = np.asarray(control, np.float64)
  mean, low, high, p = paired_interval(treated, control)
  sign = expected or np.sign(mean)
  agree = int(np.sum(np.sign(treated - control) == sign))
  return Effect(mean, low, high, p, agree, len(treated))


def judge(
  effect: Effect,
  *,
  expected: int,
  checks: dict[str, bool],
  conditions: dict[str, bool],
) -> Verdict:
  """The verdict on one effect.

      invalid:    a check failed: the regime that the claim is about is absent
      reproduced: the interval lies on the expected side of 0, at least 7/8 of
                  the seeds agree, and every condition holds
      reversed:   the interval lies on the other side
      null:       everything else

  Where no sign is claimed, a word of UNCLAIMED (or invalid): the difference is
  reported and counts neither for nor against anything.

  Args:
    expected: as of `find_effect`.
    checks: by name, whether a manipulation check held.
    conditions: by name, whether what the claim says beside the effect held.
  """
  absent = [name for name, held in checks.items() if not held]
  if absent:
    return Verdict(INVALID, effect, f"check failed: {'; '.join(absent)}")
  if not expected:
    return _unclaimed(effect)
  if math.isnan(effect.low):
    return Verdict(NULL, effect, f"{effect.seeds} seed has no interval")
  ahead = effect.low > 0 if expected > 0 else effect.high < 0
  behind = effect.high < 0 if expected > 0 else effect.low > 0
  if behind:
    return Verdict(REVERSED, effect, "the interval lies on the other side of 0")
  if not ahead:
    return Verdict(NULL, effect, "the interval holds 0")
  agreed = f"{effect.agree} of {effect.seeds} seeds agree"
  if effect.agree < math.ceil(AGREE * effect.seeds):
    return Verdict(NULL, effect, f"only {agreed}")
  unmet = [name for name, held in conditions.items() if not held]
  if unmet:
    return Verdict(NULL, effect, f"{agreed}, but not: {'; '.join(unmet)}")
  return Verdict(REPRODUCED, effect, f"the interval excludes 0, {agreed}")


def _unclaimed(effect: Effect) -> Verdict:
  """What the interval says of a difference without a claimed sign."""
  if math.isnan(effect.low):
    return Verdict(NEITHER, effect, f"{effect.seeds} seed has no interval")
  if effect.low <= 0 <= effect.high:
    return Verdict(NEITHER, effect, "the interval holds 0")
  word = HIGHER if effect.mean > 0 else LOWER
  agreed = f"{effect.agree} of {effect.seeds} seeds agree"
  return Verdict(word, effect, f"the interval excludes 0, {agreed}")


def holds(
  values: Float[ArrayLike, " N"], *, above: float | None, below: float | None
) -> bool:
  """Whether the mean lies beyond a bound with its whole 95 % t-interval.

  Args:
    above, below: the bound; one of them is None.
  """
  values = np.asarray(values, np.float64)
  mean, low, high, _ = paired_interval(values, np.zeros(len(values)))
  if len(values) == 1:
    low = high = mean
  return bool(low > above) if below is None else bool(high < below)
