"""What config files may import of ours: the base config, and its checks."""

import math
import pathlib

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from rm_jax.types import UserError


def model() -> ConfigDict:
  """How hidden states become scores."""
  return ConfigDict(
    dict(
      # scalar, biased_scalar, two_layer, gain_bias, attributes, bins, steps
      head="scalar",
      head_init="zeros",  # the first pairwise loss is log 2
      pooling="last_token",  # every_token, mean, step_ends
      attributes=(),  # names, in the order of the attribute head's outputs
      attribute_weights=(),  # of a completion's score; (): all the same
      verdict="",  # token whose logit the gain_bias head reads
    )
  )


def loss() -> ConfigDict:
  """One loss, its parameters, and what is added to it."""
  return ConfigDict(
    dict(
      name="bradley_terry",
      per="group",  # every group weighs 1; "comparison": every comparison
      # A name of rm_jax.margins; "record": the number that the data states.
      margin="none",
      # Parameters: to be set where the loss reads them, refused elsewhere.
      # docs/losses.md says which loss reads what.
      top=placeholder(int),
      smoothing=placeholder(float),
      noise=placeholder(float),
      temperature=placeholder(float),
      gap=placeholder(float),
      gamma=placeholder(float),
      low=placeholder(float),
      high=placeholder(float),
      bins=placeholder(int),
      sigma=placeholder(float),
      # Targets of a value at every token: set both or neither.
      discount=placeholder(float),
      trace=placeholder(float),  # lambda; 1: Monte Carlo
      # Coefficients of what is added; 0: nothing.
      language_coefficient=0.0,  # joint next-token loss
      centering=0.0,  # (chosen + rejected)^2
      score_square=0.0,
      group_variance=0.0,
      hidden_square=0.0,
    )
  )


def task() -> ConfigDict:
  """A further task of a run: c.tasks.NAME = task(), then change its keys.

  Its data, loss and, unless `share_head`, its own head on the same backbone.
  """
  return ConfigDict(
    dict(
      source="",
      eval_source="",  # "": data.eval_share of the prompts of `source`
      kind="auto",
      weight=1.0,  # how often its groups are drawn; the main task's is 1
      coefficient=1.0,  # of its mean loss
      share_head=False,  # read the main head
      model=model(),
      loss=loss(),
    )
  )


