"""A trained or published reward model: text in, scores out."""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from rm_jax.data.asked import asked_group, asked_steps
from rm_jax.data.loader import (
  Dataset,
  Reading,
  policy,
  tokenize_records,
  with_demands,
)
from rm_jax.data.supervise import every_output
from rm_jax.data.tokenizers import fingerprint
from rm_jax.exported import is_exported, read_exported
from rm_jax.normaliser import Normaliser, find, fold_gain, weights_digest
from rm_jax.objectives import LossSpec
from rm_jax.places import find_run, local_path, locate, scheme
from rm_jax.published import read_implicit, read_published
from rm_jax.reward_model import ModelSpec
from rm_jax.scoring import place, score_groups
from rm_jax.train.evaluate import Scored
from rm_jax.train.mirror import fetch_mirror
from rm_jax.trained import Run, read_trained
from rm_jax.types import Record, UserError

DTYPES = ("float32", "bfloat16")


class Scores(NamedTuple):
  """What one record got, float32."""

  completions: np.ndarray  # [K]
  slots: list  # K arrays: the score at every place read, the steps for one


@dataclasses.dataclass(frozen=True)
class RewardModel:
  """Scores of completions: the same numbers whatever is scored beside them.

  `RewardModel.load(x)` makes one. Scores are raw head outputs, float32.
  """

  spec: ModelSpec
  params: Any
  tokenizer: Any
  reading: Reading
  run: Run | None = None  # None: published, not trained here
  normaliser: Normaliser | tuple | None = None  # (mean, std, ...): `reward`
  mesh: Mesh | None = None  # devices that score together; None: one

  @classmethod
  def load(
    cls,
    x: str | pathlib.Path,
    *,
    dtype: str = "float32",
    head: str = "",
    reference: str | pathlib.Path = "",
    beta: float = 0.0,
    mesh: Mesh | None = None,
  ):
    """A model from a run's workdir, one of its checkpoints, or an HF folder.

    Args:
      x: a workdir (its best checkpoint, else its last), its folder `best` or
        `checkpoints`, one checkpoint `best/N` or `checkpoints/N`, a folder
        that `rm-jax export` wrote, or one of a published reward model
        (docs/models.md lists the heads); each also behind a URL (gs://...).
      dtype: of the matrix products. float32 makes scores equal to 1e-5
        whatever the batch; bfloat16 is faster and equal to about 1e-2.
      head: how a language model without a reward head is read: one of
        `rm_jax.models.language_heads.LANGUAGE_HEADS`.
      reference: the language model that x, a policy trained by DPO, started
        from: the score is the implicit reward.
      beta: of that training run.
      mesh: devices of this process, such as `local_mesh` gives: parameters and
        rows are cut over them. For many rows; None: one device.

    Raises:
      UserError: nothing there, no reward head, one that is not known, another
        tokenizer or template than the one stored with the checkpoint.
    """
    if dtype not in DTYPES:
      raise UserError(f"dtype={dtype!r} is not known. Known: {DTYPES}.")
    if bool(str(reference)) != bool(beta) or (reference and head):
      raise UserError(
        f"reference={str(reference)!r}, beta={beta} and head={head!r}: an "
        "implicit reward needs reference and beta, and no head."
      )
    x, reference = _local(x), _local(reference)
    found, run = find_run(x), None
    if found is not None:
      if head or reference:
        raise UserError(
          f"{x}: the run says which head it trained: leave head and reference "
          "out."
        )
      own = read_trained(*found, dtype=dtype)
      x, run = found[0], own.run
    elif is_exported(x) and not (head or reference):
      own = read_exported(pathlib.Path(x), dtype=dtype)
    elif reference:
      own = read_implicit(x, reference, beta=beta, dtype=dtype)
    else:
      own = read_published(x, dtype=dtype, head=head)
    model = cls(
      own.spec,
      place(own.spec, own.params, mesh),
      own.tokenizer,
      own.reading,
      run=run,
      normaliser=own.normaliser,
      mesh=mesh,
    )
    return model._with_normaliser(pathlib.Path(x))

  def score(self, prompt, completions) -> np.ndarray:
    """Scores of K completions of one prompt, float32 [K].

    Args:
      prompt: a string (one user turn) or a list of {"role", "content"}.
      completions: K strings (one assistant turn each) or message lists.

    Raises:
      UserError (a ValueError): one is too long for a row; never cut.
    """
    return self.score_groups([dict(prompt=prompt, completions=completions)])[0]

  def score_groups(self, records) -> list[np.ndarray]:
    """Scores of many groups, float32 [K_i] each: packed, prompts shared.

    Args:
      records: `Record`s or {"prompt": ..., "completions": [...]} dicts.

    Raises:
      UserError: names the first group that cannot be scored.
    """
    records = [asked_group(r) for r in records]
    return [s.completions for s in self._score(records, self.reading.pooling)]

  def score_steps(self, prompt, steps) -> np.ndarray:
    """One score per reasoning step, float32 [steps], from one forward pass.

    The steps are joined by newlines, or written as the model's authors did. A
    head of classes or verdicts gives the probability that the step is right, a
    scalar head its raw output.
    """
    record = asked_steps(prompt, steps)
    return self._score([record], "step_ends")[0].slots[0]

  def score_tokens(self, prompt, completions) -> list[np.ndarray]:
    """The score at every token of each completion, K of float32 [T_k].

    A value head gives its values, an implicit reward the terms of its sum.
    """
    (got,) = self._score(
      [asked_group(dict(prompt=prompt, completions=completions))], "every_token"
    )
    return got.slots

  def score_attributes(self, prompt, completions) -> np.ndarray:
    """What is predicted of each attribute or label, float32 [K, A].

    In the order of the run's config.model.attributes, or of the labels of the
    published model. `score` is their sum, with the weights of the run or of the
    gate.

    Raises:
      UserError: the model has no head of attributes; one is too long for a row.
    """
    if self.spec.head.kind not in ("attributes", "gated"):
      raise UserError(
        f"this model has a head of kind {self.spec.head.kind!r}, attributes "
        "are those of a run with config.model.head='attributes': call score()."
      )
    count = self.spec.head.outputs
    record = asked_group(dict(prompt=prompt, completions=completions))
    data = tokenize_records([record], self.tokenizer, self.reading, None)
    if not data.groups:
      self._score([record], self.reading.pooling)  # says why
    groups = [every_output(group, count) for group in data.groups]
    data = with_demands(groups, self.reading, [], {}, data.prompts)
    scored = self.score_tokenized(data, pooling=self.reading.pooling)
    return np.stack([slots[-count:] for slots in scored.slots[0]])

  def reward(self, prompt, completions) -> np.ndarray:
    """(score - mean) / std of the model's normaliser, float32 [K].

    Of the main task's head; of attributes, their weighted sum.

    Raises:
      UserError: the model has none; raw scores are never passed off as rewards.
    """
    if self.normaliser is None:
      raise UserError(
        "this model has no normaliser for these weights, so it has scores but "
        "no reward: call score(), or fit one on your policy's samples: rm-jax "
        "score --model=... --input=SAMPLES.jsonl --output=... --fit_normaliser"
      )
    mean, std = map(np.float32, self.normaliser[:2])
    return (self.score(prompt, completions) - mean) / std

  def fold_gain(self) -> "RewardModel":
    """The same rewards from scores of std 1: the gain goes into the head.

    For programs that take raw scores; the mean stays in the normaliser.

    Raises:
      UserError: no normaliser; a head of probabilities.
    """
    if self.normaliser is None:
      self.reward("", [""])  # says what to do
    spec, params, normaliser = fold_gain(
      self.spec, self.params, self.normaliser
    )
    return dataclasses.replace(
      self, spec=spec, params=params, normaliser=normaliser
    )

  def fingerprint(self) -> dict:
    """What text becomes before it is scored."""
    own = self.tokenizer
    return fingerprint(own, own.chat_template, policy(self.reading))

  def _with_normaliser(self, folder: pathlib.Path) -> "RewardModel":
    """With the normaliser that was fitted for it; else with the one it has."""
    found = find(
      folder,
      lambda: weights_digest(self.spec, self.params),
      self.fingerprint(),
    )
    if found is None:
      return self
    return dataclasses.replace(self, normaliser=found)

  def score_each(self, records: list[Record], *, pooling: str) -> list:
    """Per record its Scores, or the reason (a string) why it has none.

    Args:
      pooling: where to read: `reading.pooling`, or "step_ends" for the scores
        of the steps, whatever the model was trained with.
    """
    if not records:
      return []
    self.check_readable(pooling)
    reading = self.reading._replace(pooling=pooling)
    data = tokenize_records(records, self.tokenizer, reading, None)
    out = [None] * len(records)
    for index in data.overlong:
      out[index] = self._too_long(records[index])
    kept = {group.record for group in data.groups}
    rejected = [
      i for i in range(len(records)) if i not in kept and out[i] is None
    ]
    for index, reject in zip(rejected, data.rejects, strict=True):
      out[index] = reject.reason
    if data.groups:
      scored = self.score_tokenized(data, pooling=pooling)
      for group, completions, slots in zip(
        data.groups, scored.completions, scored.slots, strict=True
      ):
        out[group.record] = Scores(completions, slots)
    return out

  def score_tokenized(
    self,
    data: Dataset,
    *,
    pooling: str,
    loss: LossSpec | None = None,
    progress: str | None = None,
  ) -> Scored:
    """Scores of tokenised groups, each once, with the sums of a loss.

    Args:
      data: groups whose trees were grown for `reading.row_len`.
      pooling: what the slots of `data` were made for.
      loss: adds its sums; None: no sums.
      progress: a word before a progress bar; None: no bar.
    """
    head = dataclasses.replace(self.spec.head, pooling=pooling)
    return score_groups(
      dataclasses.replace(self.spec, head=head),
      self.params,
      data,
      reading=self.reading,
      mesh=self.mesh,
      loss=loss,
      progress=progress,
    )

  def check_readable(self, pooling: str) -> None:
    """Raises UserError where this head has no such score."""
    head = self.spec.head
    if head.kind == "attributes" and not head.weights:
      raise UserError(
        f"this model has {head.outputs} labels and nothing says which sum of "
        "them is the score: call score_attributes() for all of them."
      )
    places = {
      "gated": ("prompt_and_last",),
      "implicit": ("sum", "every_token"),
      "classes": ("step_ends",),
      "two_layer_classes": ("step_ends",),
      "verdict": ("step_ends",),
    }.get(head.kind, (pooling,))
    if pooling not in places:
      what = {
        "step_ends": "reasoning steps: call score_steps(), or score records "
        "that have steps",
        "sum": "whole completions: call score() or score_tokens()",
      }.get(places[0], "whole completions: call score()")
      raise UserError(f"a head of kind {head.kind!r} scores {what}.")

  def _score(self, records, pooling) -> list[Scores]:
    """As score_each; the first record that has no score is an error."""
    out = self.score_each(records, pooling=pooling)
    for index, (record, got) in enumerate(zip(records, out, strict=True)):
      if isinstance(got, str):
        where = f"group {index}: " if len(records) > 1 else ""
        if record.source:
          where = f"{record.source}:{record.line}: "
        raise UserError(where + got)
    return out

  def _too_long(self, record) -> str:
    wide = self.reading._replace(row_len=1 << 30, layout="packed")
    data = tokenize_records([record], self.tokenizer, wide, None)
    lengths = [len(tokens) for tokens in data.groups[0].tokens]
    key = " (config.data.row_len of its run)" if self.run else ""
    return (
      f"prompt and completion {int(np.argmax(lengths))} take {max(lengths)} "
      f"tokens, this model reads at most {self.reading.row_len}{key}. Shorten "
      "the text; it is never cut."
    )


def _local(x):
  """A path of this machine, copied to it where it is a URL."""
  if not scheme(x):
    return x
  return local_path(x) or fetch_mirror(str(x)) or locate(x)
