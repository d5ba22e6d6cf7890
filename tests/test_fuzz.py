"""Bad configs and command lines by the hundred, in process.

Verbs, every key of the config and its values are broken by a seeded generator.
What may come of it is one line that names the key or the file, and exit code 2.
"""

import random
import re
import sys

import jax
import pytest
from absl import flags
from ml_collections import ConfigDict

from rm_jax import main
from rm_jax.config import CHOICES, base
from rm_jax.verbs import VERBS

SET_BY_VERBS = (
  "jax_compilation_cache_dir",
  "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
  """Returns (argv) -> the one line that `main` says, having exited with 2.

  In this process: what a verb defines or sets is taken back. No case gets as
  far as a model: the base it names does not exist.
  """
  # Set by a verb where the user has not.
  monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
  monkeypatch.setattr(sys, "argv", sys.argv)
  monkeypatch.chdir(tmp_path)
  settings = {name: getattr(jax.config, name) for name in SET_BY_VERBS}

  def run(*arguments):
    known = set(flags.FLAGS)
    capsys.readouterr()
    try:
      with pytest.raises(SystemExit) as stop:
        main.main(["rm-jax", *map(str, arguments)])
    finally:
      for name in set(flags.FLAGS) - known:
        delattr(flags.FLAGS, name)
      flags.FLAGS.unparse_flags()
      for name, value in settings.items():
        jax.config.update(name, value)
    out, err = capsys.readouterr()
    lines = [x for x in err.splitlines() if not x.startswith("[transformers]")]
    assert stop.value.code == 2 and out == "", (stop.value.code, out, err)
    assert len(lines) == 1 and lines[0].startswith("rm-jax: error: "), err
    return lines[0].removeprefix("rm-jax: error: ")

  return run


BASE = """from rm_jax.config import base


def get_config():
  c = base()
  c.init["from"] = "no_such_base"
  c.data.source = "rows.jsonl"
  c.data.blocks = 8  # of 8 devices
  return c
"""


@pytest.fixture
def config(tmp_path):
  """A config that is refused only because its base model does not exist."""
  path = tmp_path / "run.py"
  path.write_text(BASE)
  return ["train", f"--config={path}", f"--workdir={tmp_path / 'run'}"]


def leaves(c: ConfigDict, prefix="") -> dict:
  """Dotted key -> default, of every key that is no group of keys."""
  found = {}
  for key, value in c.items():
    if isinstance(value, ConfigDict):
      found |= leaves(value, f"{prefix}{key}.")
    else:
      found[prefix + key] = value
  return found


LEAVES = leaves(base())
NUMBERS = [
  key
  for key, value in LEAVES.items()
  if isinstance(value, int | float) and not isinstance(value, bool)
]
# Strings that can be checked without a model or a file: the known values, and
# names of tables in the package.
NAMES = [
  *CHOICES,
  "model.head",
  "model.pooling",
  "loss.name",
  "loss.margin",
  "optim.name",
  "optim.schedule",
]


def test_the_config_is_good_but_for_its_base(refused, config):
  # Without this every case below could pass for another reason.
  assert "no_such_base" in refused(*config)


def test_every_name_is_still_a_key():
  assert set(NAMES) <= set(LEAVES)


@pytest.mark.parametrize("seed", range(10))
def test_an_unknown_verb(refused, seed):
  rng = random.Random(seed)
  verb = list(rng.choice(list(VERBS)))
  verb.insert(rng.randrange(len(verb) + 1), rng.choice("xyz-_9\n é"))
  verb = "".join(verb)
  assert repr(verb) in refused(verb, "--model=x")


@pytest.mark.parametrize("seed", range(20))
def test_an_unknown_key(refused, config, seed):
  rng = random.Random(seed)
  *groups, last = rng.choice(list(LEAVES)).split(".")
  last = rng.choice((last + "s", "x" + last, last[:-1] + "_", last + ".deep"))
  key = ".".join([*groups, last])
  said = refused(*config, f"--config.{key}=1")
  assert key.split(".")[-1] in said, said


@pytest.mark.parametrize(
  "key",
  [k for k, v in LEAVES.items() if isinstance(v, bool | int | float | tuple)],
)
def test_a_value_of_another_type(refused, config, key):
  said = refused(*config, f"--config.{key}=no-number")
  assert key in said or key.split(".")[-1] in said, said


@pytest.mark.parametrize(
  "key, value",
  [(k, "nan") for k in NUMBERS] + [(k, "-7") for k in NUMBERS],
)
def test_a_number_out_of_range(refused, config, key, value):
  # Catches a run that starts with a negative share or a rate that is no number,
  # and tells after hours, or never.
  said = refused(*config, f"--config.{key}={value}")
  assert key.split(".")[-1] in said and "no_such_base" not in said, said


@pytest.mark.parametrize("key", NAMES)
def test_a_name_that_nothing_has(refused, config, key):
  said = refused(*config, f"--config.{key}=nonesuch")
  assert key in said and "nonesuch" in said and "no_such_base" not in said, said


@pytest.mark.parametrize(
  ("changes", "names"),
  [
    ({"train.accumulate": 3}, "train.accumulate"),
    ({"data.batch": "rows", "data.rows_per_batch": 9}, "rows_per_batch"),
    ({"data.row_len": 100, "data.align": 16}, "data.align"),
    ({"loss.margin": "rating_sqrt"}, "loss.margin"),
    ({"loss.name": "hinge"}, "loss.gap"),
    ({"loss.gamma": 2.0}, "loss.gamma"),
    ({"loss.discount": 0.9}, "loss.trace"),
    ({"model.head": "steps"}, "head"),
    ({"model.head": "attributes"}, "attributes"),
    ({"model.head": "gain_bias"}, "verdict"),
    ({"model.pooling": "step_ends", "loss.name": "two_hot"}, "loss"),
    ({"loss.name": "step_cross_entropy"}, "step_cross_entropy"),
    ({"data.source": ""}, "data.source"),
    ({"data.weights": "(1.0,2.0)"}, "data.weights"),
    ({"optim.warmup_steps": 100}, "warmup_steps"),
    ({"mesh.data": 3}, "mesh"),
    ({"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 3}, "mesh"),
    ({"data.blocks": 6}, "data.blocks"),
  ],
  ids=lambda x: "" if isinstance(x, str) else " ".join(x),
)
def test_keys_that_do_not_go_together(refused, config, changes, names):
  arguments = [f"--config.{key}={value}" for key, value in changes.items()]
  said = refused(*config, *arguments)
  assert names in said and "no_such_base" not in said, said


BODIES = {
  "empty": "",
  "no syntax": "def get_config(:\n",
  "tabs": "def get_config():\n\tif 1:\n  return 2\n",
  "no get_config": "c = 1\n",
  "none": "def get_config():\n  return None\n",
  "a dict": "def get_config():\n  return {'seed': 1}\n",
  "a number": "def get_config():\n  return 3\n",
  "two arguments": "def get_config(a, b):\n  return a\n",
  "raises": "def get_config():\n  raise ValueError('two\\nlines')\n",
  "raises a KeyError": "def get_config():\n  return {}['seed']\n",
  "raises nothing said": "def get_config():\n  raise RuntimeError\n",
  "asserts": "def get_config():\n  assert False\n",
  "recurses": "def get_config():\n  return get_config()\n",
  "imports": "import no_such_module\n",
  "exits": "import sys\n\ndef get_config():\n  sys.exit('no')\n",
  "unknown key": BASE.replace("return c", "c.sede = 1\n  return c"),
  "another type": BASE.replace("return c", "c.seed = 'one'\n  return c"),
  "an unknown group": BASE.replace("return c", "c.dota.x = 1\n  return c"),
  "a key too few": BASE.replace("return c", "del c.seed\n  return c"),
  "two key errors": BASE.replace("return c", "return c.data.sauce"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_config_file_that_is_none(refused, tmp_path, name):
  path = tmp_path / "mine.py"
  path.write_text(BODIES[name])
  said = refused("train", f"--config={path}", "--workdir=run")
  # The file, or the key that it sets.
  assert re.search(r"mine\.py|sede|seed|dota|sauce|get_config|config", said)


@pytest.mark.parametrize(
  ("arguments", "names"),
  [
    (["train", "--config=none.py", "--workdir=w"], "none.py"),
    (["train", "--config=.", "--workdir=w"], "."),
    (["train", "--config=bytes.py", "--workdir=w"], "bytes.py"),
    (["train", "--config=zero.py", "--workdir=w"], "zero.py"),
    (["train", "--config=", "--workdir=w"], "config"),
    (["train", "--config"], "config"),
    (["train", "--workdir=w"], "--config"),
    (["train", "--config=run.py"], "--workdir"),
    (["train", "--config=run.py", "--workdir=bytes.py"], "bytes.py"),
    (["train", "--config=run.py:x=1", "--workdir=w"], "run.py"),
    (["train", "--config=run.py", "--workdir=w", "--", "more"], "more"),
    (["train", "--confg=run.py", "--workdir=w"], "confg"),
    (["eval", "--model=none", "--data=none", "--out=r.json"], "none"),
    (["eval", "--model=none", "--data=none"], "--out"),
    (["eval", "--max_groups=-1"], "max_groups"),
    (["eval", "--max_groups=two"], "max_groups"),
    (["eval", "--allow_overlap=maybe"], "allow_overlap"),
    (
      ["score", "--model=none", "--input=a.jsonl", "--output=b.jsonl"],
      "a.jsonl",
    ),
    (["score", "--model=.", "--input=a.jsonl", "--output=b.jsonl"], "."),
    (["score", "--dtype=float8"], "dtype"),
    (["score", "--kind"], "kind"),
    (["score", "a.jsonl"], "a.jsonl"),
  ],
  ids=lambda x: " ".join(map(ascii, x)) if isinstance(x, list) else "",
)
def test_command_lines_that_cannot_run(
  refused, config, tmp_path, arguments, names
):
  (tmp_path / "bytes.py").write_bytes(b"\xff\xfedef get_config")
  (tmp_path / "zero.py").write_bytes(b"\x00def get_config")
  assert names in refused(*arguments)
