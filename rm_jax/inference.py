"""A trained or published reward model: text in, scores out."""

import dataclasses
import functools
import json
import pathlib
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict
from tqdm import tqdm

from rm_jax.data.fields import BadRow, join_steps, need_messages
from rm_jax.data.loader import (
  Dataset,
  Reading,
  policy,
  tokenize_records,
  with_demands,
)
from rm_jax.data.plan import make_eval_plan
from rm_jax.data.supervise import every_output
from rm_jax.data.tokenizers import (
  check_fingerprint,
  fingerprint,
  load_tokenizer,
)
from rm_jax.exported import is_exported, read_exported
from rm_jax.models.sharding import RULES, put_blocks, put_evenly
from rm_jax.normaliser import (
  Normaliser,
  find,
  fold_gain,
  weights_digest,
)
from rm_jax.objectives import LossSpec
from rm_jax.places import find_run, local_path, locate, scheme
from rm_jax.published import read_implicit, read_published
from rm_jax.reward_model import ModelSpec, abstract_backbones
from rm_jax.train.evaluate import Scored, eval_body, score_dataset
from rm_jax.train.init import read_run
from rm_jax.train.mirror import fetch_mirror
from rm_jax.types import Record, UserError

ROWS = 4  # of a batch when many groups are scored
SHORTEST_ROW = 64
DTYPES = ("float32", "bfloat16")


class Scores(NamedTuple):
  """What one record got, float32."""

  completions: np.ndarray  # [K]
  slots: list  # K arrays: the score at every place read, the steps for one


