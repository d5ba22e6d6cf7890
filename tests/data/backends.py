"""Two ways to build a tokenizer without a download, and to read its tokens.

The backends of published families: byte-level BPE, and BPE in the form of
SentencePiece. Trained on a few sentences, which is a matter of milliseconds.
"""

import functools
import json

from tokenizers import (
  AddedToken,
  Regex,
  Tokenizer,
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
  trainers,
)

CORPUS = (
  "What is two plus two? It is four, not five.",
  "First add two and two. Then take one away. The answer is three.",
  "Who wrote this? A poet wrote it in 1998, and nobody knows why.",
  "You are a helpful assistant. Be brief, be kind and say when you do not",
  "know. The system, the user and the assistant take turns.",
  "It prints the end of a turn and goes on after it.",
)


def byte_level(specials, pattern: str, *, trim: bool, normalizer=None, bos=""):
  """Byte-level BPE as of GPT-2's followers; a BOS where `bos` names one."""
  backend = Tokenizer(models.BPE())
  if normalizer is not None:
    backend.normalizer = normalizer
  backend.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  backend.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=600,
    min_frequency=1,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  # Runs of newlines are one token each in these vocabularies.
  backend.train_from_iterator([*CORPUS, "\n\n", "\n\n\n", "\n\n"], trainer)
  add_specials(backend, specials)
  steps = [processors.ByteLevel(trim_offsets=trim)]
  if bos:
    steps.append(bos_first(backend, bos))
  backend.post_processor = processors.Sequence(steps)
  return backend


def piece_level(specials, *, bos: str, prepend: bool, newline: bool):
  """BPE in the form of SentencePiece: "▁" for a space, bytes for the unknown.

  The training text has no accents, no emoji and, unless `newline`, no line
  ends, so all these fall back to bytes.
  """
  replace = normalizers.Replace(" ", "▁")
  trained = Tokenizer(models.BPE())
  trained.normalizer = replace
  # Within words only, as SentencePiece learns; what it learnt is then applied
  # to whole texts.
  trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
  trainer = trainers.BpeTrainer(
    vocab_size=300, min_frequency=1, show_progress=False
  )
  lines = [" " + line for line in CORPUS]
  if newline:
    lines += ["\n\n", "\n\n\n"] * 3
  trained.train_from_iterator(lines, trainer)
  learnt = json.loads(trained.to_str())["model"]
  tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
  tokens += learnt["vocab"]
  backend = Tokenizer(
    models.BPE(
      vocab={token: index for index, token in enumerate(tokens)},
      merges=[tuple(merge) for merge in learnt["merges"]],
      unk_token="<unk>",
      fuse_unk=True,
      byte_fallback=True,
    )
  )
  strip = []
  backend.normalizer = replace
  if prepend:
    backend.normalizer = normalizers.Sequence(
      [normalizers.Prepend("▁"), replace]
    )
    strip = [decoders.Strip(content=" ", left=1)]
  backend.decoder = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    + strip
  )
  add_specials(backend, specials)
  backend.post_processor = bos_first(backend, bos)
  return backend


def add_specials(backend, specials) -> None:
  backend.add_special_tokens(
    [AddedToken(token, special=True, normalized=False) for token in specials]
  )


def bos_first(backend, bos: str):
  return processors.TemplateProcessing(
    single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
  )


@functools.cache
def byte_of_letter() -> dict:
  """The letters in which byte-level vocabularies write bytes.

  A byte that prints in Latin-1 is its own letter, the others take the letters
  from 256 on in turn.
  """
  prints = [*range(33, 127), *range(161, 173), *range(174, 256)]
  other = [byte for byte in range(256) if byte not in prints]
  letters = {chr(byte): byte for byte in prints}
  return letters | {chr(256 + n): byte for n, byte in enumerate(other)}


def piece_of(token: str, *, byte_level: bool) -> bytes:
  """Returns the bytes of one token that is not a special one, by hand."""
  if byte_level:
    return bytes(byte_of_letter()[letter] for letter in token)
  if len(token) == 6 and token.startswith("<0x"):
    return bytes([int(token[3:5], 16)])
  return token.replace("▁", " ").encode()
