"""Value functions: losses under noisy returns, and how far ahead they look.

  rm-jax experiment farebrother2024_values --quick
  rm-jax experiment farebrother2024_values

A value function predicts, at every token, the return of the solution so far.
With a reward at the end alone and discount 1 its Monte-Carlo target is the
label that an outcome reward model learns at every token: the two are one model,
if the loss is one. Farebrother et al. 2024, arXiv:2403.03950, find that
classification (a two-hot label, or a Gaussian over bins, HL-Gauss) beats
regression to the same returns, most where returns are noisy or what they are of
moves on. TD(lambda) trusts the model's own value of the next token: less
variance, and bias until late values are right.

On W-CHAIN without squares and traps the true value of every line is known in
closed form, and what it depends on stands in the tokens: prefixes of equal true
value are equal states, so that an error is bias, the mean error of a state, and
spread, the standard deviation of what is said of it. The noise of heavy returns
is Student's t with 1.5 degrees of freedom, which has no variance. Categorical
losses clip returns to their bins, cross-entropy to [0, 1]: clipping is part of
what is compared, and one arm of squared error has it alone. A policy that
drifts writes with fewer and fewer errors and is read in that order; the value
asked for is that of its last self, from which all other arms learn.
"""

import functools

import numpy as np

MODULUS = 7
ERROR = 0.15
FIRST_ERROR = 0.4  # of the policy that drifts; falls to ERROR
FREEDOM, SCALE = 1.5, 0.25  # of the noise of heavy returns
LOW, HIGH, BINS = -1.0, 2.0, 51
SIGMA = 0.75 * (HIGH - LOW) / (BINS - 1)
LOSSES = dict(
  mse="squared_error",
  bce="outcome_cross_entropy",
  two_hot="two_hot",
  hl_gauss="hl_gauss",
)
KINDS = ("heavy", "drift", "clean")
TRACES = dict(td_0=0.0, td_09=0.9, td_1=1.0)

