"""Device start-up."""

import os

from rm_jax.places import user_cache


def start_jax(compile_cache: str = "auto") -> None:
  """Imports jax; compilations are kept between runs.

  Args:
    compile_cache: "auto", "" (none) or a folder, as config.compute.
      compile_cache; JAX_COMPILATION_CACHE_DIR wins over "auto".
  """
  # It says at every start that there is no torch, which nobody asked for.
  os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
  import jax

  folder = compile_cache
  if compile_cache == "auto":
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR", user_cache("xla"))
  jax.config.update("jax_compilation_cache_dir", str(folder) or None)
  # Small functions add up: by default those under a second are not kept.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
