"""Data files of a dataset repository of the Hugging Face Hub."""

import re

from rm_jax.places import Remote, list_folder, remote
from rm_jax.types import UserError

ADDRESS = re.compile(
  r"hf://(?:datasets/)?([^/:]+/[^/:]+)(?:/([^:]*?))?/?(?::([^/:]+))?"
)

# Words in a name that say which split a file is of, and what they mean.
SPLITS = {
  "train": ("train", "training"),
  "validation": ("validation", "valid", "val", "dev"),
  "test": ("test", "testing", "eval", "evaluation"),
}

SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}\.")


def hub_files(url: str, *, suffixes: tuple) -> list[Remote]:
  """The data files of hf://OWNER/NAME[@REVISION][/PATH][:SPLIT], by name.

  PATH is a file or a folder of the repository, everything without it. SPLIT is
  needed where the files belong to more than one, so that nobody trains on a
  test set by accident.

  Source: Hugging Face documentation, "File names and splits" (Hub): the words
  of SPLITS, set off by anything but letters, in the name of a file or else of
  its folder; `<split>-xxxxx-of-xxxxx` for other names; all else is "train".
  The `configs` that a repository's README may state are not read.

  Run against a local stand-in only, not against the real Hub.

  Raises:
    UserError: not such an address, no such file or split, the Hub cannot be
      reached; the package huggingface_hub is missing.
  """
  found = ADDRESS.fullmatch(url)
  if not found:
    raise UserError(
      f"{url}: expected hf://OWNER/NAME[/PATH][:SPLIT]. Correct the address."
    )
  name, path, split = found.groups()
  place = remote(f"hf://datasets/{name}" + (f"/{path}" if path else ""))
  root = f"hf://{name}/" + (f"{path}/" if path else "")
  listed = list_folder(place)
  if list(listed) == [place.name]:  # PATH is a file
    root = root.removesuffix(f"{place.name}/")
  files = {
    n: Remote(place.fs, info["name"], root + n)
    for n, info in listed.items()
    if n.endswith(suffixes)
  }
  if not files:
    shown = ", ".join(list(listed)[:5]) or "nothing"
    raise UserError(
      f"{url} holds no data file: expected names ending in "
      f"{', '.join(suffixes)}, got {shown}. Correct the name or the path."
    )
  splits = {}
  for file in files.values():
    inside = file.url.removeprefix(f"hf://{name}/")
    splits.setdefault(split_of(inside), []).append(file)
  if split is None and len(splits) == 1:
    return list(files.values())
  if split in splits:
    return splits[split]
  bare = url.removesuffix(f":{split}")
  offered = ", ".join(f"{bare}:{s}" for s in splits)
  got = "none" if split is None else repr(split)
  raise UserError(
    f"{url}: expected the name of one split, got {got}; write one of {offered}"
  )


def split_of(name: str) -> str:
  """The split that a file of a repository belongs to, by its path there."""
  *folders, file = name.split("/")
  shard = SHARD.match(file)
  if shard:  # train_prefs-00000-of-00001 is a split of its own
    words = [s for s, known in SPLITS.items() if shard[1].lower() in known]
    return words[0] if words else shard[1]
  for part in (file, *reversed(folders)):
    for split, known in SPLITS.items():
      if re.search(f"(?<![a-z])({'|'.join(known)})(?![a-z])", part.lower()):
        return split
  return "train"
