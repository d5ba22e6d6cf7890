"""rm-jax eval: a model and records -> results.json and a table."""

import pathlib

from absl import flags

from rm_jax.verbs.flags import FLAGS, define_model, how, need
from rm_jax.verbs.start import start_jax

HELP = """\
Evaluates a model: accuracy, calibration, 95 % intervals, and what the
length of a completion alone would tell. Refuses prompts that the model was
trained on. Records that cannot be used are counted and written, with the
reason, beside the results.

  rm-jax eval --model=runs/hh --data=test.jsonl --out=results.json
  rm-jax eval --model=runs/hh/checkpoints/100 --data=test.jsonl \\
      --out=evals/hh100 --max_groups=500"""

WORDS = ()


def define_flags():
  define_model()
  flags.DEFINE_string("data", None, "File or folder of records.")
  flags.DEFINE_string(
    "out", None, "A .json file, or a folder for results.json."
  )
  flags.DEFINE_integer(
    "max_groups", 0, "Evaluate the first so many records; 0: all.", 0
  )
  flags.DEFINE_boolean(
    "allow_overlap", False, "Evaluate on prompts the model was trained on."
  )


def run(command: str) -> int:
  need("model", "data", "out")
  start_jax()
  from rm_jax.evals.records import evaluate_records

  table = evaluate_records(
    FLAGS.model,
    FLAGS.data,
    pathlib.Path(FLAGS.out),
    kind=FLAGS.kind,
    max_groups=FLAGS.max_groups,
    allow_overlap=FLAGS.allow_overlap,
    dtype=FLAGS.dtype,
    command=command,
    **how(),
  )
  print(table)
  return 0
