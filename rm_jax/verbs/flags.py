"""Flags that several verbs take, and their absence."""

import sys

from absl import flags

from rm_jax.types import UserError
from rm_jax.verbs import PROGRAM

FLAGS = flags.FLAGS


def need(*names: str) -> None:
  """Raises UserError for the first of these flags that has no value."""
  for name in names:
    if not FLAGS[name].value:
      raise UserError(
        f"--{name} is missing: see {PROGRAM} {sys.argv[1]} --help"
      )


def define_config() -> None:
  """--config and, of the file it names, --config.key."""
  from ml_collections import config_flags

  config_flags.DEFINE_config_file(
    "config", None, "The run: a config file; FILE:ARG passes it an argument."
  )


def define_distributed() -> None:
  """--distributed, the argument of train.hosts.start."""
  flags.DEFINE_string(
    "distributed",
    "",
    "This process is one of several, the same command on every host: auto (TPU "
    "VM pods, GKE, Slurm), or COORDINATOR:PORT,PROCESSES,INDEX. Empty: alone.",
  )


def define_folder() -> None:
  """--folder of the experiments."""
  flags.DEFINE_string("folder", "experiments", "Where the experiments lie.")


def define_model() -> None:
  """--model, how it is read, and the records it is for."""
  from rm_jax.data.catalogue import FORMATS

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
    f"Record format: {', '.join(FORMATS)}; auto recognises it by the fields.",
  )
  flags.DEFINE_enum(
    "dtype",
    "float32",
    ["float32", "bfloat16"],
    "Of the matrix products. float32 makes scores independent of the batch.",
  )


def how() -> dict:
  """How --model is read, as keywords of what loads it."""
  return {name: FLAGS[name].value for name in ("head", "reference", "beta")}
