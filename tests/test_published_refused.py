"""Published folders that are not read: each says why, and what to do."""

import pytest
from tokenizers import AddedToken

from rm_jax import RewardModel
from rm_jax.models.published_heads import (
  HEADS_IN_THE_WILD,
)
from rm_jax.types import UserError
from tests.data.fixtures import make_tokenizer
from tests.published_folders import (
  GATED,
  LLAMA3,
  ONE,
  PROMPT,
  WIDTH,
  draw,
  gated,
  two_layers,
  without,
  write,
)


@pytest.mark.parametrize(
  "config, match",
  [
    (dict(mean=0.5), r"expected one mean and one std .* std=None"),
    (dict(mean=[0.5, 1.0], std=1.0), "expected one mean and one std"),
    (dict(mean=0.5, std=0.0), "a std above 0, got 0.5 and 0.0"),
  ],
)
def test_half_a_normaliser_is_refused(tmp_path, config, match):
  head = {"value_head.weight": draw(21, 1, WIDTH)}
  folder = write(tmp_path, "RewardModel", head, **config)
  with pytest.raises(UserError, match=match):
    RewardModel.load(folder)


@pytest.mark.parametrize(
  "classes, outputs",
  [("Qwen2ForRewardModel", 2), ("Qwen2ForProcessRewardModel", 1)],
)
def test_two_layers_with_the_other_models_outputs(tmp_path, classes, outputs):
  folder = write(tmp_path, classes, two_layers(outputs))
  with pytest.raises(UserError, match=f"has {outputs} outputs, expected"):
    RewardModel.load(folder)


def test_a_gate_needs_turns(tmp_path):
  folder = write(tmp_path, GATED, gated(), template=None)
  with pytest.raises(UserError, match="has no chat template"):
    RewardModel.load(folder).score(PROMPT, ["Yes ."])


def test_two_models_must_read_text_alike(tmp_path):
  policy = write(tmp_path / "a", "LlamaForCausalLM", {}, lm=True)
  other = LLAMA3.replace("<s>", "<s>Hello ")
  reference = write(
    tmp_path / "b", "LlamaForCausalLM", {}, lm=True, template=other
  )
  with pytest.raises(UserError, match="read text differently .*dialogue"):
    RewardModel.load(policy, reference=reference, beta=0.1)
  for wrong in (
    dict(reference=policy),
    dict(beta=0.1),
    dict(reference=policy, beta=0.1, head="nemotron_reward"),
  ):
    with pytest.raises(UserError, match="needs reference and beta"):
      RewardModel.load(policy, **wrong)
  with pytest.raises(UserError, match="beta=-1.0 must be above 0"):
    RewardModel.load(policy, reference=policy, beta=-1.0)
  head = {"score.weight": draw(1, 1, WIDTH)}
  classifier = write(tmp_path / "c", "LlamaForSequenceClassification", head)
  with pytest.raises(
    UserError, match="expected a language model, got one with"
  ):
    RewardModel.load(policy, reference=classifier, beta=0.1)


@pytest.mark.parametrize(
  "classes, head, config",
  [
    # A gated model without its gate, under its class and under a plain one.
    (GATED, without(gated(), "gating.logit_scale"), {}),
    (GATED, ONE, {}),
    ("LlamaForSequenceClassification", gated(), {}),
    ("LlamaForSequenceClassification", gated() | ONE, {}),
    # A plain head beside something else, or under a class that has none.
    ("LlamaForSequenceClassification", ONE | {"mean": draw(1, 1)}, {}),
    ("LlamaForCausalLM", ONE, {}),
    ("MyRewardModel", ONE, {}),
    # Value heads of several layers, and of another name.
    ("LlamaForCausalLM", {"v_head.summary.0.weight": draw(1, 4, WIDTH)}, {}),
    ("LlamaForCausalLM", {"v_head.weight": draw(1, 1, WIDTH)}, {}),
    ("Qwen2ForProcessRewardModel", without(two_layers(2), "score.0.bias"), {}),
  ],
)
def test_a_head_is_never_guessed(tmp_path, classes, head, config):
  # Trap 36: ArmoRM served as a plain head gave -2.23 instead of 0.19.
  folder = write(tmp_path, classes, head, **config)
  with pytest.raises(UserError, match="a head is never guessed") as error:
    RewardModel.load(folder)
  for name in (*head, classes, *HEADS_IN_THE_WILD):
    assert name in str(error.value)


