"""docs/speed.md says what the committed results say."""

import json

import pytest

from bench import tables

WRITE = "run: python -m bench.tables"


def load(name):
  return json.loads((tables.RESULTS / name).read_text())


def test_tables_are_printed_from_their_results():
  # Catches a number edited by hand, and results without their table.
  text = tables.PAGE.read_text()
  named = {name for _, name, _ in tables.BLOCK.findall(text)}
  assert named == {p.name for p in tables.RESULTS.glob("*.json")}
  assert tables.fill(text) == text, WRITE
  assert (tables.ROOT / "docs" / "speed.png").exists(), WRITE


def test_numbers_of_a_table_by_hand():
  slow = {"repeats": [{"step": [8.0, 9.0]}, {"step": [6.0, 9.0]}]}
  fast = {"repeats": [{"step": [2.0, 3.0]}, {"step": [3.0, 3.0]}]}
  assert tables.ratios(slow, fast) == [4.0, 2.0]
  assert tables.spread(tables.ratios(slow, fast)) == "3.00 (2.00 to 4.00)"
  assert tables.spread([1234.5, 12.34]) == "623 (12.3 to 1,234)"
  with pytest.raises(ValueError):  # rounds that have no partner
    tables.ratios(slow, {"repeats": fast["repeats"][:1]})


@pytest.mark.parametrize(
  "name", sorted(p.name for p in tables.RESULTS.iterdir())
)
def test_results_are_of_a_commit_and_repeated(name):
  result = load(name)
  assert result["commit"] and result["command"].startswith("python -m bench.")
  for variant, row in result.get("variants", {}).items():
    assert len(row["repeats"]) >= 3, variant


def test_rows_are_full_and_sharing_saves():
  result = load("layouts.json")
  pairs = result["kinds"]["pairs"]
  rows = pairs["epoch"]["rows"]["shared"]
  assert result["row_len"] == 2_048
  assert rows["computed_tokens"] <= 1.10 * rows["useful_tokens"]
  assert pairs["file"]["shared"] <= 0.63 * pairs["file"]["unshared"]
  # Six samples of PRM800K: 2,439 tokens as forks, by an independent count.
  trees = result["kinds"]["trees"]["file"]
  assert trees["shared"] == pytest.approx(2_439, rel=0.05)
