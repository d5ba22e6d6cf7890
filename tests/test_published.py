"""Heads of published models: each against its model card, in numpy.

The checkpoints are tiny and random, in the published layout. A reference reads
tokens by the card's own rule (a token id looked for, a pattern, a shift by one)
where ours goes by offsets, and computes the hidden states of one row at a time
where ours packs several conversations into a forest.
"""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from rm_jax import RewardModel
from rm_jax.data.step_formats import STEP_FORMATS
from rm_jax.evals.records import evaluate_records
from rm_jax.evals.score import score_file
from rm_jax.models.convert import load_pretrained
from rm_jax.models.language_heads import LANGUAGE_HEADS
from rm_jax.models.published_heads import (
  HEADS_IN_THE_WILD,
  read_held,
)
from rm_jax.models.sharding import local_mesh
from rm_jax.types import UserError
from tests import tiny_run
from tests.published_folders import (
  CLOSE,
  COMPLETIONS,
  GATED,
  GROUPS,
  PROMPT,
  QWEN,
  STEPS,
  TURNS,
  WIDTH,
  assert_scores,
  assert_steps,
  assert_written_back,
  chat,
  draw,
  every_ids,
  gated,
  ids_of,
  last_states,
  log_softmax,
  states,
  tokenizer,
  two_layers,
  unembed,
  write,
)

ROOT = tiny_run.ROOT

# ---------------------------------------------------------------- classifiers


@pytest.mark.parametrize("bias", [False, True])
def test_a_classifier_of_one_label(tmp_path, bias):
  # Wrong: the bias dropped, another token than the last.
  head = {"score.weight": draw(1, 1, WIDTH)}
  if bias:
    head["score.bias"] = np.asarray([2.5], np.float32)
  folder = write(tmp_path, "LlamaForSequenceClassification", head)
  row = head["score.weight"][0]
  want = [h @ row + 2.5 * bias for h in last_states(folder)]
  assert_scores(RewardModel.load(folder), want, alone=bias)
  assert_written_back(folder)


def test_a_classifier_of_several_labels(tmp_path):
  # Wrong: the first label passed off as the score, labels transposed.
  head = {"score.weight": draw(2, 3, WIDTH)}
  names = {"0": "helpful", "1": "honest", "2": "harmless"}
  folder = write(
    tmp_path, "LlamaForSequenceClassification", head, id2label=names
  )
  assert read_held(load_pretrained(folder).head).labels == tuple(names.values())
  model = RewardModel.load(folder)
  want = [
    head["score.weight"] @ states(folder, ids_of(chat(PROMPT, c)))[-1]
    for c in COMPLETIONS
  ]
  got = model.score_attributes(PROMPT, COMPLETIONS)
  np.testing.assert_allclose(got, want, **CLOSE)
  for call in (
    model.score,
    dataclasses.replace(model, normaliser=(0.0, 1.0)).reward,
  ):
    with pytest.raises(UserError, match=r"3 labels .* score_attributes\(\)"):
      call(PROMPT, COMPLETIONS)
  assert_written_back(folder)


@pytest.mark.parametrize("prefix", ["score", "classifier"])
def test_a_token_classifier_of_right_and_wrong(tmp_path, prefix):
  # TRL's PRMTrainer: prompt, then every step and a line end, whose last token
  # has the label. Wrong: the step's own last token, P(wrong).
  weight, bias = draw(3, 2, WIDTH), draw(4, 2)
  head = {f"{prefix}.weight": weight, f"{prefix}.bias": bias}
  folder = write(tmp_path, "LlamaForTokenClassification", head)
  model, own = RewardModel.load(folder), tokenizer()
  (line_end,) = own("\n", add_special_tokens=False)["input_ids"]

  def reference(prompt, steps):
    text = prompt + "".join(f"{step}\n" for step in steps)
    ids = np.asarray(own(text, add_special_tokens=False)["input_ids"])
    hidden = states(folder, ids)[ids == line_end]
    return np.exp(log_softmax(hidden @ weight.T + bias))[:, 1]

  assert_steps(model, reference)
  assert_written_back(folder)
  with pytest.raises(UserError, match="needs reasoning steps"):
    model.score(PROMPT, COMPLETIONS)


