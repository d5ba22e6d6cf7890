"""RewardModel: one number per completion, whatever is scored beside it."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from rm_jax import RewardModel, scoring
from rm_jax.data.asked import asked_steps
from rm_jax.data.loader import tokenize_records
from rm_jax.data.pack import grow
from rm_jax.data.plan import demand
from rm_jax.data.tokenizers import load_tokenizer
from rm_jax.models.convert import load_pretrained
from rm_jax.types import Record, UserError
from tests import tiny_run, trained
from tests.data.fixtures import TEMPLATE
from tests.models.fixtures import hidden_states

# float32 products of other shapes sum in another order.
CLOSE = dict(rtol=0, atol=1e-5)

PROMPT = "What is two plus two ?"
COMPLETIONS = ["It is four .", "It is five .", "Nobody knows .", "Yes ."]


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
  return trained.run(tmp_path_factory.getbasetemp(), "all")


@pytest.fixture(scope="session")
def model(workdir):
  return RewardModel.load(workdir)


@pytest.fixture(scope="session")
def groups():
  """Prompts of several lengths, K = 1 .. 4: more than fits one row."""
  rng = np.random.default_rng(0)
  return [
    {
      "prompt": tiny_run.sentence(rng, 2 + n),
      "completions": [
        tiny_run.sentence(rng, int(rng.integers(1, 12)))
        for _ in range(1 + n % 4)
      ],
    }
    for n in range(9)
  ]


@pytest.fixture(scope="session")
def alone(model, groups):
  return [model.score(g["prompt"], g["completions"]) for g in groups]


def assert_same(got, want):
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, **CLOSE)


# ---------------------------------------------------------------- invariance


def test_the_scores_differ_between_completions(alone):
  # Without this a model of zeros would pass everything below.
  every = np.concatenate(alone)
  assert every.dtype == np.float32 and len(np.unique(every)) == len(every)
  assert np.std(every) > 0.1


def test_packed_groups_equal_one_call_per_group(model, groups, alone):
  # Catches attention or positions that leak between the groups of a row, and
  # scores handed to the wrong group.
  got = model.score_groups(groups)
  assert [s.shape for s in got] == [(len(g["completions"]),) for g in groups]
  assert {s.dtype for s in got} == {np.dtype(np.float32)}
  assert_same(got, alone)


def test_order_of_groups_and_completions_is_kept(model, groups, alone):
  # Catches a packer whose own order (longest first) comes out.
  backwards = [
    dict(g, completions=g["completions"][::-1]) for g in groups[::-1]
  ]
  got = model.score_groups(backwards)
  assert_same(got, [s[::-1] for s in alone[::-1]])


@pytest.mark.parametrize("row_len", [48, 200])
def test_row_length_changes_nothing(model, groups, alone, row_len):
  # Catches padding that is seen, and a tree that is split over rows without
  # its trunk (48 columns do not take the largest tree).
  longer = dataclasses.replace(
    model, reading=model.reading._replace(row_len=row_len)
  )
  assert_same(longer.score_groups(groups), alone)


def test_alignment_changes_nothing_and_ends(model, groups, alone):
  # Catches a row cut to the number of tokens, which the aligned tree does not
  # fit: the planner once looked for a row for ever.
  aligned = dataclasses.replace(
    model, reading=model.reading._replace(align=16, row_len=128)
  )
  for group, want in zip(groups, alone, strict=True):
    assert_same(aligned.score_groups([group]), [want])
  assert_same(aligned.score_groups(groups), alone)


def test_each_completion_alone_scores_the_same(model, groups, alone):
  # Catches a shared prefix that is not exact, and K=1 as a special case.
  group, want = groups[3], alone[3]
  assert len(want) == 4
  got = [model.score(group["prompt"], [c])[0] for c in group["completions"]]
  np.testing.assert_allclose(got, want, **CLOSE)


def test_identical_completions_have_one_score(model):
  # Catches a branch without a token of its own (all is trunk).
  same = model.score(PROMPT, [COMPLETIONS[0]] * 3)
  assert np.ptp(same) <= 1e-6
  np.testing.assert_allclose(
    same[0], model.score(PROMPT, COMPLETIONS[:1])[0], **CLOSE
  )


def with_tokens(model, change):
  """Scores of one completion whose token array went through `change`."""
  record = Record("unlabelled", PROMPT, (COMPLETIONS[0],))
  data = tokenize_records([record], model.tokenizer, model.reading, None)
  (group,) = data.groups
  read = int(group.slots[0][group.reads[0]])
  tokens = group.tokens[0].copy()
  assert read == len(tokens) - 1
  group = group._replace(tokens=(change(tokens, read),))
  pieces = grow(group, layout="shared", row_len=64, align=1)
  data = data._replace(groups=[group], demands=[demand(group, pieces)])
  pooling = model.reading.pooling
  return float(model.score_tokenized(data, pooling=pooling).completions[0][0])


def test_reads_the_last_token_and_nothing_after_it(model):
  # Trap 5: off by one at the end of turn. Reading one token early would not
  # see the change of the read token, one late would see what follows.
  def append(tokens, read):
    return np.concatenate([tokens, [7, 9, 11]]).astype(np.int32)

  def change(at):
    def swap(tokens, read):
      tokens[read + at] = (tokens[read + at] + 5) % 100
      return tokens

    return swap

  plain = with_tokens(model, lambda tokens, read: tokens)
  assert with_tokens(model, append) == pytest.approx(plain, abs=1e-6)
  assert abs(with_tokens(model, change(0)) - plain) > 1e-3
  assert abs(with_tokens(model, change(-1)) - plain) > 1e-5


def test_the_read_token_is_the_end_of_turn(model):
  # Catches the template's newline after the last turn being read (trap 8).
  record = Record("unlabelled", PROMPT, (COMPLETIONS[0],))
  data = tokenize_records([record], model.tokenizer, model.reading, None)
  (group,) = data.groups
  last = group.tokens[0][group.slots[0][-1]]
  assert last == model.tokenizer.eos_token_id
  assert (group.tokens[0] == model.tokenizer.bos_token_id).sum() == 1


# ---------------------------------------------------------------- inputs


def test_messages_equal_strings(model):
  # Catches a list that is taken for something else than turns.
  want = model.score(PROMPT, COMPLETIONS)
  prompt = [{"role": "user", "content": PROMPT}]
  turns = [[{"role": "assistant", "content": c}] for c in COMPLETIONS]
  np.testing.assert_array_equal(model.score(prompt, COMPLETIONS), want)
  np.testing.assert_array_equal(model.score(tuple(prompt), turns), want)
  records = [Record("unlabelled", PROMPT, tuple(COMPLETIONS))]
  np.testing.assert_array_equal(model.score_groups(records)[0], want)
  assert model.score_groups([]) == []


def test_an_empty_completion_has_a_score(model):
  # A policy may say nothing; that is bad, not an error.
  assert np.isfinite(model.score(PROMPT, [""])).all()


@pytest.mark.parametrize(
  ("prompt", "completions", "match"),
  [
    (PROMPT, "It is four .", "expected a list of one or more, got 'It is four"),
    (PROMPT, [], r"expected a list of one or more, got \[\]"),
    (PROMPT, [7], "completion 0 must be a list, got int: give a string"),
    ([{"role": "user"}], ["Yes"], r"prompt\[0\].content must be a string"),
    ([], ["Yes"], "prompt is empty"),
  ],
)
def test_wrong_inputs_are_named(model, prompt, completions, match):
  # Catches a string that is scored letter by letter.
  with pytest.raises(UserError, match=match):
    model.score(prompt, completions)


def test_a_dict_without_completions_is_named(model):
  with pytest.raises(UserError, match=r"add \['completions'\]"):
    model.score_groups([{"prompt": PROMPT, "answers": []}])


def test_too_long_is_an_error_with_both_lengths(model):
  # Catches truncation (trap 6). "two" is one token wherever it stands.
  text = " ".join(["two"] * 300)
  own = len(model.tokenizer(text)["input_ids"])
  frame = len(
    model.tokenizer.apply_chat_template(
      [
        {"role": "user", "content": PROMPT},
        {"role": "assistant", "content": ""},
      ],
      tokenize=True,
      return_dict=False,
    )
  )
  total = frame - 1 + own  # the newline after the last turn is not read
  with pytest.raises(ValueError) as error:
    model.score(PROMPT, ["Yes .", text])
  assert f"completion 1 take {total} tokens, this model reads at most 64" in (
    str(error.value)
  )
  assert "never cut" in str(error.value)
  with pytest.raises(UserError, match="group 1: prompt and completion 0 take"):
    model.score_groups(
      [
        {"prompt": PROMPT, "completions": ["Yes ."]},
        {"prompt": PROMPT, "completions": [text]},
      ]
    )


def test_reward_needs_a_normaliser(model):
  with pytest.raises(UserError, match="has no normaliser"):
    model.reward(PROMPT, COMPLETIONS)
  fitted = dataclasses.replace(model, normaliser=(0.25, 4.0))
  got = fitted.reward(PROMPT, COMPLETIONS)
  want = [(float(s) - 0.25) / 4.0 for s in model.score(PROMPT, COMPLETIONS)]
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, want, rtol=1e-6)


# ---------------------------------------------------------------- steps


STEPS = ["First add two .", "Then add one .", "The answer is three ."]


def test_a_step_sees_what_comes_before_it_only(model):
  # Catches a step read at the next one's first token, or at the separator.
  whole = model.score_steps(PROMPT, STEPS)
  assert whole.shape == (3,) and whole.dtype == np.float32
  assert len(np.unique(whole)) == 3
  np.testing.assert_allclose(
    model.score_steps(PROMPT, STEPS[:2]), whole[:2], **CLOSE
  )
  other = model.score_steps(PROMPT, [*STEPS[:2], "Nobody knows ."])
  np.testing.assert_allclose(other[:2], whole[:2], **CLOSE)
  assert abs(other[2] - whole[2]) > 1e-4


@pytest.fixture
def batches(monkeypatch):
  """Every batch that is given to a compiled forward pass, in order."""
  given, compiled = [], scoring._compiled

  def recording(*spec):
    run = compiled(*spec)

    def evaluate(params, frozen, batch):
      given.append(batch)
      return run(params, frozen, batch)

    return evaluate

  monkeypatch.setattr(scoring, "_compiled", recording)
  return given


def conversation(model, *steps) -> list:
  """Token ids of PROMPT and one answer, without the newline after it."""
  turns = [
    {"role": "user", "content": PROMPT},
    {"role": "assistant", "content": "\n".join(steps)},
  ]
  return model.tokenizer.apply_chat_template(
    turns, tokenize=True, return_dict=False
  )[:-1]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_all_steps_are_scored_in_one_forward_over_each_token_once(
  model, batches, count
):
  # Wrong: a forward pass for each prefix, or every prefix in a row or a branch
  # of its own. Both give the same scores.
  steps = STEPS[:count]
  assert model.score_steps(PROMPT, steps).shape == (count,)
  (batch,) = batches
  assert batch.tokens.shape[:2] == (1, 1)  # one block of one row
  real = batch.group_ids > 0
  # In the order of the text: nothing missing, nothing twice.
  assert batch.tokens[real].tolist() == conversation(model, *steps)
  assert batch.score_where.sum() == count


def test_solutions_of_one_prompt_encode_what_they_share_once(model, batches):
  # Wrong: the prompt, or a first step that both have, once for each solution.
  solutions = [STEPS, [STEPS[0], "Nobody knows ."]]
  records = [asked_steps(PROMPT, steps) for steps in solutions]
  both = records[0]._replace(
    completions=tuple(r.completions[0] for r in records),
    step_ends=tuple(r.step_ends[0] for r in records),
  )
  (got,) = model.score_each([both], pooling="step_ends")
  assert [len(slots) for slots in got.slots] == [3, 2]
  (batch,) = batches
  paths = [conversation(model, *steps) for steps in solutions]
  prefixes = {tuple(p[: n + 1]) for p in paths for n in range(len(p))}
  assert (batch.group_ids > 0).sum() == len(prefixes)
  assert len(prefixes) < sum(map(len, paths))


def test_steps_of_a_model_that_pools_by_mean_are_its_steps(model):
  # Catches the mean over the completion being given for every step.
  pooled = dataclasses.replace(
    model,
    spec=dataclasses.replace(
      model.spec, head=dataclasses.replace(model.spec.head, pooling="mean")
    ),
    reading=model.reading._replace(pooling="mean"),
  )
  np.testing.assert_allclose(
    pooled.score_steps(PROMPT, STEPS), model.score_steps(PROMPT, STEPS), **CLOSE
  )
  # The mean itself: over all tokens of the completion.
  every = dataclasses.replace(
    model, reading=model.reading._replace(pooling="every_token")
  )
  record = Record("unlabelled", PROMPT, (COMPLETIONS[0],))
  (got,) = every.score_each([record], pooling="every_token")
  mean = sum(map(float, got.slots[0])) / len(got.slots[0])
  np.testing.assert_allclose(
    pooled.score(PROMPT, COMPLETIONS[:1])[0], mean, **CLOSE
  )


@pytest.mark.parametrize(
  ("steps", "match"),
  [
    ("First add", "expected a list of one or more strings, got 'First add'"),
    ([], r"expected a list of one or more strings, got \[\]"),
    (["First", " "], "step 2 of completion is empty"),
    (["First", 2], "step 2 of completion must be a string, got int"),
  ],
)
def test_wrong_steps_are_named(model, steps, match):
  with pytest.raises(UserError, match=match):
    model.score_steps(PROMPT, steps)


def test_a_model_that_reads_steps_says_that_it_needs_them(model):
  # Catches a process model that scores an answer at some step or other.
  process = dataclasses.replace(
    model, reading=model.reading._replace(pooling="step_ends")
  )
  with pytest.raises(UserError, match="'step_ends' needs reasoning steps"):
    process.score(PROMPT, COMPLETIONS)


# ---------------------------------------------------------------- loading


@pytest.mark.parametrize("trainable", ["all", "last:1"])
def test_scores_are_those_of_the_training_run(tmp_path_factory, trainable):
  # Catches parameters loaded into the wrong layers, a base model that is not
  # the one the run began with, another template: the run wrote these scores
  # itself, batched over eight devices.
  workdir = trained.run(tmp_path_factory.getbasetemp(), trainable)
  last = RewardModel.load(workdir / "checkpoints" / "2")
  got = np.concatenate(last.score_groups(trained.held_out(workdir)))
  with np.load(workdir / "scores.npz") as saved:
    np.testing.assert_allclose(got, saved["scores"], **CLOSE)


def test_loads_every_form_of_a_run(workdir, model, monkeypatch):
  want = model.score(PROMPT, COMPLETIONS)
  step = json.loads((workdir / "best.json").read_text())["step"]
  assert model.run.step == step
  for path in ("best", f"best/{step}", "checkpoints", "checkpoints/2"):
    loaded = RewardModel.load(str(workdir / path))
    assert loaded.run.step == 2
    np.testing.assert_array_equal(loaded.score(PROMPT, COMPLETIONS), want)
  # Catches names taken from a path that has none: "." and "2".
  monkeypatch.chdir(workdir / "checkpoints" / "2")
  assert RewardModel.load(".").run.step == 2


def test_a_missing_checkpoint_names_those_that_are_there(workdir):
  with pytest.raises(UserError, match=r"no checkpoint 7, found \[2\]"):
    RewardModel.load(workdir / "checkpoints" / "7")


def test_a_model_beside_checkpoints_is_not_one_of_them(
  workdir, tmp_path_factory, tmp_path
):
  # Catches the parent's parent taken for the workdir by position alone.
  base = tmp_path_factory.getbasetemp()
  copy = tmp_path / "workdir"
  copy.mkdir()
  shutil.copy(workdir / "run.json", copy)
  shutil.copytree(trained.published(base, 1), copy / "export" / "hf")
  assert RewardModel.load(copy / "export" / "hf").run is None


def test_another_template_is_refused(workdir, tmp_path):
  # Trap 7: a template changed after training. Catches a fingerprint that is
  # stored and never compared.
  copy = tmp_path / "workdir"
  shutil.copytree(workdir, copy)
  changed = load_tokenizer(workdir.parent / "tokenizer")
  changed.chat_template = TEMPLATE.replace("'\n'", "': '", 1)
  folder = tiny_run.write_tokenizer(tmp_path / "tokenizer", changed)
  run = json.loads((copy / "run.json").read_text())
  run["config"]["init"]["tokenizer"] = str(folder)
  (copy / "run.json").write_text(json.dumps(run))
  with pytest.raises(UserError) as error:
    RewardModel.load(copy)
  message = str(error.value)
  assert message.startswith(f"{copy}: expected the tokenizer")
  assert "dialogue: stored" in message and "template: stored" in message
  assert "user: " in message  # the difference itself, in the template's words


def test_a_published_model_equals_its_head_on_its_last_token(tmp_path_factory):
  # Catches score.weight transposed or skipped (trap 36), the token before the
  # last one read, a second BOS. hidden_states is held against torch elsewhere.
  folder = trained.published(tmp_path_factory.getbasetemp(), 1)
  model = RewardModel.load(folder)
  found = load_pretrained(folder)
  want = []
  for completion in COMPLETIONS:
    messages = [
      {"role": "user", "content": PROMPT},
      {"role": "assistant", "content": completion},
    ]
    text = model.tokenizer.apply_chat_template(messages, tokenize=False)
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    hidden = hidden_states(found.params, found.config, [ids])[0, -1]
    row = found.head.tensors["score.weight"][0]
    want.append(float(hidden.astype(np.float64) @ row))
  got = model.score(PROMPT, COMPLETIONS)
  assert got.dtype == np.float32 and model.run is None
  np.testing.assert_allclose(got, want, **CLOSE)


def test_a_folder_that_is_no_reward_model_is_refused(tmp_path_factory):
  # Catches a random head under a base model.
  folder = trained.published(tmp_path_factory.getbasetemp(), 0)
  with pytest.raises(UserError, match="got a language model without"):
    RewardModel.load(folder)


def test_no_model_there(tmp_path):
  with pytest.raises(UserError, match="run's workdir .* got no such path"):
    RewardModel.load(tmp_path / "nothing")
  with pytest.raises(UserError, match="got a folder with neither"):
    RewardModel.load(tmp_path)


def test_dtype_is_that_of_the_products(workdir, model):
  # Catches a flag that nothing reads: bfloat16 keeps 8 bits, so it differs,
  # by about 1e-2 of a score of size 1. The scores stay float32.
  short = RewardModel.load(workdir, dtype="bfloat16")
  got, want = (m.score(PROMPT, COMPLETIONS) for m in (short, model))
  assert got.dtype == np.float32
  assert 1e-4 < np.max(np.abs(got - want)) < 0.1
  with pytest.raises(UserError, match="dtype='float16' is not known"):
    RewardModel.load(workdir, dtype="float16")


def test_frozen_layers_of_another_base_are_refused(tmp_path, tmp_path_factory):
  workdir = trained.run(tmp_path_factory.getbasetemp(), "last:1")
  copy = tmp_path / "copy"
  shutil.copytree(workdir, copy)
  run = json.loads((copy / "run.json").read_text())
  run["frozen_sha256"] = "0" * 64
  (copy / "run.json").write_text(json.dumps(run))
  with pytest.raises(UserError, match="config.init.from holds other weights"):
    RewardModel.load(copy)
