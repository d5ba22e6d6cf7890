"""All losses by their config name: the function, its kind, what it needs.

Pure functions: one value per comparison, group, step or token, never reduced,
never weighted. Each states its equation and source; docs/losses.md lists them.
"""

from rm_jax.losses.language import next_token_cross_entropy
from rm_jax.losses.listwise import (
  all_pairs,
  listnet,
  plackett_luce,
  plackett_luce_top,
)
from rm_jax.losses.pairwise import (
  bradley_terry,
  bradley_terry_margin,
  bradley_terry_scaled,
  bradley_terry_smoothed,
  bradley_terry_soft,
  bradley_terry_tempered,
  christiano_mixture,
)
from rm_jax.losses.pointwise import (
  expected_value,
  hl_gauss,
  outcome_cross_entropy,
  squared_error,
  two_hot,
)
from rm_jax.losses.process import step_binary_cross_entropy, step_cross_entropy
from rm_jax.losses.regularizers import (
  centering,
  group_variance,
  hidden_square,
  score_square,
)
from rm_jax.losses.surrogates import (
  exponential,
  focal,
  focal_penalty,
  hinge,
  pair_cross_entropy,
  square,
  tempered_logarithm,
)
from rm_jax.losses.ties import davidson, rao_kupper
from rm_jax.losses.values import (
  monte_carlo_targets,
  segmented_targets,
  td_lambda_targets,
)

LOSSES = {
  "bradley_terry": bradley_terry,
  "bradley_terry_margin": bradley_terry_margin,
  "bradley_terry_scaled": bradley_terry_scaled,
  "bradley_terry_tempered": bradley_terry_tempered,
  "bradley_terry_smoothed": bradley_terry_smoothed,
  "bradley_terry_soft": bradley_terry_soft,
  "christiano_mixture": christiano_mixture,
  "davidson": davidson,
  "rao_kupper": rao_kupper,
  "hinge": hinge,
  "square": square,
  "exponential": exponential,
  "focal": focal,
  "focal_penalty": focal_penalty,
  "tempered_logarithm": tempered_logarithm,
  "pair_cross_entropy": pair_cross_entropy,
  "all_pairs": all_pairs,
  "plackett_luce": plackett_luce,
  "plackett_luce_top": plackett_luce_top,
  "listnet": listnet,
  "outcome_cross_entropy": outcome_cross_entropy,
  "squared_error": squared_error,
  "two_hot": two_hot,
  "hl_gauss": hl_gauss,
  "step_binary_cross_entropy": step_binary_cross_entropy,
  "step_cross_entropy": step_cross_entropy,
  "next_token_cross_entropy": next_token_cross_entropy,
  "centering": centering,
  "score_square": score_square,
  "group_variance": group_variance,
  "hidden_square": hidden_square,
}

# What the loss compares, and so which arrays of a batch it reads; a regularizer
# compares nothing and is added to another loss.
KIND = {
  "bradley_terry": "pairwise",
  "bradley_terry_margin": "pairwise",
  "bradley_terry_scaled": "pairwise",
  "bradley_terry_tempered": "pairwise",
  "bradley_terry_smoothed": "pairwise",
  "bradley_terry_soft": "pairwise",
  "christiano_mixture": "pairwise",
  "davidson": "pairwise",
  "rao_kupper": "pairwise",
  "hinge": "pairwise",
  "square": "pairwise",
  "exponential": "pairwise",
  "focal": "pairwise",
  "focal_penalty": "pairwise",
  "tempered_logarithm": "pairwise",
  "pair_cross_entropy": "pairwise",
  "all_pairs": "listwise",
  "plackett_luce": "listwise",
  "plackett_luce_top": "listwise",
  "listnet": "listwise",
  "outcome_cross_entropy": "pointwise",
  "squared_error": "pointwise",
  "two_hot": "pointwise",
  "hl_gauss": "pointwise",
  "step_binary_cross_entropy": "process",
  "step_cross_entropy": "process",
  "next_token_cross_entropy": "language",
  "centering": "regularizer",
  "score_square": "regularizer",
  "group_variance": "regularizer",
  "hidden_square": "regularizer",
}

