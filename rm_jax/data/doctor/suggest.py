"""A config that fits a data set: keys and values from what was counted."""

import json
import math
import shlex

from rm_jax.data.doctor.findings import STOPS_A_RUN
from rm_jax.data.doctor.survey import Survey

TIES_MATTER = 0.05  # share of comparisons above which ties are modelled
MOST_REJECTS = 0.2  # above that the data are to be corrected, not the config
EVAL_PROMPTS = 1_000  # standard error of an accuracy near 0.8: 1.3 points
# Where a search of a loss's parameters may begin; the data do not tell them.
STARTS = {
  "top": 1,
  "smoothing": 0.1,
  "noise": 0.1,
  "temperature": 0.5,
  "gap": 1.0,
  "gamma": 1.0,
  "low": 0.0,
  "high": 1.0,
  "bins": 11,
  "sigma": 0.1,
}
LEAST_EVAL, MOST_EVAL = 0.02, 0.2  # shares of the prompts


def suggest(found: Survey, *, source: str, kind: str) -> dict:
  """Returns {config key: value} for this data set; {} if nothing is labelled.

  The most frequent kind of record decides; `loss_rejects` of the token level
  counts what the suggested loss then refuses of the others.
  """
  fitting = suggest_loss(found)
  if not fitting:
    return {}
  rows = found.counts["records"] + found.counts["rejects"]
  prompts = max(found.counts["prompts"], 1)
  share = min(max(EVAL_PROMPTS / prompts, LEAST_EVAL), MOST_EVAL)
  return {
    "data.source": source,
    "data.kind": kind,
    **fitting,
    "data.eval_share": round(share, 2),
    "data.max_reject_share": allowed(found.counts["rejects"] / rows),
  }


def suggest_loss(found: Survey) -> dict:
  """Returns loss, margin, head and pooling for the most frequent kind."""
  counts, kinds = found.counts, found.tables["kinds"]
  labelled = [k for k, _ in kinds.most_common() if k != "unlabelled"]
  if not labelled:
    return {}
  kind = labelled[0]
  if kind == "outcome":
    return {"loss.name": "outcome_cross_entropy", "model.head": "biased_scalar"}
  if kind in ("steps", "values"):
    name = "step_binary_cross_entropy" if kind == "steps" else "squared_error"
    return {
      "loss.name": name,
      "model.head": "biased_scalar",
      "model.pooling": "step_ends",
    }
  if kind == "ratings":
    attributes = found.tables["attributes"].most_common(1)
    # The attribute head needs them of every record.
    if attributes and attributes[0][1] > kinds["ratings"] / 2:
      return {
        "loss.name": "squared_error",
        "model.head": "attributes",
        "model.attributes": attributes[0][0],
      }
    return {"loss.name": "squared_error", "model.head": "biased_scalar"}
  strict_records = (
    counts["ordered records"] - found.hits.get("all_tied_groups", (0,))[0]
  )
  if strict_records and counts["with strength"] == strict_records:
    margin = "llama2_small"
    return {"loss.name": "bradley_terry_margin", "loss.margin": margin}
  if counts["with margin"] == counts["records"]:
    return {"loss.name": "bradley_terry_margin", "loss.margin": "record"}
  tied = found.hits.get("tied_comparisons", (0,))[0]
  largest = max(found.tables["group_size"])
  if kind == "ranking" and largest > 2:
    return {"loss.name": "all_pairs"}  # leaves ties out of its mean
  if tied >= TIES_MATTER * counts["comparisons"]:
    return {"loss.name": "davidson"}
  if counts["with soft preference"] > counts["records"] / 2:
    return {"loss.name": "bradley_terry_soft"}
  return {"loss.name": "bradley_terry"}


def for_loss(loss: str, kind: str, parameters: tuple, fitting: dict) -> dict:
  """Returns the keys of `fitting` changed to those that `loss` needs.

  Args:
    loss: its name.
    kind: KIND[loss] of rm_jax.losses.
    parameters: PARAMETERS[loss] of it; they get values of STARTS.
    fitting: from `suggest`.
  """
  if fitting.get("loss.name") == loss:
    return fitting
  own = ("loss.name", "loss.margin", "model.head", "model.pooling")
  keys = {k: v for k, v in fitting.items() if k not in own}
  keys.pop("model.attributes", None)
  keys["loss.name"] = loss
  keys |= {f"loss.{name}": STARTS[name] for name in parameters}
  if kind == "process":
    keys["model.pooling"] = "step_ends"
  if kind in ("pointwise", "process"):
    keys["model.head"] = "biased_scalar"
  if loss == "step_cross_entropy":
    keys["model.head"] = "steps"  # three logits
  if loss in ("two_hot", "hl_gauss"):
    keys["model.head"] = "bins"
  return keys


def allowed(share: float) -> float:
  """Returns max_reject_share: the default, or what is rejected, rounded up."""
  if share > MOST_REJECTS:
    return STOPS_A_RUN
  return max(STOPS_A_RUN, math.ceil(share * 100) / 100)


def flags(suggestion: dict) -> list[str]:
  """Returns the suggestion as flags of `rm-jax train`, shell quoted."""
  return [
    shlex.quote(f"--config.{key}={spelled(value)}")
    for key, value in suggestion.items()
  ]


def spelled(value) -> str:
  """Returns the value as a flag takes it: double quotes inside of tuples."""
  if not isinstance(value, tuple):
    return str(value)
  return f"({''.join(json.dumps(name) + ',' for name in value)})"
