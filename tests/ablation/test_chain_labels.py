"""The designs on W-CHAIN: which solutions are labelled or spoken, with what."""

import math
import pathlib

import numpy as np
import pytest

from rm_jax.ablation.design import load_file
from rm_jax.data.worlds import chain

ROOT = pathlib.Path(__file__).parents[2]
LIGHTMAN, WANG, COBBE = (
  load_file(ROOT / "experiments" / key / "mini.py")
  for key in (
    "lightman2023_prm",
    "wang2023_math_shepherd",
    "cobbe2021_verifiers",
  )
)


def side(count: int, samples: int, *, seed=0):
  """(problems, solutions) as the designs draw them, a handful."""
  rng = np.random.default_rng(seed)
  problems = chain.draw_problems(rng, count=count, modulus=7, traps=0.1)
  generator = chain.Generator(WANG.ERROR, WANG.TRAP_ERROR)
  return problems, chain.draw_solutions(rng, problems, generator, count=samples)


@pytest.mark.parametrize("arm, count", [("uniform", 5), ("uniform_more", 13)])
def test_uniform_labels_the_first_solutions_and_trains_no_model(
  monkeypatch, arm, count
):
  monkeypatch.setattr(LIGHTMAN, "process_scores", None)
  got = LIGHTMAN.choose(arm, 0, side(2, 16))
  assert got == [(g, k) for g in (0, 1) for k in range(count)]


# Solutions 1 and 5 have the same lines. By the first model's score, the highest
# first: four of five are the highest wrong ones, one the highest that is left.
ACTIVE = {
  "right ones are left over": (
    [0.9, 0.8, 0.7, 0.6, 0.5, 0.8, 0.4, 0.3, 0.95],
    (1, 3, 4, 6, 7),
    [1, 3, 4, 6, 8],
  ),
  "the fifth wrong one is the highest left": (
    [0.1, 0.8, 0.2, 0.6, 0.5, 0.8, 0.4, 0.3, 0.05],
    (1, 3, 4, 6, 7),
    [1, 3, 4, 6, 7],
  ),
  "only two are wrong": (
    [0.9, 0.1, 0.7, 0.2, 0.5, 0.1, 0.4, 0.3, 0.95],
    (1, 3),
    [3, 1, 8, 0, 2],
  ),
  "the same lines are right": (
    [0.1, 0.8, 0.2, 0.6, 0.5, 0.8, 0.4, 0.3, 0.05],
    (3, 4),
    [3, 4, 1, 6, 7],
  ),
}


def test_active_labels_convincing_wrong_solutions_then_the_highest(
  monkeypatch,
):
  # Catches: the least convincing, a copy that is labelled twice, wrong ones
  # that are left out of what is left; a first model of more than one solution a
  # problem, or one that is read at other solutions.
  problems, drawn = side(len(ACTIVE), 9)
  # The first value tells them apart; 5 is 1 again.
  values = np.zeros_like(drawn.values)
  values[..., :2] = [divmod(k, 7) for k in (0, 1, 2, 3, 4, 1, 6, 7, 8)]
  wrong = np.zeros(drawn.outcome.shape, bool)
  for g, (_, ks, _) in enumerate(ACTIVE.values()):
    wrong[g, list(ks)] = True
    wrong[g, 5] = wrong[g, 1]
  solutions = drawn._replace(
    values=values,
    lines=np.full_like(drawn.lines, 3),
    done=np.where(np.arange(chain.LINES) < 3, 1, 0) * np.ones_like(drawn.done),
    answers=np.zeros_like(drawn.answers),
    outcome=~wrong,
  )
  scores = np.asarray([own for own, _, _ in ACTIVE.values()])
  asked = []

  def process_scores(seed, own, held, *, picks, steps):
    asked.append((seed, picks, steps))
    assert own[1] is solutions and held.solutions is solutions
    return {"product": scores, "mean": -scores, "last": -scores}, None

  monkeypatch.setattr(LIGHTMAN, "process_scores", process_scores)
  got = LIGHTMAN.choose("active", 3, (problems, solutions), steps=7)
  assert asked == [(3, [(g, 0) for g in range(len(ACTIVE))], 7)]
  want = [(g, k) for g, (_, _, ks) in enumerate(ACTIVE.values()) for k in ks]
  assert got == want


def test_shares_of_rollouts_have_the_exact_chances():
  # Catches: rollouts from the line before, another problem's answer, lines
  # beyond the end that have a label.
  count = 400
  problems, solutions = side(4, 3)
  got = WANG.rollout_shares(0, problems, solutions, count=count)
  assert got.shape == (4, 3, chain.LINES)
  where = np.arange(chain.LINES) < solutions.lines[..., None]
  assert (np.isnan(got) == ~where).all()
  hits = got[where] * count
  assert hits == pytest.approx(hits.round(), abs=1e-9)
  generator = chain.Generator(WANG.ERROR, WANG.TRAP_ERROR)
  chance = chain.prefix_success(problems, solutions, generator)[where]
  # Each prefix within four standard errors of its chance, exactly where that is
  # 0 or 1 because nothing is left to be written; their mean within three.
  variance = chance * (1 - chance) / count
  off = got[where] - chance
  assert (abs(off) <= 4 * np.sqrt(variance) + 1e-12).all()
  assert abs(off.sum()) <= 3 * math.sqrt(variance.sum())
  last = solutions.lines - 1
  ends = np.take_along_axis(got, last[..., None], -1)[..., 0]
  assert (ends == solutions.outcome).all()


