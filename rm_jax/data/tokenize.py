"""Text to tokens: Record -> Encoded.

`encode` is the only way from text to tokens: training, evaluation and scoring
call it with the same arguments, so they see the same tokens.
"""

import jinja2
import numpy as np

from rm_jax.data.rejects import record_error
from rm_jax.data.step_formats import frame
from rm_jax.data.templates import (
  common_prefix,
  completion_messages,
  opening,
  prompt_messages,
  render,
  render_group,
  template_name,
)
from rm_jax.types import Encoded, Record, UserError

READ_AT = ("last_token", "end_of_turn")
OVERLONG = ("drop", "cut_prompt")

# What ends a turn in published checkpoints, beside the tokenizer's own EOS; a
# tokenizer that has such a token uses it for that.
END_TOKENS = (
  "<|im_end|>",
  "<|eot_id|>",
  "<|end_of_text|>",
  "<|endoftext|>",
  "<|eom_id|>",
  "<|end|>",
  "<end_of_turn>",
  "<turn|>",
  "<|END_OF_TURN_TOKEN|>",
  "</s>",
)


def check_choice(key: str, value, known) -> None:
  if value not in known:
    raise UserError(f"{key}={value!r} is unknown: use one of {list(known)}.")


def end_ids(tokenizer) -> tuple:
  """Returns the ids that end a turn, ascending: EOS, and EOT where it differs.

  Llama 3 ends turns with <|eot_id|> and texts with <|end_of_text|>: both count.
  """
  vocabulary = tokenizer.get_added_vocab()
  ids = {vocabulary[token] for token in END_TOKENS if token in vocabulary}
  if tokenizer.eos_token_id is not None:
    ids.add(tokenizer.eos_token_id)
  return tuple(sorted(ids))


# ---------------------------------------------------------------- encode


def encode(
  record: Record,
  tokenizer,
  *,
  read_at: str,
  template,
  steps: str = "as_written",
  append: int = -1,
  asks: bool = False,
) -> Encoded:
  """Returns the token ids of the record's K full conversations.

  Each conversation is rendered whole and tokenised once, without special
  tokens beside those the template prints (for plain text: a BOS where the
  tokenizer puts one), with at most one BOS. The completion starts at the first
  token whose offset lies at or beyond the rendered prompt. A step ends at the
  token that covers its last character; separators are never searched for.

  Args:
    record: what `sources` yields.
    tokenizer: a fast one (offsets are needed).
    read_at: "last_token", or "end_of_turn": the last EOS or EOT; what the
      template prints after it is dropped.
    template: "auto", "chat" or "plain" (see `templates`).
    steps: how steps are written, a name in STEP_FORMATS.
    append: a token id that is put behind the conversation where it does not
      end in it, and read; -1: none.
    asks: also find where the last question of each conversation ends.

  Returns:
    Encoded. starts[k] is -1 where the template rewrites earlier turns, so that
    no token is known to be the first: `supervise` refuses that by name unless
    only the last token is read.

  Raises:
    RecordError: the template refuses the record, nothing ends the turn, the
      text of the steps is not in the conversation.
  """
  check_choice("config.data.read_at", read_at, READ_AT)
  if not tokenizer.is_fast:
    raise UserError(
      f"tokenizer {tokenizer.name_or_path!r} is a slow one, expected a fast "
      "one (character offsets are needed): load it with use_fast=True."
    )
  record = frame(record, steps)
  try:
    prompt, texts = render_group(record, tokenizer, template=template)
  except jinja2.TemplateError as error:
    raise record_error(
      record, f"the chat template refuses the conversation: {error}"
    ) from error
  plain = template_name(template, tokenizer) == "plain"
  ends = np.asarray(end_ids(tokenizer), np.int32)
  tokens, starts, reads, step_ends, ask_ends = [], [], [], [], []
  tokenized = tokenize_texts(texts, tokenizer, plain=plain)
  for k, (text, one) in enumerate(zip(texts, tokenized, strict=True)):
    ids, offsets, special = one
    if append >= 0 and ids[-1] != append:
      ids = np.append(ids, np.int32(append))
      offsets = np.append(offsets, len(text))
    start = -1
    if text.startswith(prompt):
      start = max(int(np.searchsorted(offsets, len(prompt))), special)
      if start == len(ids):
        raise record_error(record, f"completion {k} has no token of its own")
    read = len(ids) - 1
    if read_at == "end_of_turn":
      # np.isin sorts: ten times slower for so few.
      found = np.flatnonzero((ids[:, None] == ends).any(axis=1))
      found = found[found >= start]
      if not len(found):
        raise record_error(
          record,
          f"no EOS or EOT token (ids {ends.tolist()}) ends completion {k}: use "
          "config.data.read_at='last_token'",
        )
      read = int(found[-1])
    tokens.append(ids[: read + 1])
    starts.append(start)
    reads.append(read)
    if isinstance(record.completions[k], str) or record.step_ends is None:
      ends_here = find_step_ends(record, k, text, offsets, start, prompt)
    else:
      places = record.step_ends[k]
      ends_here = [
        find_turn(record, k, turn, text, offsets, tokenizer, plain, True)
        for turn in places
      ]
    step_ends.append(np.asarray(ends_here, np.int32))
    if asks:
      last = len(completion_messages(record.completions[k])) - 1
      ask_ends.append(
        find_turn(record, k, last, text, offsets, tokenizer, plain, False)
      )
  return Encoded(
    tuple(tokens),
    tuple(starts),
    tuple(reads),
    tuple(step_ends),
    tuple(ask_ends),
  )


