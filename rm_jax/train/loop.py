"""One training run, from config to results, on one page."""

import contextlib
import json
import pathlib
import time
from concurrent import futures

import jax

from rm_jax.config import validate
from rm_jax.data.loader import open_loader, policy
from rm_jax.data.tokenizers import (
  check_fingerprint,
  fingerprint,
  load_tokenizer,
)
from rm_jax.kernels.splash import check_jax, check_rows
from rm_jax.models.sharding import make_mesh, own_blocks
from rm_jax.train import hosts
from rm_jax.train.checkpoint import (
  is_disk_full,
  open_checkpoints,
  restore,
  save,
  save_best,
  write_json,
)
from rm_jax.train.evaluate import measure_tasks, score_dataset
from rm_jax.train.flops import matrix_sizes
from rm_jax.train.hidden import with_states
from rm_jax.train.init import (
  check_base,
  describe_heads,
  digest,
  find_tokenizer,
  init_from,
)
from rm_jax.train.log import (
  Log,
  Silent,
  eval_row,
  progress_text,
  summary,
  train_row,
)
from rm_jax.train.optim import (
  make_optimizer,
  make_schedule,
  merge,
  split_trainable,
  without_frozen_layers,
)
from rm_jax.train.results import results, write_scores
from rm_jax.train.sets import (
  dropout_seed,
  load_sets,
  score_plan,
  train_plan,
  write_trained_on,
)
from rm_jax.train.stages import Stages
from rm_jax.train.step import check_cuts, make_steps
from rm_jax.train.stragglers import watch_hosts
from rm_jax.train.tasks import objective, read_tasks
from rm_jax.train.trace import tracing
from rm_jax.train.utilisation import flop_counter
from rm_jax.types import LostHost, UserError

# Metrics of which the lower value is the better one.
LOWER_IS_BETTER = (
  "loss",
  "squared_error",
  "constant_squared_error",
  "calibration_error",
  "label_calibration_error",
  "brier",
  "label_brier",
)
PREEMPTED = 75  # exit code: asked to stop, saved, run me again


def nothing() -> None:
  """What is done after a checkpoint of a workdir that is where it stays."""


def train(
  config,
  workdir: pathlib.Path,
  *,
  command: str,
  place: str | pathlib.Path | None = None,
  saved=nothing,
  started: float | None = None,
  trace_steps: tuple[int, int] | None = None,
) -> int:
  """Trains one reward model into `workdir`; returns the exit code.

  Leaves run.json, trained_on.json, metrics.jsonl, tensorboard/, checkpoints/,
  best/, rejects.jsonl, scores.npz (of the evaluation set) and results.json.
  The same command again goes on from the last checkpoint, bit for bit; on
  another mesh or number of hosts it sees the same data in the same order.

  Args:
    place: where checkpoints/ and best/ are, a folder or URL that all hosts see;
      None: in `workdir`. Of several hosts only the first has the workdir of the
      run, the others one to themselves.
    saved: () -> None, called after every checkpoint.
    started: time.perf_counter() where the command began; None: now.
    trace_steps: the first and the last train step of a profiler trace.
  """
  stages = Stages(time.perf_counter() if started is None else started)
  place = workdir if place is None else place
  try:
    return _train(config, workdir, place, command, saved, stages, trace_steps)
  except Exception as error:
    if hosts.is_lost(error):
      raise LostHost(
        f"{place}: another host of this run is gone: its own log says why "
        f"({_first_line(error)}). Saved checkpoints are whole: start the same "
        "command on all hosts again to go on."
      ) from error
    if not isinstance(error, OSError) or not is_disk_full(error):
      raise
    raise UserError(
      f"{workdir}: no room on its disk ({error}). Saved checkpoints are whole: "
      "free space, then run the same command again to go on."
    ) from error


def _first_line(error) -> str:
  return str(error).strip().partition("\n")[0][:200]


