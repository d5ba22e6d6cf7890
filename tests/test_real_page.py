"""docs/real.md is what bench/real.py prints of its committed results."""

import importlib.util
import json
import pathlib

import pytest

from rm_jax.types import UserError

ROOT = pathlib.Path(__file__).parents[1]


def load():
  spec = importlib.util.spec_from_file_location("real", ROOT / "bench/real.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


real = load()


def entry(value, low=None, high=None, n=600):
  return {"value": value, "low": low, "high": high, "n": n, "seeds": [0, 1]}


def arm(title, **metrics):
  """One arm as `gather` writes it, of two seeds."""
  counts = dict(train_groups=528, test_groups=551, unreadable=24)
  for side in ("train", "test"):
    counts |= {f"{side}_overlong": 3, f"{side}_rejected": 0}
  return dict(
    title=title,
    config="pairwise_hh.py",
    learning_rate=3e-4,
    dtype="float32",
    num_train_steps=33,
    train_tokens=[120_001, 119_999],
    seconds=[60.4, 61.0],
    commit=["abc"],
    counts=counts,
    metrics=metrics,
    per_seed={s: {k: m["value"] for k, m in metrics.items()} for s in "01"},
  )


RESULTS = dict(
  device="1 x cpu",
  versions={"jax": "1.0"},
  commit=["abc"],
  seconds=600.0,
  arms={
    "pairs": arm(
      "pairs",
      accuracy=entry(0.6, 0.55, 0.65),
      length_only_accuracy=entry(0.5, 0.4, 0.6),
      accuracy_over_length=entry(0.1, 0.0, 0.2),
      tie_rate=entry(0.0),
      calibration_error=entry(0.02),
      brier=entry(0.24),
    ),
    "steps": arm(
      "steps",
      label_accuracy=entry(0.85, 0.8, 0.9, 4_000),
      majority_accuracy=entry(0.84, n=4_000),
      label_calibration_error=entry(0.01),
      label_brier=entry(0.1),
      step_order_accuracy=entry(0.7, 0.6, 0.8, 250),
      earlier_step_accuracy=entry(0.4, 0.3, 0.5, 250),
    ),
    "ratings": arm(
      "ratings",
      squared_error=entry(0.5, 0.4, 0.6),
      constant_squared_error=entry(0.9, 0.8, 1.0),
      **{
        "squared_error/depth": entry(0.3, 0.2, 0.4),
        "constant_squared_error/depth": entry(0.4, 0.3, 0.5),
      },
    ),
  },
)


def test_each_table_has_the_arms_that_it_is_about():
  # Wrong: an arm beside another's baseline, a number without its interval.
  page = real.fill(real.PAGE.read_text(), RESULTS)
  for line in (
    "| pairs | 0.600 [0.550, 0.650] | 0.600, 0.600 | 0.500 [0.400, 0.600] | "
    "0.100 [0.000, 0.200] | 0.000 | 0.020 | 0.240 | 600 |",
    "| steps | 0.850 [0.800, 0.900] | 0.850, 0.850 | 0.840 | 0.010 | 0.100 | "
    "4,000 |",
    "| steps | 0.700 [0.600, 0.800] | 0.700, 0.700 | 0.400 [0.300, 0.500] | "
    "250 |",
    "| ratings | 0.500 [0.400, 0.600] | 0.500, 0.500 | 0.900 [0.800, 1.000] | "
    "600 |",
    "| ratings: depth | 0.300 [0.200, 0.400] | 0.300, 0.300 | "
    "0.400 [0.300, 0.500] | 600 |",
  ):
    assert page.count(f"\n{line}\n") == 1, line
  assert "float32, jax 1.0, commit abc, 10 minutes" in page
  assert real.fill(page, RESULTS) == page  # printed again, nothing moves


def test_a_page_without_a_mark_is_refused():
  with pytest.raises(UserError, match="<!-- labels --> once, got 0"):
    real.fill(real.PAGE.read_text().replace("<!-- labels -->", ""), RESULTS)


def test_the_page_is_printed_from_the_committed_results():
  # Catches a number edited by hand. No results yet: no numbers on the page.
  page = real.PAGE.read_text()
  if real.RESULTS.exists():
    results = json.loads(real.RESULTS.read_text())
    assert page == real.fill(page, results), "python bench/real.py --page"
  else:
    assert "[0." not in page


def test_every_arm_has_its_config():
  for one in real.ARMS.values():
    assert (ROOT / "configs" / one.config.partition(":")[0]).exists()
