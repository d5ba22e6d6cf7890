"""A trained or published reward model: text in, scores out."""

import dataclasses
import functools
import json
import pathlib
from typing import Any

import jax
import numpy as np

from rm_jax.data.loader import Reading, policy, tokenize_records
from rm_jax.data.plan import make_eval_plan
from rm_jax.data.sources import join_steps
from rm_jax.data.tokenizers import (
  check_fingerprint,
  check_vocab_size,
  fingerprint,
  load_tokenizer,
)
from rm_jax.models.convert import load_pretrained
from rm_jax.models.transformer import DecoderConfig
from rm_jax.places import locate
from rm_jax.reward_model import ModelSpec
from rm_jax.train.checkpoint import load_params
from rm_jax.train.evaluate import eval_body, score_dataset
from rm_jax.train.optim import cut_layers, merge, segments_for, split_trainable
from rm_jax.types import Record, UserError

ROWS = 4  # of a batch when many groups are scored
SHORTEST_ROW = 64
IMPORTED_ROW = 2048  # row length for models that come without a run.json


@dataclasses.dataclass(frozen=True)
class RewardModel:
  """Scores of completions: the same numbers whatever is scored beside them.

  `RewardModel.load(x)` makes one. Scores are raw head outputs, float32.
  """

  spec: ModelSpec
  params: Any
  tokenizer: Any
  reading: Reading
  normaliser: tuple | None = None  # (mean, std) of scores, for `reward`

  @classmethod
  def load(cls, x: str | pathlib.Path, *, dtype: str = "float32"):
    """A model from a run's workdir, one of its checkpoints, or an HF folder.

    Args:
      x: a workdir (its best checkpoint, else its last), workdir/best/N or
        workdir/checkpoints/N, or a folder of `*ForSequenceClassification` with
        one label. A base model (GGUF, causal LM) has no reward head.
      dtype: of the matrix products. float32 makes scores equal to 1e-5
        whatever the batch; bfloat16 is faster and equal to about 1e-2.

    Raises:
      UserError: nothing there, no reward head, another tokenizer or template
        than the one stored with the checkpoint.
    """
    path = pathlib.Path(x)
    for folder, which in (
      (path, "best" if (path / "best.json").exists() else "last"),
      (path.parent.parent, "best" if path.parent.name == "best" else "last"),
    ):
      if (folder / "run.json").exists():
        step = None if folder == path else int(path.name)
        return _load_run(cls, folder, which, step, dtype)
    return _load_published(cls, x, dtype)

  def score(self, prompt, completions) -> np.ndarray:
    """Scores of K completions of one prompt, float32 [K].

    Args:
      prompt: a string (one user turn) or a list of {"role", "content"}.
      completions: K strings (one assistant turn each) or message lists.

    Raises:
      UserError (a ValueError): one is too long for a row; never cut.
    """
    record = _record({"prompt": prompt, "completions": completions})
    return self._run([record], self.reading.pooling)[0][0]

  def score_groups(self, records) -> list[np.ndarray]:
    """Scores of many groups, float32 [K_i] each: packed, prompts shared.

    Args:
      records: `Record`s or {"prompt": ..., "completions": [...]} dicts.
    """
    records = [_record(r) for r in records]
    return self._run(records, self.reading.pooling)[0] if records else []

  def score_steps(self, prompt, steps) -> np.ndarray:
    """One score per reasoning step, float32 [steps], from one forward pass.

    The steps are joined by newlines. A three-way step head gives the
    probability that the step is right, a scalar head its raw output.
    """
    text, ends = join_steps(tuple(steps))
    record = Record(
      kind="steps",
      prompt=_prompt(prompt),
      completions=(text,),
      step_ends=(ends,),
    )
    return self._run([record], "step_ends")[1][0][0]

  def reward(self, prompt, completions) -> np.ndarray:
    """(score - mean) / std of the model's normaliser, float32 [K].

    Raises:
      UserError: the model has none; raw scores are never passed off as rewards.
    """
    if self.normaliser is None:
      raise UserError(
        "this model has no normaliser, so it has scores but no reward: call "
        "score(), or dataclasses.replace(model, normaliser=(mean, std)) with "
        "the mean and std of scores on your policy's samples."
      )
    mean, std = self.normaliser
    return (self.score(prompt, completions) - mean) / np.float32(std)

  def tokenize(self, records: list[Record], pooling: str | None = None):
    """The Dataset of records, nothing to learn from: see data/loader.py."""
    reading = self.reading._replace(
      overlong="drop", pooling=pooling or self.reading.pooling
    )
    return tokenize_records(records, self.tokenizer, reading, None)

  def _run(self, records, pooling):
    """(scores [K] per record, slot scores per record and completion)."""
    data = self.tokenize(records, pooling)
    if data.rejects:
      r = data.rejects[0]
      raise UserError(f"{r.file}:{r.line}: {r.reason}")
    if data.overlong:
      raise UserError(self._too_long(records[data.overlong[0]]))
    return self.score_tokenized(data)

  def score_tokenized(self, data):
    """(scores [K] per group, slot scores per group and completion)."""
    total = data.tokens_shared
    row_len = self.reading.row_len
    if total < row_len:  # one short row: no need to compute a long one
      row_len = min(row_len, max(SHORTEST_ROW, 1 << (total - 1).bit_length()))
    plan = make_eval_plan(
      data.demands,
      blocks=1,
      rows=ROWS if total > row_len else 1,
      row_len=row_len,
      layout=self.reading.layout,
      align=self.reading.align,
    )
    evaluate = _compiled(self.spec)

    def run(batch):
      return jax.device_get(evaluate(self.params, {}, batch))

    scored = score_dataset(run, data, plan)
    return scored.completions, scored.slots

  def _too_long(self, record) -> str:
    wide = self.reading._replace(
      row_len=1 << 30, layout="packed", overlong="drop"
    )
    data = tokenize_records([record], self.tokenizer, wide, None)
    longest = max(len(t) for t in data.groups[0].tokens)
    where = f"{record.source}:{record.line}: " if record.source else ""
    return (
      f"{where}prompt and completion take {longest} tokens, this model reads "
      f"at most {self.reading.row_len} (config.data.row_len of its run). "
      "Shorten the text; it is never cut."
    )


