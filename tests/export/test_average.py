"""The mean of runs: of every weight, and only where it means something."""

import json
import shutil

import jax
import numpy as np
import pytest

from rm_jax import RewardModel
from rm_jax.export.average import load_average
from rm_jax.export.folder import export
from rm_jax.train.checkpoint import load_params, save_best
from rm_jax.types import UserError
from tests import exporting, trained


@pytest.fixture(scope="module")
def first(tmp_path_factory):
  return trained.run(tmp_path_factory.getbasetemp(), "all")


def another(first, folder, *, changed=(), params=None):
  """A run like the first, with other weights or another run.json."""
  shutil.copytree(first, folder)
  path = folder / "run.json"
  run = json.loads(path.read_text())
  for keys, value in changed:
    *above, last = keys.split(".")
    part = run
    for key in above:
      part = part[key]
    part[last] = value
  path.write_text(json.dumps(run))
  if params is not None:
    shutil.rmtree(folder / "best")
    save_best(folder, 2, params)
  return str(folder)


def test_every_weight_is_the_mean(first, tmp_path):
  # Would catch a head or a norm that is the first run's.
  rng = np.random.default_rng(0)
  other = jax.tree.map(
    lambda x: x + rng.normal(0, 0.1, x.shape).astype(np.float32),
    load_params(first, "best", None)[0],
  )
  a, b = str(first), another(first, tmp_path / "b", params=other)
  out = tmp_path / "out"
  said = export(
    "",
    str(out),
    average=[a, b, b],
    architecture="auto",
    dtype="float32",
    max_shard_bytes=1 << 30,
    task="",
    results=[],
  )
  assert "LlamaForSequenceClassification" in said
  one, two, mean = (RewardModel.load(x).params for x in (a, b, out))
  for x, y, z in zip(*map(jax.tree.leaves, (one, two, mean)), strict=True):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    assert np.array_equal(z, ((x + y + y) / 3).astype(np.float32))
    assert np.any(x != y)
  card = (out / "README.md").read_text()
  assert "The weights are the mean of 3 runs." in card
  assert "## Training of run 2" in card and "## Evaluation of run 3" in card
  assert "The mean of the weights itself was not evaluated" in card


@pytest.mark.parametrize(
  "changed, message",
  [
    ([("config.seed", 1)], "random:tiny of seed 0' and .*of seed 1'"),
    ([("frozen_sha256", "0" * 64)], "weights that do not train '.*' and '000"),
    (
      [
        ("config.data.read_at", "last_token"),
        ("fingerprint.policy.read_at", "last_token"),
      ],
      "reading .*end_of_turn.* and .*last_token",
    ),
  ],
)
def test_what_does_not_belong_together(changed, message, first, tmp_path):
  other = another(first, tmp_path / "other", changed=changed)
  with pytest.raises(UserError, match=f"other do not belong .*{message}"):
    load_average([str(first), other])


def test_what_is_no_run(first, tmp_path):
  with pytest.raises(UserError, match="names 1 run, a mean needs two"):
    load_average([str(first)])
  folder = exporting.write(exporting.tiny(), tmp_path / "out")
  with pytest.raises(UserError, match="out is no run of rm-jax train"):
    load_average([str(first), str(folder)])
