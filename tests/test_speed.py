"""Tables of pages say what the committed results say."""

import json

import jax
import jax.numpy as jnp
import pytest

from bench import profile, tables

WRITE = "run: python -m bench.tables"
ELSEWHERE = {"real.json"}  # tests/test_real_page.py


def load(name):
  return json.loads((tables.RESULTS / name).read_text())


def test_tables_are_printed_from_their_results():
  # Catches a number edited by hand, and results without their table.
  named = set()
  for page in tables.PAGES:
    text = page.read_text()
    named |= {name for _, name, _ in tables.BLOCK.findall(text)}
    assert tables.fill(text) == text, WRITE
  assert named >= {p.name for p in tables.RESULTS.glob("*.json")} - ELSEWHERE
  scaled = (tables.RESULTS / "scaling.json").exists()
  assert tables.PICTURE.exists() == scaled, WRITE


def test_numbers_of_a_table_by_hand():
  slow = {"repeats": [{"step": [8.0, 9.0]}, {"step": [6.0, 9.0]}]}
  fast = {"repeats": [{"step": [2.0, 3.0]}, {"step": [3.0, 3.0]}]}
  assert tables.ratios(slow, fast) == [4.0, 2.0]
  assert tables.spread(tables.ratios(slow, fast)) == "3.00 (2.00 to 4.00)"
  assert tables.spread([1234.5, 12.34]) == "623 (12.3 to 1,234)"
  with pytest.raises(ValueError):  # rounds that have no partner
    tables.ratios(slow, {"repeats": fast["repeats"][:1]})


@pytest.mark.parametrize(
  "name",
  sorted(
    p.name for p in tables.RESULTS.glob("*.json") if p.name not in ELSEWHERE
  ),
)
def test_results_are_of_a_commit_and_repeated(name):
  result = load(name)
  assert result["commit"] and result["command"].startswith("python ")
  for variant, row in result.get("variants", {}).items():
    assert len(row["repeats"]) >= 3, variant


def test_rows_are_full_and_sharing_saves():
  if not (tables.RESULTS / "layouts.json").exists():
    pytest.skip("bench/results/layouts.json is not measured yet: make speed")
  result = load("layouts.json")
  pairs = result["kinds"]["pairs"]
  rows = pairs["epoch"]["rows"]["shared"]
  assert result["row_len"] == 2_048
  assert rows["computed_tokens"] <= 1.10 * rows["useful_tokens"]
  assert pairs["file"]["shared"] <= 0.63 * pairs["file"]["unshared"]
  # Six samples of PRM800K: 2,439 tokens as forks, by an independent count.
  trees = result["kinds"]["trees"]["file"]
  assert trees["shared"] == pytest.approx(2_439, rel=0.05)


FACTS = {
  "processor": "a processor",
  "cores": 2,
  "bfloat16_hardware": False,
  "versions": {"jax": "0.1"},
  "commit": "abc",
  "load_average": [0.5, 0.5, 0.5],
  "command": "python -m bench.step",
}


def repeats(*walls, parts=()):
  return {
    "repeats": [
      {"step": [w, 2 * w]} | {p: [w / 4, w / 2] for p in parts} for w in walls
    ]
  }


def test_table_of_pairs():
  counts = {"useful_tokens": 400, "computed_tokens": 500}
  how = {"pairs_at_once": 16, "checkpointing": True, "computed_tokens": 1_600}
  result = FACTS | {
    "source": "hh_rlhf",
    "pairs": 16,
    "useful_tokens": 400,
    "unshared_tokens": 600,
    "padded_tokens": 1_600,
    "torch": {"torch": "2", "transformers": "5"},
    "equal": {
      "largest_score_difference": 1e-5,
      "largest_gradient_difference": 2e-5,
      "tensors": 3,
    },
    "variants": {
      "ours float32": counts | repeats(2.0, 4.0, 2.0, parts=tables.PARTS),
      "torch float32": how | repeats(8.0, 8.0, 8.0, parts=tables.PARTS),
    },
  }
  text = tables.pairs(result)
  assert "1,600 : 600 : 400 = 4.00 : 1.50 : 1.00" in text
  # Medians 2 and 8 seconds, each clock; 16 pairs, 400 and 500 tokens in 2.
  line = "| ours float32 | 500 | 2.00 (2.00 to 4.00) | 4.00 (4.00 to 8.00) "
  assert line + "| 0.50 | 0.50 | 0.50 | 8.00 | 200 | 250 |" in text
  assert "**4.00 (2.00 to 4.00) times the pairs a second**" in text
  brief = tables.brief_pairs(result)
  line = "| torch, padded as TRL does by default | 1,600 | 8.00 (8.00 to 8.00) "
  assert line + "| 4.00 (2.00 to 4.00) |" in brief


def test_table_of_rankings():
  def variant(encoded, useful, *walls):
    about = {"k": 9, "encoded": encoded, "useful_tokens": useful}
    return about | {"computed_tokens": 2_048} | repeats(*walls)

  result = FACTS | {
    "sizes": {"9": {"source": "trees", "groups": 1, "comparisons": 36}},
    "variants": {
      "9 shared": variant("shared", 1_000, 2.0, 2.0, 4.0),
      "9 pairs": variant("pairs", 10_000, 24.0, 22.0, 40.0),
    },
  }
  text = tables.rankings(result)
  line = "| K=9, every comparison alone | 1 | 36 | 10,000 | 2,048 "
  assert line + "| 24.0 (22.0 to 40.0) | 10.0 | 11.0 (10.0 to 12.0) |" in text


