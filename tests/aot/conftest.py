"""What every test here needs: libtpu, and the environment it reads."""

import os

import pytest

from rm_jax.plan.compile import ENVIRONMENT


@pytest.fixture(scope="session", autouse=True)
def libtpu():
  """Skips where there is no libtpu; `make aot` installs it."""
  pytest.importorskip(
    "libtpu", reason="libtpu is not installed: pip install -e '.[tpu-aot]'"
  )
  os.environ.update(ENVIRONMENT)
