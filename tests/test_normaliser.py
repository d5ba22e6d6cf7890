"""Normalisers: of a stated distribution, beside the model, never silent."""

import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pytest

from rm_jax import RewardModel
from rm_jax.evals.score import score_file
from rm_jax.normaliser import FILE, Normaliser, fit, fold_gain
from rm_jax.reward_model import HeadSpec, ModelSpec
from rm_jax.types import UserError
from tests import tiny_run, trained
from tests.published_folders import LLAMA3, draw, tokenizer, write

PROMPT = "What is two plus two ?"
COMPLETIONS = ("It is four .", "It is five .", "Nobody knows .")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  copy = tmp_path_factory.mktemp("normaliser") / "workdir"
  shutil.copytree(trained.run(tmp_path_factory.getbasetemp(), "all"), copy)
  return copy


@pytest.mark.parametrize("scores", [[], [1.0], [0.1] * 3, [0.7] * 10])
def test_scores_that_are_all_the_same_have_no_normaliser(scores):
  # Catches: std > 0, which is 1e-17 of three scores of 0.1: rewards of 1e16.
  with pytest.raises(UserError, match=r"samples: .*differ, got \d+ of std 0"):
    fit(scores, source="samples")


def samples(folder, seed=0, count=7):
  """Two completions of each of some prompts, as a policy's samples are kept."""
  rng = np.random.default_rng(seed)
  rows = [
    dict(
      prompt=tiny_run.sentence(rng, 4),
      completions=[tiny_run.sentence(rng, 3), tiny_run.sentence(rng, 6)],
    )
    for _ in range(count)
  ]
  return tiny_run.write_rows(folder / "samples.jsonl", rows)


def fitted(model, folder, data, **how):
  out = folder / "scored.jsonl"
  told = score_file(
    str(model), data, out, kind="auto", dtype="float32", fit_normaliser=True
  )
  return told, [x for row in map(json.loads, out.open()) for x in row["scores"]]


def test_reward_is_the_score_in_units_of_the_distribution(workdir, tmp_path):
  # Wrong: statistics of another set, a sample std, score() changed with them.
  before = RewardModel.load(workdir)
  raw = before.score(PROMPT, COMPLETIONS)
  with pytest.raises(UserError, match="no reward: .*--fit_normaliser"):
    before.reward(PROMPT, COMPLETIONS)
  data = samples(tmp_path)
  told, scores = fitted(workdir, tmp_path, data)
  assert len(scores) == 14
  mean = sum(scores) / 14
  std = (sum((s - mean) ** 2 for s in scores) / 14) ** 0.5
  assert f"mean {mean:.4f}, std {std:.4f} of 14 scores of samples" in told

  model = RewardModel.load(workdir)
  np.testing.assert_array_equal(model.score(PROMPT, COMPLETIONS), raw)
  want = [(float(s) - mean) / std for s in raw]
  got = model.reward(PROMPT, COMPLETIONS)
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, want, rtol=1e-5)
  n = model.normaliser
  assert (n.source, n.scores, n.rows, n.rejected) == (str(data), 14, 7, 0)
  assert n.sha256 == hashlib.sha256(data.read_bytes()).hexdigest()
  # Fitted in float32, used in bfloat16: the same weights.
  assert RewardModel.load(workdir, dtype="bfloat16").normaliser == n


def test_other_weights_have_no_normaliser_and_keep_that_of_others(
  workdir, tmp_path
):
  # Wrong: the normaliser of one checkpoint used for another.
  fitted(workdir, tmp_path, samples(tmp_path))
  model = RewardModel.load(workdir)
  assert model.normaliser
  params = {
    **model.params,
    "head": {"kernel": 2 * model.params["head"]["kernel"]},
  }
  other = dataclasses.replace(model, params=params, normaliser=None)
  assert other._with_normaliser(workdir).normaliser is None
  # A second fit of the same weights replaces the first.
  (tmp_path / "scored.jsonl").unlink()
  (tmp_path / "scored.jsonl.progress.json").unlink()
  fitted(workdir, tmp_path, samples(tmp_path, seed=5, count=3))
  assert RewardModel.load(workdir).normaliser.scores == 6
  assert len(json.loads((workdir / FILE).read_text())["normalisers"]) == 1


HEADS = [
  ("scalar", {"kernel": draw(1, 32)}, {}),
  (
    "biased_scalar",
    {"linear": {"kernel": draw(1, 32)}, "bias": draw(2, 1)},
    {},
  ),
  (
    "attributes",
    {"kernel": draw(1, 32, 3), "bias": draw(2, 3)},
    {"outputs": 3, "weights": (0.5, 0.3, 0.2)},
  ),
  (
    "bins",
    {"kernel": draw(1, 32, 5), "bias": draw(2, 5)},
    {"outputs": 5, "centers": (0.0, 4.0, 5)},
  ),
]