def tokenize(text: str, tokenizer, *, plain: bool):
  """Returns (ids [T], offsets [T], special): where each token's text begins.

  `special` is 1 if a BOS that is not in the text was put before it.
  """
  return tokenize_texts([text], tokenizer, plain=plain)[0]


def tokenize_texts(texts: list, tokenizer, *, plain: bool) -> list:
  """Returns what `tokenize` does of each, from one call of the tokenizer.

  What a call costs beside its text is paid once, and the texts are spread over
  the cores.
  """
  out = tokenizer(
    list(texts), add_special_tokens=False, return_offsets_mapping=True
  )
  bos = tokenizer.bos_token_id
  # Templates print their BOS; plain text gets the one the tokenizer would.
  added = plain and bos is not None and tokenizer("a")["input_ids"][0] == bos
  found = []
  for ids, spans in zip(out["input_ids"], out["offset_mapping"], strict=True):
    ids, offsets = list(ids), [begin for begin, _ in spans]
    while bos is not None and ids[:2] == [bos, bos]:  # printed twice
      del ids[0], offsets[0]
    special = int(added and ids[:1] != [bos])
    if special:
      ids, offsets = [bos, *ids], [0, *offsets]
    # Ascending by force: an empty token (trimmed white space) may point back.
    offsets = np.maximum.accumulate(np.asarray(offsets, np.int64))
    found.append((np.asarray(ids, np.int32), offsets, special))
  return found


def find_step_ends(record, k, text, offsets, start, prompt) -> np.ndarray:
  """Returns the token that ends each reasoning step of completion k, int32."""
  if record.step_ends is None:
    return np.zeros(0, np.int32)
  completion = record.completions[k]
  if start < 0:
    raise record_error(record, REWRITES)
  # Templates may cut the white space around a turn.
  at = text.find(completion.strip(), len(prompt))
  if at < 0:
    raise record_error(
      record, f"the template changes the text of completion {k}: no step ends"
    )
  at -= len(completion) - len(completion.lstrip())
  ends = np.asarray(record.step_ends[k], np.int64)
  if len(ends) and not 0 < ends.min() <= ends.max() <= len(completion):
    raise record_error(
      record,
      f"step ends {list(record.step_ends[k])} are not within the "
      f"{len(completion)} characters of completion {k}",
    )
  # The last token that begins before the step's end covers its last character.
  found = np.searchsorted(offsets, at + ends) - 1
  if len(np.unique(found)) != len(ends) or (np.diff(found) < 0).any():
    raise record_error(
      record, f"two steps of completion {k} end in the same token"
    )
  return found.astype(np.int32)


