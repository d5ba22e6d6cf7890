"""The verbs of the command line, one file each.

rm_jax/verbs/NAME.py has

  HELP             what `rm-jax NAME --help` says above the flags
  WORDS            what may stand beside the flags, such as ("KEY",)
  define_flags()   its flags
  run(command, *words) -> exit code
                   the work; command is the command line as one string

and is imported when the verb is called; jax and whatever else takes long is
imported by its `run`.
"""

PROGRAM = "rm-jax"

# name -> its line in `rm-jax --help`
VERBS = {
  "train": "one run into --workdir: checkpoints, metrics, results, report.html",
  "plan": "compile a config for a TPU slice on this machine: does it fit",
  "eval": "a model on a file of records: results.json and a table",
  "score": "jsonl in, jsonl with scores out; streams and resumes",
  "export": (
    "a checkpoint -> a folder that transformers loads, with its model card"
  ),
  "doctor": "a data set -> what is wrong with it, before step 0",
  "report": "a finished run -> one page with its pictures; several -> compared",
  "experiment": "a paper's arms x seeds: jobs, verdict, results.json",
}
