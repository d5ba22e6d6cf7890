"""Tokenizers of GGUF files and folders, and what a fingerprint catches."""

import copy
import json
import pathlib

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rm_jax.data.tokenizers import (
  DIALOGUE,
  check_fingerprint,
  check_vocab_size,
  fingerprint,
  load_tokenizer,
)
from rm_jax.places import locate
from rm_jax.types import UserError
from tests.models import fixtures

GOLDEN = json.loads(
  (pathlib.Path(__file__).parents[1] / "golden/smollm2_logits.json").read_text(
    encoding="utf-8"
  )
)

TEMPLATE = (
  "{% for m in messages %}<|im_start|>{{ m['role'] }}:{{ m['content'] }}"
  "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
)

# Ids by position: three special tokens, one that a user added, the bytes of
# the tests' texts in byte-level spelling (Ġ is a space), two merged tokens.
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool>"]
TOKENS += list("abc:12usertin") + ["Ġ", "ab", "Ġab", "ĠĠ", "12"]
TOKENS = list(dict.fromkeys(TOKENS))
ID = {token: index for index, token in enumerate(TOKENS)}
MERGES = [("a", "b"), ("Ġ", "ab"), ("Ġ", "Ġ"), ("1", "2")]
FIELDS = {
  "tokenizer.ggml.model": "gpt2",
  "tokenizer.ggml.pre": "smollm",
  "tokenizer.ggml.tokens": TOKENS,
  "tokenizer.ggml.token_type": [3, 3, 3, 4] + [1] * (len(TOKENS) - 4),
  "tokenizer.ggml.merges": [" ".join(merge) for merge in MERGES],
  "tokenizer.ggml.add_bos_token": False,
  "tokenizer.ggml.bos_token_id": 1,
  "tokenizer.ggml.eos_token_id": 2,
  "tokenizer.ggml.padding_token_id": 2,
  "tokenizer.ggml.unknown_token_id": 0,
  "tokenizer.chat_template": TEMPLATE,
}


def write_gguf(folder, **changed):
  return fixtures.write_gguf(
    folder / "tiny.gguf", {}, fields={**FIELDS, **changed}
  )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
  return load_tokenizer(write_gguf(tmp_path_factory.mktemp("gguf")))


@pytest.fixture(scope="module")
def smollm2():
  try:
    locate("smollm2")
  except UserError as error:
    pytest.skip(str(error))
  return load_tokenizer("smollm2")


def published_folder(folder):
  """A folder as its publisher writes it, built without our code."""
  backend = Tokenizer(models.BPE(vocab=ID, merges=MERGES))
  backend.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Digits(individual_digits=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
  )
  backend.decoder = decoders.ByteLevel()
  backend.add_special_tokens(
    [AddedToken(t, special=True, normalized=False) for t in TOKENS[:3]]
  )
  backend.add_tokens([AddedToken("<tool>", normalized=False)])
  PreTrainedTokenizerFast(
    tokenizer_object=backend,
    bos_token="<|im_start|>",
    eos_token="<|im_end|>",
    pad_token="<|im_end|>",
    unk_token="<|endoftext|>",
    chat_template=TEMPLATE,
  ).save_pretrained(folder)
  (folder / "config.json").write_text('{"model_type": "llama"}')
  return folder


