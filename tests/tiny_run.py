"""Whole runs on a tiny random model: data, tokenizer, config, command."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import numpy as np

from rm_jax.config import base
from tests.data.fixtures import SENTENCES, make_tokenizer

ROOT = pathlib.Path(__file__).parents[1]

# What makes a run tiny, as flags and as keys of a config.
TINY = {
  "num_train_steps": 4,
  "init.from": "random:tiny",
  "model.head_init": "small",
  "data.row_len": 64,
  "data.groups_per_batch": 4,
  "data.blocks": 2,
  "data.eval_share": 0.3,
  "optim.lr": 1e-3,
  "optim.warmup_steps": 1,
  "train.checkpoint_every": 2,
  "evals.every": 100,
  "evals.rows": 1,
  "compute.dtype": "float32",
  "compute.remat": False,
}


def sentence(rng, words):
  every = " ".join(SENTENCES).split()
  return " ".join(every[i] for i in rng.integers(0, len(every), words))


def pairs(count, *, seed=0) -> list[dict]:
  """Chosen/rejected rows; every prompt is another."""
  rng = np.random.default_rng(seed)
  return [
    {
      "prompt": f"{sentence(rng, 4)} {seed} {n}",
      "chosen": sentence(rng, int(rng.integers(2, 9))) + " Yes .",
      "rejected": sentence(rng, int(rng.integers(2, 9))) + " No .",
    }
    for n in range(count)
  ]


def write_rows(path: pathlib.Path, rows) -> pathlib.Path:
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def write_tokenizer(folder: pathlib.Path, tokenizer=None) -> pathlib.Path:
  """A folder that `load_tokenizer` reads."""
  (tokenizer or make_tokenizer()).save_pretrained(folder)
  (folder / "config.json").write_text("{}")
  return folder


def config(data, tokenizer, **changes):
  """The base config made tiny; `changes` by dotted key, "__" for the dot."""
  c = base()
  c.update_from_flattened_dict(TINY)
  c.data.source, c.init.tokenizer = str(data), str(tokenizer)
  c.update_from_flattened_dict(
    {key.replace("__", "."): value for key, value in changes.items()}
  )
  return c


def command(data, tokenizer, workdir, **changes) -> list[str]:
  """The command line of the same run."""
  keys = TINY | {"data.source": data, "init.tokenizer": tokenizer}
  keys |= {key.replace("__", "."): value for key, value in changes.items()}
  keys = {
    k: v if isinstance(v, int | float) else str(v) for k, v in keys.items()
  }
  path = pathlib.Path(workdir).with_suffix(".config.py")
  path.write_text(
    "from rm_jax.config import base\n"
    "def get_config():\n"
    "  c = base()\n"
    f"  c.update_from_flattened_dict({keys!r})\n"
    "  return c\n"
  )
  return ["train", f"--config={path}", f"--workdir={workdir}"]


MAIN = "from rm_jax.main import main; main()"


def start(arguments, *, devices=2, before="") -> subprocess.Popen:
  """`python -m rm_jax ...` in a process of its own, after the code `before`."""
  env = os.environ | {
    "XLA_FLAGS": re.sub(
      r"device_count=\d+", f"device_count={devices}", os.environ["XLA_FLAGS"]
    ),
    "PYTHONPATH": str(ROOT),
  }
  return subprocess.Popen(
    [sys.executable, "-c", f"{before}\n{MAIN}", *arguments],
    env=env,
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def start_hosts(arguments, *, before=("", ""), more=((), ())) -> list:
  """The same command as two processes of four devices each.

  Args:
    before: code that runs first, per process.
    more: further arguments, per process.
  """
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  return [
    start(
      [*arguments, *own, f"--distributed=localhost:{port},2,{index}"],
      devices=4,
      before=code,
    )
    for index, (code, own) in enumerate(zip(before, more, strict=True))
  ]


def rows_without_times(workdir: pathlib.Path) -> list[dict]:
  """metrics.jsonl without what a clock says, and of whom."""
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [
    {
      k: v
      for k, v in json.loads(line).items()
      if "second" not in k and k != "slowest_host"
    }
    for line in lines
  ]
