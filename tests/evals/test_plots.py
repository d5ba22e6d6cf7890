"""The pictures: that they are written, and that they show what they say."""

import itertools
import math
import struct

import numpy as np
import pytest

from rm_jax import margins, metrics
from rm_jax.evals import (
  canvas,
  gold_plots,
  margin_plots,
  plots,
  row_plots,
  score_plots,
)
from rm_jax.types import UserError


def size(path) -> tuple[int, int]:
  """Width and height from the header of a PNG."""
  head = path.read_bytes()[:24]
  assert head[:8] == b"\x89PNG\r\n\x1a\n"
  return struct.unpack(">II", head[16:24])


def drawn(monkeypatch) -> list:
  """Collects the texts of every figure instead of losing them in pixels."""
  texts: list[str] = []
  write = canvas.write

  def collect(figure, path):
    for axes in figure.axes:
      texts.append(axes.get_title())
      texts.extend(t.get_text() for t in axes.texts)
    write(figure, path)

  monkeypatch.setattr(canvas, "write", collect)
  return texts


def rows(steps: int) -> list[dict]:
  train = [{"step": t, "loss": math.log(2) / t} for t in range(1, steps + 1)]
  evals = [
    {"step": t, "value": 0.6, "low": 0.55, "high": 0.65}
    for t in range(10, steps + 1, 10)
  ]
  return train + evals


def draw_curves(runs, path):
  plots.learning_curves(
    runs,
    path,
    metric="accuracy",
    references={"chance": 0.5},
    loss_references={"log 2": math.log(2)},
  )


@pytest.fixture
def row() -> dict[str, np.ndarray]:
  """Two groups and padding; branch 2 of the first forks one token early."""
  return {
    "tokens": np.arange(10),
    "group_ids": np.array([1, 1, 1, 1, 1, 1, 2, 2, 0, 0]),
    "branch_ids": np.array([0, 0, 0, 1, 1, 2, 0, 1, 0, 0]),
    "positions": np.array([0, 1, 2, 3, 4, 2, 0, 1, 0, 0]),
    "fork_positions": np.array([0, 0, 0, 3, 3, 2, 0, 1, 0, 0]),
  }


