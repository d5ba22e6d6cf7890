"""A small real tokenizer with a template of its own: no download, no model.

Byte-level BPE trained on the sentences below, so that each of their words is
one token and rows can be written out by hand.
"""

import functools

from tokenizers import (
  Tokenizer,
  decoders,
  models,
  pre_tokenizers,
  processors,
  trainers,
)
from transformers import PreTrainedTokenizerFast

from rm_jax.data.supervise import supervise
from rm_jax.data.tokenize import encode
from rm_jax.types import Record

SENTENCES = (
  "What is two plus two ? It is four . It is five .",
  "First add two . Then add one . The answer is three .",
  "Who wrote this ? A poet wrote it . Nobody knows .",
  "Be brief . Be kind . Yes . No .",
  "user assistant system",
)

# The form of ChatML, with a BOS, trimmed turns and a newline after the last:
# what published templates do and what goes wrong with them.
TEMPLATE = (
  "<s>{% for message in messages %}"
  "{{ '<|im_start|>' + message['role'] + '\n' }}"
  "{{ message['content'] | trim + '<|im_end|>\n' }}"
  "{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Drops what the assistant said before, as templates of reasoning models do.
FORGETFUL = (
  "<s>{% for message in messages %}"
  "{{ '<|im_start|>' + message['role'] + '\n' }}"
  "{% if loop.last or message['role'] == 'user' %}{{ message['content'] }}"
  "{% endif %}{{ '<|im_end|>\n' }}"
  "{% endfor %}"
)

# Prints how many messages there are, so that the prompt alone reads otherwise.
REWRITING = "<s>{{ messages | length }} " + TEMPLATE.removeprefix("<s>")


@functools.cache
def _trained() -> str:
  tokenizer = Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  # Offsets leave out the space before a word, as in GPT-2 and its followers.
  tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=2_000,
    min_frequency=1,
    special_tokens=["<|im_start|>", "<|im_end|>", "<s>", "<|eot_id|>"],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  # Alone too: a word is another token without the space before it.
  alone = " ".join(SENTENCES).split()
  tokenizer.train_from_iterator([*SENTENCES, *alone], trainer)
  return tokenizer.to_str()


def make_tokenizer(template=TEMPLATE, **kwargs) -> PreTrainedTokenizerFast:
  """Returns a fresh tokenizer; keywords replace its special tokens."""
  special = dict(bos_token="<s>", eos_token="<|im_end|>")
  tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer.from_str(_trained()), **{**special, **kwargs}
  )
  tokenizer.chat_template = template
  return tokenizer


def words(tokenizer, ids) -> list:
  """Returns the tokens as people read them: "_" a space, "/" a newline."""
  tokens = tokenizer.convert_ids_to_tokens([int(i) for i in ids])
  names = {"<|im_start|>": "<", "<|im_end|>": ">"}
  return [names.get(t, t.replace("Ġ", "_").replace("Ċ", "/")) for t in tokens]


# ------------------------------------------------------- two records

PAIR = Record(
  "pair",
  "What is two plus two ?",
  ("It is four .", "Nobody knows ."),
  ranks=(0, 1),
  source="rows.jsonl",
  line=7,
)
STEPS = Record(
  "steps",
  "What is two plus two ?",
  ("First add two .\nThen add one .",),
  step_ends=((15, 30),),
  step_labels=((1.0, 0.0),),
)
PROMPT = "<s> < user / What _is _two _plus _two _? > / < assistant /".split()


def encoded(
  record=PAIR, tokenizer=None, read_at="end_of_turn", template="auto"
):
  tokenizer = tokenizer or make_tokenizer()
  return encode(record, tokenizer, read_at=read_at, template=template)


def group(record=PAIR, coded=None, **changes):
  arguments = dict(
    index=3,
    loss="bradley_terry",
    kind="pairwise",
    pooling="last_token",
    per="group",
    margin="none",
    ties=False,
    attributes=(),
    language=0.0,
    task=0,
  )
  return supervise(coded or encoded(record), record, **{**arguments, **changes})


def lists(arrays):
  return [array.tolist() for array in arrays]
