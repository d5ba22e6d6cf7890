"""What a train step costs: SmolLM2-135M, Bradley-Terry, AdamW on everything.

  python -m bench.step pairs --torch_python=PYTHON_OF_MAKE_PARITY
  python -m bench.step rankings

`pairs`: the same 16 pairs a step, ours against a padded torch step as TRL lays
one out (bench/theirs.py), in one command: both sides stay alive and step in
turn, so that other work on the machine hits both. Scores and gradients of both
are compared before anything is timed.

`rankings`: groups of K completions, as trees; every completion once without
sharing the prefix; every comparison encoded alone. One loss, three layouts,
each in rows of the length that computes fewest tokens.

Both print one JSON object and write it to --out after every repeat. Seconds
are of the clock and of the processor (all threads): the latter hardly depends
on what else runs. bench/tables.py makes docs/speed.md of the committed ones.
"""

import argparse
import json
import pathlib
import shlex
import subprocess
import sys
import tempfile

import numpy as np
from safetensors.numpy import save_file

from bench import groups as data
from bench import machine, ours
from rm_jax.models.convert import to_hf
from rm_jax.models.sight import BLOCK
from rm_jax.types import UserError

PAIRS = 16
LONGEST = 512  # tokens of a completion with its prompt: configs/pairwise_hh.py
ROW_LEN = 2_048
ROWS = 1  # of a micro-batch
CHECKED = 2  # pairs whose gradients are compared
SCORE_TOLERANCE = 1e-3  # both sides float32, of scores about 1
GRADIENT_TOLERANCE = 2e-3  # of a tensor's norm: float32 sums in two orders
LOSS_TOLERANCE = 1e-4  # between layouts, float32: sums in other orders
RANKED = {4: 2, 8: 2, 9: 1}  # K -> groups a step
MICRO_BATCH = 1_024  # tokens of a step of rankings, at least
REPEATS = 3
# What a careful user of torch would do: no checkpointing, in forwards of so
# many pairs, so that memory holds the activations and less is padded.
TUNED = 4


def write(path: str, result: dict) -> None:
  """The result as JSON, where asked for."""
  if path:
    pathlib.Path(path).write_text(json.dumps(result, indent=1) + "\n")


