"""Sections of a run's page that show its scores.

Each draws its pictures and says their numbers; it returns a Section, or a line
that says why there is none.
"""

import math
import pathlib

import numpy as np

from rm_jax.data.doctor.report import percent
from rm_jax.evals import breakdown
from rm_jax.evals.gold_plots import best_of_n_curves, gold_against_score
from rm_jax.evals.page import Section
from rm_jax.evals.runs import Run
from rm_jax.evals.score_plots import (
  interval_dots,
  reliability,
  reliability_after,
  score_by_length,
  score_histograms,
)

NO_COMPARISONS = "the evaluation set has no comparisons that are no ties"


def histograms(run: Run, folder: pathlib.Path) -> Section | str:
  s = run.scores
  if not len(s.chosen):
    return f"Scores of chosen and rejected: {NO_COMPARISONS}."
  chosen, rejected = s.scores[s.chosen], s.scores[s.rejected]
  score_histograms(chosen, rejected, folder / "score_histograms.png")
  difference = chosen - rejected
  said = (
    f"The chosen completion scores {difference.mean():.3f} higher on average "
    f"(standard deviation {difference.std():.3f}); in "
    f"{percent(float(np.mean(difference < 0)))} of {len(difference):,} "
    "comparisons it scores lower."
  )
  return Section(
    "Scores of chosen and rejected",
    (said,),
    (
      (
        "score_histograms.png",
        f"Histograms of scores and score differences. {said}",
      ),
    ),
  )


def length_baseline(run: Run, folder: pathlib.Path) -> Section | str:
  metrics = run.results["metrics"]
  if "length_only_accuracy" not in metrics:
    return f"Length baseline: {NO_COMPARISONS}."
  names = {"accuracy": "reward model", "length_only_accuracy": "length only"}
  rows = [
    (text, *(metrics[name][key] for key in ("value", "low", "high", "n")))
    for name, text in names.items()
  ]
  interval_dots(
    rows,
    folder / "length_baseline.png",
    title="Accuracy beside length only, 95 % intervals over prompts",
    label="accuracy (share of comparisons)",
    reference=("chance", 0.5),
  )
  correlation = metrics["length_correlation"]["value"]
  score_by_length(
    run.scores.length,
    run.scores.scores,
    folder / "score_by_length.png",
    correlation=math.nan if correlation is None else correlation,
  )
  side = "longer" if run.longer_is_better else "shorter"
  over = "Score and length have no correlation: one of them does not vary."
  if correlation is not None:
    over = (
      "Score and length of the completions of one prompt correlate by "
      f"{correlation:.3f}."
    )
  said = (
    f"Length only calls the {side} completion better, as most training "
    f"comparisons do. {over}"
  )
  return Section(
    "Length baseline",
    (said,),
    (
      (
        "length_baseline.png",
        "Accuracy with interval: "
        + "; ".join(f"{name} {value:.3f}" for name, value, *_ in rows),
      ),
      ("score_by_length.png", f"Score of every completion over length. {over}"),
    ),
  )


def strengths(run: Run, folder: pathlib.Path) -> Section | str:
  """By the annotators' strength; where there is none, by gold difference."""
  rows, what = breakdown.by_strength(run.scores), "strength"
  if not rows:
    rows = breakdown.by_gold_difference(run.scores)
    what = "difference in gold reward"
  if not rows:
    return (
      "Accuracy by strength: no comparison of the evaluation set has a "
      "strength, and no completion a gold reward."
    )
  picture = "accuracy_by_strength.png"
  interval_dots(
    rows,
    folder / picture,
    title=f"Accuracy by {what}, 95 % intervals over prompts",
    label="accuracy (share of comparisons)",
    reference=("chance", 0.5),
  )
  said = ", ".join(
    f"{name}: {percent(a)} of {n:,}" for name, a, _, _, n in rows
  )
  text = [f"Share of comparisons in the right order by {what}. {said}."]
  if what != "strength":
    text.append("The annotators gave no strengths.")
  return Section(f"Accuracy by {what}", tuple(text), ((picture, text[0]),))