def test_table_and_picture_of_growth(tmp_path):
  def variant(series, useful, row_len, *walls):
    about = {"series": series, "useful_tokens": useful, "row_len": row_len}
    return about | {"computed_tokens": 2_048} | repeats(*walls)

  result = FACTS | {
    "layers": 6,
    "variants": {
      "a": variant("tokens", 1_000, 1_024, 2.0, 3.0, 4.0),
      "b": variant("tokens", 2_000, 1_024, 6.0, 6.0, 7.0),
      "c": variant("row_len", 2_000, 512, 6.0, 6.0, 7.0),
    },
  }
  text = tables.scaling(result)
  assert text.count("| 2,000 | 2,000 | 2,048 | 1024 | 6.00") == 1
  assert "| 512 | 2,000 | 2,048 | 512 | 6.00 (6.00 to 7.00) |" in text
  assert "| 3.00 | 6.00 |" in text  # 3 s of 1,000 tokens, 6 of the processor
  tables.draw(result, tmp_path / "out.png")
  assert (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG"


def test_table_of_the_start():
  entry = {
    "seconds": {"median": 20.0, "all": [20.0, 30.0, 19.0]},
    "cpu_seconds": {"median": 25.0, "all": [25.0, 25.0, 26.0]},
    "stages": {"imports": 3.0, "model": 1.5, "data": 9.0, "plan": 0.1, "x": 2},
  }
  result = {
    "command": "python bench/startup.py",
    "config": "one",
    "device": "1 x cpu",
    "versions": {"jax": "0.1"},
    "commit": {"after": "abc"},
    "load": [0.5, 0.5, 0.5],
    "measured": {"after": {"cold": entry, "warm": entry}},
  }
  text = tables.startup(result)
  line = (
    "| after (commit abc), warm caches | 20.0 (19.0 to 30.0) | 25.0 (25.0 to"
  )
  assert line in text
  assert "| data 9.00, imports 3.00, x 2.00, model 1.50 |" in text


def test_table_of_rollouts():
  # Catches seconds of all labels, columns that change places.
  about = {
    "samples": 16,
    "labels": 200,
    "encoded_tokens_per_label": 2.33,
    "encoded_alone_per_label": 9.61,
    "sampled_tokens_per_label": 99.5,
    "rmse_to_exact": 0.1234,
    "hard_label_is_the_lines": 0.875,
  }
  both = [
    {"step": [2.0, 3.0], "alone": [4.0, 5.0]},
    {"step": [1.0, 3.0], "alone": [4.0, 7.0]},
    {"step": [2.0, 3.0], "alone": [6.0, 5.0]},
  ]
  result = FACTS | {"variants": {"samples 16": about | {"repeats": both}}}
  # 1, 2, 2 seconds of 200 labels are 5, 10, 10 ms of one.
  line = (
    "| 16 | 200 | 2.33 | 9.61 | 99.5 | 10.0 (5.00 to 10.0) "
    "| 20.0 (20.0 to 30.0) | 15.0 (15.0 to 15.0) | 25.0 (25.0 to 35.0) "
    "| 0.1234 | 87.5% |"
  )
  assert line in tables.rollouts(result)


def test_table_of_a_profile():
  kinds = ("forward", "input_gradient", "weight_gradient")
  rates = {"q, o": dict.fromkeys(kinds, 90)}
  result = FACTS | {
    "traced": {
      "norms": {"forward": 1.0, "backward": 2.0},
      "rest": {"again": 1},
    },
    "teraflops": {"products": 0.3, "attention": 0.1},
    "gradient": [8.0, 12.0],
    "optimizer": [1.0, 1.5],
    "limit": [{"dtype": "float32", "products": rates, "all": 100}],
  }
  text = tables.profile(result)
  assert "| norms | 1.00 |  | 2.00 | 3.00 | 75% |" in text
  # 0.4 Tflop in 8 s are 50 GFLOP/s of 100.
  assert "at 50.0 GFLOP/s" in text and "reaches 50% of that" in text


def test_operations_are_put_down_to_their_part():
  name = "jit(f)/transpose(jvp(Decoder))/while/body/checkpoint/"
  cases = {
    "jit(f)/jvp(Decoder)/while/body/layers_0/mlp/up/bti,io->bto/dot_general": (
      "matrices of the MLP",
      "forward",
    ),
    name + "rematted_computation/layers_0/attn/while/body/exp": (
      "attention between tokens",
      "again",
    ),
    name + "layers_0/attn/q/ni,no->io/dot_general": (
      "matrices of attention",
      "backward",
    ),
    name + "layers_0/mlp_norm/mul": ("norms", "backward"),
    name + "layers_0/mlp/jit(silu)/mul": ("activation", "backward"),
    "jit(f)/while/body/add": (profile.OTHER, "forward"),
  }
  for operation, want in cases.items():
    assert (profile.part_of(operation), profile.pass_of(operation)) == want
  table = profile.by_part({name: 1.0 for name in cases})
  assert sum(sum(row.values()) for row in table.values()) == len(cases)


def test_a_trace_names_what_ran():
  # Wrong: names that another version of jax gives, and a table of nothing.
  def run(x):
    return jnp.tanh(x @ x).sum()

  x = jnp.ones((256, 256))
  spent = profile.trace(jax.jit(run).lower(x).compile(), (x,))
  assert spent and all(name.startswith("jit(run)") for name in spent)
  assert sum(spent.values()) > 0
