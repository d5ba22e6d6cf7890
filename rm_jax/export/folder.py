"""A model -> a folder that transformers loads with equal scores."""

import dataclasses
import functools
import json
import pathlib
import shutil
from typing import NamedTuple

import numpy as np

from rm_jax.data.handover import hand_over
from rm_jax.data.loader import policy
from rm_jax.data.tokenize import end_ids
from rm_jax.data.tokenizers import fingerprint, load_tokenizer
from rm_jax.export.average import load_average
from rm_jax.export.card import write_card
from rm_jax.export.heads import ARCHITECTURES, classify, pick_task
from rm_jax.exported import (
  BESIDE,
  SCHEMA,
  Beside,
  is_exported,
  write_beside,
)
from rm_jax.gguf_file import open_gguf
from rm_jax.inference import RewardModel
from rm_jax.models.convert import load_pretrained, to_hf
from rm_jax.models.families import read_config
from rm_jax.models.names import part
from rm_jax.models.write import (
  DTYPES,
  find_family,
  llama_config,
  model_config,
  write_tensors,
)
from rm_jax.normaliser import Normaliser, store, weights_digest
from rm_jax.places import EMBEDDED, find_run, locate, read_json, scheme
from rm_jax.train.checkpoint import is_disk_full
from rm_jax.train.init import RANDOM
from rm_jax.train.optim import join_layers
from rm_jax.types import UserError


class Source(NamedTuple):
  """What is exported, and what config.json it began with."""

  model: RewardModel
  runs: list  # of Run behind the weights
  base: str  # where the base model came from; "": nowhere


def export(
  place: str,
  out: str,
  *,
  average: list[str],
  architecture: str,
  dtype: str,
  max_shard_bytes: int,
  task: str,
  results: list[str],
) -> str:
  """Writes the folder `out`; returns what to tell the user.

  All of it or nothing: it is written beside `out` and renamed at the end.

  Args:
    place: what `RewardModel.load` takes, or a base model (GGUF, causal LM),
      which becomes a language model; "" with `average`.
    average: runs whose weights are averaged, in place of `place`.
    architecture: of ARCHITECTURES.
    task: whose head, in a run with several; "": the main one.
    results: results.json files of rm-jax eval for the card.
  """
  _check(place, out, average, architecture, dtype)
  language = not average and _is_language_model(place)
  if language or architecture == "causal":
    _check_unread(task=task, results=results)
  how = dict(
    architecture=architecture, dtype=dtype, max_shard_bytes=max_shard_bytes
  )
  out = pathlib.Path(out)
  if language:
    write = functools.partial(_export_base, place, **how)
  else:
    source = _open(place, average)
    write = functools.partial(
      write_reward_model,
      source,
      name=out.name,
      task=task,
      attributes=_attributes(source, task),
      results=results,
      **how,
    )
  out.parent.mkdir(parents=True, exist_ok=True)
  beside = out.with_name(out.name + ".tmp")
  shutil.rmtree(beside, ignore_errors=True)
  beside.mkdir()
  try:
    told = write(beside)
    if out.exists():
      out.rmdir()  # empty, see _check
    beside.rename(out)
  except Exception as error:
    if is_disk_full(error):
      raise UserError(
        f"{out}: no room on its disk ({error}). Nothing was written: free "
        "space or choose another --out."
      ) from error
    raise
  finally:
    shutil.rmtree(beside, ignore_errors=True)
  size = sum(p.stat().st_size for p in out.iterdir())
  return "\n".join([f"{out}: {told[0]}, {size / 1e6:,.1f} MB", *told[1:]])


def _check(place, out, average, architecture, dtype):
  if bool(place) == bool(average):
    raise UserError(
      "give --model=RUN or --average=RUN,RUN, one of the two: see rm-jax "
      "export --help"
    )
  if architecture not in ARCHITECTURES:
    raise UserError(
      f"--architecture={architecture!r} is not known. Known: {ARCHITECTURES}."
    )
  if dtype not in DTYPES:
    raise UserError(f"--dtype={dtype!r} is not known. Known: {sorted(DTYPES)}.")
  if scheme(out):
    raise UserError(
      f"--out={out}: expected a folder of this machine; export there and copy "
      "it where it belongs"
    )
  out = pathlib.Path(out)
  if out.is_file() or (out.is_dir() and any(out.iterdir())):
    raise UserError(
      f"--out={out}: expected an empty or a new folder, got one that holds "
      "something: choose another, or remove it"
    )