def test_a_tensor_that_is_nobodys_is_refused(tmp_path):
  # Quantile regression beside a plain head: not a head's name that we know.
  head = ONE | {"quantiles.weight": draw(1, 5, WIDTH)}
  folder = write(tmp_path, "LlamaForSequenceClassification", head)
  with pytest.raises(UserError, match=r"unmapped \['quantiles.weight'\]"):
    RewardModel.load(folder)


def test_code_of_its_own_is_refused(tmp_path):
  # A published model keeps the plain names and computes something else.
  own = {
    "AutoModelForSequenceClassification": "urm.LlamaForSequenceClassification"
  }
  folder = write(tmp_path, "LlamaForSequenceClassification", ONE, auto_map=own)
  with pytest.raises(UserError, match="brings code of its own, 'urm.Llama"):
    RewardModel.load(folder)


@pytest.mark.parametrize(
  "head, config, match",
  [
    (
      without(gated(), "gating.layers.2.bias"),
      {},
      "a weight and a bias of every layer",
    ),
    (
      gated() | {"reward_transform_matrix": draw(1, 18, 18)},
      {},
      r"19 objectives, expected as many .*\(18, 18\)",
    ),
    (gated(), {"num_objectives": 5}, "num_objectives=5 in config.json"),
    (gated(), {"gating_n_hidden": 3}, "gating_n_hidden=3 in config.json"),
  ],
)
def test_a_gate_of_another_model(tmp_path, head, config, match):
  folder = write(tmp_path, GATED, head, **config)
  with pytest.raises(UserError, match=match):
    RewardModel.load(folder)


def test_a_head_that_was_not_saved(tmp_path):
  folder = write(tmp_path, GATED, {})
  with pytest.raises(
    UserError, match="expected regression_layer.weight.*saved"
  ):
    RewardModel.load(folder)


def test_step_labels_that_nothing_names(tmp_path):
  head = {"score.weight": draw(3, 3, WIDTH), "score.bias": draw(4, 3)}
  folder = write(tmp_path, "LlamaForTokenClassification", head)
  with pytest.raises(UserError, match="3 labels.*expected two"):
    RewardModel.load(folder)


def test_a_pickled_value_head_is_refused(tmp_path):
  folder = write(tmp_path, "LlamaForCausalLM", {}, lm=True)
  (folder / "value_head.bin").write_bytes(b"\x80\x02.")
  with pytest.raises(UserError, match="value_head.bin: a pickle can run any"):
    RewardModel.load(folder)


@pytest.mark.parametrize(
  "head, match",
  [
    ("armo", r"head='armo' is not known. Known: \['math_shepherd'"),
    ("math_shepherd", "expected one token for each"),
  ],
)
def test_a_reading_that_does_not_fit(tmp_path, head, match):
  folder = write(tmp_path, "LlamaForCausalLM", {}, lm=True)
  plain = make_tokenizer(template=LLAMA3)  # without a token " -"
  plain.save_pretrained(folder)
  with pytest.raises(UserError, match=match):
    RewardModel.load(folder, head=head)


@pytest.mark.parametrize("mark", ["<extra_0>", "ки"])
def test_a_mark_that_is_no_token_is_refused(tmp_path, mark):
  # Wrong: the last piece of "<extra_0>" read, which no model was trained for.
  if mark == "ки":
    folder, head = (
      write(tmp_path, "LlamaForCausalLM", {}, lm=True),
      "math_shepherd",
    )
  else:
    folder, head = (
      write(tmp_path, "Qwen2ForProcessRewardModel", two_layers(2)),
      "",
    )
  plain = make_tokenizer(template=LLAMA3)
  plain.add_tokens([AddedToken(" -", normalized=False)])
  plain.save_pretrained(folder)
  with pytest.raises(UserError, match=f"{mark}', expected one token for it"):
    RewardModel.load(folder, head=head)


def test_a_reading_that_the_checkpoint_contradicts(tmp_path):
  folder = write(tmp_path / "a", "LlamaForSequenceClassification", ONE)
  with pytest.raises(UserError, match="has a reward head, 'classifier'"):
    RewardModel.load(folder, head="nemotron_reward")
  capped = write(
    tmp_path / "b",
    "LlamaForCausalLM",
    {},
    lm=True,
    final_logit_softcapping=30.0,
  )
  with pytest.raises(UserError, match="scaled or capped"):
    RewardModel.load(capped, head="nemotron_reward")