class TestFromGguf:
  def test_ids_by_hand(self, tiny):
    # Would catch digits that merge, a run of spaces that gives one of them to
    # the digit after it (digits not split off first), a space put before the
    # first word, a special token that is split, a BOS that nobody asked for.
    want = ["ab", "Ġab", "ĠĠ", "1", "2", "<|im_end|>", "<tool>", "c"]
    got = tiny("ab ab  12<|im_end|><tool>c")
    assert got["input_ids"] == [ID[token] for token in want]

  def test_decoding_gives_the_text_back(self, tiny):
    text = "ab ab 12<tool>c"
    assert tiny.decode(tiny(text)["input_ids"]) == text

  def test_offsets_are_of_the_text(self, tiny):
    got = tiny("ab 12", return_offsets_mapping=True)["offset_mapping"]
    assert got == [(0, 2), (2, 3), (3, 4), (4, 5)]

  def test_special_tokens_are_the_control_tokens(self, tiny):
    # Would catch a user-defined token that decoding drops as special.
    ids = [ID["<|im_start|>"], ID["<tool>"], ID["<|endoftext|>"]]
    assert tiny.decode(ids, skip_special_tokens=True) == "<tool>"
    got = (
      tiny.bos_token_id,
      tiny.eos_token_id,
      tiny.pad_token_id,
      tiny.unk_token_id,
    )
    assert got == (1, 2, 2, 0)

  def test_roles_that_the_file_leaves_out_stay_out(self, tmp_path):
    gone = ["tokenizer.ggml.bos_token_id", "tokenizer.chat_template"]
    path = write_gguf(tmp_path, **dict.fromkeys(gone))
    tokenizer = load_tokenizer(path)
    assert tokenizer.bos_token is None and tokenizer.chat_template is None

  def test_the_template_renders(self, tiny):
    messages = [{"role": "user", "content": "ab"}]
    got = tiny.apply_chat_template(
      messages, tokenize=False, add_generation_prompt=True
    )
    assert got == "<|im_start|>user:ab<|im_end|><|im_start|>"

  @pytest.mark.parametrize(
    "changed",
    [
      {"tokenizer.ggml.pre": "llama-bpe"},  # splits digits in threes
      {"tokenizer.ggml.model": "llama"},  # sentencepiece
      {"tokenizer.ggml.add_bos_token": True},
    ],
  )
  def test_other_kinds_are_refused(self, changed, tmp_path):
    with pytest.raises(UserError, match=r"'smollm', False\), got \("):
      load_tokenizer(write_gguf(tmp_path, **changed))


class TestSmolLM2:
  """Ids of transformers' own GGUF tokenizer, from the golden."""

  @pytest.mark.parametrize("name", list(GOLDEN["texts"]))
  def test_ids(self, name, smollm2):
    golden = GOLDEN["texts"][name]
    assert smollm2(golden["text"])["input_ids"] == golden["tokens"]
    assert smollm2.decode(golden["tokens"]) == golden["text"]

  def test_ids_of_the_long_text(self, smollm2):
    golden = GOLDEN["perplexity"]
    assert smollm2(golden["text"])["input_ids"] == golden["tokens"]

  def test_the_chat_is_rendered_the_same(self, smollm2):
    from tests.golden.make_smollm2_logits import CHAT

    got = smollm2.apply_chat_template(
      CHAT, tokenize=False, add_generation_prompt=True
    )
    assert got == GOLDEN["texts"]["chat"]["text"]

  def test_padding_is_the_end_of_turn(self, smollm2):
    # Nothing may pool by "the last token that is not padding".
    assert smollm2.pad_token_id == smollm2.eos_token_id == 2
    assert smollm2.eos_token == "<|im_end|>"

  def test_every_id_has_a_row(self, smollm2):
    check_vocab_size(smollm2, 49152)
    with pytest.raises(
      UserError, match=r"below the checkpoint's vocab_size 49150, got 2 beyond"
    ):
      check_vocab_size(smollm2, 49150)


class TestFromFolder:
  def test_loads_what_was_saved(self, tiny, tmp_path):
    # Would catch a folder reader that asks the Hub (tests are offline) and a
    # GGUF reader that builds another tokenizer than the published one.
    folder = load_tokenizer(published_folder(tmp_path))
    text = "ab ab 12<|im_end|><tool>c"
    assert folder(text)["input_ids"] == tiny(text)["input_ids"]
    check_fingerprint(
      fingerprint(folder, folder.chat_template, {}),
      fingerprint(tiny, tiny.chat_template, {}),
    )

  def test_without_a_tokenizer(self, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="expected a tokenizer.json"):
      load_tokenizer(tmp_path)

  def test_a_truncated_download(self, tmp_path):
    file = published_folder(tmp_path) / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8")[:-9], encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer.json:\d+: expected JSON"):
      load_tokenizer(tmp_path)

  def test_a_slow_tokenizer(self, tmp_path, monkeypatch):
    published_folder(tmp_path)
    monkeypatch.setattr(
      AutoTokenizer, "from_pretrained", lambda *args, **kwargs: object()
    )
    with pytest.raises(UserError, match="a fast tokenizer.*got object"):
      load_tokenizer(tmp_path)