def _check_unread(**given):
  """A language model has no reward head to pick, and no model card."""
  for name, value in given.items():
    if value:
      text = ",".join(map(str, value)) if name == "results" else value
      raise UserError(
        f"--{name}={text} is not read where a language model is written, which "
        "has neither a reward head nor a model card. Leave it out."
      )


def _is_language_model(place) -> bool:
  """A base model: neither a run nor a published classifier."""
  path = pathlib.Path(place)
  if str(place) in EMBEDDED or path.suffix == ".gguf":
    return True
  if scheme(place) or find_run(path) or not (path / "config.json").is_file():
    return False
  names = read_json(path / "config.json").get("architectures") or ()
  return not any("Classification" in name for name in names)


def _open(place, average) -> Source:
  if average:
    model, runs = load_average(average)
    return Source(model, runs, runs[0].config.init["from"])
  model = RewardModel.load(place)
  if model.run:
    return Source(model, [model.run], model.run.config.init["from"])
  return Source(model, [], place)


def base_config(source: str, decoder, *, max_positions: int) -> dict:
  """The raw config.json of a base model, or one written from the decoder.

  A GGUF file and a random model have none; so has a base model that is gone,
  where all of it was trained and nothing else needs it.
  """
  if not source.startswith(RANDOM):
    try:
      path = locate(source)
    except UserError:
      path = None
    if path is not None and path.is_dir():
      return read_json(path / "config.json")
    if path is not None:
      fields = open_gguf(path).fields
      max_positions = fields.get("llama.context_length", max_positions)
  return llama_config(decoder, max_positions=max_positions)


# ---------------------------------------------------------------- reward models


def write_reward_model(
  source: Source,
  folder: pathlib.Path,
  *,
  name: str,
  architecture: str,
  dtype: str,
  max_shard_bytes: int,
  task: str,
  attributes: tuple,
  results: list[str],
) -> list[str]:
  """Writes every file of a reward model into an empty folder; says what.

  Args:
    name: of the model in its card.
    attributes: names of the outputs of an attribute head; () of others.
    architecture, dtype, max_shard_bytes, task, results: as of `export`.
  """
  model, runs, base = source
  spec, params = pick_task(model.spec, model.params, task)
  decoder = spec.decoder
  reading = model.reading._replace(pooling=spec.head.pooling)
  raw = base_config(base, decoder, max_positions=reading.row_len)
  if architecture == "causal":
    return _write_language_model(
      folder,
      {k: np.asarray(v) for k, v in _tensors(params, decoder).items()},
      raw,
      decoder,
      model.tokenizer,
      dtype=dtype,
      max_shard_bytes=max_shard_bytes,
      where=base,
    )
  classifier = classify(spec, params, attributes, architecture=architecture)
  family = find_family(raw, classifier.architecture, where=base)
  handover = hand_over(model.tokenizer, reading, vocab_size=decoder.vocab_size)

  tensors = _tensors(params, decoder)
  unembedding = part(("lm_head", "kernel"), None, decoder).name
  tensors.pop(unembedding, None)  # no score reads it
  if handover.grown:
    tensors = _with_a_row(tensors, decoder)
    decoder = dataclasses.replace(decoder, vocab_size=decoder.vocab_size + 1)
  exact = ["score.weight"]
  if classifier.architecture == "token":
    exact = [f"{family.token_head}.{x}" for x in ("weight", "bias")]
    tensors[exact[1]] = classifier.bias
  tensors[exact[0]] = classifier.weight
  files = write_tensors(
    folder,
    tensors,
    dtype=dtype,
    exact=tuple(exact),
    max_shard_bytes=max_shard_bytes,
  )
  config = model_config(
    raw,
    decoder,
    architecture=classifier.architecture,
    dtype=dtype,
    labels=classifier.labels,
    tokenizer=handover.tokenizer,
    where=base,
  )
  _write_json(folder / "config.json", config)
  write_tokenizer(folder, handover.tokenizer)
  _write_beside(folder, model, classifier, handover, attributes)
  if model.normaliser is not None:
    back = RewardModel.load(folder)  # its weights, rounded or not
    store(
      folder,
      weights_digest(back.spec, back.params),
      back.fingerprint(),
      Normaliser(*model.normaliser),
    )
  card = write_card(
    runs,
    name=name,
    classifier=classifier,
    handover=handover,
    decoder=spec.decoder,
    dtype=dtype,
    normaliser=model.normaliser,
    results=results,
  )
  (folder / "README.md").write_text(card)
  shards = sum(f.endswith(".safetensors") for f in files)
  pad = handover.tokenizer
  return [
    f"{config['architectures'][0]} in {dtype}, {shards} file"
    f"{'s' if shards > 1 else ''} of weights, padding {pad.pad_token!r} "
    f"(id {pad.pad_token_id})",
    *(f"  {note}" for note in classifier.notes),
  ]


