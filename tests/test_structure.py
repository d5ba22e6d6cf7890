"""The shape of the code: who imports whom, and that importing does nothing."""

import ast
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "rm_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

MODEL = {
  "types",
  "places",
  "gguf_file",
  "pooling",
  "heads",
  "models",
  "kernels",
}
CORE = MODEL | {
  "losses",
  "metrics",
  "step_scores",
  "step_errors",
  "voting",
  "margins",
  "config",
  "data",
  "objectives",
  "reward_model",
}

# part of rm_jax -> the parts it may import; a part may import itself. A part
# that is not here fails: write down where its arrows go.
ARROWS = {
  "types": set(),
  "places": {"types"},
  "gguf_file": {"types"},
  "chips": set(),
  "losses": {"types"},
  "metrics": {"types"},
  "step_scores": {"types"},
  "step_errors": {"types", "metrics", "step_scores"},
  "voting": {"types"},
  "rollouts": MODEL,
  "margins": {"types"},
  "config": {"types"},
  "pooling": MODEL,
  "heads": MODEL,
  "models": MODEL,
  "kernels": MODEL,
  "data": {"types", "places", "gguf_file", "margins"},
  "reward_model": MODEL,
  "objectives": MODEL | {"losses", "metrics", "reward_model"},
  "train": CORE | {"chips"},
  "evals": CORE | {"inference", "normaliser", "train"},
  "published": CORE,
  "exported": CORE,
  "normaliser": CORE,
  "trained": CORE | {"train"},
  "scoring": CORE | {"train"},
  "inference": CORE
  | {"exported", "normaliser", "published", "scoring", "train", "trained"},
  "export": CORE | {"exported", "inference", "normaliser", "train"},
  "plan": CORE | {"chips", "train"},
  "ablation": CORE | {"evals", "train"},
  "verbs": CORE | {"ablation", "evals", "export", "plan", "train"},
  "main": {"types", "verbs"},
  "__main__": {"main"},
  "__init__": {"inference"},
}

# Makes a file that is committed; nothing that runs imports it, and it reaches
# for the model inside its function only.
MAKERS = {"rm_jax.data.text_world.sampling": {"models"}}

# Scoring needs a checkpoint, never the loop or the step that made it.
TRAINING_ONLY = {"rm_jax.train.loop", "rm_jax.train.step"}

NO_JAX = (
  "types",
  "places",
  "gguf_file",
  "chips",
  "data",
  "margins",
  "__init__",
)
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}

# What a module may do at its top level: bind names, nothing else.
BINDINGS = (
  ast.Import,
  ast.ImportFrom,
  ast.Assign,
  ast.AnnAssign,
  ast.FunctionDef,
  ast.ClassDef,
)


def part(path: pathlib.Path) -> str:
  """`losses` of rm_jax/losses/pairwise.py, `types` of rm_jax/types.py."""
  return path.relative_to(PACKAGE).with_suffix("").parts[0]


def module(path: pathlib.Path) -> str:
  """`rm_jax.losses` of rm_jax/losses/__init__.py."""
  names = path.relative_to(ROOT).with_suffix("").parts
  return ".".join(names[:-1] if names[-1] == "__init__" else names)


def imported(source: str, package: tuple) -> list[tuple[str, int]]:
  """(full name, line) of everything imported, inside functions as well.

  `from a import b` gives `a.b`: b may be a module. Relative imports are made
  absolute.

  Args:
    source: the text of a module.
    package: the names of the package it is in, ("rm_jax", "losses").
  """
  found = []
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      found += [(alias.name, node.lineno) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      base = package[: len(package) - node.level + 1] if node.level else ()
      start = ".".join((*base, *(node.module or "").split("."))).strip(".")
      found += [(f"{start}.{alias.name}", node.lineno) for alias in node.names]
  return found


def imports_of(path: pathlib.Path) -> list[tuple[str, int]]:
  package = path.relative_to(ROOT).parent.parts
  return imported(path.read_text("utf-8"), package)


def python(code: str) -> str:
  """The output of a fresh interpreter, without this process's settings."""
  env = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "TMPDIR")}
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    env=env | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2_000:]
  return done.stdout


def test_reads_all_forms_of_import():
  # The checks below are worth as much as this: a reader that misses a relative
  # import, or one inside a function, would pass anything.
  source = (
    "import jax.numpy as jnp\nfrom rm_jax import types\n"
    "def f():\n  from ..data.pack import plan\n  from . import listwise\n"
  )
  assert imported(source, ("rm_jax", "losses")) == [
    ("jax.numpy", 1),
    ("rm_jax.types", 2),
    ("rm_jax.data.pack.plan", 4),
    ("rm_jax.losses.listwise", 5),
  ]


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_follow_the_arrows(path):
  # Catches a loss that reads the config, a model that reads data, training
  # code that scoring cannot do without.
  here = part(path)
  assert here in ARROWS, (
    f"expected rm_jax/{here} in ARROWS, got a new part: add its row in "
    "tests/test_structure.py"
  )
  allowed = ARROWS[here] | {here} | MAKERS.get(module(path), set())
  for name, line in imports_of(path):
    names = name.split(".")
    where = f"{path.relative_to(ROOT)}:{line}"
    assert names[0] not in ("tests", "experiments", "configs"), where
    if names[0] != "rm_jax" or len(names) == 1:
      continue
    if names[1] in ("RewardModel", "__version__"):
      continue
    assert names[1] in allowed, (
      f"{where}: expected {here} to import only {sorted(allowed)}, got {name}"
    )
    if here in ("evals", "inference", "scoring", "trained"):
      assert ".".join(names[:3]) not in TRAINING_ONLY, where


