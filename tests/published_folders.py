"""Tiny folders in published layouts, and their hidden states in numpy."""

import functools
import json

import numpy as np
from safetensors.numpy import load_file
from tokenizers import AddedToken

from rm_jax.models.convert import load_pretrained
from rm_jax.models.published_heads import (
  read_held,
  write_head,
)
from rm_jax.types import Record
from tests.data.fixtures import make_tokenizer
from tests.models import fixtures

WIDTH = fixtures.WIDTH
CLOSE = dict(rtol=2e-5, atol=2e-5)  # float32 sums against float64

# Turns end without a line end behind them, as Llama 3's do.
LLAMA3 = (
  "<s>{% for message in messages %}"
  "{{ '<|im_start|>' + message['role'] + '\n\n' }}"
  "{{ message['content'] | trim + '<|im_end|>' }}"
  "{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}"
)

PROMPT = "What is two plus two ?"
COMPLETIONS = ("It is four .", "It is five .", "Nobody knows .")
STEPS = ("First add two .", "Then add one .", "The answer is three .")
GROUPS = [
  dict(prompt=PROMPT, completions=COMPLETIONS),
  dict(prompt="Who wrote this ?", completions=("A poet wrote it .",)),
  dict(prompt="Be brief .", completions=("Yes .", "No .")),
]
TURNS = (
  {"role": "user", "content": "Who wrote this ?"},
  {"role": "assistant", "content": "A poet wrote it ."},
  {"role": "user", "content": "Be brief ."},
)
STEP_RECORDS = [
  Record(
    "steps",
    PROMPT,
    ("First add two .\nThen add one .", "First add two .\nNobody knows ."),
    step_ends=((15, 30), (15, 30)),
  ),
  Record("steps", "Be kind .", ("Yes .",), step_ends=((5,),)),
]


@functools.cache
def tokenizer(template=LLAMA3):
  own = make_tokenizer(template=template)
  own.add_tokens(
    [
      AddedToken("<extra_0>", special=True, normalized=False),
      AddedToken("ки", normalized=False),
      # What the class of Qwen2's tokenizers adds where it is not there.
      AddedToken("<|endoftext|>", special=True, normalized=False),
      AddedToken(" -", normalized=False),
    ]
  )
  return own


QKV = ("q_proj.weight", "k_proj.weight", "v_proj.weight")
QWEN = dict(model_type="qwen2")  # q, k and v have biases


def draw(seed, *shape):
  return np.random.default_rng(seed).normal(0, 0.5, shape).astype(np.float32)


def write(
  folder, classes, head, *, template=LLAMA3, lm=False, seed=3, **config
):
  """A folder of one layer with these tensors as its head."""
  own = tokenizer(template)
  own.save_pretrained(folder)
  drawn = fixtures.draw_tensors(tied=False, labels=0, seed=seed)
  rng = np.random.default_rng(seed)
  tensors = {}
  for name, tensor in drawn.items():
    if ".layers." in name and ".layers.0." not in name:
      continue
    if name == "lm_head.weight" and not lm:
      continue
    if len(tensor) == fixtures.VOCAB:
      tensor = rng.normal(0, 0.2, (len(own), WIDTH)).astype(np.float32)
    tensors[name] = tensor
    if config.get("model_type") == "qwen2" and name.endswith(QKV):
      bias = name.replace("weight", "bias")
      tensors[bias] = draw(len(name) + ord(name[-8]), len(tensor))
  raw = fixtures.CONFIG | {
    "architectures": [classes],
    "vocab_size": len(own),
    "num_hidden_layers": 1,
  }
  return fixtures.write_folder(
    folder, raw | config, tensors | head, dtype="float32", shards=1
  )


def ids_of(messages, template=LLAMA3, **kwargs):
  own = tokenizer(template)
  text = own.apply_chat_template(list(messages), tokenize=False, **kwargs)
  return own(text, add_special_tokens=False)["input_ids"]


def chat(prompt, completion):
  turns = prompt
  if isinstance(prompt, str):
    turns = ({"role": "user", "content": prompt},)
  return (*turns, {"role": "assistant", "content": completion})


