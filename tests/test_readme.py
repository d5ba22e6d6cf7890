"""The README is true: its tables, its files, its commands."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from rm_jax.config import validate
from rm_jax.data.catalogue import format_table
from rm_jax.evals import arms, seeds
from rm_jax.losses import KIND, LOSSES
from rm_jax.margins import MARGINS
from rm_jax.models.families import READERS
from rm_jax.objectives import SUMS
from rm_jax.train.tasks import read_tasks
from rm_jax.verbs import VERBS

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
COMMANDS = [
  line.split("#")[0].strip() for b in BLOCKS for line in b.splitlines() if line
]
RM_JAX = [c for c in COMMANDS if c.startswith("rm-jax ")]
MAKE = [c for c in COMMANDS if c.startswith("make ")]
TABLE = re.compile(r"<!-- table (\S+) -->\n(.*?)<!-- end -->", re.DOTALL)


def table(results: dict) -> str:
  """The table of a comparison of arms, or of one run's seeds."""
  return (arms if "arms" in results else seeds).table(results)


def test_tables_are_printed_from_their_results():
  # Catches a number edited by hand, and results without their table.
  found = TABLE.findall(README)
  assert len(found) == 2
  for path, text in found:
    results = json.loads((ROOT / path).read_text())
    assert text.strip() == table(results).strip(), f"run: {WRITE}"


WRITE = "python tests/test_readme.py"


def test_the_page_about_data_lists_every_format():
  text = (ROOT / "docs/data.md").read_text()
  found = re.search(r"<!-- formats -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
  assert found[1] == format_table(), "run: python -m rm_jax.data.catalogue"


def test_the_config_of_the_page_about_data_is_one(tmp_path):
  text = (ROOT / "docs/data.md").read_text()
  names = {}
  exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], names)
  c = names["get_config"]()
  validate(c)
  assert [t.name for t in read_tasks(c)] == ["", "safety"]


def test_numbers_of_losses_and_margins():
  losses = sum(KIND[n] in SUMS for n in LOSSES)
  assert f"`config.loss.name` is one of {losses}:" in README
  assert "one of fifteen:" in README and len(MARGINS) == 15


def test_the_number_of_families_is_that_of_their_page():
  text = (ROOT / "docs/families.md").read_text()
  table = re.search(r"\| family \|.*?\n\n", text, re.DOTALL)[0]
  rows = re.findall(r"^\| [^|]+ \| (`[^|]+`) \|", table, re.MULTILINE)[1:]
  assert "safetensors of thirteen families" in README and len(rows) == 13
  types = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
  assert types == set(READERS) | {"gemma3"}  # whose text half is gemma3_text


def test_pictures_and_links_exist():
  links = re.findall(r"\]\(([^)#]+)[^)]*\)", README)
  assert links
  missing = [x for x in links if not (ROOT / x).exists()]
  assert not missing


@pytest.mark.parametrize("command", MAKE)
def test_make_targets_exist(command):
  target = shlex.split(command)[1]
  assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


# What a command ends with where its files are missing: it was understood.
MISSING = {
  "train": "pairs.jsonl",
  "doctor": "pairs.jsonl",
  "eval": "test",
  "score": "to_score",
  "report": "mine: expected the workdir",
  "export": "mine: expected a run's workdir",
  "plan": "rows_per_batch=0 must be 1 or more",
}
# A plan misses no file: it would be made, where the compiler is installed.
SPOILT = {"plan": ["--config.data.rows_per_batch=0"]}


@pytest.mark.parametrize("command", RM_JAX)
def test_commands_are_understood(command, tmp_path):
  # Catches a flag or config key that the README names and the code lost.
  _, verb, *rest = shlex.split(command)
  assert verb in VERBS
  rest = [x.replace("runs/mine", str(tmp_path / "mine")) for x in rest]
  rest += SPOILT.get(verb, [])
  done = subprocess.run(
    [sys.executable, "-m", "rm_jax", verb, *rest],
    cwd=ROOT,
    env=os.environ | {"XLA_FLAGS": ""},  # one device, as a newcomer has
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2, done.stderr
  assert MISSING[verb] in done.stderr
  assert "--" not in done.stderr.split(MISSING[verb])[0]  # no flag is at fault


def test_the_first_picture_and_the_demo_are_of_the_same_runs():
  # Catches a README whose example names a run that the demo does not make.
  makefile = (ROOT / "Makefile").read_text()
  for run in re.findall(r"runs/demo/(\w+-\d)", README):
    assert re.search(rf"^DEMO = .*\b{run}\b", makefile, re.M), run


def test_config_files_in_the_text_exist():
  for path in re.findall(r"configs/\w+\.py", README):
    assert (ROOT / path).exists(), path


def write() -> None:
  """Prints every table of the README anew from its results."""

  def fill(match):
    results = json.loads((ROOT / match[1]).read_text())
    return f"<!-- table {match[1]} -->\n{table(results)}\n<!-- end -->"

  (ROOT / "README.md").write_text(TABLE.sub(fill, README))


if __name__ == "__main__":
  write()
