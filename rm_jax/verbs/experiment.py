"""rm-jax experiment: arms x seeds -> verdict, results.json."""

import pathlib

from absl import flags

from rm_jax.types import UserError
from rm_jax.verbs import PROGRAM
from rm_jax.verbs.flags import FLAGS, define_folder

HELP = """\
Runs the jobs of an experiment (every arm at every seed) in workers and
judges its outcomes: reproduced, reversed, null, or invalid where the regime
of the claim is absent. A finished job is a file: after a kill the same command
runs only what is left. The whole size writes results.json beside the design and
renders the README.

  rm-jax experiment ouyang2022_instructgpt --quick
  rm-jax experiment ouyang2022_instructgpt --jobs=4"""

WORDS = ("KEY",)


def define_flags():
  define_folder()
  flags.DEFINE_enum(
    "preset",
    "mini",
    ["mini", "lm", "full"],
    "mini: token worlds; lm: a real backbone; full: a config, trained by "
    "rm-jax train.",
  )
  flags.DEFINE_boolean(
    "quick", False, "Fewer seeds and smaller jobs: does it run? Not a result."
  )
  flags.DEFINE_boolean(
    "tune",
    False,
    "Instead of the experiment: each arm at each learning rate of its design, "
    "on seeds that the experiment does not use.",
  )
  flags.DEFINE_integer("jobs", 2, "Worker processes.", 1)
  flags.DEFINE_string(
    "workdir",
    "",
    "Folder of finished jobs; default: runs/experiments/KEY/PRESET-SIZE.",
  )


def run(command: str, key: str = "") -> int:
  if not key:
    from rm_jax.ablation.design import find_experiments

    known = find_experiments(pathlib.Path(FLAGS.folder))
    raise UserError(
      f"KEY is missing: {PROGRAM} experiment KEY. Known: {', '.join(known)}."
    )
  from rm_jax.ablation.run import run_experiment

  return run_experiment(
    key,
    folder=pathlib.Path(FLAGS.folder),
    preset=FLAGS.preset,
    quick=FLAGS.quick,
    tune=FLAGS.tune,
    workers=FLAGS.jobs,
    workdir=FLAGS.workdir,
    command=command,
  )
