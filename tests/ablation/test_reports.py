"""What an experiment says: results, verdicts, READMEs, pictures."""

import json
import math
import pathlib
import statistics

import pytest
from ablation_designs import (
  EVERY,
  FOUR,
  do_jobs,
  in_process,
  rewrite,
  write_toy,
)

from rm_jax.ablation.design import load_design
from rm_jax.ablation.pool import Job
from rm_jax.ablation.report import (
  filled,
  report_experiments,
  summary,
  table,
)
from rm_jax.ablation.series import points
from rm_jax.types import UserError

ROOT = pathlib.Path(__file__).parents[2]


def test_a_readme_says_how_many_trained_side_by_side(tmp_path):
  folder = write_toy(tmp_path)
  do_jobs(folder, EVERY)
  for job in EVERY[:2]:  # as if seed 0 had been alone
    path = folder / f"jobs/{job.name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vmapped": []}))
  for job in EVERY[2:]:
    path = folder / f"jobs/{job.name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vmapped": [7]}))
  assert in_process(folder) == 0
  text = (folder / "toy/README.md").read_text()
  assert "trained 7 side by side, seconds are shares" in text
  results = json.loads((folder / "toy/results.json").read_text())
  assert results["vmapped"] == [7]


def test_the_whole_size_writes_results_and_readme(tmp_path, capsys):
  folder = write_toy(tmp_path)
  do_jobs(folder, EVERY)
  assert in_process(folder) == 0
  results = json.loads((folder / "toy/results.json").read_text())
  assert results["verdict"] == "reproduced" and results["commit"] == ["abc"]
  assert results["metrics"]["more/size"]["n"] == 8
  assert set(results["per_seed"]) == set(map(str, range(8)))
  more = [v["more/size"] for v in results["per_seed"].values()]
  less = [v["less/size"] for v in results["per_seed"].values()]
  mean = sum(a - b for a, b in zip(more, less, strict=True)) / 8
  assert results["outcomes"][0]["mean"] == pytest.approx(mean)
  assert results["curves"]["more"][1]["size"] == pytest.approx(
    2 * sum(more) / 8
  )
  readme = (folder / "toy/README.md").read_text()
  assert f"{mean:+.4f}" in readme and "**reproduced**" in readme
  assert "12,000" in readme and "commit abc" in readme
  assert (folder / "toy/plot.png").stat().st_size > 5_000
  assert "| reproduced |" in (folder / "README.md").read_text()
  assert "reproduced" in capsys.readouterr().out


def test_the_summary_says_what_all_of_them_found_and_take(tmp_path):
  # Wrong: the seconds of the last one for those of all; one that did not run
  # counted as one of no seconds; verdicts in the order in which they came; a
  # mean of -0.00001 as -0.0000.
  folder = write_toy(tmp_path)
  for name, seconds, verdict in (
    ("first", 1_500.4, "invalid"),
    ("second", 9_300.0, "null"),
  ):
    (tmp_path / "toy").rename(tmp_path / name)
    write_toy(folder)
    do_jobs(folder, EVERY)
    assert in_process(folder) == 0
    path = folder / "toy/results.json"
    own = {"job_seconds": seconds, "verdict": verdict}
    results = json.loads(path.read_text()) | own
    results["outcomes"][0]["mean"] = -1e-5
    (folder / name / "results.json").write_text(json.dumps(results))
    path.unlink()
  lines = summary(folder).splitlines()
  assert ": +0.0000 [" in lines[2] and ": +0.0000 [" in lines[3]
  assert [line.split(" | ")[-1] for line in lines[:5]] == [
    "seconds of jobs |",
    "|---|---|---|---|---|---|",
    "1,500 |",
    "9,300 |",
    "|",
  ]
  assert lines[5:] == [
    "",
    "2 of mini have run (1 null, 1 invalid): 10,800 seconds of jobs, 3.0 hours "
    "of one worker.",
  ]


def test_an_interaction_is_a_difference_of_differences(tmp_path):
  # (more - less) - (best - worst), seed by seed: wrong signs, the spread of
  # means instead of the differences'.
  folder = write_toy(tmp_path)
  rewrite(folder, *FOUR)
  rewrite(folder, 'published="+2"', 'minus=("best", "worst"), published="+2"')
  arms = ("more", "less", "best", "worst")
  do_jobs(folder, [Job(a, seed) for seed in range(8) for a in arms])
  assert in_process(folder) == 0
  results = json.loads((folder / "toy/results.json").read_text())
  each = [
    v["more/size"] - v["less/size"] - v["best/size"] + v["worst/size"]
    for v in results["per_seed"].values()
  ]
  told = results["outcomes"][0]
  assert told["mean"] == pytest.approx(sum(each) / 8)
  spread = statistics.stdev(each) / math.sqrt(8)
  assert told["high"] - told["mean"] == pytest.approx(2.364624 * spread)