def base() -> ConfigDict:
  """Every key a run has, with its default; a config file changes some."""
  c = ConfigDict()
  c.note = ""  # printed at the start of the run
  c.seed = 0
  c.num_train_steps = 100
  # Where the backbone comes from: "smollm2" (the embedded model), a GGUF file,
  # a folder with config.json, a URL, OWNER/NAME of the Hub, a run's workdir or
  # checkpoint, or "random:NAME" of models/sizes.py. See docs/families.md.
  c.init = ConfigDict(
    {
      "from": "smollm2",
      "tokenizer": "",  # "": same place
      "layers": 0,  # only the first so many; 0: all
      "head": "new",  # keep: the head of the reward model that `from` is
    }
  )
  c.model = model()
  # Residual dropout in training, of the backbone that all tasks read: the
  # share of what attention and MLP add to the stream. Masks follow from seed,
  # train step and token, so no layout, mesh or restart changes them.
  c.model.dropout = 0.0
  c.loss = loss()
  c.tasks = ConfigDict()  # NAME -> task(), beside the main one
  c.data = ConfigDict(
    dict(
      source="",  # file, folder, place; several with "," between them
      weights=(),  # of several sources; (): every record the same
      eval_source="",  # "": `eval_share` of the prompts of `source`
      eval_share=0.1,
      train_share=1.0,  # of the prompts that are left: a study of data size
      split_by="prompt",  # annotator: no annotator is on both sides
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
      # Folder of tokenised records, made if missing; "auto": one of this user
      # for files of this machine, by their digest; "": memory.
      cache="auto",
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
      momentum_dtype="float32",  # bfloat16: first moments of adamw, rounded
      clip_norm=1.0,  # 0: none
    )
  )
  c.train = ConfigDict(
    dict(
      trainable="all",  # head, last:n, lora
      # Folder that keeps what the frozen layers give, made if missing, shared
      # by runs on the same data; "": computed at every step.
      cache_hidden="",
      accumulate=1,  # micro-batches per train step; divides data.blocks
      checkpoint_every=100,
      keep=2,
    )
  )
  # Read with train.trainable="lora": adapters and head train, nothing else.
  c.lora = ConfigDict(
    dict(
      rank=0,
      alpha=16.0,  # the product of A and B counts alpha / rank
      targets=("q", "v"),  # k, o, gate, up, down; ("all",): every linear map
    )
  )
  c.evals = ConfigDict(
    dict(
      every=100,
      at_start=True,  # also before the first train step
      metric="auto",  # names the best checkpoint: accuracy, loss, ...
      max_groups=0,  # 0: all
      rows=4,  # of a block
    )
  )
  c.compute = ConfigDict(
    dict(
      dtype="bfloat16",  # of the operands of matrix products
      # Of their results, the residual stream, and weight gradients until they
      # are summed over devices. bfloat16 halves memory and traffic of a TPU.
      results="float32",
      remat=True,
      # A stack of at most so many layers is written out, not scanned: on a CPU
      # 30 layers of SmolLM2 take a quarter less, and 15 s more to compile.
      unrolled=2,
      # splash: jax's kernel for TPUs, rows of a multiple of 128 (docs/tpu.md)
      attention="blocks",
      compile_cache="auto",  # a folder; "auto": of this user; "": none
    )
  )
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
  "data.split_by": ("prompt", "annotator"),
  "loss.per": ("group", "comparison"),
  "compute.dtype": ("bfloat16", "float32"),
  "compute.attention": ("blocks", "splash"),
  "compute.results": ("bfloat16", "float32"),
  "optim.momentum_dtype": ("bfloat16", "float32"),
  "init.head": ("new", "keep"),
  "parallel": ("pjit", "pmap"),
}

# Linear maps of a layer that may have an adapter; "all": every one.
LORA_TARGETS = ("all", "q", "k", "v", "o", "gate", "up", "down")

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
  "seed",
  "compute.unrolled",
  "init.layers",
  "evals.max_groups",
  "lora.alpha",
  "lora.rank",
  "optim.lr",
  "optim.warmup_steps",
  "optim.final_lr_ratio",
  "optim.head_lr_multiplier",
  "optim.weight_decay",
  "optim.clip_norm",
)


WITHIN = {
  "data.eval_share": (0.0, 1.0),
  "data.train_share": (0.0, 1.0),
  "data.max_reject_share": (0.0, 1.0),
  "optim.b1": (0.0, 1.0),
  "optim.b2": (0.0, 1.0),
  "optim.eps": (0.0, 1.0),
}