@functools.cache
def _compiled(spec: ModelSpec):
  return jax.jit(eval_body(spec, None, None))


def _prompt(prompt):
  return prompt if isinstance(prompt, str) else tuple(prompt)


def _record(item) -> Record:
  if isinstance(item, Record):
    return item
  completions = item["completions"]
  if isinstance(completions, str):
    raise UserError(
      "completions is one string; expected a list of K completions"
    )
  return Record(
    kind="unlabelled",
    prompt=_prompt(item["prompt"]),
    completions=tuple(
      c if isinstance(c, str) else tuple(c) for c in completions
    ),
  )


def read_run(workdir: pathlib.Path) -> dict:
  """run.json of a workdir."""
  return json.loads((workdir / "run.json").read_text())


def _load_run(cls, workdir, which, step, dtype):
  run = read_run(workdir)
  config = run["config"]
  source = config["init"]["from"]
  decoder = DecoderConfig(**run["model"]["decoder"])
  trainable = config["train"]["trainable"]
  segments = segments_for(trainable, decoder.layers)
  spec = ModelSpec(
    decoder=decoder,
    head=config["model"]["head"],
    head_init=config["model"]["head_init"],
    pooling=config["model"]["pooling"],
    dtype=dtype,
    remat=False,
    segments=segments,
  )
  params, _ = load_params(workdir, which, step)
  if trainable != "all":
    # The checkpoint holds what trained; the rest is the base model's.
    base = load_pretrained(source)
    if base.config != decoder:
      raise UserError(
        f"{workdir}: the base model {source!r} is now {base.config}, the run "
        f"was trained on {decoder}. Put the same base model back."
      )
    whole = {"backbone": cut_layers(base.params, segments), "head": {}}
    _, frozen = split_trainable(whole, trainable)
    params = merge(params, frozen)
  d = config["data"]
  reading = Reading(
    template=d["template"],
    read_at=d["read_at"],
    row_len=d["row_len"],
    overlong="drop",
    layout="shared",
    align=d["align"],
    pooling=config["model"]["pooling"],
  )
  tokenizer = load_tokenizer(config["init"]["tokenizer"] or source)
  ours = fingerprint(tokenizer, tokenizer.chat_template, policy(reading))
  check_fingerprint(run["fingerprint"], ours)
  return cls(spec, jax.device_put(params), tokenizer, reading)


def _load_published(cls, source, dtype):
  found = load_pretrained(source)
  if found.score is None:
    raise UserError(
      f"{locate(source)}: a language model without a reward head. Train one: "
      f"rm-jax train --config=... --config.init.from={source}"
    )
  if len(found.score) != 1:
    raise UserError(
      f"{locate(source)}: score.weight has {len(found.score)} labels, a scalar "
      "reward model has 1."
    )
  tokenizer = load_tokenizer(source)
  check_vocab_size(tokenizer, found.config.vocab_size)
  spec = ModelSpec(
    decoder=found.config,
    head="scalar",
    head_init="zeros",
    pooling="last_token",
    dtype=dtype,
    remat=False,
    segments=(found.config.layers,),
  )
  params = {"backbone": found.params, "head": {"kernel": found.score[0]}}
  reading = Reading(
    template="auto",
    read_at="last_token",  # what *ForSequenceClassification pools
    row_len=IMPORTED_ROW,
    overlong="drop",
    layout="shared",
    align=1,
    pooling="last_token",
  )
  return cls(spec, jax.device_put(params), tokenizer, reading)
