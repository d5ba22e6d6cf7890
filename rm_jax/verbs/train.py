"""rm-jax train: a config -> a run in its workdir."""

import functools
import time

from absl import flags

from rm_jax.types import UserError
from rm_jax.verbs.flags import FLAGS, define_config, define_distributed, need
from rm_jax.verbs.start import start_jax

HELP = """\
Trains one reward model. Run the same command again to resume.

  rm-jax train --config=configs/demo.py --workdir=runs/demo
  rm-jax train --config=configs/pairwise_hh.py --workdir=runs/hh \\
      --config.data.source=pairs.jsonl --config.optim.lr=2e-5"""

WORDS = ()


def define_flags():
  define_config()
  flags.DEFINE_string(
    "workdir", None, "Folder or URL (gs://...) of the run; made if missing."
  )
  flags.DEFINE_boolean(
    "dry_run",
    False,
    "Print the packing plan, shapes, steps and memory, and stop before the "
    "first step; needs no --workdir.",
  )
  flags.DEFINE_string(
    "trace_steps",
    "",
    "FIRST:LAST: write a trace of these train steps, both included, into "
    "WORKDIR/trace (docs/pods.md says how to look at it). Empty: none.",
  )
  define_distributed()


def run(command: str) -> int:
  started = time.perf_counter()
  need("config")
  from rm_jax.config import validate

  validate(FLAGS.config)
  if FLAGS.dry_run and FLAGS.trace_steps:
    raise UserError(
      f"--trace_steps={FLAGS.trace_steps} is not read with --dry_run, which "
      "stops before the first step. Leave out one of the two."
    )
  if not FLAGS.dry_run:
    need("workdir")
  start_jax(FLAGS.config.compute.compile_cache)
  if FLAGS.dry_run:
    from rm_jax.plan.dry_run import dry_run

    print(dry_run(FLAGS.config))
    return 0
  from rm_jax.evals.report import write_report
  from rm_jax.train import hosts
  from rm_jax.train.loop import train
  from rm_jax.train.mirror import open_mirror, push
  from rm_jax.train.results import commit, versions
  from rm_jax.train.trace import read_range

  traced = read_range(FLAGS.trace_steps, FLAGS.config.num_train_steps)
  hosts.start(FLAGS.distributed)
  hosts.check_same(
    {
      "config": FLAGS.config.to_dict(),
      "workdir": FLAGS.workdir,
      "commit": commit(),
      "versions": versions(),
    }
  )
  mirror = open_mirror(FLAGS.workdir)
  saved = functools.partial(push, mirror)
  code = train(
    FLAGS.config,
    mirror.folder,
    command=command,
    place=mirror.place,
    saved=saved,
    started=started,
    trace_steps=traced,
  )
  if code == 0 and hosts.is_first():
    print(write_report(mirror.folder))
  saved()
  return code