class TestFingerprint:
  POLICY = {"read_at": "last_token", "pooling": "last_token"}

  def take(self, tokenizer, template=TEMPLATE, **policy):
    return fingerprint(tokenizer, template, {**self.POLICY, **policy})

  def changed(self, tmp_path, **fields):
    fields = {f"tokenizer.ggml.{k}": v for k, v in fields.items()}
    return load_tokenizer(write_gguf(tmp_path, **fields))

  def differs(self, tiny, other, message):
    with pytest.raises(UserError, match=message) as caught:
      check_fingerprint(self.take(tiny), other)
    assert "\n" not in str(caught.value)
    return str(caught.value)

  def test_survives_a_file(self, tiny):
    # Tuples come back as lists; that is no difference.
    ours = self.take(tiny, strip=("a", 1))
    check_fingerprint(json.loads(json.dumps(ours)), ours)

  def test_is_the_same_twice_and_after_padding_was_used(self, tiny):
    # Would catch hashing the backend's whole state, truncation included.
    before = self.take(tiny)
    other = copy.deepcopy(tiny)
    other(["ab", "ab ab"], padding=True, truncation=True, max_length=2)
    check_fingerprint(before, self.take(other))

  def test_vocabulary(self, tiny, tmp_path):
    tokens = list(TOKENS)
    tokens[4], tokens[5] = tokens[5], tokens[4]
    other = self.take(self.changed(tmp_path, tokens=tokens))
    text = self.differs(tiny, other, "vocabulary: stored '[0-9a-f]{64}', ours")
    assert "template" not in text.split(": ", 1)[1].split("; score")[0]

  def test_merges(self, tiny, tmp_path):
    merges = FIELDS["tokenizer.ggml.merges"][::-1]
    other = self.take(self.changed(tmp_path, merges=merges))
    self.differs(tiny, other, "merges: stored")

  def test_special_ids(self, tiny, tmp_path):
    other = self.take(self.changed(tmp_path, padding_token_id=0))
    self.differs(tiny, other, "special_ids.pad: stored 2, ours 0")

  def test_splitting_with_the_same_vocabulary(self, tiny):
    # Would catch a fingerprint of the vocabulary alone: here 12 is one token,
    # and the two spaces after " n 22" (what this vocabulary knows of the text,
    # tokens 0 to 4) are two.
    other = copy.deepcopy(tiny)
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
      add_prefix_space=False
    )
    self.differs(tiny, self.take(other), "probe_ids: stored at 5 ")

  def test_template_shows_where_the_dialogues_part(self, tiny):
    other = self.take(tiny, TEMPLATE.replace("<|im_end|>", "<|im_end|>."))
    text = self.differs(tiny, other, "template: stored")
    at = len("<|im_start|>user: Is 127 prime?<|im_end|>")
    assert f"dialogue: stored at {at} '127 prime?<|im_end|><|im_start|>" in text
    assert f"ours at {at} '127 prime?<|im_end|>.<|im_start|>" in text

  def test_no_template(self, tiny):
    other = self.take(tiny, None)
    self.differs(tiny, other, "dialogue: stored '.*', ours None")

  def test_policy(self, tiny):
    other = self.take(tiny, read_at="end_of_turn")
    self.differs(
      tiny, other, "policy.read_at: stored 'last_token', ours 'end_of_turn'"
    )

  def test_an_entry_on_one_side_only(self, tiny):
    # Would catch comparing with get(): None is a value.
    other = self.take(tiny, margin=None)
    self.differs(tiny, other, "policy.margin: stored nothing, ours None")

  def test_the_date_is_frozen(self, tiny):
    template = "{{ strftime_now('%d %b %Y') }}|{{ date_string }}|"
    got = self.take(tiny, template + TEMPLATE)["dialogue"]
    assert got.startswith("26 Jul 2024|26 Jul 2024|<|im_start|>user")
    assert [m["content"] for m in DIALOGUE if m["content"] in got] == [
      m["content"] for m in DIALOGUE
    ]


class TestVocabSize:
  def test_spare_rows_are_fine(self, tiny):
    check_vocab_size(tiny, len(TOKENS))
    check_vocab_size(tiny, 96)

  def test_a_token_beyond_the_table_is_named(self, tiny):
    # Would catch <= for <: the last row is vocab_size - 1. An embedding lookup
    # clamps the id in silence.
    last = len(TOKENS) - 1
    with pytest.raises(UserError, match=f"1 beyond it \\('12' = {last}\\)"):
      check_vocab_size(tiny, last)
