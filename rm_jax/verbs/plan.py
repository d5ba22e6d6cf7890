"""rm-jax plan: a config and a TPU slice -> what it costs, without TPU."""

from absl import flags

from rm_jax.verbs.flags import FLAGS, define_config, need
from rm_jax.verbs.start import start_jax

HELP = """\
Compiles the train step of a config with the TPU compiler, on a machine
that has no TPU, for a slice by its product name. Says what a chip's memory
holds, what the step computes and moves, and what bounds its time; if it does
not fit, what would. Nothing is run: no time is measured, no weight or data
read. Needs libtpu: pip install -e '.[tpu]'.

Product names of v4, v5p and tpu7x count cores, two to a chip: v5p-256 has 128
chips. Those of v5e and v6e count chips.

  rm-jax plan --config=configs/llama3_8b_bt.py --slice=v5e-16
  rm-jax plan --config=configs/llama3_8b_bt.py --slice=v5p-32 --json \\
      --config.data.rows_per_batch=64"""

WORDS = ()


def define_flags():
  define_config()
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


def run(command: str) -> int:
  del command
  need("config", "slice")
  from rm_jax.plan.verb import plan

  if FLAGS.read_data:
    start_jax()
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