ADAMW_ONLY = ("optim.b1", "optim.b2", "optim.eps", "optim.momentum_dtype")


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
  if c.init.layers and c.init.head == "keep":
    raise UserError(
      f"config.init.layers={c.init.layers} cuts off the layers whose states "
      "the head of config.init.head='keep' reads. Leave layers 0, or set head "
      "to 'new'."
    )
  if c.train.cache_hidden and c.train.trainable in ("all", "lora"):
    raise UserError(
      f"config.train.cache_hidden={c.train.cache_hidden!r} keeps what frozen "
      f"layers give, but config.train.trainable={c.train.trainable!r} freezes "
      "none: every layer's output changes. Leave it empty, or set trainable to "
      "head or last:n."
    )
  if not 0 <= c.model.dropout < 1:
    raise UserError(
      f"config.model.dropout={c.model.dropout} must be in [0, 1): it is the "
      "share that is left out. 0 leaves out nothing."
    )
  if c.model.dropout and c.train.cache_hidden:
    raise UserError(
      f"config.model.dropout={c.model.dropout} leaves out another part of the "
      "frozen layers' sums at every train step, but config.train.cache_hidden="
      f"{c.train.cache_hidden!r} computes them once. Set dropout to 0 or leave "
      "cache_hidden empty."
    )
  for key in ADAMW_ONLY if c.optim.name == "adafactor" else ():
    default = get(base(), key)
    if get(c, key) != default:
      raise UserError(
        f"config.{key}={get(c, key)!r} is not read by config.optim.name="
        "'adafactor', which has no first moments and its own decay of the "
        f"second. Leave it {default!r}."
      )
  if (c.compute.dtype, c.compute.results) == ("float32", "bfloat16"):
    raise UserError(
      "config.compute.results='bfloat16' rounds what config.compute.dtype="
      "'float32' computes. Set dtype to 'bfloat16', or results to 'float32'."
    )
  unknown = [x for x in c.lora.targets if x not in LORA_TARGETS]
  if unknown:
    raise UserError(
      f"config.lora.targets={c.lora.targets!r}: {unknown[0]!r} is not known. "
      f"Known: {LORA_TARGETS}."
    )
  if (c.train.trainable == "lora") != (c.lora.rank > 0):
    raise UserError(
      f"config.train.trainable={c.train.trainable!r} and config.lora.rank="
      f"{c.lora.rank}: adapters train with trainable='lora' and a rank of 1 or "
      "more. Set both or neither."
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
  if c.compute.attention == "splash" and c.compute.dtype != "bfloat16":
    raise UserError(
      f"config.compute.attention='splash' with config.compute.dtype="
      f"{c.compute.dtype!r}: the kernel multiplies in bfloat16 on a TPU "
      "whatever it is given. Set dtype to bfloat16 or attention to blocks."
    )
  if c.data.row_len % c.data.align:
    raise UserError(
      f"config.data.row_len={c.data.row_len} is not a multiple of "
      f"config.data.align={c.data.align} (remainder "
      f"{c.data.row_len % c.data.align})."
    )
  for name, one in c.tasks.items():
    if not one.source:
      raise UserError(
        f"config.tasks.{name}.source is empty: give a file or folder of "
        "records, or leave the task out."
      )
    for key in ("weight", "coefficient"):
      if not one[key] > 0:
        raise UserError(
          f"config.tasks.{name}.{key}={one[key]} must be above 0."
        )
  for key, (low, high) in WITHIN.items():
    if not low <= get(c, key) <= high:
      raise UserError(
        f"config.{key}={get(c, key)} must be in [{low:g}, {high:g}]."
      )
  parts = c.data.source.split(",")
  weights = c.data.weights
  numbers = isinstance(weights, tuple | list) and all(
    isinstance(w, int | float) and w > 0 for w in weights
  )
  if not numbers or (weights and len(weights) != len(parts)):
    raise UserError(
      f"config.data.weights={weights!r} must be numbers above 0, "
      f"one for each of the {len(parts)} places of config.data.source."
    )
  _check_finite(c, "config")


def _check_finite(c, name) -> None:
  """run.json has no word for an infinite number, and no key needs one."""
  for key, value in c.items():
    if isinstance(value, ConfigDict):
      _check_finite(value, f"{name}.{key}")
    elif isinstance(value, float) and not math.isfinite(value):
      raise UserError(f"{name}.{key}={value} must be a finite number.")


def _check_keys(c, known, name):
  extra = sorted(set(c) - set(known))
  missing = sorted(set(known) - set(c))
  if extra or missing:
    raise UserError(
      f"{name}: unknown keys {extra}, missing keys {missing}. Known: "
      f"{sorted(known)}."
    )
  for key in known:
    if name == "config" and key == "tasks":
      for own in c.tasks:
        _check_keys(c.tasks[own], task(), f"config.tasks.{own}")
    elif isinstance(known[key], ConfigDict):
      _check_keys(c[key], known[key], f"{name}.{key}")