# ---------------------------------------------------------------- two layers


def perceptron(head, x):
  inner = np.maximum(x @ head["score.0.weight"].T + head["score.0.bias"], 0.0)
  return inner @ head["score.2.weight"].T + head["score.2.bias"]


def test_qwen_math_prm(tmp_path):
  # Card of Qwen2.5-Math-PRM: the steps joined by <extra_0> and one behind the
  # last; softmax over two classes there, the second is right. Wrong: no
  # separators, the token before one, the first class, a softmax over tokens.
  head = two_layers(2)
  folder = write(tmp_path, "Qwen2ForProcessRewardModel", head, **QWEN)
  separator = tokenizer().convert_tokens_to_ids("<extra_0>")

  def reference(prompt, steps):
    answer = "<extra_0>".join(steps) + "<extra_0>"
    ids = np.asarray(ids_of(chat(prompt, answer)))
    logits = perceptron(head, states(folder, ids))
    return np.exp(log_softmax(logits))[ids == separator][:, 1]

  assert_steps(RewardModel.load(folder), reference)
  assert_written_back(folder)


def test_qwen_math_rm(tmp_path):
  # Card of Qwen2.5-Math-RM: the same two layers with one output, last token.
  head = two_layers(1)
  folder = write(tmp_path, "Qwen2ForRewardModel", head, **QWEN)
  want = [perceptron(head, h)[0] for h in last_states(folder)]
  assert_scores(RewardModel.load(folder), want)
  assert_written_back(folder)


# ---------------------------------------------------------------- gated


def armo(folder, head, ids, temperature):
  """(score, objectives) as the code of the card computes them."""
  own = tokenizer()
  pattern = own(
    "<|im_end|><|im_start|>assistant\n\n", add_special_tokens=False
  )["input_ids"]
  found = [
    j
    for j in range(len(ids) - len(pattern) + 1)
    if ids[j : j + len(pattern)] == pattern
  ]
  hidden = states(folder, ids)
  objectives = head["regression_layer.weight"] @ hidden[-1]
  x = hidden[found[-1]]
  for n in range(3):
    x = head[f"gating.layers.{n}.weight"] @ x + head[f"gating.layers.{n}.bias"]
    x = np.maximum(x, 0.0) if n < 2 else x
  weights = np.exp(log_softmax(x / temperature)) * 1.75
  adjusted = objectives @ head["reward_transform_matrix"]
  return np.sum(weights * adjusted), objectives


def test_armo(tmp_path):
  # Wrong: the gate at the completion (the score would not depend on what is
  # asked), the first question of several, the transform transposed or unused
  # (trap 17), the softmax over another axis, its temperature.
  head = gated()
  folder = write(tmp_path, GATED, head, gating_temperature=4)
  model = RewardModel.load(folder)
  groups = [dict(prompt=TURNS, completions=COMPLETIONS), *GROUPS]
  found = [armo(folder, head, ids, 4.0) for ids in every_ids(groups)]
  assert_scores(model, [score for score, _ in found], groups, alone=True)
  got = model.score_attributes(TURNS, COMPLETIONS)
  np.testing.assert_allclose(got, [each for _, each in found[:3]], **CLOSE)
  assert_written_back(folder)
  with pytest.raises(UserError, match="'gated' scores whole completions"):
    model.score_steps(PROMPT, STEPS)


def test_armo_without_a_stated_temperature_has_ten(tmp_path):
  head = gated()
  folder = write(tmp_path, GATED, head)
  want, _ = armo(folder, head, ids_of(chat(PROMPT, "Yes .")), 10.0)
  got = RewardModel.load(folder).score(PROMPT, ["Yes ."])
  np.testing.assert_allclose(got, [want], **CLOSE)


# ---------------------------------------------------------------- logits


