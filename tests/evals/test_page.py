"""The page: that it parses, stands alone, and shows what it was given."""

import html.parser
import math

import numpy as np

from rm_jax.evals import canvas, page
from rm_jax.evals.examples import Branch, Example

VOID = {"meta", "img"}


class Parsed(html.parser.HTMLParser):
  """What a page holds: tags that do not close, images, data, text, links."""

  def __init__(self, text: str):
    super().__init__()
    self.open: list[str] = []
    self.images: list[dict] = []
    self.data: list[tuple] = []
    self.links: list[str] = []
    self.text: list[str] = []
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attrs):
    values = dict(attrs)
    self.links += [v for k, v in attrs if k in ("href", "src", "action")]
    if tag == "img":
      self.images.append(values)
    if tag == "data":
      self.data.append((values["class"], float(values["value"])))
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open and self.open[-1] == tag, (tag, self.open)
    self.open.pop()

  def handle_data(self, data):
    self.text.append(data)


def check_alone(text: str, *, pictures: int) -> Parsed:
  """The page parsed, after the checks that hold for every page."""
  found = Parsed(text)
  assert found.open == []
  assert len(found.images) == pictures
  for image in found.images:
    assert image["src"].startswith("data:image/png;base64,")
    assert len(image["alt"]) > 20
  assert all(link.startswith("data:") for link in found.links)
  assert "<script" not in text and "url(" not in text and "@import" not in text
  assert '<meta name="viewport"' in text and "@media print" in text
  assert "prefers-color-scheme: dark" in text
  assert len(text.encode()) < 3_000_000
  return found


def build(tmp_path, **changes) -> str:
  how = dict(lead="Found.", boxes=[], sections=[], absent=[], folder=tmp_path)
  return page.html_page("A <run>", **how | changes)


def test_text_of_the_data_is_text(tmp_path):
  # Catches a completion that writes HTML into the page.
  evil = '<script>alert("x")</script>&amp;'
  branch = Branch(evil, 2, 3, 1.0, math.nan, evil)
  example = Example(evil, 2, (branch,), 0, 0)
  text = build(
    tmp_path,
    lead=evil,
    boxes=[(evil, evil)],
    sections=[page.Section(evil, (evil,), body=page.tree(example))],
    absent=[evil],
  )
  found = check_alone(text, pictures=0)
  # Lead 1, box 2, heading, paragraph, tree 3, absent.
  assert "".join(found.text).count(evil) == 9


def test_pictures_are_inside(tmp_path):
  figure, _ = canvas.new(2.0, 1)
  canvas.write(figure, tmp_path / "a.png")
  said = 'Two "lines" over the train steps'
  section = page.Section("S", (), (("a.png", said),))
  found = check_alone(build(tmp_path, sections=[section]), pictures=1)
  assert found.images[0]["alt"] == said


def test_a_number_is_exact_for_machines_and_short_for_people():
  # Catches rounding twice, and a null that becomes 0.
  third = 1 / 3
  found = Parsed(page.datum(third, "loss"))
  assert found.data == [("loss", third)] and found.text == ["0.3333"]
  assert page.datum(None, "loss") == page.datum(math.nan, "loss") == "&ndash;"


def test_table_of_metrics_has_each_number_once():
  metrics = {
    "accuracy": dict(value=0.75, low=0.5, high=1.0, n=1200),
    "loss": dict(value=None, low=None, high=None, n=None),
  }
  found = Parsed(page.metric_table(metrics))
  assert found.data == [("accuracy", 0.75), ("low", 0.5), ("high", 1.0)]
  assert "1,200" in found.text


def test_tree_shows_forks_and_the_completion_that_is_the_trunk():
  # Catches bars of a division by 0 and forks that are not told apart.
  example = Example(
    "trunk",
    5,
    (
      Branch("", 5, 0, 1.0, 2.5, "rank 0"),
      Branch("late", 5, 2, 1.0, math.nan, ""),
      Branch("early", 3, 4, 1.0, math.nan, ""),
    ),
    1.5,
    2,
  )
  text = page.tree(example)
  assert "rank 0, gold 2.5, all of it is the trunk" in text
  assert text.count("leaves the trunk after 3 tokens") == 1
  assert "1.5 of 2 comparisons right" in text and "5 tokens" in text
  assert text.count("width:100.0%") == 3


def test_long_texts_lose_their_middle():
  text = "".join(chr(97 + n % 26) for n in np.arange(5_000))
  short = page.shortened(text)
  assert len(short) < 800 and "4,300 characters" in short
  assert short.startswith(text[:350]) and short.endswith(text[-350:])
  assert page.shortened(text[:700]) == text[:700]
