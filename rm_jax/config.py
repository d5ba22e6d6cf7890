"""What config files may import of ours: the base config, and its checks."""

import pathlib

from ml_collections import ConfigDict

from rm_jax.types import UserError


def base() -> ConfigDict:
  """Every key a run has, with its default; a config file changes some."""
  c = ConfigDict()
  c.note = ""  # printed at the start of the run
  c.seed = 0
  c.num_train_steps = 100
  # Where the backbone comes from: "smollm2" (the embedded model), a GGUF file,
  # a folder with config.json, or "random:NAME" of models/sizes.py.
  c.init = ConfigDict({"from": "smollm2", "tokenizer": ""})  # "": same place
  c.model = ConfigDict(
    dict(
      head="scalar",  # scalar, biased_scalar, steps
      head_init="zeros",  # the first pairwise loss is log 2
      pooling="last_token",  # every_token, mean, step_ends
    )
  )
  c.loss = ConfigDict(
    dict(
      name="bradley_terry",
      per="group",  # every group weighs 1; "comparison": every comparison
      margin="none",  # a name of rm_jax.margins, for bradley_terry_margin
      language_coefficient=0.0,  # of a joint next-token loss
    )
  )
  c.data = ConfigDict(
    dict(
      source="",  # file or folder
      eval_source="",  # "": `eval_share` of the prompts of `source`
      eval_share=0.1,
      kind="auto",  # record format; "auto" recognises it by its fields
      template="auto",  # the tokenizer's chat template if it has one
      read_at="end_of_turn",
      row_len=512,
      overlong="drop",
      layout="shared",
      batch="groups",
      groups_per_batch=16,
      rows_per_batch=8,
      blocks=4,  # of a batch: cut over devices and micro-batches
      align=1,
      shuffle=True,
      max_reject_share=0.02,
    )
  )
  c.optim = ConfigDict(
    dict(
      name="adamw",  # adafactor
      lr=1e-5,
      schedule="cosine",  # constant, linear
      warmup_steps=10,
      final_lr_ratio=0.1,
      head_lr_multiplier=1.0,
      weight_decay=0.1,  # not on the head, norms and biases
      b1=0.9,
      b2=0.95,
      eps=1e-8,
      clip_norm=1.0,  # 0: none
    )
  )
  c.train = ConfigDict(
    dict(
      trainable="all",  # head, last:n
      accumulate=1,  # micro-batches per train step; divides data.blocks
      checkpoint_every=100,
      keep=2,
    )
  )
  c.evals = ConfigDict(
    dict(
      every=100,
      metric="auto",  # names the best checkpoint: accuracy, loss, ...
      max_groups=0,  # 0: all
      rows=4,  # of a block
    )
  )
  c.compute = ConfigDict(dict(dtype="bfloat16", remat=True))
  c.parallel = "pjit"  # pmap
  c.mesh = ConfigDict(dict(data=-1, fsdp=1, tensor=1))  # -1: what is left
  return c


def has_bfloat16() -> bool:
  """Whether this CPU multiplies bfloat16 in hardware (x86: AMX, AVX-512)."""
  try:
    text = pathlib.Path("/proc/cpuinfo").read_text()
  except OSError:
    return False
  return any(flag in text.split() for flag in ("amx_bf16", "avx512_bf16"))


# key -> known values
CHOICES = {
  "data.layout": ("padded", "packed", "shared"),
  "data.batch": ("groups", "rows"),
  "data.overlong": ("drop", "cut_prompt"),
  "data.read_at": ("last_token", "end_of_turn"),
  "data.template": ("auto", "chat", "plain"),
  "loss.per": ("group", "comparison"),
  "compute.dtype": ("bfloat16", "float32"),
  "parallel": ("pjit", "pmap"),
}

POSITIVE = (
  "num_train_steps",
  "data.row_len",
  "data.groups_per_batch",
  "data.rows_per_batch",
  "data.blocks",
  "data.align",
  "train.accumulate",
  "train.checkpoint_every",
  "train.keep",
  "evals.every",
  "evals.rows",
)


NOT_NEGATIVE = (
  "evals.max_groups",
  "optim.lr",
  "optim.warmup_steps",
  "optim.final_lr_ratio",
  "optim.head_lr_multiplier",
  "optim.weight_decay",
  "optim.clip_norm",
)


def get(c: ConfigDict, key: str):
  """The value at a dotted key."""
  for part in key.split("."):
    c = c[part]
  return c


def validate(c: ConfigDict) -> None:
  """Checks what can be known before any file is read.

  Raises:
    UserError: names the key, its value and what is possible.
  """
  _check_keys(c, base(), "config")
  for key, known in CHOICES.items():
    if get(c, key) not in known:
      raise UserError(
        f"config.{key}={get(c, key)!r} is not known. Known: {sorted(known)}."
      )
  for key in POSITIVE:
    if get(c, key) < 1:
      raise UserError(f"config.{key}={get(c, key)} must be 1 or more.")
  for key in NOT_NEGATIVE:
    if not get(c, key) >= 0:
      raise UserError(f"config.{key}={get(c, key)} must be 0 or more.")
  if not c.data.source:
    raise UserError(
      "config.data.source is empty: give a file or folder of records, such as "
      "--config.data.source=pairs.jsonl"
    )
  if c.data.blocks % c.train.accumulate:
    raise UserError(
      f"config.data.blocks={c.data.blocks} does not split into "
      f"config.train.accumulate={c.train.accumulate} micro-batches (remainder "
      f"{c.data.blocks % c.train.accumulate})."
    )
  if c.data.batch == "rows" and c.data.rows_per_batch % c.data.blocks:
    rest = c.data.rows_per_batch % c.data.blocks
    raise UserError(
      f"config.data.rows_per_batch={c.data.rows_per_batch} does not split over "
      f"config.data.blocks={c.data.blocks} (remainder {rest}). Nearest above: "
      f"{c.data.rows_per_batch - rest + c.data.blocks}."
    )
  if c.data.row_len % c.data.align:
    raise UserError(
      f"config.data.row_len={c.data.row_len} is not a multiple of "
      f"config.data.align={c.data.align} (remainder "
      f"{c.data.row_len % c.data.align})."
    )
  if c.loss.margin != "none" and c.loss.name != "bradley_terry_margin":
    raise UserError(
      f"config.loss.margin={c.loss.margin!r} is read by "
      f"bradley_terry_margin only, config.loss.name is {c.loss.name!r}."
    )


def _check_keys(c, known, name):
  extra = sorted(set(c) - set(known))
  missing = sorted(set(known) - set(c))
  if extra or missing:
    raise UserError(
      f"{name}: unknown keys {extra}, missing keys {missing}. Known: "
      f"{sorted(known)}."
    )
  for key in known:
    if isinstance(known[key], ConfigDict):
      _check_keys(c[key], known[key], f"{name}.{key}")