def test_math_shepherd(tmp_path):
  # Card of math-shepherd-mistral-7b-prm: "question step ки", softmax over the
  # logits of + and - at the tags. Wrong: the token before the tag, P(-).
  folder = write(
    tmp_path, "MistralForCausalLM", {}, lm=True, model_type="mistral"
  )
  model, own = RewardModel.load(folder, head="math_shepherd"), tokenizer()
  pair = own.convert_tokens_to_ids(["+", " -"])
  tag = own.convert_tokens_to_ids("ки")

  def reference(prompt, steps):
    lines = [f"Step {i}: {step} ки" for i, step in enumerate(steps, start=1)]
    text = f"{prompt} " + "\n".join(lines)
    ids = np.asarray(own(text, add_special_tokens=False)["input_ids"])
    logits = (states(folder, ids) @ unembed(folder))[:, pair]
    return np.exp(log_softmax(logits))[ids == tag][:, 0]

  assert_steps(model, reference)
  # Steps that name themselves are not named twice.
  named = [f"Step {i}: {step}" for i, step in enumerate(STEPS, start=1)]
  np.testing.assert_array_equal(
    model.score_steps(PROMPT, named), model.score_steps(PROMPT, STEPS)
  )
  with pytest.raises(UserError, match="reads one question, this prompt has 3"):
    model.score_steps(TURNS, STEPS)


def test_rlhflow_prm(tmp_path):
  # The code beside the card: two conversations, one whose answers are "+", one
  # with a token to find them by; the logits one token before each. Wrong: the
  # logits at the answer, -3 from the end (trap 38), the last step only.
  folder = write(tmp_path, "LlamaForCausalLM", {}, lm=True)
  model, own = RewardModel.load(folder, head="rlhflow_prm"), tokenizer()
  pair = own.convert_tokens_to_ids(["+", "-"])
  mark = own.convert_tokens_to_ids("ки")

  def reference(prompt, steps):
    *before, asked = chat(prompt, "")[:-1]

    def conversation(answer):
      turns = list(before)
      for k, step in enumerate(steps):
        said = f"{asked['content']} {step}" if k == 0 else step
        turns.append({"role": "user", "content": said})
        turns.append({"role": "assistant", "content": answer})
      return np.asarray(ids_of(turns))

    logits = (states(folder, conversation("+")) @ unembed(folder))[:, pair]
    good = np.exp(log_softmax(logits))[:, 0]
    return good[:-1][conversation("ки")[1:] == mark]

  assert_steps(model, reference)
  np.testing.assert_allclose(
    model.score_steps(TURNS, STEPS), reference(TURNS, STEPS), **CLOSE
  )


def test_nemotron_reward(tmp_path):
  # Card of Llama-3.1-Nemotron-70B-Reward-HF: generate one token and take the
  # first entry of its scores. Known on the Hub by its name, elsewhere not.
  name = tmp_path / "nvidia" / "Llama-3.1-Nemotron-70B-Reward-HF"
  folder = write(name, "LlamaForCausalLM", {}, lm=True)
  model = RewardModel.load(folder)
  assert_scores(model, [(h @ unembed(folder))[0] for h in last_states(folder)])
  other = write(tmp_path / "mine", "LlamaForCausalLM", {}, lm=True)
  with pytest.raises(UserError, match=r"head= .*'nemotron_reward'"):
    RewardModel.load(other)
  np.testing.assert_array_equal(
    RewardModel.load(other, head="nemotron_reward").score(PROMPT, ["Yes ."]),
    model.score(PROMPT, ["Yes ."]),
  )


# ---------------------------------------------------------------- value heads


@pytest.mark.parametrize("beside", [False, True])
def test_a_value_head_of_trl(tmp_path, beside):
  # AutoModelForCausalLMWithValueHead: v_head.summary at every token. LLaMA-
  # Factory keeps the same head in a file of its own.
  from safetensors.numpy import save_file

  head = {
    "v_head.summary.weight": draw(20, 1, WIDTH),
    "v_head.summary.bias": np.asarray([-0.75], np.float32),
  }
  inside = {} if beside else head
  folder = write(tmp_path, "LlamaForCausalLM", inside, lm=True)
  if beside:
    save_file(head, folder / "value_head.safetensors")
  model = RewardModel.load(folder)
  row = head["v_head.summary.weight"][0]
  values = [states(folder, ids) @ row - 0.75 for ids in every_ids()]
  assert_scores(model, [v[-1] for v in values])
  assert_written_back(folder)
  prompt = ids_of(chat(PROMPT, "")[:-1], add_generation_prompt=True)
  got = model.score_tokens(PROMPT, COMPLETIONS)
  for mine, own in zip(got, values[:3], strict=True):
    np.testing.assert_allclose(mine, own[len(prompt) :], **CLOSE)


