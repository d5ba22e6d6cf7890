"""Metrics of scores against annotations: numpy, float64, no model and no batch.

Means over nothing are nan, never 0 or 1: the caller counts and reports them.
A NaN score is an error here, because every comparison with it is silently lost.
"""

from rm_jax.metrics.calibration import brier, calibration_error, fit_temperature
from rm_jax.metrics.first_error import first_error_f1
from rm_jax.metrics.intervals import bootstrap_interval, paired_interval
from rm_jax.metrics.length import length_correlation
from rm_jax.metrics.order import accuracy, kendall_tau, roc_area
from rm_jax.metrics.selection import best_of_n

__all__ = [
  "accuracy",
  "best_of_n",
  "bootstrap_interval",
  "brier",
  "calibration_error",
  "first_error_f1",
  "fit_temperature",
  "kendall_tau",
  "length_correlation",
  "paired_interval",
  "roc_area",
]