class TestFiles:
  @pytest.mark.parametrize("steps", [1, 60])
  def test_learning_curve(self, tmp_path, steps):
    # Catches a running mean longer than the run and an evaluation that did
    # not happen yet.
    draw_curves({"run": rows(steps)}, tmp_path / "a.png")
    assert size(tmp_path / "a.png") == (1000, 700)

  def test_learning_curve_sorts_by_step(self, tmp_path):
    # Catches a line that runs back after a resumed run wrote a step again.
    draw_curves({"run": rows(60)}, tmp_path / "a.png")
    draw_curves({"run": rows(60)[::-1]}, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (
      tmp_path / "b.png"
    ).read_bytes()

  @pytest.mark.parametrize("outlier", [0.0, 1e9])
  def test_score_histograms(self, tmp_path, outlier):
    chosen = np.append(np.random.default_rng(0).normal(1, 1, 500), outlier)
    score_plots.score_histograms(chosen, chosen - 1, tmp_path / "a.png")
    assert size(tmp_path / "a.png")[0] == 1000

  def test_bins_follow_the_data(self):
    # Catches a fixed number of bins, bins that leave out the ends, and bins
    # thinner than a line: one outlier makes the rule ask for hundreds.
    values = np.random.default_rng(0).normal(size=50_000)
    few, many = (
      score_plots._edges(values[:20]),
      score_plots._edges(np.append(values, 1e4)),
    )
    assert len(few) - 1 < 15 < len(many) - 1 <= 60
    assert many[0] == values.min() and many[-1] == 1e4

  def test_equal_scores(self, tmp_path):
    # Catches a division by a range of 0: what an untrained head gives.
    score_plots.score_histograms(np.zeros(5), np.zeros(5), tmp_path / "a.png")
    assert size(tmp_path / "a.png")[0] == 1000

  @pytest.mark.parametrize("length", [40, 400])
  def test_packed_row(self, tmp_path, length):
    zeros = np.zeros(length, int)
    row = {key: zeros for key in ("tokens", "branch_ids", "fork_positions")}
    row |= {"group_ids": zeros + 1, "positions": np.arange(length)}
    row_plots.packed_row(row, ["$5 and \n"] * length, tmp_path / "a.png")
    assert size(tmp_path / "a.png")[0] == 1000

  def test_nothing_is_left_open(self, tmp_path):
    # Catches figures made by pyplot: they stay in memory until it is told.
    from matplotlib import pyplot

    score_plots.reliability(np.array([1.0, -1.0]), tmp_path / "a.png")
    assert pyplot.get_fignums() == []


def lines(monkeypatch) -> list:
  """Collects (label, x, y) of every line of every panel that is drawn."""
  found: list[tuple] = []
  write = canvas.write

  def collect(figure, path):
    for axes in figure.axes:
      for line in axes.lines:
        x, y = (np.asarray(v, float).tolist() for v in line.get_data())
        found.append((line.get_label(), x, y))
    write(figure, path)

  monkeypatch.setattr(canvas, "write", collect)
  return found


class TestCurves:
  def test_several_runs_keep_their_own_numbers(self, tmp_path, monkeypatch):
    # Catches runs drawn under each other's name, and a run of one evaluation
    # that is dropped or drawn as a band.
    drawn_lines = lines(monkeypatch)
    one = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0, "value": 0.7}]
    draw_curves({"a": one, "b": rows(20)}, tmp_path / "a.png")
    assert ("a", [1.0, 2.0], [3.0, 2.0]) in drawn_lines  # loss
    assert ("a", [2.0], [0.7]) in drawn_lines
    assert ("b", [10.0, 20.0], [0.6, 0.6]) in drawn_lines

  def test_running_mean_ends_where_the_run_ends(self, tmp_path, monkeypatch):
    # Catches a mean centred on its steps, which knows the future.
    drawn_lines = lines(monkeypatch)
    draw_curves({"run": rows(40)}, tmp_path / "a.png")
    (mean,) = [x for x in drawn_lines if x[0] == "mean of 2 logged steps"]
    assert mean[1] == list(range(2, 41))
    assert mean[2][-1] == pytest.approx(math.log(2) * (1 / 39 + 1 / 40) / 2)


class TestScores:
  def test_a_value_stands_with_its_interval_and_its_count(
    self, tmp_path, monkeypatch
  ):
    # Catches intervals of another row, and one drawn where there is none.
    texts, drawn_lines = drawn(monkeypatch), lines(monkeypatch)
    score_plots.interval_dots(
      [("low", 0.5, 0.25, 0.75, 8), ("alone", 1.0, math.nan, math.nan, 1200)],
      tmp_path / "a.png",
      title="t",
      label="x",
      reference=("chance", 0.5),
    )
    assert "0.500, n = 8" in texts and "1.000, n = 1,200" in texts
    spans = [(x, y) for _, x, y in drawn_lines if len(x) == 2 and y[0] == y[1]]
    assert spans == [([0.25, 0.75], [0, 0])]

  def test_before_and_after_are_the_errors_of_each(self, tmp_path):
    # Catches the two swapped, and both drawn from the same differences.
    before = np.random.default_rng(0).normal(0.5, 2.0, 300)
    got = score_plots.reliability_after(
      before, before / 3, tmp_path / "a.png", temperature=3.0
    )
    want = [
      score_plots.reliability(x, tmp_path / "b.png")
      for x in (before, before / 3)
    ]
    assert got == pytest.approx(want) and got[0] != pytest.approx(got[1])

  def test_dots_are_the_completions(self, tmp_path):
    score_plots.score_by_length(
      [3, 4], [0.5, 0.1], tmp_path / "a.png", correlation=math.nan
    )
    assert size(tmp_path / "a.png")[0] == 1000


