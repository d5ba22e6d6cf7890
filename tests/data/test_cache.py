"""Tokenised groups on disk: bit for bit, whole or not at all, at random."""

import concurrent.futures
import hashlib
import json
import multiprocessing
import os
import pathlib
import pickle
import random
import signal
import socket
import subprocess
import sys
import time
import weakref

import fsspec
import numpy as np
import pytest

from rm_jax.data import cache as cache_module
from rm_jax.data.binary import pack_group, unpack_group
from rm_jax.data.builder import write_dataset
from rm_jax.data.cache import (
  cache_key,
  open_cache,
  source_digests,
  tokenize_cached,
  write_cache,
)
from rm_jax.data.loader import COMPARISONS, Reading, tokenize_records
from rm_jax.data.rejects import Reject
from rm_jax.types import Record, TokenizedGroup, UserError
from tests.data.fixtures import TEMPLATE, make_tokenizer

ROOT = pathlib.Path(__file__).parents[2]
KEY = {"version": 1, "reading": {"row_len": 64}}

READING = Reading(
  template="auto",
  read_at="end_of_turn",
  row_len=64,
  overlong="drop",
  layout="shared",
  align=1,
  pooling="last_token",
)


def group(index=0, completions=2, compared=1, ranked=True, seed=0):
  """A group of arbitrary numbers: NaN, -0 and the largest among them."""
  draw = np.random.default_rng([index, completions, compared, seed])
  lengths = draw.integers(1, 9, completions)
  slots = draw.integers(0, 4, completions)

  def ints(n):
    return draw.integers(-(2**31), 2**31 - 1, n).astype(np.int32)

  def floats(n):
    bits = ints(n).view(np.float32)  # any bits: subnormal, infinite, NaN
    bits[: min(n, 1)] = -0.0
    return bits

  return TokenizedGroup(
    tokens=tuple(ints(n) for n in lengths),
    slots=tuple(ints(n) for n in slots),
    outputs=tuple(ints(n) for n in slots),
    labels=tuple(floats(n) for n in slots),
    weights=tuple(floats(n) for n in slots),
    language_weights=tuple(floats(n) for n in slots),
    reads=tuple(range(completions)),
    comparisons=ints(2 * compared).reshape(compared, 2),
    margins=floats(compared),
    preferences=floats(compared),
    comparison_weights=floats(compared),
    ranks=ints(completions if ranked else 0),
    weight=0.1 + 0.2,
    trunk=index % 2 - 1,
    record=index,
    task=index % 3,
    gold=floats(completions if ranked else 0),
    strengths=floats(compared),
  )


def flat(value):
  """A group as what can be compared: type, shape and bytes of each array."""
  if isinstance(value, np.ndarray):
    return value.dtype.str, value.shape, value.tobytes()
  if isinstance(value, tuple):
    return type(value).__name__, tuple(map(flat, value))
  return type(value).__name__, repr(value)


