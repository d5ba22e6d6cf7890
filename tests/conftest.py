"""The environment of every test: 8 CPU devices, offline, strict ranks.

Set here, before anything imports jax; a jax that was imported earlier would
have one device and every sharding test would pass for nothing.
"""

import atexit
import os
import pathlib
import shutil
import sys
import tempfile

import pytest

assert "jax" not in sys.modules, "jax was imported before tests/conftest.py"

EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {EIGHT_DEVICES}"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["HF_HUB_OFFLINE"] = "1"  # a wrong name fails at once, not in 20 s
os.environ["MPLBACKEND"] = "Agg"
# Compilations, tokens, copies: a test must not pass on what yesterday's code
# left in this user's caches. Workers inherit the folder.
if "rm_jax-tests-" not in os.environ.get("XDG_CACHE_HOME", ""):
  home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  # But the list of fonts, which takes seconds to make.
  os.environ.setdefault("MPLCONFIGDIR", str(pathlib.Path(home) / "matplotlib"))
  os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="rm_jax-tests-")
  atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], True)
# Workers and the processes that tests start compile many functions alike: each
# is compiled once in a session. The folder is new, see above.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["XDG_CACHE_HOME"] + "/xla"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"
# LLVM's optimisations cost about half of a compilation, which is most of the
# time of programs so small. `make slow`, `make parity` and what bench/ measures
# compile as users do.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = (
  "1"  # two workers may compile at once
)


@pytest.fixture(scope="session")
def rm_data() -> pathlib.Path:
  """The folder of real data samples; skips where there is none."""
  if not os.environ.get("RM_DATA"):
    pytest.skip("RM_DATA is not set: real data tests")
  return pathlib.Path(os.environ["RM_DATA"])
