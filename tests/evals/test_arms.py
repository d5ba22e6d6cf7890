"""Arms of a comparison: who belongs together, and whose numbers are shown.

Catches: seeds counted twice, an interval of the mean over seeds that is that of
one seed, a difference of one run called that of its arm, numbers of the page
that are not those of results.json.
"""

import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from rm_jax.evals import breakdown
from rm_jax.evals.arms import (
  Arm,
  Difference,
  arms_of,
  comparison_results,
  paired_differences,
  table,
)
from rm_jax.evals.report import report
from rm_jax.evals.runs import read_run
from rm_jax.metrics import bootstrap_interval
from rm_jax.types import UserError
from tests import trained
from tests.evals.test_page import check_alone


@pytest.fixture(scope="module")
def four(tmp_path_factory):
  """Two arms of two seeds: plain-0, plain-1, margin-0, margin-1.

  One trained run, copied; scores, gold and strengths are drawn anew, and its
  results are made to say so.
  """
  source = trained.run(tmp_path_factory.getbasetemp(), "all")
  folder = tmp_path_factory.mktemp("arms")
  rng = np.random.default_rng(0)
  with np.load(source / "scores.npz") as saved:
    arrays = dict(saved)
  count, compared = len(arrays["scores"]), len(arrays["comparisons"])
  arrays["gold"] = rng.normal(size=count).astype(np.float32)
  arrays["strength"] = np.arange(compared, dtype=np.float32) % 4
  for arm in ("plain", "margin"):
    for seed in (0, 1):
      place = shutil.copytree(source, folder / f"{arm}-{seed}")
      arrays["scores"] = rng.normal(size=count).astype(np.float32)
      np.savez(place / "scores.npz", **arrays)
      run = json.loads((place / "run.json").read_text())
      run["config"]["seed"] = seed
      run["config"]["loss"]["margin"] = arm
      run["config"]["train"]["cache_hidden"] = f"here-{seed}"
      (place / "run.json").write_text(json.dumps(run))
      results = json.loads((place / "results.json").read_text())
      scores = read_run(place).scores
      credit, pairs = (
        breakdown.credit_of(scores),
        breakdown.gold_credit_of(scores)[0],
      )
      metrics = results["metrics"]
      metrics["accuracy"]["value"] = float(credit.mean())
      entry = dict(low=0.25, high=0.75, seeds=[seed])
      metrics["gold_accuracy"] = dict(
        entry, value=float(pairs.mean()), n=len(pairs)
      )
      for name in ("gold_agreement", "gold_length_only_accuracy"):
        metrics[name] = dict(entry, value=0.5, n=len(credit))
      values = {name: m["value"] for name, m in metrics.items()}
      results["per_seed"] = {str(seed): values}
      (place / "results.json").write_text(json.dumps(results))
  return folder


def test_a_difference_without_an_interval_is_null():
  # Catches: NaN in results.json, which is no JSON.
  entry = {"value": 0.5, "low": None, "high": None, "n": 7, "seeds": [0]}
  results = {
    "schema": 1,
    "commit": "abc",
    "device": "a CPU",
    "versions": {},
    "seconds": 1.0,
    "command": "rm-jax train",
    "metrics": {"accuracy": entry},
    "per_seed": {"0": {"accuracy": 0.5}},
  }
  run = SimpleNamespace(results=results)
  arms = {name: Arm({f"{name}-0": run}, results) for name in ("one", "two")}
  paired = {"two": {"accuracy": Difference(0.25, math.nan, math.nan)}}
  found = comparison_results(arms, paired)["metrics"]
  assert found["two less one/accuracy"] == entry | {"value": 0.25}


NAMES = ("plain-0", "plain-1", "margin-0", "margin-1")


@pytest.fixture(scope="module")
def runs(four):
  return {name: read_run(four / name) for name in NAMES}


def test_runs_that_differ_in_their_seed_are_an_arm(runs):
  arms = arms_of(runs)
  assert {name: list(arm.runs) for name, arm in arms.items()} == {
    "plain": ["plain-0", "plain-1"],
    "margin": ["margin-0", "margin-1"],
  }
  m = arms["plain"].results["metrics"]
  for metric in ("accuracy", "gold_accuracy", "loss"):
    each = [
      runs[name].results["metrics"][metric]["value"] for name in NAMES[:2]
    ]
    assert m[metric]["value"] == pytest.approx(np.mean(each), abs=1e-12)
    assert m[metric]["seeds"] == [0, 1]
  # Of the mean over seeds: narrower than a mean of intervals would be.
  s = [runs[name].scores for name in NAMES[:2]]
  credit = np.mean(
    [x.scores[x.chosen] > x.scores[x.rejected] for x in s], axis=0
  )
  prompts = breakdown.prompts_of_comparisons(s[0])
  _, first, same = np.unique(
    s[0].prompt, return_index=True, return_inverse=True
  )
  number = dict(zip(s[0].prompt, first[same], strict=True))
  low, high = bootstrap_interval(
    credit, groups=np.array([number[p] for p in prompts]), seed=0
  )
  assert (m["accuracy"]["low"], m["accuracy"]["high"]) == (low, high)