def test_internlm2_reward(tmp_path):
  # Its get_score: the template's text, then the reward token, read there; once
  # only where the text ends in it. Wrong: read at the end of the turn.
  head = {"v_head.weight": draw(22, 1, WIDTH)}
  token = tokenizer().convert_tokens_to_ids("<extra_0>")
  classes = "InternLM2ForRewardModel"
  folder = write(tmp_path, classes, head, reward_token_id=token)
  row = head["v_head.weight"][0]
  want = [states(folder, [*ids, token])[-1] @ row for ids in every_ids()]
  assert_scores(RewardModel.load(folder), want)
  assert_written_back(folder)
  ends = write(
    tmp_path / "ends",
    classes,
    head,
    reward_token_id=tokenizer().convert_tokens_to_ids("<|im_end|>"),
  )
  want = [h @ row for h in last_states(ends)]
  assert_scores(RewardModel.load(ends), want)
  for wrong in ({}, {"reward_token_id": 10**6}):
    folder = write(tmp_path / f"{len(wrong)}", classes, head, **wrong)
    with pytest.raises(UserError, match="reward_token_id=.* expected a token"):
      RewardModel.load(folder)


@pytest.mark.parametrize("classes", ["LLMForSequenceRegression", "RewardModel"])
@pytest.mark.parametrize("tensor", ["value_head.weight", "score.weight"])
@pytest.mark.parametrize("kept", ["config", "tensors", "nowhere"])
def test_openrlhf(tmp_path, classes, tensor, kept):
  # Its mean and std normalise in evaluation mode only: never in score().
  head, config = {tensor: draw(21, 1, WIDTH)}, {}
  if kept == "config":
    config = dict(mean=0.5, std=2.0, normalize_reward=False)
  if kept == "tensors":
    head |= {k: np.asarray([v], np.float32) for k, v in NORMALISER.items()}
  folder = write(tmp_path, classes, head, **config)
  model = RewardModel.load(folder)
  want = np.asarray([h @ head[tensor][0] for h in last_states(folder)])
  assert_scores(model, want)
  assert_written_back(folder)
  if kept == "nowhere":
    with pytest.raises(UserError, match="has no normaliser"):
      model.reward(PROMPT, COMPLETIONS)
  else:
    np.testing.assert_allclose(
      model.reward(PROMPT, COMPLETIONS), (want[:3] - 0.5) / 2.0, **CLOSE
    )


NORMALISER = {"mean": 0.5, "std": 2.0}


# ---------------------------------------------------------------- two models


def test_the_reward_that_dpo_implies(tmp_path):
  # Rafailov et al. 2023, eq. 5, over all tokens behind the prompt. Wrong: the
  # prompt's tokens too, a shift by one, the reference added, a mean.
  policy = write(tmp_path / "policy", "LlamaForCausalLM", {}, lm=True)
  reference = write(
    tmp_path / "reference",
    "LlamaForCausalLM",
    {},
    lm=True,
    seed=9,
    rms_norm_eps=1e-3,  # another config than the policy's, and read as such
  )
  model = RewardModel.load(policy, reference=reference, beta=0.25)
  want, terms = [], []
  for group in GROUPS:
    asked = chat(group["prompt"], "")[:-1]
    begin = len(ids_of(asked, add_generation_prompt=True))
    for completion in group["completions"]:
      ids = ids_of(chat(group["prompt"], completion))
      ratio = 0.0
      for folder, sign in ((policy, 1), (reference, -1)):
        logs = log_softmax(states(folder, ids) @ unembed(folder))
        own = [logs[t - 1, ids[t]] for t in range(begin, len(ids))]
        ratio = ratio + sign * np.asarray(own)
      terms.append(0.25 * ratio)
      want.append(terms[-1].sum())
  assert_scores(model, want)
  # Both models over eight devices, their likelihoods where their rows are.
  how = dict(reference=reference, beta=0.25, mesh=local_mesh())
  assert_scores(RewardModel.load(policy, **how), want)
  got = model.score_tokens(PROMPT, COMPLETIONS)
  for mine, own in zip(got, terms[:3], strict=True):
    np.testing.assert_allclose(mine, own, **CLOSE)
  with pytest.raises(UserError, match="'implicit' scores whole completions"):
    model.score_steps(PROMPT, STEPS)