class Torch:
  """The other side: a child process that answers one request at a time."""

  def __init__(self, python: str, spec, params):
    self.child = subprocess.Popen(
      [*shlex.split(python), "-m", "bench.theirs"],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    c = spec.decoder
    config = {
      "vocab_size": c.vocab_size,
      "hidden_size": c.width,
      "intermediate_size": c.mlp_width,
      "num_hidden_layers": c.layers,
      "num_attention_heads": c.heads,
      "num_key_value_heads": c.kv_heads,
      "head_dim": c.head_dim,
      "rms_norm_eps": c.norm_eps,
      "rope_theta": c.rope_theta,
      "max_position_embeddings": 8_192,
    }
    named = to_hf(params["backbone"], c)
    named["score.weight"] = np.asarray(params["head"]["kernel"])[None]
    with tempfile.TemporaryDirectory() as scratch:
      path = str(pathlib.Path(scratch) / "model.safetensors")
      save_file(named, path)
      self.facts = self.ask(do="load", path=path, config=config)

  def ask(self, **request):
    """The answer to one request."""
    self.child.stdin.write(json.dumps(request) + "\n")
    self.child.stdin.flush()
    answer = self.child.stdout.readline()
    if not answer:
      raise UserError(
        "the torch side ended (see above): --torch_python must name a python "
        "with torch and transformers, such as that of `make parity`"
      )
    return json.loads(answer)


def sides(groups) -> dict[str, list[list[int]]]:
  """{"chosen", "rejected"}: token ids of the pairs."""
  picked = [[g.tokens[k].tolist() for k in g.comparisons[0]] for g in groups]
  chosen, rejected = zip(*picked, strict=True)
  return {"chosen": list(chosen), "rejected": list(rejected)}


def named_gradients(tree, c) -> dict[str, np.ndarray]:
  """Our gradient under the names of transformers."""
  named = to_hf(tree["backbone"], c)
  return named | {"score.weight": np.asarray(tree["head"]["kernel"])[None]}


def check_equal(torch: Torch, spec, held, groups, row_len: int) -> dict:
  """Scores and gradients of both sides, in float32, before anything moved.

  Raises:
    AssertionError: they do not compute the same.
  """
  setting = ours.Setting("shared", row_len, ROWS, "float32", remat=False)
  run = ours.start(spec, held, groups, setting)
  rows = [t.tolist() for g in groups for t in g.tokens]
  theirs = np.asarray(torch.ask(do="scores", rows=rows))
  scores = np.concatenate(run.scores())
  apart = float(np.abs(scores - theirs).max())
  assert apart < SCORE_TOLERANCE, (scores, theirs)
  gradient = torch.ask(
    do="gradients",
    dtype="float32",
    checkpointing=False,
    pairs_at_once=len(groups),
    **sides(groups),
  )["gradients"]
  mine = named_gradients(run.gradients(), spec.decoder)
  assert set(gradient) == set(mine)
  worst = 0.0
  for name, (norm, first) in gradient.items():
    own = np.asarray(mine[name], np.float64)
    gap = max(
      abs(np.linalg.norm(own) - norm),
      np.abs(own.ravel()[: len(first)] - first).max(),
    )
    worst = max(worst, float(gap / norm))
  assert worst < GRADIENT_TOLERANCE, worst
  return {
    "pairs": len(groups),
    "largest_score_difference": apart,
    "scores": scores.tolist(),
    "largest_gradient_difference": worst,
    "tensors": len(gradient),
  }


def pairs(asked) -> dict:
  """Both sides on the same pairs, in turn."""
  source, found = data.pairs(LONGEST)
  groups = data.typical_step(found, asked.groups or PAIRS, seed=0)
  spec, params = ours.load_model()
  held = ours.hold(params)
  torch = Torch(asked.torch_python, spec, params)
  result = machine.facts(command(asked)) | {
    "source": source,
    "pairs": len(groups),
    "useful_tokens": sum(map(data.shared_tokens, groups)),
    "unshared_tokens": sum(len(t) for g in groups for t in g.tokens),
    "padded_tokens": data.padded_tokens(groups),
    "torch": torch.facts,
    "equal": check_equal(torch, spec, held, groups[:CHECKED], ROW_LEN),
  }
  variants = {}
  for dtype in asked.ours.split(","):
    setting = ours.Setting(
      "shared", ROW_LEN, ROWS, dtype, asked.remat, asked.unrolled
    )
    run = ours.start(spec, held, groups, setting)
    name = f"ours {dtype}"
    variants[name] = (
      setting._asdict() | run.work.counts,
      lambda run=run: ours.parts_of(run),
    )
    ours.parts_of(run)  # to warm up: compiles
  token_ids = sides(groups)
  for name in asked.theirs.split(","):
    dtype, _, tuned = name.partition("-")
    at_once = TUNED if tuned else len(groups)
    how = {
      "dtype": dtype,
      "checkpointing": not tuned,
      "pairs_at_once": at_once,
    }
    padded = [
      data.padded_tokens(groups[at : at + at_once])
      for at in range(0, len(groups), at_once)
    ]
    few = {side: rows[:1] for side, rows in token_ids.items()}
    torch.ask(do="step", **how | few)
    variants[f"torch {name}"] = (
      how | {"computed_tokens": sum(padded)},
      # The second, as of ours.
      lambda how=how: [
        torch.ask(do="step", **how, **token_ids) for _ in range(2)
      ][1]["spent"],
    )
  return repeat(asked, result, variants)


def rankings(asked) -> dict:
  """One set of groups of K in three layouts, in turn."""
  spec, params = ours.load_model()
  held = ours.hold(params)
  result = machine.facts(command(asked)) | {"sizes": {}}
  variants, runs = {}, []
  for k in map(int, asked.sizes.split(",")):
    source, found = data.rankings(k, asked.row_len)
    groups = data.typical_step(found, asked.groups or RANKED[k], seed=0)
    alone = [pair for g in groups for pair in data.split_comparisons(g)]
    result["sizes"][str(k)] = {
      "source": source,
      "groups": len(groups),
      "comparisons": len(alone),
    }
    losses = {}
    for name, layout, these in (
      ("shared", "shared", groups),
      ("once", "packed", groups),
      ("pairs", "packed", alone),
    ):
      longest = max(len(t) for g in these for t in g.tokens)
      setting = ours.fit(
        these,
        layout,
        range(-(-longest // BLOCK) * BLOCK, asked.row_len + 1, BLOCK),
        tokens=MICRO_BATCH,
        dtype=asked.ours,
        remat=asked.remat,
      )
      run = ours.start(spec, held, these, setting)
      variants[f"{k} {name}"] = (
        setting._asdict() | run.work.counts | {"k": k, "encoded": name},
        lambda run=run: {"step": ours.second(run.step)[1]},
      )
      losses[name] = run.loss()  # before any step
      runs.append(run)
    result["sizes"][str(k)]["losses"] = losses
    apart = max(losses.values()) - min(losses.values())
    assert apart < LOSS_TOLERANCE, losses
  for run in runs:
    run.step()  # compiles
  return repeat(asked, result, variants)


def repeat(asked, result: dict, variants: dict) -> dict:
  """Every variant once a round; written after each round."""
  rows = {
    name: about | {"repeats": []} for name, (about, _) in variants.items()
  }
  result["variants"] = rows
  for _ in range(asked.repeats):
    for name, (_, run) in variants.items():
      spent = {
        part: [round(float(x), 3) for x in took] for part, took in run().items()
      }
      rows[name]["repeats"].append(spent)
      print(f"{name}: {spent['step'][0]} s", file=sys.stderr, flush=True)
    write(asked.out, result)
  return result


def command(asked) -> str:
  """The command as it stands in the result, without this machine's paths."""
  words = [w for w in sys.argv[1:] if not w.startswith(("--torch", "--out"))]
  return shlex.join(["python", "-m", "bench.step", *words])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("what", choices=("pairs", "rankings"))
  parser.add_argument("--torch_python", default=sys.executable)
  parser.add_argument("--ours", default="float32")
  parser.add_argument("--theirs", default="float32,float32-tuned")
  parser.add_argument("--sizes", default="4,9")
  parser.add_argument("--groups", type=int, default=0, help="0: as documented")
  parser.add_argument("--row_len", type=int, default=2_048)
  parser.add_argument("--repeats", type=int, default=REPEATS)
  parser.add_argument("--remat", action="store_true")
  parser.add_argument("--unrolled", type=int, default=2, help="of `pairs`")
  parser.add_argument("--out", default="")
  asked = parser.parse_args()
  run = {"pairs": pairs, "rankings": rankings}[asked.what]
  print(json.dumps(run(asked), indent=1))


if __name__ == "__main__":
  main()
