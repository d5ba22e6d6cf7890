"""The table of losses: read from the docstrings, and the page that holds it."""

import pathlib
import re
import runpy

import pytest

from rm_jax.losses import KIND, LOSSES, NEEDS, PARAMETERS, table
from rm_jax.pooling import POOLINGS

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "losses.md"


def cells(line):
  """The cells of a markdown row; an escaped bar is part of one."""
  parts = re.split(r"(?<!\\)\|", line)
  return [part.strip() for part in parts[1:-1]]


def test_one_row_a_loss_with_all_its_cells():
  # Catches a loss left out, an equation that is cut at its bar, and a source
  # that ends in "et al".
  rows = [cells(row) for row in table.loss_table().splitlines()]
  header, rule, *rows = rows[: 2 + len(LOSSES)]
  assert len(header) == len(rule) == 6
  assert [row[0] for row in rows] == [f"`{name}`" for name in LOSSES]
  for name, row in zip(LOSSES, rows, strict=True):
    _, equation, source, kind, needs, parameters = row
    assert re.match(r"`\w+( =|\()", equation), equation
    assert equation.count("`") % 2 == 0 and "``" not in equation
    assert equation.count("(") == equation.count(")")
    assert source.count("(") == source.count(")")
    assert re.search(r"\d{4}|^no paper", source), source
    assert not source.endswith((" al", ".", ",", ":"))
    assert (kind, needs) == (KIND[name], NEEDS[name])
    for key in PARAMETERS[name]:
      assert f"`{key}`" in parameters


def test_the_learnt_parameter_is_named():
  # Catches a table in which a parameter that training finds has to be set.
  rows = {
    cells(row)[0]: cells(row)
    for row in table.loss_table().splitlines()
    if row.startswith("| `")
  }
  assert rows["`davidson`"][-1] == "`log_tie` (learnt)"


def test_continued_lines_are_joined_and_sources_cut():
  # Catches a sentence that ends at "et al. 2024", and lines that are lost.
  def loss():
    """Something, one value each.

        loss = a
               + b
        a = c

    Source: One et al. 2024 (Name), arXiv:1, Sec. 2.6, its
    form. Another sentence. A third.
    """

  assert table.equation(loss) == ["loss = a + b", "a = c"]
  assert (
    table.source(loss) == "One et al. 2024 (Name), arXiv:1, Sec. 2.6, its form"
  )


def test_a_docstring_without_its_parts_is_an_error():
  # Catches a row that is empty, or holds prose for an equation.
  def loss():
    """Something.

    No equation.
    """

  with pytest.raises(ValueError, match="loss: expected an equation, indented"):
    table.equation(loss)
  with pytest.raises(ValueError, match="loss: expected a paragraph 'Source"):
    table.source(loss)


def test_combinations_name_what_exists():
  # Catches a pooling or a loss that was renamed.
  for _, keys, _, _ in table.COMBINATIONS:
    settings = dict(key.split("=") for key in keys.split())
    assert settings["loss.name"] in LOSSES
    assert settings["model.pooling"] in POOLINGS


def test_the_page_is_the_table():
  # Catches a loss that was changed and a page that was not: print it again with
  # python -m rm_jax.losses.table.
  head, _, rest = PAGE.read_text("utf-8").partition("\n| name |")
  assert head.startswith("# Losses\n")
  assert "| name |" + rest == table.loss_table() + "\n"


def test_the_module_prints_it(capsys):
  # Catches a command in the page that does nothing.
  runpy.run_path(table.__file__, run_name="__main__")
  assert capsys.readouterr().out == table.loss_table() + "\n"
