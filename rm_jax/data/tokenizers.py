"""Tokenizers from the place the weights come from, and their fingerprint."""

import functools
import hashlib
import json
from pathlib import Path

from rm_jax.data.templates import FROZEN_DATE, common_prefix, freeze
from rm_jax.gguf_file import open_gguf
from rm_jax.places import find_run, locate, read_json
from rm_jax.types import UserError

CONTROL, USER_DEFINED = 3, 4  # llama.cpp's token types

DIALOGUE = (
  {"role": "user", "content": " Is 127 prime?"},
  {"role": "assistant", "content": "Yes.\n"},
  {"role": "user", "content": "And 2047?"},
)

# Where tokenizers that share a vocabulary come apart: leading and double
# spaces, digits, accents in two normal forms, other scripts, line ends.
PROBE = " In 2024,  1234.5 cafés — cafe\u0301s, 東京 🙂\n\tdon't stop \r\n"


def load_tokenizer(source: str | Path):
  """The `transformers.PreTrainedTokenizerFast` that belongs to `source`.

  `source` as in `rm_jax.places.locate`: a GGUF file holds its vocabulary,
  merges, special tokens and chat template; a folder its tokenizer.json; a
  workdir names the place that its run had the tokenizer from. Raises UserError
  where the tokenizer is missing or of a kind that would split text differently.
  """
  run = find_run(source)
  if run is not None:
    init = read_json(run[0] / "run.json")["config"]["init"]
    return load_tokenizer(init["tokenizer"] or init["from"])
  path = locate(source)
  return _from_gguf(path) if path.is_file() else _from_folder(path)


def check_vocab_size(tokenizer, vocab_size: int) -> None:
  """Raises UserError if a token id has no row among `vocab_size` embeddings.

  Rows without a token are fine: tables are padded to round sizes.
  """
  beyond = {
    index: token
    for token, index in tokenizer.get_vocab().items()
    if index >= vocab_size
  }
  if beyond:
    shown = ", ".join(f"{beyond[i]!r} = {i}" for i in sorted(beyond)[:5])
    raise UserError(
      f"tokenizer {tokenizer.name_or_path!r}: expected ids below the "
      f"checkpoint's vocab_size {vocab_size}, got {len(beyond)} beyond it "
      f"({shown}); load the tokenizer that was published with the weights"
    )


def fingerprint(tokenizer, template: str | None, policy: dict) -> dict:
  """What text becomes with this tokenizer, as a JSON object to store.

  Hashes of what is large (vocabulary, merges, template), plain values of what
  a difference should show: the special ids, the ids of a fixed text, a fixed
  dialogue of three turns as the template renders it with a frozen date.

  Args:
    tokenizer: as `load_tokenizer` returns it.
    template: the chat template, Jinja; None for plain text.
    policy: how a text is read (read_at, pooling, ...); any JSON values.
  """
  vocabulary, merges = _large_parts(tokenizer, len(tokenizer))
  ours = {
    "vocabulary": vocabulary,
    "merges": merges,
    "special_ids": {
      "bos": tokenizer.bos_token_id,
      "eos": tokenizer.eos_token_id,
      "pad": tokenizer.pad_token_id,
      "unk": tokenizer.unk_token_id,
      "all": sorted(tokenizer.all_special_ids),
    },
    "probe_ids": tokenizer(PROBE)["input_ids"],
    "template": None if template is None else _sha256(template),
    "dialogue": None if template is None else _render(tokenizer, template),
    "policy": policy,
  }
  return json.loads(json.dumps(ours))  # as it comes back from a file


def check_fingerprint(stored: dict, ours: dict) -> None:
  """Raises UserError that shows every entry in which two fingerprints differ.

  `stored` lies in the checkpoint, `ours` is what would be scored with.
  """
  before, now = _flat(stored), _flat(ours)
  differ = []
  for key in sorted({*before, *now}):
    if key not in now:
      differ.append(f"{key}: stored {before[key]!r}, ours nothing")
    elif key not in before:
      differ.append(f"{key}: stored nothing, ours {now[key]!r}")
    elif before[key] != now[key]:
      differ.append(f"{key}: {_difference(before[key], now[key])}")
  if differ:
    raise UserError(
      f"expected the tokenizer, template and policy stored in the checkpoint, "
      f"got others: {'; '.join(differ)}; score with the tokenizer and config "
      f"that the checkpoint was trained with"
    )


