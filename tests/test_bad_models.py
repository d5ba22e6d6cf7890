"""A model that cannot be started from is one line; exit code 2."""

import json
import shutil

import numpy as np
import pytest
import tiny_run
from safetensors.numpy import load_file, save_file

from rm_jax.inference import RewardModel
from rm_jax.train import loop
from rm_jax.types import UserError
from tests import trained
from tests.test_bad_input import of_command


@pytest.fixture
def model(tmp_path, tmp_path_factory):
  """A published reward model that a test may break."""
  whole = trained.published(tmp_path_factory.getbasetemp(), 1)
  return shutil.copytree(whole, tmp_path / "model")


def edit(model, **changes):
  """Changes config.json; None removes a key."""
  path = model / "config.json"
  config = json.loads(path.read_text()) | changes
  config = {k: v for k, v in config.items() if v is not None}
  path.write_text(json.dumps(config))


def weights(model, **changes):
  path = model / "model.safetensors"
  tensors = load_file(path) | {
    k.replace("__", "."): v for k, v in changes.items()
  }
  save_file({k: v for k, v in tensors.items() if v is not None}, path)


def pickled(model):
  (model / "model.safetensors").rename(model / "pytorch_model.bin")


def truncated(model):
  file = model / "model.safetensors"
  file.write_bytes(file.read_bytes()[:-100])


def own_code(model):
  code = {"AutoModel": "modeling_own.OwnModel"}
  edit(model, model_type="own", auto_map=code)


def wrong_shape(model):
  weights(model, model__norm__weight=np.ones(31, np.float32))


def small_vocabulary(model):
  edit(model, vocab_size=40)
  table = load_file(model / "model.safetensors")["model.embed_tokens.weight"]
  weights(model, model__embed_tokens__weight=table[:40].copy())


def as_language_model(model):
  edit(model, architectures=["LlamaForCausalLM"])
  weights(model, score__weight=None)


def untied(model):
  as_language_model(model)
  edit(model, tie_word_embeddings=False)


def tied(model):
  as_language_model(model)
  edit(model, tie_word_embeddings=True)
  table = load_file(model / "model.safetensors")["model.embed_tokens.weight"]
  weights(model, lm_head__weight=table + 1)


def a_layer_more(model):
  edit(model, num_hidden_layers=4)


# what happened to the model -> what the line says
BROKEN = {
  pickled: r"got the pickle pytorch_model\.bin: .* any code .* safetensors",
  truncated: r"model\.safetensors: expected a complete safetensors file",
  own_code: r"got 'own' \(its auto_map asks to run Python .*: never\)",
  wrong_shape: r"model\.norm\.weight: expected shape \(32,\), got \(31,\)",
  small_vocabulary: r"ids below the checkpoint's vocab_size 40, got \d+ beyond",
  untied: r"expected lm_head.weight, .* tie_word_embeddings to true",
  tied: r"equal to the embedding table, .* set tie_word_embeddings to false",
  a_layer_more: r"missing \['model\.layers\.3\.input_layernorm\.weight', .*",
}


@pytest.mark.parametrize("breaks", list(BROKEN), ids=lambda f: f.__name__)
def test_training_from_it_is_refused(breaks, model, tmp_path):
  # Catches a traceback, a silent cast or reshape, code that is run.
  breaks(model)
  data = tiny_run.write_rows(tmp_path / "rows.jsonl", tiny_run.pairs(8))
  config = tiny_run.config(data, "", init__from=str(model), data__blocks=8)
  with pytest.raises(UserError, match=BROKEN[breaks]) as error:
    loop.train(config, tmp_path / "run", command="")
  assert "\n" not in str(error.value)
  assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.parametrize("breaks", [pickled, small_vocabulary])
def test_scoring_with_it_is_refused(breaks, model):
  breaks(model)
  with pytest.raises(UserError, match=BROKEN[breaks]):
    RewardModel.load(model)


def test_the_command_on_a_pickle(model, tmp_path):
  pickled(model)
  data = tiny_run.write_rows(tmp_path / "rows.jsonl", tiny_run.pairs(8))
  arguments = tiny_run.command(
    data, model, tmp_path / "run", **{"init.from": model}
  )
  code, line = of_command(arguments)
  assert code == 2 and "got the pickle pytorch_model.bin" in line


@pytest.mark.parametrize("verb", ["train", "score"])
def test_the_command_on_a_hub_name_without_network(verb, tmp_path, monkeypatch):
  # Nothing listens on port 9: a Hub that cannot be reached, at once.
  monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
  monkeypatch.setenv("HF_HUB_OFFLINE", "0")
  monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
  data = tiny_run.write_rows(tmp_path / "rows.jsonl", tiny_run.pairs(8))
  arguments = {
    "train": tiny_run.command(
      data, "", tmp_path / "run", **{"init.from": "owner/name"}
    ),
    "score": [
      "score",
      "--model=owner/name",
      f"--input={data}",
      f"--output={tmp_path / 'out.jsonl'}",
    ],
  }[verb]
  code, line = of_command(arguments)
  assert code == 2
  assert "owner/name: no path of this machine, and the Hub did not give" in line
  assert "hf download owner/name" in line


def test_a_hub_name_is_read_from_the_cache(model, tmp_path, monkeypatch):
  # The layout in which the Hub's own client keeps what it downloaded. Catches
  # a client that is asked for pickles, and a folder that is not found again.
  import huggingface_hub.constants as constants

  from rm_jax.places import locate

  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  repository = tmp_path / "hub/models--owner--name"
  snapshot = repository / "snapshots/0123abc"
  shutil.copytree(model, snapshot)
  (repository / "refs").mkdir()
  (repository / "refs/main").write_text("0123abc")
  assert locate("owner/name").samefile(snapshot)
  found = RewardModel.load("owner/name").score("Hi", ["a", "b"])
  np.testing.assert_array_equal(
    found, RewardModel.load(model).score("Hi", ["a", "b"])
  )
