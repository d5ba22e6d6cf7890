"""Completions of the text world, sampled from SmolLM2-135M-Instruct.

The one file of this folder that needs the model: it alone, and only inside its
function, reaches for the weights and the decoder.
"""

import re
from typing import NamedTuple

from rm_jax.data.templates import prompt_messages, render
from rm_jax.data.tokenizers import load_tokenizer
from rm_jax.types import UserError

MODEL = "smollm2"
K = 8
MAX_TOKENS = 64
ROUNDS = 5  # of drawing again, for prompts with fewer than K completions
# Not for a file that everybody has. About one completion in 500.
CRUDE = re.compile(
  r"\b(?:fuck|shit|bitch|cunt|slut|whore|porn|rapist|raped?\b|nigg|faggot)",
  re.IGNORECASE,
)


class Sampled(NamedTuple):
  """The completions of one prompt, and what was not taken."""

  completions: list  # K strings, all different
  tokens: list  # K ints: of each, without the stop token; MAX_TOKENS: cut
  dropped: dict  # {reason: how many were not taken}


def sample_completions(prompts: list[str], *, seed: int) -> list[Sampled]:
  """K different completions of each prompt, temperature 1 and top_p 1.

  Drawn K at a time; a prompt of which some were dropped is drawn again until it
  has K, the first K in the order they were drawn. At top_p 1 and temperature 1
  a completion has the chance the model gives it, so that the completions of a
  prompt are a sample of the policy and not of its mode.
  """
  from rm_jax.models.convert import load_pretrained
  from rm_jax.models.decode import sample

  model = load_pretrained(MODEL)
  tokenizer = load_tokenizer(MODEL)
  special = tuple(tokenizer.all_special_ids)
  tokens = [_prompt_tokens(prompt, tokenizer) for prompt in prompts]
  found = [Sampled([], [], {}) for _ in prompts]
  for number in range(ROUNDS):
    short = [i for i, done in enumerate(found) if len(done.completions) < K]
    if not short:
      break
    drawn = sample(
      model.config,
      model.params,
      [tokens[i] for i in short],
      samples=K,
      max_tokens=MAX_TOKENS,
      temperature=1.0,
      top_p=1.0,
      stop=special,
      seed=seed + number,
      dtype="float32",
    )
    for i, several in zip(short, drawn, strict=True):
      for ids in several:
        _take(found[i], list(ids), tokenizer)
  for prompt, done in zip(prompts, found, strict=True):
    if len(done.completions) < K:
      raise UserError(
        f"sample_completions: expected {K} different completions, got "
        f"{len(done.completions)} of {ROUNDS * K} drawn for {prompt!r}; ask "
        "something that has more than one answer"
      )
  return found


def _take(found: Sampled, ids: list, tokenizer) -> None:
  """Adds one drawn completion to those of its prompt, or counts why not."""
  if len(found.completions) == K:
    return
  special = tokenizer.all_special_ids
  if ids and ids[-1] in special:
    end, ids = ids[-1], ids[:-1]
    if end != tokenizer.eos_token_id:
      # It began another turn or document: not an end, and not text either.
      return _drop(found, "special token")
  text = tokenizer.decode(ids).rstrip("\ufffd").strip()  # half a character
  if not text:
    return _drop(found, "empty")
  if "\ufffd" in text:
    return _drop(found, "not UTF-8")
  if CRUDE.search(text):
    return _drop(found, "crude")
  if text in found.completions:
    return _drop(found, "repeated")
  found.completions.append(text)
  found.tokens.append(len(ids))


def _drop(found: Sampled, reason: str) -> None:
  found.dropped[reason] = found.dropped.get(reason, 0) + 1


def _prompt_tokens(prompt: str, tokenizer) -> list[int]:
  """The prompt as the chat template has it, up to where the answer begins."""
  text = render(prompt_messages(prompt), tokenizer, add_generation_prompt=True)
  # The template writes what the model wants before a text: no second BOS.
  return tokenizer(text, add_special_tokens=False)["input_ids"]