class Run(NamedTuple):
  """The training run a model comes from."""

  workdir: pathlib.Path
  step: int  # of the checkpoint
  config: ConfigDict


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
    found = find_run(x)
    if found is not None:
      if head or reference:
        raise UserError(
          f"{x}: the run says which head it trained: leave head and reference "
          "out."
        )
      model = _load_run(cls, *found, dtype, mesh)
      return model._with_normaliser(found[0])
    if is_exported(x) and not (head or reference):
      own = read_exported(pathlib.Path(x), dtype=dtype)
    elif reference:
      own = read_implicit(x, reference, beta=beta, dtype=dtype)
    else:
      own = read_published(x, dtype=dtype, head=head)
    model = cls(
      own.spec,
      _placed(own.spec, own.params, mesh),
      own.tokenizer,
      own.reading,
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
    records = [_record(r) for r in records]
    return [s.completions for s in self._score(records, self.reading.pooling)]

  def score_steps(self, prompt, steps) -> np.ndarray:
    """One score per reasoning step, float32 [steps], from one forward pass.

    The steps are joined by newlines, or written as the model's authors did. A
    head of classes or verdicts gives the probability that the step is right, a
    scalar head its raw output.
    """
    if isinstance(steps, str) or not len(steps):
      raise UserError(
        f"steps: expected a list of one or more strings, got {steps!r:.60}: "
        "give every reasoning step on its own."
      )
    try:
      text, ends = join_steps(tuple(steps))
    except BadRow as error:
      raise UserError(f"{error}: give the text of every step.") from error
    record = Record(
      kind="steps",
      prompt=_turns(prompt, "prompt"),
      completions=(text,),
      step_ends=(ends,),
    )
    return self._score([record], "step_ends")[0].slots[0]

  def score_tokens(self, prompt, completions) -> list[np.ndarray]:
    """The score at every token of each completion, K of float32 [T_k].

    A value head gives its values, an implicit reward the terms of its sum.
    """
    (got,) = self._score(
      [_record(dict(prompt=prompt, completions=completions))], "every_token"
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
    record = _record(dict(prompt=prompt, completions=completions))
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
    align, row_len = self.reading.align, self.reading.row_len
    # Alignment counts: a row shorter than a whole tree would never take it.
    total = sum(p.columns(align) for d in data.demands for p in d.pieces)
    rows, blocks = ROWS, 1
    if self.mesh is not None:
      blocks = self.mesh.size
    elif total <= row_len:  # one short row: no need to compute a long one
      row_len = min(row_len, max(SHORTEST_ROW, 1 << (total - 1).bit_length()))
      rows = 1
    plan = make_eval_plan(
      data.demands,
      blocks=blocks,
      rows=rows,
      row_len=row_len,
      layout=self.reading.layout,
      align=align,
    )
    head = dataclasses.replace(self.spec.head, pooling=pooling)
    spec = dataclasses.replace(self.spec, head=head)
    evaluate = _compiled(spec, loss, self.mesh)
    with tqdm(
      total=len(plan.steps),
      desc=progress,
      unit="batch",
      disable=None if progress else True,
    ) as bar:

      def run(batch):
        out = jax.device_get(evaluate(self.params, {}, batch))
        bar.update(1)
        return out

      return score_dataset(run, data, plan)

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


@functools.cache
def _compiled(spec: ModelSpec, loss: LossSpec | None, mesh: Mesh | None):
  """(params, frozen, batch in numpy) -> what `eval_body` returns."""
  body = eval_body(spec, loss, None)
  if mesh is None:
    return jax.jit(body)
  # Out whole: a few bytes a completion.
  run = jax.jit(body, out_shardings=NamedSharding(mesh, PartitionSpec()))

  def evaluate(params, frozen, batch):
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
      return run(params, frozen, put_blocks(batch, mesh))

  return evaluate


def _placed(spec: ModelSpec, params, mesh: Mesh | None):
  """Parameters on the device, or over those of a mesh."""
  if mesh is None:
    return jax.device_put(params)
  return put_evenly(params, abstract_backbones(spec), mesh)


def _local(x):
  """A path of this machine, copied to it where it is a URL."""
  if not scheme(x):
    return x
  return local_path(x) or fetch_mirror(str(x)) or locate(x)


def _turns(value, name: str):
  """A string as it is, messages as a tuple, checked."""
  if isinstance(value, str):
    return value
  try:
    return need_messages(
      list(value) if isinstance(value, tuple) else value, name
    )
  except BadRow as error:
    raise UserError(
      f'{error}: give a string or a list of {{"role", "content"}}.'
    ) from error


def _record(item) -> Record:
  if isinstance(item, Record):
    return item
  absent = {"prompt", "completions"} - set(item)
  if absent:
    raise UserError(
      f"expected a Record or a dict of prompt and completions, got keys "
      f"{sorted(item)}: add {sorted(absent)}."
    )
  completions = item["completions"]
  if isinstance(completions, str | dict) or not len(completions):
    raise UserError(
      f"completions: expected a list of one or more, got {completions!r:.60}: "
      "put a single completion in a list."
    )
  return Record(
    kind="unlabelled",
    prompt=_turns(item["prompt"], "prompt"),
    completions=tuple(
      _turns(c, f"completion {k}") for k, c in enumerate(completions)
    ),
  )


def _load_run(cls, workdir, which, step, dtype, mesh):
  run = json.loads((workdir / "run.json").read_text())
  config = ConfigDict(run["config"])
  reading = Reading(
    template=config.data.template,
    read_at=config.data.read_at,
    row_len=config.data.row_len,
    overlong="drop",
    layout="shared",
    align=config.data.align,
    pooling=config.model.pooling,
  )
  tokenizer = load_tokenizer(config.init.tokenizer or config.init["from"])
  ours = fingerprint(tokenizer, tokenizer.chat_template, policy(reading))
  try:
    check_fingerprint(run["fingerprint"], ours)
  except UserError as error:
    raise UserError(f"{workdir}: {error}") from error
  spec, params, step = read_run(workdir, which, step, tokenizer)
  spec = dataclasses.replace(spec, dtype=dtype, remat=False, attention="blocks")
  return cls(
    spec,
    _placed(spec, params, mesh),
    tokenizer,
    reading,
    run=Run(workdir, step, config),
    mesh=mesh,
  )
