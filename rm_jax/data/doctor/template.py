"""What a chat template does to a fixed dialogue, and what goes wrong."""

import hashlib
import json

import jinja2
import numpy as np

from rm_jax.data.doctor.findings import Finding
from rm_jax.data.loader import Reading, policy
from rm_jax.data.rejects import RecordError
from rm_jax.data.templates import FROZEN_DATE, render, template_name
from rm_jax.data.tokenize import encode, end_ids
from rm_jax.data.tokenizers import DIALOGUE, fingerprint
from rm_jax.types import Record

PROBE = Record("unlabelled", DIALOGUE, ("No: it is 23 times 89.",))
ROLES = {
  "system": (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Is 127 prime?"},
  ),
  "two_user_turns": (
    {"role": "user", "content": "A question."},
    {"role": "user", "content": "Is 127 prime?"},
  ),
  "assistant_first": (
    {"role": "assistant", "content": "What do you want to know?"},
    {"role": "user", "content": "Is 127 prime?"},
  ),
}
ROLE_WORDS = {
  "system": "a system turn",
  "two_user_turns": "two user turns in a row",
  "assistant_first": "an assistant turn first",
}


def template_findings(tokenizer, reading: Reading) -> list[Finding]:
  """Returns what the chat template does to a fixed dialogue of three turns."""
  out = []

  def add(name, severity, what, advice, numbers=None):
    out.append(
      Finding(
        name=name,
        section="template",
        severity=severity,
        count=1,
        total=1,
        unit="template",
        what=what,
        advice=advice,
        numbers=numbers,
      )
    )

  plain = template_name(reading.template, tokenizer) == "plain"
  text = None if plain else tokenizer.get_chat_template()
  mark = fingerprint(tokenizer, text, policy(reading))
  short = hashlib.sha256(json.dumps(mark, sort_keys=True).encode()).hexdigest()
  add(
    "fingerprint",
    "note",
    f"fingerprint {short[:16]} of vocabulary, special tokens and template; "
    f"end tokens {list(end_ids(tokenizer))}",
    "",
    numbers={"vocabulary": len(tokenizer)},
  )
  if plain:
    if not tokenizer.chat_template:
      add(
        "no_template",
        "note",
        "the tokenizer has no chat template: plain text, then EOS",
        "Right for a base model; a chat model should come with its template.",
      )
    return out
  if "strftime_now" in text or "date_string" in text:
    add(
      "dated_template",
      "note",
      f"the template prints a date, frozen here at {FROZEN_DATE}",
      "Serve with the exported template, in which it is frozen too.",
    )
  for name, messages in ROLES.items():
    try:
      shown = render(messages, tokenizer, add_generation_prompt=False)
    except jinja2.TemplateError as error:
      add(
        f"refuses_{name}",
        "note",
        f"the template refuses a conversation with {ROLE_WORDS[name]}: "
        f"{' '.join(str(error).split())}",
        "Such records are rejected and counted.",
      )
      continue
    if any(m["content"] not in shown for m in messages):
      add(
        f"drops_{name}",
        "warning",
        f"the template drops text of a conversation with {ROLE_WORDS[name]}",
        "Write that text into the user turn, or use another template.",
      )
  try:
    seen = encode(
      PROBE, tokenizer, read_at="last_token", template=reading.template
    )
  except RecordError as error:
    add("broken_template", "error", error.reject.reason, "Use another one.")
    return out
  if seen.starts[0] < 0:
    add(
      "rewrites_turns",
      "warning",
      "the template rewrites earlier turns when an answer follows",
      "Where a completion starts is unknown: only pooling 'last_token' works "
      "on dialogues.",
    )
  ids = seen.tokens[0]
  ends = np.flatnonzero(np.isin(ids, end_ids(tokenizer)))
  ends = ends[ends >= seen.starts[0]]  # earlier turns have their own
  tail = len(ids) - 1 - (int(ends[-1]) if len(ends) else len(ids) - 1)
  if not len(ends):
    add(
      "no_end",
      "warning",
      "the template prints no EOS or EOT at the end of an answer",
      "Use config.data.read_at='last_token', or a template that ends turns.",
    )
  elif tail:
    add(
      "tail",
      "warning" if reading.read_at == "last_token" else "note",
      f"the template prints {tokenizer.decode(ids[-tail:])!r} after the end of "
      "the turn",
      "read_at='end_of_turn' drops it, and export writes a template without.",
      numbers={"tail_tokens": tail},
    )
  bos = tokenizer.bos_token_id
  shown = render(DIALOGUE, tokenizer, add_generation_prompt=True)
  if bos is not None and tokenizer(shown)["input_ids"][:2] == [bos, bos]:
    add(
      "double_bos",
      "note",
      "the template prints a BOS and the tokenizer adds another",
      "One is kept here; elsewhere tokenise with add_special_tokens=False.",
    )
  return out