def calibration(run: Run, folder: pathlib.Path) -> Section | str:
  s = run.scores
  if not len(s.chosen):
    return f"Calibration: {NO_COMPARISONS}."
  error = reliability(breakdown.score_diff(s), folder / "reliability.png")
  whole = (
    f"Over all {len(s.chosen):,} comparisons the calibration error of "
    f"sigmoid(score difference) is {error:.4f}"
  )
  all_of_it = (
    "reliability.png",
    f"Predicted against observed preference. {whole}.",
  )
  found = breakdown.tempered(s)
  if found is None:
    return Section(
      "Calibration",
      (
        f"{whole}. No temperature: half of the prompts has no comparison, or "
        "the differences there are all 0 or all in the right order, and then "
        "none fits best.",
      ),
      (all_of_it,),
    )
  picture = "temperature.png"
  reliability_after(
    found.before, found.after, folder / picture, temperature=found.temperature
  )
  said = (
    f"calibration error {found.error_before:.4f} before and "
    f"{found.error_after:.4f} after, Brier score {found.brier_before:.4f} "
    f"before and {found.brier_after:.4f} after"
  )
  return Section(
    "Calibration before and after temperature",
    (
      f"{whole}.",
      f"One temperature, {found.temperature:.4g}, was fitted by minimising the "
      f"negative log-likelihood of the {found.fitted:,} comparisons of one "
      f"half of the prompts. On the {len(found.before):,} comparisons of the "
      f"other half: {said}.",
    ),
    (
      all_of_it,
      (picture, f"The same before and after temperature: {said}"),
    ),
  )


def gold(run: Run, folder: pathlib.Path) -> Section | str:
  s = run.scores
  known = np.isfinite(s.gold)
  if not known.any():
    return "Gold against score: no completion has a gold reward."
  tau, low, high, n = breakdown.rank_agreement(s)
  picture = "gold.png"
  gold_against_score(
    s.gold[known], s.scores[known], s.group[known], folder / picture, tau=tau
  )
  said = "No group has both gold rewards and scores that differ."
  if n:
    said = (
      "Within groups, scores and gold rewards agree with a mean Kendall tau-b "
      f"of {tau:.3f} (95 % interval over prompts {low:.3f} to {high:.3f}, "
      f"{n:,} groups); 1 is the same order, 0 no relation."
    )
  return Section("Gold against score", (said,), ((picture, f"Dots. {said}"),))


def best_of_n(run: Run, folder: pathlib.Path) -> Section | str:
  found = breakdown.best_of(run.scores, longer_is_better=run.longer_is_better)
  if found is None:
    return (
      "Best of n: it needs groups of three completions or more whose gold "
      "rewards are known and differ."
    )
  side = "longest" if run.longer_is_better else "shortest"
  picture = "best_of_n.png"
  best_of_n_curves(
    {
      "reward model": found.model,
      "gold itself: the most possible": found.most,
      f"length only: the {side}": found.by_length,
      "random choice": found.random,
    },
    found.low,
    found.high,
    folder / picture,
    groups=found.groups,
  )
  said = best_of_n_in_words(found, side)
  text = [
    said,
    "Exact expectation over all subsets of n completions, not sampled; each "
    "group between its mean (0) and its best (1), then the mean over "
    f"{found.groups:,} groups.",
  ]
  if found.left_out:
    text.append(
      f"{found.left_out:,} groups of another size, without gold or of one gold "
      "are left out."
    )
  return Section("Best of n", tuple(text), ((picture, said),))


def best_of_n_in_words(found: breakdown.BestOf, side: str) -> str:
  """What choosing by score gains at n = K."""
  return (
    f"Taking the highest score of {len(found.model)} completions goes "
    f"{percent(float(found.model[-1]))} of the way from the mean gold reward "
    f"of a group to its best (95 % interval {percent(float(found.low[-1]))} to "
    f"{percent(float(found.high[-1]))}); taking the {side} one goes "
    f"{percent(float(found.by_length[-1]))}."
  )
