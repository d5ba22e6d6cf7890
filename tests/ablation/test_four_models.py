"""The picture of four kinds of models: what is drawn where. Nothing trains."""

import numpy as np
import pytest

from rm_jax.ablation import four_models as four
from rm_jax.data.worlds import chain
from rm_jax.evals.token_plots import Completion, Read, along_tokens
from rm_jax.types import UserError


@pytest.fixture(scope="module")
def held():
  return four.sides(four.SEED)[1]


def test_a_solution_of_each_kind_is_chosen(held):
  s = held.solutions
  (right, g0, k0), (wrong, g1, k1), (lucky, g2, k2) = four.choose(s)
  assert ("all" in right, "wrong" in wrong, "luck" in lucky) == (True,) * 3
  assert s.first_error[g0, k0] == -1
  assert s.first_error[g1, k1] == 2 and not s.outcome[g1, k1]
  assert s.first_error[g2, k2] >= 0 and s.outcome[g2, k2]


def test_truth_and_models_stand_at_their_tokens(held, tmp_path):
  # Catches a chance drawn a token early, a process model drawn between steps,
  # a mistake shaded from its operation on.
  said = {
    name: np.random.default_rng(n).random(held.tokens.shape)
    for n, name in enumerate(four.MODELS)
  }
  chances = chain.prefix_success(held.problems, held.solutions, four.GENERATOR)
  panels = []
  for title, g, k in four.choose(held.solutions):
    one = four.completion(title, g, k, held, said)
    panels.append(one)
    lines, u = held.solutions.lines[g, k], held.index[g, k]
    assert len(one.tokens) == 2 + 2 * lines + 2
    assert one.tokens[0] == f"{lines} lines" and one.tokens[-2] == "="
    values = held.solutions.values[g, k, :lines]
    assert one.tokens[3:-2:2] == [str(v) for v in values]
    np.testing.assert_allclose(one.truth[3:-2:2], chances[g, k, :lines])
    # The operation is given: with it nothing is known that was not before.
    np.testing.assert_array_equal(one.truth[4:-2:2], one.truth[3:-4:2])
    at = held.solutions.first_error[g, k]
    assert one.wrong_from == (-1 if at < 0 else 3 + 2 * at)
    reward, outcome, process, value = one.reads
    np.testing.assert_array_equal(
      process.values[3:-2:2], said["process"][u, 3 : len(one.tokens) - 2 : 2]
    )
    assert np.isfinite(process.values).sum() == lines
    for every in (reward, outcome, value):
      assert np.isfinite(every.values).tolist() == [False] * 2 + [True] * (
        2 * lines + 2
      )
    assert reward.learnt.tolist() == [False] * (2 * lines + 3) + [True]
  along_tokens(panels, tmp_path / "four.png", title="four")
  assert (tmp_path / "four.png").read_bytes()[:4] == b"\x89PNG"


def test_a_line_of_another_length_is_refused(tmp_path):
  one = Completion("a", ["x", "y"], (Read("m", np.zeros(3)),), np.zeros(2))
  with pytest.raises(UserError, match="expected 2 values of m.*got 3"):
    along_tokens([one], tmp_path / "x.png", title="")
