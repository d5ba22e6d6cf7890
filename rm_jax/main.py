"""The command line: flags and device start-up, nothing else.

No jax is imported before a verb runs, so help and mistakes answer at once.
"""

import functools
import pathlib
import re
import shlex
import signal
import sys
import textwrap
import time
import traceback
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from rm_jax.places import user_cache
from rm_jax.types import LostHost, UserError

PROGRAM = "rm-jax"
FLAGS = flags.FLAGS
FROM = r"^(--?config\.init)\.from="
HELP = ("-h", "--help", "--helpfull", "help")

# Frames of a traceback that are not in the user's config file.
NOT_THE_CONFIG = ("site-packages", "<frozen", __file__)


class Verb(NamedTuple):
  """One verb: a line for the list, a text for its help, flags, the work."""

  summary: str
  text: str
  define: object  # () -> None: its flags
  run: object  # (command line as one string, *words) -> exit code
  words: tuple = ()  # what may stand beside the flags, such as KEY


def _train_flags():
  config_flags.DEFINE_config_file(
    "config", None, "The run: a config file; FILE:ARG passes it an argument."
  )
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
  _distributed_flag()


def _distributed_flag():
  flags.DEFINE_string(
    "distributed",
    "",
    "This process is one of several, the same command on every host: auto (TPU "
    "VM pods, GKE, Slurm), or COORDINATOR:PORT,PROCESSES,INDEX. Empty: alone.",
  )


def _train(command: str) -> int:
  started = time.perf_counter()
  _need("config")
  from rm_jax.config import validate

  validate(FLAGS.config)
  if not FLAGS.dry_run:
    _need("workdir")
  _start_jax(FLAGS.config.compute.compile_cache)
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


def _plan_flags():
  config_flags.DEFINE_config_file(
    "config", None, "The run: a config file; FILE:ARG passes it an argument."
  )
  flags.DEFINE_string(
    "slice", None, "Product name of a TPU slice, such as v5e-16 or v5p-256."
  )
  flags.DEFINE_integer(
    "num_slices",
    1,
    "So many slices, joined by the slower network; config.mesh.data splits "
    "over them.",
    1,
  )
  flags.DEFINE_integer(
    "rows_per_chip",
    None,
    "Rows of one micro-batch on a chip (on the chips of a tensor group), in "
    "place of what config.data says.",
  )
  flags.DEFINE_boolean(
    "read_data",
    False,
    "Read and pack the config's data: exact shapes, and which share of the "
    "tokens computed is useful.",
  )
  flags.DEFINE_integer(
    "search",
    0,
    "Compile so many meshes, rows per chip, with and without rematerialisation "
    "and rounded moments, and rank them by bound per token; 0: only the "
    "config's own.",
    0,
  )
  flags.DEFINE_boolean("json", False, "Print one JSON object, not a table.")
  flags.DEFINE_string("out", "", "A file for that object, beside the table.")


def _plan(command: str) -> int:
  del command
  _need("config", "slice")
  from rm_jax.plan.verb import plan

  if FLAGS.read_data:
    _start_jax()
  print(
    plan(
      FLAGS.config,
      FLAGS.slice,
      num_slices=FLAGS.num_slices,
      rows_per_chip=FLAGS.rows_per_chip,
      read_data=FLAGS.read_data,
      searched=FLAGS.search,
      as_json=FLAGS.json,
      out=FLAGS.out,
    )
  )
  return 0


def _model_flags():
  flags.DEFINE_string(
    "model",
    None,
    "A run's workdir (its best checkpoint), one of its checkpoints "
    "(workdir/checkpoints/N), or the folder of a published reward model "
    "(docs/models.md lists the heads).",
  )
  flags.DEFINE_string(
    "head",
    "",
    "How a language model without a reward head is read: math_shepherd, "
    "nemotron_reward, rlhflow_prm.",
  )
  flags.DEFINE_string(
    "reference",
    "",
    "The language model that --model, a policy trained by DPO, started from: "
    "the score is the implicit reward; needs --beta.",
  )
  flags.DEFINE_float("beta", 0.0, "Of the DPO run; with --reference.", 0.0)
  flags.DEFINE_string(
    "kind",
    "auto",
    "Record format: pair, ranking, ratings, outcome, steps, unlabelled, "
    "oasst, gsm8k, prm800k, prmbench; auto recognises it by the fields.",
  )
  flags.DEFINE_enum(
    "dtype",
    "float32",
    ["float32", "bfloat16"],
    "Of the matrix products. float32 makes scores independent of the batch.",
  )


