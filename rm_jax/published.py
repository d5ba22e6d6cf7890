"""Published reward models: a folder, GGUF file or URL to what scores text."""

import pathlib
from typing import Any, NamedTuple

from rm_jax.data.loader import Reading
from rm_jax.data.step_formats import check_tokens
from rm_jax.data.tokenizers import (
  check_fingerprint,
  check_vocab_size,
  fingerprint,
  load_tokenizer,
)
from rm_jax.heads import HeadSpec
from rm_jax.models.convert import place_pretrained
from rm_jax.models.head_readers import PublishedHead
from rm_jax.models.language_heads import (
  LANGUAGE_HEADS,
  language_head,
  name_on_hub,
)
from rm_jax.models.published_heads import read_held
from rm_jax.places import EMBEDDED, HUB_ID, locate, read_json
from rm_jax.reward_model import ModelSpec
from rm_jax.types import UserError

ROW_LEN = 2048  # models that come without a run.json say none


class Published(NamedTuple):
  """What a RewardModel is made of."""

  spec: ModelSpec
  params: dict
  tokenizer: Any
  reading: Reading
  normaliser: tuple | None


def read_published(source, *, dtype: str, head: str) -> Published:
  """A reward model as somebody else published it.

  Args:
    source: as in `rm_jax.places.locate`.
    dtype: of the matrix products.
    head: of LANGUAGE_HEADS, for a language model whose logits are the reward;
      "": what the checkpoint holds, or what its name on the Hub says.

  Raises:
    UserError: nothing there, no reward head, one that is not known, a reading
      that the checkpoint contradicts.
  """
  check_source(source)
  found = place_pretrained(source)
  tokenizer = load_tokenizer(source)
  check_vocab_size(tokenizer, found.config.vocab_size)
  named = head or ("" if found.head else name_on_hub(source))
  if found.head and named:
    raise UserError(
      f"{locate(source)}: head={head!r} reads the logits of a language model, "
      f"this one has a reward head, {found.head.name!r}: leave head out."
    )
  if found.head:
    published = read_held(found.head)
  elif named:
    where = locate(source)
    raw = {} if where.is_file() else read_json(where / "config.json")
    published = language_head(named, tokenizer, raw, where=where)
  else:
    raise UserError(
      f"{locate(source)}: expected a model with a reward head, got a language "
      "model without one. If its logits are the reward, say how they are read: "
      f"head= or --head= one of {sorted(LANGUAGE_HEADS)}. Or train a head: "
      f"rm-jax train --config=... --config.init.from={source}"
    )
  spec = ModelSpec(
    decoder=found.config,
    head=published.spec,
    dtype=dtype,
    remat=False,
    segments=(found.config.layers,),
  )
  params = {"backbone": found.params, "head": published.params}
  reading = reading_of(published, found.config)
  check_tokens(reading.steps, tokenizer)
  return Published(spec, params, tokenizer, reading, published.normaliser)


def reading_of(head: PublishedHead, *decoders) -> Reading:
  """How text is read for a published head on these decoders."""
  longest = [c.max_positions for c in decoders if c.max_positions]
  return Reading(
    template=head.template,
    read_at="last_token",  # what follows the last turn belongs to it
    row_len=min([ROW_LEN, *longest]),
    overlong="drop",
    layout="shared",
    align=1,
    pooling=head.spec.pooling,
    steps=head.steps,
    append=head.append,
  )


def read_implicit(policy, reference, *, beta: float, dtype: str) -> Published:
  """The reward that a policy trained by DPO implies.

      score = beta * sum over completion tokens of (log pi - log ref)

  The sum is over all that the template prints after the prompt, as in training;
  the term of the partition function is the same for all completions of a prompt
  and left out.

  Source: Rafailov et al. 2023, arXiv:2305.18290, equation 5.

  Args:
    policy, reference: two language models with one tokenizer.
    beta: of the training run.

  Raises:
    UserError: a reward head in one of them, two tokenizers or templates.
  """
  if not beta > 0:
    raise UserError(f"beta={beta} must be above 0: that of the training run.")
  models, tokenizers = [], []
  for source in (policy, reference):
    check_source(source)
    models.append(place_pretrained(source))
    tokenizers.append(load_tokenizer(source))
    if models[-1].head:
      raise UserError(
        f"{locate(source)}: expected a language model, got one with a reward "
        f"head ({models[-1].head.name}): load it alone."
      )
    check_vocab_size(tokenizers[-1], models[-1].config.vocab_size)
  prints = [fingerprint(t, t.chat_template, {}) for t in tokenizers]
  try:
    check_fingerprint(*prints)
  except UserError as error:
    raise UserError(
      f"{locate(policy)} and {locate(reference)} read text differently (the "
      f"first is called stored): {error}"
    ) from error
  ours, theirs = models
  head = HeadSpec(
    "implicit", "zeros", "sum", beta=float(beta), reference=theirs.config
  )
  spec = ModelSpec(
    decoder=ours.config,
    head=head,
    dtype=dtype,
    remat=False,
    segments=(ours.config.layers,),
  )
  params = {"backbone": ours.params, "head": {"reference": theirs.params}}
  reading = reading_of(
    PublishedHead("implicit", head, {}), ours.config, theirs.config
  )
  return Published(spec, params, tokenizers[0], reading, None)


def check_source(source) -> None:
  """Raises UserError where neither a model nor a run lies."""
  path = pathlib.Path(source)
  if not path.exists() and HUB_ID.fullmatch(str(source)):
    return  # `locate` asks the Hub
  if str(source) not in EMBEDDED and not (
    path.is_file() or (path / "config.json").is_file()
  ):
    what = "a folder with neither" if path.is_dir() else "no such path"
    raise UserError(
      f"{source}: expected a run's workdir (with run.json), one of its "
      "checkpoints, or the folder of a published reward model (with "
      f"config.json), got {what}: correct the path."
    )
