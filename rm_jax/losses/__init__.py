"""All losses by their config name: the function, its kind, what it needs.

Pure functions: one value per comparison, group, step or token, never reduced,
never weighted. Each states its equation and source.
"""

from rm_jax.losses.language import next_token_cross_entropy
from rm_jax.losses.listwise import all_pairs, plackett_luce, plackett_luce_top
from rm_jax.losses.pairwise import bradley_terry, bradley_terry_margin
from rm_jax.losses.pointwise import (
  expected_value,
  hl_gauss,
  outcome_cross_entropy,
  squared_error,
  two_hot,
)
from rm_jax.losses.process import step_binary_cross_entropy, step_cross_entropy

LOSSES = {
  "bradley_terry": bradley_terry,
  "bradley_terry_margin": bradley_terry_margin,
  "all_pairs": all_pairs,
  "plackett_luce": plackett_luce,
  "plackett_luce_top": plackett_luce_top,
  "outcome_cross_entropy": outcome_cross_entropy,
  "squared_error": squared_error,
  "two_hot": two_hot,
  "hl_gauss": hl_gauss,
  "step_binary_cross_entropy": step_binary_cross_entropy,
  "step_cross_entropy": step_cross_entropy,
  "next_token_cross_entropy": next_token_cross_entropy,
}

# What the loss compares, and so which arrays of a batch it reads.
KIND = {
  "bradley_terry": "pairwise",
  "bradley_terry_margin": "pairwise",
  "all_pairs": "listwise",
  "plackett_luce": "listwise",
  "plackett_luce_top": "listwise",
  "outcome_cross_entropy": "pointwise",
  "squared_error": "pointwise",
  "two_hot": "pointwise",
  "hl_gauss": "pointwise",
  "step_binary_cross_entropy": "process",
  "step_cross_entropy": "process",
  "next_token_cross_entropy": "language",
}

# What a record must carry:
#   ranks        a comparison or a ranking of its completions
#   margin       a comparison, and how much better the chosen one was called:
#                two ratings or a strength, as `margins.NEEDS` says
#   labels       correctness of each completion, in [0, 1]
#   step_labels  a label at the end of each reasoning step
#   values       a number per completion: a rating, a return or a correctness
#   tokens       nothing beside the text
NEEDS = {
  "bradley_terry": "ranks",
  "bradley_terry_margin": "margin",
  "all_pairs": "ranks",
  "plackett_luce": "ranks",
  "plackett_luce_top": "ranks",
  "outcome_cross_entropy": "labels",
  "squared_error": "values",
  "two_hot": "values",
  "hl_gauss": "values",
  "step_binary_cross_entropy": "step_labels",
  "step_cross_entropy": "step_labels",
  "next_token_cross_entropy": "tokens",
}

# expected_value is no loss: it reads the number out of a categorical head.
__all__ = ["KIND", "LOSSES", "NEEDS", "expected_value", *LOSSES]
