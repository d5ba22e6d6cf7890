"""Tokenizers in the kind of five published families, built without a download.

Each has the special tokens of its family, the way it splits text, its rule for
BOS, a chat template that behaves as the published one does (our own Jinja), and
the same template once more in plain Python, for tests to compare with.
"""

import functools
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

from tokenizers import Tokenizer, normalizers
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from tests.data.backends import byte_level, piece_level, piece_of


class Family(NamedTuple):
  """What the tests must know of a family beside its tokenizer."""

  build: Callable  # () -> tokenizer
  write: Callable  # (messages, generate) -> rendered text, in plain Python
  end: str  # what ends a turn of the assistant
  tail: str  # what the template prints after the last turn's end
  bos: str = ""  # what the template prints first
  trims: bool = True  # takes the white space around contents away
  system: bool = True  # has a system turn
  byte_level: bool = True  # else in the form of SentencePiece
  prepends: bool = False  # puts a space before what follows a special token
  form: str = ""  # normal form that the tokenizer brings text into


def builder(make_backend: Callable, template: str, **special) -> Callable:
  """Returns () -> a fresh tokenizer; the training is done once."""
  trained = functools.cache(lambda: make_backend().to_str())

  def build():
    tokenizer = PreTrainedTokenizerFast(
      tokenizer_object=Tokenizer.from_str(trained()),
      clean_up_tokenization_spaces=False,
      **special,
    )
    tokenizer.chat_template = template
    return tokenizer

  return build


# -------------------------------------------------------------- Llama 3.2
#
# A system turn always, with two dates in it, the second one today's.

LLAMA3 = """{{- bos_token -}}
{%- if date_string is not defined -%}
  {%- set date_string = strftime_now("%d %b %Y") -%}
{%- endif -%}
{%- set turns = messages -%}
{%- set told = "" -%}
{%- if messages[0].role == "system" -%}
  {%- set told = messages[0].content | trim -%}
  {%- set turns = messages[1:] -%}
{%- endif -%}
{%- macro turn(role, text) -%}
{{- "<|start_header_id|>" + role + "<|end_header_id|>\\n\\n" + text -}}
{%- endmacro -%}
{{- turn("system", "Cutting Knowledge Date: December 2023\\n") -}}
{{- "Today Date: " + date_string + "\\n\\n" + told + "<|eot_id|>" -}}
{%- for m in turns -%}
{{- turn(m.role, m.content | trim) + "<|eot_id|>" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- turn("assistant", "") -}}{%- endif -%}
"""


def write_llama3(messages, generate):
  told = ""
  if messages[0]["role"] == "system":
    told, messages = messages[0]["content"].strip(), messages[1:]
  text = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
  text += "Cutting Knowledge Date: December 2023\n"
  text += f"Today Date: 26 Jul 2024\n\n{told}<|eot_id|>"
  for m in messages:
    text += f"<|start_header_id|>{m['role']}<|end_header_id|>\n\n"
    text += m["content"].strip() + "<|eot_id|>"
  if generate:
    text += "<|start_header_id|>assistant<|end_header_id|>\n\n"
  return text


def llama3_backend():
  specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>"]
  specials += ["<|end_header_id|>", "<|eom_id|>", "<|eot_id|>"]
  pattern = PRETOKENIZE_REGEX.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
  return byte_level(specials, pattern, trim=True, bos="<|begin_of_text|>")


# ------------------------------------------------------ Llama 2 and Mistral
#
# BOS before every turn of the user, the system text inside the first one.

LLAMA2 = """{%- set told = "" -%}
{%- set turns = messages -%}
{%- if messages[0].role == "system" -%}
  {%- set told -%}
<<SYS>>{{ "\\n" }}{{ messages[0].content.strip() }}{{ "\\n<</SYS>>\\n\\n" }}
  {%- endset -%}
  {%- set turns = messages[1:] -%}
{%- endif -%}
{%- for m in turns -%}
  {%- if m.role != ["user", "assistant"][loop.index0 % 2] -%}
    {{- raise_exception("user and assistant must take turns") -}}
  {%- elif m.role == "user" -%}
    {%- set asked = (told if loop.first else "") + m.content -%}
    {{- bos_token + "[INST] " + asked.strip() + " [/INST]" -}}
  {%- else -%}
    {{- " " + m.content.strip() + " " + eos_token -}}
  {%- endif -%}
{%- endfor -%}
"""