# What a record must carry:
#   ranks        a comparison or a ranking of its completions
#   margin       a comparison, and how much better the chosen one was called:
#                two ratings or a strength, as `margins.NEEDS` says
#   preference   a comparison, and the share of votes for the chosen one
#   ties         a comparison or a ranking, tied ones included
#   ratings      a number per completion by which those of a prompt compare
#   labels       correctness of each completion, in [0, 1]
#   step_labels  a label at the end of each reasoning step
#   values       a number per completion: a rating, a return or a correctness
#   tokens       nothing beside the text
NEEDS = {
  "bradley_terry": "ranks",
  "bradley_terry_margin": "margin",
  "bradley_terry_scaled": "margin",
  "bradley_terry_tempered": "ranks",
  "bradley_terry_smoothed": "ranks",
  "bradley_terry_soft": "preference",
  "christiano_mixture": "ranks",
  "davidson": "ties",
  "rao_kupper": "ties",
  "hinge": "ranks",
  "square": "ranks",
  "exponential": "ranks",
  "focal": "ranks",
  "focal_penalty": "ranks",
  "tempered_logarithm": "ranks",
  "pair_cross_entropy": "ranks",
  "all_pairs": "ranks",
  "plackett_luce": "ranks",
  "plackett_luce_top": "ranks",
  "listnet": "ratings",
  "outcome_cross_entropy": "labels",
  "squared_error": "values",
  "two_hot": "values",
  "hl_gauss": "values",
  "step_binary_cross_entropy": "step_labels",
  "step_cross_entropy": "step_labels",
  "next_token_cross_entropy": "tokens",
  "centering": "ranks",
  "score_square": "tokens",
  "group_variance": "tokens",
  "hidden_square": "tokens",
}

# Keys of config.loss that set the function's keyword-only parameters, under the
# same names but for the categorical losses: their centers are
# linspace(low, high, bins).
PARAMETERS = {
  "bradley_terry": (),
  "bradley_terry_margin": (),
  "bradley_terry_scaled": (),
  "bradley_terry_tempered": ("temperature",),
  "bradley_terry_smoothed": ("smoothing",),
  "bradley_terry_soft": (),
  "christiano_mixture": ("noise",),
  "davidson": (),
  "rao_kupper": (),
  "hinge": ("gap",),
  "square": ("gap",),
  "exponential": (),
  "focal": ("gamma",),
  "focal_penalty": ("gamma",),
  "tempered_logarithm": ("temperature",),
  "pair_cross_entropy": (),
  "all_pairs": (),
  "plackett_luce": (),
  "plackett_luce_top": ("top",),
  "listnet": ("temperature",),
  "outcome_cross_entropy": (),
  "squared_error": (),
  "two_hot": ("low", "high", "bins"),
  "hl_gauss": ("low", "high", "bins", "sigma"),
  "step_binary_cross_entropy": (),
  "step_cross_entropy": (),
  "next_token_cross_entropy": (),
  "centering": (),
  "score_square": (),
  "group_variance": (),
  "hidden_square": (),
}

# Positional arguments after what the model gives: after chosen and rejected
# where there are two sides, else after the first.
ARGUMENTS = {
  "bradley_terry": (),
  "bradley_terry_margin": ("margin",),
  "bradley_terry_scaled": ("margin",),
  "bradley_terry_tempered": (),
  "bradley_terry_smoothed": (),
  "bradley_terry_soft": ("preference",),
  "christiano_mixture": (),
  "davidson": ("tied",),
  "rao_kupper": ("tied",),
  "hinge": (),
  "square": (),
  "exponential": (),
  "focal": (),
  "focal_penalty": (),
  "tempered_logarithm": (),
  "pair_cross_entropy": (),
  "all_pairs": ("ranks", "where"),
  "plackett_luce": ("ranks", "where"),
  "plackett_luce_top": ("ranks", "where"),
  "listnet": ("labels", "where"),
  "outcome_cross_entropy": ("labels",),
  "squared_error": ("labels",),
  "two_hot": ("labels", "centers"),
  "hl_gauss": ("labels", "centers"),
  "step_binary_cross_entropy": ("labels",),
  "step_cross_entropy": ("labels",),
  "next_token_cross_entropy": ("tokens",),
  "centering": (),
  "score_square": (),
  "group_variance": ("where",),
  "hidden_square": (),
}

# Keyword-only parameters that are learnt with the model, and where they start.
LEARNED = {
  "davidson": {"log_tie": 0.0},
  "rao_kupper": {"log_tie": 0.0},
}

# No losses: expected_value reads the number out of a categorical head, the
# targets are labels of a value at every token.
__all__ = [
  "ARGUMENTS",
  "KIND",
  "LEARNED",
  "LOSSES",
  "NEEDS",
  "PARAMETERS",
  "expected_value",
  "monte_carlo_targets",
  "segmented_targets",
  "td_lambda_targets",
  *LOSSES,
]
