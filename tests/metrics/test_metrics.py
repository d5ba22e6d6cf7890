"""The metrics as a whole: their names and their examples."""

import doctest
import importlib
import pkgutil

import pytest

from rm_jax import metrics

FILES = [module.name for module in pkgutil.iter_modules(metrics.__path__)]


def test_every_metric_has_an_example():
  for name in metrics.__all__:
    assert ">>>" in getattr(metrics, name).__doc__, name


@pytest.mark.parametrize("name", [name for name in FILES if name != "checks"])
def test_doctests(name):
  # Catches an example that no longer prints what it says.
  result = doctest.testmod(importlib.import_module(f"rm_jax.metrics.{name}"))
  assert result.attempted and not result.failed