def _how() -> dict:
  return {name: FLAGS[name].value for name in ("head", "reference", "beta")}


def _eval_flags():
  _model_flags()
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


def _eval(command: str) -> int:
  _need("model", "data", "out")
  _start_jax()
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
    **_how(),
  )
  print(table)
  return 0


def _score_flags():
  _model_flags()
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
  _distributed_flag()
  flags.DEFINE_boolean(
    "fit_normaliser",
    False,
    "Also keep the mean and std of these scores beside the model, with the "
    "name of the input, for RewardModel.reward(). Give your policy's samples.",
  )


def _score(command: str) -> int:
  del command
  _need("model", "input", "output")
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
  _start_jax()
  from rm_jax.evals.score import score_file
  from rm_jax.evals.shards import score_shards
  from rm_jax.models.sharding import local_mesh
  from rm_jax.train import hosts

  hosts.start(FLAGS.distributed)
  asked = dict(kind=FLAGS.kind, dtype=FLAGS.dtype, mesh=local_mesh(), **_how())
  files = FLAGS.model, pathlib.Path(FLAGS.input), pathlib.Path(FLAGS.output)
  if FLAGS.shards:
    text = score_shards(*files, shards=FLAGS.shards, **asked)
  else:
    text = score_file(*files, fit_normaliser=FLAGS.fit_normaliser, **asked)
  if hosts.is_first():
    print(text)
  return 0


def _doctor_flags():
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


def _doctor(command: str) -> int:
  _need("data")
  if FLAGS.model:
    _start_jax()
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


def _report_flags():
  flags.DEFINE_list(
    "run", [], "The workdir of a finished run; several with ',' between them."
  )
  flags.DEFINE_string(
    "out", "", "A folder for the page and its pictures; default: the workdir."
  )
  _folder_flag()


def _report(command: str, what: str = "") -> int:
  del command
  if what == "experiments":
    from rm_jax.ablation.report import report_experiments

    print(report_experiments(pathlib.Path(FLAGS.folder)))
    return 0
  if what:
    raise UserError(
      f"report {what!r} is not known: give --run=WORKDIR, or the word "
      "experiments."
    )
  _need("run")
  _start_jax()
  from rm_jax.evals.report import report

  print(report(FLAGS.run, FLAGS.out))
  return 0


def _folder_flag():
  flags.DEFINE_string("folder", "experiments", "Where the experiments lie.")


def _experiment_flags():
  _folder_flag()
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


def _experiment(command: str, key: str = "") -> int:
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


def _export_flags():
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


def _export(command: str) -> int:
  del command
  _need("out")
  _start_jax()
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


