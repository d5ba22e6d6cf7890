"""metrics.jsonl: every step once, also after a kill."""

import json

import pytest

from rm_jax.train.log import Log, progress_text, read_rows


def write(workdir, *, step, rows, total=9):
  log = Log(workdir, step=step, total=total)
  for row in rows:
    log.write(row)
  log.close()
  return [row["step"] for row in read_rows(workdir / "metrics.jsonl")]


def test_rows_past_the_checkpoint_and_a_half_line_are_cut(tmp_path):
  write(tmp_path, step=None, rows=[{"step": n, "loss": 0.5} for n in range(4)])
  path = tmp_path / "metrics.jsonl"
  for half in ('{"step": 4, "lo', '{"step"', "\0\0\0"):
    with path.open("a") as file:
      file.write(half)
    assert write(tmp_path, step=2, rows=[{"step": 3}]) == [0, 1, 2, 3]
  for line in path.read_text().splitlines():
    json.loads(line)


def test_without_a_checkpoint_nothing_is_kept(tmp_path):
  # A run killed before its first checkpoint writes step 0 again. Wrong: the
  # row of step 0 twice.
  write(tmp_path, step=None, rows=[{"step": 0}, {"step": 1}])
  assert write(tmp_path, step=None, rows=[{"step": 0}]) == [0]


def test_a_row_is_on_disk_at_once(tmp_path):
  log = Log(tmp_path, step=None, total=2)
  log.write({"step": 1, "loss": None, "note": "text"})
  assert read_rows(log.path) == [{"step": 1, "loss": None, "note": "text"}]
  log.close()


def test_closing_frees_everything_on_a_full_disk(tmp_path, monkeypatch):
  log = Log(tmp_path, step=None, total=2)

  def full():
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(log, "sync", full)
  with pytest.raises(OSError, match="No space left"):
    log.close()
  assert log.file.closed


def test_the_share_of_the_peak_is_said_where_it_is_known():
  row = dict(
    loss=0.5, useful_tokens_per_second=1234.5, computed_tokens_per_second=2e3
  )
  text = "loss 0.5000  1,234 useful tok/s (2,000 computed)"
  assert progress_text(row) == text
  row |= dict(useful_utilisation=0.412, loss=None)
  assert progress_text(row).endswith("computed)  41% of peak")
  assert progress_text(row).startswith("loss not finite  ")


def test_seconds_are_those_since_the_last_call(tmp_path, monkeypatch):
  log = Log(tmp_path, step=None, total=2)
  now = iter([10.0, 10.5, 12.0])
  log.clock = 9.0
  monkeypatch.setattr("time.perf_counter", lambda: next(now))
  assert [log.seconds() for _ in range(3)] == [1.0, 0.5, 1.5]
  monkeypatch.undo()
  log.close()