def _from_folder(path: Path):
  from transformers import AutoTokenizer, PreTrainedTokenizerFast

  if not (path / "tokenizer.json").is_file():
    raise UserError(
      f"{path}: expected a tokenizer.json, got a folder without one; save the "
      f"tokenizer there with transformers (save_pretrained)"
    )
  read_json(path / "tokenizer.json")  # says where it breaks off, if it does
  tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
  if not isinstance(tokenizer, PreTrainedTokenizerFast):
    raise UserError(
      f"{path}: expected a fast tokenizer, which says where in the text a "
      f"token lies, got {type(tokenizer).__name__}; save the fast one"
    )
  return tokenizer


def _from_gguf(path: Path):
  from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
  from transformers import PreTrainedTokenizerFast

  fields = open_gguf(path).fields

  def read(key, default=None):
    return fields.get(f"tokenizer.{key}", default)

  # Other kinds have the same fields and split text by other rules.
  kind = (read("ggml.model"), read("ggml.pre"), read("ggml.add_bos_token"))
  if kind[:2] != ("gpt2", "smollm") or kind[2]:
    raise UserError(
      f"{path}: expected a GGUF tokenizer of (model, pre, add_bos_token) = "
      f"('gpt2', 'smollm', False), got {kind}; load the tokenizer from a "
      f"Hugging Face folder"
    )
  tokens = read("ggml.tokens")
  merges = [tuple(merge.split(" ")) for merge in read("ggml.merges")]
  vocabulary = {token: index for index, token in enumerate(tokens)}
  backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
  # Digits first, as llama.cpp does for "smollm". transformers' own reader of
  # GGUF leaves them out, so "a  1" comes apart differently there.
  backend.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Digits(individual_digits=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
  )
  backend.decoder = decoders.ByteLevel()
  added = [
    AddedToken(token, special=kind == CONTROL, normalized=False)
    for token, kind in zip(tokens, read("ggml.token_type"), strict=True)
    if kind in (CONTROL, USER_DEFINED)
  ]
  backend.add_tokens(added)

  def token(role):
    index = read(f"ggml.{role}_token_id")
    return None if index is None else tokens[index]

  return PreTrainedTokenizerFast(
    tokenizer_object=backend,
    bos_token=token("bos"),
    eos_token=token("eos"),
    pad_token=token("padding"),
    unk_token=token("unknown"),
    chat_template=read("chat_template"),
    clean_up_tokenization_spaces=False,
    name_or_path=str(path),
  )


@functools.lru_cache(maxsize=4)
def _large_parts(tokenizer, size: int) -> tuple[str, str]:
  """Digests of vocabulary and merges: a third of a second, wanted often.

  Args:
    size: of the vocabulary, since tokens may be added to the same object.
  """
  del size
  model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
  # Older files write a merge as "a b", newer ones as ["a", "b"].
  merges = [
    merge.split(" ") if isinstance(merge, str) else merge
    for merge in model.get("merges", ())
  ]
  return _sha256(tokenizer.get_vocab()), _sha256(merges)


def _render(tokenizer, template: str) -> str:
  return tokenizer.apply_chat_template(
    list(DIALOGUE),
    chat_template=freeze(template),
    tokenize=False,
    add_generation_prompt=True,
    date_string=FROZEN_DATE,
  )


def _sha256(value) -> str:
  text = json.dumps(
    value, sort_keys=True, ensure_ascii=True, separators=(",", ":")
  )
  return hashlib.sha256(text.encode("ascii")).hexdigest()


def _flat(tree: dict, prefix: str = "") -> dict:
  """{"policy.read_at": ...} of {"policy": {"read_at": ...}}."""
  flat = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      flat.update(_flat(value, f"{prefix}{key}."))
    else:
      flat[prefix + key] = value
  return flat


def _difference(stored, ours) -> str:
  """Both values; of two long texts or lists only where they part."""
  long = all(isinstance(x, str | list) and len(x) > 64 for x in (stored, ours))
  if long or (isinstance(stored, list) and isinstance(ours, list)):
    at = common_prefix(stored, ours)
    near = slice(max(at - 20, 0), at + 20)
    stored, ours, place = stored[near], ours[near], f" at {at}"
  else:
    place = ""
  return f"stored{place} {stored!r}, ours{place} {ours!r}"