VERBS = {
  "train": Verb(
    "one run into --workdir: checkpoints, metrics, results, report.html",
    """Trains one reward model. Run the same command again to resume.

  rm-jax train --config=configs/demo.py --workdir=runs/demo
  rm-jax train --config=configs/pairwise_hh.py --workdir=runs/hh \\
      --config.data.source=pairs.jsonl --config.optim.lr=2e-5""",
    _train_flags,
    _train,
  ),
  "plan": Verb(
    "compile a config for a TPU slice on this machine: does it fit",
    """Compiles the train step of a config with the TPU compiler, on a machine
that has no TPU, for a slice by its product name. Says what a chip's memory
holds, what the step computes and moves, and what bounds its time; if it does
not fit, what would. Nothing is run: no time is measured, no weight or data
read. Needs libtpu: pip install -e '.[tpu]'.

Product names of v4, v5p and tpu7x count cores, two to a chip: v5p-256 has 128
chips. Those of v5e and v6e count chips.

  rm-jax plan --config=configs/llama3_8b_bt.py --slice=v5e-16
  rm-jax plan --config=configs/llama3_8b_bt.py --slice=v5p-32 --json \\
      --config.data.rows_per_batch=64""",
    _plan_flags,
    _plan,
  ),
  "eval": Verb(
    "a model on a file of records: results.json and a table",
    """Evaluates a model: accuracy, calibration, 95 % intervals, and what the
length of a completion alone would tell. Refuses prompts that the model was
trained on. Records that cannot be used are counted and written, with the
reason, beside the results.

  rm-jax eval --model=runs/hh --data=test.jsonl --out=results.json
  rm-jax eval --model=runs/hh/checkpoints/100 --data=test.jsonl \\
      --out=evals/hh100 --max_groups=500""",
    _eval_flags,
    _eval,
  ),
  "score": Verb(
    "jsonl in, jsonl with scores out; streams and resumes",
    """Adds scores to rows and changes nothing else in them:

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
      --distributed=auto""",
    _score_flags,
    _score,
  ),
  "export": Verb(
    "a checkpoint -> a folder that transformers loads, with its model card",
    """Writes safetensors, config.json, the tokenizer, its chat template and a
model card (README.md) written from the run. AutoModelForSequenceClassification
(steps, means and every token: AutoModelForTokenClassification) gives the scores
of rm-jax: the padding token is one that no text ends with, the template stops
where the score is read. rm_jax.json beside them holds what transformers has no
place for; `--model` of the other verbs reads the folder back.

  rm-jax export --model=runs/hh --out=hf/hh
  rm-jax export --average=runs/a,runs/b,runs/c --out=hf/mean \\
      --dtype=bfloat16 --results=runs/mean_eval.json
  rm-jax export --model=smollm2 --out=hf/smollm2""",
    _export_flags,
    _export,
  ),
  "doctor": Verb(
    "a data set -> what is wrong with it, before step 0",
    """Reads a data set and says what is wrong with it: rows that are no record,
duplicates, contradictions, cycles, ties, length and position bias, broken
characters, prompts shared with another data set. With a tokenizer also what
its template does, what a row of tokens cannot hold and what the loss would
reject. Ends with a config that fits. Nothing is changed.

  rm-jax doctor --data=pairs.jsonl
  rm-jax doctor --data=train.jsonl --against=test.jsonl --model=smollm2 \\
      --out=reports/train""",
    _doctor_flags,
    _doctor,
  ),
  "report": Verb(
    "a finished run -> one page with its pictures; several -> compared",
    """Writes report.html, which needs no other file, and its pictures as PNG:
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

  rm-jax report experiments""",
    _report_flags,
    _report,
    ("experiments",),
  ),
  "experiment": Verb(
    "a paper's arms x seeds: jobs, verdict, results.json",
    """Runs the jobs of an experiment (every arm at every seed) in workers and
judges its outcomes: reproduced, reversed, null, or invalid where the regime
of the claim is absent. A finished job is a file: after a kill the same command
runs only what is left. The whole size writes results.json beside the design and
renders the README.

  rm-jax experiment ouyang2022_instructgpt --quick
  rm-jax experiment ouyang2022_instructgpt --jobs=4""",
    _experiment_flags,
    _experiment,
    ("KEY",),
  ),
}


def _need(*names):
  for name in names:
    if not FLAGS[name].value:
      raise UserError(
        f"--{name} is missing: see {PROGRAM} {sys.argv[1]} --help"
      )


def _start_jax(compile_cache: str = "auto"):
  """Imports jax; compilations are kept between runs.

  Args:
    compile_cache: "auto", "" (none) or a folder, as config.compute.
      compile_cache; JAX_COMPILATION_CACHE_DIR wins over "auto".
  """
  import os

  # It says at every start that there is no torch, which nobody asked for.
  os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
  import jax

  folder = compile_cache
  if compile_cache == "auto":
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR", user_cache("xla"))
  jax.config.update("jax_compilation_cache_dir", str(folder) or None)
  # Small functions add up: by default those under a second are not kept.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _overview() -> str:
  lines = [f"  {name:12}{verb.summary}" for name, verb in VERBS.items()]
  return "\n".join(
    [
      f"usage: {PROGRAM} VERB [--flag=value ...]",
      "",
      "Train, evaluate and use reward models.",
      "",
      *lines,
      "",
      f"{PROGRAM} VERB --help says more. Exit codes: 0 done, 1 our fault,",
      "2 the input's, 75 preempted and saved.",
    ]
  )


def _keys(c: ConfigDict, prefix: str) -> list[str]:
  lines = []
  for key in c:
    name = f"{prefix}.{key}"
    if isinstance(c[key], ConfigDict):
      lines += _keys(c[key], name)
    else:
      lines.append(f"  --{name}={c[key]!r}")
  return lines


def _flag(flag) -> list[str]:
  """Two or more lines of help: the flag with its default, what it does."""
  given = "..." if flag.default is None else flag.default
  text = f"--{flag.name}={given}"
  if flag.boolean:
    text = f"--{flag.name}"
  return [
    f"  {text}",
    *textwrap.wrap(
      flag.help, 78, initial_indent="      ", subsequent_indent="      "
    ),
  ]