class TestGold:
  def test_the_right_panel_is_less_the_mean_of_each_group(
    self, tmp_path, monkeypatch
  ):
    # Catches one mean for all groups: prompts would look like agreement.
    panels = []
    write = canvas.write

    def collect(figure, path):
      panels.extend(a.collections[0].get_offsets() for a in figure.axes)
      write(figure, path)

    monkeypatch.setattr(canvas, "write", collect)
    gold_plots.gold_against_score(
      [1, 3, 10, 20], [0, 1, 5, 7], [0, 0, 4, 4], tmp_path / "a.png", tau=1.0
    )
    assert panels[0].tolist() == [[1, 0], [3, 1], [10, 5], [20, 7]]
    assert panels[1].tolist() == [[-1, -0.5], [1, 0.5], [-5, -1], [5, 1]]

  def test_lines_of_best_of_n_start_at_one(self, tmp_path, monkeypatch):
    # Catches n counted from 0.
    drawn_lines = lines(monkeypatch)
    values = {name: [0.0, 0.5, 1.0] for name in "abcd"}
    gold_plots.best_of_n_curves(
      values, [0, 0, 0], [0, 1, 1], tmp_path / "a.png", groups=2
    )
    assert drawn_lines[0] == ("a", [1.0, 2.0, 3.0], [0.0, 0.5, 1.0])


class TestReliability:
  def test_error_equals_the_metric(self, tmp_path, monkeypatch):
    # Catches one side only, other bins than the metric's, and a title that
    # tells of other numbers.
    texts = drawn(monkeypatch)
    score_diff = np.random.default_rng(0).normal(0.5, 2.0, 500)
    p = [1 / (1 + math.exp(-d)) for d in score_diff]
    want = metrics.calibration_error(
      [*p, *(1 - x for x in p)], [1] * 500 + [0] * 500, bins=15
    )
    got = score_plots.reliability(score_diff, tmp_path / "a.png")
    assert got == pytest.approx(want, rel=1e-9)
    assert f"ECE = {want:.4f}" in texts[0]
    assert size(tmp_path / "a.png") == (1000, 800)

  def test_error_by_hand(self, tmp_path):
    # p = 0.75 three times right and once wrong is calibrated; p = 0.9 twice
    # wrong is 0.9 off, from both sides. 6 comparisons: 2/6 * 0.9.
    right, sure = math.log(3.0), math.log(9.0)
    got = score_plots.reliability(
      np.array([right, right, right, -right, -sure, -sure]), tmp_path / "a.png"
    )
    assert got == pytest.approx(2 / 6 * 0.9)

  def test_order_of_the_sides_does_not_matter(self, tmp_path):
    # Catches counting chosen-first only: every comparison is then "won", and a
    # calibrated model looks wrong. At difference 0 nothing is known: ECE 0.
    assert score_plots.reliability(np.zeros(4), tmp_path / "a.png") == 0.0

  def test_extreme_differences(self, tmp_path):
    # Catches exp(1e4), and 1 - p that loses the last bin.
    with np.errstate(all="raise", under="ignore"):
      got = score_plots.reliability(
        np.array([1e4, 1e4, -1e4]), tmp_path / "a.png"
      )
    assert got == pytest.approx(1 / 3)


class TestAttentionMask:
  def test_by_hand(self, row):
    # Catches < for <=, siblings that see each other, a trunk that sees its
    # branches, a late fork position, groups or padding that leak.
    want = [
      "x.........",
      "xx........",
      "xxx.......",
      "xxxx......",
      "xxxxx.....",
      "xx...x....",
      "......x...",
      "......xx..",
      "..........",
      "..........",
    ]
    got = row_plots.attention_mask(row)
    assert ["".join(".x"[int(x)] for x in line) for line in got] == want

  def test_follows_a_walk_along_the_parents(self):
    # An independent path: a token sees itself and what its parent sees. Random
    # trees; catches what a small case by hand leaves out.
    rng = np.random.default_rng(0)
    for _ in range(20):
      fields, parents = random_row(rng)
      seen = []
      for column, parent in enumerate(parents):
        before = seen[parent] if parent >= 0 else set()
        seen.append(before | {column} if fields["group_ids"][column] else set())
      got = row_plots.attention_mask(fields)
      assert [set(np.flatnonzero(line)) for line in got] == seen