def _train(config, workdir, place, command, saved, stages, trace_steps):
  stages.done("imports")
  validate(config)
  if config.compute.attention == "splash":
    check_jax()
    check_rows(config.data.row_len, config.data.align)
  workdir.mkdir(parents=True, exist_ok=True)
  mesh = make_mesh(**config.mesh)
  check_cuts(config, mesh)
  schedule = make_schedule(config.optim, config.num_train_steps)
  optimizer = make_optimizer(config.optim, schedule)
  tasks = read_tasks(config)
  loss, reading = objective(tasks), tasks[0].reading

  # ---------------------------------------------------------------- model
  # Before the data: its mistakes show in seconds.
  tokenizer = load_tokenizer(find_tokenizer(config))
  # Under pmap every device holds all of it, as copies of what is on the host.
  straight = mesh if config.parallel == "pjit" else None
  spec, params = init_from(config, tokenizer, straight)
  heads = describe_heads(config, spec, params["head"])
  trained, frozen = split_trainable(params, config.train.trainable)
  # Beside the reading of the data: hashing leaves Python to other threads.
  hashing = futures.ThreadPoolExecutor(1)
  hashed = hashing.submit(digest, frozen)
  if mesh.is_multi_process:
    hashed.result()  # its collectives must not meet others
  hashing.shutdown(wait=False)
  stages.done("model")

  # ---------------------------------------------------------------- data
  sets = load_sets(config, tokenizer, tasks, workdir)
  stages.done("data")

  # ---------------------------------------------------------------- plan
  plan = train_plan(config, sets.train.demands, sets.parts)
  eval_plan = score_plan(config, sets.test.demands)

  blocks = own_blocks(mesh, config.data.blocks)
  stages.done("plan")

  # ---------------------------------------------------------------- steps
  steps = make_steps(
    spec,
    loss,
    optimizer,
    schedule,
    trainable=config.train.trainable,
    accumulate=config.train.accumulate,
    parallel=config.parallel,
    mesh=mesh,
    known_states=bool(config.train.cache_hidden),
  )
  base = hashed.result()
  # Hosts with other data or weights would train on, each its own model.
  hosts.check_same(
    {
      "counts of the data": sets.counts,
      "prompts of the data": hosts.digest(
        sets.train.prompts + sets.test.prompts
      ),
      "tokenizer": fingerprint(tokenizer, tokenizer.chat_template, {}),
      "weights that do not train": base,
    }
  )
  checkpoints = open_checkpoints(place, keep=config.train.keep)
  found = restore(checkpoints, steps.stored_shape(trained))
  position = None
  changed = []
  if found is None:
    state = steps.first_state(trained)
  else:
    state, position = found
    state = steps.put_state(state)
    check_base(workdir, base)
    changed = _changed(workdir, config, tokenizer, reading)
  # After `restore`: a config that does not fit must not replace the one that
  # made the checkpoints.
  write_run(workdir, config, spec, tokenizer, reading, base)
  first, skipped = _counters(steps, state)
  if config.train.cache_hidden:
    sets = with_states(config, spec, frozen, base, sets, tokenizer, mesh)
    frozen = without_frozen_layers(frozen, spec.frozen)
    stages.done("hidden states")
  count_flops = flop_counter(
    spec,
    matrix_sizes(spec, merge(trained, frozen)),
    steps,
    plan,
    sets.train.demands,
    devices=mesh.size,
  )
  frozen = steps.put_frozen(frozen)
  del params, trained

  resumed = None if found is None else first
  log = (
    Log(workdir, step=resumed, total=config.num_train_steps)
    if hosts.is_first()
    else Silent()
  )
  log.say(summary(config, spec, sets, plan, mesh, first))
  if not first:
    log.say(heads)
  for line in changed:
    log.say(f"note: not as before the restart: {line}")
  if trace_steps and first >= trace_steps[1]:
    log.say(f"note: step {first} is made already, so nothing is traced")
  write_trained_on(workdir, sets)
  stages.done("state")

  def evaluate(state):
    stages.done("train")

    def run(batch):
      out = steps.evaluate(state.params, frozen, steps.put_batch(batch))
      return jax.device_get(out)

    scored = score_dataset(run, sets.test, eval_plan, blocks=blocks)
    metrics = measure_tasks(
      sets.test,
      scored,
      tasks=tasks,
      longer_is_better=sets.longer_is_better,
      seed=config.seed,
    )
    stages.done("evaluate")
    return metrics, scored

  # ---------------------------------------------------------------- loop
  loader = open_loader(
    sets.train,
    plan,
    blocks=blocks,
    position=position,
    dropout=dropout_seed(config),
  )
  metrics = scored = None
  look = watch_hosts()
  with (
    contextlib.closing(checkpoints),
    contextlib.closing(log),
    tracing(trace_steps, place) as trace,
    hosts.stop_signal() as asked_to_stop,
  ):
    if first == 0 and config.evals.at_start:
      metrics, scored = evaluate(state)
      _metric_name(config, metrics)  # a wrong name shows before the first step
      log.write(eval_row(0, metrics))
    for step in range(first + 1, config.num_train_steps + 1):
      log.seconds()
      with trace(step):
        batch, _, counts = next(loader)
        batch = steps.put_batch(batch)
        alone = log.elapsed()
        flops = count_flops(step, state, frozen, batch)
        state, out = steps.train(state, frozen, batch)
        out = jax.device_get(out)
        seconds = log.seconds()  # not those that a trace takes to be written
      if step == first + 1:
        stages.done("first train step")
        log.say(stages.text())
      row = train_row(step, out, counts, flops, seconds, mesh)
      by_host, line = look(step, alone, seconds)
      row |= by_host
      if line:
        log.say(f"step {step}: {line}")
      log.progress(progress_text(row))
      if row["skipped"] > skipped:
        skipped = row["skipped"]
        log.say(f"step {step}: loss or gradient not finite, update skipped")
      last = step == config.num_train_steps
      if step % config.evals.every == 0 or last:
        metrics, scored = evaluate(state)
        row |= eval_row(step, metrics)
        if hosts.agree(_is_best(workdir, config, metrics)):
          # Without the optimizer's state, which nobody scores with.
          best = steps.stored(state._replace(opt_state=()))
          _keep_best(workdir, place, config, step, metrics, best.params)
      log.write(row)  # one row a train step, evaluation included
      stop = asked_to_stop(step)
      if step % config.train.checkpoint_every == 0 or last or stop:
        log.sync()  # rows on disk before the checkpoint that implies them
        # Position before the next batch is taken: it must match the state.
        save(checkpoints, step, steps.stored(state), loader.get_state())
        saved()
      if stop and not last:
        log.say(f"asked to stop: saved step {step}; run again to go on")
        return PREEMPTED
    if metrics is None:  # the run was already complete
      metrics, scored = evaluate(state)

  write_scores(workdir / "scores.npz", sets.test, scored)
  stages.done("train")
  step, _ = _counters(steps, state)
  write_json(
    workdir / "results.json",
    results(
      config,
      metrics,
      sets.counts,
      command,
      sum(stages.seconds.values()),
      step,
      stages.seconds,
    ),
  )
  return 0


