"""Files as transformers reads them, without transformers."""

import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from rm_jax.models.families import read_config
from rm_jax.models.sizes import SIZES
from rm_jax.models.write import (
  find_family,
  llama_config,
  model_config,
  plan_shards,
  write_tensors,
)
from rm_jax.types import UserError
from tests.data.fixtures import make_tokenizer
from tests.models import fixtures


@pytest.mark.parametrize(
  "limit, want",
  [
    (100, [["a", "b", "c", "d"]]),
    (30, [["a", "b"], ["c", "d"]]),
    (29, [["a"], ["b"], ["c"], ["d"]]),
    (1, [["a"], ["b"], ["c"], ["d"]]),  # a tensor is never cut
  ],
)
def test_shards(limit, want):
  sizes = {"a": 10, "b": 20, "c": 20, "d": 10}
  assert plan_shards(sizes, limit) == want


def read(folder, names):
  found = {}
  for name in names:
    if name.endswith(".safetensors"):
      with safe_open(folder / name, "np") as file:
        assert file.metadata() == {"format": "pt"}
        found |= {key: (name, file.get_tensor(key)) for key in file.keys()}
  return found


def test_a_view_is_written_as_it_reads(tmp_path):
  # safetensors writes a transposed view in its memory order, in silence.
  kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
  names = write_tensors(
    tmp_path, {"a": kernel.T}, dtype="float32", max_shard_bytes=1 << 20
  )
  assert names == ["model.safetensors"]
  assert not (tmp_path / "model.safetensors.index.json").exists()
  assert np.array_equal(read(tmp_path, names)["a"][1], kernel.T)


def test_shards_and_their_index(tmp_path):
  rng = np.random.default_rng(0)
  tensors = {
    name: rng.normal(size=(size, 4)).astype(np.float32)
    for name, size in dict(a=3, b=2, head=1, c=5).items()
  }
  names = write_tensors(
    tmp_path, tensors, dtype="bfloat16", exact=("head",), max_shard_bytes=48
  )
  # Bytes: a 24, b 16, head 16 (float32), c 40.
  files = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
  assert names == [*files, "model.safetensors.index.json"]
  index = json.loads((tmp_path / names[-1]).read_text())
  assert index == {
    "metadata": {"total_size": 24 + 16 + 16 + 40},
    "weight_map": {
      "a": files[0],
      "b": files[0],
      "head": files[1],
      "c": files[2],
    },
  }
  found = read(tmp_path, names)
  assert {k: file for k, (file, _) in found.items()} == index["weight_map"]
  assert found["head"][1].dtype == np.float32
  assert np.array_equal(found["head"][1], tensors["head"])
  for name in "abc":
    assert found[name][1].dtype == ml_dtypes.bfloat16
    rounded = tensors[name].astype(ml_dtypes.bfloat16)
    assert np.array_equal(found[name][1], rounded)


# ---------------------------------------------------------------- config.json


@pytest.mark.parametrize("name", ["tiny", "smollm2_135m"])
@pytest.mark.parametrize(
  "family, window", [("llama", 0), ("mistral", 0), ("mistral", 7)]
)
def test_a_written_config_describes_the_decoder(name, family, window):
  decoder = dataclasses.replace(SIZES[name], family=family, window=window)
  raw = llama_config(decoder, max_positions=99)
  assert read_config(raw, where="test") == decoder
  # The older spelling alone says the same.
  old = {k: v for k, v in raw.items() if k != "rope_parameters"}
  assert read_config(old, where="test") == decoder
  assert raw["max_position_embeddings"] == 99


def test_another_family_needs_its_own_config():
  # Its switches would be lost, and the scores be others.
  with pytest.raises(UserError, match="family 'qwen3' .* of 'llama' has no wo"):
    llama_config(SIZES["qwen3_0.6b"], max_positions=99)


def config(base, decoder=None, architecture="sequence", labels=("LABEL_0",)):
  decoder = decoder or read_config(base, where="test")
  return model_config(
    base,
    decoder,
    architecture=architecture,
    dtype="float32",
    labels=labels,
    tokenizer=make_tokenizer(pad_token="<|eot_id|>"),
    where="the base",
  )


def test_what_config_json_says():
  base = fixtures.CONFIG | {
    "auto_map": {"AutoModel": "their_code.Model"},
    "num_labels": 5,
    "torch_dtype": "float16",
    "quantization_config": {"bits": 4},
    "attention_dropout": 0.0,
  }
  got = config(base, labels=("negative", "neutral", "positive"))
  tokenizer = make_tokenizer(pad_token="<|eot_id|>")
  assert got["architectures"] == ["LlamaForSequenceClassification"]
  assert got["id2label"] == {"0": "negative", "1": "neutral", "2": "positive"}
  assert got["label2id"] == {"negative": 0, "neutral": 1, "positive": 2}
  assert got["pad_token_id"] == tokenizer.pad_token_id
  assert got["eos_token_id"] == tokenizer.eos_token_id
  assert got["dtype"] == got["torch_dtype"] == "float32"
  # Of the base model, and of no other.
  assert got["attention_dropout"] == 0.0
  gone = {"auto_map", "num_labels", "quantization_config"}
  assert not gone & set(got)


def test_classes():
  assert config(fixtures.CONFIG, architecture="token")["architectures"] == [
    "LlamaForTokenClassification"
  ]
  assert (
    config(fixtures.CONFIG, architecture="token")["classifier_dropout"] == 0
  )
  base = {"model_type": "gemma3_text"}
  assert find_family(base, "causal", where="x").causal == "Gemma3ForCausalLM"
  with pytest.raises(
    UserError, match="x: .* no class for architecture 'token' over .*'gemma3_"
  ):
    find_family(base, "token", where="x")
  with pytest.raises(UserError, match="over model_type 'internlm2'"):
    find_family({"model_type": "internlm2"}, "sequence", where="x")


def test_another_base_model_is_refused():
  # Its weights would load and give other scores.
  decoder = read_config(fixtures.CONFIG, where="test")
  changed = dataclasses.replace(decoder, rope_theta=1e4, norm_eps=1e-6)
  with pytest.raises(
    UserError,
    match=r"the base: .*\(rope_theta 500.0 for 10000.0; norm_eps 1e-05 for ",
  ):
    config(fixtures.CONFIG, changed)