def states(folder, ids) -> np.ndarray:
  """float64 [T, D]: the hidden states of one row, by the book in numpy."""
  tensors, raw = (
    weights(folder),
    json.loads((folder / "config.json").read_text()),
  )
  heads, size = fixtures.HEADS, fixtures.HEAD_DIM
  groups, count = heads // fixtures.KV_HEADS, len(ids)

  def norm(x, name):
    square = np.mean(x * x, axis=-1, keepdims=True)
    return x / np.sqrt(square + raw["rms_norm_eps"]) * tensors[f"{name}.weight"]

  def turn(x):  # rotary, halves
    rates = 500.0 ** -(np.arange(0, size, 2) / size)
    angles = np.arange(count)[:, None, None] * rates
    cos, sin = np.cos(angles), np.sin(angles)
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

  def linear(x, name):
    full = f"model.layers.0.{name}"
    return x @ tensors[f"{full}.weight"].T + tensors.get(f"{full}.bias", 0.0)

  x = tensors["model.embed_tokens.weight"][ids]
  y = norm(x, "model.layers.0.input_layernorm")
  q, k, v = (
    linear(y, f"self_attn.{n}_proj").reshape(count, -1, size) for n in "qkv"
  )
  k, v = (np.repeat(z, groups, axis=1) for z in (turn(k), v))
  logits = np.einsum("qhd,khd->hqk", turn(q), k) / np.sqrt(size)
  logits = np.where(np.tri(count, dtype=bool), logits, -np.inf)
  seen = np.einsum("hqk,khd->qhd", np.exp(log_softmax(logits)), v)
  x = x + linear(seen.reshape(count, -1), "self_attn.o_proj")
  y = norm(x, "model.layers.0.post_attention_layernorm")
  gate = linear(y, "mlp.gate_proj")
  inner = gate / (1 + np.exp(-gate)) * linear(y, "mlp.up_proj")
  return norm(x + linear(inner, "mlp.down_proj"), "model.norm")


@functools.cache
def weights(folder) -> dict:
  found = load_file(folder / "model.safetensors")
  return {name: tensor.astype(np.float64) for name, tensor in found.items()}


def last_states(folder):
  """At the last token of every completion of GROUPS, in order."""
  return [states(folder, ids)[-1] for ids in every_ids()]


def every_ids(groups=None):
  return [
    ids_of(chat(group["prompt"], completion))
    for group in groups or GROUPS
    for completion in group["completions"]
  ]


def log_softmax(x):
  return x - np.log(np.sum(np.exp(x), axis=-1, keepdims=True))


def assert_scores(model, want, groups=None, *, alone=False):
  """Packed into one forest; also one call for one completion."""
  groups = groups or GROUPS
  got = np.concatenate(model.score_groups(groups))
  assert got.dtype == np.float32 and len(np.unique(got)) == len(got)
  np.testing.assert_allclose(got, want, **CLOSE)
  if alone:
    first = groups[0]
    got = model.score(first["prompt"], first["completions"][:1])
    np.testing.assert_allclose(got, want[:1], **CLOSE)


def assert_steps(model, reference):
  """Two records in one forest; `reference`: (prompt, steps) -> P of each."""
  got = model.score_each(STEP_RECORDS, pooling="step_ends")
  for record, scores in zip(STEP_RECORDS, got, strict=True):
    for k, text in enumerate(record.completions):
      want = reference(record.prompt, text.split("\n"))
      assert len(want) == len(record.step_ends[k])
      np.testing.assert_allclose(scores.slots[k], want, **CLOSE)
  want = reference(PROMPT, STEPS)
  assert len(np.unique(want)) == 3
  np.testing.assert_allclose(model.score_steps(PROMPT, STEPS), want, **CLOSE)


def assert_written_back(folder):
  """write_head is the inverse of reading, name by name and bit by bit."""
  held = load_pretrained(folder).head
  wrote = write_head(read_held(held))
  assert sorted(wrote) == sorted(set(held.tensors) - {"mean", "std"})
  for name, tensor in wrote.items():
    np.testing.assert_array_equal(tensor, held.tensors[name])
    assert tensor.flags.c_contiguous and tensor.dtype == np.float32


def two_layers(outputs):
  return {
    "score.0.weight": draw(5, WIDTH, WIDTH),
    "score.0.bias": draw(6, WIDTH),
    "score.2.weight": draw(7, outputs, WIDTH),
    "score.2.bias": draw(8, outputs),
  }


OBJECTIVES, GATE = 19, 24
GATED = "LlamaForRewardModelWithGating"


def gated():
  return {
    "regression_layer.weight": draw(10, OBJECTIVES, WIDTH),
    "reward_transform_matrix": draw(11, OBJECTIVES, OBJECTIVES),
    "gating.logit_scale": np.asarray([1.75], np.float32),
    "gating.layers.0.weight": draw(12, GATE, WIDTH),
    "gating.layers.0.bias": draw(13, GATE),
    "gating.layers.1.weight": draw(14, GATE, GATE),
    "gating.layers.1.bias": draw(15, GATE),
    "gating.layers.2.weight": draw(16, OBJECTIVES, GATE),
    "gating.layers.2.bias": draw(17, OBJECTIVES),
  }


def unembed(folder):
  return weights(folder)["lm_head.weight"].T


def without(head, *names):
  return {name: value for name, value in head.items() if name not in names}


ONE = {"score.weight": draw(1, 1, WIDTH)}