def _attributes(source, task) -> tuple:
  """Names of the outputs of an attribute head; () of others."""
  if source.runs:
    config = source.runs[0].config
    if task in config.tasks:  # an unknown one is refused with its head
      config = config.tasks[task]
    return tuple(config.model.attributes)
  if is_exported(source.base):
    return tuple(read_json(pathlib.Path(source.base) / BESIDE)["attributes"])
  return ()


def _tensors(params, decoder) -> dict:
  backbone = params["backbone"]
  if "layers_1" in backbone:
    backbone = join_layers(backbone)
  return to_hf(backbone, decoder)


def _with_a_row(tensors: dict, decoder) -> dict:
  """A row of zeros for the padding token after the table's last one."""
  name = part(("embed", "embedding"), None, decoder).name
  table = tensors[name]
  row = np.zeros((1, decoder.width), table.dtype)
  return {**tensors, name: np.concatenate([table, row])}


def write_tokenizer(folder: pathlib.Path, tokenizer) -> None:
  """tokenizer.json, tokenizer_config.json and the template, for any version."""
  tokenizer.save_pretrained(folder)
  path = folder / "tokenizer_config.json"
  config = read_json(path)
  if config.get("tokenizer_class") == "TokenizersBackend":
    # The same class under the name that transformers 4 knows as well.
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    _write_json(path, config)


def _write_beside(folder, model, classifier, handover, attributes):
  own = load_tokenizer(folder)  # as it is read back
  write_beside(
    folder,
    Beside(
      schema=SCHEMA,
      reading=handover.reading._asdict(),
      head=dataclasses.asdict(classifier.head),
      attributes=list(attributes),
      bias=list(classifier.left_over) or None,
      vocab_size=model.spec.decoder.vocab_size,
      fingerprint=fingerprint(own, own.chat_template, policy(handover.reading)),
    ),
  )


def _write_json(path, value):
  path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


# ---------------------------------------------------------------- base models


def _export_base(place, folder, *, architecture, dtype, max_shard_bytes):
  """A base model as a language model: what was read, nothing trained."""
  if architecture not in ("auto", "causal"):
    raise UserError(
      f"--architecture={architecture}: {place} is a language model without a "
      "reward head. Export with --architecture=causal, or train one first."
    )
  found = load_pretrained(place)
  tokenizer = load_tokenizer(place)
  raw = base_config(place, found.config, max_positions=2048)
  return _write_language_model(
    folder,
    to_hf(found.params, found.config),
    raw,
    found.config,
    tokenizer,
    dtype=dtype,
    max_shard_bytes=max_shard_bytes,
    where=place,
  )


def _write_language_model(
  folder, tensors, raw, decoder, tokenizer, *, dtype, max_shard_bytes, where
) -> list[str]:
  if decoder.tied and not read_config(raw, where=where).tied:
    raise UserError(
      f"{where}: its unembedding was not in the files it was read from, so it "
      "is no language model any more. Export it as a classifier."
    )
  write_tensors(folder, tensors, dtype=dtype, max_shard_bytes=max_shard_bytes)
  config = model_config(
    raw,
    decoder,
    architecture="causal",
    dtype=dtype,
    labels=(),
    tokenizer=tokenizer,
    where=where,
  )
  _write_json(folder / "config.json", config)
  write_tokenizer(folder, tokenizer)
  ends = list(end_ids(tokenizer))
  generation = {
    "bos_token_id": tokenizer.bos_token_id,
    "eos_token_id": ends,
    "pad_token_id": tokenizer.pad_token_id,
  }
  _write_json(folder / "generation_config.json", generation)
  return [f"{config['architectures'][0]} in {dtype}"]