DESIGN = dict(
  title="Value functions: regression, classification, TD(lambda)",
  source="Farebrother et al. 2024, arXiv:2403.03950 (noise, non-stationarity)",
  claim=(
    "A value learnt as a distribution over bins (HL-Gauss) is closer to the "
    "truth than one by squared error where returns are noisy."
  ),
  arms=dict(
    mse_heavy="squared error, heavy-tailed returns",
    bce_heavy="cross-entropy of returns clipped to [0, 1], heavy-tailed",
    two_hot_heavy="two-hot, heavy-tailed returns",
    hl_gauss_heavy="HL-Gauss, heavy-tailed returns",
    mse_clipped_heavy="squared error, heavy-tailed returns cut at the bins",
    mse_drift="squared error, returns of a policy that drifts",
    bce_drift="cross-entropy, a policy that drifts",
    two_hot_drift="two-hot, a policy that drifts",
    hl_gauss_drift="HL-Gauss, a policy that drifts",
    mse_clean="squared error",
    bce_clean="cross-entropy",
    two_hot_clean="two-hot",
    hl_gauss_clean="HL-Gauss",
    td_0="squared error to TD(0) targets",
    td_09="squared error to TD(0.9) targets",
    td_1="squared error to TD(1) targets: Monte Carlo",
    identity="outcome model beside a Monte-Carlo value by squared error",
    constant="the mean return of training, no model",
    place="that of as many lines done and left, no model",
  ),
  seeds=tuple(range(8)),
  quick_seeds=(0, 1, 2),
  columns=dict(
    rmse="error of the value at lines (RMSE)",
    rmse_first="at the first line",
    rmse_last="at the last line",
    bias="of it bias: mean error of equal states",
    spread="of it spread: std of the value among equal states",
    bias_first="bias, first line",
    spread_first="spread, first line",
    rank_correlation="rank correlation with the true value",
    between="rank correlation of outcome model and value",
  ),
  outcomes=(
    dict(
      name="RMSE under heavy-tailed returns, HL-Gauss over squared error",
      metric="rmse",
      arm="hl_gauss_heavy",
      less="mse_heavy",
      expected=-1,
      published="below 0; the sizes are of games, not of RMSE",
      comparable="returns of reinforcement learning there",
    ),
    dict(
      name="the same, HL-Gauss over two-hot",
      metric="rmse",
      arm="hl_gauss_heavy",
      less="two_hot_heavy",
      expected=-1,
      published="below 0",
      comparable="as above",
    ),
    dict(
      name="the same, two-hot over squared error",
      metric="rmse",
      arm="two_hot_heavy",
      less="mse_heavy",
      expected=-1,
      published="below 0",
      comparable="as above",
    ),
    dict(
      name="RMSE of clean returns, HL-Gauss over squared error",
      metric="rmse",
      arm="hl_gauss_clean",
      less="mse_clean",
      expected=-1,
      published="below 0, less so",
      comparable="as above",
    ),
    dict(
      name="RMSE under a drifting policy, HL-Gauss over squared error",
      metric="rmse",
      arm="hl_gauss_drift",
      less="mse_drift",
      expected=-1,
      published="below 0",
      comparable="labels that change while a classifier trains there",
    ),
    dict(
      name="RMSE of squared error, a drifting policy over the last one alone",
      metric="rmse",
      arm="mse_drift",
      less="mse_clean",
      expected=1,
      published="not in the paper: else there was nothing to lose",
      comparable="no",
    ),
    dict(
      name="spread among equal states, first line, TD(0) over TD(1)",
      metric="spread_first",
      arm="td_0",
      less="td_1",
      expected=-1,
      published="below 0 (Sutton and Barto 2018, chapter 7)",
      comparable="a number of visits of states there, of train steps here",
    ),
    dict(
      name="RMSE at the first line, TD(0) over TD(1)",
      metric="rmse_first",
      arm="td_0",
      less="td_1",
      expected=1,
      published="above 0 early in training",
      comparable="as above",
    ),
    dict(
      name="bias, first line, TD(0) over TD(1)",
      metric="bias_first",
      arm="td_0",
      less="td_1",
      expected=1,
      published="above 0 early in training",
      comparable="added after a first run of these seeds",
    ),
    dict(
      name="RMSE under heavy-tailed returns, HL-Gauss over squared error, cut",
      metric="rmse",
      arm="hl_gauss_heavy",
      less="mse_clipped_heavy",
      expected=0,
      published="not asked",
      comparable="added after a first run of these seeds",
    ),
  ),
  checks=(
    dict(
      name="squared error learns clean returns: rank correlation",
      metric="rank_correlation",
      arm="mse_clean",
      above=0.6,
    ),
    dict(
      name="heavy tails hurt squared error",
      metric="rmse",
      arm="mse_heavy",
      less="mse_clean",
      above=0.0,
    ),
  ),
  conditions=(
    dict(
      name="outcome model and Monte-Carlo value rank alike: 0.98",
      metric="between",
      arm="identity",
      above=0.98,
    ),
  ),
  series=(
    dict(
      title="bias: mean error of equal states",
      axis="train step",
      lines={name: (name, "bias") for name in TRACES},
    ),
    dict(
      title="spread of the value among equal states",
      axis="train step",
      lines={name: (name, "spread") for name in TRACES},
    ),
  ),
  sizes=dict(
    whole=dict(before=900, steps=240, problems=4_000, test=400),
    quick=dict(before=150, steps=60, problems=1_000, test=100),
    two_steps=dict(before=2, steps=2, problems=60, test=20),
  ),
  falsified=(
    "HL-Gauss has an RMSE more than 5 % above that of squared error under "
    "heavy-tailed returns"
  ),
  tuning=dict(
    rates=(1e-3, 3e-3, 1e-2),
    seeds=(100, 101, 102, 103),
    metric="rmse",
    lower=True,
    arms=(  # all that train
      *(f"{loss}_{kind}" for kind in KINDS for loss in LOSSES),
      *("mse_clipped_heavy", *TRACES, "identity"),
    ),
  ),
)

