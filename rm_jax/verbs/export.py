"""rm-jax export: a checkpoint -> a folder that transformers loads."""

from absl import flags

from rm_jax.verbs.flags import FLAGS, need
from rm_jax.verbs.start import start_jax

HELP = """\
Writes safetensors, config.json, the tokenizer, its chat template and a
model card (README.md) written from the run. AutoModelForSequenceClassification
(steps, means and every token: AutoModelForTokenClassification) gives the scores
of rm-jax: the padding token is one that no text ends with, the template stops
where the score is read. rm_jax.json beside them holds what transformers has no
place for; `--model` of the other verbs reads the folder back.

  rm-jax export --model=runs/hh --out=hf/hh
  rm-jax export --average=runs/a,runs/b,runs/c --out=hf/mean \\
      --dtype=bfloat16 --results=runs/mean_eval.json
  rm-jax export --model=smollm2 --out=hf/smollm2"""

WORDS = ()


def define_flags():
  flags.DEFINE_string(
    "model",
    "",
    "A run's workdir, one of its checkpoints, a published classifier, or a "
    "base model (smollm2, a GGUF file, a folder), which becomes a language "
    "model.",
  )
  flags.DEFINE_list(
    "average",
    [],
    "Instead of --model: runs from one base model, whose weights are averaged.",
  )
  flags.DEFINE_string("out", None, "The folder to write; new or empty.")
  flags.DEFINE_enum(
    "architecture",
    "auto",
    ["auto", "sequence", "token", "causal"],
    "The class of transformers. auto: ForSequenceClassification where a "
    "completion is read at its last token, else ForTokenClassification.",
  )
  flags.DEFINE_enum(
    "dtype",
    "float32",
    ["float32", "bfloat16"],
    "Of the weights as written; the head stays float32.",
  )
  flags.DEFINE_float(
    "max_shard_gb", 5.0, "Tensors of one file, at most, in 10^9 bytes.", 1e-6
  )
  flags.DEFINE_string(
    "task", "", "Whose head, in a run of several tasks; empty: the main one."
  )
  flags.DEFINE_list("results", [], "Results of rm-jax eval for the model card.")


def run(command: str) -> int:
  del command
  need("out")
  start_jax()
  from rm_jax.export.folder import export

  print(
    export(
      FLAGS.model,
      FLAGS.out,
      average=FLAGS.average,
      architecture=FLAGS.architecture,
      dtype=FLAGS.dtype,
      max_shard_bytes=int(FLAGS.max_shard_gb * 1e9),
      task=FLAGS.task,
      results=FLAGS.results,
    )
  )
  return 0
