"""Package metadata: the one place that names dependencies.

A bound is a version the tests have run with: the lower ones on Python 3.11, the
upper one of jax on Python 3.12. libtpu has to be of the age of jax.
"""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
  r'^__version__ = "(.+)"$',
  (ROOT / "rm_jax" / "__init__.py").read_text(encoding="utf-8"),
  re.MULTILINE,
).group(1)

CORE = [
  "absl-py>=2.5.1",
  "array_record>=0.8.6",  # what tensorflow-datasets writes without TensorFlow
  "flax>=0.12.8",
  "fsspec>=2026.9.0",  # places behind URLs; each scheme has its own driver
  "gguf>=0.19.0",
  "grain>=0.2.18",
  "jax>=0.10.2,<0.13",
  "jaxtyping>=0.3.11",
  "jinja2>=3.1.6",  # chat templates need it, transformers does not ask for it
  "matplotlib>=3.11.2",
  "ml_collections>=1.1.0",
  "numpy>=2.4.6",
  "optax>=0.2.8",
  "orbax-checkpoint>=0.12.8",
  "pyarrow>=26.0.1",  # Parquet
  "safetensors>=0.8.0",
  "scipy>=1.17.1",
  "tensorboardX>=2.6.5",
  "tensorflow-datasets>=4.9.10",
  "tokenizers>=0.23.3",
  "tqdm>=4.70.1",
  "transformers>=5.23.0",
]

EXTRAS = {
  "test": [
    "hypothesis>=6.170.15",
    "pytest>=9.2.0",
    "pytest-rerunfailures>=16.7",
    "pytest-xdist>=3.8.0",
    "ruff>=0.17.6",
  ],
  # The numeric oracle. Kept out of the environment of `make test`.
  "parity": ["accelerate>=1.15.0", "torch==2.13.0"],
  "hub": ["huggingface_hub>=2.4.0"],
  "tf": ["tensorflow-cpu>=2.21.0"],
  "tpu": ["jax[tpu]>=0.10.2,<0.13"],
  "tpu-aot": ["libtpu>=0.0.42.1,<0.0.43"],
}

setuptools.setup(
  name="rm-jax",
  version=VERSION,
  description="Train, ablate and evaluate reward models in JAX and Flax",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=setuptools.find_namespace_packages(include=["rm_jax", "rm_jax.*"]),
  package_data={
    "rm_jax": [
      "data/arithmetic/*.jsonl",
      "data/arithmetic/*.md",
      "data/text_world/*.jsonl",
      "data/text_world/*.gz",
      "data/text_world/*.md",
    ]
  },
  install_requires=CORE,
  extras_require=EXTRAS,
  entry_points={"console_scripts": ["rm-jax = rm_jax.main:main"]},
)