def random_row(rng) -> tuple[dict[str, np.ndarray], list[int]]:
  """A row of random trees with padding behind, and each token's parent."""
  keys = ("group_ids", "branch_ids", "positions", "fork_positions")
  cells, parents = [], []
  for group in range(1, 4):
    start, trunk = len(cells), int(rng.integers(2, 6))
    for branch in range(int(rng.integers(1, 4))):
      fork = int(rng.integers(1, trunk + 1)) if branch else 0
      for depth in range(trunk if not branch else int(rng.integers(1, 4))):
        if depth:
          parents.append(len(cells) - 1)
        else:
          parents.append(start + fork - 1 if branch else -1)
        cells.append((group, branch, fork + depth, fork))
  cells += [(0, 0, 0, 0)] * 3
  parents += [-1] * 3
  columns = np.array(cells).T
  return dict(zip(keys, columns, strict=True)), parents


class TestTexts:
  def test_packed_row_says_what_it_shows(self, tmp_path, monkeypatch, row):
    # Catches padding counted as a group or given a token, and blanks that
    # cannot be seen.
    texts = drawn(monkeypatch)
    row_plots.packed_row(row, [" a$b"] * 10, tmp_path / "a.png")
    assert "One packed row: 2 groups, 8 tokens of 10, 20% padding" in texts
    assert texts.count("·a$b") == 8
    assert [t for t in texts if t.isdigit()] == list("12" + "01201")
    assert "Attention: 21.0% of 10 x 10" in texts  # 21 x in the mask above

  def test_trunks_of_two_groups_are_two(self, tmp_path, monkeypatch):
    # Catches runs of one branch id that are joined over a group's end.
    texts = drawn(monkeypatch)
    row = {key: np.zeros(4, int) for key in ("branch_ids", "fork_positions")}
    row |= {"tokens": np.arange(4), "group_ids": np.array([1, 1, 2, 2])}
    row |= {"positions": np.array([0, 1, 0, 1])}
    row_plots.packed_row(row, ["a"] * 4, tmp_path / "a.png")
    assert [t for t in texts if t.isdigit()] == ["1", "2", "0", "0"]

  def test_no_token_text_where_it_cannot_be_read(self, tmp_path, monkeypatch):
    texts = drawn(monkeypatch)
    zeros = np.zeros(300, int)
    row = {key: zeros for key in ("tokens", "branch_ids", "fork_positions")}
    row |= {"group_ids": zeros + 1, "positions": np.arange(300)}
    row_plots.packed_row(row, ["a"] * 300, tmp_path / "a.png")
    assert "a" not in texts

  def test_histogram_counts_losses(self, tmp_path, monkeypatch):
    # Catches ties counted as losses: 1 of 4 is below 0, one is a tie.
    texts = drawn(monkeypatch)
    score_plots.score_histograms([3, 2, 1, 0], [0, 1, 1, 1], tmp_path / "a.png")
    assert "Score differences: 25.0% below 0, n = 4" in texts

  def test_tokens_are_written_at_their_bars(self, tmp_path, monkeypatch):
    # Catches bars in another order than their names.
    texts = drawn(monkeypatch)
    row_plots.tokens_saved(
      [("alone", 12_000), ("shared", 5)], tmp_path / "a.png", title="t"
    )
    assert texts == ["t", "12,000", "5"]