def _counters(steps, state) -> tuple[int, int]:
  """(batches seen, updates skipped) of a state on the devices."""
  of = steps.stored(state._replace(params=(), opt_state=()))
  return int(jax.device_get(of.step)), int(jax.device_get(of.skipped))


def _changed(workdir, config, tokenizer, reading) -> list[str]:
  """What differs from the run that made the checkpoints, one line a key.

  Raises:
    UserError: the tokenizer, template or reading is not the one it was.
  """
  run = json.loads((workdir / "run.json").read_text())
  ours = fingerprint(tokenizer, tokenizer.chat_template, policy(reading))
  check_fingerprint(run["fingerprint"], ours)
  before = hosts.flatten(run["config"], "config")
  now = hosts.flatten(json.loads(json.dumps(config.to_dict())), "config")
  return [
    f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
    for key in sorted(before.keys() | now.keys())
    if before.get(key) != now.get(key)
  ]


def write_run(workdir, config, spec, tokenizer, reading, base) -> None:
  """Writes run.json: all that is needed to score with this run later."""
  run = {
    "config": config.to_dict(),
    "fingerprint": fingerprint(
      tokenizer, tokenizer.chat_template, policy(reading)
    ),
    "model": {
      "decoder": spec.decoder.__dict__,
      "head": spec.head.__dict__,
      "tasks": {name: head.__dict__ for name, head in spec.tasks},
    },
    "frozen_sha256": base,
  }
  write_json(workdir / "run.json", run)


def _metric_name(config, metrics) -> str:
  """The metric that names the best checkpoint; "auto" picks by the data."""
  name = config.evals.metric
  if name == "auto":
    known = ("accuracy", "label_accuracy", "squared_error")
    name = next((k for k in known if k in metrics), "loss")
  if name not in metrics:
    raise UserError(
      f"config.evals.metric={name!r} is not measured on this data. Known: "
      f"{sorted(metrics)}."
    )
  return name


def _lower_is_better(name, tasks) -> bool:
  """Of a metric [TASK/]METRIC[/TERM or ATTRIBUTE], whatever the others say."""
  first, _, rest = name.partition("/")
  own = rest if first in tasks else name
  return own.partition("/")[0] in LOWER_IS_BETTER


def _is_best(workdir, config, metrics) -> bool:
  """Whether the named metric is better than best.json says."""
  name = _metric_name(config, metrics)
  now = metrics[name]["value"]
  path = workdir / "best.json"
  best = json.loads(path.read_text()) if path.exists() else {"metric": ""}
  if now is None or best["metric"] != name:
    return now is not None
  lower = _lower_is_better(name, tuple(config.tasks))
  return now < best["value"] if lower else now > best["value"]


def _keep_best(workdir, place, config, step, metrics, params) -> None:
  """Parameters first: best.json never names a checkpoint that is not there."""
  save_best(place, step, params)
  name = _metric_name(config, metrics)
  best = {"metric": name, "value": metrics[name]["value"], "step": step}
  write_json(workdir / "best.json", best)
