"""A user's mistake is one line: what, where, what to do; exit code 2."""

import json
import re

import pytest
import tiny_run

from rm_jax.train import loop
from rm_jax.types import UserError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  return tiny_run.write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def write(tmp_path, rows):
  return tiny_run.write_rows(tmp_path / "rows.jsonl", rows)


def fails(tmp_path, tokenizer, rows, message, **changes):
  """Asserts that a run is refused with this message, in one line."""
  data = write(tmp_path, rows) if isinstance(rows, list) else rows
  c = tiny_run.config(data, tokenizer, **dict(data__blocks=8) | changes)
  with pytest.raises(UserError, match=message) as error:
    loop.train(c, tmp_path / "run", command="")
  assert "\n" not in str(error.value)
  # Nothing was trained, so nothing may look like a result.
  assert not (tmp_path / "run" / "results.json").exists()


def of_command(arguments):
  process = tiny_run.start(arguments)
  out, err = process.communicate(timeout=120)
  said = [x for x in err.splitlines() if x.startswith("rm-jax: error: ")]
  assert len(said) == 1, err
  assert "Traceback" not in err + out
  return process.returncode, said[0]


def test_the_command_on_a_missing_file(tmp_path, tokenizer):
  write(tmp_path, tiny_run.pairs(3))
  code, line = of_command(
    tiny_run.command(tmp_path / "row.jsonl", tokenizer, tmp_path / "run")
  )
  assert code == 2
  assert "row.jsonl does not exist (nearest there: rows.jsonl" in line


def test_the_command_on_bad_json(tmp_path, tokenizer):
  data = write(tmp_path, tiny_run.pairs(4))
  with data.open("a") as file:
    file.write('{"prompt": "half\n')
  code, line = of_command(tiny_run.command(data, tokenizer, tmp_path / "run"))
  assert code == 2
  assert re.search(
    r"1 of 5 records are rejected .20\.0%..*rows\.jsonl:5: bad JSON at column",
    line,
  )
  rejects = (tmp_path / "run" / "rejects.jsonl").read_text().splitlines()
  assert [json.loads(x)["line"] for x in rejects] == [5]


def test_the_command_on_an_unknown_key(tmp_path, tokenizer):
  arguments = tiny_run.command("rows.jsonl", tokenizer, tmp_path / "run")
  code, line = of_command([*arguments, "--config.data.rowlen=9"])
  assert code == 2 and "rowlen" in line


# ---------------------------------------------------------------- records


def test_an_empty_completion(tmp_path, tokenizer):
  rows = tiny_run.pairs(3)
  rows[1]["rejected"] = ""
  fails(tmp_path, tokenizer, rows, r"1 of 3 .*rows\.jsonl:2: .*empty")


def test_one_completion_for_a_pairwise_loss(tmp_path, tokenizer):
  rows = [
    {"prompt": f"Who {n} ?", "completions": ["A poet ."], "ranks": [0]}
    for n in range(3)
  ]
  fails(
    tmp_path, tokenizer, rows, r"rows\.jsonl:1: .*(K=1|one completion|at least)"
  )


def test_a_margin_without_ratings(tmp_path, tokenizer):
  fails(
    tmp_path,
    tokenizer,
    tiny_run.pairs(3),
    r"rows\.jsonl:\d: margin 'rating_difference' needs chosen_rating and "
    r"rejected_rating, the record has none",
    loss__name="bradley_terry_margin",
    loss__margin="rating_difference",
  )


def test_longer_than_a_row(tmp_path, tokenizer):
  fails(
    tmp_path,
    tokenizer,
    tiny_run.pairs(6),
    r"no usable record.*longer than a row of 8 tokens: raise config\.data\."
    r"row_len or set config\.data\.overlong='cut_prompt'",
    data__row_len=8,
  )


# ---------------------------------------------------------------- config


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(loss__name="hing"), r"loss\.name='hing' .*Known: \['all_pairs'"),
    (
      dict(loss__name="two_hot", model__head="bins"),
      r"loss\.low is not set, but loss 'two_hot' reads it",
    ),
    (
      dict(loss__name="step_cross_entropy", model__pooling="step_ends"),
      r"step_cross_entropy.*head='steps'",
    ),
    (
      dict(loss__name="step_binary_cross_entropy"),
      r"pooling='last_token' does not\. Set .*pooling='step_ends'",
    ),
    (dict(model__head="steps"), r"bradley_terry.*head='scalar'"),
    (dict(model__head="vector"), r"head='vector' .*Known"),
    (dict(model__head_init="xavier"), r"head_init='xavier' .*Known"),
    (dict(model__pooling="first"), r"pooling='first' .*Known"),
    (dict(data__blocks=6), r"blocks=6 .* 8 devices .*Nearest above: 8"),
    (dict(mesh__data=3), r"covers 3 devices, there are 8"),
    (dict(mesh__tensor=3), r"fsdp \* tensor divide"),
    (dict(train__trainable="last:99"), r"'last:99'.*1 <= n <= 3"),
    (dict(optim__warmup_steps=4), r"warmup_steps=4 leaves no step"),
    (dict(init__from="random:huge"), r"'random:huge' is not known"),
    (dict(data__kind="table"), r"kind='table' is unknown"),
    (
      dict(compute__attention="splash", compute__dtype="bfloat16"),
      r"row_len=64 is not a multiple of 128 .*attention='splash'",
    ),
  ],
  ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_a_config_that_cannot_run(tmp_path, tokenizer, changes, message):
  fails(tmp_path, tokenizer, tiny_run.pairs(4), message, **changes)


def test_mistakes_of_the_model_show_before_the_data_are_read(
  tmp_path, tokenizer
):
  fails(
    tmp_path,
    tokenizer,
    tmp_path / "does_not_exist.jsonl",
    "last:99",
    train__trainable="last:99",
  )


def test_a_group_that_no_block_holds(tmp_path, tokenizer):
  fails(
    tmp_path,
    tokenizer,
    tiny_run.pairs(20),
    r"group \d+ takes 2 rows of 64, a block has 1\. Raise",
    data__batch="rows",
    data__rows_per_batch=8,
    data__layout="padded",
  )


def test_a_refused_restart_loses_nothing(tmp_path, tokenizer):
  data = write(tmp_path, tiny_run.pairs(20))
  go = dict(data__blocks=8, num_train_steps=2, optim__warmup_steps=0)
  workdir = tmp_path / "run"
  assert (
    loop.train(tiny_run.config(data, tokenizer, **go), workdir, command="") == 0
  )

  def content():
    return {
      p.relative_to(workdir): p.read_bytes()
      for p in workdir.rglob("*")
      if p.is_file()
    }

  before = content()
  for change in (dict(loss__name="hinge"), dict(train__trainable="last:99")):
    with pytest.raises(UserError):
      loop.train(
        tiny_run.config(data, tokenizer, **go | change), workdir, command=""
      )
  assert content() == before
