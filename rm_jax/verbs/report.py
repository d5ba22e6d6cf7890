"""rm-jax report: runs -> a page; experiments -> their READMEs."""

import pathlib

from absl import flags

from rm_jax.types import UserError
from rm_jax.verbs.flags import FLAGS, define_folder, need
from rm_jax.verbs.start import start_jax

HELP = """\
Writes report.html, which needs no other file, and its pictures as PNG:
what was found in words, learning curves, scores, accuracy by strength,
calibration before and after temperature, gold and best of n where gold is
known, groups as trees, tokens saved, every number of results.json. What the
run has not is left out and named. `train` writes the same page at its end.

Several runs give one page that compares them with the first: paired
differences with intervals where the evaluation set is the same.

  rm-jax report --run=runs/demo
  rm-jax report --run=runs/a,runs/b --out=runs/compared

The word experiments instead renders the table, verdict and picture of every
README in experiments/ from its results.json.

  rm-jax report experiments"""

WORDS = ("experiments",)


def define_flags():
  flags.DEFINE_list(
    "run", [], "The workdir of a finished run; several with ',' between them."
  )
  flags.DEFINE_string(
    "out", "", "A folder for the page and its pictures; default: the workdir."
  )
  define_folder()


def run(command: str, what: str = "") -> int:
  del command
  if what == "experiments":
    for name in ("run", "out"):
      if FLAGS[name].value:
        raise UserError(
          f"--{name} is not read by report experiments, which writes into "
          f"--folder={FLAGS.folder}. Leave out the flag, or the word."
        )
    from rm_jax.ablation.report import report_experiments

    print(report_experiments(pathlib.Path(FLAGS.folder)))
    return 0
  if what:
    raise UserError(
      f"report {what!r} is not known: give --run=WORKDIR, or the word "
      "experiments."
    )
  need("run")
  start_jax()
  from rm_jax.evals.report import report

  print(report(FLAGS.run, FLAGS.out))
  return 0