def write(directory, groups, key=KEY, rejects=(), overlong=()):
  groups = list(groups)
  return write_cache(
    directory,
    key,
    groups,
    rejects=list(rejects),
    overlong=dict(overlong),
    prompts=[f"key {g.record}" for g in groups],
  )


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  """Locks and copies go to a folder of the test."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


# ---------------------------------------------------------------- bytes


@pytest.mark.parametrize("compared", [0, 1, 5])
@pytest.mark.parametrize("completions", [1, 2, 7])
def test_bytes_come_back_bit_for_bit(completions, compared):
  # Catches: a field left out or swapped with one of its shape, weight stored
  # as float32, NaN or -0 changed, an empty array of another type.
  for seed in range(20):
    want = group(3, completions, compared, ranked=seed % 2, seed=seed)
    assert flat(unpack_group(pack_group(want))) == flat(want)


def test_every_field_matters_to_the_bytes():
  # Catches: a field of TokenizedGroup that a later change adds and nobody
  # stores.
  first = group(seed=1)
  assert all(map(len, first.slots))
  for name in TokenizedGroup._fields:
    value = getattr(first, name)
    if isinstance(value, np.ndarray):
      other = value + value.dtype.type(1)
    elif isinstance(value, tuple) and name != "reads":
      other = tuple(np.ones_like(x) for x in value)
    elif name == "reads":
      other = tuple(r + 1 for r in value)
    else:
      other = value + 1
    assert pack_group(first._replace(**{name: other})) != pack_group(first), (
      name
    )


@pytest.mark.parametrize(
  "field, value",
  [
    ("margins", np.zeros(1, np.float64)),
    ("ranks", np.zeros(2, np.int64)),
    ("comparisons", np.zeros((2, 1), np.int32)),
    ("labels", (np.zeros(9, np.float32),) * 2),
    ("tokens", (np.zeros(3), np.zeros(3))),
  ],
)
def test_arrays_of_another_type_are_refused(field, value):
  # Catches: 2**40 stored as 0, a float64 label rounded in silence.
  with pytest.raises(ValueError, match=f"^{field} of a group: expected "):
    pack_group(group()._replace(**{field: value}))


# ---------------------------------------------------------------- cache


@pytest.mark.parametrize("shard_bytes", [1, 400, 1 << 28])
def test_a_cache_stands_for_a_list(tmp_path, monkeypatch, shard_bytes):
  # Catches: groups in another order, one lost where a shard ends, a sequence
  # that never ends or that takes -1 for an index beyond it.
  monkeypatch.setattr(cache_module, "SHARD_BYTES", shard_bytes)
  want = [group(i, completions=1 + i % 3) for i in range(12)]
  rejects = [Reject("x.jsonl", 3, "bad")]
  overlong = {7: Reject("x.jsonl", 8, "long")}
  made = write(tmp_path / "c", want, rejects=rejects, overlong=overlong)
  opened = open_cache(tmp_path / "c", KEY)
  for got in (made, opened):
    assert len(got.groups) == 12
    assert list(map(flat, got.groups)) == list(map(flat, want))
    assert flat(got.groups[np.int64(5)]) == flat(want[5])
    assert flat(got.groups[-1]) == flat(want[-1])
    assert got.prompts == [f"key {i}" for i in range(12)]
    assert (got.rejects, got.overlong) == (rejects, overlong)
    assert got.counts == {
      "groups": 12,
      "completions": 24,
      "tokens": sum(len(t) for g in want for t in g.tokens),
      "rejects": 1,
      "overlong": 1,
    }
  for beyond in (12, -13):
    with pytest.raises(IndexError, match=f"group {beyond} of a cache of 12"):
      opened.groups[beyond]


def test_a_cache_of_nothing(tmp_path):
  rejects = [Reject("x.jsonl", 3, "bad")]
  got = write(tmp_path / "c", [], rejects=rejects)
  assert (len(got.groups), got.rejects) == (0, rejects)
  assert open_cache(tmp_path / "nothing", KEY) is None


def test_threads_and_pickles_read_the_same(tmp_path):
  # Catches: a reader whose position threads share; an open file in a pickle.
  want = [flat(group(i)) for i in range(200)]
  groups = write(tmp_path / "c", (group(i) for i in range(200))).groups
  ids = random.Random(0).choices(range(200), k=4_000)

  def read(i):
    return flat(groups[i]) == want[i]

  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    assert all(pool.map(read, ids))
  again = pickle.loads(pickle.dumps(groups))
  assert [flat(again[i]) for i in ids[:50]] == [want[i] for i in ids[:50]]


def test_writing_is_a_stream(tmp_path):
  # Catches: a writer that collects the groups before it writes. Every group
  # must be gone when the next but one is asked for.
  alive = []

  def groups():
    for i in range(50):
      one = group(i)
      alive.append(weakref.ref(one.tokens[0]))
      yield one
      del one
      assert sum(ref() is not None for ref in alive) <= 2

  write_cache(
    tmp_path / "c", KEY, groups(), rejects=[], overlong={}, prompts=["k"] * 50
  )
  assert len(open_cache(tmp_path / "c", KEY).groups) == 50


def test_a_prompt_key_per_group(tmp_path):
  # Catches: keys that belong to other groups.
  with pytest.raises(
    ValueError, match="expected a prompt key per group, got 0"
  ):
    write_cache(
      tmp_path / "c", KEY, [group()], rejects=[], overlong={}, prompts=[]
    )
  assert open_cache(tmp_path / "c", KEY) is None


def test_another_key_is_refused_with_each_difference(tmp_path):
  # Catches: tokens of another tokenizer trained on; a message that says only
  # that something differs; a tuple that differs from its list in JSON.
  key = {"reading": {"row_len": 64, "at": "x"}, "old": 1, "names": ("a", "b")}
  write(tmp_path / "c", [group()], key=key)
  assert open_cache(tmp_path / "c", key)
  other = {"reading": {"row_len": 128, "at": "x"}, "new": [2], "names": ["a"]}
  with pytest.raises(UserError) as error:
    open_cache(tmp_path / "c", other)
  text = str(error.value)
  for part in (
    "names: stored ['a', 'b'], ours ['a']",
    "new: stored nothing, ours [2]",
    "old: stored 1, ours nothing",
    "reading.row_len: stored 64, ours 128",
    "name another directory or remove this one",
  ):
    assert part in text
  assert "reading.at" not in text and "\n" not in text
  with pytest.raises(UserError, match="row_len: stored 64, ours 128"):
    write(tmp_path / "c", [group()], key=other)
  assert len(open_cache(tmp_path / "c", key).groups) == 1


def test_what_is_no_cache_or_damaged_is_refused(tmp_path):
  # Catches: somebody's files overwritten; a shard that ends early read as a
  # smaller data set.
  (tmp_path / "mine").mkdir()
  assert open_cache(tmp_path / "mine", KEY) is None
  (tmp_path / "mine" / "thesis.txt").write_text("all I have")
  for use in (lambda d: open_cache(d, KEY), lambda d: write(d, [group()])):
    with pytest.raises(UserError, match="got something without cache.json"):
      use(tmp_path / "mine")
  write(tmp_path / "c", [group()])
  (shard,) = (tmp_path / "c").glob("*.array_record")
  shard.write_bytes(shard.read_bytes()[:-7])
  with pytest.raises(UserError, match="the cache is damaged; remove"):
    open_cache(tmp_path / "c", KEY)
  shard.unlink()
  with pytest.raises(UserError, match=r"expected \d+ bytes, got 0"):
    open_cache(tmp_path / "c", KEY)


# ---------------------------------------------------------------- writers


def test_a_writer_that_fails_leaves_nothing(tmp_path):
  def broken():
    yield group()
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    write_cache(
      tmp_path / "c", KEY, broken(), rejects=[], overlong={}, prompts=["k"]
    )
  assert [p.name for p in tmp_path.iterdir()] == ["home"]


def endless(directory, started):
  """Writes for ever, in a process that is killed."""

  def groups():
    for i in range(10**9):
      yield group(i)
      if i == 50:
        started.set()
      time.sleep(0.001)

  write_cache(directory, KEY, groups(), rejects=[], overlong={}, prompts=[])


def test_a_killed_writer_leaves_no_cache_and_no_lock(tmp_path):
  # Catches: a cache that looks complete after SIGKILL; a lock file that keeps
  # the next writer out; gigabytes that nobody removes.
  context = multiprocessing.get_context("spawn")
  started = context.Event()
  process = context.Process(target=endless, args=(tmp_path / "c", started))
  process.start()
  assert started.wait(120)
  os.kill(process.pid, signal.SIGKILL)
  process.join()
  left = [p.name for p in tmp_path.iterdir() if p.name != "home"]
  assert len(left) == 1 and left[0].startswith(".c.partial-")
  assert open_cache(tmp_path / "c", KEY) is None
  assert len(write(tmp_path / "c", [group()]).groups) == 1
  assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "home"]


def slow_writer(directory, name, asked):
  """Writes 30 groups slowly; leaves its name in `asked` if it was asked to."""

  def groups():
    (asked / name).touch()
    for i in range(30):
      time.sleep(0.01)
      yield group(i)

  made = write_cache(
    directory, KEY, groups(), rejects=[], overlong={}, prompts=["k"] * 30
  )
  assert [flat(g) for g in made.groups] == [flat(group(i)) for i in range(30)]


def test_two_writers_at_once_do_the_work_once(tmp_path):
  # Catches: two processes in one folder; a second that tokenises for nothing.
  asked = tmp_path / "home" / "asked"
  asked.mkdir(parents=True)
  context = multiprocessing.get_context("spawn")
  processes = [
    context.Process(target=slow_writer, args=(tmp_path / "c", str(i), asked))
    for i in range(2)
  ]
  for process in processes:
    process.start()
  for process in processes:
    process.join(120)
  assert [p.exitcode for p in processes] == [0, 0]
  assert len(list(asked.iterdir())) == 1
  assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "home"]


def test_of_two_machines_the_first_wins(tmp_path):
  # Catches: a rename that mixes two caches, or an error for the slower one. A
  # lock does not reach another machine: here the cache appears meanwhile.
  def groups():
    write_done = tmp_path / "other"
    write(write_done, [group(1)])
    write_done.rename(tmp_path / "c")
    yield group(2)

  got = write_cache(
    tmp_path / "c", KEY, groups(), rejects=[], overlong={}, prompts=["k"]
  )
  assert [flat(g) for g in got.groups] == [flat(group(1))]
  assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "home"]


def test_a_bucket_holds_a_cache(monkeypatch):
  # Catches: a half copied cache taken for a whole one.
  fs = fsspec.filesystem("memory")
  fs.store.clear()
  order, real = [], type(fs).put_file

  def spy(self, local, path, *args, **kwargs):
    order.append(path.rpartition("/")[2])
    return real(self, local, path, *args, **kwargs)

  monkeypatch.setattr(type(fs), "put_file", spy)
  want = [flat(group(i)) for i in range(5)]
  got = write("memory://bucket/c", (group(i) for i in range(5)))
  assert list(map(flat, got.groups)) == want
  assert order[-1] == "cache.json" and len(order) == 3
  again = open_cache("memory://bucket/c", KEY)
  assert list(map(flat, again.groups)) == want
  with pytest.raises(UserError, match="row_len: stored 64"):
    open_cache("memory://bucket/c", {"reading": {"row_len": 1}})
  fs.rm("/bucket/c/cache.json")
  assert open_cache("memory://bucket/c", KEY) is None
  fs.store.clear()


# ---------------------------------------------------------------- use


def records(count):
  return [
    Record(
      "pair",
      f"What is two plus {'two ' * (60 if i == 3 else i)}?",
      ("It is four .", "It is four ." if i == 2 else "Nobody knows ."),
      ranks=(0, 1),
      source="rows.jsonl",
      line=i + 1,
    )
    for i in range(count)
  ]


def key_of(path, **changes):
  return cache_key(
    make_tokenizer(),
    TEMPLATE,
    READING._replace(**changes),
    COMPARISONS,
    source_digests(path),
  )


@pytest.fixture
def rows(tmp_path):
  path = tmp_path / "rows.jsonl"
  path.write_text(json.dumps(dict(prompt="Q", chosen="a", rejected="b")))
  return path


def test_tokenize_cached_equals_tokenize_records(tmp_path, rows):
  # Catches: rejects or overlong records forgotten on the second start, numbers
  # of records that shift, records read although the cache is there.
  key, tokenizer = key_of(rows), make_tokenizer()
  want = tokenize_records(records(8), tokenizer, READING, COMPARISONS)
  assert (len(want.groups), len(want.rejects), len(want.overlong)) == (6, 1, 1)

  def unread():
    raise AssertionError("the records were read again")
    yield

  for source in (iter(records(8)), unread()):
    got = tokenize_cached(
      tmp_path / "c", key, source, tokenizer, READING, COMPARISONS
    )
    assert list(map(flat, got.groups)) == list(map(flat, want.groups))
    assert got._replace(groups=None) == want._replace(groups=None)
  packed = READING._replace(layout="padded")
  got = tokenize_cached(
    tmp_path / "c",
    key_of(rows, layout="padded", align=8),
    unread(),
    tokenizer,
    packed,
    COMPARISONS,
  )
  assert (
    got.demands
    == tokenize_records(records(8), tokenizer, packed, COMPARISONS).demands
  )


def test_the_key_holds_what_decides_tokens(tmp_path, rows):
  # Catches: a cache used for another row length, another file or template.
  key = key_of(rows)
  assert key == json.loads(json.dumps(key))
  assert key["sources"]["rows.jsonl"]["size"] == rows.stat().st_size
  assert key_of(rows, layout="packed", align=4) == key
  for name in set(Reading._fields) - {"layout", "align"}:
    assert key_of(rows, **{name: "other"}) != key, name
  parts = (READING, COMPARISONS, {})
  for template in (None, "{{ messages }}"):
    assert cache_key(make_tokenizer(), template, *parts) != cache_key(
      make_tokenizer(), TEMPLATE, *parts
    )
  assert cache_key(make_tokenizer(), TEMPLATE, READING, None, {}) != cache_key(
    make_tokenizer(), TEMPLATE, *parts
  )
  before = source_digests(rows)
  rows.write_text(rows.read_text().replace("a", "c"))  # the same size
  assert source_digests(rows) != before


def test_digests_name_files_by_their_place(tmp_path):
  # Catches: names that hold the machine's folders; two files of one name.
  for folder in ("one", "two"):
    for name in ("a/x.jsonl", "b/x.jsonl"):
      (tmp_path / folder / name).parent.mkdir(parents=True)
      (tmp_path / folder / name).write_text(name)
  got = source_digests(tmp_path / "one")
  assert got == {
    name: {"size": 9, "sha256": hashlib.sha256(name.encode()).hexdigest()}
    for name in ("a/x.jsonl", "b/x.jsonl")
  }
  assert source_digests(f"{tmp_path}/two/") == got
  assert source_digests(f"file://{tmp_path}/two") == got
  write_dataset(records(2), tmp_path, name="mine", source="a test")
  names = list(source_digests(f"tfds://{tmp_path}/mine"))
  assert "dataset_info.json:train" in names and len(names) == 3


@pytest.mark.slow
def test_memory_does_not_grow_with_the_records():
  # Catches: records, texts or groups kept while they are written or read. What
  # may stay is a prompt key and the counts that the planner needs: of 100,000
  # records 14 bytes each were measured in writing, 674 in reading.
  done = subprocess.run(
    [sys.executable, "bench/stream.py", "--records=10000", "--against=2000"],
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2_000:]
  found = json.loads(done.stdout)
  growth = found["peak_bytes_per_record"]
  assert growth["write"] < 500, found
  assert growth["read"] < 1_000, found
  assert [run["write"]["groups"] for run in found["runs"]] == [2_000, 10_000]


def writer_of_a_machine(directory, name, root, both):
  """A host: its own name and locks; writes while the other one does."""
  os.environ["XDG_CACHE_HOME"] = str(root / name)
  socket.gethostname = lambda: name
  own = int(name)

  def groups():
    both.wait(300)  # neither finds a cache, and neither is done
    for i in range(20):
      yield group(100 * own + i)
    both.wait(300)

  made = write_cache(
    directory, KEY, groups(), rejects=[], overlong={}, prompts=["k"] * 20
  )
  (root / f"{name}.seen").write_bytes(b"".join(map(pack_group, made.groups)))


def test_two_hosts_that_write_one_cache_at_once_read_the_same(tmp_path):
  # Catches: shards of one under the index of the other, a host that fails
  # because it was second, gigabytes that the second leaves behind.
  root = tmp_path / "home"
  root.mkdir(exist_ok=True)
  context = multiprocessing.get_context("spawn")
  both = context.Barrier(2)
  processes = [
    context.Process(
      target=writer_of_a_machine, args=(tmp_path / "c", name, root, both)
    )
    for name in "01"
  ]
  for process in processes:
    process.start()
  for process in processes:
    process.join(300)
  assert [p.exitcode for p in processes] == [0, 0]
  seen = [(root / f"{name}.seen").read_bytes() for name in "01"]
  assert seen[0] == seen[1]
  # Of one of the two, whole.
  every = [
    b"".join(pack_group(group(100 * own + i)) for i in range(20))
    for own in (0, 1)
  ]
  assert seen[0] in every
  assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "home"]
