"""`rm-jax doctor`: the command, its three files, a suggestion that parses."""

import html.parser
import json
import os
import subprocess
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from rm_jax.config import validate
from rm_jax.data.doctor.report import INDENT, WIDTH
from rm_jax.data.doctor.suggest import allowed, for_loss, suggest
from rm_jax.data.doctor.suggest import flags as as_flags
from rm_jax.data.doctor.survey import survey
from rm_jax.data.sources import read_records
from rm_jax.losses import KIND, LOSSES, PARAMETERS
from rm_jax.objectives import SUMS
from rm_jax.train.tasks import read_tasks
from tests import tiny_run

ROOT = tiny_run.ROOT


def doctor(*arguments):
  """(exit code, stdout, stderr) of the command."""
  done = subprocess.run(
    [sys.executable, "-m", "rm_jax", "doctor", *map(str, arguments)],
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )
  return done.returncode, done.stdout, done.stderr


class Page(html.parser.HTMLParser):
  """Tags that are open, words, and everything that would be fetched."""

  VOID = ("meta", "br", "hr", "img", "link", "input")

  def __init__(self, text):
    super().__init__()
    self.open, self.words, self.fetched, self.tags = [], [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    self.tags.append(tag)
    for name, value in attributes:
      if name in ("src", "href", "action", "data", "srcset"):
        self.fetched.append(value)
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag, f"<{tag}> closed out of order"

  def handle_data(self, data):
    if "style" not in self.open:
      self.words.append(data)


ROWS = [
  *tiny_run.pairs(8),
  {"prompt": 'A <b> & "c" ?', "chosen": "One .", "rejected": "Two ."},
  {"prompt": 'A <b> & "c" ?', "chosen": "Two .", "rejected": "One ."},
  {"prompt": "Empty ?", "chosen": " ", "rejected": "Two ."},
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """(folder, text) of one report with a tokenizer and another data set."""
  folder = tmp_path_factory.mktemp("doctor")
  data = tiny_run.write_rows(folder / "pairs.jsonl", ROWS)
  other = tiny_run.write_rows(folder / "test.jsonl", ROWS[:2])
  # load_tokenizer wants the folder of a model.
  model = tiny_run.write_tokenizer(folder / "tokenizer")
  (model / "config.json").write_text("{}")
  code, out, err = doctor(
    f"--data={data}",
    f"--against={other}",
    f"--model={model}",
    f"--out={folder / 'report'}",
    "--row_len=32",
  )
  assert code == 0, err
  assert "records/s" not in err  # no bar where nobody looks
  return folder / "report", out


def test_the_text_fits_and_says_what_was_planted(made):
  # Catches lines that wrap in a terminal: only a place or flag may be longer,
  # which a line break would make useless.
  _, text = made
  for line in text.splitlines()[1:]:
    free = INDENT + "--config." in line or "/" in line
    assert len(line) <= WIDTH or free, line
  assert "11 read: 10 records, 1 rejected" in text
  assert "error   shared_prompt: 2 of 10 records (20.0 %)" in text
  assert "warning contradictions: 1 of 9 judged pairs (11.1 %)" in text
  assert "at pairs.jsonl:10 <> pairs.jsonl:9" in text
  assert "the chosen completion is empty\n    at pairs.jsonl:11" in text


def test_the_page_stands_alone_and_shows_every_number(made):
  # Catches text that is not escaped, a tag left open, a font or script from
  # elsewhere, a finding that the page forgets.
  folder, text = made
  source = (folder / "doctor.html").read_text("utf-8")
  page = Page(source)
  assert page.open == [] and page.fetched == []
  assert "script" not in page.tags and "link" not in page.tags
  assert "http" not in source and "url(" not in source
  assert "@media print" in source and "prefers-color-scheme: dark" in source
  assert "width=device-width" in source
  words = " ".join(" ".join(page.words).split())
  report = json.loads((folder / "doctor.json").read_text("utf-8"))
  assert page.tags.count("article") == len(report["findings"])
  shown = " ".join(text.split())
  for finding in report["findings"]:
    numbers = [finding["count"], finding["total"]]
    numbers += [count for _, count in finding["table"]]
    for number in numbers:
      assert f"{number:,}" in words and f"{number:,}" in shown
    share = f"{100 * finding['share']:.1f} %"
    assert finding["total"] == 1 or (share in words and share in shown)
    for name, value in finding["numbers"].items():
      if name in ("low", "high"):
        value = f"{100 * value:.1f} %"
      else:
        value = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
      assert value in words and value in shown, name
    for place in finding["examples"]:
      assert place in words and place in shown


def test_the_json_adds_up(made):
  folder, _ = made
  report = json.loads((folder / "doctor.json").read_text("utf-8"))
  assert (report["records"], report["rejects"]) == (10, 1)
  assert sum(report["severities"].values()) == len(report["findings"])
  for f in report["findings"]:
    assert f["share"] == f["count"] / f["total"] <= 1, f["name"]
  rejects = (folder / "rejects.jsonl").read_text().splitlines()
  (reject,) = map(json.loads, rejects)
  assert reject["line"] == 11 and reject["file"].endswith("pairs.jsonl")


# ---------------------------------------------------------------- suggestion


def ranked(ranks):
  texts = ["One .", "Two .", "Six ."][: len(ranks)]
  return {"prompt": "Which ?", "completions": texts, "ranks": ranks}


PAIR = {"prompt": "Which ?", "chosen": "One .", "rejected": "Two ."}
FITTING = {
  "pairs": ([PAIR], {"loss.name": "bradley_terry"}),
  "strength": (
    [{**PAIR, "strength": 2}],
    {"loss.name": "bradley_terry_margin", "loss.margin": "llama2_small"},
  ),
  "margin": (
    [{**PAIR, "margin": 0.5}],
    {"loss.name": "bradley_terry_margin", "loss.margin": "record"},
  ),
  "ties": ([PAIR, {**PAIR, "tie": True}], {"loss.name": "davidson"}),
  "votes": ([{**PAIR, "votes": [2, 1]}], {"loss.name": "bradley_terry_soft"}),
  "ranking of two": ([ranked([2, 1])], {"loss.name": "bradley_terry"}),
  "ranking of three": ([ranked([1, 2, 2])], {"loss.name": "all_pairs"}),
  "outcome": (
    [{"prompt": "Which ?", "completion": "One .", "label": True}],
    {"loss.name": "outcome_cross_entropy", "model.head": "biased_scalar"},
  ),
  "steps": (
    [{"prompt": "Which ?", "completions": ["One", "Two."], "labels": [1, 0]}],
    {
      "loss.name": "step_binary_cross_entropy",
      "model.head": "biased_scalar",
      "model.pooling": "step_ends",
    },
  ),
  "ratings": (
    [{"prompt": "Which ?", "completions": ["a.", "b."], "ratings": [1, 4]}],
    {"loss.name": "squared_error", "model.head": "biased_scalar"},
  ),
}


def parsed(keys) -> object:
  """The demo's config after the flags, as the command line reads them."""
  # The shell takes the quotes away.
  words = subprocess.run(
    ["sh", "-c", f"printf '%s\\n' {' '.join(as_flags(keys))}"],
    capture_output=True,
    text=True,
    check=True,
  ).stdout.splitlines()
  with pytest.MonkeyPatch.context() as patch:
    words = ["rm-jax", f"--config={ROOT / 'configs' / 'demo.py'}", *words]
    patch.setattr(sys, "argv", words)  # where keys are looked for
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    values(words)
  return values.config


def suggested(path, rows):
  tiny_run.write_rows(path, rows)
  found = survey(read_records(path), root=path)
  return suggest(found, source=str(path), kind="auto")


@pytest.mark.parametrize("name", FITTING)
def test_the_suggestion_fits_the_data_and_parses(tmp_path, name):
  # Catches a key that config.py does not have, a loss that does not fit the
  # suggested head, a value that a flag reads as another type.
  rows, want = FITTING[name]
  keys = suggested(tmp_path / "a b.jsonl", rows)
  assert {k: v for k, v in keys.items() if not k.startswith("data.")} == want
  config = parsed(keys)
  validate(config)
  assert read_tasks(config)[0].supervision.loss == want["loss.name"]
  assert config.data.source == str(tmp_path / "a b.jsonl")


def test_attributes_are_a_tuple_on_the_command_line():
  keys = {
    "loss.name": "squared_error",
    "model.head": "attributes",
    "model.attributes": ("help ful", "it's"),
    "data.source": "x.jsonl",
  }
  config = parsed(keys)
  validate(config)
  assert tuple(config.model.attributes) == ("help ful", "it's")


@pytest.mark.parametrize("loss", [n for n in LOSSES if KIND[n] in SUMS])
def test_any_loss_that_trains_can_be_asked_for(tmp_path, loss):
  # Catches a parameter that the doctor leaves unset, a head that does not fit.
  keys = suggested(tmp_path / "a.jsonl", [PAIR])
  keys = for_loss(loss, KIND[loss], PARAMETERS[loss], keys)
  config = parsed(keys)
  validate(config)
  assert read_tasks(config)[0].loss.name == loss


def test_nothing_labelled_suggests_nothing(tmp_path):
  rows = [{"prompt": "Which ?", "completions": ["One .", "Two ."]}]
  assert suggested(tmp_path / "a.jsonl", rows) == {}


@pytest.mark.parametrize(
  ("share", "want"), [(0, 0.02), (0.021, 0.03), (0.15, 0.15), (0.5, 0.02)]
)
def test_the_allowed_rejects(share, want):
  # Above a fifth the data are to be corrected; a config that allows it all
  # would hide that.
  assert allowed(share) == pytest.approx(want)


# ---------------------------------------------------------------- mistakes


def test_mistakes_are_one_line(tmp_path):
  empty = tiny_run.write_rows(tmp_path / "empty.jsonl", [])
  bad = tiny_run.write_rows(tmp_path / "bad.jsonl", [{"a": 1}, {"a": 2}])
  good = tiny_run.write_rows(tmp_path / "good.jsonl", [PAIR])
  for arguments, want in (
    ([], "--data is missing: see rm-jax doctor --help"),
    ([f"--data={empty}"], f"{empty} holds no records"),
    (
      [f"--data={bad}"],
      f"{bad} holds no usable record, expected at least one: 2 rows are "
      "rejected, 2 of them as bad.jsonl:1: unrecognised record",
    ),
    ([f"--data={tmp_path / 'god.jsonl'}"], "does not exist (nearest there: "),
    ([f"--data={good}", "--loss=hinge"], "add --model, such as --model=smo"),
    (
      [f"--data={good}", f"--against={bad}"],
      f"{bad} holds no usable record to compare with",
    ),
    (
      [f"--data={good}", "--loss=bt", "--model=x"],
      "--loss=bt is not known. Known: ['all_pairs'",
    ),
  ):
    code, out, err = doctor(*arguments)
    lines = [x for x in err.splitlines() if not x.startswith("[transformers]")]
    assert code == 2 and out == "" and len(lines) == 1, (arguments, out, err)
    assert lines[0].startswith("rm-jax: error: ") and want in lines[0]


def test_text_checks_need_no_jax(tmp_path):
  # Catches an import at the top: looking at a file would take seconds.
  good = tiny_run.write_rows(tmp_path / "good.jsonl", [PAIR] * 3)
  code = f"""
import sys
from rm_jax.evals.doctor import diagnose
text = diagnose({str(good)!r}, against="", model="", row_len=64, kind="auto",
  template="auto", read_at="end_of_turn", loss="", out="", max_records=2,
  command="")
assert "jax" not in sys.modules and "grain" not in sys.modules
print(text)
"""
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2_000:]
  assert "2 read: 2 records, 0 rejected" in done.stdout  # max_records
  assert "text checks only" in done.stdout