# The winners of --tune, on seeds 100 to 103.
RATES = dict(
  mse_heavy=3e-3,
  bce_heavy=3e-3,
  two_hot_heavy=3e-3,
  hl_gauss_heavy=3e-3,
  mse_clipped_heavy=3e-3,
  mse_drift=3e-3,
  bce_drift=3e-3,
  two_hot_drift=3e-3,
  hl_gauss_drift=1e-2,
  mse_clean=3e-3,
  bce_clean=3e-3,
  two_hot_clean=1e-2,
  hl_gauss_clean=1e-2,
  td_0=3e-3,
  td_09=1e-2,
  td_1=3e-3,
  identity=3e-3,
)
BATCH = 64
SAMPLES = 4  # solutions of a problem
POINTS, SHOWN = 8, 200  # of a curve: how many, of how many problems


@functools.lru_cache(maxsize=1)
def data(seed: int, before: int, problems: int, test: int):
  """What the arms of a seed share.

  (problems, solutions, those of a policy that drifts, noise of returns,
  held-out, first backbone)
  """
  from rm_jax.ablation.chain_runs import first_backbone, hold
  from rm_jax.data.worlds import chain

  rng = np.random.default_rng([2403, 3950, seed])
  sides = []
  for count in (problems, test):
    drawn = chain.draw_problems(rng, count=count, modulus=MODULUS, squares=0.0)
    own = chain.draw_solutions(rng, drawn, generator(), count=SAMPLES)
    sides.append((drawn, own))
  noise = SCALE * rng.standard_t(FREEDOM, (problems, SAMPLES))
  first = first_backbone(rng, seed, modulus=MODULUS, steps=before)
  error = np.linspace(FIRST_ERROR, ERROR, problems)[:, None]
  moving = chain.Generator(error, error)
  drifted = chain.draw_solutions(rng, sides[0][0], moving, count=SAMPLES)
  return *sides[0], drifted, noise, hold(*sides[1]), first


def generator():
  """What writes the solutions: the policy whose value is learnt."""
  from rm_jax.data.worlds.chain import Generator

  return Generator(ERROR, ERROR)


def job(arm, seed, *, before, steps, problems, test, rate=None):
  """One arm at one seed: (metrics, errors over training of TD arms)."""
  from rm_jax.ablation.token_runs import costs

  own, solutions, drifted, noise, held, first = data(
    seed, before, problems, test
  )
  if arm in ("constant", "place"):
    found = mean_returns(own, solutions, held, by_place=arm == "place")
    return measures(found, held), []
  if arm.endswith("_drift"):
    solutions = drifted
  returns = solutions.outcome.astype(float)
  how = dict(seed=seed, steps=steps, rate=rate or RATES[arm], first=first)
  side = (own, solutions, held)
  if arm == "identity":
    outcome, _ = values("bce", side, returns, **how)
    found, fitted = values("mse", side, returns, trace=1.0, **how)
    between = {"between": ranks_alike(outcome, found, held)}
    return measures(found, held) | between | costs(fitted), []
  if arm in TRACES:
    found, fitted = values("mse", side, returns, trace=TRACES[arm], **how)
    return measures(found, held) | costs(fitted), along(fitted.curve, held)
  loss, _, kind = arm.rpartition("_")
  if kind == "heavy":
    returns = returns + noise
  if loss == "mse_clipped":
    loss, returns = "mse", np.clip(returns, LOW, HIGH)
  found, fitted = values(loss, side, returns, drift=kind == "drift", **how)
  return measures(found, held) | costs(fitted), []


