"""One training run, from config to results, on one page."""

import json
import math
import pathlib
import signal
import time

import jax
import numpy as np

from rm_jax.config import validate
from rm_jax.data.loader import open_loader, policy
from rm_jax.data.plan import make_eval_plan, make_plan
from rm_jax.data.split import prompt_key
from rm_jax.data.tokenizers import (
  check_vocab_size,
  fingerprint,
  load_tokenizer,
)
from rm_jax.models.sharding import make_mesh
from rm_jax.objectives import LossSpec
from rm_jax.train.checkpoint import (
  open_checkpoints,
  restore,
  save,
  save_best,
  write_json,
)
from rm_jax.train.evaluate import longer_wins, measure, score_dataset
from rm_jax.train.init import init_from
from rm_jax.train.log import Log
from rm_jax.train.optim import (
  make_optimizer,
  make_schedule,
  split_trainable,
)
from rm_jax.train.results import results, write_scores
from rm_jax.train.sets import load_sets, read_spec
from rm_jax.train.step import TrainState, make_steps
from rm_jax.types import UserError

LOWER_IS_BETTER = ("loss", "error", "brier")  # parts of metric names
PREEMPTED = 75  # exit code: asked to stop, saved, run me again


def train(config, workdir: pathlib.Path, *, command: str) -> int:
  """Trains one reward model into `workdir`; returns the exit code.

  Leaves run.json, metrics.jsonl, tensorboard/, checkpoints/, best/,
  rejects.jsonl, scores.npz (of the evaluation set) and results.json. The same
  command again goes on from the last checkpoint, bit for bit.
  """
  started = time.perf_counter()
  validate(config)
  workdir.mkdir(parents=True, exist_ok=True)
  mesh = make_mesh(**config.mesh)
  _check_blocks(config, mesh)

  # ---------------------------------------------------------------- data
  source = config.init["from"]
  tokenizer = load_tokenizer(config.init.tokenizer or source)
  reading, supervision = read_spec(config)
  loss = LossSpec(config.loss.name, config.loss.language_coefficient)
  sets = load_sets(config, tokenizer, reading, supervision, workdir)

  # ---------------------------------------------------------------- model
  spec, params = init_from(config, tokenizer)
  check_vocab_size(tokenizer, spec.decoder.vocab_size)
  write_run(workdir, config, spec, tokenizer, reading)

  # ---------------------------------------------------------------- plan
  plan = make_plan(
    sets.train.demands,
    num_steps=config.num_train_steps,
    batch=config.data.batch,
    groups_per_batch=config.data.groups_per_batch,
    rows_per_batch=config.data.rows_per_batch,
    blocks=config.data.blocks,
    row_len=config.data.row_len,
    layout=config.data.layout,
    align=config.data.align,
    seed=config.seed,
    shuffle=config.data.shuffle,
  )
  eval_plan = make_eval_plan(
    sets.test.demands,
    blocks=config.data.blocks,
    rows=config.evals.rows,
    row_len=config.data.row_len,
    layout=config.data.layout,
    align=config.data.align,
  )

  # ---------------------------------------------------------------- steps
  schedule = make_schedule(config.optim, config.num_train_steps)
  optimizer = make_optimizer(config.optim, schedule)
  steps = make_steps(
    spec,
    loss,
    optimizer,
    schedule,
    trainable=config.train.trainable,
    accumulate=config.train.accumulate,
    parallel=config.parallel,
    mesh=mesh,
  )
  trained, frozen = split_trainable(params, config.train.trainable)
  state = TrainState(
    np.int32(0), np.int32(0), trained, jax.jit(optimizer.init)(trained)
  )
  checkpoints = open_checkpoints(workdir, keep=config.train.keep)
  found = restore(checkpoints, jax.device_get(state))
  position = None
  if found is not None:
    state, position = found
  first = int(state.step)
  state = steps.put_state(state)
  frozen = steps.put_frozen(frozen)
  del params, trained

  log = Log(workdir, step=first, total=config.num_train_steps)
  log.say(_summary(config, spec, sets, plan, mesh, first))
  direction = longer_wins(sets.train) >= 0.5
  prompts = [prompt_key(r) for r in sets.test_records]

  def evaluate(state):
    def run(batch):
      out = steps.evaluate(state.params, frozen, steps.put_batch(batch))
      return jax.device_get(out)

    scored = score_dataset(run, sets.test, eval_plan)
    metrics = measure(
      sets.test,
      scored,
      prompts=[prompts[g.record] for g in sets.test.groups],
      longer_is_better=direction,
      seed=config.seed,
    )
    return metrics, scored

  # ---------------------------------------------------------------- loop
  loader = open_loader(
    sets.train,
    plan,
    host=jax.process_index(),
    hosts=jax.process_count(),
    position=position,
  )
  asked_to_stop = []
  before = signal.signal(
    signal.SIGTERM, lambda *_: asked_to_stop.append(True)
  )
  metrics = scored = None
  try:
    if first == 0:
      metrics, scored = evaluate(state)
      log.write(_eval_row(0, metrics))
    for step in range(first + 1, config.num_train_steps + 1):
      log.seconds()
      batch, _, counts = next(loader)
      state, out = steps.train(state, frozen, steps.put_batch(batch))
      out = jax.device_get(out)
      row = _train_row(step, out, counts, log.seconds())
      log.progress(
        f"loss {row['loss']:.4f}  {row['useful_tokens_per_second']:,.0f} "
        f"useful tok/s ({row['computed_tokens_per_second']:,.0f} computed)"
      )
      last = step == config.num_train_steps
      if step % config.evals.every == 0 or last:
        metrics, scored = evaluate(state)
        row |= _eval_row(step, metrics)
        _keep_best(workdir, config, step, metrics, steps.host_state(state))
      log.write(row)  # one row a train step, evaluation included
      stop = bool(asked_to_stop)
      if step % config.train.checkpoint_every == 0 or last or stop:
        log.sync()  # rows on disk before the checkpoint that implies them
        # Position before the next batch is taken: it must match the state.
        save(checkpoints, step, steps.host_state(state), loader.get_state())
      if stop and not last:
        log.say(f"asked to stop: saved step {step}; run again to go on")
        return PREEMPTED
    if metrics is None:  # the run was already complete
      metrics, scored = evaluate(state)
  finally:
    signal.signal(signal.SIGTERM, before)
    log.close()
    checkpoints.close()

  write_scores(workdir / "scores.npz", sets.test, scored)
  seconds = time.perf_counter() - started
  write_json(
    workdir / "results.json",
    results(config, metrics, sets, command, seconds, int(state.step.ravel()[0])),
  )
  return 0


