"""What plans of the full-size configs say, kept beside them.

    python -m bench.tpu_plans                 all of them, half an hour
    python -m bench.tpu_plans llama3_8b_bt.v5e-16
    python -m bench.tpu_plans --page          docs/plan.md from what is kept

Each leaves configs/plans/NAME.json and NAME.txt: the two forms in which
`rm-jax plan` answers. Needs libtpu: pip install -e '.[tpu]'.

llama3_8b_lm.v5e-16 is for equal terms with MaxText, whose step has a language
model head and predicts every token. Its own ahead-of-time compile of llama3-8b
(full rematerialisation, flash attention, 2 rows of 4,096 a chip, 16 chips of
v5e) with jax 0.10.2 and libtpu 0.0.42.1 gave 13.57 GiB at its fullest and 43.0
GiB of collectives, read as here. This file does not run it; in an environment
of its own, on Python 3.12 with maxtext installed, that is

    python -m MaxText.train_compile MaxText/configs/base.yml \\
      compile_topology=v5e-16 compile_topology_num_slices=1 \\
      model_name=llama3-8b per_device_batch_size=2 max_target_length=4096 \\
      remat_policy=full attention=flash
"""

import json
import pathlib
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
OUT = ROOT / "configs" / "plans"
PAGE = ROOT / "docs" / "plan.md"
BEGIN, END = "<!-- plans -->\n", "<!-- end -->"
LANGUAGE = "--config.loss.language_coefficient=0.1"
# Rows of 32,768 tokens, each over eight chips.
LONG = (
  "--config.data.row_len=32768 --config.data.align=128 "
  "--config.mesh.fsdp=2 --config.mesh.tensor=8 --rows_per_chip=1"
)
# No gradients of micro-batches are held beside the step.
ONCE = "--config.train.accumulate=1"

# name -> (config, slice, further flags)
PLANS = {
  "llama3_8b_bt.v5e-16": ("llama3_8b_bt.py", "v5e-16", ""),
  "llama3_8b_lm.v5e-16": ("llama3_8b_bt.py", "v5e-16", LANGUAGE),
  "llama3_8b_bt.v5p-32": ("llama3_8b_bt.py", "v5p-32", ""),
  "llama3_8b_32k.v5p-32": ("llama3_8b_bt.py", "v5p-32", LONG),
  "llama3_8b_32k.v5e-16": ("llama3_8b_bt.py", "v5e-16", LONG),
  "instructgpt_6b.v5e-64": (
    "instructgpt_6b.py",
    "v5e-64",
    "--rows_per_chip=4",
  ),
  "cobbe_6b.v5e-64": ("cobbe_6b.py", "v5e-64", ""),
  "starling_7b.v5e-64": ("starling.py:7b", "v5e-64", "--rows_per_chip=4"),
  "starling_34b.v5p-256": ("starling.py:34b", "v5p-256", "--rows_per_chip=4"),
  "llama2_70b_once.v5p-512": (
    "llama2_70b.py:v5p-512",
    "v5p-512",
    f"--rows_per_chip=2 {ONCE}",
  ),
  "llama2_70b_once.v5p-256": (
    "llama2_70b.py:v5p-256",
    "v5p-256",
    f"--rows_per_chip=1 {ONCE}",
  ),
  "llama2_70b.v5p-512": ("llama2_70b.py:v5p-512", "v5p-512", ""),
  "llama2_70b.v5p-256": ("llama2_70b.py:v5p-256", "v5p-256", ""),
  "llama2_70b.v5e-256": ("llama2_70b.py:v5e-256", "v5e-256", ""),
  "process_70b.v5p-512": ("process_70b.py", "v5p-512", ""),
}


def command(name: str) -> list[str]:
  """The words of `rm-jax` that make one plan."""
  config, where, flags = PLANS[name]
  words = ["plan", f"--config=configs/{config}", f"--slice={where}"]
  return words + shlex.split(flags)


def table() -> str:
  """The plans that are kept, a line each, from their JSON."""
  lines = [
    "| plan | chips | HBM at its fullest | of all buffers | a chip's | "
    "collectives | model TFLOP | hardware TFLOP | at least | bound by |",
    "| :-- | --: | --: | --: | --: | --: | --: | --: | --: | :-- |",
  ]
  for name in PLANS:
    path = OUT / f"{name}.json"
    if not path.exists():
      continue
    p = json.loads(path.read_text())
    held = [p["hbm_peak_gib"], p["hbm_sum_gib"], p["hbm_limit_gib"]]
    cells = [f"`{name}`", f"{p['chips']}", *(f"{x:.2f}" for x in held)]
    cells += [f"{p['collective_gib']:,.2f}", f"{p['model_tflops']:,.0f}"]
    cells += [f"{p['hardware_tflops']:,.0f}", f"{p['bound_s']:.3g} s"]
    lines.append(f"| {' | '.join([*cells, p['bound_by']])} |")
  return "\n".join(lines) + "\n"


def page(text: str) -> str:
  """docs/plan.md with its table printed anew."""
  before, _, rest = text.partition(BEGIN)
  _, _, after = rest.partition(END)
  return f"{before}{BEGIN}{table()}{END}{after}"


def main(names: list[str]) -> None:
  """Makes the plans of these names, or all, and the page."""
  OUT.mkdir(exist_ok=True)
  for name in [] if names == ["--page"] else names or PLANS:
    words = command(name)
    print(name, flush=True)
    text = subprocess.run(
      [sys.executable, "-m", "rm_jax", *words, f"--out={OUT / name}.json"],
      cwd=ROOT,
      check=True,
      stdout=subprocess.PIPE,
      text=True,
    ).stdout
    (OUT / f"{name}.txt").write_text(f"$ rm-jax {shlex.join(words)}\n\n{text}")
  PAGE.write_text(page(PAGE.read_text()))


if __name__ == "__main__":
  main(sys.argv[1:])