SECOND = """
    dict(name="less over more", metric="size", arm="less", less="more",
         expected=0, published="0", comparable="a toy"),
  ),
  checks="""


def test_a_difference_without_a_claimed_sign_is_told_as_such(tmp_path):
  # Wrong: "reversed" for a row that claims nothing, a dot at 0 in the picture.
  folder = write_toy(tmp_path)
  rewrite(folder, "\n  ),\n  checks=", SECOND)
  do_jobs(folder, EVERY)
  assert in_process(folder) == 0
  results = json.loads((folder / "toy/results.json").read_text())
  first, second = results["outcomes"]
  assert first["verdict"] == results["verdict"] == "reproduced"
  assert second["verdict"] == "no claim: lower"
  assert second["mean"] == -first["mean"] and second["agree"] == 8
  readme = (folder / "toy/README.md").read_text()
  assert "| no claim: lower (8 of 8 seeds) | 0 | a toy |" in readme


ARMS = ("more", "less")
NEW = """
    dict(name="no less than more", metric="size", arm="more", less="less",
         expected=1, published="+3", comparable="nothing"),"""
PANELS = """
  panels=(
    dict(title="here", metrics=dict(size="S", tokens="T"),
         gains=dict(gain=("more", "less"))),
    dict(title="there", metrics=dict(size="S"),
         gains=dict(loss=("less", "more"))),
  ),
  tuning="""


def test_panels_are_drawn_and_their_table_is_paired_over_seeds(tmp_path):
  folder = write_toy(tmp_path)
  rewrite(folder, "\n  tuning=", PANELS)
  readme = folder / "toy/README.md"
  readme.write_text(readme.read_text() + "\n<!-- panels -->\n<!-- end -->\n")
  do_jobs(folder, EVERY)
  assert in_process(folder) == 0
  told = json.loads((folder / "toy/results.json").read_text())["outcomes"][0]
  text = readme.read_text()
  whole = f"{told['mean']:+.4f} [{told['low']:+.4f}, {told['high']:+.4f}]"
  assert f"| here | gain | {whole} | +0.0000 [+0.0000, +0.0000] |" in text
  back = f"{-told['mean']:+.4f} [{-told['high']:+.4f}, {-told['low']:+.4f}]"
  assert f"| there | loss | {back} |  |" in text
  assert "![Toy: here; there](panels.png)" in text
  assert (folder / "toy/panels.png").stat().st_size > 5_000


SERIES = """
  series=(
    dict(title="by hand", axis="N", at=(1, 4),
         lines=dict(one=(("more", "size"), ("less", "size")),
                    two=(("less", "tokens"), ("more", "tokens")))),
    dict(title="in training", axis="train step",
         lines=dict(more=("more", "size"))),
  ),
  tuning="""


def test_series_are_means_over_a_number_with_their_intervals(tmp_path):
  folder = write_toy(tmp_path)
  rewrite(folder, "\n  tuning=", SERIES)
  readme = folder / "toy/README.md"
  readme.write_text(readme.read_text() + "\n<!-- series -->\n<!-- end -->\n")
  do_jobs(folder, EVERY)
  assert in_process(folder) == 0
  results = json.loads((folder / "toy/results.json").read_text())
  first, second = load_design(folder, "toy", "mini").series
  numbers, means, low, high = points(first, results)["one"]
  each = [[v[f"{a}/size"] for v in results["per_seed"].values()] for a in ARMS]
  assert numbers == (1, 4)
  assert means == pytest.approx([sum(own) / 8 for own in each])
  half = [2.364624 * statistics.stdev(own) / math.sqrt(8) for own in each]
  assert high - means == pytest.approx(half) == means - low
  steps, means, *bounds = points(second, results)["more"]
  assert steps == [1, 2] and bounds == [None, None]
  assert means.tolist() == [r["size"] for r in results["curves"]["more"]]
  assert "![Toy: by hand; in training](series.png)" in readme.read_text()
  assert (folder / "toy/series.png").stat().st_size > 5_000


