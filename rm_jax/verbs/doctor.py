"""rm-jax doctor: a data set -> what is wrong with it."""

from absl import flags

from rm_jax.verbs.flags import FLAGS, need
from rm_jax.verbs.start import start_jax

HELP = """\
Reads a data set and says what is wrong with it: rows that are no record,
duplicates, contradictions, cycles, ties, length and position bias, broken
characters, prompts shared with another data set. With a tokenizer also what
its template does, what a row of tokens cannot hold and what the loss would
reject. Ends with a config that fits. Nothing is changed.

  rm-jax doctor --data=pairs.jsonl
  rm-jax doctor --data=train.jsonl --against=test.jsonl --model=smollm2 \\
      --out=reports/train"""

WORDS = ()


def define_flags():
  flags.DEFINE_string("data", None, "File or folder of records, or a data set.")
  flags.DEFINE_string(
    "against", "", "Another data set: are its prompts and completions here too?"
  )
  flags.DEFINE_string(
    "model",
    "",
    "Where a tokenizer is (smollm2, a GGUF file, a folder): adds what only "
    "tokens show. Without it: text checks only.",
  )
  flags.DEFINE_integer("row_len", 1024, "Tokens of a row.", 1)
  flags.DEFINE_string("kind", "auto", "Record format, as of rm-jax score.")
  flags.DEFINE_enum(
    "template", "auto", ["auto", "chat", "plain"], "How text is rendered."
  )
  flags.DEFINE_enum(
    "read_at",
    "end_of_turn",
    ["end_of_turn", "last_token"],
    "Which token carries the score.",
  )
  flags.DEFINE_string(
    "loss", "", "What would this loss reject? Default: the one suggested."
  )
  flags.DEFINE_string(
    "out", "", "A folder for doctor.html, doctor.json and rejects.jsonl."
  )
  flags.DEFINE_integer(
    "max_records", 0, "Look at the first so many rows; 0: all.", 0
  )


def run(command: str) -> int:
  need("data")
  if FLAGS.model:
    start_jax()
  from rm_jax.evals.doctor import diagnose

  print(
    diagnose(
      FLAGS.data,
      against=FLAGS.against,
      model=FLAGS.model,
      row_len=FLAGS.row_len,
      kind=FLAGS.kind,
      template=FLAGS.template,
      read_at=FLAGS.read_at,
      loss=FLAGS.loss,
      out=FLAGS.out,
      max_records=FLAGS.max_records,
      command=command,
    )
  )
  return 0