@pytest.mark.parametrize(
  "path", [p for p in FILES if part(p) in NO_JAX], ids=module
)
def test_host_code_names_no_jax(path):
  # Catches `import jax` hidden inside a function of the data path.
  for name, line in imports_of(path):
    where = f"{path.relative_to(ROOT)}:{line}"
    assert name.split(".")[0] not in JAX, f"{where}: {name}"


def test_host_code_loads_no_jax():
  # Catches jax that comes in by way of another library. grain, which orders
  # the groups, does load it; it alone is replaced here.
  names = [module(p) for p in FILES if part(p) in NO_JAX]
  code = f"""
import importlib, sys, unittest.mock
sys.modules["grain"] = unittest.mock.MagicMock()
for name in {names}:
  importlib.import_module(name)
  assert "jax" not in sys.modules, f"importing {{name}} imports jax"
"""
  python(code)


@pytest.mark.parametrize("path", FILES, ids=module)
def test_modules_only_bind_names(path):
  # Catches a call at import: flags, jax.config.update, os.environ[...] = ...
  for node in ast.parse(path.read_text("utf-8")).body:
    where = f"{path.relative_to(ROOT)}:{node.lineno}"
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
      # f.defvjp(forward, backward) completes a definition.
      called = ast.unparse(node.value.func).rpartition(".")[2]
      assert called in ("defvjp", "defjvp"), f"{where}: a call at import"
    elif isinstance(node, ast.Expr):
      assert isinstance(node.value, ast.Constant), where
    elif isinstance(node, ast.If):
      test = ast.unparse(node.test)
      assert test in ("__name__ == '__main__'", "TYPE_CHECKING"), where
    else:
      assert isinstance(node, BINDINGS), f"{where}: {ast.unparse(node)[:60]}"
    if isinstance(node, ast.Assign):
      names = all(isinstance(t, ast.Name | ast.Tuple) for t in node.targets)
      assert names, f"{where}: changes an object at import"


def test_importing_has_no_side_effect():
  # Catches what an assignment can hide: flags parsed, a device touched, the
  # environment or a jax setting changed by importing a module of ours. The
  # libraries come first; what they do is not ours.
  names = [module(p) for p in FILES if part(p) != "__main__"]
  code = f"""
import importlib, json, os, sys, threading
import absl.flags, flax, gguf, grain, jax, matplotlib, optax
import orbax.checkpoint, tensorboardX, tensorflow_datasets, transformers

def state():
  return dict(
    environment=dict(os.environ),
    folder=os.getcwd(),
    flags=absl.flags.FLAGS.is_parsed(),
    settings={{k: str(v) for k, v in jax.config.values.items()}},
    devices=jax._src.xla_bridge.backends_are_initialized(),
    threads=threading.active_count(),
    backend=matplotlib.rcParams._get_backend_or_none(),
  )

before = state()
for name in {names}:
  importlib.import_module(name)
  after = state()
  for key in before:
    assert before[key] == after[key], (name, key, before[key], after[key])
print(json.dumps(before["devices"]))
"""
  assert json.loads(python(code)) is False


def test_the_package_itself_is_light():
  # Catches a RewardModel that is imported eagerly, and a typo that is taken
  # for it.
  code = """
import sys
import rm_jax
assert rm_jax.__version__.count(".") == 2
assert "RewardModel" in dir(rm_jax)
try:
  rm_jax.Rewardmodel
except AttributeError as error:
  print(error)
heavy = {"jax", "numpy", "transformers", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""
  assert "no attribute 'Rewardmodel'" in python(code)


def test_no_file_is_called_utils():
  # A name that says nothing collects what has no place.
  named = [p for p in FILES if p.stem in ("utils", "util", "helpers", "common")]
  assert not named


def test_every_test_is_collected():
  # Catches tests in a file that pytest does not look at: they pass for ever.
  for path in sorted((ROOT / "tests").rglob("*.py")):
    tree = ast.parse(path.read_text("utf-8"))
    tests = [
      node.name
      for node in ast.walk(tree)
      if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    collected = path.name.startswith("test_")
    where = path.relative_to(ROOT)
    assert bool(tests) == collected, (
      f"{where}: expected tests in files named test_*.py and only there, got "
      f"{len(tests)} tests: rename the file or move them"
    )


def test_the_license_and_the_data_are_in_the_package():
  # Catches package data that only the checkout has: an installed rm_jax
  # without its demo data.
  setup = (ROOT / "setup.py").read_text("utf-8")
  for name in ("train.jsonl", "test.jsonl", "README.md"):
    assert (PACKAGE / "data" / "arithmetic" / name).is_file()
    assert f"data/arithmetic/*.{name.split('.')[1]}" in setup
  assert "Apache License" in (ROOT / "LICENSE").read_text("utf-8")
