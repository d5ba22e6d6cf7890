"""Weights behind a URL: copied once, whole, and again when they change."""

import io
import json
import threading
import time

import fsspec
import pytest
from fsspec.registry import known_implementations

from rm_jax.data.tokenizers import load_tokenizer
from rm_jax.places import (
  Remote,
  fetch,
  list_folder,
  local_path,
  locate,
  remote,
  scheme,
  upload,
)
from rm_jax.types import UserError

FILES = {
  "config.json": b"{}",
  "model.safetensors": b"weights" * 1_000,
  "tokenizer.json": b"{}",
  "pytorch_model.bin": b"the same in another format",
  "checkpoint-1/config.json": b"{}",
}


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """A model in memory; copies go to a folder of the test."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  fs = fsspec.filesystem("memory")
  fs.store.clear()
  fs.pseudo_dirs[:] = [""]
  for name, raw in FILES.items():
    fs.pipe(f"/bucket/model/{name}", raw)
  yield fs
  fs.store.clear()


@pytest.fixture
def opened(bucket, monkeypatch):
  """Names of the remote files opened so far."""
  names, real = [], type(bucket).open

  def spy(self, path, *args, **kwargs):
    names.append(path)
    return real(self, path, *args, **kwargs)

  monkeypatch.setattr(type(bucket), "open", spy)
  return names


def copies(tmp_path) -> list:
  return sorted((tmp_path / "cache" / "rm_jax" / "places").glob("*"))


@pytest.mark.parametrize(
  "source, name",
  [
    ("gs://b/x", "gs"),
    ("S3://b", "s3"),
    ("abfs+x://b", "abfs+x"),
    ("/a/b", ""),
    ("a//b:/c", ""),
    ("smollm2", ""),
  ],
)
def test_scheme(source, name):
  assert scheme(source) == name


def test_file_urls_are_paths(tmp_path):
  # Catches: a copy made of what lies on this machine already.
  (tmp_path / "config.json").write_text("{}")
  assert local_path(f"file://{tmp_path}") == tmp_path
  assert local_path("gs://bucket/x") is None
  assert locate(f"file://{tmp_path}") == tmp_path


def test_a_folder_is_copied_once(tmp_path, bucket, opened):
  # Catches: other formats and subfolders fetched as well; a second copy.
  folder = locate("memory://bucket/model")
  names = ["config.json", "model.safetensors", "tokenizer.json"]
  assert sorted(p.name for p in folder.iterdir()) == names
  assert all((folder / n).read_bytes() == FILES[n] for n in names)
  assert folder.parent == tmp_path / "cache" / "rm_jax" / "places"
  del opened[:]
  assert locate("memory://bucket/model") == folder
  assert opened == []


def test_a_changed_file_is_copied_again(tmp_path, bucket):
  # Catches: a copy known by its address alone, or by sizes alone.
  first = locate("memory://bucket/model")
  time.sleep(0.002)
  changed = FILES["model.safetensors"][::-1]
  bucket.pipe("/bucket/model/model.safetensors", changed)
  second = locate("memory://bucket/model")
  assert second != first
  assert (second / "model.safetensors").read_bytes() == changed


def test_a_gguf_file_is_copied(bucket):
  bucket.pipe("/bucket/x.gguf", b"GGUF")
  path = locate("memory://bucket/x.gguf")
  assert (path.name, path.read_bytes()) == ("x.gguf", b"GGUF")


@pytest.mark.parametrize("fault", ["breaks", "short"])
def test_a_copy_that_breaks_off_leaves_nothing(
  tmp_path, bucket, monkeypatch, fault
):
  # Catches: half a folder under the name of the whole one.
  real = type(bucket).open

  def broken(self, path, *args, **kwargs):
    if path.endswith("model.safetensors"):
      if fault == "breaks":
        raise ConnectionResetError("gone")
      path = "/bucket/model/config.json"
    return real(self, path, *args, **kwargs)

  monkeypatch.setattr(type(bucket), "open", broken)
  words = {
    "breaks": r"model.safetensors: expected a place that can be read.*gone",
    "short": "expected 7000 bytes of model.safetensors, got 2",
  }
  with pytest.raises(UserError, match=words[fault]):
    locate("memory://bucket/model")
  assert copies(tmp_path) == []
  monkeypatch.undo()
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  assert (locate("memory://bucket/model") / "config.json").is_file()


def test_many_copy_at_once(tmp_path, bucket, monkeypatch):
  # Catches: a rename onto the folder that another one has just made.
  def own_cursor(self, path, *args, **kwargs):
    # MemoryFileSystem hands one position to all readers, which no bucket does.
    return io.BytesIO(self.cat_file(path))

  monkeypatch.setattr(type(bucket), "open", own_cursor)
  found, errors = [], []

  def run():
    try:
      found.append(locate("memory://bucket/model"))
    except Exception as error:  # a thread's error is lost otherwise
      errors.append(error)

  threads = [threading.Thread(target=run) for _ in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not errors
  assert len(found) == 8 and set(found) == set(copies(tmp_path))
  assert len(set(found)) == 1


def test_places_without_a_model(bucket):
  with pytest.raises(
    UserError, match="config.json, got a.txt; name the folder"
  ):
    bucket.pipe("/bucket/notes/a.txt", b"")
    locate("memory://bucket/notes")
  with pytest.raises(UserError, match="folder with a config.json, got nothing"):
    locate("memory://bucket/nothing")


def test_a_tokenizer_behind_a_url(tmp_path, bucket, make_small_tokenizer):
  # Catches: a URL that some reader takes for a path.
  make_small_tokenizer.save_pretrained(tmp_path / "saved")
  (tmp_path / "saved" / "config.json").write_text("{}")
  upload(tmp_path / "saved", "memory://bucket/own", last="config.json")
  loaded = load_tokenizer("memory://bucket/own")
  assert loaded.get_vocab() == make_small_tokenizer.get_vocab()


@pytest.fixture
def make_small_tokenizer():
  from tokenizers import Tokenizer, models
  from transformers import PreTrainedTokenizerFast

  backend = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
  return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="b")


def test_upload_is_read_back_and_ends_with_its_witness(
  tmp_path, bucket, monkeypatch
):
  # Catches: an index that is there before what it vouches for.
  order, real = [], type(bucket).put_file

  def spy(self, local, path, *args, **kwargs):
    order.append(path)
    return real(self, local, path, *args, **kwargs)

  monkeypatch.setattr(type(bucket), "put_file", spy)
  for name in ("a/z", "a/index.json", "b"):
    (tmp_path / "up" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "up" / name).write_text(name)
  upload(tmp_path / "up", "memory://bucket/up", last="index.json")
  assert order[-1] == "/bucket/up/a/index.json"
  place = remote("memory://bucket/up")
  assert list(list_folder(place)) == ["a/index.json", "a/z", "b"]
  copy = fetch(place, wanted=lambda name: True)
  assert (copy / "a" / "z").read_text() == "a/z"


def test_an_unknown_scheme_lists_some(bucket):
  with pytest.raises(UserError, match="nosuch:// is unknown, expected .*gs://"):
    remote("nosuch://bucket/x")


def test_a_missing_driver_names_its_package(monkeypatch):
  # Catches: an ImportError with a traceback. No such module exists.
  monkeypatch.setitem(
    known_implementations, "absent", {"class": "absent_driver.fs.Absent"}
  )
  with pytest.raises(
    UserError,
    match="^absent://x/y: expected a driver for absent://, got an environment "
    "without one; install it: pip install absent_driver$",
  ):
    remote("absent://x/y")


def test_a_driver_that_fails_is_one_line(monkeypatch):
  # Catches: what cloud libraries raise, of no common class, as a traceback.
  class CloudError(Exception):
    pass

  def broken(url):
    raise CloudError("no\ncredentials")

  monkeypatch.setattr(fsspec, "url_to_fs", broken)
  with pytest.raises(UserError, match=r"CloudError \(no credentials\): check"):
    remote("memory://bucket")


def test_remote_opens_and_prints_like_a_path(bucket):
  place = remote("memory://bucket/model/config.json")
  assert (place.name, str(place)) == (
    "config.json",
    "memory://bucket/model/config.json",
  )
  assert f"{place}" == str(place)
  with place.open("rb") as stream:
    assert json.loads(stream.read()) == {}
  assert isinstance(place, Remote)
  with pytest.raises(UserError, match="memory://bucket/none does not exist"):
    remote("memory://bucket/none").open()
