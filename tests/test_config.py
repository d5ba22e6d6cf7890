"""What can be wrong with a config before any file is read."""

import pytest
import tiny_run

from rm_jax.config import (
  CHOICES,
  NOT_NEGATIVE,
  POSITIVE,
  base,
  get,
  task,
  validate,
)
from rm_jax.train.tasks import REGULARIZERS
from rm_jax.types import UserError


def config(**changes):
  return tiny_run.config("pairs.jsonl", "folder", **changes)


def test_the_base_config_lacks_only_the_data():
  with pytest.raises(UserError, match=r"data\.source is empty: give a file"):
    validate(base())
  c = base()
  c.data.source = "pairs.jsonl"
  assert validate(c) is None


def test_nothing_is_dropped_or_added_unless_it_is_asked_for():
  # Catches: dropout left on, centring at 0.1 that nobody set.
  c = base()
  assert c.model.dropout == 0.0
  for one in (c.loss, task().loss):
    for key in (*REGULARIZERS, "language_coefficient"):
      assert one[key] == 0.0, key


@pytest.mark.parametrize("key", sorted(CHOICES))
def test_a_choice_is_refused_by_name_with_the_known(key):
  with pytest.raises(UserError, match=rf"config\.{key}='other' .*Known: \["):
    validate(config(**{key.replace(".", "__"): "other"}))


@pytest.mark.parametrize("key", POSITIVE)
def test_counts_are_1_or_more(key):
  with pytest.raises(UserError, match=rf"config\.{key}=0 must be 1 or more"):
    validate(config(**{key.replace(".", "__"): 0}))


@pytest.mark.parametrize("key", NOT_NEGATIVE)
def test_sizes_are_0_or_more(key):
  wrong = type(get(base(), key))(-1)
  with pytest.raises(UserError, match=rf"config\.{key}=-1.* must be 0 or more"):
    validate(config(**{key.replace(".", "__"): wrong}))


def test_a_rate_that_is_not_a_number():
  with pytest.raises(UserError, match=r"optim\.lr=nan"):
    validate(config(optim__lr=float("nan")))


@pytest.mark.parametrize(
  "key", ["optim.clip_norm", "loss.gap", "tasks.safety.weight"]
)
def test_a_number_that_is_not_finite(key):
  # Wrong: the run trains and cannot write its run.json.
  c = config()
  c.tasks.safety = task()
  c.tasks.safety.source = "other.jsonl"
  with c.unlocked():
    c.update_from_flattened_dict({key: float("inf")})
  with pytest.raises(UserError, match=rf"config\.{key}=inf must be a finite"):
    validate(c)


@pytest.mark.parametrize(
  "changes, message",
  [
    (
      dict(data__blocks=6, train__accumulate=4),
      r"blocks=6 .*accumulate=4 micro-batches \(remainder 2\)",
    ),
    (
      dict(data__batch="rows", data__rows_per_batch=10, data__blocks=4),
      r"rows_per_batch=10 .*blocks=4 \(remainder 2\)\. Nearest above: 12",
    ),
    (
      dict(data__row_len=66, data__align=4),
      r"row_len=66 is not a multiple of config\.data\.align=4 \(remainder 2\)",
    ),
    (
      dict(data__source="a.jsonl,b.jsonl", data__weights=(1.0,)),
      r"weights=\(1\.0,\) must be numbers above 0, one for each of the 2",
    ),
    (
      dict(compute__attention="splash", compute__dtype="float32"),
      r"attention='splash' with config\.compute\.dtype='float32': .*bfloat16",
    ),
    (dict(data__eval_share=1.5), r"eval_share=1\.5 must be in \[0, 1\]"),
  ],
)
def test_keys_that_do_not_go_together(changes, message):
  with pytest.raises(UserError, match=message):
    validate(config(**changes))


def test_unknown_and_missing_keys_are_named():
  c = config()
  c.data.unlock()
  c.data.shufle = True
  with pytest.raises(
    UserError, match=r"config\.data: unknown keys \['shufle'\]"
  ):
    validate(c)
  c = config()
  with c.unlocked():
    del c.optim.lr
  with pytest.raises(
    UserError, match=r"config\.optim: .*missing keys \['lr'\]"
  ):
    validate(c)


@pytest.mark.parametrize(
  "key, value",
  [("b1", 0.8), ("b2", 0.999), ("eps", 1e-6), ("momentum_dtype", "bfloat16")],
)
def test_what_adafactor_does_not_read(key, value):
  # Catches: a rate of decay that is set, reported, and read by nothing.
  changes = {f"optim__{key}": value}
  assert validate(config(**changes)) is None
  with pytest.raises(
    UserError,
    match=rf"config\.optim\.{key}={value!r} is not read by .*Leave it",
  ):
    validate(config(optim__name="adafactor", **changes))
