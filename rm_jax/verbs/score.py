"""rm-jax score: rows -> the same rows with scores."""

import pathlib

from absl import flags

from rm_jax.types import UserError
from rm_jax.verbs.flags import (
  FLAGS,
  define_distributed,
  define_model,
  how,
  need,
)
from rm_jax.verbs.start import start_jax

HELP = """\
Adds scores to rows and changes nothing else in them:

  {prompt, completions, ...}        scores: one per completion
  {prompt, chosen, rejected}        chosen_score, rejected_score
  {prompt, completion}, {messages}  score
  reasoning steps                   step_scores: one per step
  OpenAssistant trees               scores: a list per group of replies

Same order as the input. A row that cannot be scored (too long, bad JSON)
goes to OUTPUT.rejects.jsonl with its line and reason. After a kill the same
command goes on where it was; OUTPUT.progress.json keeps the place.

All devices of the machine score together. With --shards the output is a folder
of files such as scores-00003-of-00016.jsonl, each there once it is complete;
in the order of their names they are the one file. With --distributed every host
takes its share of them.

  rm-jax score --model=runs/hh --input=in.jsonl --output=scored.jsonl
  rm-jax score --model=runs/hh --input=in.jsonl --output=scored --shards=16 \\
      --distributed=auto"""

WORDS = ()


def define_flags():
  define_model()
  flags.DEFINE_string(
    "input", None, "One file of records: .json or .jsonl, plain or .gz."
  )
  flags.DEFINE_string(
    "output", None, "The .jsonl to write; with --shards a folder."
  )
  flags.DEFINE_integer(
    "shards",
    0,
    "Write so many files of a stretch of the input each, shared out among the "
    "hosts; those that are complete are not scored again. 0: one file.",
    0,
  )
  define_distributed()
  flags.DEFINE_boolean(
    "fit_normaliser",
    False,
    "Also keep the mean and std of these scores beside the model, with the "
    "name of the input, for RewardModel.reward(). Give your policy's samples.",
  )


def run(command: str) -> int:
  del command
  need("model", "input", "output")
  if FLAGS.distributed and not FLAGS.shards:
    raise UserError(
      f"--distributed={FLAGS.distributed} without --shards: several hosts "
      "cannot write one file. Say --shards=N, a multiple of the hosts."
    )
  if FLAGS.fit_normaliser and FLAGS.shards:
    raise UserError(
      f"--fit_normaliser reads one file of scores, --shards={FLAGS.shards} "
      "writes several. Leave one out."
    )
  start_jax()
  from rm_jax.evals.score import score_file
  from rm_jax.evals.shards import score_shards
  from rm_jax.models.sharding import local_mesh
  from rm_jax.train import hosts

  hosts.start(FLAGS.distributed)
  asked = dict(kind=FLAGS.kind, dtype=FLAGS.dtype, mesh=local_mesh(), **how())
  files = FLAGS.model, pathlib.Path(FLAGS.input), pathlib.Path(FLAGS.output)
  if FLAGS.shards:
    text = score_shards(*files, shards=FLAGS.shards, **asked)
  else:
    text = score_file(*files, fit_normaliser=FLAGS.fit_normaliser, **asked)
  if hosts.is_first():
    print(text)
  return 0