def values(
  loss, side, returns, *, seed, steps, rate, first, trace=None, drift=False
):
  """(values [G, K, 10] at the lines of held-out solutions, the run).

  trace: lambda; such a run has a curve. drift: solutions are read in order.
  """
  from scipy.special import softmax

  from rm_jax.ablation import chain_runs as runs
  from rm_jax.train.labels import sigmoid

  own, solutions, held = side
  binned = loss in ("two_hot", "hl_gauss")
  c = runs.chain_config(
    seed=seed,
    steps=steps,
    batch=BATCH,
    loss=LOSSES[loss],
    pooling="every_token",
    rate=rate,
    head="bins" if binned else "biased_scalar",
  )
  if binned:
    c.loss.low, c.loss.high, c.loss.bins = LOW, HIGH, BINS
  if loss == "hl_gauss":
    c.loss.sigma = SIGMA
  if loss == "bce":
    returns = np.clip(returns, 0.0, 1.0)
  c.data.shuffle = not drift
  curve = {}
  if trace is not None:
    c.loss.discount, c.loss.trace = 1.0, trace
    shown = runs.lines_to_score(c, held, problems=SHOWN)
    curve = dict(curve=shown, every=max(1, steps // POINTS))
  train = runs.to_learn(c, own, solutions, outcomes=returns)
  start = runs.start_from(c, first, MODULUS)
  fitted = runs.train(c, train, MODULUS, start=start, **curve)
  raw = runs.score_tokens(c, fitted.params, held).at_lines()
  if binned:
    return softmax(raw, -1) @ np.linspace(LOW, HIGH, BINS), fitted
  return (sigmoid(raw) if loss == "bce" else raw)[..., 0], fitted


def mean_returns(problems, solutions, held, *, by_place: bool) -> np.ndarray:
  """Mean returns of training at the lines of held-out solutions [G, K, 10].

  by_place: of prefixes with as many lines done and left; else of all.
  """
  from rm_jax.data.worlds import chain

  def places(problems, solutions):
    lengths = np.broadcast_to(
      problems.lengths[:, None, None], solutions.done.shape
    )
    line = np.broadcast_to(np.arange(chain.LINES), solutions.done.shape)
    return lengths * by_place, line * by_place

  where = chain.is_line(solutions)
  shape = (chain.LONGEST + 1, chain.LINES)
  total, count = np.zeros(shape), np.zeros(shape)
  at = tuple(x[where] for x in places(problems, solutions))
  right = np.broadcast_to(solutions.outcome[..., None], where.shape)[where]
  np.add.at(total, at, right)
  np.add.at(count, at, 1)
  mean = np.divide(total, count, out=np.full(shape, 0.5), where=count > 0)
  return mean[places(held.problems, held.solutions)]


def ranks_alike(first, second, held) -> float:
  """Spearman's correlation over all lines."""
  from scipy.stats import spearmanr

  from rm_jax.data.worlds.chain import is_line

  where = is_line(held.solutions)
  if not np.ptp(first[where]):
    return 0.0  # a constant ranks nothing
  return float(spearmanr(first[where], second[where]).statistic)


def true_values(held) -> np.ndarray:
  """The chance that the policy ends right from each line, [G, K, 10]."""
  from rm_jax.data.worlds.chain import prefix_success

  return prefix_success(held.problems, held.solutions, generator())


def measures(found, held) -> dict[str, float]:
  """Errors against the true values."""
  from rm_jax.data.worlds import chain

  solutions = held.solutions
  where = chain.is_line(solutions)
  truth = true_values(held)
  last = where & (np.arange(chain.LINES) == solutions.lines[..., None] - 1)
  bias, spread = parts(found[where], truth[where])
  first_bias, first_spread = parts(found[..., 0], truth[..., 0])
  return {
    "rmse": rms((found - truth)[where]),
    "rmse_first": rms((found - truth)[..., 0]),
    "rmse_last": rms((found - truth)[last]),
    "bias": bias,
    "spread": spread,
    "bias_first": first_bias,
    "spread_first": first_spread,
    "rank_correlation": ranks_alike(found, truth, held),
  }


def rms(x) -> float:
  return float(np.sqrt(np.mean(np.square(x))))


def parts(found, truth) -> tuple[float, float]:
  """(bias, spread) of an error: the RMSE squared is the sum of their squares.

  States of equal true value are one: bias is the root mean square of their mean
  errors, spread that of what is left, each state as often as it occurs.
  """
  _, state = np.unique(np.round(truth, 9), return_inverse=True)
  state = state.ravel()
  error = np.ravel(found - truth)
  mean = (np.bincount(state, error) / np.bincount(state))[state]
  return rms(mean), rms(error - mean)


def along(curve, held) -> list[dict]:
  """Errors at points of training, of the lines that its curve scores."""
  from rm_jax.data.worlds.chain import is_line

  where = is_line(held.solutions)[:SHOWN, 0]
  truth = true_values(held)[:SHOWN, 0][where]
  rows = []
  for step, scored in curve:
    found = np.asarray(scored.completions, float)[:, 0]
    bias, spread = parts(found, truth)
    error = {"rmse": rms(found - truth), "bias": bias, "spread": spread}
    rows.append({"step": step} | error)
  return rows