def test_the_rollouts_of_a_seed_are_its_own():
  problems, solutions = side(4, 3)
  one = WANG.rollout_shares(0, problems, solutions, count=1)
  assert set(np.unique(one[~np.isnan(one)])) == {0.0, 1.0}
  again = WANG.rollout_shares(0, problems, solutions, count=1)
  np.testing.assert_array_equal(one, again)
  other = WANG.rollout_shares(1, problems, solutions, count=1)
  assert np.nansum(abs(one - other)) > 0


def test_labels_are_judged_line_by_line(monkeypatch):
  # Catches: a right line behind a wrong one called right, the chance of one
  # rollout for that of four, wrong prefixes that count as if they were right.
  problems, solutions = side(5, 4)
  rng = np.random.default_rng(1)
  share = rng.integers(0, 5, solutions.values.shape) / 4
  share[np.arange(chain.LINES) >= solutions.lines[..., None]] = np.nan

  def rollout_shares(seed, own, drawn, *, count):
    assert (seed, count) == (3, 4) and own is problems and drawn is solutions
    return share

  monkeypatch.setattr(WANG, "rollout_shares", rollout_shares)
  got = WANG.label_quality(3, problems, solutions, 4)
  generator = chain.Generator(0.12, 0.7)
  chances = chain.prefix_success(problems, solutions, generator)
  hard, expected, cross, squared, lucky, off = [], [], [], [], [], []
  for g, k in np.ndindex(5, 4):
    so_far = True
    for n in range(solutions.lines[g, k]):
      so_far = so_far and bool(solutions.follows[g, k, n])
      p, s = float(chances[g, k, n]), float(share[g, k, n])
      none_of_four = (1 - p) ** 4
      hard.append((s > 0) == so_far)
      expected.append(1 - none_of_four if so_far else none_of_four)
      q = (4 * s + 0.5) / 5
      cross.append(-p * math.log(q) - (1 - p) * math.log(1 - q))
      squared.append((s - p) ** 2)
      off.append((s > 0) - (1 - none_of_four))
      if not so_far:
        lucky.append(p)
  assert 0 < len(lucky) < len(hard)
  assert got == pytest.approx(
    {
      "hard_accuracy": np.mean(hard),
      "hard_expected": np.mean(expected),
      "soft_cross_entropy": np.mean(cross),
      "soft_error": np.mean(squared),
      "lucky": np.mean(lucky),
      "off_expected": abs(np.mean(off)),
    }
  )


def test_references_are_right_solutions_of_the_training_problems(monkeypatch):
  from rm_jax.ablation import chain_runs as runs

  monkeypatch.setattr(runs, "first_backbone", lambda *_, **__: "backbone")
  problems, solutions, reference, held, first = COBBE.data(5, 0, 7, 3, 2)
  assert solutions.lines.shape == (7, 3) and reference.lines.shape == (7, 1)
  assert held.solutions.lines.shape == (2, 256) and first == "backbone"
  for g in range(7):
    value = problems.starts[g]
    for n in range(problems.lengths[g]):
      operation = chain.OPERATIONS[problems.operations[g, n]]
      value = {"+1": value + 1, "*2": value * 2, "^2": value**2}[operation] % 7
      assert reference.values[g, 0, n] == value
    assert reference.answers[g, 0] == value
    assert reference.lines[g, 0] == problems.lengths[g] <= COBBE.LONGEST
  assert reference.outcome.all() and (reference.first_error == -1).all()


def test_a_joint_arm_judges_and_speaks_equally_often():
  # Catches: shares by the number of solutions, outcomes of references that
  # teach the verifier, solutions to be judged that teach the next token.
  from rm_jax.ablation import chain_runs as runs
  from rm_jax.data.plan import sampler

  problems, solutions = side(3, 4)
  never = chain.Generator(0.0, 0.0)
  rng = np.random.default_rng(2)
  reference = chain.draw_solutions(rng, problems, never, count=1)
  c = runs.chain_config(
    seed=0,
    steps=1,
    batch=4,
    loss="squared_error",
    pooling="every_token",
    rate=1e-3,
  )
  right = solutions.outcome.astype(float)
  judged = runs.to_learn(c, problems, solutions, outcomes=right)
  data, parts = COBBE.with_language(c, judged, problems, reference)
  assert [(p.first, p.count) for p in parts] == [(0, 12), (12, 3)]
  order = sampler(parts, seed=0, shuffle=True)
  spoken = [int(order[i]) >= 12 for i in range(24)]
  assert sum(spoken) == 12  # each of 3 references four times
  assert c.tasks.language.loss.language_coefficient == 1.0
  assert c.loss.language_coefficient == 0.0
  assert c.tasks.language.share_head
  groups = list(data.groups)
  assert len(groups) == 15
  for group, (g, k) in zip(groups[:12], np.ndindex(3, 4), strict=True):
    assert group.task == 0 and (group.labels[0] == right[g, k]).all()
    assert (group.weights[0] > 0).all()
    assert not group.language_weights[0].any()
  tokens, counts = chain.token_rows(problems, reference)
  for g, group in enumerate(groups[12:]):
    assert group.task == 1 and not group.weights[0].any()
    assert group.language_weights[0].any()
    want = tokens[g, 0, : counts[g, 0]]
    np.testing.assert_array_equal(group.tokens[0], want)
