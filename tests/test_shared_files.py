"""Every file of the real data: a doctor's report, or one line that says why.

Catches: a published file that stops being read, one that is read as something
else, an unusable one that ends in a traceback or in silence.
"""

import fnmatch
import os
import pathlib
import re

import pytest

from rm_jax.data.recognise import matches
from rm_jax.data.sources import read_rows
from rm_jax.evals.doctor import diagnose
from rm_jax.types import UserError

DATA = os.environ.get("RM_DATA")
pytestmark = pytest.mark.skipif(not DATA, reason="RM_DATA is not set")

ENDING = "has an unknown ending: expected one of .json, .jsonl"
JUDGE = "verdicts of a judge"

# pattern -> the format that every row is in, or what the one line says; the
# first pattern counts.
TABLE = {
  "*LICENSE*": ENDING,
  "*.md": ENDING,
  "*.csv": ENDING,
  "SHA256SUMS": ENDING,
  "alpaca_eval/*": "alpaca_eval",
  "big_bench_mistake/*": "big_bench_mistake",
  "fine_grained_rlhf/*": "fine_grained_rlhf",
  "gsm8k/train.jsonl.gz": r"a problem with its solution \(GSM8K\), but no lab",
  "gsm8k/*": "gsm8k",
  "hh_rlhf/*": "pair",
  "ifbench/*": "ifbench",
  "just_eval/*": "just_eval",
  "llama_factory_demo/dpo*": "pair",
  "llama_factory_demo/kto*": "outcome",
  "llmbar/*/result.json.gz": JUDGE,
  "llmbar/*/statistics.json": r"statistics of a judge \(LLMBar\), but no texts",
  "llmbar/*/dataset.json*": "llmbar",
  "llmzoo_rankings/*": "llmzoo",
  "mr_ben/coding.json.gz": "the steps must be a list, got str",
  "mr_ben/*": "mr_ben",
  "mr_gsm8k/*": "mr_gsm8k",
  "oasst_trees/*": "oasst",
  "openr_samples/*math-aps-tree*": "math_aps_tree",
  "openr_samples/*math-aps*": "math_aps",
  "openr_samples/*math-shepherd*": "math_shepherd",
  "openr_samples/*prm800k*": "prm800k",
  "pandalm/testset*": "pandalm",
  "pandalm/*": JUDGE,
  "prmbench/*": "prmbench",
  "processbench/*": "processbench",
  "prometheus_eval/*": "prometheus",
  "rewardmath/dataset/*direct*": "rewardmath",
  "rewardmath/dataset/*pairwise*": "rewardmath_pair",
  "rewardmath/results/*": "but no texts of solutions",
  "rm_bench/*": "rm_bench",
  "shepherd/*": "shepherd",
  "themis_tara/truthful_qa/*": "answer_label",
  "themis_tara/*": "themis",
  "ultrafeedback_sample/*": "pair",
  "wildbench_scores/*": "WildBench scores without prompts",
}


def files():
  root = pathlib.Path(DATA or ".")
  found = sorted(f for f in root.rglob("*") if f.is_file()) if DATA else []
  return [f.relative_to(root).as_posix() for f in found]


def expected(name) -> str:
  (first, *_) = [
    said for pattern, said in TABLE.items() if fnmatch.fnmatch(name, pattern)
  ]
  return first


def report(name) -> str:
  return diagnose(
    str(pathlib.Path(DATA) / name),
    against="",
    model="",
    row_len=1024,
    kind="auto",
    template="auto",
    read_at="end_of_turn",
    loss="",
    out="",
    max_records=40,
    command="rm-jax doctor",
  )


@pytest.mark.parametrize("name", files())
def test_a_report_or_one_line(name):
  said = expected(name)
  if re.fullmatch(r"\w+", said):
    row = next(iter(read_rows(pathlib.Path(DATA) / name)))[1]
    assert matches(row)[0] == said
    text = report(name)
    assert len(text.splitlines()) > 10 and "config" in text
    return
  with pytest.raises(UserError, match=said) as caught:
    report(name)
  line = str(caught.value)
  assert "\n" not in line and pathlib.Path(name).name in line


def test_every_line_of_the_table_is_used():
  used = {expected(name) for name in files()}
  assert used == set(TABLE.values())