# ---------------------------------------------------------------- commands


def test_files_are_scored_and_measured(tmp_path):
  # Wrong: a loss over the gate's raw outputs, a head that eval cannot read.
  head = gated()
  folder = write(tmp_path / "armo", GATED, head, gating_temperature=4)
  rows = [
    dict(prompt=g["prompt"], chosen=g["completions"][0], rejected=rejected)
    for g in GROUPS[::2]
    for rejected in g["completions"][1:]
  ]
  data, out = tmp_path / "pairs.jsonl", tmp_path / "scored.jsonl"
  data.write_text("".join(json.dumps(row) + "\n" for row in rows))
  score_file(folder, data, out, kind="auto", dtype="float32")
  want = []
  for row, line in zip(rows, out.read_text().splitlines(), strict=True):
    pair = [
      armo(folder, head, ids_of(chat(row["prompt"], row[side])), 4.0)[0]
      for side in ("chosen", "rejected")
    ]
    scored = json.loads(line)
    got = [scored["chosen_score"], scored["rejected_score"]]
    np.testing.assert_allclose(got, pair, **CLOSE)
    want.append(pair[0] > pair[1])
  evaluate_records(
    folder,
    data,
    tmp_path / "eval.json",
    kind="auto",
    max_groups=0,
    allow_overlap=False,
    dtype="float32",
    command="rm-jax eval",
  )
  metrics = json.loads((tmp_path / "eval.json").read_text())["metrics"]
  assert metrics["accuracy"]["value"] == pytest.approx(np.mean(want))
  assert "loss" not in metrics


def test_the_command_line_takes_a_head(tmp_path):
  folder = write(tmp_path / "prm", "LlamaForCausalLM", {}, lm=True)
  row = dict(prompt=PROMPT, completions=list(STEPS), labels=[True, True, False])
  data, out = tmp_path / "steps.jsonl", tmp_path / "scored.jsonl"
  data.write_text(json.dumps(row) + "\n")
  files = (f"--model={folder}", f"--input={data}", f"--output={out}")
  code, _, err = command("score", *files, "--head=rlhflow_prm")
  assert code == 0, err
  want = RewardModel.load(folder, head="rlhflow_prm").score_steps(PROMPT, STEPS)
  got = json.loads(out.read_text())["step_scores"]
  np.testing.assert_allclose(got, want, **CLOSE)
  code, _, err = command("score", *files)
  assert code == 2 and "head= or --head= one of" in err.splitlines()[-1]


def command(*arguments):
  done = subprocess.run(
    [sys.executable, "-m", "rm_jax", *arguments],
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )
  return done.returncode, done.stdout, done.stderr


# ---------------------------------------------------------------- the page


def test_the_page_has_every_head():
  # Wrong: a row that nobody can look up, a source that went stale.
  page = (ROOT / "docs" / "models.md").read_text()
  for name, row in {**HEADS_IN_THE_WILD, **LANGUAGE_HEADS}.items():
    (line,) = [x for x in page.splitlines() if x.startswith(f"| `{name}` |")]
    assert row.source in line or "the same" in line, name
    for known in getattr(row, "hub", ()):
      assert known in line
  for form in STEP_FORMATS:
    assert form == "as_written" or STEP_FORMATS[form].__doc__.count("Source:")
