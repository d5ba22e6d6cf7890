"""Exported folders: every file, and back to the same bits."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from safetensors import safe_open

from rm_jax import RewardModel
from rm_jax.export.folder import export
from rm_jax.models.transformer import unembedding
from rm_jax.types import UserError
from tests import exporting, tiny_run, trained
from tests.exporting import HEADS

PROMPT = "What is two plus two ?"
COMPLETIONS = ["It is four .", "It is five .", "Nobody knows ."]


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
  return trained.run(tmp_path_factory.getbasetemp(), "all")


def run_export(place, out, **changed):
  keys = dict(
    average=[],
    architecture="auto",
    dtype="float32",
    max_shard_bytes=1 << 30,
    task="",
    results=[],
  )
  return export(str(place), str(out), **keys | changed)


@pytest.fixture(scope="module")
def folder(workdir, tmp_path_factory):
  out = tmp_path_factory.mktemp("exported") / "model"
  run_export(workdir, out, max_shard_bytes=40_000)
  return out


def tensors(folder):
  found = {}
  for path in folder.glob("*.safetensors"):
    with safe_open(path, "np") as file:
      found |= {name: file.get_tensor(name) for name in file.keys()}
  return found


def same_bits(a, b):
  a, b = jax.tree.flatten_with_path(a)[0], jax.tree.flatten_with_path(b)[0]
  assert [path for path, _ in a] == [path for path, _ in b]
  for (path, x), (_, y) in zip(a, b, strict=True):
    assert np.array_equal(x, y), path


# ---------------------------------------------------------------- files


def test_the_files(folder):
  names = {p.name for p in folder.iterdir()}
  shards = {n for n in names if n.endswith(".safetensors")}
  assert names - shards == {
    "README.md",
    "chat_template.jinja",
    "config.json",
    "model.safetensors.index.json",
    "rm_jax.json",
    "tokenizer.json",
    "tokenizer_config.json",
  }
  count = len(shards)
  assert count > 2 and shards == {
    f"model-{n + 1:05d}-of-{count:05d}.safetensors" for n in range(count)
  }
  config = json.loads((folder / "config.json").read_text())
  assert config["architectures"] == ["LlamaForSequenceClassification"]
  assert config["id2label"] == {"0": "LABEL_0"}
  # Both versions of transformers know this name.
  told = json.loads((folder / "tokenizer_config.json").read_text())
  assert told["tokenizer_class"] == "PreTrainedTokenizerFast"
  assert told["pad_token"] == "<|pad|>"


def test_names_and_shapes(folder, workdir):
  # Written out: a name that transformers does not know is drawn at random.
  model = RewardModel.load(workdir)
  rows = model.spec.decoder.vocab_size + 1  # one for padding
  d, q, kv, f = 32, 64, 32, 48
  want = {
    "model.embed_tokens.weight": (rows, d),
    "model.norm.weight": (d,),
    "score.weight": (1, d),
  }
  for n in range(3):
    want |= {
      f"model.layers.{n}.{name}.weight": shape
      for name, shape in {
        "input_layernorm": (d,),
        "self_attn.q_proj": (q, d),
        "self_attn.k_proj": (kv, d),
        "self_attn.v_proj": (kv, d),
        "self_attn.o_proj": (d, q),
        "post_attention_layernorm": (d,),
        "mlp.gate_proj": (f, d),
        "mlp.up_proj": (f, d),
        "mlp.down_proj": (d, f),
      }.items()
    }
  found = tensors(folder)
  assert {k: v.shape for k, v in found.items()} == want
  kernel = model.params["backbone"]["layers_0"]["mlp"]["down"]["kernel"][2]
  written = found["model.layers.2.mlp.down_proj.weight"]
  assert np.array_equal(written, np.asarray(kernel).T)
  assert not found["model.embed_tokens.weight"][-1].any()


def test_bfloat16_keeps_the_head(workdir, tmp_path):
  said = run_export(workdir, tmp_path / "out", dtype="bfloat16")
  assert "LlamaForSequenceClassification in bfloat16, 1 file of weights" in said
  found = tensors(tmp_path / "out")
  head = found.pop("score.weight")
  want = RewardModel.load(workdir).params["head"]["kernel"]
  assert np.array_equal(head[0], want)
  assert {x.dtype.name for x in found.values()} == {"bfloat16"}
  config = json.loads((tmp_path / "out" / "config.json").read_text())
  assert config["dtype"] == "bfloat16"


# ---------------------------------------------------------------- back again


def test_a_run_comes_back_bit_for_bit(workdir, folder):
  before, after = RewardModel.load(workdir), RewardModel.load(folder)
  same_bits(before.params, after.params)
  assert after.spec == before.spec
  assert after.run is None and after.normaliser is None
  want = before.score(PROMPT, COMPLETIONS)
  np.testing.assert_array_equal(after.score(PROMPT, COMPLETIONS), want)


@pytest.mark.slow
def test_what_did_not_train_is_in_the_folder_too(tmp_path_factory, tmp_path):
  place = trained.run(tmp_path_factory.getbasetemp(), "last:1")
  run_export(place, tmp_path / "out")
  before, after = RewardModel.load(place), RewardModel.load(tmp_path / "out")
  got, want = (m.score(PROMPT, COMPLETIONS) for m in (after, before))
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
  assert after.spec.segments == (3,)


@pytest.mark.parametrize(
  "name", [name for name in exporting.FAMILIES if name != "internlm2"]
)
def test_every_family_comes_back(name, tmp_path):
  # Catches a parameter that some families have and reading back drops, such as
  # GPT-2's positions. Where scores are equal too: tests/parity.
  ours = exporting.of_family(name, tmp_path / "base")
  folder = exporting.write(ours, tmp_path / "out", str(tmp_path / "base"))
  back = RewardModel.load(folder)
  # A classifier has no unembedding that could be another one.
  decoder = dataclasses.replace(ours.spec.decoder, tied=True)
  assert back.spec.decoder == decoder
  ours.params["backbone"].pop("lm_head", None)
  same = jax.tree.map(np.array_equal, back.params, ours.params)
  assert all(jax.tree.leaves(same)), same


@pytest.mark.parametrize("architecture", ["sequence", "token"])
@pytest.mark.parametrize("kind", [k for k in HEADS if k != "steps"])
def test_every_head_comes_back(kind, architecture, tmp_path):
  # Would catch a bias or an order of outputs that is lost on the way.
  model = exporting.tiny(kind, tied=architecture == "token")
  out = exporting.write(model, tmp_path / "out", architecture=architecture)
  back = RewardModel.load(out)
  backbone = {k: v for k, v in model.params["backbone"].items()}
  backbone.pop("lm_head", None)  # no score reads it
  same_bits(backbone, back.params["backbone"])
  if kind == "gain_bias":  # gain and logit became one map
    assert back.spec.head.kind == "biased_scalar"
    row = unembedding(model.params["backbone"], model.spec.decoder)[5]
    own = model.params["head"]
    same_bits(
      {"linear": {"kernel": own["gain"] * row}, "bias": own["bias"]},
      back.params["head"],
    )
  else:
    assert back.spec.head == model.spec.head
    same_bits(model.params["head"], back.params["head"])


@pytest.mark.parametrize(
  "kind, pooling",
  [("steps", None), ("scalar", "mean"), ("scalar", "every_token")],
)
def test_poolings_that_read_many_tokens(kind, pooling, tmp_path):
  model = exporting.tiny(kind, pooling=pooling)
  out = exporting.write(model, tmp_path / "out")
  found = tensors(out)
  count = {"steps": 3}.get(kind, 1)
  assert found["score.weight"].shape == (count, 32)
  # transformers would draw a missing bias at random.
  assert np.array_equal(found["score.bias"], np.zeros(count, np.float32))
  back = RewardModel.load(out)
  assert back.spec == model.spec
  same_bits(model.params, back.params)
  config = json.loads((out / "config.json").read_text())
  assert config["architectures"] == ["LlamaForTokenClassification"]


def test_a_normaliser_comes_back_and_is_not_applied(tmp_path):
  import dataclasses

  model = dataclasses.replace(exporting.tiny(), normaliser=(0.5, 2.0))
  out = exporting.write(model, tmp_path / "out")
  assert "have mean 0.5 and std 2" in (out / "README.md").read_text()
  back = RewardModel.load(out)
  want = model.score(PROMPT, COMPLETIONS)
  np.testing.assert_array_equal(back.score(PROMPT, COMPLETIONS), want)
  np.testing.assert_array_equal(
    back.reward(PROMPT, COMPLETIONS), (want - np.float32(0.5)) / np.float32(2)
  )


def test_an_exported_folder_is_exported_again(folder, tmp_path):
  run_export(folder, tmp_path / "out")
  a, b = RewardModel.load(folder), RewardModel.load(tmp_path / "out")
  same_bits(a.params, b.params)
  assert a.reading == b.reading


def test_a_published_classifier(tmp_path_factory, tmp_path):
  place = trained.published(tmp_path_factory.getbasetemp(), 1)
  run_export(place, tmp_path / "out")
  a, b = RewardModel.load(place), RewardModel.load(tmp_path / "out")
  same_bits(a.params, b.params)
  np.testing.assert_array_equal(
    a.score(PROMPT, COMPLETIONS), b.score(PROMPT, COMPLETIONS)
  )


def test_a_language_model(tmp_path_factory, tmp_path):
  place = trained.published(tmp_path_factory.getbasetemp(), 0)
  assert "LlamaForCausalLM in float32" in run_export(place, tmp_path / "out")
  found = tensors(tmp_path / "out")
  assert "lm_head.weight" in found and "score.weight" not in found
  before = tensors(place)
  assert set(found) == set(before)
  assert all(np.array_equal(found[k], before[k]) for k in found)
  told = json.loads((tmp_path / "out" / "generation_config.json").read_text())
  assert len(told["eos_token_id"]) == 2  # <|im_end|> and <|eot_id|>
  assert not (tmp_path / "out" / "rm_jax.json").exists()


def test_the_language_model_of_a_run(workdir, tmp_path):
  run_export(workdir, tmp_path / "out", architecture="causal")
  config = json.loads((tmp_path / "out" / "config.json").read_text())
  assert config["architectures"] == ["LlamaForCausalLM"]
  assert config["tie_word_embeddings"] is True
  assert "id2label" not in config


# ---------------------------------------------------------------- mistakes


def copied(folder, tmp_path):
  return shutil.copytree(folder, tmp_path / "copy")


def test_another_template_in_the_folder(folder, tmp_path):
  place = copied(folder, tmp_path)
  path = place / "chat_template.jinja"
  path.write_text(path.read_text().replace("| trim", ""))
  with pytest.raises(UserError, match=r"copy: expected the tokenizer, templ"):
    RewardModel.load(place)


def test_another_schema(folder, tmp_path):
  place = copied(folder, tmp_path)
  path = place / "rm_jax.json"
  path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
  with pytest.raises(UserError, match="expected schema 1 .* got schema 2"):
    RewardModel.load(place)


def test_files_of_two_exports(folder, tmp_path):
  place = copied(folder, tmp_path)
  path = place / "rm_jax.json"
  path.write_text(
    path.read_text().replace('"kind": "scalar"', '"kind": "steps"')
  )
  with pytest.raises(UserError, match="'steps' has 3 outputs, .* has 1"):
    RewardModel.load(place)


def test_a_token_classifier_without_rm_jax_json(tmp_path):
  out = exporting.write(exporting.tiny("steps"), tmp_path / "out")
  (out / "rm_jax.json").unlink()
  # Three labels: no published process head has them, so none is guessed.
  with pytest.raises(UserError, match="out: .* 3 labels"):
    RewardModel.load(out)


@pytest.mark.parametrize(
  "keys, message",
  [
    (dict(dtype="float16"), r"--dtype='float16' is not known"),
    (dict(architecture="rm"), r"--architecture='rm' is not known"),
    (dict(task="safety"), r"--task='safety' has no head .* Known: \[\]"),
    (dict(average=["a", "b"]), r"--model=RUN or --average=.*one of the two"),
    (dict(results=["{out}.json"]), r"No such file"),
  ],
)
def test_keys(keys, message, workdir, tmp_path):
  out = tmp_path / "out"
  if "results" in keys:
    keys = {"results": [f"{out}.json"]}
  with pytest.raises((UserError, FileNotFoundError), match=message):
    run_export(workdir, out, **keys)
  assert not list(tmp_path.iterdir())  # nothing half written stays


def test_places(workdir, tmp_path):
  with pytest.raises(UserError, match="expected a folder of this machine"):
    run_export(workdir, "gs://bucket/model")
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "mine.txt").write_text("")
  with pytest.raises(UserError, match="expected an empty or a new folder"):
    run_export(workdir, tmp_path / "full")
  (tmp_path / "empty").mkdir()
  run_export(workdir, tmp_path / "empty")
  with pytest.raises(UserError, match="is a language model without a reward"):
    run_export("smollm2", tmp_path / "out", architecture="sequence")


@pytest.mark.parametrize("name", ["task", "results"])
@pytest.mark.parametrize("architecture", ["auto", "causal"])
def test_what_a_language_model_has_no_place_for(name, architecture, tmp_path):
  # Catches: an unknown task and files that are not there, exit code 0.
  # One is a base model, the other a run that is not even opened.
  place = {"auto": "smollm2", "causal": "runs/hh"}[architecture]
  keys = {"task": {"task": "safety"}, "results": {"results": ["none.json"]}}
  want = {"task": "--task=safety", "results": "--results=none.json"}[name]
  with pytest.raises(UserError, match=f"{want} is not read .*Leave it out"):
    run_export(place, tmp_path / "out", architecture=architecture, **keys[name])
  assert not list(tmp_path.iterdir())


def test_a_classifier_is_no_language_model(tmp_path_factory, tmp_path):
  place = trained.published(tmp_path_factory.getbasetemp(), 1)
  with pytest.raises(UserError, match="its unembedding was not in the files"):
    run_export(place, tmp_path / "out", architecture="causal")


def test_one_token_cannot_hold_a_mean(tmp_path):
  model = exporting.tiny("scalar", pooling="mean")
  with pytest.raises(UserError, match="reads one token, .* pooling 'mean'"):
    exporting.write(model, tmp_path / "out", architecture="sequence")


def test_the_command(workdir, tmp_path):
  # As a user types it, mistakes included.
  out = tmp_path / "out"
  process = tiny_run.start(
    ["export", f"--model={workdir}", f"--out={out}", "--max_shard_gb=0.00004"]
  )
  said, errors = process.communicate(timeout=120)
  assert process.returncode == 0, errors
  assert "padding '<|pad|>' (id 365)" in said
  assert (out / "README.md").read_text().startswith("---\n")