def _help(name: str) -> str:
  verb = VERBS[name]
  own = FLAGS.get_flags_for_module(sys.modules[__name__])
  lines = [f"{PROGRAM} {name}: {verb.summary}", "", verb.text, "", "Flags:"]
  lines += [line for flag in own for line in _flag(flag)]
  if name in ("train", "plan"):
    from rm_jax.config import base

    lines += ["", "Config keys and defaults (rm_jax/config.py explains them):"]
    lines += _keys(base(), "config")
  return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
  """Runs one verb and exits with its code."""
  argv = sys.argv if argv is None else argv
  if len(argv) < 2 or argv[1] in HELP:
    print(_overview())
    sys.exit(0 if len(argv) > 1 else 2)
  name = argv[1]
  if name not in VERBS:
    _fail(f"unknown verb {name!r}. Known: {', '.join(VERBS)}.")
  VERBS[name].define()
  if any(a in HELP for a in argv[2:]):
    print(_help(name))
    sys.exit(0)
  command = shlex.join([PROGRAM, *argv[1:]])
  # `from` is a word of Python, which ml_collections parses keys as; it looks
  # for them in sys.argv.
  sys.argv = [re.sub(FROM, r"\1['from']=", a) for a in argv]
  words = _parse([PROGRAM, *sys.argv[2:]], VERBS[name].words)
  try:
    code = VERBS[name].run(command, *words)
  except UserError as error:
    _fail(str(error))
  except LostHost as error:
    _fail(str(error), code=1)
  except KeyboardInterrupt:
    print(f"{PROGRAM}: interrupted", file=sys.stderr)
    _leave(128 + signal.SIGINT)  # as a shell reports it
  except Exception as error:
    if isinstance(error, OSError) and error.filename is not None:
      _fail(f"{error.filename}: {error.strerror}")
    traceback.print_exc()
    _leave(1)
  sys.exit(code)


def _parse(argv: list[str], words: tuple) -> list[str]:
  """Flags and config file: whatever goes wrong here is the user's to mend.

  Returns what stands beside the flags, as much as the verb takes.
  """
  try:
    rest = FLAGS(argv)
    if "config" in FLAGS and FLAGS.config is not None:
      FLAGS.config.to_dict()  # a config file that is missing shows only now
  except UserError as error:
    _fail(str(error))
  except SystemExit as error:
    _fail(f"the config file exits ({error.code!r}): let it return a config.")
  except Exception as error:
    # A config file is a program: any exception may come out of it.
    _fail(_explain(error, argv))
  extra = rest[1 + len(words) :]
  if extra:
    _fail(f"unexpected argument {extra[0]!r}: flags are --key=value")
  return rest[1:]


def _explain(error, argv: list[str]) -> str:
  """One line about an exception of absl, ml_collections or a config file."""
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  if isinstance(error, OSError):
    return lines[-1]  # after what ml_collections says about itself
  if isinstance(error, flags.Error):
    # absl packs a whole traceback of the config file into some of these.
    packed = any(line.startswith("Traceback") for line in lines)
    return f"{lines[0]} {lines[-1]}" if packed else " ".join(lines)
  frames = traceback.extract_tb(error.__traceback__)
  own = [
    f for f in frames if not any(name in f.filename for name in NOT_THE_CONFIG)
  ]
  text = f"{type(error).__name__}: {' '.join(lines)}"
  if own:
    return f"{own[-1].filename}:{own[-1].lineno}: {text}"
  asked = _unknown_key(argv)
  if asked:
    near = re.search(r'Did you mean "(\w+)"', str(error))
    hint = f" Nearest there: {near[1]}." if near else ""
    return (
      f"unknown config key in {asked}.{hint} {PROGRAM} train --help lists the "
      "keys."
    )
  files = [a.partition("=")[2] for a in argv if a.startswith("--config=")]
  return f"{files[0]}: {text}" if files else text


def _unknown_key(argv: list[str]) -> str:
  """The first --config.key=value whose key no config has; "" if there is none.

  Keys of a task are whatever the config file calls it.
  """
  from rm_jax.config import base

  for argument in argv:
    found = re.match(r"--?config\.([^=]+)", argument)
    if not found or found[1].startswith("tasks."):
      continue
    value = base()
    for part in re.sub(r"\['(\w+)'\]", r".\1", found[1]).split("."):
      if not isinstance(value, ConfigDict) or part not in value:
        return argument
      value = value[part]
  return ""


def _fail(text: str, code: int = 2) -> None:
  print(f"{PROGRAM}: error: {text}", file=sys.stderr)
  _leave(code)


def _leave(code: int) -> None:
  hosts = sys.modules.get("rm_jax.train.hosts")
  if hosts is not None:
    hosts.leave(code)
  sys.exit(code)