def _check_blocks(config, mesh):
  """A batch's blocks must split over devices, then over micro-batches."""
  parts = mesh.shape["data"] * mesh.shape["fsdp"]
  each = parts * config.train.accumulate
  if config.data.blocks % each:
    up = -(-config.data.blocks // each) * each
    raise UserError(
      f"config.data.blocks={config.data.blocks} does not split over {parts} "
      f"devices x config.train.accumulate={config.train.accumulate} (remainder "
      f"{config.data.blocks % each}). Nearest above: {up}."
    )


def write_run(workdir, config, spec, tokenizer, reading) -> None:
  """Writes run.json: all that is needed to score with this run later."""
  run = {
    "config": config.to_dict(),
    "fingerprint": fingerprint(
      tokenizer, tokenizer.chat_template, policy(reading)
    ),
    "model": {
      "decoder": spec.decoder.__dict__,
      "head": spec.head,
      "pooling": spec.pooling,
    },
  }
  write_json(workdir / "run.json", run)


def _summary(config, spec, sets, plan, mesh, first) -> str:
  c = sets.counts
  saved = 1 - c["train_tokens_shared"] / c["train_tokens_unshared"]
  shapes = [
    f"{plan.geometry.blocks}x{r}x{plan.geometry.row_len}"
    for r in plan.row_counts
  ]
  resumed = f", going on after step {first}" if first else ""
  note = f"note: {config.note}\n" if config.note else ""
  return (
    f"{note}{c['train_groups']:,} train groups ({c['train_rejected']} rejected, "
    f"{c['train_overlong']} overlong), {c['test_groups']:,} test groups\n"
    f"{config.data.layout} layout: {c['train_tokens_shared']:,} tokens an epoch "
    f"(one row per completion would take {c['train_tokens_unshared']:,}; "
    f"sharing saves {saved:.0%})\n"
    f"{len(plan.steps):,} train steps in {len(plan.row_counts)} compiled shapes "
    f"(blocks x rows x columns): {', '.join(shapes)}\n"
    f"{config.loss.name}, {config.train.trainable} trainable, "
    f"{config.optim.name}, {spec.dtype}, {config.parallel} over "
    f"{dict(mesh.shape)}{resumed}"
  )


def _train_row(step, out, counts, seconds) -> dict:
  """One line of metrics.jsonl. A loss that is not finite is null."""
  row = {
    "step": step,
    "loss": _number(out["loss"]),
    "grad_norm": _number(out["grad_norm"]),
    "lr": float(out["lr"]),
    "skipped": int(out["skipped"]),
  }
  for term, (total, weight) in out["terms"].items():
    if len(out["terms"]) > 1 and weight:
      row[f"loss/{term}"] = _number(total / weight)
  return row | {
    "groups": counts["groups"],
    "useful_tokens": counts["useful_tokens"],
    "computed_tokens": counts["computed_tokens"],
    "seconds": round(seconds, 4),
    "useful_tokens_per_second": counts["useful_tokens"] / seconds,
    "computed_tokens_per_second": counts["computed_tokens"] / seconds,
  }


def _number(x):
  x = float(x)
  return x if math.isfinite(x) else None


def _eval_row(step, metrics) -> dict:
  row = {"step": step}
  for key, entry in metrics.items():
    row[f"eval/{key}"] = entry["value"]
    if entry["low"] is not None:
      row[f"eval/{key}_low"] = entry["low"]
      row[f"eval/{key}_high"] = entry["high"]
  return row


def _metric_name(config, metrics) -> str:
  """The metric that names the best checkpoint; "auto" picks by the data."""
  name = config.evals.metric
  if name == "auto":
    known = ("accuracy", "label_accuracy", "squared_error")
    name = next(k for k in known if k in metrics)
  if name not in metrics:
    raise UserError(
      f"config.evals.metric={name!r} is not measured on this data. Known: "
      f"{sorted(metrics)}."
    )
  return name


def _keep_best(workdir, config, step, metrics, state) -> None:
  """Saves the parameters when the named metric is the best so far."""
  name = _metric_name(config, metrics)
  now = metrics[name]["value"]
  path = workdir / "best.json"
  best = json.loads(path.read_text())["value"] if path.exists() else None
  sign = -1 if any(word in name for word in LOWER_IS_BETTER) else 1
  if now is None or (best is not None and sign * now <= sign * best):
    return
  save_best(workdir, step, state.params)
  write_json(path, {"metric": name, "value": now, "step": step})
