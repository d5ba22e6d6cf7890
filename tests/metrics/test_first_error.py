"""First errors against fractions written out, and ProcessBench."""

import gzip
import json
import math

import numpy as np
import pytest

from rm_jax import metrics
from rm_jax.types import UserError


def test_first_error_f1_is_the_harmonic_mean_of_two_accuracies():
  # Catches precision and recall of "has an error", a mean over all samples, and
  # 0 / 0. Erroneous: 1 of 3 found at its step; correct: 1 of 2.
  gold = [2, 0, 1, -1, -1]
  got = metrics.first_error_f1([2, 1, -1, -1, 3], gold)
  np.testing.assert_allclose(got, 2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))
  assert metrics.first_error_f1(gold, gold) == 1.0
  assert metrics.first_error_f1([-1] * 5, gold) == 0.0
  assert metrics.first_error_f1([0, 1, 0, 0, 0], gold) == 0.0
  missing = [2, math.nan, math.nan, -1, math.nan]
  np.testing.assert_allclose(metrics.first_error_f1(missing, gold), got)
  assert math.isnan(metrics.first_error_f1([-1], [-1]))
  with pytest.raises(UserError, match="index of a step, got -2"):
    metrics.first_error_f1([-1, 0], [-1, -2])


@pytest.mark.parametrize(
  "split, even_zero, even_last, answer",
  [
    ("gsm8k", 0.154344, 0.062151, 0.135135),
    ("math", 0.165036, 0.056788, 0.093098),
  ],
)
def test_first_error_f1_of_simple_rules_on_processbench(
  rm_data, split, even_zero, even_last, answer
):
  # The published F1 of three rules that look at no text. Catches steps counted
  # from 1, and the weighted or the arithmetic mean.
  text = gzip.open(rm_data / "processbench" / f"{split}.json.gz", "rt").read()
  rows = json.loads(text)
  gold = [row["label"] for row in rows]
  steps = [len(row["steps"]) for row in rows]
  right = [row["final_answer_correct"] for row in rows]
  rules = {
    even_zero: [0 if n % 2 == 0 else -1 for n in steps],
    even_last: [n - 1 if n % 2 == 0 else -1 for n in steps],
    answer: [-1 if ok else n - 1 for ok, n in zip(right, steps, strict=True)],
  }
  for want, predicted in rules.items():
    got = metrics.first_error_f1(predicted, gold)
    np.testing.assert_allclose(got, want, atol=5e-7)
