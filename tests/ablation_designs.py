"""Experiments that take no time, for tests of what runs and reports them."""

import pathlib

from rm_jax.ablation.design import digest, load_design
from rm_jax.ablation.pool import Job, run_job
from rm_jax.ablation.run import run_experiment

DESIGN = '''"""A toy experiment: rm-jax experiment toy."""

import os
import pathlib
import time

import numpy as np

DESIGN = dict(
  title="Toy",
  source="nobody",
  claim="More is more.",
  arms=dict(more="one more", less="one less"),
  seeds=tuple(range(8)),
  quick_seeds=(0, 1),
  columns=dict(size="size", tokens="tokens"),
  outcomes=(
    dict(name="more than less", metric="size", arm="more", less="less",
         expected={expected}, published="+2", comparable="a toy"),
  ),
  checks=(dict(name="sizes are there", metric="size", arm="more", above=0.0),
          dict(name="more is large", metric="size", arm="more", above=1.0)),
  conditions=(dict(name="few", metric="size", arm="less", below=2.0),),
  sizes=dict(whole=dict(scale=1.0), quick=dict(scale=1.0),
             two_steps=dict(scale=0.1)),
  falsified="less is more",
  tuning=dict(rates=(0.1, 1.0), seeds=(100,), metric="size", lower=False),
)


def job(arm, seed, *, scale, rate=1.0):
  here = pathlib.Path(__file__).parent
  if (here / f"wait-{{arm}}-{{seed}}").exists():
    time.sleep(600)
  if (here / f"break-{{arm}}-{{seed}}").exists():
    raise ValueError("it broke")
  noise = np.random.default_rng([seed, len(arm)]).normal() / 10
  size = scale * rate * (3 if arm == "more" else 1) + noise
  curve = [{{"step": s, "size": size * s}} for s in (1, 2)]
  with (here / "calls").open("a") as file:
    file.write(f"{{arm}}-{{seed}} {{os.getpid()}}\\n")
  return {{"size": size, "tokens": 12_000}}, curve
'''
# A change of the toy, see `rewrite`: two more arms.
FOUR = (
  'arms=dict(more="one more", less="one less")',
  'arms=dict(more="1", less="2", best="3", worst="4")',
)
MARKS = """# Toy

<!-- verdict -->
<!-- end -->

<!-- table -->
<!-- end -->

<!-- run -->
<!-- end -->
"""


def write_toy(folder: pathlib.Path, expected: int = 1) -> pathlib.Path:
  """A folder of experiments with `toy` in it."""
  home = folder / "toy"
  home.mkdir(parents=True)
  (home / "mini.py").write_text(DESIGN.format(expected=expected))
  (home / "README.md").write_text(MARKS)
  (folder / "README.md").write_text("<!-- experiments -->\n<!-- end -->\n")
  return folder


EVERY = [Job(arm, seed) for seed in range(8) for arm in ("more", "less")]


def in_process(folder, **changes):
  """The verb without new processes: every job run here first."""
  how = dict(
    folder=folder,
    preset="mini",
    quick=False,
    tune=False,
    workers=1,
    vmap_seeds=False,
    workdir=str(folder / "jobs"),
    command="rm-jax experiment toy",
  )
  return run_experiment("toy", **how | changes)


def do_jobs(folder, jobs, **made_by):
  """Every job, in this process."""
  design = load_design(folder, "toy", "mini")
  size = design.sizes["whole"]
  (folder / "jobs").mkdir(exist_ok=True)
  made = {"digest": digest(design, size), "commit": "abc", "data": []} | made_by
  for job in jobs:
    run_job(design, job, size=size, made_by=made, workdir=folder / "jobs")


def rewrite(folder, *change):
  """The toy's file with one place of it changed."""
  path = folder / "toy/mini.py"
  text = path.read_text().replace(*change)
  assert text != path.read_text()
  path.write_text(text)