def find_turn(
  record, k, turn, text, offsets, tokenizer, plain, opened: bool
) -> int:
  """Returns the last token before a turn of completion k.

  Args:
    turn: its number among the messages of the completion.
    opened: behind what opens the turn (the last token before its first word),
      else before that (the last token of the turn before it).
  """
  if plain:
    raise record_error(
      record, "this model reads turns: expected a chat template, got plain text"
    )
  said = completion_messages(record.completions[k])[:turn]
  before = render(
    (*prompt_messages(record.prompt), *said),
    tokenizer,
    add_generation_prompt=opened,
  )
  if not text.startswith(before):
    raise record_error(record, REWRITES)
  return int(np.searchsorted(offsets, len(before))) - 1


REWRITES = (
  "the chat template rewrites earlier turns (the rendered prompt is not how "
  "the conversation begins), so where the completion starts is unknown: use "
  "pooling 'last_token', or another template"
)


# ---------------------------------------------------------------- overlong


def fit(encoded: Encoded, *, row_len: int, policy: str, keep: int):
  """Returns the group with every completion within `row_len`, or None.

  "drop": None if prompt + one completion is longer. "cut_prompt": the same
  leading prompt tokens are removed for every completion, after the first
  `keep` (`kept_prefix`: BOS and system turn); None where the prompt is too
  short for that. The completions and their ends are never cut.
  """
  check_choice("config.data.overlong", policy, OVERLONG)
  excess = max(map(len, encoded.tokens)) - row_len
  if excess <= 0:
    return encoded
  if policy == "drop" or keep + excess > min(encoded.starts):
    return None
  removed = encoded.tokens[0][: keep + excess]
  if any((ids[: keep + excess] != removed).any() for ids in encoded.tokens):
    return None  # not the same prompt tokens: nothing can be cut from all
  return Encoded(
    tokens=tuple(
      np.concatenate([ids[:keep], ids[keep + excess :]])
      for ids in encoded.tokens
    ),
    starts=tuple(start - excess for start in encoded.starts),
    reads=tuple(read - excess for read in encoded.reads),
    step_ends=tuple(ends - np.int32(excess) for ends in encoded.step_ends),
    asks=tuple(end - excess for end in encoded.asks),
  )


def kept_prefix(
  encoded: Encoded, record: Record, tokenizer, *, template
) -> int:
  """Returns how many leading tokens `fit` must keep: BOS and the system turn.

  The system turn is the record's, or the one a template prints by itself; where
  a template writes it into the user turn, the opening of that turn stays too.
  """
  text = opening(record, tokenizer, template=template)
  ids, offsets, _ = tokenize(text, tokenizer, plain=False)
  messages = prompt_messages(record.prompt)
  said = 0  # characters up to the end of the record's own system text
  if messages and messages[0]["role"] == "system":
    content = messages[0]["content"].strip()
    at = text.rfind(content)
    said = at + len(content) if at >= 0 else len(text)
  # What ends the system turn lies behind its text: a BOS that is an EOS as well
  # (OLMo 2) does not, nor does an end token that the text speaks of.
  ends = np.flatnonzero(np.isin(ids, end_ids(tokenizer)) & (offsets >= said))
  if len(ends):
    ids = ids[: ends[-1] + 1]
  elif not said:
    ids = ids[:0]
  bos = int(encoded.tokens[0][0] == tokenizer.bos_token_id)
  return max(common_prefix(ids, encoded.tokens[0]), bos)


def encode_to_fit(
  record: Record, tokenizer, *, row_len: int, policy: str, **how
):
  """Returns `encode` then `fit`: Encoded, or None where it does not fit.

  `how` is what `encode` takes.
  """
  encoded = encode(record, tokenizer, **how)
  keep = 0
  if policy == "cut_prompt" and max(map(len, encoded.tokens)) > row_len:
    keep = kept_prefix(encoded, record, tokenizer, template=how["template"])
  return fit(encoded, row_len=row_len, policy=policy, keep=keep)
