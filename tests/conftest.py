"""The environment of every test: 8 CPU devices, offline, strict ranks.

Set here, before anything imports jax; a jax that was imported earlier would
have one device and every sharding test would pass for nothing.
"""

import atexit
import gc
import os
import pathlib
import shutil
import sys
import tempfile

import pytest

assert "jax" not in sys.modules, "jax was imported before tests/conftest.py"

# Eight devices are threads of two cores. XLA kills the process where one comes
# 40 s late to a collective, which happens on a machine that others share.
DEVICES = (
  "--xla_force_host_platform_device_count=8",
  "--xla_cpu_collective_call_terminate_timeout_seconds=600",
  "--xla_cpu_collective_timeout_seconds=600",
)
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *DEVICES])
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
# time of programs so small. `make parity`, `make aot`, tests that ask for
# `optimised` and what bench/ measures compile as users do.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # two workers may compile

import jax  # noqa: E402 - reads what is set above


@pytest.fixture(scope="session")
def rm_data() -> pathlib.Path:
  """The folder of real data samples; skips where there is none."""
  if not os.environ.get("RM_DATA"):
    pytest.skip("RM_DATA is not set: real data tests")
  return pathlib.Path(os.environ["RM_DATA"])


@pytest.fixture
def optimised():
  """Compiles as users do: for programs that run longer than that takes."""
  flag = "jax_disable_most_optimizations"
  jax.config.update(flag, False)
  yield
  jax.config.update(flag, os.environ[flag.upper()] == "1")


@pytest.fixture(scope="module", autouse=True)
def few_programs():
  """Forgets what is compiled before a process runs out of memory maps.

  Linux allows 65,530 of them; compiled programs hold some each, and LLVM dies
  of a segmentation fault where there are no more.
  """
  yield
  maps = pathlib.Path("/proc/self/maps")
  if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
    jax.clear_caches()
    gc.collect()
