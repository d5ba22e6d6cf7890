"""Train, ablate and evaluate reward models in JAX and Flax.

`rm_jax.RewardModel` is resolved on first use: importing the package, and with
it `rm-jax --help`, imports no jax.
"""

__version__ = "0.1.0"


def __getattr__(name: str):
  if name == "RewardModel":
    from rm_jax.inference import RewardModel

    return RewardModel
  raise AttributeError(f"module 'rm_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
  return ["RewardModel", "__version__"]