def write_llama2(messages, generate):
  del generate  # an answer follows [/INST] at once
  told, text = "", ""
  if messages[0]["role"] == "system":
    told = f"<<SYS>>\n{messages[0]['content'].strip()}\n<</SYS>>\n\n"
    messages = messages[1:]
  for m in messages:
    if m["role"] == "user":
      text += f"<s>[INST] {(told + m['content']).strip()} [/INST]"
      told = ""
    else:
      text += f" {m['content'].strip()} </s>"
  return text


def llama2_backend():
  return piece_level(["<s>", "</s>"], bos="<s>", prepend=True, newline=False)


# ------------------------------------------------------------ Gemma 1 and 2

GEMMA = """{{- bos_token -}}
{%- for m in messages -%}
  {%- if m.role == "system" -%}
    {{- raise_exception("no system turn in this family") -}}
  {%- elif m.role != ["user", "assistant"][loop.index0 % 2] -%}
    {{- raise_exception("user and assistant must take turns") -}}
  {%- endif -%}
  {%- set who = "model" if m.role == "assistant" else m.role -%}
  {{- "<start_of_turn>" + who + "\\n" + m.content.strip() -}}
  {{- "<end_of_turn>\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "<start_of_turn>model\\n" -}}{%- endif -%}
"""


def write_gemma(messages, generate):
  text = "<bos>"
  for m in messages:
    who = {"user": "user", "assistant": "model"}[m["role"]]
    text += f"<start_of_turn>{who}\n{m['content'].strip()}<end_of_turn>\n"
  return text + ("<start_of_turn>model\n" if generate else "")


def gemma_backend():
  specials = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
  return piece_level(specials, bos="<bos>", prepend=False, newline=True)


# ------------------------------------------------------------ Qwen 2.5 and 3
#
# No BOS; contents as they stand. 2.5 has a system turn of its own. 3 has none,
# but keeps the thoughts of the turns after the last question only, and gives
# the last turn empty ones where it has none.

QWEN2 = """{%- if messages[0].role != "system" -%}
{{- "<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n" -}}
{%- endif -%}
{%- for m in messages -%}
{{- "<|im_start|>" + m.role + "\\n" + m.content + "<|im_end|>\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "<|im_start|>assistant\\n" -}}{%- endif -%}
"""

QWEN3 = """{%- set last = namespace(question=-1) -%}
{%- for m in messages if m.role == "user" -%}
  {%- set last.question = messages.index(m) -%}
{%- endfor -%}
{%- for m in messages -%}
  {%- set said = m.content -%}
  {%- set thought = "" -%}
  {%- if m.role == "assistant" and "</think>" in said -%}
    {%- set thought = said.split("</think>")[0].split("<think>")[-1] -%}
    {%- set said = said.split("</think>")[-1].lstrip("\\n") -%}
  {%- endif -%}
  {{- "<|im_start|>" + m.role + "\\n" -}}
  {%- if m.role == "assistant" and loop.index0 > last.question
         and (loop.last or thought) -%}
    {{- "<think>\\n" + thought.strip("\\n") + "\\n</think>\\n\\n" -}}
    {%- set said = said.lstrip("\\n") -%}
  {%- endif -%}
  {{- said + "<|im_end|>\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "<|im_start|>assistant\\n" -}}{%- endif -%}
"""


def write_qwen2(messages, generate):
  text = ""
  if messages[0]["role"] != "system":
    text = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
  for m in messages:
    text += f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n"
  return text + ("<|im_start|>assistant\n" if generate else "")


def write_qwen3(messages, generate):
  question = max(i for i, m in enumerate(messages) if m["role"] == "user")
  text = ""
  for i, m in enumerate(messages):
    thought, _, said = m["content"].rpartition("</think>")
    thought = thought.removeprefix("<think>").strip("\n")
    said = said.lstrip("\n") if thought else m["content"]
    late = m["role"] == "assistant" and i > question
    if late and (thought or i == len(messages) - 1):
      said = f"<think>\n{thought}\n</think>\n\n" + said.lstrip("\n")
    text += f"<|im_start|>{m['role']}\n{said}<|im_end|>\n"
  return text + ("<|im_start|>assistant\n" if generate else "")