@pytest.mark.parametrize("kind, own, more", HEADS)
def test_the_gain_folds_into_the_head(workdir, kind, own, more):
  # Wrong: a bias or the attributes left in old units, the mean not moved.
  model = RewardModel.load(workdir)
  head = HeadSpec(kind, "zeros", "last_token", **more)
  model = dataclasses.replace(
    model,
    spec=dataclasses.replace(model.spec, head=head),
    params={"backbone": model.params["backbone"], "head": own},
    normaliser=Normaliser(0.75, 2.5, "here.jsonl", scores=9),
  )
  folded = model.fold_gain()
  np.testing.assert_allclose(
    folded.score(PROMPT, COMPLETIONS),
    model.score(PROMPT, COMPLETIONS) / 2.5,
    rtol=1e-5,
    atol=1e-6,
  )
  np.testing.assert_allclose(
    folded.reward(PROMPT, COMPLETIONS),
    model.reward(PROMPT, COMPLETIONS),
    rtol=1e-5,
    atol=1e-5,
  )
  assert folded.normaliser == Normaliser(0.3, 1.0, "here.jsonl", scores=9)
  if kind == "attributes":  # ratings keep their unit
    np.testing.assert_array_equal(
      folded.score_attributes(PROMPT, COMPLETIONS),
      model.score_attributes(PROMPT, COMPLETIONS),
    )


@pytest.mark.parametrize("kind", ["steps", "verdict", "two_layer_classes"])
def test_probabilities_have_a_unit(kind):
  spec = ModelSpec(
    None, HeadSpec(kind, "zeros", "step_ends"), "float32", False, ()
  )
  with pytest.raises(UserError, match=f"{kind!r} gives probabilities"):
    fold_gain(spec, {"head": {}}, (0.0, 1.0))


def test_fold_without_a_normaliser(workdir):
  model = dataclasses.replace(RewardModel.load(workdir), normaliser=None)
  with pytest.raises(UserError, match="has no normaliser"):
    model.fold_gain()


# ---------------------------------------------------------------- published


def test_a_published_head_with_another_template_is_refused(tmp_path):
  # Traps 6 and 7, design "Fingerprint": what was fitted on other tokens fails
  # at loading, and the difference is shown.
  head = {"score.weight": draw(1, 1, 32)}
  folder = write(tmp_path / "rm", "LlamaForSequenceClassification", head)
  fitted(folder, tmp_path, samples(tmp_path))
  model = RewardModel.load(folder)
  assert (
    model.normaliser.scores == 14 and len(model.reward(PROMPT, ["Yes ."])) == 1
  )

  tokenizer(LLAMA3.replace("'\n\n'", "': '", 1)).save_pretrained(folder)
  with pytest.raises(UserError) as error:
    RewardModel.load(folder)
  message = str(error.value)
  assert message.startswith(f"{folder / FILE}: the normaliser of this model")
  assert "dialogue: stored" in message and "user: " in message
  assert message.endswith(f"or remove {FILE} and fit it again.")

  changed = tokenizer(LLAMA3)
  changed.bos_token = "<|eot_id|>"  # a special-token rule
  changed.save_pretrained(folder)
  changed.bos_token = "<s>"
  with pytest.raises(UserError, match="special_ids.bos: stored .*, ours"):
    RewardModel.load(folder)

  (folder / FILE).unlink()
  with pytest.raises(UserError, match="has no normaliser"):
    RewardModel.load(folder).reward(PROMPT, ["Yes ."])


# ---------------------------------------------------------------- bad input


def test_steps_are_not_normalised(workdir, tmp_path):
  row = dict(
    prompt=PROMPT, completions=["First add .", "Then ."], labels=[1, 0]
  )
  data = tiny_run.write_rows(tmp_path / "steps.jsonl", [row])
  with pytest.raises(UserError, match="has reasoning steps: leave --fit"):
    fitted(workdir, tmp_path, data)


def test_scores_that_do_not_differ():
  assert fit([1.0, 3.0]) == Normaliser(2.0, 1.0, scores=2)
  for scores in ([], [1.0], [2.0, 2.0]):
    with pytest.raises(UserError, match="file: a normaliser needs scores that"):
      fit(scores, source="file")


def test_a_place_that_cannot_hold_it(workdir, tmp_path):
  for place, match in (
    ("gs://b/run", "copy it to this machine first"),
    ("smollm2", "got no such folder"),
  ):
    with pytest.raises(UserError, match=match):
      score_file(place, samples(tmp_path), tmp_path / "o.jsonl", **HOW)


HOW = dict(kind="auto", dtype="float32", fit_normaliser=True)


@pytest.mark.parametrize(
  "content",
  ['{"schema": 2}', '{"schema": 1, "normalisers": {"a": {"mean": 1}}}'],
)
def test_a_file_of_another_kind(workdir, tmp_path, content):
  copy = tmp_path / "copy"
  shutil.copytree(workdir, copy)
  (copy / FILE).write_text(content)
  with pytest.raises(UserError, match="expected schema 1 .* remove the file"):
    RewardModel.load(copy)
