"""rm-jax experiment: arms x seeds -> verdict, results.json."""

import functools
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
  rm-jax experiment ouyang2022_instructgpt --jobs=4
  rm-jax experiment all                   # every one, past those that fail
  rm-jax experiment ouyang2022_instructgpt --vmap-seeds   # on an accelerator"""

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
  flags.DEFINE_boolean(
    "vmap-seeds",
    False,
    "For an accelerator, which one small run leaves idle: instead of workers "
    "one process, in which all seeds of an arm (with --tune all rates, too) "
    "train side by side by one vmapped train step. Numbers as without it to "
    "1e-5 in the first steps; of --preset=mini.",
  )
  flags.DEFINE_string(
    "workdir",
    "",
    "Folder of finished jobs, with all WORKDIR/KEY; default: "
    "runs/experiments/KEY/PRESET-SIZE.",
  )


def run(command: str, key: str = "") -> int:
  if not key:
    from rm_jax.ablation.design import find_experiments

    known = find_experiments(pathlib.Path(FLAGS.folder))
    raise UserError(
      f"KEY is missing: {PROGRAM} experiment KEY. Known: {', '.join(known)}; "
      "all of them: all."
    )
  vmap_seeds = FLAGS["vmap-seeds"].value
  if vmap_seeds and FLAGS["jobs"].present:
    raise UserError(
      f"--jobs={FLAGS.jobs} with --vmap-seeds: the seeds train side by side in "
      "one process. Leave out one of the two."
    )
  from rm_jax.ablation.run import ALL, run_all, run_experiment

  run_it = run_all if key == ALL else functools.partial(run_experiment, key)
  return run_it(
    folder=pathlib.Path(FLAGS.folder),
    preset=FLAGS.preset,
    quick=FLAGS.quick,
    tune=FLAGS.tune,
    workers=1 if vmap_seeds else FLAGS.jobs,
    vmap_seeds=vmap_seeds,
    workdir=FLAGS.workdir,
    command=command,
  )