def qwen_backend():
  specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
  return byte_level(
    specials, PRETOKENIZE_REGEX, trim=False, normalizer=normalizers.NFC()
  )


QWEN_TOKENS = dict(eos_token="<|im_end|>", pad_token="<|endoftext|>")


# ------------------------------------------------------------------ OLMo 2
#
# One token is BOS and EOS; roles are plain text, and only what the assistant
# says has an end.

OLMO2 = """{{- bos_token -}}
{%- for m in messages -%}
  {{- "<|" + m.role + "|>\\n" + m.content -}}
  {%- if m.role == "assistant" -%}{{- eos_token -}}{%- endif -%}
  {%- if m.role != "assistant" or not loop.last -%}{{- "\\n" -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "<|assistant|>\\n" -}}{%- endif -%}
"""


def write_olmo2(messages, generate):
  text = "<|endoftext|>"
  for i, m in enumerate(messages):
    text += f"<|{m['role']}|>\n{m['content']}"
    if m["role"] == "assistant":
      text += "<|endoftext|>" + ("\n" if i + 1 < len(messages) else "")
    else:
      text += "\n"
  return text + ("<|assistant|>\n" if generate else "")


def olmo2_backend():
  pattern = PRETOKENIZE_REGEX.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
  return byte_level(["<|endoftext|>", "<|pad|>"], pattern, trim=False)


# --------------------------------------------------------------------- all

FAMILIES = {
  "llama3": Family(
    builder(
      llama3_backend,
      LLAMA3,
      bos_token="<|begin_of_text|>",
      eos_token="<|eot_id|>",
    ),
    write_llama3,
    end="<|eot_id|>",
    tail="",
    bos="<|begin_of_text|>",
  ),
  "llama2": Family(
    builder(
      llama2_backend,
      LLAMA2,
      bos_token="<s>",
      eos_token="</s>",
      pad_token="</s>",  # as most people set it
      unk_token="<unk>",
    ),
    write_llama2,
    end="</s>",
    tail="",
    bos="<s>",
    byte_level=False,
    prepends=True,
  ),
  "gemma": Family(
    builder(
      gemma_backend,
      GEMMA,
      bos_token="<bos>",
      eos_token="<eos>",
      pad_token="<pad>",
      unk_token="<unk>",
    ),
    write_gemma,
    end="<end_of_turn>",
    tail="\n",
    bos="<bos>",
    system=False,
    byte_level=False,
  ),
  "qwen2": Family(
    builder(qwen_backend, QWEN2, **QWEN_TOKENS),
    write_qwen2,
    end="<|im_end|>",
    tail="\n",
    trims=False,
    form="NFC",
  ),
  "qwen3": Family(
    builder(qwen_backend, QWEN3, **QWEN_TOKENS),
    write_qwen3,
    end="<|im_end|>",
    tail="\n",
    trims=False,
    form="NFC",
  ),
  "olmo2": Family(
    builder(
      olmo2_backend,
      OLMO2,
      bos_token="<|endoftext|>",
      eos_token="<|endoftext|>",
      pad_token="<|pad|>",
    ),
    write_olmo2,
    end="<|endoftext|>",
    tail="",
    bos="<|endoftext|>",
    trims=False,
  ),
}


# --------------------------------------------------- tokens back to bytes


def pieces(family: Family, tokenizer, ids) -> list:
  """Returns the bytes of each token; their sum is the text."""
  specials = set(tokenizer.backend_tokenizer.get_added_tokens_decoder())
  out, after_special = [], True
  for index in map(int, ids):
    token = tokenizer.convert_ids_to_tokens(index)
    special = index in specials
    if family.prepends and after_special:
      token = token.removeprefix("▁")
    out.append(
      token.encode()
      if special
      else piece_of(token, byte_level=family.byte_level)
    )
    after_special = special
  return out


def normal(family: Family, text: str) -> bytes:
  """Returns the text as the family's tokenizer gives it back."""
  return (
    unicodedata.normalize(family.form, text) if family.form else text
  ).encode()