def test_the_same_seed_twice_is_no_mean(runs):
  twice = {"a": runs["plain-0"], "b": runs["plain-0"]}
  assert list(arms_of(twice)) == ["a", "b"]


def test_another_config_is_another_arm(runs):
  # Two keys say where a run keeps things; every other one counts.
  assert list(arms_of({n: runs[n] for n in ("plain-0", "margin-1")})) == [
    "plain-0",
    "margin-1",
  ]


def test_the_difference_is_that_of_means_over_seeds(runs):
  arms = arms_of(runs)
  found = paired_differences(arms["plain"], arms["margin"])
  for metric in ("accuracy", "gold_accuracy"):
    means = [
      np.mean([runs[n].results["metrics"][metric]["value"] for n in names])
      for names in (NAMES[:2], NAMES[2:])
    ]
    assert found[metric].value == pytest.approx(means[1] - means[0])
    assert found[metric].low <= found[metric].value <= found[metric].high
  same = paired_differences(arms["plain"], arms["plain"])["gold_accuracy"]
  assert tuple(same) == (0, 0, 0) and not same.excludes_zero


def test_accuracy_by_strength_is_the_mean_over_seeds(runs):
  s = [runs[name].scores for name in NAMES[:2]]
  rows = breakdown.by_strength(*s)
  alone = [breakdown.by_strength(one) for one in s]
  for row, a, b in zip(rows, *alone, strict=True):
    assert row[0] == a[0] == b[0]
    assert row[1] == pytest.approx((a[1] + b[1]) / 2)


def test_every_number_of_the_page_is_in_its_results(four, tmp_path):
  places = [str(four / name) for name in NAMES]
  text = report(places, str(tmp_path / "out"))
  out = json.loads((tmp_path / "out" / "results.json").read_text())
  page = (tmp_path / "out" / "report.html").read_text()
  pictures = [
    p.name for p in (tmp_path / "out").iterdir() if p.suffix == ".png"
  ]
  assert {"arms_accuracy.png", "arms_by_strength.png"} <= set(pictures)
  found = check_alone(page, pictures=len(pictures))
  arms, m = ["plain", "margin"], out["metrics"]
  assert out["arms"] == [["plain", *NAMES[:2]], ["margin", *NAMES[2:]]]
  shown = {}
  for name, value in found.data:
    shown.setdefault(name, []).append(value)
  names = {key.partition("/")[2] for key in m if key.startswith("plain/")}
  assert {"accuracy", "gold_accuracy", "brier", "loss"} <= names
  for name in names:
    values = [m[f"{arm}/{name}"]["value"] for arm in arms]
    # The two arms, then the run in detail.
    if None not in values:
      assert shown[name][:2] == values
  differences = [entry["value"] for key, entry in m.items() if "less" in key]
  assert sorted(shown["difference"]) == sorted(differences)
  for metric in ("accuracy", "gold_accuracy"):
    each = [out["per_seed"][s][f"{a}/{metric}"] for a in arms for s in "01"]
    assert shown[f"seed {metric}"] == each
  # In words: the same numbers, and a null is said.
  d = m["margin less plain/accuracy"]
  assert f"{100 * d['value']:+.1f} points of accuracy" in text
  holds = d["low"] <= 0 <= d["high"]
  assert ("no difference was shown" in text) == holds
  assert "The labels are noisy" in text
  assert f"({100 * m['plain/accuracy']['low']:.1f} %" in text
  # And in Markdown.
  said = table(out)
  a = m["margin/accuracy"]
  assert (
    f"| margin | {a['value']:.3f} [{a['low']:.3f}, {a['high']:.3f}]" in said
  )
  assert f"| margin less plain | {d['value']:.3f} [" in said


def test_a_comparison_does_not_take_the_place_of_a_run(four):
  places = [str(four / name) for name in NAMES[:2]]
  with pytest.raises(UserError, match="is the workdir of a run, whose results"):
    report(places, places[0])