def test_results_of_an_earlier_design_are_told_by_name(tmp_path):
  # Wrong: the numbers of one outcome in the row of another.
  folder = write_toy(tmp_path)
  do_jobs(folder, EVERY)
  assert in_process(folder) == 0
  rewrite(folder, "\n  outcomes=(", "\n  outcomes=(" + NEW)
  rewrite(
    folder, "\n  tuning=", SERIES.replace('"more", "tok', '"worst", "tok')
  )
  rewrite(folder, 'less="one less"', 'less="one less", worst="worst"')
  readme = folder / "toy/README.md"
  readme.write_text(readme.read_text() + "\n<!-- series -->\n<!-- end -->\n")
  report_experiments(folder)
  text = readme.read_text()
  assert "| no less than more | not run | | +3 | nothing |" in text
  assert "| more than less | +2." in text and "**reproduced**: more th" in text
  assert "these are results of an earlier design" in text
  assert not (folder / "toy/series.png").exists()
  assert (
    "reproduced | more than less: +2." in (folder / "README.md").read_text()
  )


def test_a_metric_that_no_job_gives_is_named(tmp_path):
  folder = write_toy(tmp_path)
  rewrite(folder, 'name="few", metric="size"', 'name="few", metric="siez"')
  do_jobs(folder, EVERY)
  said = "'few' reads metric 'siez' of arm 'less', whose jobs give size, tokens"
  with pytest.raises(UserError, match=f"mini.py: {said}"):
    in_process(folder)


@pytest.mark.parametrize(
  "change, message",
  [
    (
      ('metric="size", arm="more", less', 'metric="size", arm="most", less'),
      "'more than less' names arm 'most'. Known: more, less",
    ),
    (("above=0.0", "above=0.0, below=1.0"), "needs one of above and below"),
    (
      ("\n  tuning=", PANELS.replace('"less", "more"', '"less", "moer"')),
      "'there, loss' names arm 'moer'",
    ),
    (
      ("\n  tuning=", SERIES.replace('"more", "tok', '"moer", "tok')),
      "'by hand, two' names arm 'moer'",
    ),
    (
      ("\n  tuning=", SERIES.replace("at=(1, 4)", "at=(1, 4, 9)")),
      "'by hand', 'one' has 2 points for 3 numbers",
    ),
    (('published="+2"', 'minus=("most", "less")'), "names arm 'most'"),
    (("lower=False)", 'lower=False, arms=("most",))'), "'tuning' names arm"),
    (
      ("expected=1", "expected=0"),
      "is the primary endpoint and has expected=0",
    ),
    (("expected=1", "expected=2"), "'more than less' has expected=2: give 1"),
    (('falsified="less is more",', ""), r"lacks \['falsified'\]"),
    (("import time", "import tim"), r"mini.py:5: ModuleNotFoundError"),
  ],
)
def test_a_design_that_is_not_whole_is_named(tmp_path, change, message):
  folder = write_toy(tmp_path)
  rewrite(folder, *change)
  with pytest.raises(UserError, match=message):
    load_design(folder, "toy", "mini")


def test_unknown_names_list_the_known_ones(tmp_path):
  folder = write_toy(tmp_path)
  with pytest.raises(UserError, match="'tow' is not known.*: toy"):
    load_design(folder, "tow", "mini")
  with pytest.raises(UserError, match="no preset 'lm'. It has: mini"):
    load_design(folder, "toy", "lm")
  with pytest.raises(UserError, match="no preset 'full'. It has: mini"):
    load_design(folder, "toy", "full")
  (folder / "toy/full.py").write_text("")
  with pytest.raises(UserError, match="rm-jax train --config="):
    load_design(folder, "toy", "full")
  with pytest.raises(UserError, match="expected folders with a mini.py"):
    load_design(tmp_path / "nowhere", "toy", "mini")


def test_a_readme_of_an_experiment_not_run_says_so(tmp_path):
  folder = write_toy(tmp_path)
  text = filled((folder / "toy/README.md").read_text(), folder / "toy", "toy")
  assert "Not run yet: `rm-jax experiment toy`." in text
  assert filled(text, folder / "toy", "toy") == text


def test_the_table_has_what_was_published(tmp_path, capsys):
  folder = write_toy(tmp_path)
  do_jobs(folder, EVERY)
  in_process(folder)
  design = load_design(folder, "toy", "mini")
  results = json.loads((folder / "toy/results.json").read_text())
  lines = table(design, results).splitlines()
  assert lines[0] == "| arm | size | tokens |"
  # Wrong: the order of the keys in the file for that of the design.
  assert lines[-1] == (
    "Checks: sizes are there: holds; more is large: holds; few: holds."
  )
  assert "\n".join(lines) in capsys.readouterr().out
  assert "\n".join(lines) in (folder / "toy/README.md").read_text()
  assert "| reproduced (8 of 8 seeds) | +2 | a toy |" in lines[-3]
