"""How a published process reward model wants reasoning steps to be written.

A record says its steps as characters of the completion. A model that was
trained with a token after every step, or with a turn for every verdict, needs
another text; `frame` writes it, so that `encode` finds the places to read.
Reading is by place, never by searching for a separator in the text.
"""

from rm_jax.data.rejects import record_error
from rm_jax.data.templates import prompt_messages
from rm_jax.types import Record, UserError

EXTRA = "<extra_0>"
TAG = "ки"
GOOD = "+"


def frame(record: Record, steps: str) -> Record:
  """Returns the record as the model reads it; one without steps as it is.

  What stands behind the last step is left out: nothing before it sees it.

  Args:
    steps: a name in STEP_FORMATS.

  Raises:
    RecordError: the record does not fit the format.
    UserError: an unknown name.
  """
  if steps not in STEP_FORMATS:
    raise UserError(
      f"step format {steps!r} is unknown: use one of {sorted(STEP_FORMATS)}."
    )
  write = STEP_FORMATS[steps]
  if write is None or record.step_ends is None:
    return record
  if not all(isinstance(c, str) for c in record.completions):
    raise record_error(
      record, f"steps of format {steps!r} are those of one assistant turn"
    )
  pieces = [
    _pieces(text, ends)
    for text, ends in zip(record.completions, record.step_ends, strict=True)
  ]
  return write(record, pieces)


def qwen_math_prm(record: Record, pieces) -> Record:
  """Every step followed by the token <extra_0>, where it is read.

  Source: model card Qwen/Qwen2.5-Math-PRM-7B (Zhang et al. 2025,
  arXiv:2501.07301).
  """
  return _joined(record, pieces, after=EXTRA)


def trl_prm(record: Record, pieces) -> Record:
  """Every step followed by a line end, the last token of which is read.

  Source: TRL's PRMTrainer, whose default step separator is the line end.
  """
  return _joined(record, pieces, after="\n")


def math_shepherd(record: Record, pieces) -> Record:
  """question, then a line "Step i: ... ки" per step, read at the tag.

  Source: model card peiyi9979/math-shepherd-mistral-7b-prm (Wang et al. 2023,
  arXiv:2312.08935).
  """
  turns = prompt_messages(record.prompt)
  if len(turns) != 1:
    raise record_error(
      record,
      f"Math-Shepherd reads one question, this prompt has {len(turns)} turns",
    )
  texts, ends = [], []
  for steps in pieces:
    text, places = "", []
    for i, step in enumerate(steps, start=1):
      named = step if step.startswith(f"Step {i}:") else f"Step {i}: {step}"
      text += f"{'' if i == 1 else chr(10)}{named} {TAG}"
      places.append(len(text))
    texts.append(f" {text}")
    ends.append(tuple(1 + place for place in places))
  return record._replace(
    prompt=turns[0]["content"], completions=tuple(texts), step_ends=tuple(ends)
  )


def rlhflow_prm(record: Record, pieces) -> Record:
  """Every step a user turn, answered by "+"; read before each answer.

  The first user turn is the question, a space and the first step. step_ends
  become the turns of the answers: `encode` reads at the token before each.

  Source: model card RLHFlow/Llama3.1-8B-PRM-Deepseek-Data and Xiong et al.
  2024, the code that scores with it.
  """
  turns = prompt_messages(record.prompt)
  if not turns or turns[-1]["role"] != "user":
    raise record_error(
      record, "the format of RLHFlow's reward models needs a question"
    )
  *before, question = turns
  completions, ends = [], []
  for steps in pieces:
    first, *others = steps or [""]
    said = [f"{question['content']} {first}", *others]
    messages = []
    for text in said:
      messages.append({"role": "user", "content": text})
      messages.append({"role": "assistant", "content": GOOD})
    completions.append(tuple(messages))
    ends.append(tuple(range(1, 2 * len(steps), 2)))
  return record._replace(
    prompt=tuple(before), completions=tuple(completions), step_ends=tuple(ends)
  )


def check_tokens(steps: str, tokenizer) -> None:
  """Raises UserError where a mark that is read is not one token.

  Of a mark in pieces the last piece would be read, which no model was trained
  for.
  """
  mark = {"qwen_math_prm": EXTRA, "math_shepherd": TAG}.get(steps)
  if mark is None:
    return
  pieces = tokenizer.tokenize(mark, add_special_tokens=False)
  if len(pieces) != 1:
    raise UserError(
      f"tokenizer {tokenizer.name_or_path!r}: step format {steps!r} reads the "
      f"token {mark!r}, expected one token for it, got {pieces}; load the "
      "tokenizer that was published with the weights"
    )


def _pieces(text: str, ends) -> list:
  """The text of each step, without the line ends between them."""
  starts = (0, *ends[:-1])
  return [text[a:b].strip("\n") for a, b in zip(starts, ends, strict=False)]


def _joined(record, pieces, *, after: str) -> Record:
  texts, ends = [], []
  for steps in pieces:
    text, places = "", []
    for step in steps:
      text += step + after
      places.append(len(text))
    texts.append(text)
    ends.append(tuple(places))
  return record._replace(completions=tuple(texts), step_ends=tuple(ends))


STEP_FORMATS = {
  "as_written": None,
  "math_shepherd": math_shepherd,
  "qwen_math_prm": qwen_math_prm,
  "rlhflow_prm": rlhflow_prm,
  "trl_prm": trl_prm,
}