class TestMargins:
  def figure(self, monkeypatch, path):
    """What the command draws: per panel, text -> box, and all dots."""
    panels: list[dict] = []
    write = canvas.write

    def collect(figure, path):
      figure.draw_without_rendering()
      for axes in figure.axes:
        boxes = {t.get_text(): t.get_window_extent() for t in axes.texts}
        dots = {
          (round(float(x), 6), round(float(y), 6))
          for line in axes.lines
          if line.get_marker() == "o"
          for x, y in zip(*line.get_data(), strict=True)
        }
        panels.append({"boxes": boxes, "dots": dots, "axes": axes.bbox})
      write(figure, path)

    monkeypatch.setattr(canvas, "write", collect)
    monkeypatch.setattr("sys.argv", ["margin_plots", str(path)])
    margin_plots.main()
    return panels

  def test_every_margin_is_named_once_and_can_be_read(
    self, tmp_path, monkeypatch
  ):
    # Catches a new margin that the picture leaves out, one in the wrong panel,
    # and names that lie on each other or outside of the picture.
    panels = self.figure(monkeypatch, tmp_path / "margins.png")
    assert size(tmp_path / "margins.png") == (1000, 600)
    for panel, needs in zip(
      panels, (("chosen_rating", "rejected_rating"), ("strength",)), strict=True
    ):
      names = [text.partition(":")[0] for text in panel["boxes"]]
      want = [name for name in margins.MARGINS if margins.NEEDS[name] == needs]
      assert sorted(names) == sorted(want)
      for text, box in panel["boxes"].items():
        assert box.x0 >= 0 and box.x1 <= 1000 and box.y1 <= 600, text
      for one, other in itertools.combinations(panel["boxes"], 2):
        overlap = panel["boxes"][one].overlaps(panel["boxes"][other])
        assert not overlap, (one, other)

  def test_dots_lie_where_the_equations_say(self, tmp_path, monkeypatch):
    # Catches sides that are swapped, pairs whose label the ratings contradict,
    # and one line of ratings for a margin that depends on more than their
    # difference (rating_relative: 1/9, 1/7, 1/5 and 1/3 at a difference of 1).
    of_ratings, of_strength = (
      panel["dots"] for panel in self.figure(monkeypatch, tmp_path / "m.png")
    )
    for x, y in (
      (3, 3.0),
      (3, math.log(4)),
      (3, math.sqrt(3)),
      (2, 4.0),
      *((1, 1 / n) for n in (9, 7, 5, 3)),
    ):
      assert (x, round(y, 6)) in of_ratings
    assert min(y for _, y in of_ratings) == 0
    assert {x for x, _ in of_ratings} == {0, 1, 2, 3, 4}
    for x, y in ((2, 2 / 3), (2, 2.0), (2, 4 / 3), (1, 0.0), (3, math.log(7))):
      assert (x, round(y, 6)) in of_strength


class TestErrors:
  def test_shapes(self, tmp_path):
    with pytest.raises(UserError, match=r"one shape .* got \(2,\) and \(1,\)"):
      score_plots.score_histograms([1.0, 2.0], [1.0], tmp_path / "a.png")

  def test_empty(self, tmp_path):
    with pytest.raises(UserError, match=r"C > 0, got \(0,\)"):
      score_plots.reliability([], tmp_path / "a.png")

  def test_not_finite(self, tmp_path):
    with pytest.raises(UserError, match="finite scores, got 2 that are not"):
      score_plots.reliability([1.0, math.nan, math.inf], tmp_path / "a.png")

  def test_no_rows(self, tmp_path):
    with pytest.raises(UserError, match="got 1 rows without"):
      draw_curves({"run": [{"step": 1, "seconds": 2.0}]}, tmp_path / "a.png")

  def test_pieces(self, tmp_path, row):
    with pytest.raises(UserError, match="pieces of length 10 .* got 3"):
      row_plots.packed_row(row, ["a"] * 3, tmp_path / "a.png")

  def test_row_arrays(self, tmp_path, row):
    short = row | {"positions": np.arange(4)}
    with pytest.raises(UserError, match=r"row\['positions'\] of length 10"):
      row_plots.packed_row(short, ["a"] * 10, tmp_path / "a.png")
